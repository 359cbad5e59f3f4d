//! What is counted: in one second by one shard, over a step, over a run.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::report::schema::{Distribution, Quick};

/// Durations in microseconds, to three digits.
#[derive(Clone, Debug)]
pub(crate) struct Durations(Histogram<u64>);

/// Longest duration that is told apart: a day.
const DURATION_US_MAX: u64 = 86_400_000_000;

impl Default for Durations {
    fn default() -> Self {
        // Grows to what is recorded: most stay below a second.
        Self(Histogram::new(3).expect("three digits are allowed"))
    }
}

impl Durations {
    pub(crate) fn record(&mut self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(DURATION_US_MAX);
        self.0
            .record(us.clamp(1, DURATION_US_MAX))
            .expect("it grows as needed");
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        if !other.0.is_empty() {
            self.0.add(&other.0).expect("it grows as needed");
        }
    }

    pub(crate) fn clear(&mut self) {
        if !self.0.is_empty() {
            self.0.reset();
        }
    }

    /// The duration that so much of all did not exceed, in milliseconds.
    pub(crate) fn quantile_ms(&self, share: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| ms(self.0.value_at_quantile(share).min(self.0.max())))
    }

    pub(crate) fn quick(&self) -> Option<Quick> {
        Some(Quick {
            p50_ms: self.quantile_ms(0.5)?,
            p90_ms: self.quantile_ms(0.9)?,
            p99_ms: self.quantile_ms(0.99)?,
            max_ms: self.quantile_ms(1.0)?,
        })
    }

    pub(crate) fn distribution(&self) -> Distribution {
        let buckets = self
            .0
            .iter_recorded()
            .map(|step| {
                (
                    self.0.highest_equivalent(step.value_iterated_to()),
                    step.count_at_value(),
                )
            })
            .collect();
        Distribution::from_buckets(buckets, self.0.min(), self.0.max())
    }
}

#[expect(clippy::cast_precision_loss, reason = "a day in microseconds fits")]
fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}

/// Counts of records unless it says otherwise.
#[derive(Clone, Default, Debug)]
pub(crate) struct Tally {
    /// Requests whose turn came, sent or not.
    pub(crate) requests: u64,
    /// Whose turn came too late, or that found nobody to connect to.
    pub(crate) not_sent: u64,
    /// Everything that went out.
    pub(crate) sent: u64,
    /// With an answer that can be read.
    pub(crate) answered: u64,
    pub(crate) accepted: u64,
    pub(crate) rejected: u64,
    pub(crate) unanswered: u64,
    pub(crate) bad_sent: u64,
    pub(crate) bad_rejected: u64,
    pub(crate) bad_accepted: u64,
    pub(crate) duplicates_sent: u64,
    /// By problem code, without what was to be refused.
    pub(crate) rejected_by: BTreeMap<String, u64>,
    pub(crate) unanswered_by: BTreeMap<String, u64>,
    /// Requests.
    pub(crate) exchange_by: BTreeMap<&'static str, u64>,
    /// Requests.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Of requests answered 202: from when they were due, and from when they went out.
    pub(crate) corrected: Durations,
    pub(crate) uncorrected: Durations,
    /// Of all others, from when they were due.
    pub(crate) failed: Durations,
    /// Requests sent late by more than the tolerance for want of nothing but the generator.
    pub(crate) late_own: u64,
    /// Requests sent late by more than the tolerance because every connection was busy.
    pub(crate) late_waiting: u64,
    /// The most the generator itself was late.
    pub(crate) behind_max: Duration,
}

impl Tally {
    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.requests, other.requests),
            (&mut self.not_sent, other.not_sent),
            (&mut self.sent, other.sent),
            (&mut self.answered, other.answered),
            (&mut self.accepted, other.accepted),
            (&mut self.rejected, other.rejected),
            (&mut self.unanswered, other.unanswered),
            (&mut self.bad_sent, other.bad_sent),
            (&mut self.bad_rejected, other.bad_rejected),
            (&mut self.bad_accepted, other.bad_accepted),
            (&mut self.duplicates_sent, other.duplicates_sent),
            (&mut self.late_own, other.late_own),
            (&mut self.late_waiting, other.late_waiting),
        ] {
            *mine += theirs;
        }
        add_all(&mut self.rejected_by, &other.rejected_by);
        add_all(&mut self.unanswered_by, &other.unanswered_by);
        add_all(&mut self.exchange_by, &other.exchange_by);
        add_all(&mut self.statuses, &other.statuses);
        self.corrected.merge(&other.corrected);
        self.uncorrected.merge(&other.uncorrected);
        self.failed.merge(&other.failed);
        self.behind_max = self.behind_max.max(other.behind_max);
    }

    /// As new, but its histograms keep their memory.
    pub(crate) fn clear(&mut self) {
        let mut empty = Self::default();
        for (mine, kept) in [
            (&mut self.corrected, &mut empty.corrected),
            (&mut self.uncorrected, &mut empty.uncorrected),
            (&mut self.failed, &mut empty.failed),
        ] {
            mine.clear();
            std::mem::swap(mine, kept);
        }
        *self = empty;
    }

    /// What the load did not want to happen: refused though whole, unanswered, or never sent.
    pub(crate) fn errors(&self) -> u64 {
        self.rejected - self.bad_rejected + self.unanswered + self.not_sent
    }

    /// The same by kind.
    pub(crate) fn errors_by_kind(&self) -> BTreeMap<String, u64> {
        let mut errors = self.rejected_by.clone();
        add_all(&mut errors, &self.unanswered_by);
        if self.not_sent > 0 {
            errors.insert(NOT_SENT.to_owned(), self.not_sent);
        }
        errors
    }
}

/// The kind of error of records that were due and never went out.
pub(crate) const NOT_SENT: &str = "not-sent";

pub(crate) fn add_all<K: Clone + Ord>(to: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, count) in from {
        *to.entry(key.clone()).or_default() += count;
    }
}

/// Adds to a count by name without allocating one that is there.
pub(crate) fn count(to: &mut BTreeMap<String, u64>, name: &str, records: u64) {
    match to.get_mut(name) {
        Some(count) => *count += records,
        None => {
            to.insert(name.to_owned(), records);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_survive_merging_and_clearing() {
        let mut one = Tally::default();
        for us in 1..=1_000 {
            one.corrected.record(Duration::from_micros(us * 100));
        }
        let mut all = Tally::default();
        all.merge(&one);
        all.merge(&one);
        let summary = all.corrected.distribution().summary;
        assert_eq!(summary.count, 2_000);
        let p99 = summary.p99_ms.unwrap();
        assert!((p99 - 99.0).abs() < 0.2, "{p99}");
        assert_eq!(summary.max_ms, all.corrected.quantile_ms(1.0));
        all.clear();
        assert!(all.corrected.quick().is_none());
        assert_eq!(all.corrected.distribution(), Distribution::default());
    }

    #[test]
    fn what_was_to_be_refused_is_no_error() {
        let tally = Tally {
            rejected: 5,
            bad_rejected: 3,
            unanswered: 2,
            not_sent: 1,
            ..Tally::default()
        };
        assert_eq!(tally.errors(), 5);
    }
}
