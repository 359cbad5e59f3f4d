//! What a replay says in the end: for people on stdout, for programs as JSON, and every record's
//! outcome as NDJSON.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write as _};
use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::answer::ItemAnswer;
use super::couriers::CourierCheck;
use super::file::{RowId, Rows};
use super::follow::Followed;
use super::push::Pushed;
use super::reconcile::{DoubledKind, Missing, Outcome, Reconciliation, Status};
use crate::latency::Percentiles;

/// Version of the JSON written by `--json`; raised when a member changes its meaning or goes.
pub const REPORT_VERSION: u32 = 1;

/// Ids listed in the text; the JSON has all.
const LISTED: usize = 10;

/// The result of a replay, as `--json` writes it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Always `weir.loadtest.replay`.
    pub schema: &'static str,
    /// [`REPORT_VERSION`].
    pub schema_version: u32,
    /// The file that was replayed.
    pub file: PathBuf,
    /// When sending began, RFC 3339.
    pub started_at: String,
    /// Whether every accepted record is accounted for exactly once.
    pub adds_up: bool,
    /// Whether a signal cut it short: then not every row was sent.
    pub interrupted: bool,
    /// Rows in the file (within `--limit`).
    pub rows: u64,
    /// Rows sent; = accepted + rejected + unanswered.
    pub sent: u64,
    /// Rows that got a tracking id; = persisted + duplicate + failed, if nothing is lost.
    pub accepted: u64,
    /// Rows refused at the door.
    pub rejected: u64,
    /// Rows of which nobody knows whether they were stored.
    pub unanswered: u64,
    /// Rows sent again by `--retry`.
    pub resent: u64,
    /// The same by what was answered before.
    pub resent_by_code: BTreeMap<String, u64>,
    /// Accepted records that were stored.
    pub persisted: u64,
    /// Of these, how many created their resource.
    pub created: u64,
    /// Of these, how many replaced it.
    pub replaced: u64,
    /// Accepted records that were there already.
    pub duplicate: u64,
    /// Accepted records that could not be stored.
    pub failed: u64,
    /// Accepted records that the system no longer knows.
    pub lost: usize,
    /// Accepted records without an outcome when patience ended.
    pub unsettled: usize,
    /// How often something became two.
    pub doubled: usize,
    /// Which ones are lost.
    pub lost_ids: Vec<MissingId>,
    /// Which ones are unsettled.
    pub unsettled_ids: Vec<MissingId>,
    /// What became two.
    pub doubled_ids: Vec<DoubledIds>,
    /// How often an answer said what cannot be true.
    pub contradictions: u64,
    /// The first hundred of them.
    pub contradictions_first: Vec<String>,
    /// Refused rows by problem code.
    pub rejected_by_code: BTreeMap<String, u64>,
    /// Unanswered rows by reason.
    pub unanswered_by_code: BTreeMap<String, u64>,
    /// Failed records by outcome code.
    pub failed_by_code: BTreeMap<String, u64>,
    /// Gateways' answers by HTTP status.
    pub http_statuses: BTreeMap<u16, u64>,
    /// Requests without a whole answer, by reason.
    pub exchange_errors: BTreeMap<&'static str, u64>,
    /// From the first request to the last answer, seconds.
    pub push_seconds: f64,
    /// Accepted records over `push_seconds`.
    pub accepted_per_second: f64,
    /// From the last answer to the last outcome, seconds.
    pub follow_seconds: f64,
    /// Of requests answered 202; with `--rate` from the moment they were due.
    pub accept_latency: Percentiles,
    /// Of requests answered otherwise.
    pub refuse_latency: Percentiles,
    /// From acceptance to outcome, by the services' clocks.
    pub time_to_settle: Percentiles,
    /// Ids that the status API denied for a while and then knew.
    pub unknown_then_settled: u64,
    /// Look-ups repeated because the status API or its database was away.
    pub lookups_repeated: u64,
    /// Why following ended early.
    pub follow_refused: Option<String>,
    /// Of commands to couriers: whether each courier is what they come to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub couriers: Option<CourierCheck>,
}

/// An id that is not accounted for.
#[derive(Debug, Serialize)]
pub struct MissingId {
    /// Line of the file.
    pub line: u64,
    /// The ride's or courier's id, where the row has one.
    pub id: Option<RowId>,
    /// The id that was given out.
    pub tracking_id: Uuid,
}

/// Something that became two.
#[derive(Debug, Serialize)]
pub struct DoubledIds {
    /// In which way.
    pub kind: DoubledKind,
    /// Lines of the file.
    pub lines: Vec<u64>,
    /// The ids concerned.
    pub tracking_ids: Vec<Uuid>,
}

/// Where and when it all took place.
pub(crate) struct Setting<'a> {
    pub(crate) file: &'a Path,
    pub(crate) started_at: Timestamp,
    pub(crate) interrupted: bool,
}

impl Report {
    pub(crate) fn new(
        setting: &Setting<'_>,
        rows: &Rows,
        pushed: &Pushed,
        followed: &Followed,
        books: Reconciliation,
        couriers: Option<CourierCheck>,
    ) -> Self {
        let couriers_agree = couriers.as_ref().is_none_or(CourierCheck::agrees);
        let contradictions = pushed.contradictions.total + followed.contradictions.total;
        let push_seconds = pushed.elapsed.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a throughput need not be exact")]
        let accepted_per_second = books.accepted as f64 / push_seconds.max(1e-9);
        let missing = |it: &Missing| MissingId {
            line: rows.line(it.item),
            id: rows.id(it.item).cloned(),
            tracking_id: it.tracking_id,
        };
        Self {
            schema: "weir.loadtest.replay",
            schema_version: REPORT_VERSION,
            file: setting.file.to_owned(),
            started_at: setting.started_at.to_string(),
            adds_up: books.adds_up()
                && contradictions == 0
                && followed.refused.is_none()
                && couriers_agree,
            interrupted: setting.interrupted,
            rows: rows.len() as u64,
            sent: books.sent,
            accepted: books.accepted,
            rejected: books.rejected,
            unanswered: books.unanswered,
            resent: pushed.resent_by_code.values().sum(),
            resent_by_code: pushed.resent_by_code.clone(),
            persisted: books.persisted,
            created: followed.created,
            replaced: followed.replaced,
            duplicate: books.duplicate,
            failed: books.failed,
            lost: books.lost.len(),
            unsettled: books.unsettled.len(),
            doubled: books.doubled.len(),
            lost_ids: books.lost.iter().map(missing).collect(),
            unsettled_ids: books.unsettled.iter().map(missing).collect(),
            doubled_ids: books
                .doubled
                .into_iter()
                .map(|it| DoubledIds {
                    kind: it.kind,
                    lines: it.items.iter().map(|item| rows.line(*item)).collect(),
                    tracking_ids: it.tracking_ids,
                })
                .collect(),
            contradictions,
            contradictions_first: [
                pushed.contradictions.first.as_slice(),
                followed.contradictions.first.as_slice(),
            ]
            .concat(),
            rejected_by_code: books.rejected_by_code,
            unanswered_by_code: books.unanswered_by_code,
            failed_by_code: books.failed_by_code,
            http_statuses: pushed.http_statuses.clone(),
            exchange_errors: pushed.exchange_errors.clone(),
            push_seconds,
            accepted_per_second,
            follow_seconds: followed.elapsed.as_secs_f64(),
            accept_latency: pushed.accept_latency.percentiles(),
            refuse_latency: pushed.refuse_latency.percentiles(),
            time_to_settle: followed.time_to_settle.percentiles(),
            unknown_then_settled: followed.unknown_then_settled,
            lookups_repeated: followed.lookups_repeated,
            follow_refused: followed.refused.clone(),
            couriers,
        }
    }

    fn verdict(&self) -> String {
        let mut words = match (self.adds_up, self.interrupted) {
            (true, false) => "ADDS UP: every accepted record is accounted for exactly once".into(),
            (true, true) => "INTERRUPTED; what was sent adds up".to_owned(),
            (false, _) => "DOES NOT ADD UP".to_owned(),
        };
        let notes = [
            (self.rejected, "rejected"),
            (self.unanswered, "unanswered"),
            (self.failed, "failed"),
        ];
        for (count, name) in notes.into_iter().filter(|(count, _)| *count > 0) {
            write!(words, "; BUT {count} {name}").expect("writing to a String cannot fail");
        }
        words
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sent = (self.sent, self.accepted, self.rejected, self.unanswered);
        let ended = (self.accepted, self.persisted, self.duplicate, self.failed);
        writeln!(f, "replayed    {}", self.file.display())?;
        writeln!(
            f,
            "sent        {} = {} accepted + {} rejected + {} unanswered{}",
            sent.0,
            sent.1,
            sent.2,
            sent.3,
            match self.rows - self.sent {
                0 => String::new(),
                rest => format!("   ({rest} rows not sent)"),
            }
        )?;
        write!(
            f,
            "accepted    {} = {} persisted + {} duplicate + {} failed",
            ended.0, ended.1, ended.2, ended.3
        )?;
        for (count, name) in [(self.lost, "lost"), (self.unsettled, "unsettled")] {
            if count > 0 {
                write!(f, " + {count} {name}")?;
            }
        }
        writeln!(
            f,
            "\nlost {} · unsettled {} · doubled {} · contradictions {}",
            self.lost, self.unsettled, self.doubled, self.contradictions
        )?;
        self.write_lists(f)?;
        if let Some(couriers) = &self.couriers {
            write!(f, "{couriers}")?;
        }
        self.write_tables(f)?;
        self.write_times(f)?;
        write!(f, "{}", self.verdict())
    }
}

impl Report {
    fn write_lists(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (ids, name) in [(&self.lost_ids, "lost"), (&self.unsettled_ids, "unsettled")] {
            for it in ids.iter().take(LISTED) {
                let id = it.id.as_ref();
                let id = id.map_or_else(|| "no id".to_owned(), ToString::to_string);
                writeln!(f, "  {name}: line {} ({id}) {}", it.line, it.tracking_id)?;
            }
            more(f, ids.len(), name)?;
        }
        for it in self.doubled_ids.iter().take(LISTED) {
            let kind = serde_json::to_value(it.kind).unwrap_or_default();
            writeln!(
                f,
                "  doubled: {} lines {:?} ids {}",
                kind.as_str().unwrap_or_default(),
                it.lines,
                it.tracking_ids
                    .iter()
                    .map(Uuid::to_string)
                    .collect::<Vec<_>>()
                    .join(" ")
            )?;
        }
        more(f, self.doubled, "doubled")?;
        for what in self.contradictions_first.iter().take(LISTED) {
            writeln!(f, "  contradiction: {what}")?;
        }
        if let Some(why) = &self.follow_refused {
            writeln!(f, "  the ids could not be followed: {why}")?;
        }
        Ok(())
    }

    fn write_tables(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        table(f, "rejected", &self.rejected_by_code)?;
        table(f, "unanswered", &self.unanswered_by_code)?;
        table(f, "sent again", &self.resent_by_code)?;
        table(f, "failed", &self.failed_by_code)?;
        table(f, "http status", &self.http_statuses)?;
        table(f, "no answer", &self.exchange_errors)?;
        let persisted = [("created", self.created), ("replaced", self.replaced)];
        table(f, "persisted", &BTreeMap::from(persisted))?;
        for (count, what) in [
            (
                self.unknown_then_settled,
                "ids were UNKNOWN to the status API for a while, which no accepted id should be",
            ),
            (
                self.lookups_repeated,
                "look-ups were repeated because the status API or its database was away",
            ),
        ] {
            if count > 0 {
                writeln!(f, "note        {count} {what}")?;
            }
        }
        Ok(())
    }

    fn write_times(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "pushed in   {:.2} s, {:.0} records/s accepted; followed for {:.2} s",
            self.push_seconds, self.accepted_per_second, self.follow_seconds
        )?;
        for (name, times) in [
            ("accept     ", &self.accept_latency),
            ("refuse     ", &self.refuse_latency),
            ("settle     ", &self.time_to_settle),
        ] {
            if let (Some(p50), Some(p99), Some(max)) = (times.p50_ms, times.p99_ms, times.max_ms) {
                writeln!(
                    f,
                    "{name} p50 {p50:.1} ms · p99 {p99:.1} ms · max {max:.1} ms"
                )?;
            }
        }
        Ok(())
    }
}

fn more(f: &mut fmt::Formatter<'_>, count: usize, name: &str) -> fmt::Result {
    match count.saturating_sub(LISTED) {
        0 => Ok(()),
        rest => writeln!(f, "  and {rest} more {name}: --json FILE has all"),
    }
}

fn table<K: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    counts: &BTreeMap<K, u64>,
) -> fmt::Result {
    let cells: Vec<_> = counts
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(key, count)| format!("{key} x {count}"))
        .collect();
    if cells.is_empty() {
        return Ok(());
    }
    writeln!(f, "{name:<11} {}", cells.join(" · "))
}

/// One line of `--outcomes`.
#[derive(Serialize)]
struct OutcomeLine<'a> {
    line: u64,
    id: Option<&'a RowId>,
    tracking_id: Option<Uuid>,
    status: &'a str,
    code: Option<&'a str>,
}

/// Writes what became of each row, in the file's order; a row with two tracking ids has two lines.
pub(crate) fn write_outcomes(
    writer: &mut dyn Write,
    rows: &Rows,
    answers: &[(usize, ItemAnswer)],
    outcomes: &[Outcome],
) -> std::io::Result<()> {
    let ended: HashMap<Uuid, &Outcome> = outcomes.iter().map(|it| (it.tracking_id, it)).collect();
    let mut of_row: BTreeMap<usize, Vec<&ItemAnswer>> = BTreeMap::new();
    for (row, answer) in answers {
        let answers = of_row.entry(*row).or_default();
        // An earlier refusal of a row that was sent again is history.
        answers.retain(|earlier| matches!(earlier, ItemAnswer::Accepted(_)));
        let accepted = matches!(answer, ItemAnswer::Accepted(_));
        if answers.is_empty() || (accepted && !answers.contains(&answer)) {
            answers.push(answer);
        }
    }
    for (row, answers) in of_row {
        for answer in answers {
            let (tracking_id, status, code) = match answer {
                ItemAnswer::Rejected { code, .. } => (None, "rejected", Some(code.as_str())),
                ItemAnswer::Unanswered { code } => (None, "unanswered", Some(code.as_str())),
                ItemAnswer::Accepted(id) => {
                    let outcome = ended.get(id);
                    let code = outcome.and_then(|it| it.code.as_deref());
                    (Some(*id), word(outcome.map(|it| it.status)), code)
                }
            };
            let line = OutcomeLine {
                line: rows.line(row),
                id: rows.id(row),
                tracking_id,
                status,
                code,
            };
            serde_json::to_writer(&mut *writer, &line)?;
            writer.write_all(b"\n")?;
        }
    }
    Ok(())
}

fn word(status: Option<Status>) -> &'static str {
    match status {
        Some(Status::Persisted) => "persisted",
        Some(Status::Duplicate) => "duplicate",
        Some(Status::Failed) => "failed",
        Some(Status::Unknown) => "lost",
        None => "unsettled",
    }
}
