//! `weir bench`: how much this machine takes, with everything running on it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use chassis::shutdown::Shutdown;
use chassis::units::parse_duration;
use devstack::stack::{Role, Stack, StackConfig, StackError};
use devstack::{chain, deps, process, workspace};
use loadtest::pusher::{PushReport, Pusher, PusherError};
use loadtest::rides::Bodies;
use serde::Serialize;
use tokio::time::Instant;

use crate::client::{Api, RequestError};
use crate::screen::Screen;
use crate::tools::{ToolsError, tools};
use couriers::Couriers;

mod couriers;

/// Records in a body of `accept_ndjson` and `persist`.
const NDJSON_RECORDS: u32 = 100;
/// Connections of `accept_ndjson`: enough to keep both partitions' chunks full.
const NDJSON_CONNECTIONS: usize = 32;
/// Not measured, before each measure: connections, caches and the allocator settle.
const WARM_UP: Duration = Duration::from_secs(1);
/// How often the worker is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a backlog may take to drain before the run is given up.
const DRAIN_MAX: Duration = Duration::from_secs(300);
/// Ids of one measure lie this far from the next one's.
const IDS_APART: u64 = 10_000_000_000;

/// Measure a stack of its own on this machine: durable single POSTs/s, NDJSON records/s, the
/// worker's drain rate, and how long a look-up of couriers takes while 5,000 of 100,000 change
/// every second
///
/// Log, database, services and the load generator share the machine. Every figure is the median of
/// the rounds; the spread is shown beside it. At the end every acknowledged record is looked for in
/// the ledger.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// How long each acceptance measure lasts, for example 10s
    #[arg(long, value_name = "DURATION", default_value = "8s", value_parser = parse_duration)]
    duration: Duration,

    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Connections of the single POSTs, each with one request under way
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,

    /// How many records the worker drains in a round
    #[arg(long, value_name = "N", default_value_t = 400_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    drain_records: u64,

    /// Write the figures to this file, as {"figures":[{"name","value","unit"}]}
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error("cannot find the current directory")]
    Directory(#[source] std::io::Error),
    #[error(transparent)]
    Tools(#[from] ToolsError),
    #[error(transparent)]
    Stack(#[from] StackError),
    #[error(transparent)]
    Pusher(#[from] PusherError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the ledger cannot be read")]
    Ledger(#[from] tokio_postgres::Error),
    #[error("the worker still lagged {missing} records behind after {DRAIN_MAX:?}")]
    Lagging { missing: u64 },
    #[error(
        "{acknowledged} records were acknowledged, {found} are in the ledger: figures of a system that loses records mean nothing"
    )]
    Lost { acknowledged: u64, found: u64 },
    #[error("a look-up of couriers was answered {status}: {answer}")]
    LookUp {
        status: http::StatusCode,
        answer: String,
    },
    #[error("cannot write the figures to {}", .path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// One figure, as `--json` has it.
#[derive(Serialize, Debug)]
struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
}

#[derive(Serialize, Debug)]
struct Figures {
    figures: Vec<Figure>,
}

/// Runs it to its end and gives the process's exit code.
pub(crate) async fn run(args: Args) -> ExitCode {
    let shutdown = Shutdown::on_signals();
    let screen = Arc::new(Screen::new());
    // Children end with this process, and so does their directory with the next run.
    let measured = tokio::select! {
        () = shutdown.begun() => {
            process::end_tools();
            eprintln!("interrupted: no figures");
            std::process::exit(130);
        }
        measured = Box::pin(measure(&args, &screen)) => measured,
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: &Args, screen: &Arc<Screen>) -> Result<(), BenchError> {
    let (deps, binaries) = tools(deps::Wanted::ALL, screen).await?;
    let state = workspace::root()
        .map_err(BenchError::Directory)?
        .join(workspace::STATE_DIRECTORY);
    // Beside the other data, so on the same disk: on a memory disk fsync would cost nothing.
    let directory = state.join("bench");
    let config = StackConfig {
        fresh: true,
        supervises: false,
        shared_buffers_mib: crate::up::SHARED_BUFFERS_MIB,
        ..StackConfig::for_test(&directory, &state.join("cache"))
    };
    let stack = Stack::start(config, &deps, &binaries).await?;
    stack.wait_ready().await?;
    screen.line("stack is ready: 1 gateway, 1 worker, 1 status API, 1 nats-server, PostgreSQL");
    let figures = Bench::new(&stack, args).run(screen).await;
    stack.shutdown().await;
    // What was measured is of no use any more; a failure to remove it neither.
    std::fs::remove_dir_all(&directory).ok();
    let figures = figures?;
    match &args.json {
        Some(path) => write(path, &figures),
        None => Ok(()),
    }
}

fn write(path: &Path, figures: &Figures) -> Result<(), BenchError> {
    let json = serde_json::to_string_pretty(figures).expect("figures are JSON");
    std::fs::write(path, json + "\n").map_err(|source| BenchError::Write {
        path: path.to_owned(),
        source,
    })
}

struct Bench<'s> {
    stack: &'s Stack,
    args: &'s Args,
    api: Api,
    /// Of the next measure.
    first_id: u64,
    /// Records that got a 202.
    acknowledged: u64,
    /// Records that workers before the present one applied.
    applied_before: u64,
}

impl<'s> Bench<'s> {
    fn new(stack: &'s Stack, args: &'s Args) -> Self {
        Self {
            stack,
            args,
            api: Api::new(&stack.endpoints().partners[0].api_key),
            first_id: Bodies::FIRST_ID_MIN,
            acknowledged: 0,
            applied_before: 0,
        }
    }

    /// All rounds, then the books.
    async fn run(mut self, screen: &Screen) -> Result<Figures, BenchError> {
        let (mut single, mut ndjson, mut persist) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=self.args.rounds {
            let report = self.singles().await?;
            single.push(report.records_per_second());
            screen.line(&line(round, "accept_single", &report));
            self.drained().await?;

            let report = self.bodies(self.args.duration).await?;
            ndjson.push(report.records_per_second());
            screen.line(&line(round, "accept_ndjson", &report));
            self.drained().await?;

            let rate = self.drain().await?;
            persist.push(rate);
            screen.line(&format!(
                "round {round}  persist        {rate:>9.0} records/s"
            ));
        }
        let (look_ups, changes) = self.look_ups(screen).await?;
        self.close_the_books().await?;
        screen.line(&format!(
            "all {} acknowledged records are in the ledger",
            self.acknowledged
        ));
        let figures = [
            ("accept_single", single, "records/s"),
            ("accept_ndjson", ndjson, "records/s"),
            ("persist", persist, "records/s"),
            ("courier_changes", changes, "records/s"),
            ("courier_lookup_p99", look_ups, "ms"),
        ];
        let figures = figures.map(|(name, mut rates, unit)| {
            let value = median(&mut rates);
            let (least, most) = (rates[0], rates[rates.len() - 1]);
            // A latency has no thousands, but it has tenths.
            let digits = if unit == "ms" { 2 } else { 0 };
            screen.line(&format!(
                "{name:<18} {value:>9.digits$} {unit}  (median of {}, {least:.digits$} to {most:.digits$})",
                rates.len()
            ));
            Figure { name, value, unit }
        });
        Ok(Figures {
            figures: figures.into(),
        })
    }

    /// Look-ups of couriers while their capacities change: the p99 of each round in milliseconds,
    /// and the changes that were applied a second.
    async fn look_ups(&mut self, screen: &Screen) -> Result<(Vec<f64>, Vec<f64>), BenchError> {
        let mut couriers = Couriers::new(self.stack, &self.api);
        self.acknowledged += couriers.create().await?;
        self.drained().await?;
        let (mut look_ups, mut changes) = (Vec::new(), Vec::new());
        for round in 1..=self.args.rounds {
            let before = self.applied().await?;
            let measured = couriers.look_up(self.args.duration).await?;
            let applied = self.applied().await? - before;
            self.acknowledged += measured.acknowledged;
            let latency = measured.latency.percentiles();
            let rate = to_f64(applied) / self.args.duration.as_secs_f64();
            let p99_ms = latency.p99_ms.unwrap_or_default();
            screen.line(&format!(
                "round {round}  courier look-up  p50 {:.1} ms  p99 {p99_ms:.1} ms over {} couriers, {rate:.0} changes/s applied",
                latency.p50_ms.unwrap_or_default(),
                couriers::COURIERS,
            ));
            look_ups.push(p99_ms);
            changes.push(rate);
            self.drained().await?;
        }
        Ok((look_ups, changes))
    }

    /// Durable single POSTs.
    async fn singles(&mut self) -> Result<PushReport, BenchError> {
        let connections = usize::from(self.args.connections);
        for (duration, counts) in [(WARM_UP, false), (self.args.duration, true)] {
            let bodies = Bodies::single(self.next_ids());
            let pusher = self.pusher("application/json")?;
            let pusher = pusher.connections(connections).duration(duration);
            let report = pusher.run(move |number| bodies.body(number)).await;
            self.acknowledged += report.records_accepted;
            if counts {
                return Ok(report);
            }
        }
        unreachable!("the second turn counts")
    }

    /// Records in NDJSON bodies.
    async fn bodies(&mut self, duration: Duration) -> Result<PushReport, BenchError> {
        let bodies = Bodies::ndjson(self.next_ids(), NDJSON_RECORDS);
        let pusher = self.pusher("application/x-ndjson")?;
        let pusher = pusher.connections(NDJSON_CONNECTIONS).duration(duration);
        let report = pusher.run(move |number| bodies.body(number)).await;
        self.acknowledged += report.records_accepted;
        Ok(report)
    }

    /// Fills the log while there is no worker, then measures how fast one empties it.
    async fn drain(&mut self) -> Result<f64, BenchError> {
        let before = self.acknowledged;
        self.applied_before += self.applied().await?;
        self.stack.stop(Role::Worker, 0).await;
        while self.acknowledged - before < self.args.drain_records {
            self.bodies(Duration::from_millis(500)).await?;
        }
        self.stack.start_again(Role::Worker, 0).await?;
        let (mut first, deadline) = (None, Instant::now() + DRAIN_MAX);
        loop {
            let applied = self.applied().await?;
            let now = Instant::now();
            let (began, at_first) = match first {
                // The first look at a worker that works: what it did before is not counted.
                None if applied > 0 => *first.insert((now, applied)),
                Some(first) => first,
                None => (now, 0),
            };
            let missing = self
                .acknowledged
                .saturating_sub(self.applied_before + applied);
            if missing == 0 {
                let seconds = now.duration_since(began).as_secs_f64();
                return Ok(to_f64(applied - at_first) / seconds.max(1e-9));
            }
            if now > deadline {
                return Err(BenchError::Lagging { missing });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until the worker has applied whatever was acknowledged.
    async fn drained(&mut self) -> Result<(), BenchError> {
        let deadline = Instant::now() + DRAIN_MAX;
        loop {
            let applied = self.applied_before + self.applied().await?;
            if applied >= self.acknowledged {
                return Ok(());
            }
            if Instant::now() > deadline {
                let missing = self.acknowledged - applied;
                return Err(BenchError::Lagging { missing });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Records that the present worker has given an outcome.
    async fn applied(&self) -> Result<u64, BenchError> {
        let admin = &self.stack.endpoints().admin.worker[0];
        let Ok((_, body)) = self.api.get(&format!("{admin}/metrics")).await else {
            // It is being started.
            return Ok(0);
        };
        let text = String::from_utf8_lossy(&body);
        let counters = text
            .lines()
            .filter(|line| line.starts_with("weir_worker_records_total"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        Ok(counters.sum())
    }

    /// Every acknowledged record must be in the ledger; unacknowledged ones may be there too.
    async fn close_the_books(&mut self) -> Result<(), BenchError> {
        self.drained().await?;
        let url = self.stack.endpoints().database_url;
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        let row = client
            .query_one("select count(*) from requests", &[])
            .await?;
        let found = u64::try_from(row.get::<_, i64>(0)).expect("a count");
        if found < self.acknowledged {
            let acknowledged = self.acknowledged;
            return Err(BenchError::Lost {
                acknowledged,
                found,
            });
        }
        Ok(())
    }

    fn pusher(&self, content_type: &str) -> Result<Pusher, PusherError> {
        let endpoints = self.stack.endpoints();
        Pusher::new(
            &endpoints.gateway[0],
            &endpoints.partners[0].api_key,
            content_type,
        )
    }

    fn next_ids(&mut self) -> u64 {
        let first_id = self.first_id;
        self.first_id += IDS_APART;
        first_id
    }
}

fn line(round: u32, name: &str, report: &PushReport) -> String {
    let latency = report.latency.percentiles();
    let rate = report.records_per_second();
    let not_accepted = match report.not_accepted() {
        0 => String::new(),
        count => format!("  NOT accepted: {count} requests {:?}", report.statuses),
    };
    format!(
        "round {round}  {name:<14} {rate:>9.0} records/s  p50 {:.1} ms  p99 {:.1} ms{not_accepted}",
        latency.p50_ms.unwrap_or_default(),
        latency.p99_ms.unwrap_or_default(),
    )
}

/// Sorts, and gives the middle (of an even number the upper one).
fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

#[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_odd_number_is_the_middle() {
        assert!((median(&mut [3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }

    #[test]
    fn figures_have_the_documented_members() {
        let figures = Figures {
            figures: vec![Figure {
                name: "persist",
                value: 1.5,
                unit: "records/s",
            }],
        };
        let json = serde_json::to_string(&figures).unwrap();
        assert_eq!(
            json,
            r#"{"figures":[{"name":"persist","value":1.5,"unit":"records/s"}]}"#
        );
    }
}
