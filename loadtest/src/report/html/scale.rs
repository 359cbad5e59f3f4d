//! From a value to its place on an axis, and the values worth a line across the chart.

use crate::report::figures::lossy;

/// How an axis grows.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Scale {
    /// Evenly.
    Linear { from: f64, to: f64 },
    /// By powers of ten; both ends are positive.
    Log { from: f64, to: f64 },
    /// 0%, 90%, 99%, ...: values are counted in nines, `-log10(1 - share)`.
    Nines { to: f64 },
}

/// Labels on an axis, about.
const TICKS: f64 = 5.0;
/// A logarithmic axis of no more decades has lines at 2 and 5 as well.
const DECADES_WITH_STEPS: i32 = 2;

impl Scale {
    /// From zero to a round value above `highest`.
    pub(super) fn up_to(highest: f64) -> Self {
        let highest = if highest > 0.0 { highest } else { 1.0 };
        let step = round_step(highest / TICKS);
        Self::Linear {
            from: 0.0,
            to: (highest / step).ceil() * step,
        }
    }

    /// From 0 to the last second of a run.
    pub(super) fn seconds(last: f64) -> Self {
        Self::Linear {
            from: 0.0,
            to: last.max(1.0),
        }
    }

    /// The whole decades around the positive ones of `values`.
    pub(super) fn decades(values: impl Iterator<Item = f64>) -> Self {
        let (lowest, highest) = values
            .filter(|value| *value > 0.0)
            .fold((f64::MAX, 0.0_f64), |(low, high), value| {
                (low.min(value), high.max(value))
            });
        if highest <= 0.0 {
            return Self::Log { from: 0.1, to: 1.0 };
        }
        let from = lowest.log10().floor();
        Self::Log {
            from: 10_f64.powf(from),
            to: 10_f64.powf(highest.log10().ceil().max(from + 1.0)),
        }
    }

    /// 0 at the start of the axis, 1 at its end.
    pub(super) fn place(self, value: f64) -> f64 {
        let place = match self {
            Self::Linear { from, to } => (value - from) / (to - from),
            Self::Log { from, to } => (value.max(from) / from).log10() / (to / from).log10(),
            Self::Nines { to } => value / to,
        };
        place.clamp(0.0, 1.0)
    }

    /// Round values from the start to the end.
    pub(super) fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear { from, to } => every(from, to, round_step((to - from) / TICKS)),
            Self::Log { from, to } => decade_ticks(from, to),
            Self::Nines { to } => every(0.0, to, 1.0),
        }
    }

    /// [`ticks`](Self::ticks) that read well as moments: 5 s, 15 s, 1 min, ...
    pub(super) fn second_ticks(self) -> Vec<f64> {
        const STEPS: [f64; 12] = [
            1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0,
        ];
        let Self::Linear { from, to } = self else {
            return self.ticks();
        };
        let least = (to - from) / 8.0;
        let step = STEPS.into_iter().find(|step| *step >= least);
        let step = step.unwrap_or_else(|| (least / 3600.0).ceil() * 3600.0);
        every(from, to, step)
    }
}

/// 1, 2 or 5 times a power of ten, no less than `least`.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0]
        .into_iter()
        .map(|step| step * power)
        // The logarithm of a round value may be off by a hair.
        .find(|step| *step >= least * (1.0 - 1e-9))
        .unwrap_or(power * 10.0)
}

fn every(from: f64, to: f64, step: f64) -> Vec<f64> {
    (0_u32..)
        .map(|index| from + f64::from(index) * step)
        .take_while(|value| *value <= to + step * 1e-6)
        .collect()
}

fn decade_ticks(from: f64, to: f64) -> Vec<f64> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an exponent of a duration is small"
    )]
    let exponent = |value: f64| value.log10().round() as i32;
    let (first, last) = (exponent(from), exponent(to));
    let steps: &[f64] = if last - first <= DECADES_WITH_STEPS {
        &[1.0, 2.0, 5.0]
    } else {
        &[1.0]
    };
    let mut ticks: Vec<_> = (first..last)
        .flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)))
        .collect();
    ticks.push(to);
    ticks
}

/// The value that so many nines of a histogram do not exceed, `[value, count]` ascending.
pub(super) fn value_at_nines(histogram: &[(u64, u64)], count: u64, nines: f64) -> Option<u64> {
    let beyond = lossy(count) * 10_f64.powf(-nines);
    // The highest value stands where one of `count` is left.
    if count == 0 || beyond < 1.0 - 1e-9 {
        return None;
    }
    let mut left = lossy(count);
    for (value, count) in histogram {
        left -= lossy(*count);
        if left < beyond - 1e-9 {
            return Some(*value);
        }
    }
    histogram.last().map(|(value, _)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_axes_end_on_round_values() {
        let scale = Scale::up_to(4_870.0);
        assert_eq!(
            scale,
            Scale::Linear {
                from: 0.0,
                to: 5_000.0
            }
        );
        assert_eq!(scale.ticks(), [0.0, 1e3, 2e3, 3e3, 4e3, 5e3]);
        assert_eq!(scale.place(2_500.0), 0.5);
        assert_eq!(Scale::up_to(0.0).ticks().len(), 6);
        assert!(Scale::up_to(1e-9).ticks().len() <= 12);
    }

    #[test]
    fn logarithmic_axes_hold_whole_decades() {
        let scale = Scale::decades([0.3, 4_000.0].into_iter());
        let ticks = scale.ticks();
        assert_eq!(ticks.len(), 6);
        assert!((ticks[0] - 0.1).abs() < 1e-9 && (ticks[5] - 1e4).abs() < 1e-6);
        assert!((scale.place(1.0) - 0.2).abs() < 1e-9);
        assert_eq!(scale.place(0.0), 0.0);
        let narrow = Scale::decades([2.0, 3.0].into_iter()).ticks();
        assert_eq!(narrow, [1.0, 2.0, 5.0, 10.0]);
        assert_eq!(Scale::decades([10.0].into_iter()).ticks().len(), 4);
        assert_eq!(Scale::decades(std::iter::empty()).ticks().len(), 4);
    }

    #[test]
    fn moments_are_those_of_a_clock() {
        let ticks = |last| Scale::seconds(last).second_ticks();
        assert_eq!(
            ticks(40.0),
            [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0]
        );
        assert_eq!(ticks(300.0), [0.0, 60.0, 120.0, 180.0, 240.0, 300.0]);
        assert!(ticks(1e6).len() <= 9);
    }

    #[test]
    fn nines_of_a_histogram() {
        let histogram: Vec<_> = (1..=1000).map(|value| (value, 1)).collect();
        let at = |nines| value_at_nines(&histogram, 1000, nines);
        assert_eq!(at(0.0), Some(1));
        assert_eq!(at(1.0), Some(901));
        assert_eq!(at(2.0), Some(991));
        assert_eq!(at(3.0), Some(1000));
        assert_eq!(at(3.1), None);
        assert_eq!(value_at_nines(&[], 0, 0.0), None);
    }
}
