//! Logs to stderr and metrics for Prometheus.

use std::io::IsTerminal as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::{Args, ValueEnum};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// Buckets of every histogram whose name ends in `_seconds`: from 100 µs (one fsync of a fast
/// disk) to the longest wait there is.
const SECONDS_BUCKETS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0, 30.0,
];

/// Buckets of every histogram whose name ends in `_bytes`: powers of four, 256 B to 16 MiB.
const BYTES_BUCKETS: [f64; 9] = [
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

/// Buckets of every other histogram: counts, such as records per chunk.
const COUNT_BUCKETS: [f64; 11] = [
    1.0, 2.0, 5.0, 10.0, 25.0, 100.0, 250.0, 1_000.0, 2_500.0, 10_000.0, 100_000.0,
];

/// What comes before the directives of `--log-level`, which may say otherwise: h2 warns of frames
/// that a client can send at will (PING acks that nobody asked for), a line for each.
const BEFOREHAND: &str = "h2=error";

/// How often recorded histogram values are folded in when nobody scrapes: they wait in memory.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Flags about logs, for `#[command(flatten)]`.
#[derive(Args, Clone, Debug)]
pub struct TelemetryArgs {
    /// How log lines look on stderr
    #[arg(long, env = "WEIR_LOG_FORMAT", value_enum, default_value_t = LogFormat::Human)]
    pub log_format: LogFormat,

    /// Which log lines are written: a level, or directives such as "info,persist_worker=debug".
    /// Warnings of h2, which clients can cause at will, only by a directive of its own (h2=warn)
    #[arg(long, env = "WEIR_LOG", default_value = "info", value_parser = parse_level)]
    pub log_level: String,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people
    Human,
    /// One JSON object per line
    Json,
}

fn parse_level(text: &str) -> Result<String, String> {
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "{error}; write a level (error, warn, info, debug, trace) or target=level,..."
        )),
    }
}

/// The process's metrics, ready to be rendered.
#[derive(Clone)]
pub struct Telemetry {
    handle: PrometheusHandle,
    service: &'static str,
}

/// Starts logging and recording, once per process; later calls (several services in one test)
/// return the first one's metrics. Call it inside the runtime.
///
/// # Panics
/// If something else has installed a metrics recorder.
#[must_use]
pub fn init(args: &TelemetryArgs, service: &'static str) -> Telemetry {
    static FIRST: OnceLock<PrometheusHandle> = OnceLock::new();
    let handle = FIRST.get_or_init(|| {
        init_logs(args);
        init_metrics()
    });
    metrics::describe_gauge!(
        "weir_build_info",
        "1; the labels name the service and its version"
    );
    metrics::gauge!("weir_build_info", "service" => service, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    tracing::info!(service, version = env!("CARGO_PKG_VERSION"), "starting");
    Telemetry {
        handle: handle.clone(),
        service,
    }
}

fn init_logs(args: &TelemetryArgs) {
    let filter = EnvFilter::builder().parse_lossy(format!("{BEFOREHAND},{}", args.log_level));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Said on stderr it would panic: whoever read the log is gone, and whatever logs next,
        // the end by a signal included, would go with it.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    // A subscriber that is there already (a test's) keeps its place.
    let _ = match args.log_format {
        LogFormat::Human => logs.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => logs
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .try_init(),
    };
}

fn init_metrics() -> PrometheusHandle {
    PrometheusBuilder::new()
        .set_buckets(&COUNT_BUCKETS)
        .and_then(|it| {
            it.set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS)
        })
        .and_then(|it| it.set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &BYTES_BUCKETS))
        .expect("no list of buckets is empty")
        .install_recorder()
        .expect("the only recorder of the process")
}

impl Telemetry {
    /// All metrics in Prometheus text form, the process's own included.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = self.handle.render();
        crate::process::render(&mut text);
        text
    }

    /// The name given to [`init`].
    #[must_use]
    pub fn service(&self) -> &'static str {
        self.service
    }

    /// Folds in recorded values every few seconds, for ever; the admin listener runs it.
    pub(crate) async fn upkeep(self: Arc<Self>) {
        let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            interval.tick().await;
            self.handle.run_upkeep();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser, Debug)]
    struct Example {
        #[command(flatten)]
        telemetry: TelemetryArgs,
    }

    #[test]
    fn a_bad_level_is_refused_when_flags_are_read() {
        let good = Example::try_parse_from([
            "x",
            "--log-level",
            "info,hyper=warn",
            "--log-format",
            "json",
        ]);
        assert_eq!(good.expect("valid").telemetry.log_format, LogFormat::Json);
        assert!(Example::try_parse_from(["x", "--log-level", "a=b=c"]).is_err());
        assert!(Example::try_parse_from(["x", "--log-format", "xml"]).is_err());
    }

    #[test]
    fn metrics_carry_build_and_process() {
        let args = TelemetryArgs {
            log_format: LogFormat::Human,
            log_level: "off".into(),
        };
        let telemetry = init(&args, "example");
        metrics::histogram!("example_wait_seconds").record(0.003);
        let again = init(&args, "example");
        let text = again.render();
        assert!(
            text.contains("weir_build_info{service=\"example\",version="),
            "{text}"
        );
        assert!(
            text.contains("example_wait_seconds_bucket{le=\"0.005\"} 1"),
            "{text}"
        );
        assert!(text.contains("process_cpu_seconds_total"), "{text}");
        assert_eq!(telemetry.service(), "example");
    }
}
