//! How a run goes, on stderr: a live view for a person, now and then a line for a log.

/// Where a run stands. Counts are totals since sending began.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Snapshot {
    /// Since sending began.
    pub elapsed_seconds: f64,
    /// When sending will be over; `None` if nobody knows.
    pub target_seconds: Option<f64>,
    /// Records per second asked for just now; `None` for the closed model.
    pub target_rate: Option<f64>,
    /// Records sent.
    pub sent: u64,
    /// Records accepted.
    pub accepted: u64,
    /// Records refused.
    pub rejected: u64,
    /// Records given up.
    pub unanswered: u64,
    /// Requests in flight just now.
    pub in_flight: u64,
    /// Of the last whole second, from the moment requests were due, milliseconds.
    pub p50_ms: Option<f64>,
    /// Likewise.
    pub p99_ms: Option<f64>,
    /// By kind: problem codes and reasons together.
    pub errors: std::collections::BTreeMap<String, u64>,
    /// Records whose outcome is known to be persisted.
    pub persisted: Option<u64>,
    /// How far persisting lags behind accepting.
    pub delay_ms: Option<f64>,
    /// How far the generator is behind its schedule, milliseconds.
    pub behind_ms: f64,
}

/// The display; gone when dropped.
#[derive(Debug)]
pub struct Display {}

impl Display {
    /// On stderr: live if that is a terminal, else lines.
    #[must_use]
    pub fn start() -> Self {
        Self {}
    }

    /// Shows where the run stands; to be called several times a second, it draws as often as it
    /// makes sense.
    pub fn update(&mut self, snapshot: &Snapshot) {
        let _ = snapshot;
    }

    /// Writes a line without tearing the view.
    pub fn say(&self, line: &str) {
        eprintln!("{line}");
    }
}
