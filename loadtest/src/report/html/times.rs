//! The time axis: a short run second by second, a long one in slices.

use super::chart::{Axis, Chart, Line, Mark};
use super::scale::Scale;
use crate::report::figures::{lossy, moment};
use crate::report::schema::{RunReport, Second};

/// Moments on a time axis at most: a longer run is drawn in slices of several seconds.
const SLICES_MAX: usize = 300;

/// The time axis.
pub(super) struct Times<'a> {
    pub(super) slices: Vec<&'a [Second]>,
    slice_seconds: usize,
    last_second: f64,
    marks: Vec<Mark>,
}

/// What a slice of several seconds shows.
#[derive(Clone, Copy)]
pub(super) enum Of {
    Mean,
    Highest,
}

impl<'a> Times<'a> {
    pub(super) fn new(report: &'a RunReport) -> Self {
        let seconds = &report.series;
        let slice_seconds = seconds.len().div_ceil(SLICES_MAX).max(1);
        let last_second = seconds.last().map_or(1.0, |it| lossy(it.second + 1));
        let marks = report
            .actions
            .iter()
            .enumerate()
            .filter(|(_, action)| action.at_seconds <= last_second)
            .map(|(index, action)| Mark {
                badge: (index + 1).to_string(),
                text: action.text.clone(),
                from: action.at_seconds,
                to: action.done_at_seconds.map(|to| to.min(last_second)),
            })
            .collect();
        Self {
            slices: seconds.chunks(slice_seconds).collect(),
            slice_seconds,
            last_second,
            marks,
        }
    }

    /// One value for each slice.
    pub(super) fn values(
        &self,
        of: Of,
        value: impl Fn(&Second) -> Option<f64>,
    ) -> Vec<Option<f64>> {
        self.slices
            .iter()
            .map(|slice| {
                let values: Vec<_> = slice.iter().filter_map(&value).collect();
                match of {
                    Of::Highest => values.into_iter().reduce(f64::max),
                    Of::Mean if values.is_empty() => None,
                    Of::Mean => Some(values.iter().sum::<f64>() / lossy(values.len() as u64)),
                }
            })
            .collect()
    }

    /// A chart over time, with the actions marked.
    pub(super) fn chart(
        &self,
        (id, title, note): (&'static str, &'static str, &str),
        of: Of,
        y: Axis,
        lines: Vec<Line>,
    ) -> Chart {
        let scale = Scale::seconds(self.last_second);
        let note = match (self.slice_seconds, of) {
            (1, _) => note.to_owned(),
            (seconds, Of::Mean) => format!("{note}; each point the mean of {seconds} s"),
            (seconds, Of::Highest) => format!("{note}; each point the worst of {seconds} s"),
        };
        Chart {
            id,
            title,
            note,
            x: Axis {
                scale,
                ticks: scale.second_ticks(),
                tick_text: moment,
                value_text: |middle| format!("from {}", moment(middle.floor())),
            },
            y,
            xs: self.slices.iter().map(|slice| middle(slice)).collect(),
            lines,
            marks: self.marks.clone(),
            group: "time",
        }
    }
}

/// Of the seconds from the first one's beginning to the last one's end.
fn middle(slice: &[Second]) -> f64 {
    let first = slice.first().map_or(0, |it| it.second);
    let last = slice.last().map_or(0, |it| it.second);
    lossy(first).midpoint(lossy(last + 1))
}
