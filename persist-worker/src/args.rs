//! The command line. Every flag is also an environment variable, `WEIR_` and its name.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chassis::telemetry::TelemetryArgs;
use chassis::units::{Bytes, parse_bytes, parse_duration};
use clap::{Args, Parser, Subcommand};
use partners::{Access, TlsFiles};

use crate::database::Address;

/// Takes chunks out of the log and writes their records to PostgreSQL
#[derive(Parser, Clone, Debug)]
#[command(name = "persist-worker", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Bring database and log to what this build needs; may be repeated
    Migrate(MigrateArgs),
    /// Persist until SIGTERM
    Run(RunArgs),
}

/// Where the log and the database are.
#[derive(Args, Clone, Debug)]
pub struct Places {
    /// The log: one NATS URL, or several of one cluster with commas between
    #[arg(
        long,
        env = "WEIR_NATS_URL",
        default_value = "nats://127.0.0.1:4222",
        hide_env_values = true
    )]
    pub nats_url: String,

    /// Who vouches for the log's servers, certificates in PEM [default: for tls:// URLs the system's]
    #[arg(long, env = "WEIR_NATS_TLS_CA", value_name = "FILE")]
    pub nats_tls_ca: Option<PathBuf>,

    /// This process's certificate towards the log, in PEM
    #[arg(long, env = "WEIR_NATS_TLS_CERT", value_name = "FILE")]
    pub nats_tls_cert: Option<PathBuf>,

    /// The key of that certificate, in PEM
    #[arg(long, env = "WEIR_NATS_TLS_KEY", value_name = "FILE")]
    pub nats_tls_key: Option<PathBuf>,

    /// The database: `migrate` as its owner, `run` as a user that has the role weir_worker; not
    /// through a transaction pooler
    #[arg(long, env = "WEIR_DATABASE_URL", hide_env_values = true)]
    pub database_url: String,

    /// Who vouches for the database's server, certificates in PEM; with it sslmode is verify-full
    #[arg(long, env = "WEIR_DATABASE_TLS_CA", value_name = "FILE")]
    pub database_tls_ca: Option<PathBuf>,
}

impl Places {
    /// What is wrong with the URLs, a sentence each. Not left to clap, whose errors quote the value:
    /// either may hold a password.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if let Err(error) = self.log("_INBOX").check() {
            faults.push(format!("--nats-url: {error}"));
        }
        if let Err(error) = Address::read(&self.database_url, self.database_tls_ca.as_deref()) {
            faults.push(format!("--database-url: {error}"));
        }
        faults
    }

    /// How the log is reached; answers come to subjects that begin with `inbox`.
    pub(crate) fn log(&self, inbox: &str) -> Access {
        Access {
            urls: self.nats_url.split(',').map(str::to_owned).collect(),
            inbox: Some(inbox.to_owned()),
            tls: TlsFiles {
                ca: self.nats_tls_ca.clone(),
                certificate: self.nats_tls_cert.clone(),
                key: self.nats_tls_key.clone(),
            },
        }
    }
}

/// Flags of `migrate`.
#[derive(Args, Clone, Debug)]
pub struct MigrateArgs {
    /// Log and database.
    #[command(flatten)]
    pub places: Places,

    /// How many partitions, 1 to 256; fixed once the streams exist [default: as they have, else 2]
    #[arg(long, env = "WEIR_PARTITIONS", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub partitions: Option<u32>,

    /// Copies of each chunk that streams created now keep: 1, or 3 on a cluster (at most 5)
    #[arg(long, env = "WEIR_REPLICAS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub replicas: u8,

    /// Most bytes that each stream created now may hold; beyond it the gateway answers 503
    #[arg(long, env = "WEIR_STREAM_BYTES_MAX", default_value = "4GiB", value_parser = parse_bytes)]
    pub stream_bytes_max: Bytes,

    /// How long events are kept for subscribers, in a stream created now
    #[arg(long, env = "WEIR_EVENTS_RETAIN", default_value = "7d", value_parser = parse_duration)]
    pub events_retain: Duration,

    /// Most bytes that the stream of events created now may hold; near it the oldest go early (see
    /// `run --events-keep-min`)
    #[arg(long, env = "WEIR_EVENTS_BYTES_MAX", default_value = "4GiB", value_parser = parse_bytes)]
    pub events_bytes_max: Bytes,

    /// Start over at the beginning of streams that were created anew since: what their
    /// predecessors held and was not persisted is given up
    #[arg(long, env = "WEIR_ADOPT_NEW_LOG")]
    pub adopt_new_log: bool,

    /// How long to wait for log and database to answer
    #[arg(long, env = "WEIR_MIGRATE_WAIT", default_value = "30s", value_parser = parse_duration)]
    pub wait: Duration,

    /// Logs.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

/// Flags of `run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Log and database.
    #[command(flatten)]
    pub places: Places,

    /// Where /livez, /readyz and /metrics are served; port 0 takes a free one
    #[arg(long, env = "WEIR_ADMIN_LISTEN", default_value = "127.0.0.1:9081")]
    pub admin_listen: SocketAddr,

    /// This worker's name in leases and logs; a random part is appended [default: process id]
    #[arg(long, env = "WEIR_OWNER")]
    pub owner: Option<String>,

    /// How long the log keeps what is committed, so that a database restored from an older state
    /// can catch up
    #[arg(long, env = "WEIR_LOG_RETAIN", default_value = "1h", value_parser = parse_duration)]
    pub log_retain: Duration,

    /// How long events are kept for subscribers even when their stream is nearly full: older ones
    /// make room; when all are younger, new events wait in the database
    #[arg(long, env = "WEIR_EVENTS_KEEP_MIN", default_value = "1h", value_parser = parse_duration)]
    pub events_keep_min: Duration,

    /// Tell subscribers of rides too: events ride_created and ride_replaced
    #[arg(long, env = "WEIR_RIDE_EVENTS")]
    pub ride_events: bool,

    /// Logs.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}
