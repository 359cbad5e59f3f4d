//! The JSON of a run, `weir.loadtest.run`: what a run fills in, what every rendering reads, and
//! what a later version still has to read.
//!
//! Members may be added within a version, with `#[serde(default)]`; one that changes its meaning
//! or goes raises [`SCHEMA_VERSION`]. Latencies are in milliseconds, moments in seconds since
//! sending began, rates in records per second.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What `schema` says.
pub const SCHEMA: &str = "weir.loadtest.run";
/// What `schema_version` says.
pub const SCHEMA_VERSION: u32 = 1;
/// Records that one list of [`Discrepancies`] names at most; the counts are always whole. Enough
/// to see a pattern, and bounded however badly a run goes.
pub const DISCREPANCIES_LISTED_MAX: usize = 10_000;

/// Couriers that one list of [`Couriers`] names at most.
pub const COURIERS_LISTED_MAX: usize = 1_000;

/// A whole run.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct RunReport {
    /// [`SCHEMA`].
    pub schema: String,
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// How it ended, and why.
    pub verdict: Verdict,
    /// The process's exit code: 0 met, 2 missed, 3 invalid.
    pub exit_code: u8,
    /// Whether a signal cut it short.
    pub interrupted: bool,
    /// The command as typed, without keys.
    pub command: Vec<String>,
    /// What ran, where.
    pub versions: Versions,
    /// When sending began, RFC 3339 in UTC.
    pub started_at: String,
    /// What was asked for.
    pub load: Load,
    /// From the first intended send to the last answer, seconds.
    pub duration_seconds: f64,
    /// From the last answer to the last outcome, seconds.
    pub follow_seconds: f64,
    /// Records sent over `duration_seconds`.
    pub sent_rate: f64,
    /// Records accepted over `duration_seconds`.
    pub accepted_rate: f64,
    /// The books, closed.
    pub counts: Counts,
    /// The records that do not add up.
    pub discrepancies: Discrepancies,
    /// What went wrong, by kind.
    pub errors: Errors,
    /// Answers by HTTP status.
    pub http_statuses: BTreeMap<u16, u64>,
    /// How long things took.
    pub latency: Latency,
    /// Whether the generator kept its own schedule.
    pub generator: Generator,
    /// What was demanded, and what came of it.
    pub objectives: Vec<Objective>,
    /// What `--at` did on the way.
    pub actions: Vec<Action>,
    /// Of a mix with couriers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub couriers: Option<Couriers>,
    /// Of `--profile find-capacity`.
    pub find_capacity: Option<FindCapacity>,
    /// Second by second, in order, without gaps.
    pub series: Vec<Second>,
}

/// How a run ended.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Verdict {
    /// In one word.
    pub outcome: Outcome,
    /// In sentences; empty when all is well.
    pub reasons: Vec<String>,
}

/// The one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Every objective was met and every record is accounted for.
    #[default]
    Met,
    /// An objective was missed, or the books do not balance.
    Missed,
    /// The generator fell behind its own schedule: the figures say nothing about the target.
    Invalid,
}

/// What ran, where.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Versions {
    /// This program's.
    pub loadtest: String,
    /// Operating system and its release.
    pub os: String,
    /// Architecture and number of cores.
    pub machine: String,
    /// The services' own word (`weir_build_info`), by the server's name.
    pub services: BTreeMap<String, String>,
}

/// What was asked for.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Load {
    /// `steady`, `ramp 100:1000`, `burst`, ...
    pub profile: String,
    /// Of the generator.
    pub seed: u64,
    /// Base URLs.
    pub targets: Vec<String>,
    /// Records per second; `None` for the closed model.
    pub target_rate: Option<f64>,
    /// Requests in flight of the closed model.
    pub closed: Option<u64>,
    /// Seconds asked for.
    pub target_seconds: Option<f64>,
    /// Connections in the pool.
    pub connections: u64,
    /// `1.1` or `2`.
    pub http_version: String,
    /// `single`, `array` or `ndjson`.
    pub body: String,
    /// Records per request.
    pub batch_records: u64,
    /// Kinds and their shares, `rides` -> 1.
    pub mix: BTreeMap<String, f64>,
    /// Partners the load is spread over.
    pub partners: u64,
    /// Share of records sent twice on purpose.
    pub duplicates_share: f64,
    /// Share of records spoiled on purpose.
    pub bad_share: f64,
}

/// The books, in records. `sent = accepted + rejected + unanswered`; `accepted = persisted +
/// duplicate + failed + lost + unsettled`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Due by the schedule.
    pub intended: u64,
    /// Sent.
    pub sent: u64,
    /// With an answer of any kind.
    pub answered: u64,
    /// With a tracking id.
    pub accepted: u64,
    /// Refused at the door.
    pub rejected: u64,
    /// Nobody knows whether they were stored.
    pub unanswered: u64,
    /// Accepted and stored.
    pub persisted: u64,
    /// Accepted and there already.
    pub duplicate: u64,
    /// Accepted and not storable.
    pub failed: u64,
    /// Accepted and no longer known.
    pub lost: u64,
    /// Accepted and without an outcome when patience ended.
    pub unsettled: u64,
    /// What became two.
    pub doubled: u64,
    /// Unanswered, yet stored; not part of `persisted`.
    pub unanswered_persisted: u64,
    /// Spoiled on purpose and sent.
    pub bad_sent: u64,
    /// Spoiled on purpose, yet accepted.
    pub bad_accepted: u64,
    /// Sent twice on purpose.
    pub duplicates_sent: u64,
    /// Ended `duplicate` though they were sent once.
    pub unexpected_duplicates: u64,
}

/// The records that do not add up, at most [`DISCREPANCIES_LISTED_MAX`] in each list.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Discrepancies {
    /// Accepted and no longer known.
    pub lost: Vec<Record>,
    /// Accepted and without an outcome.
    pub unsettled: Vec<Record>,
    /// What became two.
    pub doubled: Vec<Doubled>,
    /// Ended `duplicate` though they were sent once.
    pub unexpected_duplicates: Vec<Record>,
}

/// One record that got a tracking id.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// Its place in what the seed generates, from 0.
    pub index: u64,
    /// The ride's id.
    pub id: Option<i64>,
    /// The courier's id, of a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub courier_id: Option<String>,
    /// The id that was given out.
    pub tracking_id: Uuid,
    /// When it was sent.
    pub sent_at_seconds: f64,
}

/// Something that exists twice, or that nobody sent.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Doubled {
    /// In which way: `id-given-twice`, `created-twice`, ...
    pub kind: String,
    /// The records concerned, by their place in what the seed generates.
    pub indexes: Vec<u64>,
    /// The tracking ids concerned.
    pub tracking_ids: Vec<Uuid>,
}

/// The couriers, and whether they are what their commands make them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Couriers {
    /// Created before sending began, of all partners.
    pub fleet: u64,
    /// Accepted commands that have their outcome, by the command's name.
    pub commands: BTreeMap<String, CommandCounts>,
    /// By persisted pickups.
    pub litres_picked_up: u64,
    /// By persisted dropoffs.
    pub litres_dropped_off: u64,
    /// Available in the end, of all couriers checked.
    pub litres_available: i64,
    /// The same as the persisted commands add up to; less what `unanswered_persisted` changed.
    pub litres_expected: i64,
    /// Couriers whose capacity and version were held against their persisted commands.
    pub checked: u64,
    /// Of these, how many have another one.
    pub differing: u64,
    /// Couriers that were not checked.
    pub unchecked: u64,
    /// Why not.
    pub unchecked_why: Option<String>,
    /// Commands that were refused for good or failed though they were valid in any order;
    /// `expired` is not among them.
    pub refused: u64,
    /// Unanswered commands that took effect, as the versions show.
    pub unanswered_persisted: u64,
    /// At most [`COURIERS_LISTED_MAX`].
    pub differences: Vec<CourierDifference>,
    /// Likewise.
    pub refusals: Vec<CourierRefusal>,
}

/// What became of accepted commands of one name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the outcomes' own words")]
pub struct CommandCounts {
    pub accepted: u64,
    pub persisted: u64,
    pub duplicate: u64,
    pub failed: u64,
}

/// A courier that is not what its persisted commands make it; nothing where it is gone.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the members' names say it")]
pub struct CourierDifference {
    pub courier_id: String,
    pub expected_available: Option<i64>,
    pub available: Option<i64>,
    pub expected_version: Option<i64>,
    pub version: Option<i64>,
}

/// A command that was meant to be valid and was not taken.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CourierRefusal {
    /// Its place in what the seed generates, from 0.
    pub index: u64,
    /// Its name.
    pub command: String,
    /// Whom it was for.
    pub courier_id: String,
    /// The problem's code, or the failure's.
    pub code: String,
    /// `None` if it was refused at the door.
    pub tracking_id: Option<Uuid>,
}

/// What went wrong, by kind, in records (`exchange`: in requests).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Errors {
    /// Refused at the door, by problem code; what was spoiled on purpose is not among them.
    pub rejected: BTreeMap<String, u64>,
    /// Unanswered, by reason.
    pub unanswered: BTreeMap<String, u64>,
    /// Failed, by outcome code.
    pub failed: BTreeMap<String, u64>,
    /// Requests without a whole answer, by reason: `connect`, `timeout`, `closed`, ...
    pub exchange: BTreeMap<String, u64>,
}

/// How long things took.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Requests answered 202, from the moment they were due.
    pub accept_corrected: Distribution,
    /// The same from the moment they went out: hides what waited behind a stall.
    pub accept_uncorrected: Distribution,
    /// Requests answered otherwise or not at all, from the moment they were due.
    pub failed_corrected: Distribution,
    /// Records, from the moment they were due to the moment their outcome was visible.
    pub visible: Distribution,
}

/// One distribution of durations.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Distribution {
    /// What is said about it.
    pub summary: Summary,
    /// All of it: `[highest value of the bucket in microseconds, count]`, ascending, without empty
    /// buckets.
    pub histogram: Vec<(u64, u64)>,
}

/// What is said about a distribution, in milliseconds; all `null` when nothing was measured.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "pN: N of 100 took no longer")]
pub struct Summary {
    /// How many were measured.
    pub count: u64,
    pub min_ms: Option<f64>,
    pub mean_ms: Option<f64>,
    pub p50_ms: Option<f64>,
    pub p75_ms: Option<f64>,
    pub p90_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub p99_9_ms: Option<f64>,
    pub p99_99_ms: Option<f64>,
    pub max_ms: Option<f64>,
}

/// Whether the generator kept its own schedule.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Generator {
    /// Whether the figures can be trusted.
    pub valid: bool,
    /// Why not.
    pub why: Option<String>,
    /// The most a request went out after it was due although a connection was free.
    pub behind_max_ms: f64,
    /// Share of requests that went out late by more than the tolerance.
    pub behind_share: f64,
    /// Share of the machine's processor time that this program took, 0 to 1.
    pub cpu_share: Option<f64>,
}

/// One `--slo`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Objective {
    /// As typed: `accept.p99<10ms`.
    pub text: String,
    /// `accept.p99`.
    pub metric: String,
    /// `<`, `<=`, `=`, `>=` or `>`.
    pub op: String,
    /// In the metric's unit: milliseconds, a share, or a count.
    pub limit: f64,
    /// What was measured; `None` if there was nothing to measure.
    pub actual: Option<f64>,
    /// Whether it was met.
    pub met: bool,
}

/// One `--at`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Action {
    /// When it was to happen.
    pub at_seconds: f64,
    /// As typed: `freeze nats 5s`.
    pub text: String,
    /// When it had been done; of a freeze, when it was over. `None`: the run ended before.
    pub done_at_seconds: Option<f64>,
    /// Why it could not be done.
    pub error: Option<String>,
}

/// The search for the highest rate that keeps the objectives.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct FindCapacity {
    /// In the order they were tried.
    pub steps: Vec<CapacityStep>,
    /// The highest rate that kept them; `None` if none did.
    pub knee_rate: Option<f64>,
    /// Whether the knee is the generator's own limit and not the target's.
    pub limited_by_generator: bool,
}

/// One rate that was tried.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct CapacityStep {
    /// Records per second asked for.
    pub rate: f64,
    /// Records per second accepted.
    pub accepted_rate: f64,
    /// When it began.
    pub from_seconds: f64,
    /// When it ended.
    pub to_seconds: f64,
    /// Of requests accepted in it, from the moment they were due.
    pub accept_p50_ms: Option<f64>,
    /// Likewise.
    pub accept_p99_ms: Option<f64>,
    /// Share of records rejected or unanswered.
    pub error_share: f64,
    /// Whether the objectives were kept.
    pub kept: bool,
    /// Why not.
    pub why: Option<String>,
}

/// One second of the run. What was sent in it counts in it, whenever the answer came; `answered`
/// and what follows counts when the answer came.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Second {
    /// From 0.
    pub second: u64,
    /// Records due in it.
    pub intended: u64,
    /// Records that went out in it.
    pub sent: u64,
    /// Records accepted in it.
    pub accepted: u64,
    /// Records refused in it.
    pub rejected: u64,
    /// Records given up in it.
    pub unanswered: u64,
    /// Errors in it, by kind: problem codes and reasons together.
    pub errors: BTreeMap<String, u64>,
    /// Requests in flight at its end.
    pub in_flight: u64,
    /// Of requests accepted in it, from the moment they were due.
    pub corrected: Option<Quick>,
    /// The same from the moment they went out.
    pub uncorrected: Option<Quick>,
    /// Records whose outcome became visible in it.
    pub persisted: Option<u64>,
    /// How far persisting lags behind accepting at its end.
    pub delay_ms: Option<f64>,
    /// The most the generator was behind in it.
    pub behind_ms: f64,
    /// Cores this program used in it.
    pub generator_cpu_cores: Option<f64>,
    /// The servers' own use of resources.
    pub servers: Vec<ServerUse>,
}

/// The few percentiles of one second, in milliseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "pN: N of 100 took no longer")]
pub struct Quick {
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// What one server used in one second.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ServerUse {
    /// `gateway`, `worker`, `nats`, ... with a number if there are several.
    pub name: String,
    /// Cores in use, 1.0 being one of them wholly.
    pub cpu_cores: Option<f64>,
    /// Resident memory.
    pub rss_bytes: Option<u64>,
}
