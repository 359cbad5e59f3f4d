//! `loadtest compare A.json B.json`: side by side, a verdict, an exit code for CI.

use std::fmt;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;

use super::figures::{cores, count, lossy, maybe_ms, ms, rate, share, trimmed};
use super::json::ReadError;
use super::schema::{Couriers, Outcome, RunReport, Summary};

/// B is worse than A.
const EXIT_WORSE: u8 = 2;
/// One of the runs was invalid, so there is nothing to conclude; the same code as `run`'s.
const EXIT_INVALID: u8 = 3;

/// Latencies that differ by less are equal: timers and schedulers are no finer.
const LATENCY_NOISE_MS: f64 = 0.1;
/// Error shares that differ by less are equal: one record in ten thousand.
const ERROR_SHARE_NOISE: f64 = 0.000_1;
/// A percentile is judged when at least this many values lie beyond it.
const BEYOND_PERCENTILE_MIN: f64 = 10.0;

/// Compare two runs: B against A, the base
#[derive(Args, Debug)]
#[command(
    after_help = "Exit codes: 0 the same or better, 1 a file cannot be read, 2 worse, \
                        3 a run was invalid, 64 wrong usage"
)]
pub struct CompareArgs {
    /// What `run --json` wrote before
    #[arg(value_name = "A.json")]
    pub base: PathBuf,
    /// What it wrote now
    #[arg(value_name = "B.json")]
    pub candidate: PathBuf,
    /// Changes up to this are no changes
    #[arg(long, value_name = "PERCENT", default_value = "10%")]
    pub threshold: Threshold,
}

/// A relative change, `10%`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Threshold(f64);

/// Not a percentage.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("must be a percentage such as 10% or 2.5%, from 0% to 1000%")]
pub struct ThresholdError;

impl FromStr for Threshold {
    type Err = ThresholdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let percent = text.strip_suffix('%').ok_or(ThresholdError)?;
        let percent: f64 = percent.trim().parse().map_err(|_| ThresholdError)?;
        if !(0.0..=1000.0).contains(&percent) {
            return Err(ThresholdError);
        }
        Ok(Self(percent / 100.0))
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", trimmed(self.0 * 100.0, 2))
    }
}

/// Runs the command and prints.
#[must_use]
pub fn main(args: &CompareArgs) -> ExitCode {
    match run(args) {
        Ok(comparison) => {
            // A reader that has gone away (`| head`) must not turn into a panic.
            let _ = write!(std::io::stdout(), "{comparison}");
            ExitCode::from(comparison.verdict.exit_code())
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads both files and compares.
///
/// # Errors
/// When one cannot be read.
pub fn run(args: &CompareArgs) -> Result<Comparison, ReadError> {
    let base = RunReport::read(&args.base)?;
    let candidate = RunReport::read(&args.candidate)?;
    Ok(compare(&base, &candidate, args.threshold))
}

/// Two runs side by side.
#[derive(Clone, PartialEq, Debug)]
pub struct Comparison {
    /// In one word.
    pub verdict: Verdict,
    /// Figure by figure.
    pub rows: Vec<Row>,
    /// What makes the two hard to compare.
    pub notes: Vec<String>,
    threshold: Threshold,
}

/// What B is, compared with A.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing worse, something better.
    Better,
    /// Nothing beyond the threshold.
    Same,
    /// Something worse.
    Worse,
    /// The generator of one run was its own bottleneck.
    Invalid,
}

/// One figure of both runs.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// A's.
    pub base: Option<f64>,
    /// B's.
    pub candidate: Option<f64>,
    /// What the difference means; `None` if it is shown and not judged.
    pub change: Option<Change>,
    unit: Unit,
}

/// What a difference means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Beyond the threshold, to the good.
    Better,
    /// Within it.
    Same,
    /// Beyond the threshold, to the bad.
    Worse,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unit {
    Rate,
    Ms,
    Share,
    Count,
    Cores,
}

/// Compares `candidate` with `base`.
#[must_use]
pub fn compare(base: &RunReport, candidate: &RunReport, threshold: Threshold) -> Comparison {
    let mut rows = rates(base, candidate, threshold);
    rows.extend(books(base, candidate));
    let both = [
        (
            "accept",
            &base.latency.accept_corrected,
            &candidate.latency.accept_corrected,
        ),
        ("visible", &base.latency.visible, &candidate.latency.visible),
    ];
    for (name, base, candidate) in both {
        rows.extend(latencies(
            name,
            &base.summary,
            &candidate.summary,
            threshold,
        ));
    }
    rows.extend(objectives(base, candidate));
    rows.extend(servers(base, candidate));
    let has = |change| rows.iter().any(|row| row.change == Some(change));
    let invalid = [base, candidate]
        .iter()
        .any(|it| it.verdict.outcome == Outcome::Invalid || !it.generator.valid);
    let verdict = if invalid {
        Verdict::Invalid
    } else if has(Change::Worse) {
        Verdict::Worse
    } else if has(Change::Better) {
        Verdict::Better
    } else {
        Verdict::Same
    };
    Comparison {
        verdict,
        rows,
        notes: notes(base, candidate),
        threshold,
    }
}

fn rates(base: &RunReport, candidate: &RunReport, threshold: Threshold) -> Vec<Row> {
    let knee = |it: &RunReport| it.find_capacity.as_ref().and_then(|it| it.knee_rate);
    let searched = base.find_capacity.is_some() && candidate.find_capacity.is_some();
    let mut rows = Vec::new();
    if searched {
        let (a, b) = (knee(base), knee(candidate));
        let change = judge_higher(a.or(Some(0.0)), b.or(Some(0.0)), threshold);
        rows.push(Row::new("knee", Unit::Rate, a, b, change));
    }
    let (a, b) = (Some(base.accepted_rate), Some(candidate.accepted_rate));
    // A search sends what it likes; only its knee counts.
    let change = judge_higher(a, b, threshold).filter(|_| !searched);
    rows.push(Row::new("accepted", Unit::Rate, a, b, change));
    let (a, b) = (base.error_share(), candidate.error_share());
    let noise = ERROR_SHARE_NOISE.max(a * threshold.0);
    let change = Some(by_difference(a, b, noise)).filter(|_| !searched);
    rows.push(Row::new("errors", Unit::Share, Some(a), Some(b), change));
    rows
}

/// What must be zero: one is one too many, whatever the threshold.
fn books(base: &RunReport, candidate: &RunReport) -> Vec<Row> {
    let (a, b) = (&base.counts, &candidate.counts);
    [
        ("lost", a.lost, b.lost),
        ("unsettled", a.unsettled, b.unsettled),
        ("doubled", a.doubled, b.doubled),
        (
            "duplicate unasked for",
            a.unexpected_duplicates,
            b.unexpected_duplicates,
        ),
        ("failed", a.failed, b.failed),
    ]
    .into_iter()
    .map(|(name, a, b)| zero(name, a, b))
    .chain(couriers(base, candidate))
    .collect()
}

/// Of runs with couriers; what had none has none that differ.
fn couriers(base: &RunReport, candidate: &RunReport) -> Vec<Row> {
    if base.couriers.is_none() && candidate.couriers.is_none() {
        return Vec::new();
    }
    let of =
        |report: &RunReport, count: fn(&Couriers) -> u64| report.couriers.as_ref().map_or(0, count);
    let row = |name, count| zero(name, of(base, count), of(candidate, count));
    vec![
        row("couriers differing", |it| it.differing),
        row("commands refused", |it| it.refused),
    ]
}

fn zero(name: &str, base: u64, candidate: u64) -> Row {
    let (a, b) = (lossy(base), lossy(candidate));
    let change = by_difference(a, b, 0.0);
    Row::new(name, Unit::Count, Some(a), Some(b), Some(change))
}

fn latencies(name: &str, base: &Summary, candidate: &Summary, threshold: Threshold) -> Vec<Row> {
    if base.count == 0 && candidate.count == 0 {
        return Vec::new();
    }
    let fewest = lossy(base.count.min(candidate.count));
    [
        ("p50", base.p50_ms, candidate.p50_ms, 0.5),
        ("p90", base.p90_ms, candidate.p90_ms, 0.9),
        ("p99", base.p99_ms, candidate.p99_ms, 0.99),
        ("p99.9", base.p99_9_ms, candidate.p99_9_ms, 0.999),
        // The longest of all is one value; it is shown and not judged.
        ("max", base.max_ms, candidate.max_ms, 1.0),
    ]
    .into_iter()
    .map(|(percentile, a, b, at)| {
        let change = match (a, b) {
            (Some(a), Some(b)) if fewest * (1.0 - at) >= BEYOND_PERCENTILE_MIN => {
                Some(by_difference(a, b, LATENCY_NOISE_MS.max(a * threshold.0)))
            }
            _ => None,
        };
        Row::new(&format!("{name}.{percentile}"), Unit::Ms, a, b, change)
    })
    .collect()
}

/// An objective that both runs had.
fn objectives(base: &RunReport, candidate: &RunReport) -> Vec<Row> {
    let mut rows = Vec::new();
    for b in &candidate.objectives {
        let Some(a) = base.objectives.iter().find(|a| a.text == b.text) else {
            continue;
        };
        let missed = |met: bool| if met { 0.0 } else { 1.0 };
        let (from, to) = (missed(a.met), missed(b.met));
        let change = by_difference(from, to, 0.0);
        let name = format!("missed: {}", b.text);
        rows.push(Row::new(
            &name,
            Unit::Count,
            Some(from),
            Some(to),
            Some(change),
        ));
    }
    rows
}

/// What the servers needed; shown and not judged, since neighbours on the machine weigh in.
fn servers(base: &RunReport, candidate: &RunReport) -> Vec<Row> {
    let (a, b) = (base.server_uses(), candidate.server_uses());
    let mut rows = Vec::new();
    for (name, a) in &a {
        let Some(b) = b.get(name) else { continue };
        let name = format!("cpu {name}");
        rows.push(Row::new(
            &name,
            Unit::Cores,
            a.cpu_cores_mean,
            b.cpu_cores_mean,
            None,
        ));
    }
    rows
}

fn judge_higher(base: Option<f64>, candidate: Option<f64>, threshold: Threshold) -> Option<Change> {
    let (base, candidate) = (base?, candidate?);
    Some(by_difference(-base, -candidate, base * threshold.0))
}

/// Lower is better.
fn by_difference(base: f64, candidate: f64, noise: f64) -> Change {
    if candidate - base > noise {
        Change::Worse
    } else if base - candidate > noise {
        Change::Better
    } else {
        Change::Same
    }
}

fn notes(base: &RunReport, candidate: &RunReport) -> Vec<String> {
    let mut notes = Vec::new();
    let (a, b) = (base.load.describe(), candidate.load.describe());
    if a != b {
        notes.push(format!("the loads differ: A was {a}; B was {b}"));
    }
    if base.versions.machine != candidate.versions.machine {
        let (a, b) = (&base.versions.machine, &candidate.versions.machine);
        notes.push(format!("the machines differ: {a}; {b}"));
    }
    for (name, it) in [("A", base), ("B", candidate)] {
        if it.interrupted {
            notes.push(format!("{name} was interrupted"));
        }
        if it.verdict.outcome == Outcome::Invalid || !it.generator.valid {
            let why = it.generator.why.as_deref().unwrap_or("see its report");
            notes.push(format!("{name} is invalid: {why}"));
        }
    }
    notes
}

impl Verdict {
    /// 0 same or better, 2 worse, 3 invalid.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Better | Self::Same => 0,
            Self::Worse => EXIT_WORSE,
            Self::Invalid => EXIT_INVALID,
        }
    }
}

impl Row {
    fn new(
        name: &str,
        unit: Unit,
        base: Option<f64>,
        candidate: Option<f64>,
        change: Option<Change>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            base,
            candidate,
            change,
            unit,
        }
    }

    fn text(&self, value: Option<f64>) -> String {
        let Some(value) = value else {
            return maybe_ms(None);
        };
        match self.unit {
            Unit::Rate => rate(value),
            Unit::Ms => ms(value),
            Unit::Share => share(value),
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it was a count"
            )]
            Unit::Count => count(value as u64),
            Unit::Cores => cores(value),
        }
    }

    fn change_text(&self) -> String {
        match (self.base, self.candidate) {
            (Some(a), Some(b)) if a > 0.0 => {
                let percent = (b - a) / a * 100.0;
                let sign = if percent < 0.05 { "" } else { "+" };
                format!("{sign}{}%", trimmed(percent, 1))
            }
            _ => String::new(),
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.name.chars().count());
        let width = width.max().unwrap_or(0).max(10);
        writeln!(f, "{:<width$} {:>12} {:>12} {:>9}", "", "A", "B", "change")?;
        for row in &self.rows {
            let word = match row.change {
                Some(Change::Better) => "  better",
                Some(Change::Worse) => "  WORSE",
                Some(Change::Same) | None => "",
            };
            let line = format!(
                "{:<width$} {:>12} {:>12} {:>9}{word}",
                row.name,
                row.text(row.base),
                row.text(row.candidate),
                row.change_text(),
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        let threshold = self.threshold;
        match self.verdict {
            Verdict::Better => writeln!(f, "verdict: better (by more than {threshold})"),
            Verdict::Same => writeln!(f, "verdict: the same (within {threshold})"),
            Verdict::Worse => writeln!(f, "verdict: WORSE (by more than {threshold})"),
            Verdict::Invalid => writeln!(f, "verdict: INVALID, nothing can be concluded"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    const TEN_PERCENT: Threshold = Threshold(0.1);

    fn change_of(comparison: &Comparison, name: &str) -> Option<Change> {
        let row = comparison.rows.iter().find(|row| row.name == name);
        row.unwrap_or_else(|| panic!("no row {name}")).change
    }

    #[test]
    fn a_run_is_the_same_as_itself() {
        let report = sample::run();
        let comparison = compare(&report, &report, TEN_PERCENT);
        assert_eq!(comparison.verdict, Verdict::Same);
        assert_eq!(comparison.verdict.exit_code(), 0);
        assert!(comparison.notes.is_empty());
        let text = comparison.to_string();
        assert!(text.ends_with("verdict: the same (within 10%)\n"), "{text}");
    }

    #[test]
    fn slower_beyond_the_threshold_is_worse_and_the_other_way_round_better() {
        let base = sample::run();
        let mut slower = sample::run();
        let p50 = &mut slower.latency.accept_corrected.summary.p50_ms;
        *p50 = p50.map(|ms| ms * 1.2);
        let comparison = compare(&base, &slower, TEN_PERCENT);
        assert_eq!(comparison.verdict, Verdict::Worse);
        assert_eq!(comparison.verdict.exit_code(), 2);
        assert_eq!(change_of(&comparison, "accept.p50"), Some(Change::Worse));
        assert_eq!(change_of(&comparison, "accept.max"), None);
        let back = compare(&slower, &base, TEN_PERCENT);
        assert_eq!(
            (back.verdict, back.verdict.exit_code()),
            (Verdict::Better, 0)
        );
        let lenient = compare(&base, &slower, "25%".parse().unwrap());
        assert_eq!(lenient.verdict, Verdict::Same);
    }

    #[test]
    fn differences_finer_than_the_clock_are_none() {
        let (mut base, mut slower) = (sample::run(), sample::run());
        base.latency.accept_corrected.summary.p50_ms = Some(0.2);
        slower.latency.accept_corrected.summary.p50_ms = Some(0.29);
        assert_eq!(compare(&base, &slower, TEN_PERCENT).verdict, Verdict::Same);
    }

    #[test]
    fn a_percentile_of_too_few_values_is_not_judged() {
        let (mut base, mut slower) = (sample::run(), sample::run());
        base.latency.visible.summary.count = 900;
        slower.latency.visible.summary.p99_ms = Some(1e6);
        slower.latency.visible.summary.p50_ms = base.latency.visible.summary.p50_ms;
        let comparison = compare(&base, &slower, TEN_PERCENT);
        assert_eq!(change_of(&comparison, "visible.p99"), None);
        assert_eq!(change_of(&comparison, "visible.p50"), Some(Change::Same));
    }

    #[test]
    fn one_lost_record_is_worse_whatever_the_threshold() {
        let base = sample::run();
        let mut lossy = sample::run();
        lossy.counts.lost = 1;
        let comparison = compare(&base, &lossy, "1000%".parse().unwrap());
        assert_eq!(comparison.verdict, Verdict::Worse);
        assert_eq!(change_of(&comparison, "lost"), Some(Change::Worse));
    }

    #[test]
    fn errors_rate_and_objectives_count() {
        let base = sample::run();
        let mut worse = sample::run();
        worse.counts.rejected += 2_000;
        worse.accepted_rate *= 0.8;
        worse.objectives[1].met = false;
        let comparison = compare(&base, &worse, TEN_PERCENT);
        for name in ["errors", "accepted", "missed: lost=0"] {
            assert_eq!(change_of(&comparison, name), Some(Change::Worse), "{name}");
        }
    }

    #[test]
    fn searches_are_compared_by_their_knees() {
        let base = sample::find_capacity();
        let mut lower = sample::find_capacity();
        lower.find_capacity.as_mut().unwrap().knee_rate = Some(50_000.0);
        lower.accepted_rate *= 3.0;
        let comparison = compare(&base, &lower, TEN_PERCENT);
        assert_eq!(comparison.verdict, Verdict::Worse);
        assert_eq!(change_of(&comparison, "knee"), Some(Change::Worse));
        lower.find_capacity.as_mut().unwrap().knee_rate = None;
        assert_eq!(compare(&base, &lower, TEN_PERCENT).verdict, Verdict::Worse);
    }

    #[test]
    fn an_invalid_run_proves_nothing() {
        let base = sample::run();
        let mut invalid = sample::run();
        invalid.generator.valid = false;
        invalid.generator.why = Some("it was 2.1 s behind".into());
        let comparison = compare(&base, &invalid, TEN_PERCENT);
        assert_eq!(comparison.verdict, Verdict::Invalid);
        assert_eq!(comparison.verdict.exit_code(), 3);
        assert_eq!(comparison.notes, ["B is invalid: it was 2.1 s behind"]);
    }

    #[test]
    fn different_loads_are_pointed_out() {
        let base = sample::run();
        let mut other = sample::run();
        other.load.connections = 8;
        other.interrupted = true;
        let notes = compare(&base, &other, TEN_PERCENT).notes;
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[0].contains("on 8 connections"), "{notes:?}");
    }

    #[test]
    fn a_threshold_wants_its_unit() {
        assert_eq!("10%".parse(), Ok(TEN_PERCENT));
        assert_eq!("2.5%".parse::<Threshold>().unwrap().to_string(), "2.5%");
        for wrong in ["10", "", "%", "-1%", "NaN%", "1e9%", "ten%"] {
            assert_eq!(wrong.parse::<Threshold>(), Err(ThresholdError), "{wrong}");
        }
    }

    #[test]
    fn a_run_with_couriers_is_compared_with_one_without() {
        let (without, with) = (sample::run(), sample::mixed());
        let threshold = "10%".parse().unwrap();
        let worse = compare(&without, &with, threshold);
        assert_eq!(worse.verdict, Verdict::Worse);
        assert!(worse.to_string().contains("couriers differing"), "{worse}");
        assert!(
            worse.notes[0].contains("20% commands to couriers"),
            "{worse}"
        );
        assert_eq!(compare(&with, &without, threshold).verdict, Verdict::Better);
        let same = compare(&without, &without, threshold).to_string();
        assert!(!same.contains("courier"), "{same}");
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("a.json");
        std::fs::write(&base, sample::run().to_json()).unwrap();
        let mut args = CompareArgs {
            base: base.clone(),
            candidate: base,
            threshold: TEN_PERCENT,
        };
        assert_eq!(run(&args).unwrap().verdict, Verdict::Same);
        args.candidate = directory.path().join("b.json");
        assert!(matches!(run(&args), Err(ReadError::Unreadable { .. })));
    }
}
