//! Flags and environment, checked as a whole: every fault is told at once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chassis::http::PeerArgs;
use chassis::telemetry::TelemetryArgs;
use chassis::tls::{Tls, TlsArgs};
use chassis::units::{Bytes, parse_bytes, parse_duration};
use clap::Parser;
use contract::limits::BODY_BYTES_MAX;
use contract::tracking_id::KeyRing;
use partners::{Access, Seed, TlsFiles};

use crate::queue::ROOM_WAIT;

/// Longest `--name`, in bytes: it goes into every chunk.
const NAME_BYTES_MAX: usize = 100;

/// What the log's answers to gateways are addressed to: no other role may listen there.
const INBOX: &str = "_INBOX_gateway";

/// Takes rides over HTTP, makes each one durable on the log, and answers 202.
#[derive(Parser, Clone, Debug)]
#[command(name = "ingest-gateway", version)]
pub struct Args {
    /// Where partners' requests arrive, HTTP/1.1 and HTTP/2 (by prior knowledge, or by ALPN over TLS);
    /// port 0 takes a free one
    #[arg(
        long,
        env = "WEIR_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "ADDRESS:PORT"
    )]
    pub listen: SocketAddr,

    /// Where /livez, /readyz and /metrics are served; port 0 takes a free one
    #[arg(
        long,
        env = "WEIR_ADMIN_LISTEN",
        default_value = "127.0.0.1:9080",
        value_name = "ADDRESS:PORT"
    )]
    pub admin_listen: SocketAddr,

    /// The log, several servers of one cluster separated by commas
    #[arg(
        long,
        env = "WEIR_NATS_URL",
        value_delimiter = ',',
        required = true,
        hide_env_values = true,
        value_name = "URL"
    )]
    pub nats_url: Vec<String>,

    /// Who vouches for the log's servers, certificates in PEM [default: for tls:// URLs the system's]
    #[arg(long, env = "WEIR_NATS_TLS_CA", value_name = "FILE")]
    pub nats_tls_ca: Option<PathBuf>,

    /// This process's certificate towards the log, in PEM
    #[arg(long, env = "WEIR_NATS_TLS_CERT", value_name = "FILE")]
    pub nats_tls_cert: Option<PathBuf>,

    /// The key of that certificate, in PEM
    #[arg(long, env = "WEIR_NATS_TLS_KEY", value_name = "FILE")]
    pub nats_tls_key: Option<PathBuf>,

    /// For development: a partners.toml, whose partners are written to where partners are kept
    /// unless their ids are there already
    #[arg(long, env = "WEIR_PARTNERS", value_name = "FILE")]
    pub partners: Option<PathBuf>,

    /// Keeps what is known of partners (hashes, no keys) in this file, for a start while the log is
    /// away
    #[arg(long, env = "WEIR_PARTNERS_CACHE", value_name = "FILE")]
    pub partners_cache: Option<PathBuf>,

    /// File of keys that tracking ids are tagged with; the first mints
    #[arg(long, env = "WEIR_TRACKING_KEYS", value_name = "FILE")]
    pub tracking_keys: PathBuf,

    /// What status URLs begin with, for example http://status.example:8081; without it they are
    /// paths, for one origin behind a proxy
    #[arg(long, env = "WEIR_STATUS_BASE_URL", value_name = "URL")]
    pub status_base_url: Option<String>,

    /// From minting a tracking id to the last moment at which the log may acknowledge its chunk
    #[arg(long, env = "WEIR_PUBLISH_DEADLINE", default_value = "5s", value_parser = parse_duration, value_name = "DURATION")]
    pub publish_deadline: Duration,

    /// How long a request's body may take to arrive, from the request's head on
    #[arg(long, env = "WEIR_BODY_READ_LIMIT", default_value = "6s", value_parser = parse_duration, value_name = "DURATION")]
    pub body_read_limit: Duration,

    /// How long a request's head may take to arrive, and how long a connection may be idle
    #[arg(long, env = "WEIR_HEADER_READ_LIMIT", default_value = "30s", value_parser = parse_duration, value_name = "DURATION")]
    pub header_read_limit: Duration,

    /// From a request's head to its answer; more than body read limit + 200ms for room in a partition + publish deadline
    #[arg(long, env = "WEIR_REQUEST_DEADLINE", default_value = "13s", value_parser = parse_duration, value_name = "DURATION")]
    pub request_deadline: Duration,

    /// How long a drain may take; more than the request deadline
    #[arg(long, env = "WEIR_SHUTDOWN_GRACE", default_value = "15s", value_parser = parse_duration, value_name = "DURATION")]
    pub shutdown_grace: Duration,

    /// Most connections at once, as far as the limit of open files allows; one more is answered 503 and closed
    #[arg(long, env = "WEIR_CONNECTIONS_MAX", default_value_t = 4096, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections_max: u32,

    /// Most bytes of request bodies held at once; at least 16MiB, the largest body twice
    #[arg(long, env = "WEIR_BODY_BYTES_MAX", default_value = "256MiB", value_parser = parse_bytes, value_name = "BYTES")]
    pub body_bytes_max: Bytes,

    /// What this gateway is called in the chunks it publishes; by default its host and process
    #[arg(long, env = "WEIR_NAME", value_name = "NAME")]
    pub name: Option<String>,

    /// Who may connect
    #[command(flatten)]
    pub peers: PeerArgs,

    /// Encryption
    #[command(flatten)]
    pub tls: TlsArgs,

    /// How it logs
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

/// A configuration that was checked.
#[derive(Debug)]
pub struct Config {
    pub(crate) args: Args,
    pub(crate) partners: Seed,
    pub(crate) tracking_keys: KeyRing,
    pub(crate) status_base: String,
    pub(crate) name: String,
    pub(crate) tls: Option<Tls>,
}

/// Every fault of a configuration, one sentence each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

impl Config {
    /// Reads the files and checks everything against everything.
    ///
    /// # Errors
    /// [`ConfigError`] with all faults at once.
    pub fn check(args: Args) -> Result<Self, ConfigError> {
        let mut faults = inequalities(&args);
        let partners = args.partners.as_ref().map(Seed::load).transpose();
        let partners = partners
            .map(Option::unwrap_or_default)
            .map_err(|error| faults.push(format!("--partners: {error}")))
            .ok();
        let tracking_keys = tracking_keys(&args)
            .map_err(|error| faults.push(format!("--tracking-keys: {error}")))
            .ok();
        let status_base = status_base(args.status_base_url.as_deref())
            .map_err(|fault| faults.push(format!("--status-base-url: {fault}")))
            .ok();
        let tls = Tls::load(&args.tls).map_err(|error| faults.push(format!("TLS: {error}")));
        if let Err(error) = args.log().check() {
            faults.push(format!("--nats-url: {error}"));
        }
        let name = args.name.clone().unwrap_or_else(default_name);
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            faults.push(format!("--name: 1 to {NAME_BYTES_MAX} bytes"));
        }
        match (partners, tracking_keys, status_base, tls) {
            (Some(partners), Some(tracking_keys), Some(status_base), Ok(tls))
                if faults.is_empty() =>
            {
                Ok(Self {
                    args,
                    partners,
                    tracking_keys,
                    status_base,
                    name,
                    tls,
                })
            }
            _ => Err(ConfigError(faults)),
        }
    }
}

impl Args {
    /// How the log is reached.
    pub(crate) fn log(&self) -> Access {
        Access {
            urls: self.nats_url.clone(),
            inbox: Some(INBOX.to_owned()),
            tls: TlsFiles {
                ca: self.nats_tls_ca.clone(),
                certificate: self.nats_tls_cert.clone(),
                key: self.nats_tls_key.clone(),
            },
        }
    }
}

/// The inequalities that need nothing but flags; those with the log are checked when it is opened.
fn inequalities(args: &Args) -> Vec<String> {
    let mut faults = Vec::new();
    let needed = args.body_read_limit + ROOM_WAIT + args.publish_deadline;
    if args.request_deadline <= needed {
        faults.push(format!(
            "--request-deadline {:?} must be more than --body-read-limit {:?} + room wait {ROOM_WAIT:?} + \
             --publish-deadline {:?}",
            args.request_deadline, args.body_read_limit, args.publish_deadline
        ));
    }
    if args.shutdown_grace <= args.request_deadline {
        faults.push(format!(
            "--shutdown-grace {:?} must be more than --request-deadline {:?}",
            args.shutdown_grace, args.request_deadline
        ));
    }
    if args.shutdown_grace <= args.peers.answer_read_limit {
        faults.push(format!(
            "--shutdown-grace {:?} must be more than --answer-read-limit {:?}",
            args.shutdown_grace, args.peers.answer_read_limit
        ));
    }
    // The duplicate window is the streams': what is checked here is the rest.
    faults.extend(
        contract::timing::violations(args.publish_deadline, Duration::MAX)
            .into_iter()
            .map(|fault| format!("--publish-deadline: {fault}")),
    );
    if args.publish_deadline.is_zero()
        || args.body_read_limit.is_zero()
        || args.header_read_limit.is_zero()
        || args.peers.answer_read_limit.is_zero()
    {
        faults.push("deadlines and limits must be more than 0".to_owned());
    }
    let largest = 2 * BODY_BYTES_MAX as u64;
    if args.body_bytes_max.0 < largest || args.body_bytes_max.0 > u64::from(u32::MAX) {
        faults.push(format!(
            "--body-bytes-max {}: {} to 4095MiB",
            args.body_bytes_max,
            Bytes(largest)
        ));
    }
    faults
}

fn tracking_keys(args: &Args) -> Result<KeyRing, String> {
    let path = &args.tracking_keys;
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    KeyRing::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn status_base(url: Option<&str>) -> Result<String, String> {
    let Some(url) = url else {
        return Ok(String::new());
    };
    let uri: http::Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.query().is_some() {
        return Err(format!(
            "{url}: expected http://HOST or https://HOST, without a query"
        ));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

fn default_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().take(64).collect();
    let mut name = format!("gateway-{host}-{}", std::process::id());
    while name.len() > NAME_BYTES_MAX {
        name.pop();
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let words = [
            "ingest-gateway",
            "--nats-url=nats://127.0.0.1:1",
            "--partners=/nonexistent/partners.toml",
            "--tracking-keys=/nonexistent/keys",
            "--status-base-url=ftp://host",
            "--request-deadline=11s",
            "--shutdown-grace=11s",
            "--publish-deadline=16s",
            "--body-bytes-max=1MiB",
            "--answer-read-limit=11s",
            "--tls-key=/nonexistent/key",
        ];
        let args = Args::try_parse_from(words).expect("well formed");
        let faults = Config::check(args).expect_err("faulty").0;
        for flag in [
            "--request-deadline",
            "--shutdown-grace",
            "--publish-deadline: ",
            "--body-bytes-max",
            "--partners: ",
            "--tracking-keys: ",
            "--status-base-url: ",
            "--shutdown-grace 11s must be more than --answer-read-limit",
            "TLS: --tls-certificate and --tls-key",
        ] {
            assert!(
                faults.iter().any(|fault| fault.starts_with(flag)),
                "{flag} {faults:?}"
            );
        }
    }

    #[test]
    fn a_status_base_loses_its_slash() {
        assert_eq!(
            status_base(Some("http://h:1/x/")),
            Ok("http://h:1/x".into())
        );
        assert_eq!(status_base(None), Ok(String::new()));
        assert!(status_base(Some("h:1")).is_err());
    }
}
