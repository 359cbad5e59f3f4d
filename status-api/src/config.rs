//! Flags, read once; every fault is reported at once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use std::{fmt, fs};

use chassis::http::PeerArgs;
use chassis::shutdown::GRACE;
use chassis::telemetry::TelemetryArgs;
use chassis::tls::{Tls, TlsArgs};
use chassis::units::parse_duration;
use clap::Parser;
use contract::tracking_id::KeyRing;
use partners::{Access, Seed, TlsFiles};
use sqlx::postgres::PgConnectOptions;

mod database;

/// What the log's answers to status APIs are addressed to: no other role may listen there.
const INBOX: &str = "_INBOX_status";

/// Tells what became of every request
#[derive(Parser, Clone, Debug)]
#[command(name = "status-api", version)]
pub struct Args {
    /// Where to answer, as address:port; port 0 takes a free one
    #[arg(long, env = "WEIR_LISTEN", default_value = "127.0.0.1:8081")]
    pub listen: SocketAddr,

    /// Where /livez, /readyz and /metrics are, as address:port
    #[arg(long, env = "WEIR_ADMIN_LISTEN", default_value = "127.0.0.1:9082")]
    pub admin_listen: SocketAddr,

    /// The database: postgres://user:password@host:port/name. Sessions are read-only
    #[arg(long, env = "WEIR_DATABASE_URL", hide_env_values = true)]
    pub database_url: String,

    /// Who vouches for the database's server, certificates in PEM; with it sslmode is verify-full
    #[arg(long, env = "WEIR_DATABASE_TLS_CA")]
    pub database_tls_ca: Option<PathBuf>,

    /// Most connections to the database for requests; two more serve probes and long polls
    #[arg(long, env = "WEIR_DATABASE_CONNECTIONS", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub database_connections: u32,

    /// The log, where partners are kept; several servers of one cluster separated by commas.
    /// Without it those of --partners are all there are
    #[arg(
        long,
        env = "WEIR_NATS_URL",
        value_delimiter = ',',
        required_unless_present = "partners",
        hide_env_values = true
    )]
    pub nats_url: Vec<String>,

    /// Who vouches for the log's servers, certificates in PEM [default: for tls:// URLs the system's]
    #[arg(long, env = "WEIR_NATS_TLS_CA")]
    pub nats_tls_ca: Option<PathBuf>,

    /// This process's certificate towards the log, in PEM
    #[arg(long, env = "WEIR_NATS_TLS_CERT")]
    pub nats_tls_cert: Option<PathBuf>,

    /// The key of that certificate, in PEM
    #[arg(long, env = "WEIR_NATS_TLS_KEY")]
    pub nats_tls_key: Option<PathBuf>,

    /// For development: a partners.toml, whose partners are written to where partners are kept
    /// unless their ids are there already
    #[arg(long, env = "WEIR_PARTNERS")]
    pub partners: Option<PathBuf>,

    /// Keeps what is known of partners (hashes, no keys) in this file, for a start while the log is
    /// away
    #[arg(long, env = "WEIR_PARTNERS_CACHE")]
    pub partners_cache: Option<PathBuf>,

    /// The keys of tracking ids' tags: lines of `<name> <64 hex digits>`
    #[arg(long, env = "WEIR_TRACKING_KEYS")]
    pub tracking_keys: PathBuf,

    /// How long the ledger keeps a row: older ids that it does not have are 410, not 404
    #[arg(long, env = "WEIR_LEDGER_RETENTION", default_value = "90d", value_parser = parse_duration)]
    pub ledger_retention: Duration,

    /// Most requests that may wait for an outcome (?wait=, ?after=) at once; over it 503
    #[arg(long, env = "WEIR_LONG_POLLS_MAX", default_value_t = 4_096,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub long_polls_max: u32,

    /// Most connections from clients at once; more wait in the kernel's queue
    #[arg(long, env = "WEIR_CONNECTIONS_MAX", default_value_t = 8_192,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections_max: u32,

    /// Longest time for a request's headers to arrive, and for a connection to stay idle
    #[arg(long, env = "WEIR_HEADERS_TIMEOUT", default_value = "30s", value_parser = parse_duration)]
    pub headers_timeout: Duration,

    /// Who may connect
    #[command(flatten)]
    pub peers: PeerArgs,

    /// Encryption
    #[command(flatten)]
    pub tls: TlsArgs,

    /// Logs
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

/// What the flags came to.
#[derive(Debug)]
pub struct Config {
    pub(crate) listen: SocketAddr,
    pub(crate) admin_listen: SocketAddr,
    pub(crate) database: PgConnectOptions,
    pub(crate) database_connections: u32,
    /// Without URLs when there is no log to follow.
    pub(crate) log: Access,
    pub(crate) partners: Seed,
    pub(crate) partners_cache: Option<PathBuf>,
    pub(crate) tracking_keys: KeyRing,
    pub(crate) ledger_retention: Duration,
    pub(crate) long_polls_max: usize,
    pub(crate) connections_max: usize,
    pub(crate) headers_timeout: Duration,
    pub(crate) peers: PeerArgs,
    pub(crate) tls: Option<Tls>,
}

/// Every fault of a configuration, one a line.
#[derive(Debug, thiserror::Error)]
pub struct ConfigFaults(Vec<String>);

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\nerror: "))
    }
}

impl Config {
    /// Reads the files and the URL that the flags name.
    ///
    /// # Errors
    /// [`ConfigFaults`] naming all of them.
    pub fn read(args: &Args) -> Result<Self, ConfigFaults> {
        let database = database::read(&args.database_url, args.database_tls_ca.as_deref());
        let log = log(args);
        let partners = args.partners.as_ref().map(Seed::load).transpose();
        let partners = partners
            .map(Option::unwrap_or_default)
            .map_err(|error| format!("--partners: {error}"));
        let path = args.tracking_keys.display();
        let tracking_keys = fs::read_to_string(&args.tracking_keys)
            .map_err(|error| format!("--tracking-keys: cannot read {path}: {error}"))
            .and_then(|text| {
                KeyRing::parse(&text).map_err(|error| format!("--tracking-keys: {path}: {error}"))
            });
        let tls = Tls::load(&args.tls).map_err(|error| format!("TLS: {error}"));
        let waits = check_waits(args);
        match (database, log, partners, tracking_keys, tls, waits) {
            (Ok(database), Ok(log), Ok(partners), Ok(tracking_keys), Ok(tls), Ok(())) => Ok(Self {
                listen: args.listen,
                admin_listen: args.admin_listen,
                database,
                database_connections: args.database_connections,
                log,
                partners,
                partners_cache: args.partners_cache.clone(),
                tracking_keys,
                ledger_retention: args.ledger_retention,
                long_polls_max: args.long_polls_max as usize,
                connections_max: args.connections_max as usize,
                headers_timeout: args.headers_timeout,
                peers: args.peers.clone(),
                tls,
            }),
            (database, log, partners, tracking_keys, tls, waits) => {
                let faults = [
                    database.err(),
                    log.err(),
                    partners.err(),
                    tracking_keys.err(),
                    tls.err(),
                    waits.err(),
                ];
                Err(ConfigFaults(faults.into_iter().flatten().collect()))
            }
        }
    }
}

/// How the log is reached.
fn log(args: &Args) -> Result<Access, String> {
    let access = Access {
        urls: args.nats_url.clone(),
        inbox: Some(INBOX.to_owned()),
        tls: TlsFiles {
            ca: args.nats_tls_ca.clone(),
            certificate: args.nats_tls_cert.clone(),
            key: args.nats_tls_key.clone(),
        },
    };
    let checked = access.check();
    checked
        .map(|()| access)
        .map_err(|error| format!("--nats-url: {error}"))
}

/// A drain waits for those who read slowly, too.
fn check_waits(args: &Args) -> Result<(), String> {
    let limit = args.peers.answer_read_limit;
    if limit.is_zero() || limit >= GRACE {
        return Err(format!(
            "--answer-read-limit {limit:?}: more than 0 and less than the {GRACE:?} of a drain"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_reported_at_once_and_no_password() {
        let words = [
            "status-api",
            "--database-url=nonsense:secret",
            "--nats-url=http://me:secret@host",
            "--partners=/nowhere/partners.toml",
            "--tracking-keys=/nowhere/keys",
            "--tls-certificate=/nowhere/certificate",
            "--answer-read-limit=20s",
        ];
        let args = Args::try_parse_from(words).expect("flags are well formed");
        assert_eq!(args.ledger_retention, Duration::from_secs(90 * 86_400));
        let faults = Config::read(&args).expect_err("six faults").to_string();
        for flag in [
            "--database-url",
            "--nats-url",
            "--partners",
            "--tracking-keys",
            "TLS: --tls-certificate and --tls-key",
            "--answer-read-limit",
        ] {
            assert!(faults.contains(flag), "{flag} is not in: {faults}");
        }
        assert!(!faults.contains("secret"), "{faults}");
        assert_eq!(faults.lines().count(), 6, "{faults}");
    }

    #[test]
    fn flags_are_sound() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }
}
