//! The one live line: what goes in, what comes out, and how far apart.

use std::collections::HashMap;
use std::time::Duration;

use chassis::shutdown::Shutdown;
use devstack::http;
use devstack::stack::{Endpoints, Stack};

use crate::screen::Screen;

/// Between two looks on a terminal.
const REFRESH_EVERY: Duration = Duration::from_millis(500);
/// Between two lines where lines stay.
const LINE_EVERY: Duration = Duration::from_secs(5);

const ACCEPTED: &str = "weir_gateway_records_accepted_total";
const OUTCOMES: &str = "weir_worker_records_total";
const DELAY: &str = "weir_worker_delay_seconds";

/// Refreshes the line until the shutdown begins.
pub(super) async fn run(stack: &Stack, screen: &Screen, shutdown: &Shutdown) {
    let every = if screen.is_terminal() {
        REFRESH_EVERY
    } else {
        LINE_EVERY
    };
    let mut totals = Totals::default();
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // URLs outlive processes: a child that is started again keeps its port.
    let endpoints = stack.endpoints();
    loop {
        tokio::select! {
            () = shutdown.begun() => return,
            _ = ticks.tick() => {}
        }
        tokio::select! {
            () = shutdown.begun() => return,
            () = totals.look(&endpoints) => {}
        }
        screen.live(&totals.line());
    }
}

/// Sums over processes that come and go: a counter that falls belongs to a new process and starts
/// from nothing.
#[derive(Debug, Default)]
struct Totals {
    last: HashMap<String, f64>,
    accepted: f64,
    persisted: f64,
    duplicate: f64,
    failed: f64,
    /// The longest of all partitions, in seconds; `None` while no worker says.
    delay: Option<f64>,
}

impl Totals {
    async fn look(&mut self, endpoints: &Endpoints) {
        self.delay = None;
        let admin = &endpoints.admin;
        for url in admin.gateway.iter().chain(&admin.worker) {
            let Some(port) = url.rsplit(':').next().and_then(|port| port.parse().ok()) else {
                continue;
            };
            if let Some(answer) = http::get(port, "/metrics").await {
                self.add(url, &answer.body);
            }
        }
    }

    fn add(&mut self, source: &str, page: &str) {
        for (series, value) in samples(page) {
            let name = series.split('{').next().unwrap_or(series);
            if name == DELAY {
                self.delay = Some(self.delay.unwrap_or(0.0).max(value));
                continue;
            }
            if name != ACCEPTED && name != OUTCOMES {
                continue;
            }
            let last = self.last.insert(format!("{source} {series}"), value);
            let last = last.unwrap_or(0.0);
            let grown = if value >= last { value - last } else { value };
            match (name, label(series, "outcome")) {
                (ACCEPTED, _) => self.accepted += grown,
                (_, "persisted" | "created" | "replaced") => self.persisted += grown,
                (_, "duplicate") => self.duplicate += grown,
                (_, "failed" | "conflict" | "expired" | "unstorable") => self.failed += grown,
                // A chunk stored twice has no second outcome.
                _ => {}
            }
        }
    }

    fn line(&self) -> String {
        let delay = match self.delay {
            Some(seconds) if seconds < 1.0 => format!("{:.0} ms", seconds * 1000.0),
            Some(seconds) => format!("{seconds:.1} s"),
            None => "unknown".to_owned(),
        };
        let duplicate = if self.duplicate > 0.0 {
            format!(" · {:.0} duplicate", self.duplicate)
        } else {
            String::new()
        };
        format!(
            "{:.0} accepted · {:.0} persisted{duplicate} · {:.0} failed · delay {delay}",
            self.accepted, self.persisted, self.failed
        )
    }
}

/// The samples of a page in Prometheus' text format: the series with its labels, and its value.
fn samples(page: &str) -> impl Iterator<Item = (&str, f64)> {
    page.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (series, value) = line.trim().rsplit_once(' ')?;
            Some((series.trim(), value.parse().ok()?))
        })
}

/// A label's value; empty without it. None of ours needs escapes.
fn label<'a>(series: &'a str, name: &str) -> &'a str {
    let start = format!("{name}=\"");
    let after = series.split_once(&start).map_or("", |(_, after)| after);
    after.split('"').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_of_a_process_do_not_lower_the_totals() {
        let mut totals = Totals::default();
        totals.add(
            "gateway",
            "# HELP x\nweir_gateway_records_accepted_total 10\n",
        );
        totals.add("gateway", "weir_gateway_records_accepted_total 12\n");
        totals.add("gateway", "weir_gateway_records_accepted_total 3\n");
        let worker = "weir_worker_records_total{outcome=\"created\"} 9\n\
                      weir_worker_records_total{outcome=\"conflict\"} 2\n\
                      weir_worker_records_total{outcome=\"repeated\"} 7\n\
                      weir_worker_delay_seconds{partition=\"000\"} 0.25\n\
                      weir_worker_delay_seconds{partition=\"001\"} 0\n";
        totals.add("worker", worker);
        assert_eq!(
            totals.line(),
            "15 accepted · 9 persisted · 2 failed · delay 250 ms"
        );
    }
}
