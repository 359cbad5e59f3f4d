//! Time: the wall clock, the monotonic clock, and whether both and the log's agree.
//!
//! Tracking ids and deadlines are made of this process's wall clock, and the workers compare them
//! with the log's. A gateway whose clock is off would mint ids that the watermark has passed, so
//! it answers 503 until the clocks agree again.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use contract::timing::SKEW_ALLOWANCE;

const ALLOWANCE_US: i64 = SKEW_ALLOWANCE.as_micros() as i64;

/// One moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Microseconds since the Unix epoch.
    pub(crate) wall_us: i64,
    pub(crate) at: Instant,
}

impl Moment {
    pub(crate) fn wall_ms(&self) -> u64 {
        u64::try_from(self.wall_us / 1_000).unwrap_or(0)
    }

    pub(crate) fn plus(self, wait: Duration) -> Self {
        Self {
            wall_us: self.wall_us + i64::try_from(wait.as_micros()).unwrap_or(i64::MAX / 2),
            at: self.at + wait,
        }
    }

    /// Whether this deadline is over by either clock: one alone may have been set or have slept.
    pub(crate) fn is_over(&self, now: &Self) -> bool {
        now.wall_us >= self.wall_us || now.at >= self.at
    }

    /// Until this deadline, by the clock that says sooner.
    pub(crate) fn left(&self, now: &Self) -> Duration {
        let by_wall = u64::try_from(self.wall_us - now.wall_us).unwrap_or(0);
        self.at
            .saturating_duration_since(now.at)
            .min(Duration::from_micros(by_wall))
    }

    pub(crate) fn earlier(self, other: Self) -> Self {
        Self {
            wall_us: self.wall_us.min(other.wall_us),
            at: self.at.min(other.at),
        }
    }
}

/// The process's clocks and what is known about them.
#[derive(Debug)]
pub(crate) struct Clock {
    /// Where the monotonic clock counts from.
    epoch: Instant,
    /// Wall minus monotonic clock in microseconds, when the log last agreed.
    offset_us: AtomicI64,
    log_agrees: AtomicBool,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let clock = Self {
            epoch: Instant::now(),
            offset_us: AtomicI64::new(0),
            log_agrees: AtomicBool::new(true),
        };
        clock
            .offset_us
            .store(clock.offset(&clock.now()), Ordering::Relaxed);
        clock
    }

    pub(crate) fn now(&self) -> Moment {
        let at = Instant::now();
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Moment {
            wall_us: i64::try_from(wall.as_micros()).unwrap_or(i64::MAX / 2),
            at,
        }
    }

    /// Whether a record may be minted now.
    pub(crate) fn is_trusted(&self, now: &Moment) -> bool {
        self.log_agrees.load(Ordering::Relaxed) && self.divergence_us(now) <= ALLOWANCE_US
    }

    /// How far the two own clocks have moved apart since the log last agreed, in microseconds.
    pub(crate) fn divergence_us(&self, now: &Moment) -> i64 {
        (self.offset(now) - self.offset_us.load(Ordering::Relaxed)).saturating_abs()
    }

    /// Takes a measurement: the log's clock minus this one, in microseconds, at `now`. Returns
    /// whether they agree.
    pub(crate) fn measured(&self, skew_us: i64, now: &Moment) -> bool {
        let agrees = skew_us.saturating_abs() <= ALLOWANCE_US;
        if agrees {
            self.offset_us.store(self.offset(now), Ordering::Relaxed);
        }
        self.log_agrees.store(agrees, Ordering::Relaxed);
        agrees
    }

    fn offset(&self, now: &Moment) -> i64 {
        let monotonic = now.at.saturating_duration_since(self.epoch).as_micros();
        now.wall_us - i64::try_from(monotonic).unwrap_or(i64::MAX / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_the_log_contradicts_is_not_trusted_until_they_agree() {
        let clock = Clock::new();
        let now = clock.now();
        assert!(clock.is_trusted(&now));
        assert!(!clock.measured(ALLOWANCE_US + 1, &now));
        assert!(!clock.is_trusted(&now));
        assert!(clock.measured(-ALLOWANCE_US, &now));
        assert!(clock.is_trusted(&now));
    }

    #[test]
    fn a_wall_clock_that_jumps_is_not_trusted_until_the_log_agrees_with_it() {
        let clock = Clock::new();
        for jump in [ALLOWANCE_US + 50_000, -ALLOWANCE_US - 50_000] {
            let mut now = clock.now();
            now.wall_us += jump;
            assert!(!clock.is_trusted(&now));
        }
        let mut now = clock.now();
        now.wall_us += 10 * ALLOWANCE_US;
        assert!(clock.measured(0, &now));
        assert!(clock.is_trusted(&now));
    }

    #[test]
    fn a_deadline_is_over_when_either_clock_says_so() {
        let now = Clock::new().now();
        let deadline = now.plus(Duration::from_secs(5));
        assert!(!deadline.is_over(&now));
        assert_eq!(deadline.left(&now), Duration::from_secs(5));
        let jumped = Moment {
            wall_us: now.wall_us + 6_000_000,
            ..now
        };
        assert!(deadline.is_over(&jumped));
        assert_eq!(deadline.left(&jumped), Duration::ZERO);
        let slept = Moment {
            at: now.at + Duration::from_secs(6),
            ..now
        };
        assert!(deadline.is_over(&slept));
    }
}
