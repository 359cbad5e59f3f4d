//! From buckets to what is said about them.

use super::figures::lossy;
use super::schema::{Distribution, Summary};

impl Distribution {
    /// From buckets in ascending order, each by its highest value. `min_us` and `max_us` are exact
    /// and bound what the buckets say.
    #[must_use]
    pub fn from_buckets(histogram: Vec<(u64, u64)>, min_us: u64, max_us: u64) -> Self {
        let count: u64 = histogram.iter().map(|(_, count)| count).sum();
        if count == 0 {
            return Self::default();
        }
        let total_us: f64 = histogram
            .iter()
            .map(|(value_us, count)| lossy(*value_us) * lossy(*count))
            .sum();
        let at = |share: f64| {
            let us = value_at(&histogram, count, share).clamp(min_us, max_us);
            Some(ms(lossy(us)))
        };
        let summary = Summary {
            count,
            min_ms: Some(ms(lossy(min_us))),
            mean_ms: Some(ms(
                (total_us / lossy(count)).clamp(lossy(min_us), lossy(max_us))
            )),
            p50_ms: at(0.5),
            p75_ms: at(0.75),
            p90_ms: at(0.9),
            p95_ms: at(0.95),
            p99_ms: at(0.99),
            p99_9_ms: at(0.999),
            p99_99_ms: at(0.9999),
            max_ms: Some(ms(lossy(max_us))),
        };
        Self { summary, histogram }
    }
}

/// The bucket that the share's last value falls into.
fn value_at(histogram: &[(u64, u64)], count: u64, share: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count lies within the count"
    )]
    let rank = ((lossy(count) * share).ceil() as u64).clamp(1, count);
    let mut seen = 0;
    for (value_us, count) in histogram {
        seen += count;
        if seen >= rank {
            return *value_us;
        }
    }
    unreachable!("the counts add up to the count")
}

/// Microseconds as milliseconds, to a microsecond: short decimals survive JSON exactly.
fn ms(us: f64) -> f64 {
    us.round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_measured_says_nothing() {
        let nothing = Distribution::from_buckets(Vec::new(), 0, 0);
        assert_eq!(nothing, Distribution::default());
        assert_eq!(nothing.summary.p50_ms, None);
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        let buckets: Vec<_> = (1..=10_000).map(|us| (us, 1)).collect();
        let summary = Distribution::from_buckets(buckets, 1, 10_000).summary;
        assert_eq!(summary.count, 10_000);
        assert_eq!(summary.min_ms, Some(0.001));
        assert_eq!(summary.mean_ms, Some(5.001));
        assert_eq!(summary.p50_ms, Some(5.0));
        assert_eq!(summary.p99_9_ms, Some(9.99));
        assert_eq!(summary.p99_99_ms, Some(9.999));
        assert_eq!(summary.max_ms, Some(10.0));
    }

    #[test]
    fn a_bucket_says_no_more_than_the_exact_ends() {
        let summary = Distribution::from_buckets(vec![(1023, 2), (2047, 1)], 1000, 2000).summary;
        assert_eq!(summary.p50_ms, Some(1.023));
        assert_eq!(summary.p99_ms, Some(2.0));
        let alone = Distribution::from_buckets(vec![(1023, 1)], 1010, 1010).summary;
        assert_eq!(alone.p50_ms, Some(1.01));
        assert_eq!(alone.mean_ms, Some(1.01));
    }
}
