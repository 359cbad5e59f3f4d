//! How fast the log takes what it is asked to store.

use std::time::Duration;

use tokio::time::Instant;

use super::PUBLISHERS;

/// How much the last chunk weighs in the rate at which the partition drains: one that was slow
/// hardly shows, ten show.
const DRAIN_WEIGHT: f64 = 0.2;

/// A chunk that took less than this weighs less, in proportion.
const DRAIN_WHOLE: Duration = Duration::from_millis(1);

/// Records that the log has lately acknowledged, by the time that it was asked to.
#[derive(Default)]
pub(super) struct DrainRate {
    /// Records a second; 0 before the first.
    rate: f64,
    /// Chunks that it is storing.
    under_way: usize,
    /// When it began to store what is counted in `stored`, while it stores anything.
    since: Option<Instant>,
    stored: usize,
    /// Chunks that it has answered for since then.
    ended: usize,
}

impl DrainRate {
    pub(super) fn records_a_second(&self) -> f64 {
        self.rate
    }

    /// A chunk is on its way.
    pub(super) fn begin(&mut self, now: Instant) {
        self.under_way += 1;
        self.since.get_or_insert(now);
    }

    /// The log has answered for a chunk, and stored so many records of it: none if it refused.
    /// Chunks that it stores at the same time take one time together.
    pub(super) fn end(&mut self, records: usize, now: Instant) {
        self.stored += records;
        self.ended += 1;
        self.under_way -= 1;
        let Some(since) = self.since else { return };
        // A chunk that ends soon after another took longer than that.
        if self.under_way > 0 && self.ended < PUBLISHERS {
            return;
        }
        let took = now - since;
        let lately = self.stored as f64 / took.as_secs_f64().max(1e-6);
        if self.rate == 0.0 {
            self.rate = lately;
        } else {
            // Where two chunks end one after the other, the second took next to nothing.
            let whole = took.as_secs_f64() / DRAIN_WHOLE.as_secs_f64();
            self.rate += DRAIN_WEIGHT * whole.min(1.0) * (lately - self.rate);
        }
        self.stored = 0;
        self.ended = 0;
        self.since = (self.under_way > 0).then_some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn assert_about(measured: f64, rate: f64) {
        assert!(
            (measured - rate).abs() < rate / 100.0,
            "{measured}, not {rate}"
        );
    }

    #[test]
    fn what_it_was_lately_counts_and_one_slow_chunk_hardly() {
        let mut rate = DrainRate::default();
        let mut now = Instant::now();
        let mut chunk = |records, takes| {
            rate.begin(now);
            now += takes;
            rate.end(records, now);
            // Until the next it is asked nothing.
            now += 1_000 * MS;
            rate.records_a_second()
        };
        for _ in 0..100 {
            chunk(1_000, 100 * MS);
        }
        assert_about(chunk(1_000, 100 * MS), 10_000.0);
        assert_about(chunk(0, 5_000 * MS), 8_000.0);
    }

    #[test]
    fn what_is_stored_at_the_same_time_takes_one_time() {
        let mut rate = DrainRate::default();
        let mut now = Instant::now();
        // 10,000 a second, beside single records that end when they like.
        for _ in 0..100 {
            rate.begin(now);
            rate.begin(now);
            rate.end(1, now + 60 * MS);
            rate.begin(now + 60 * MS);
            now += 100 * MS;
            rate.end(1_000, now);
            rate.end(1, now + MS / 1_000);
        }
        let measured = rate.records_a_second();
        // Counted one by one it would be some 5,000, and what took a microsecond a million.
        assert!((7_500.0..15_000.0).contains(&measured), "{measured}");
    }

    #[test]
    fn two_that_end_shortly_after_each_other_are_not_fast() {
        let mut rate = DrainRate::default();
        let mut now = Instant::now();
        rate.begin(now);
        rate.begin(now + 2 * MS);
        for _ in 0..100 {
            now += 50 * MS;
            rate.end(500, now);
            rate.begin(now);
            rate.end(500, now + 2 * MS);
            rate.begin(now + 2 * MS);
        }
        assert_about(rate.records_a_second(), 20_000.0);
    }
}
