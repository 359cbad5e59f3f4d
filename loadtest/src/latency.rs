//! Durations counted in buckets: constant memory however long a run takes.

use std::time::Duration;

use serde::Serialize;

/// Buckets per power of two: values are off by at most 1/64, 1.6%.
const SUB_BUCKETS: u64 = 64;
const SUB_BUCKET_BITS: u32 = SUB_BUCKETS.trailing_zeros();
/// Enough for 2^40 µs, twelve days; anything longer counts as that.
const BUCKETS: usize = (40 - SUB_BUCKET_BITS as usize + 1) * SUB_BUCKETS as usize;

/// A distribution of durations, in microseconds.
#[derive(Clone, Debug)]
pub struct Latencies {
    counts: Vec<u64>,
    count: u64,
    max_us: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            count: 0,
            max_us: 0,
        }
    }
}

/// What is said about a distribution, in milliseconds. All `null` in JSON when nothing was
/// measured.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Percentiles {
    /// How many were measured.
    pub count: u64,
    /// Median.
    pub p50_ms: Option<f64>,
    /// 99 of 100 took no longer.
    pub p99_ms: Option<f64>,
    /// 999 of 1,000 took no longer.
    pub p999_ms: Option<f64>,
    /// The longest, exact.
    pub max_ms: Option<f64>,
}

impl Latencies {
    /// Counts one.
    pub fn record(&mut self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket(us)] += 1;
        self.count += 1;
        self.max_us = self.max_us.max(us);
    }

    /// Adds all of another's.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max_us = self.max_us.max(other.max_us);
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The duration that `share` (0 to 1) of all did not exceed, to 1.6%; `None` if none were
    /// recorded.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of a count lies within the count"
        )]
        let rank = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Some(Duration::from_micros(upper(index).min(self.max_us)));
            }
        }
        unreachable!("the counts add up to the count")
    }

    /// The usual percentiles.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        let ms = |duration: Option<Duration>| duration.map(|it| it.as_secs_f64() * 1e3);
        Percentiles {
            count: self.count,
            p50_ms: ms(self.quantile(0.5)),
            p99_ms: ms(self.quantile(0.99)),
            p999_ms: ms(self.quantile(0.999)),
            max_ms: ms(self
                .quantile(1.0)
                .map(|_| Duration::from_micros(self.max_us))),
        }
    }
}

fn bucket(us: u64) -> usize {
    let index = if us < SUB_BUCKETS {
        us
    } else {
        let power = us.ilog2() - SUB_BUCKET_BITS;
        (u64::from(power) + 1) * SUB_BUCKETS + (us >> power) - SUB_BUCKETS
    };
    usize::try_from(index).map_or(BUCKETS - 1, |index| index.min(BUCKETS - 1))
}

/// The largest value that falls into a bucket.
fn upper(index: usize) -> u64 {
    let index = index as u64;
    if index < SUB_BUCKETS {
        return index;
    }
    let power = index / SUB_BUCKETS - 1;
    ((index % SUB_BUCKETS + SUB_BUCKETS + 1) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_measured_says_nothing() {
        let percentiles = Latencies::default().percentiles();
        assert_eq!((percentiles.count, percentiles.p50_ms), (0, None));
    }

    proptest! {
        #[test]
        fn a_bucket_holds_what_falls_into_it(us in 0_u64..1 << 39) {
            let upper_us = upper(bucket(us));
            prop_assert!(upper_us >= us);
            prop_assert!(upper_us - us <= us / SUB_BUCKETS);
            prop_assert!(bucket(us + 1) >= bucket(us));
        }

        #[test]
        fn quantiles_are_those_of_the_sorted_values(
            mut values in prop::collection::vec(0_u64..10_000_000, 1..200),
            share in 0.0..1.0_f64,
        ) {
            let mut one = Latencies::default();
            let mut two = Latencies::default();
            for (index, us) in values.iter().enumerate() {
                let which = if index % 2 == 0 { &mut one } else { &mut two };
                which.record(Duration::from_micros(*us));
            }
            one.merge(&two);
            values.sort_unstable();
            let rank = ((values.len() as f64 * share).ceil() as usize).max(1);
            let exact = values[rank - 1];
            let got = u64::try_from(one.quantile(share).unwrap().as_micros()).unwrap();
            prop_assert!(got >= exact && got - exact <= exact / SUB_BUCKETS, "{got} {exact}");
        }
    }

    #[test]
    fn the_longest_imaginable_still_counts() {
        let mut latencies = Latencies::default();
        latencies.record(Duration::MAX);
        assert_eq!(latencies.count(), 1);
        assert!(latencies.quantile(0.5).is_some());
    }
}
