//! One limit of one partner: governor's generic cell rate algorithm over a state of our own.
//!
//! governor alone lacks three things, and the state gives them. A test does not take: a request is
//! tested against two buckets and takes of both or of none. The rate can change while the bucket
//! stays as full as it is. And time is counted in picoseconds, since at a hundred million bytes a
//! second one byte is ten nanoseconds, which cannot be shared by three gateways.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

/// What governor takes for nanoseconds: picoseconds.
pub(super) const TICKS_PER_SECOND: u64 = 1_000_000_000_000;

/// Longest time in which an empty bucket becomes full: a burst is at most what the rate makes up
/// for in this time. A month: longer is no rate any more, and governor counts up to 213 days of
/// picoseconds.
const REFILL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Most gateways that share a limit: above it each admits as if there were no more. Keeps the
/// arithmetic far from its bounds.
pub(super) const GATEWAYS_MAX: u32 = 1_000;

/// A moment, in ticks since the process's own beginning.
pub(super) type Ticks = u128;

/// A rate and a burst, and how much of it is spent.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    /// Cells a second, of all gateways together.
    rate: NonZeroU32,
    /// Cells at once, of all gateways together.
    burst: NonZeroU32,
    /// When all that was taken is made up for: GCRA's theoretical arrival time.
    full_at: Ticks,
}

/// Why a bucket does not admit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Short {
    /// It never will.
    Never,
    /// It would after as many ticks, if nothing else is taken meanwhile.
    For(Ticks),
}

/// governor's state during one test: how much is not yet made up for, from now on.
struct Backlog(Cell<u64>);

impl StateStore for Backlog {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (decided, after) = decide(Some(Nanos::new(self.0.get())))?;
        self.0.set(after.as_u64());
        Ok(decided)
    }
}

/// Time stands still during one test.
struct Now;

impl Clock for Now {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(0)
    }
}

impl Bucket {
    /// A full one. Without a burst: as many as a second allows.
    pub(super) fn full(rate: NonZeroU32, burst: Option<NonZeroU32>) -> Self {
        let seconds = REFILL_MAX.as_secs();
        let most = u32::try_from(u64::from(rate.get()).saturating_mul(seconds));
        let most = most.ok().and_then(NonZeroU32::new);
        let burst = burst.unwrap_or(rate).min(most.unwrap_or(NonZeroU32::MAX));
        Self {
            rate,
            burst,
            full_at: 0,
        }
    }

    pub(super) fn rate(&self) -> NonZeroU32 {
        self.rate
    }

    pub(super) fn burst(&self) -> NonZeroU32 {
        self.burst
    }

    /// Another rate and burst, with as many cells spent as before, at most all.
    pub(super) fn changed(&self, rate: NonZeroU32, burst: Option<NonZeroU32>, now: Ticks) -> Self {
        let mut changed = Self::full(rate, burst);
        let spent = self.full_at.saturating_sub(now) / u128::from(self.ticks(1));
        let spent = spent.min(u128::from(changed.burst.get()));
        changed.full_at = now + spent * u128::from(changed.ticks(1));
        changed
    }

    /// How long one cell takes to be made up for, at one of so many gateways. Rounded up: they
    /// never admit more together than the rate.
    fn ticks(&self, gateways: u32) -> u64 {
        (TICKS_PER_SECOND * u64::from(gateways)).div_ceil(u64::from(self.rate.get()))
    }

    /// This gateway's part of the burst, at least one cell.
    fn burst_here(&self, gateways: u32) -> NonZeroU32 {
        NonZeroU32::new(self.burst.get() / gateways).unwrap_or(NonZeroU32::MIN)
    }

    /// Whether so many cells fit now, at one of `gateways`, and if so what [`Bucket::take`] needs.
    ///
    /// Rate and burst are divided among the gateways, so neither a change of their number nor a
    /// restart makes a bucket fuller. What is larger than this gateway's part of the burst, but
    /// not than the whole, fits a full bucket, and is made up for before anything else fits: how
    /// much a request may have does not depend on how many gateways there are.
    pub(super) fn test(
        &self,
        cells: NonZeroU32,
        gateways: u32,
        now: Ticks,
    ) -> Result<Ticks, Short> {
        if cells > self.burst {
            return Err(Short::Never);
        }
        let ticks = self.ticks(gateways);
        let here = self.burst_here(gateways);
        let backlog = self.full_at.saturating_sub(now);
        // A month and as much again fits twice over; what is beyond waits for what is not.
        let bounded = u64::try_from(backlog).map_or(u64::MAX / 4, |it| it.min(u64::MAX / 4));
        let quota = Quota::with_period(Duration::from_nanos(ticks)).expect("ticks are rounded up");
        let limiter: RateLimiter<_, _, _, NoOpMiddleware<Nanos>> =
            RateLimiter::new(quota.allow_burst(here), Backlog(Cell::new(bounded)), Now);
        match limiter.check_n(cells.min(here)) {
            Ok(Ok(())) => {
                let taken = limiter.into_state_store().0.get();
                let beyond = u128::from(cells.get().saturating_sub(here.get()));
                Ok(now + u128::from(taken) + beyond * u128::from(ticks))
            }
            Ok(Err(until)) => {
                let wait = Nanos::from(until.wait_time_from(Nanos::new(0))).as_u64();
                Err(Short::For(
                    u128::from(wait) + (backlog - u128::from(bounded)),
                ))
            }
            Err(_larger_than_burst) => unreachable!("bounded by the burst"),
        }
    }

    /// Takes what a test has found to fit.
    pub(super) fn take(&mut self, full_at: Ticks) {
        self.full_at = full_at;
    }

    /// Gives back what was taken.
    pub(super) fn give_back(&mut self, cells: NonZeroU32, gateways: u32) {
        let ticks = u128::from(cells.get()) * u128::from(self.ticks(gateways));
        self.full_at = self.full_at.saturating_sub(ticks);
    }

    /// How many cells fit now, at one of `gateways`.
    pub(super) fn remaining(&self, gateways: u32, now: Ticks) -> u32 {
        let here = self.burst_here(gateways).get();
        let spent = self
            .full_at
            .saturating_sub(now)
            .div_ceil(u128::from(self.ticks(gateways)));
        u32::try_from(spent).map_or(0, |spent| here.saturating_sub(spent))
    }

    /// How long until it is full if nothing is taken.
    pub(super) fn full_in(&self, now: Ticks) -> Ticks {
        self.full_at.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Ticks = TICKS_PER_SECOND as Ticks;

    fn cells(count: u32) -> NonZeroU32 {
        NonZeroU32::new(count).expect("not 0")
    }

    fn bucket(rate: u32, burst: u32) -> Bucket {
        Bucket::full(cells(rate), Some(cells(burst)))
    }

    /// Whether they were taken.
    fn take(bucket: &mut Bucket, count: u32, gateways: u32, now: Ticks) -> bool {
        let fits = bucket.test(cells(count), gateways, now);
        if let Ok(full_at) = fits {
            bucket.take(full_at);
        }
        fits.is_ok()
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = bucket(100, 500);
        assert_eq!(bucket.remaining(1, 0), 500);
        assert!(take(&mut bucket, 500, 1, 0));
        assert_eq!(bucket.remaining(1, 0), 0);
        assert_eq!(bucket.test(cells(1), 1, 0), Err(Short::For(SECOND / 100)));
        assert_eq!(bucket.test(cells(50), 1, 0), Err(Short::For(SECOND / 2)));
        assert!(!take(&mut bucket, 50, 1, SECOND / 2 - 1));
        assert!(take(&mut bucket, 50, 1, SECOND / 2));
        assert_eq!(bucket.test(cells(501), 1, 90 * SECOND), Err(Short::Never));
        assert_eq!(bucket.remaining(1, 90 * SECOND), 500);
    }

    #[test]
    fn a_request_larger_than_a_gateways_part_fits_a_full_bucket_and_is_made_up_for() {
        let mut bucket = bucket(100, 300);
        assert!(take(&mut bucket, 300, 3, 0));
        // 300 at a third of the rate, until the first of its 100 fits again.
        assert_eq!(
            bucket.test(cells(1), 3, 0),
            Err(Short::For(SECOND * 3 * 201 / 100))
        );
        assert_eq!(bucket.test(cells(300), 3, 0), Err(Short::For(9 * SECOND)));
    }

    #[test]
    fn another_number_of_gateways_leaves_a_bucket_as_full_as_it_was() {
        let mut bucket = bucket(100, 300);
        assert!(take(&mut bucket, 150, 1, 0));
        for (gateways, left) in [(1, 150), (3, 50), (2, 75), (1, 150)] {
            assert_eq!(bucket.remaining(gateways, 0), left, "{gateways}");
        }
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_and_no_more() {
        let mut bucket = bucket(1, 300);
        assert!(take(&mut bucket, 200, 1, 0));
        assert!(take(&mut bucket, 100, 1, 0));
        bucket.give_back(cells(200), 1);
        assert!(!take(&mut bucket, 201, 1, 0));
        assert!(take(&mut bucket, 200, 1, 0));
        // Made up for in the meantime: no fuller than full.
        bucket.give_back(cells(200), 1);
        assert_eq!(bucket.remaining(1, 1_000 * SECOND), 300);
    }

    #[test]
    fn a_changed_limit_keeps_what_is_spent() {
        let mut bucket = bucket(100, 300);
        assert!(take(&mut bucket, 200, 1, 0));
        let changed = |rate, burst| bucket.changed(cells(rate), Some(cells(burst)), 0);
        assert_eq!(changed(1_000, 300).remaining(1, 0), 100);
        assert_eq!(changed(1_000, 5_000).remaining(1, 0), 4_800);
        // More spent than the new burst: empty, not in debt.
        assert_eq!(changed(1, 100).remaining(1, 0), 0);
        assert_eq!(changed(1, 100).full_in(0), 100 * SECOND);
    }

    #[test]
    fn the_largest_of_all_limits_do_not_overflow() {
        let now = 1_000 * 365 * 86_400 * SECOND;
        for (rate, burst) in [(1, u32::MAX), (u32::MAX, u32::MAX), (u32::MAX, 1)] {
            for gateways in [1, 3, GATEWAYS_MAX] {
                let mut bucket = bucket(rate, burst);
                let largest = bucket.burst().get();
                assert!(take(&mut bucket, largest, gateways, now));
                let again = bucket.test(cells(largest), gateways, now);
                assert!(matches!(again, Err(Short::For(1..))), "{again:?}");
                let Err(Short::For(wait)) = again else { return };
                assert!(!take(&mut bucket, largest, gateways, now + wait - 1));
                assert!(take(&mut bucket, largest, gateways, now + wait));
            }
        }
    }

    proptest! {
        /// However requests come, no span of time admits more than its rate and one burst (and a
        /// request's excess over a gateway's part, made up for in advance of the next).
        #[test]
        fn never_more_than_the_rate_and_the_burst(
            rate in 1_u32..100_000,
            burst in 1_u32..100_000,
            gateways in 1_u32..5,
            requests in prop::collection::vec((1_u32..2_000, 0_u64..3_000_000), 1..200),
        ) {
            let mut bucket = bucket(rate, burst);
            let burst = bucket.burst().get();
            let (mut now, mut taken) = (0, 0_u128);
            let mut largest = 0;
            for (count, pause_us) in requests {
                now += Ticks::from(pause_us) * SECOND / 1_000_000;
                if take(&mut bucket, count, gateways, now) {
                    taken += u128::from(count);
                    largest = largest.max(count);
                }
                let share = u128::from(rate) * now / (SECOND * u128::from(gateways));
                let here = (burst / gateways).max(1).max(largest);
                prop_assert!(taken <= share + u128::from(here) + 1, "{taken} {share}");
            }
        }

        /// A refusal says exactly when the same request fits.
        #[test]
        fn what_is_refused_fits_after_the_wait_and_not_before(
            rate in 1_u32..1_000_000,
            burst in 1_u32..1_000_000,
            gateways in 1_u32..5,
            requests in prop::collection::vec(1_u32..100_000, 1..50),
        ) {
            let mut bucket = bucket(rate, burst);
            for count in requests {
                match bucket.test(cells(count), gateways, 7) {
                    Ok(full_at) => bucket.take(full_at),
                    Err(Short::Never) => prop_assert!(count > bucket.burst().get()),
                    Err(Short::For(wait)) => {
                        prop_assert!(bucket.test(cells(count), gateways, 7 + wait - 1).is_err());
                        prop_assert!(bucket.test(cells(count), gateways, 7 + wait).is_ok());
                    }
                }
            }
        }
    }
}
