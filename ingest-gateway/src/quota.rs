//! How much each partner may send: records and bytes a second, with bursts, shared by all gateways.
//!
//! A request costs the items of its body, good or bad, since reading them costs; a body that cannot
//! be read costs one. It costs the bytes of its body after decompression. It takes its whole cost
//! of both limits, or is refused and takes nothing. A partner without limits costs a look at its
//! own entry, and nothing else.

mod bucket;
mod fields;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use contract::Problem;
use metrics::Counter;
use partners::{Limits, Partner};

use self::bucket::{Bucket, GATEWAYS_MAX, Short, TICKS_PER_SECOND, Ticks};
pub(crate) use self::fields::RateLimitFields;
use crate::refusal::Refusal;

/// By how much of itself a wait is lengthened at most, so that those refused together do not
/// return together. Upward only: nobody is told to come before there is room.
const JITTER_SHARE: f64 = 0.5;

/// Longest `Retry-After`, in seconds: a day, whatever the limits make of it.
const RETRY_AFTER_SECONDS_MAX: u32 = 86_400;

/// What a request takes of its partner's limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cost {
    /// Items of the body, good or bad; 1 if it cannot be read.
    pub(crate) records: usize,
    /// Of the body, after decompression.
    pub(crate) bytes: usize,
}

/// The limits of all partners that have any, and what is spent of them.
pub(crate) struct Quotas {
    /// Of all partners met that had limits: as many as were ever given some while this process
    /// lives.
    by_partner: ArcSwap<HashMap<i32, Arc<Quota>>>,
    /// How many gateways share each limit, this one included.
    gateways: Arc<AtomicU32>,
    begun: Instant,
    spread: Spread,
}

/// The limits of one partner.
pub(crate) struct Quota {
    /// Both limits under one lock, so that a request takes of both or of none. Only requests of one
    /// partner meet here, and each for well under a microsecond.
    state: Mutex<State>,
    gateways: Arc<AtomicU32>,
    begun: Instant,
    refused: Counter,
}

struct State {
    /// What the buckets were made for.
    limits: Limits,
    /// By [`Limit`]; `None` where there is no limit.
    buckets: [Option<Bucket>; Limit::ALL.len()],
}

/// What is limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Limit {
    Records,
    Bytes,
}

/// Why a request is not admitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Exceeded {
    /// It never would be: larger than the burst.
    Never { limit: Limit, largest: NonZeroU32 },
    /// It would be after so long, if nothing else is sent meanwhile.
    For {
        limit: Limit,
        rate: NonZeroU32,
        wait: Ticks,
    },
}

impl Limit {
    const ALL: [Self; 2] = [Self::Records, Self::Bytes];

    fn word(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Bytes => "bytes",
        }
    }

    fn of(self, limits: &Limits) -> Option<(NonZeroU32, Option<NonZeroU32>)> {
        let (rate, burst) = match self {
            Self::Records => (limits.records_per_second, limits.records_burst),
            Self::Bytes => (limits.bytes_per_second, limits.bytes_burst),
        };
        rate.map(|rate| (rate, burst))
    }
}

impl Quotas {
    /// `gateways`: how many share each limit; read at each request.
    pub(crate) fn new(gateways: Arc<AtomicU32>) -> Self {
        Self {
            by_partner: ArcSwap::default(),
            gateways,
            begun: Instant::now(),
            spread: Spread::new(),
        }
    }

    /// A partner's limits as they are now; `None` for a partner without.
    pub(crate) fn of(&self, partner: &Partner) -> Option<Arc<Quota>> {
        if partner.limits.is_unlimited() {
            return None;
        }
        let known = self.by_partner.load().get(&partner.id).map(Arc::clone);
        let quota = known.unwrap_or_else(|| self.add(partner));
        quota.follow(&partner.limits);
        Some(quota)
    }

    fn add(&self, partner: &Partner) -> Arc<Quota> {
        let name = partner.name.clone();
        let new = Arc::new(Quota {
            state: Mutex::new(State {
                limits: Limits::default(),
                buckets: [None, None],
            }),
            gateways: Arc::clone(&self.gateways),
            begun: self.begun,
            refused: metrics::counter!("weir_gateway_quota_refused_total", "partner" => name),
        });
        // Of two that meet a partner at once, one bucket stays, and both take of it.
        self.by_partner.rcu(|known| {
            let mut known = HashMap::clone(known);
            let entry = known.entry(partner.id);
            entry.or_insert_with(|| Arc::clone(&new));
            known
        });
        Arc::clone(&self.by_partner.load()[&partner.id])
    }

    /// Refuses by the head what cannot be admitted whatever the body holds: its reading is spared.
    /// Takes nothing. `length` of the body, if it is told and is that of its records.
    ///
    /// # Errors
    /// As [`Quotas::take`].
    pub(crate) fn check(&self, quota: &Quota, length: Option<usize>) -> Result<(), Refusal> {
        let least = Cost {
            records: 1,
            bytes: length.unwrap_or(1),
        };
        let tested = quota.lock().test(least, quota.gateways(), quota.now());
        tested
            .map(|_| ())
            .map_err(|exceeded| self.refusal(quota, least, exceeded))
    }

    /// Takes the cost of a request, all of it or nothing.
    ///
    /// # Errors
    /// 413 for what is larger than a burst, naming the largest that is not; else 429, and when
    /// there will be room.
    pub(crate) fn take(&self, quota: &Quota, cost: Cost) -> Result<(), Refusal> {
        let taken = quota.lock().take(cost, quota.gateways(), quota.now());
        taken.map_err(|exceeded| self.refusal(quota, cost, exceeded))
    }

    fn refusal(&self, quota: &Quota, cost: Cost, exceeded: Exceeded) -> Refusal {
        quota.refused.increment(1);
        match exceeded {
            Exceeded::Never { limit, largest } => {
                let (word, count) = (limit.word(), cost.of(limit));
                let detail = format!(
                    "the limit of this key's partner lets {largest} {word} through at once: the \
                     request has {count}; send at most {largest} {word} in one request"
                );
                Refusal::new(Problem::TooLarge, detail)
            }
            Exceeded::For { limit, rate, wait } => {
                let word = limit.word();
                let seconds = self.spread.over(seconds(wait));
                let detail = format!(
                    "the limit of this key's partner is reached: {rate} {word} a second; there is \
                     room for this request in {seconds} s"
                );
                Refusal {
                    retry_after: Some(seconds),
                    rate_limit: Some(Box::new(quota.fields())),
                    ..Refusal::new(Problem::QuotaExceeded, detail)
                }
            }
        }
    }
}

impl Cost {
    fn of(self, limit: Limit) -> usize {
        match limit {
            Limit::Records => self.records,
            Limit::Bytes => self.bytes,
        }
    }

    /// At least one; bodies are bounded far below the most that a cell counts.
    fn cells(self, limit: Limit) -> NonZeroU32 {
        let cells = u32::try_from(self.of(limit)).unwrap_or(u32::MAX);
        NonZeroU32::new(cells).unwrap_or(NonZeroU32::MIN)
    }
}

impl Quota {
    /// What the answer says of the limits.
    pub(crate) fn fields(&self) -> RateLimitFields {
        let (gateways, now) = (self.gateways(), self.now());
        let state = self.lock();
        let buckets = Limit::ALL.into_iter().zip(&state.buckets);
        RateLimitFields::of(buckets, gateways, now)
    }

    /// Gives back what a request has taken which was refused for no fault of its own.
    pub(crate) fn give_back(&self, cost: Cost) {
        let gateways = self.gateways();
        let mut state = self.lock();
        for limit in Limit::ALL {
            if let Some(bucket) = &mut state.buckets[limit as usize] {
                bucket.give_back(cost.cells(limit), gateways);
            }
        }
    }

    /// Takes limits over that have changed. A limit that has not keeps its bucket, and one that
    /// has keeps what is spent.
    fn follow(&self, limits: &Limits) {
        let mut state = self.lock();
        if state.limits == *limits {
            return;
        }
        let now = self.now();
        for limit in Limit::ALL {
            let (before, after) = (limit.of(&state.limits), limit.of(limits));
            if before != after {
                let bucket = &mut state.buckets[limit as usize];
                *bucket = after.map(|(rate, burst)| match bucket {
                    Some(bucket) => bucket.changed(rate, burst, now),
                    None => Bucket::full(rate, burst),
                });
            }
        }
        state.limits = *limits;
    }

    fn gateways(&self) -> u32 {
        let gateways = self.gateways.load(Ordering::Relaxed);
        gateways.clamp(1, GATEWAYS_MAX)
    }

    fn now(&self) -> Ticks {
        self.begun.elapsed().as_nanos() * Ticks::from(TICKS_PER_SECOND / 1_000_000_000)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in there can be left half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What each bucket would be after taking the cost.
    fn test(
        &self,
        cost: Cost,
        gateways: u32,
        now: Ticks,
    ) -> Result<[Option<Ticks>; Limit::ALL.len()], Exceeded> {
        let mut after = [None, None];
        let mut exceeded = None;
        for limit in Limit::ALL {
            let Some(bucket) = &self.buckets[limit as usize] else {
                continue;
            };
            let never = Exceeded::Never {
                limit,
                largest: bucket.burst(),
            };
            match bucket.test(cost.cells(limit), gateways, now) {
                Ok(full_at) => after[limit as usize] = Some(full_at),
                Err(Short::Never) => return Err(never),
                Err(Short::For(wait)) => {
                    let rate = bucket.rate();
                    let this = Exceeded::For { limit, rate, wait };
                    exceeded = longer(exceeded, this);
                }
            }
        }
        exceeded.map_or(Ok(after), Err)
    }

    fn take(&mut self, cost: Cost, gateways: u32, now: Ticks) -> Result<(), Exceeded> {
        let after = self.test(cost, gateways, now)?;
        for (bucket, full_at) in self.buckets.iter_mut().zip(after) {
            if let (Some(bucket), Some(full_at)) = (bucket, full_at) {
                bucket.take(full_at);
            }
        }
        Ok(())
    }
}

/// There is room when there is of both.
fn longer(before: Option<Exceeded>, this: Exceeded) -> Option<Exceeded> {
    match (before, this) {
        (Some(Exceeded::For { wait: earlier, .. }), Exceeded::For { wait, .. })
            if earlier >= wait =>
        {
            before
        }
        _ => Some(this),
    }
}

/// Whole seconds, rounded up, so never too early; at least 1.
fn seconds(wait: Ticks) -> u32 {
    let seconds = wait.div_ceil(Ticks::from(TICKS_PER_SECOND)).max(1);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

/// Lengthens waits, each by another part of [`JITTER_SHARE`].
pub(crate) struct Spread(AtomicU32);

impl Spread {
    /// What is added each time, of 2^32: the golden ratio's part, so that however many come one
    /// after the other, they lie evenly, which random numbers do not.
    const STEP: u32 = 0x9E37_79B9;

    /// Begins anywhere: gateways do not go in step.
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(RandomState::new().hash_one(0) as u32))
    }

    /// Whole seconds from `seconds` to as many and [`JITTER_SHARE`] more, rounded up; at most
    /// [`RETRY_AFTER_SECONDS_MAX`].
    pub(crate) fn over(&self, seconds: u32) -> u32 {
        let seconds = seconds.min(RETRY_AFTER_SECONDS_MAX);
        let part = f64::from(self.0.fetch_add(Self::STEP, Ordering::Relaxed)) / 2_f64.powi(32);
        let more = (f64::from(seconds) * JITTER_SHARE).ceil();
        // As many values as there are whole seconds from none to all of it.
        let jitter = (part * (more + 1.0)).floor() as u32;
        (seconds + jitter).min(RETRY_AFTER_SECONDS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partner(records: (u32, u32), bytes: (u32, u32)) -> Partner {
        Partner {
            id: 7,
            name: "seven".to_owned(),
            limits: Limits {
                records_per_second: NonZeroU32::new(records.0),
                records_burst: NonZeroU32::new(records.1),
                bytes_per_second: NonZeroU32::new(bytes.0),
                bytes_burst: NonZeroU32::new(bytes.1),
            },
        }
    }

    fn quotas(gateways: u32) -> Quotas {
        Quotas::new(Arc::new(AtomicU32::new(gateways)))
    }

    fn cost(records: usize, bytes: usize) -> Cost {
        Cost { records, bytes }
    }

    /// At one moment, so that nothing is made up for in between.
    fn take(quota: &Quota, cost: Cost) -> Result<(), Exceeded> {
        quota.lock().take(cost, quota.gateways(), 0)
    }

    #[test]
    fn a_partner_without_limits_has_no_quota() {
        let quotas = quotas(1);
        assert!(quotas.of(&partner((0, 0), (0, 0))).is_none());
        assert!(quotas.by_partner.load().is_empty());
    }

    #[test]
    fn a_request_takes_of_both_limits_or_of_none() {
        let quotas = quotas(1);
        let quota = quotas.of(&partner((1, 100), (1, 1_000))).expect("limited");
        assert_eq!(take(&quota, cost(50, 600)), Ok(()));
        // Records would fit.
        let refused = take(&quota, cost(50, 600));
        let rate = NonZeroU32::MIN;
        let wait = Ticks::from(200 * TICKS_PER_SECOND);
        let limit = Limit::Bytes;
        assert_eq!(refused, Err(Exceeded::For { limit, rate, wait }));
        // And bytes would, here. The longer of two waits is told.
        let wait = Ticks::from(50 * TICKS_PER_SECOND);
        let limit = Limit::Records;
        let refused = take(&quota, cost(100, 410));
        assert_eq!(refused, Err(Exceeded::For { limit, rate, wait }));
        // Nothing was taken by either.
        assert_eq!(take(&quota, cost(50, 400)), Ok(()));
        assert!(take(&quota, cost(1, 1)).is_err());
    }

    #[test]
    fn larger_than_a_burst_is_too_large_and_names_the_largest() {
        let quotas = quotas(3);
        let quota = quotas
            .of(&partner((10, 100), (10, 1_000)))
            .expect("limited");
        for (large, largest) in [
            (cost(101, 1), "at most 100 records"),
            (cost(1, 1_001), "at most 1000 bytes"),
            (cost(usize::MAX, usize::MAX), "at most 100 records"),
        ] {
            let refusal = quotas.take(&quota, large).expect_err("too large");
            assert_eq!(refusal.problem, Problem::TooLarge);
            assert!(refusal.detail.contains(largest), "{}", refusal.detail);
            assert_eq!(refusal.retry_after, None);
        }
        assert_eq!(quotas.take(&quota, cost(100, 1_000)), Ok(()));
    }

    #[test]
    fn a_head_is_refused_only_when_no_body_could_be_admitted() {
        let quotas = quotas(1);
        let quota = quotas.of(&partner((1, 2), (1, 1_000))).expect("limited");
        assert_eq!(quotas.check(&quota, Some(1_000)), Ok(()));
        let refusal = quotas.check(&quota, Some(1_001)).expect_err("too large");
        assert_eq!(refusal.problem, Problem::TooLarge);
        // Checking takes nothing.
        assert_eq!(quotas.take(&quota, cost(2, 10)), Ok(()));
        let refusal = quotas.check(&quota, None).expect_err("nothing is left");
        assert_eq!(refusal.problem, Problem::QuotaExceeded);
        assert!(
            refusal
                .retry_after
                .is_some_and(|seconds| (1..=2).contains(&seconds))
        );
    }

    #[test]
    fn a_changed_limit_holds_at_once_and_leaves_the_other_bucket_alone() {
        let quotas = quotas(1);
        let quota = quotas.of(&partner((1, 100), (1, 1_000))).expect("limited");
        assert_eq!(take(&quota, cost(10, 900)), Ok(()));
        let quota = quotas.of(&partner((1, 20), (1, 1_000))).expect("limited");
        assert!(
            take(&quota, cost(1, 102)).is_err(),
            "bytes are as spent as they were"
        );
        assert!(
            take(&quota, cost(12, 1)).is_err(),
            "ten of twenty are spent"
        );
        assert_eq!(take(&quota, cost(9, 1)), Ok(()));
        // Without the limit of bytes, and with it again: a new one.
        let quota = quotas.of(&partner((1, 20), (0, 0))).expect("limited");
        assert_eq!(take(&quota, cost(1, 1_000_000)), Ok(()));
        let quota = quotas
            .of(&partner((100, 100), (1, 1_000)))
            .expect("limited");
        assert_eq!(take(&quota, cost(1, 1_000)), Ok(()));
    }

    #[test]
    fn two_that_meet_a_partner_at_once_take_of_one_bucket() {
        let quotas = quotas(1);
        let partner = partner((1, 64), (0, 0));
        let taken = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..64 {
                        let quota = quotas.of(&partner).expect("limited");
                        if take(&quota, cost(1, 1)).is_ok() {
                            taken.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(taken.into_inner(), 64);
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds_and_never_shortened() {
        assert_eq!(seconds(0), 1);
        assert_eq!(seconds(Ticks::from(TICKS_PER_SECOND)), 1);
        assert_eq!(seconds(Ticks::from(TICKS_PER_SECOND) + 1), 2);
        let spread = Spread::new();
        for told in [1_u32, 2, 7, 100] {
            let longest = told + told.div_ceil(2);
            let over: Vec<u32> = (0..1_000).map(|_| spread.over(told)).collect();
            let values = told..=longest;
            assert!(over.iter().all(|it| values.contains(it)));
            for value in values {
                let count = over.iter().filter(|it| **it == value).count();
                let even = 1_000 / (longest - told + 1) as usize;
                assert!(
                    count.abs_diff(even) <= even / 4 + 2,
                    "{value} {count} {even}"
                );
            }
        }
        assert_eq!(spread.over(u32::MAX), RETRY_AFTER_SECONDS_MAX);
    }
}
