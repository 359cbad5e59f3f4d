//! The flags of `replay`, and what follows from them and `.weir/endpoints.json`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chassis::cli::exit_usage;
use chassis::units::parse_duration;
use clap::Args;
use http::header::HeaderValue;
use jiff::tz::TimeZone;

use super::file::{Format, Reading, Rows};
use super::follow::Following;
use super::push::{BodyKind, Plan, SendMethod};
use crate::base_url::BaseUrl;
use crate::endpoints::{self, ENDPOINTS_FILE, Endpoints};

/// Flags of `loadtest replay`.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct ReplayArgs {
    /// Recorded rides, CSV with a header line or NDJSON; or commands to couriers, NDJSON of
    /// {"command":...,"courier_id":...,...}
    pub file: PathBuf,

    /// Gateways' base URLs, comma-separated; requests go to all of them in turn [default: from
    /// .weir/endpoints.json]
    #[arg(long, env = "WEIR_URL", value_delimiter = ',', value_name = "URL")]
    pub url: Vec<BaseUrl>,

    /// Status APIs' base URLs, comma-separated [default: from .weir/endpoints.json]
    #[arg(
        long,
        env = "WEIR_STATUS_URL",
        value_delimiter = ',',
        value_name = "URL"
    )]
    pub status_url: Vec<BaseUrl>,

    /// API key to send and to ask with [default: the first partner's in .weir/endpoints.json]
    #[arg(long, env = "WEIR_KEY", hide_env_values = true)]
    pub key: Option<String>,

    /// How the file is written [default: by its extension: .csv, .ndjson or .jsonl]
    #[arg(long, env = "WEIR_FORMAT", value_enum)]
    pub format: Option<Format>,

    /// Time zone of a CSV file's dates that name none, such as Asia/Kolkata; a date without time
    /// means midnight there
    #[arg(long, env = "WEIR_TIME_ZONE", default_value = "UTC", value_parser = parse_zone)]
    pub time_zone: TimeZone,

    /// Only the first so many rows [default: all]
    #[arg(long, env = "WEIR_LIMIT", value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,

    /// How rides are written: post creates, put creates or replaces
    #[arg(long, env = "WEIR_METHOD", value_enum, default_value_t = SendMethod::Post)]
    pub method: SendMethod,

    /// Rows in one request, 1 to 10000; 1 sends single objects [default: 100, with put 1]
    #[arg(long, env = "WEIR_BATCH", value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: Option<u32>,

    /// How several rows share a body
    #[arg(long, env = "WEIR_BODY", value_enum, default_value_t = BodyKind::Ndjson)]
    pub body: BodyKind,

    /// Requests under way at a time, 1 to 10000; with 1 rows arrive in the file's order [default:
    /// 16; of commands to couriers 1]
    #[arg(long, env = "WEIR_CONCURRENCY", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub concurrency: Option<u32>,

    /// Rows sent a second, over all connections; latency then counts from when a request was due
    /// [default: as fast as answers come]
    #[arg(long, env = "WEIR_RATE", value_name = "ROWS_PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,

    /// How often a row that was refused for now or left unanswered is sent again
    #[arg(long, env = "WEIR_RETRY", value_name = "TIMES", default_value = "0", value_parser = clap::value_parser!(u32).range(..=1_000))]
    pub retry: u32,

    /// How long to wait for an answer, and for any gateway to be reachable, before rows count as
    /// unanswered
    #[arg(long, env = "WEIR_TIMEOUT", default_value = "30s", value_parser = parse_duration)]
    pub timeout: Duration,

    /// How long to follow ids after the last answer before they count as unsettled
    #[arg(long, env = "WEIR_SETTLE_TIMEOUT", default_value = "120s", value_parser = parse_duration)]
    pub settle_timeout: Duration,

    /// Write the result as JSON; the file is replaced whole
    #[arg(long, env = "WEIR_JSON", value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write what became of each row as NDJSON: line, id, tracking_id, status, code
    #[arg(long, env = "WEIR_OUTCOMES", value_name = "FILE")]
    pub outcomes: Option<PathBuf>,
}

const AFTER_HELP: &str = "\
Accounts for every row: sent = accepted + rejected + unanswered, and accepted = persisted + \
duplicate + failed, as sets of ids. Rejected, unanswered and failed rows are counted and named; \
they do not keep it from adding up.

Couriers: of a file that creates its couriers, sent one request at a time, each courier must have the \
capacity and the version in the end that the accepted commands come to in the file's order. A courier of \
which that cannot be said is named with the reason.

CSV columns that Weir knows become numbers, booleans and instants; NULL, or nothing, is null; any \
other column is sent as the text it is. All rows are checked before the first is sent.

Exit codes: 0 it adds up; 1 it could not run or was interrupted; 2 it does not add up (a record \
lost, unsettled or doubled, or a courier that is not what its commands come to); 64 wrong usage.";

fn parse_zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| "no such time zone; write it like Asia/Kolkata".to_owned())
}

/// Flags with their defaults in place and found to fit each other.
pub(crate) struct Settings {
    pub(crate) reading: Reading,
    gateways: Vec<Arc<BaseUrl>>,
    status: Vec<Arc<BaseUrl>>,
    authorization: HeaderValue,
    method: SendMethod,
    body: BodyKind,
    batch: u32,
    concurrency: Option<u32>,
    rate: Option<u32>,
    retry: u32,
    timeout: Duration,
    settle_timeout: Duration,
}

impl ReplayArgs {
    /// Fills in what was left out; leaves with 64 and names all that is missing or wrong.
    pub(crate) fn settle(&self) -> Settings {
        let mut faults = Vec::new();
        let (url, status_url, key) = self.servers(&mut faults);
        let batch = match (self.method, self.batch) {
            (SendMethod::Put, Some(2..)) => {
                faults.push("--method put sends one row a request: leave --batch out".to_owned());
                1
            }
            (SendMethod::Put, _) => 1,
            (SendMethod::Post, batch) => batch.unwrap_or(100),
        };
        if self.json.is_some() && self.json == self.outcomes {
            faults.push("--json and --outcomes name the same file".to_owned());
        }
        let authorization = HeaderValue::from_str(&format!("Bearer {key}"));
        if authorization.is_err() {
            faults.push("--key holds characters that no header can carry".to_owned());
        }
        let (true, Ok(mut authorization)) = (faults.is_empty(), authorization) else {
            exit_usage(faults.join("\nerror: "))
        };
        authorization.set_sensitive(true);
        Settings {
            reading: Reading {
                format: self.format,
                zone: self.time_zone.clone(),
                limit: self.limit,
                needs_id: self.method == SendMethod::Put,
            },
            gateways: url.into_iter().map(Arc::new).collect(),
            status: status_url.into_iter().map(Arc::new).collect(),
            authorization,
            method: self.method,
            body: self.body,
            batch,
            concurrency: self.concurrency,
            rate: self.rate,
            retry: self.retry,
            timeout: self.timeout,
            settle_timeout: self.settle_timeout,
        }
    }

    fn servers(&self, faults: &mut Vec<String>) -> (Vec<BaseUrl>, Vec<BaseUrl>, String) {
        let mut url = self.url.clone();
        let mut status_url = self.status_url.clone();
        let mut key = self.key.clone();
        if url.is_empty() || status_url.is_empty() || key.is_none() {
            match found() {
                Ok(found) => {
                    if url.is_empty() {
                        url = parse_all(&found.gateway, faults);
                    }
                    if status_url.is_empty() {
                        status_url = parse_all(&found.status, faults);
                    }
                    key = key.or_else(|| Some(found.partners.first()?.api_key.clone()));
                }
                Err(why) => {
                    let missing = [
                        (url.is_empty(), "--url"),
                        (status_url.is_empty(), "--status-url"),
                        (key.is_none(), "--key"),
                    ];
                    let missing: Vec<_> = missing
                        .iter()
                        .filter_map(|(missing, flag)| missing.then_some(*flag))
                        .collect();
                    faults.push(format!(
                        "{} not given, and {why}; start `cargo weir up` or name them",
                        missing.join(", ")
                    ));
                    return (url, status_url, key.unwrap_or_default());
                }
            }
        }
        for (missing, flag, member) in [
            (url.is_empty(), "--url", "gateway"),
            (status_url.is_empty(), "--status-url", "status API"),
            (key.is_none(), "--key", "partner"),
        ] {
            if missing {
                faults.push(format!(
                    "{flag} not given, and {ENDPOINTS_FILE} names no {member}"
                ));
            }
        }
        (url, status_url, key.unwrap_or_default())
    }
}

fn found() -> Result<Endpoints, String> {
    let here = std::env::current_dir().map_err(|error| error.to_string())?;
    endpoints::find(&here).map_err(|error| error.to_string())
}

fn parse_all(urls: &[String], faults: &mut Vec<String>) -> Vec<BaseUrl> {
    let mut parsed = Vec::new();
    for url in urls {
        match url.parse() {
            Ok(url) => parsed.push(url),
            Err(why) => faults.push(format!("{ENDPOINTS_FILE}: {url:?}: {why}")),
        }
    }
    parsed
}

impl Settings {
    pub(crate) fn plan(self, rows: Rows) -> (Arc<Plan>, Following) {
        let following = Following {
            status: self.status,
            authorization: self.authorization.clone(),
            timeout: self.timeout,
            settle_timeout: self.settle_timeout,
        };
        // Order matters to commands, and what they come to is compared with the file's order.
        let default = if rows.are_commands() { 1 } else { 16 };
        let size = |number: u32| usize::try_from(number).expect("at most 10,000");
        let plan = Plan {
            rows,
            gateways: self.gateways,
            authorization: self.authorization,
            method: self.method,
            body: self.body,
            batch: size(self.batch),
            concurrency: size(self.concurrency.unwrap_or(default)),
            rate: self.rate,
            timeout: self.timeout,
            retry: self.retry,
        };
        (Arc::new(plan), following)
    }
}
