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

/// The log's clock compared with this process's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Skew {
    /// The log's clock minus this one's, in microseconds; wrong by half the question's time at most.
    pub(crate) us: i64,
    /// When the log had answered: what is known of the wall clock is known of this moment only.
    answered: Moment,
}

impl Skew {
    /// `log_us`: what the log's clock said at some moment between both.
    pub(crate) fn between(asked: &Moment, answered: Moment, log_us: i64) -> Self {
        // Counted back from the end by the monotonic clock: the wall clock may be set in between.
        let took = answered.at.saturating_duration_since(asked.at);
        let half_us = i64::try_from(took.as_micros() / 2).unwrap_or(i64::MAX / 2);
        Self {
            us: log_us - (answered.wall_us - half_us),
            answered,
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

    /// Takes a measurement. Returns whether the clocks agreed then.
    pub(crate) fn measured(&self, skew: &Skew) -> bool {
        let agrees = skew.us.saturating_abs() <= ALLOWANCE_US;
        if agrees {
            self.offset_us
                .store(self.offset(&skew.answered), Ordering::Relaxed);
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

    fn skew(us: i64, answered: Moment) -> Skew {
        Skew { us, answered }
    }

    #[test]
    fn a_clock_that_the_log_contradicts_is_not_trusted_until_they_agree() {
        let clock = Clock::new();
        let now = clock.now();
        assert!(clock.is_trusted(&now));
        assert!(!clock.measured(&skew(ALLOWANCE_US + 1, now)));
        assert!(!clock.is_trusted(&now));
        assert!(clock.measured(&skew(-ALLOWANCE_US, now)));
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
        assert!(clock.measured(&skew(0, now)));
        assert!(clock.is_trusted(&now));
    }

    #[test]
    fn a_jump_after_the_answer_or_while_waiting_for_it_is_not_taken_as_agreed() {
        let clock = Clock::new();
        let asked = clock.now();
        let answered = asked.plus(Duration::from_millis(10));
        let log_us = asked.wall_us + 5_000;
        let stepped = |moment: Moment, by_us| Moment {
            wall_us: moment.wall_us + by_us,
            ..moment
        };
        for jump in [-3_000_000, 3_000_000] {
            // After the answer, and before the measurement is taken.
            assert!(clock.measured(&Skew::between(&asked, answered, log_us)));
            assert!(clock.is_trusted(&answered));
            assert!(!clock.is_trusted(&stepped(answered, jump)));
            // Between question and answer.
            let skew = Skew::between(&asked, stepped(answered, jump), log_us);
            assert_eq!(skew.us, -jump);
            assert!(!clock.measured(&skew));
        }
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
