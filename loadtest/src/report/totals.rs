//! What the parts of a report add up to, for all who render it.

use std::collections::BTreeMap;

use super::figures::{count, lossy, maybe_ms, moment, rate, share, short};
use super::schema::{CourierDifference, Load, Objective, Record, RunReport};

/// What one server used over the whole run.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct ServerTotals {
    pub(super) cpu_cores_mean: Option<f64>,
    pub(super) cpu_cores_max: Option<f64>,
    pub(super) rss_bytes_max: Option<u64>,
}

impl RunReport {
    /// By the servers' names.
    pub(super) fn server_uses(&self) -> BTreeMap<&str, ServerTotals> {
        let mut cores: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        let mut totals: BTreeMap<&str, ServerTotals> = BTreeMap::new();
        for server in self.series.iter().flat_map(|second| &second.servers) {
            let total = totals.entry(&server.name).or_default();
            total.rss_bytes_max = total.rss_bytes_max.max(server.rss_bytes);
            cores
                .entry(&server.name)
                .or_default()
                .extend(server.cpu_cores);
        }
        for (name, cores) in cores {
            let total = totals.entry(name).or_default();
            if !cores.is_empty() {
                let sum: f64 = cores.iter().sum();
                total.cpu_cores_mean = Some(sum / lossy(cores.len() as u64));
                total.cpu_cores_max = cores.into_iter().reduce(f64::max);
            }
        }
        totals
    }

    /// Records that were neither accepted nor spoiled on purpose, over what was sent.
    pub(super) fn error_share(&self) -> f64 {
        let counts = &self.counts;
        let asked_for = counts.bad_sent.saturating_sub(counts.bad_accepted);
        let errors = (counts.rejected + counts.unanswered).saturating_sub(asked_for);
        lossy(errors) / lossy(counts.sent.max(1))
    }
}

impl Record {
    /// `id 7` of a ride, `courier x` of a command.
    pub(super) fn resource(&self) -> Option<String> {
        match (&self.courier_id, self.id) {
            (Some(id), _) => Some(format!("courier {id}")),
            (None, Some(id)) => Some(format!("id {id}")),
            (None, None) => None,
        }
    }
}

impl CourierDifference {
    /// What it is, and what it should be.
    pub(crate) fn describe(&self) -> String {
        let side = |available: Option<i64>, version: Option<i64>| match (available, version) {
            (Some(available), Some(version)) => {
                format!("{available} litres available in version {version}")
            }
            _ => "gone".to_owned(),
        };
        format!(
            "courier {} is {}, should be {}",
            self.courier_id,
            side(self.available, self.version),
            side(self.expected_available, self.expected_version)
        )
    }
}

impl Load {
    /// `steady, 5,000/s for 40 s, single, HTTP/1.1 on 64 connections, seed 1`.
    pub(super) fn describe(&self) -> String {
        let mut parts = vec![self.profile.clone()];
        let pace = match (self.target_rate, self.closed) {
            (Some(target_rate), _) => Some(rate(target_rate)),
            (None, Some(closed)) => Some(format!("{} requests in flight", count(closed))),
            (None, None) => None,
        };
        let time = self
            .target_seconds
            .map(|seconds| format!("for {}", moment(seconds)));
        let pace: Vec<_> = [pace, time].into_iter().flatten().collect();
        if !pace.is_empty() {
            parts.push(pace.join(" "));
        }
        parts.push(match self.batch_records {
            0 | 1 => self.body.clone(),
            records => format!("{} of {}", self.body, count(records)),
        });
        if let Some(couriers) = self.mix.get("couriers") {
            parts.push(format!("{} commands to couriers", share(*couriers)));
        }
        parts.push(format!(
            "HTTP/{} on {} connections",
            self.http_version,
            count(self.connections)
        ));
        parts.push(format!("seed {}", self.seed));
        parts.join(", ")
    }
}

impl Objective {
    /// What was measured, in the metric's unit.
    pub(crate) fn actual_text(&self) -> String {
        let Some(actual) = self.actual else {
            return "not measured".into();
        };
        match self.metric.as_str() {
            "errors" | "rate" => share(actual),
            metric if metric.contains('.') => maybe_ms(Some(actual)),
            _ => short(actual),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::report::sample;

    #[test]
    fn a_server_that_was_away_for_a_while_is_averaged_over_the_rest() {
        let report = sample::run();
        let uses = report.server_uses();
        assert_eq!(uses.len(), 5);
        let worker = uses["worker"];
        assert!(worker.cpu_cores_mean.unwrap() > 0.1);
        assert!(worker.cpu_cores_max.unwrap() > worker.cpu_cores_mean.unwrap());
    }

    #[test]
    fn what_was_spoiled_on_purpose_is_no_error() {
        let mut report = sample::run();
        report.counts.rejected = 30;
        report.counts.unanswered = 0;
        report.counts.sent = 1_000;
        assert_eq!(report.error_share(), 0.03);
        report.counts.bad_sent = 30;
        assert_eq!(report.error_share(), 0.0);
    }
}
