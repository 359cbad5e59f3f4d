//! How a run goes, on stderr: a live view for a person, now and then a line for a log.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};

use super::figures::{count, lossy, maybe_ms, moment, ms, rate};

/// Between two lines where there is no terminal, seconds.
const LINE_INTERVAL_SECONDS: f64 = 5.0;
/// Seconds that a sparkline shows: what fits beside the figures on 80 columns.
const SPARKS: usize = 24;
/// Error kinds that are named; the rest are counted together.
const KINDS_SHOWN: usize = 3;
/// Cells of the progress bar.
const BAR_CELLS: usize = 24;
/// What fits on every terminal. A kind of error can be any code that a server sends.
const COLUMNS_MAX: usize = 79;
/// A generator further behind than this is mentioned, milliseconds.
const BEHIND_SHOWN_MS: f64 = 5.0;

/// Where a run stands. Counts are totals since sending began.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Snapshot {
    /// Since sending began.
    pub elapsed_seconds: f64,
    /// When sending will be over; `None` if nobody knows.
    pub target_seconds: Option<f64>,
    /// Whether sending is over and ids are being followed to their outcomes.
    pub following: bool,
    /// Records per second asked for just now; `None` for the closed model.
    pub target_rate: Option<f64>,
    /// Records sent.
    pub sent: u64,
    /// Records accepted.
    pub accepted: u64,
    /// Records refused.
    pub rejected: u64,
    /// Records given up.
    pub unanswered: u64,
    /// Requests in flight just now.
    pub in_flight: u64,
    /// Of the last whole second, from the moment requests were due, milliseconds.
    pub p50_ms: Option<f64>,
    /// Likewise.
    pub p99_ms: Option<f64>,
    /// By kind: problem codes and reasons together.
    pub errors: BTreeMap<String, u64>,
    /// Records whose outcome is known to be persisted.
    pub persisted: Option<u64>,
    /// How far persisting lags behind accepting, milliseconds.
    pub delay_ms: Option<f64>,
    /// How far the generator is behind its schedule, milliseconds.
    pub behind_ms: f64,
}

/// The display; gone when dropped.
#[derive(Debug)]
pub struct Display {
    bar: Option<ProgressBar>,
    history: History,
    line_due_seconds: f64,
}

impl Display {
    /// On stderr: live if that is a terminal, else lines.
    #[must_use]
    pub fn start() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg}").expect("the template is valid");
            ProgressBar::new_spinner().with_style(style)
        });
        Self {
            bar,
            history: History::default(),
            line_due_seconds: LINE_INTERVAL_SECONDS,
        }
    }

    /// Shows where the run stands. Called several times a second, it redraws the view each time,
    /// and writes a line every five seconds.
    pub fn update(&mut self, snapshot: &Snapshot) {
        self.history.push(snapshot);
        if let Some(bar) = &self.bar {
            bar.set_message(frame(snapshot, &self.history));
            bar.tick();
        } else if snapshot.elapsed_seconds >= self.line_due_seconds {
            self.line_due_seconds = snapshot.elapsed_seconds + LINE_INTERVAL_SECONDS;
            eprintln!("{}", line(snapshot, &self.history));
        }
    }

    /// Writes a line without tearing the view.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The last seconds, for rates and sparklines.
#[derive(Debug, Default)]
struct History {
    last: Snapshot,
    points: VecDeque<Point>,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    accepted_rate: f64,
    persisted_rate: Option<f64>,
    p99_ms: Option<f64>,
    delay_ms: Option<f64>,
}

impl History {
    /// Takes note once a second.
    fn push(&mut self, now: &Snapshot) {
        let seconds = now.elapsed_seconds - self.last.elapsed_seconds;
        if seconds < 1.0 {
            return;
        }
        let per_second = |now: u64, then: u64| lossy(now.saturating_sub(then)) / seconds;
        let then = self.last.persisted.unwrap_or(0);
        self.points.push_back(Point {
            accepted_rate: per_second(now.accepted, self.last.accepted),
            persisted_rate: now.persisted.map(|now| per_second(now, then)),
            p99_ms: now.p99_ms,
            delay_ms: now.delay_ms,
        });
        if self.points.len() > SPARKS {
            self.points.pop_front();
        }
        self.last = now.clone();
    }

    fn accepted_rate(&self) -> f64 {
        self.points.back().map_or(0.0, |point| point.accepted_rate)
    }

    fn spark(&self, of: impl Fn(&Point) -> Option<f64>) -> String {
        let values: Vec<_> = self.points.iter().map(of).collect();
        sparkline(&values)
    }
}

/// One character per value, scaled to the highest; a gap where nothing was measured.
fn sparkline(values: &[Option<f64>]) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let highest = values.iter().flatten().copied().fold(0.0, f64::max);
    values
        .iter()
        .map(|value| match value {
            None => ' ',
            Some(_) if highest <= 0.0 => LEVELS[0],
            Some(value) => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a share of seven"
                )]
                let level = (value / highest * 7.0).round().clamp(0.0, 7.0) as usize;
                LEVELS[level]
            }
        })
        .collect()
}

/// The live view: never wider than [`COLUMNS_MAX`], so that it can be redrawn in place.
fn frame(now: &Snapshot, history: &History) -> String {
    let target = now
        .target_rate
        .map(|target| format!(" of {}", rate(target)));
    let accepted = format!(
        "{}{}",
        rate(history.accepted_rate()),
        target.unwrap_or_default()
    );
    let latency = format!(
        "p50 {} · p99 {}",
        maybe_ms(now.p50_ms),
        maybe_ms(now.p99_ms)
    );
    let persisted = match now.persisted {
        Some(persisted) => count(persisted),
        None => "not known yet".into(),
    };
    let delay = maybe_ms(now.delay_ms);
    let mut text = format!("{}\n", progress(now));
    for (name, figures, spark) in [
        ("rate", accepted, history.spark(|it| Some(it.accepted_rate))),
        ("accept", latency, history.spark(|it| it.p99_ms)),
        (
            "persisted",
            persisted,
            history.spark(|it| it.persisted_rate),
        ),
        ("delay", delay, history.spark(|it| it.delay_ms)),
    ] {
        let _ = writeln!(text, "  {name:<10} {figures:<36} {spark}");
    }
    let _ = writeln!(
        text,
        "  {:<10} accepted {} · rejected {} · unanswered {}",
        "answers",
        count(now.accepted),
        count(now.rejected),
        count(now.unanswered)
    );
    let _ = writeln!(
        text,
        "  {:<10} {} requests",
        "in flight",
        count(now.in_flight)
    );
    let _ = write!(text, "  {:<10} {}", "errors", errors(now));
    if now.behind_ms > BEHIND_SHOWN_MS {
        let behind = ms(now.behind_ms);
        let _ = write!(text, "\n  {:<10} the generator by {behind}", "BEHIND");
    }
    let lines: Vec<_> = text.lines().map(clip).collect();
    lines.join("\n")
}

fn clip(line: &str) -> String {
    if line.chars().count() <= COLUMNS_MAX {
        return line.to_owned();
    }
    line.chars().take(COLUMNS_MAX - 1).chain(['…']).collect()
}

fn progress(now: &Snapshot) -> String {
    let elapsed = moment(now.elapsed_seconds.floor());
    if now.following {
        return format!("following ids to their outcomes, {elapsed} since the start");
    }
    let Some(target_seconds) = now.target_seconds.filter(|seconds| *seconds > 0.0) else {
        return format!("{elapsed}, sent {}", count(now.sent));
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of a few cells"
    )]
    let full = ((now.elapsed_seconds / target_seconds).clamp(0.0, 1.0) * BAR_CELLS as f64) as usize;
    format!(
        "{}{} {elapsed} of {}, sent {}",
        "█".repeat(full),
        "░".repeat(BAR_CELLS - full),
        moment(target_seconds),
        count(now.sent)
    )
}

/// The kinds with the most first.
fn errors(now: &Snapshot) -> String {
    let mut kinds: Vec<_> = now.errors.iter().filter(|(_, count)| **count > 0).collect();
    if kinds.is_empty() {
        return "none".into();
    }
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let mut cells: Vec<_> = kinds
        .iter()
        .take(KINDS_SHOWN)
        .map(|(kind, number)| format!("{kind} x {}", count(**number)))
        .collect();
    let rest: u64 = kinds
        .iter()
        .skip(KINDS_SHOWN)
        .map(|(_, count)| **count)
        .sum();
    if rest > 0 {
        cells.push(format!("others x {}", count(rest)));
    }
    cells.join(" · ")
}

/// The plain line.
fn line(now: &Snapshot, history: &History) -> String {
    let mut text = moment(now.elapsed_seconds.floor());
    if now.following {
        text.push_str(" · following");
    } else {
        let _ = write!(text, " · {}", rate(history.accepted_rate()));
        if let Some(target_rate) = now.target_rate {
            let _ = write!(text, " of {}", rate(target_rate));
        }
    }
    let _ = write!(
        text,
        " · in flight {} · p50 {} · p99 {} · accepted {} · rejected {} · unanswered {}",
        count(now.in_flight),
        maybe_ms(now.p50_ms),
        maybe_ms(now.p99_ms),
        count(now.accepted),
        count(now.rejected),
        count(now.unanswered),
    );
    if let Some(persisted) = now.persisted {
        let _ = write!(text, " · persisted {}", count(persisted));
    }
    if let Some(delay_ms) = now.delay_ms {
        let _ = write!(text, " · delay {}", ms(delay_ms));
    }
    if !now.errors.is_empty() {
        let _ = write!(text, " · errors: {}", errors(now));
    }
    if now.behind_ms > BEHIND_SHOWN_MS {
        let _ = write!(text, " · generator behind by {}", ms(now.behind_ms));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Snapshot {
        Snapshot {
            elapsed_seconds: lossy(second),
            target_seconds: Some(60.0),
            target_rate: Some(10_000.0),
            sent: 10_000 * second,
            accepted: 10_000 * second - 3,
            rejected: 2,
            unanswered: 1,
            in_flight: 12,
            p50_ms: Some(1.3),
            p99_ms: Some(4.2 + lossy(second % 5)),
            errors: BTreeMap::from([("overloaded".into(), 2), ("timeout".into(), 1)]),
            persisted: Some(9_990 * second),
            delay_ms: Some(lossy(second)),
            ..Snapshot::default()
        }
    }

    fn history(seconds: u64) -> History {
        let mut history = History::default();
        for second in 1..=seconds {
            history.push(&at(second));
        }
        history
    }

    #[test]
    fn the_live_view() {
        let now = Snapshot {
            behind_ms: 12.0,
            ..at(20)
        };
        let expected = "\
████████░░░░░░░░░░░░░░░░ 20 s of 60 s, sent 200,000
  rate       10,000/s of 10,000/s                 ████████████████████
  accept     p50 1.30 ms · p99 4.20 ms            ▅▆▇█▅▅▆▇█▅▅▆▇█▅▅▆▇█▅
  persisted  199,800                              ████████████████████
  delay      20.0 ms                              ▁▂▂▂▃▃▃▄▄▅▅▅▆▆▆▇▇▇██
  answers    accepted 199,997 · rejected 2 · unanswered 1
  in flight  12 requests
  errors     overloaded x 2 · timeout x 1
  BEHIND     the generator by 12.0 ms";
        assert_eq!(frame(&now, &history(20)), expected);
    }

    #[test]
    fn the_plain_line() {
        let line = line(&at(20), &history(20));
        assert_eq!(
            line,
            "20 s · 10,000/s of 10,000/s · in flight 12 · p50 1.30 ms · p99 4.20 ms · accepted \
             199,997 · rejected 2 · unanswered 1 · persisted 199,800 · delay 20.0 ms · errors: \
             overloaded x 2 · timeout x 1"
        );
    }

    #[test]
    fn no_line_of_the_view_is_wider_than_a_terminal() {
        let now = Snapshot {
            elapsed_seconds: 86_000.0,
            target_seconds: Some(86_400.0),
            target_rate: Some(1_234_567.0),
            sent: 9_999_999_999,
            accepted: 9_999_999_999,
            rejected: 999_999_999,
            unanswered: 999_999,
            errors: ["a", "b", "c", "d"]
                .map(|kind| (kind.repeat(40), 9_999_999))
                .into(),
            ..at(20)
        };
        for line in frame(&now, &history(100)).lines() {
            assert!(line.chars().count() <= COLUMNS_MAX, "{line}");
        }
    }

    #[test]
    fn the_end_of_a_run_may_be_unknown_and_following_has_none() {
        let mut now = at(130);
        now.target_seconds = None;
        assert_eq!(progress(&now), "2:10, sent 1,300,000");
        now.following = true;
        assert!(frame(&now, &history(3)).starts_with("following ids to their outcomes, 2:10"));
        assert!(line(&now, &history(3)).starts_with("2:10 · following · in flight"));
    }

    #[test]
    fn a_sparkline_scales_to_the_highest_and_leaves_gaps() {
        assert_eq!(sparkline(&[]), "");
        assert_eq!(sparkline(&[Some(0.0), Some(0.0)]), "▁▁");
        assert_eq!(sparkline(&[Some(1.0), None, Some(7.0)]), "▂ █");
    }

    #[test]
    fn nothing_is_needed_to_begin_with() {
        let mut display = Display::start();
        display.update(&Snapshot::default());
        assert!(frame(&Snapshot::default(), &History::default()).contains("errors     none"));
    }
}
