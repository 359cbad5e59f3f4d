//! When each request is due: a pure function of the profile. Nothing that happens in a run, no
//! answer and no error, can move it.

use std::time::Duration;

use crate::rides::BOOKED;

/// Rides of one day of XRides.
pub(crate) const XRIDES_DAY_RIDES: f64 = 288_000.0;
const DAY_SECONDS: f64 = 86_400.0;
/// XRides sends a minute's rides in a burst: so much of them ...
const MINUTE_BURST_SHARE: f64 = 0.6;
/// ... in so much of the minute.
const MINUTE_BURST_TIME: f64 = 1.0 / 6.0;

/// How the rate goes over time; rates in records per second.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Profile {
    /// One rate.
    Steady { rate: f64, seconds: f64 },
    /// From one rate to another in a straight line.
    Ramp { from: f64, to: f64, seconds: f64 },
    /// A base rate, and a higher one for `spike_seconds` at the end of every `every_seconds`.
    Burst {
        rate: f64,
        spike_rate: f64,
        every_seconds: f64,
        spike_seconds: f64,
        seconds: f64,
    },
    /// 288,000 rides over a day's hours, each minute's mostly at its beginning, `speedup` times as
    /// fast as they happened.
    XridesDay { speedup: f64 },
}

/// The arrivals of a run: numbered requests, each with the moment it is due.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    stretches: Vec<Stretch>,
    requests: u64,
    seconds: f64,
}

/// A stretch in which the rate goes straight from one value to another.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    from_seconds: f64,
    seconds: f64,
    /// Requests per second.
    rate_from: f64,
    rate_to: f64,
    /// Requests due before it.
    before: f64,
}

impl Schedule {
    /// Of requests with `batch` records each.
    pub(crate) fn new(profile: &Profile, batch: u64) -> Self {
        let mut stretches = Vec::new();
        let (mut at, mut before) = (0.0, 0.0);
        for (seconds, from, to) in stretches_of(profile) {
            let (rate_from, rate_to) = (from / lossy(batch), to / lossy(batch));
            stretches.push(Stretch {
                from_seconds: at,
                seconds,
                rate_from,
                rate_to,
                before,
            });
            at += seconds;
            before += (rate_from + rate_to) / 2.0 * seconds;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive number of requests, far below 2^53"
        )]
        // A sum of products may miss a whole number by its last bits.
        let requests = (before - 1e-6).ceil().max(1.0) as u64;
        Self {
            stretches,
            requests,
            seconds: at,
        }
    }

    /// How many there are; request numbers are below.
    pub(crate) fn requests(&self) -> u64 {
        self.requests
    }

    /// From the beginning to the end of the last stretch.
    pub(crate) fn length(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// When request `number` is due, counted from the beginning.
    pub(crate) fn due(&self, number: u64) -> Duration {
        let number = lossy(number);
        let next = self.stretches.partition_point(|it| it.before <= number);
        let stretch = &self.stretches[next.saturating_sub(1)];
        let wanted = number - stretch.before;
        let slope = (stretch.rate_to - stretch.rate_from) / stretch.seconds;
        // The root of rate_from * t + slope / 2 * t^2 = wanted in the form that keeps its digits
        // when the slope is small or none.
        let discriminant = (stretch.rate_from.powi(2) + 2.0 * slope * wanted).max(0.0);
        let divisor = stretch.rate_from + discriminant.sqrt();
        let into = if wanted > 0.0 {
            2.0 * wanted / divisor
        } else {
            0.0
        };
        Duration::from_secs_f64(stretch.from_seconds + into.clamp(0.0, stretch.seconds))
    }

    /// How many requests are due by `at`.
    pub(crate) fn due_by(&self, at: Duration) -> u64 {
        // Numbers are due in order: the first that is not yet due is how many are.
        let (mut low, mut high) = (0, self.requests);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.due(middle) <= at {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Requests per second asked for at a moment.
    pub(crate) fn rate(&self, at: Duration) -> f64 {
        let at = at.as_secs_f64();
        let next = self.stretches.partition_point(|it| it.from_seconds <= at);
        let stretch = &self.stretches[next.saturating_sub(1)];
        let share = ((at - stretch.from_seconds) / stretch.seconds).clamp(0.0, 1.0);
        stretch.rate_from + (stretch.rate_to - stretch.rate_from) * share
    }
}

/// Seconds, and records per second at both ends.
fn stretches_of(profile: &Profile) -> Vec<(f64, f64, f64)> {
    match *profile {
        Profile::Steady { rate, seconds } => vec![(seconds, rate, rate)],
        Profile::Ramp { from, to, seconds } => vec![(seconds, from, to)],
        Profile::Burst {
            rate,
            spike_rate,
            every_seconds,
            spike_seconds,
            seconds,
        } => {
            let mut stretches = Vec::new();
            let mut left = seconds;
            while left > 0.0 {
                for (length, rate) in [
                    (every_seconds - spike_seconds, rate),
                    (spike_seconds, spike_rate),
                ] {
                    let length = length.min(left);
                    if length > 0.0 {
                        stretches.push((length, rate, rate));
                    }
                    left -= length;
                }
            }
            stretches
        }
        Profile::XridesDay { speedup } => xrides_day(speedup),
    }
}

fn xrides_day(speedup: f64) -> Vec<(f64, f64, f64)> {
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let weights = BOOKED.map(|weight| weight as f64);
    let sum: f64 = weights.iter().sum();
    let minute = 60.0 / speedup;
    let mut stretches = Vec::with_capacity(2 * 24 * 60);
    for weight in weights {
        let rides = XRIDES_DAY_RIDES * weight / sum / 60.0;
        for _ in 0..60 {
            let burst = minute * MINUTE_BURST_TIME;
            let rate = rides * MINUTE_BURST_SHARE / burst;
            stretches.push((burst, rate, rate));
            let rest = minute - burst;
            let rate = rides * (1.0 - MINUTE_BURST_SHARE) / rest;
            stretches.push((rest, rate, rate));
        }
    }
    stretches
}

impl Profile {
    /// Records per second on the whole.
    pub(crate) fn mean_rate(&self) -> f64 {
        match *self {
            Self::Steady { rate, .. } => rate,
            Self::Ramp { from, to, .. } => (from + to) / 2.0,
            Self::Burst { .. } | Self::XridesDay { .. } => {
                let all = stretches_of(self);
                let records: f64 = all.iter().map(|(s, from, to)| s * (from + to) / 2.0).sum();
                records / all.iter().map(|(seconds, ..)| seconds).sum::<f64>()
            }
        }
    }

    /// Records per second at the highest point.
    pub(crate) fn peak_rate(&self) -> f64 {
        let all = stretches_of(self);
        all.iter()
            .fold(0.0, |peak, (_, from, to)| peak.max(from.max(*to)))
    }
}

/// What a day lasts at a speed.
pub(crate) fn xrides_day_seconds(speedup: f64) -> f64 {
    DAY_SECONDS / speedup
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn lossy(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn steady(rate: f64, seconds: f64) -> Profile {
        Profile::Steady { rate, seconds }
    }

    #[test]
    fn a_steady_rate_is_evenly_spaced() {
        let schedule = Schedule::new(&steady(1_000.0, 30.0), 1);
        assert_eq!(schedule.requests(), 30_000);
        assert_eq!(schedule.due(0), Duration::ZERO);
        assert_eq!(schedule.due(1), Duration::from_millis(1));
        assert_eq!(schedule.due(29_999), Duration::from_millis(29_999));
        assert_eq!(schedule.due_by(Duration::from_millis(10)), 11);
        assert_eq!(schedule.due_by(Duration::from_secs(99)), 30_000);
        let batches = Schedule::new(&steady(1_000.0, 30.0), 100);
        assert_eq!(batches.requests(), 300);
        assert_eq!(batches.due(1), Duration::from_millis(100));
    }

    #[test]
    fn a_ramp_sends_the_mean_of_its_ends() {
        let profile = Profile::Ramp {
            from: 0.0,
            to: 200.0,
            seconds: 10.0,
        };
        let schedule = Schedule::new(&profile, 1);
        assert_eq!(schedule.requests(), 1_000);
        // A quarter of the requests is due in the first half of the time.
        let half = schedule.due_by(Duration::from_secs(5));
        assert!((249..=251).contains(&half), "{half}");
        assert!((schedule.rate(Duration::from_secs(5)) - 100.0).abs() < 1e-9);
    }

    #[test]
    fn a_burst_has_spikes_on_its_base() {
        let profile = Profile::Burst {
            rate: 100.0,
            spike_rate: 1_000.0,
            every_seconds: 10.0,
            spike_seconds: 1.0,
            seconds: 25.0,
        };
        let schedule = Schedule::new(&profile, 1);
        assert_eq!(schedule.requests(), 2 * 1_900 + 500);
        let by = |second| schedule.due_by(Duration::from_secs_f64(second));
        assert_eq!(by(9.0) - by(8.0), 100);
        assert_eq!(by(10.0) - by(9.001), 999);
        assert!((profile.peak_rate() - 1_000.0).abs() < 1e-9);
        assert!((profile.mean_rate() - 172.0).abs() < 1e-9);
    }

    #[test]
    fn a_day_of_xrides_has_288000_rides_in_its_real_hours() {
        let schedule = Schedule::new(&Profile::XridesDay { speedup: 600.0 }, 1);
        assert_eq!(schedule.requests(), 288_000);
        assert_eq!(schedule.length(), Duration::from_secs(144));
        let by = |hour: f64| schedule.due_by(Duration::from_secs_f64(hour * 6.0)) as f64;
        for (hour, weight) in BOOKED.iter().enumerate() {
            let share = (by(hour as f64 + 1.0) - by(hour as f64)) / 288_000.0;
            let want = *weight as f64 / BOOKED.iter().sum::<u64>() as f64;
            assert!(
                (share - want).abs() < want * 0.02,
                "{hour} h: {share}, not {want}"
            );
        }
        // A minute takes 100 ms here, and 60% of its rides come in the first sixth.
        let minute = 10.0 + 30.0 / 60.0;
        let burst = by(minute + 1.0 / 360.0) - by(minute);
        let whole = by(minute + 1.0 / 60.0) - by(minute);
        assert!((burst / whole - 0.6).abs() < 0.02, "{burst} of {whole}");
    }

    proptest! {
        #[test]
        fn requests_are_due_in_order_and_within_the_length(
            from in 1.0..50_000.0_f64, to in 1.0..50_000.0_f64, seconds in 0.1..100.0_f64,
            batch in 1_u64..200,
        ) {
            let schedule = Schedule::new(&Profile::Ramp { from, to, seconds }, batch);
            let step = (schedule.requests() / 200).max(1);
            let mut last = Duration::ZERO;
            let mut number = 0;
            while number < schedule.requests() {
                let due = schedule.due(number);
                prop_assert!(due >= last && due <= schedule.length());
                prop_assert!(schedule.due_by(due) > number);
                last = due;
                number += step;
            }
        }
    }
}
