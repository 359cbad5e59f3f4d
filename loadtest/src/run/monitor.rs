//! Looks on while something happens: each second into the series, several times a second to
//! whoever watches.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::engine::Engine;
use super::follow::Following;
use super::honesty::{Lateness, Threads};
use super::pace::Pace;
use super::servers::Servers;
use super::tally::{Durations, Tally};
use crate::report::schema::Second;
use crate::report::terminal::{Display, Snapshot};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);

/// What was counted over some time.
#[derive(Clone, Default, Debug)]
pub(crate) struct Totals {
    pub(crate) tally: Tally,
    pub(crate) visible: Durations,
    pub(crate) lateness: Lateness,
}

pub(crate) struct Monitor {
    engine: Arc<Engine>,
    following: Option<Arc<Following>>,
    servers: Option<Servers>,
    display: Display,
    threads: Threads,
    started: Instant,
    target_seconds: Option<f64>,
    /// What is sent by just now, and how many of its requests were due before this second.
    pace: Option<(Arc<Pace>, u64)>,
    /// Requests that were due in this second by what was sent by before.
    carried: u64,
    series: Vec<Second>,
    /// Of this second so far.
    second: Totals,
    run: Totals,
    /// Since it was taken last.
    step: Totals,
    sent_before: u64,
    persisted_before: u64,
    last: Snapshot,
}

impl Monitor {
    pub(crate) fn start(
        engine: Arc<Engine>,
        following: Option<Arc<Following>>,
        servers: Option<Servers>,
        target_seconds: Option<f64>,
        display: Display,
        started: Instant,
    ) -> Self {
        Self {
            engine,
            following,
            servers,
            display,
            threads: Threads::new(),
            started,
            target_seconds,
            pace: None,
            carried: 0,
            series: Vec::new(),
            second: Totals::default(),
            run: Totals::default(),
            step: Totals::default(),
            sent_before: 0,
            persisted_before: 0,
            last: Snapshot::default(),
        }
    }

    pub(crate) fn say(&self, line: &str) {
        self.display.say(line);
    }

    /// From now on, this says what is due.
    pub(crate) fn paced_by(&mut self, pace: &Arc<Pace>) {
        if let Some((before, counted)) = self.pace.take() {
            self.carried += before.due_by(Instant::now()).saturating_sub(counted);
        }
        self.pace = Some((Arc::clone(pace), 0));
    }

    /// From now on, ids are followed and nothing is sent.
    pub(crate) fn now_following(&mut self) {
        self.last.following = true;
    }

    /// Looks on until `future` is done.
    pub(crate) async fn during<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                done = &mut future => return done,
                _ = look.tick() => self.look(),
            }
        }
    }

    fn look(&mut self) {
        self.engine.drain_counts(&mut self.second.tally);
        if let Some(following) = &self.following {
            following.drain_visible(&mut self.second.visible);
        }
        while self.started.elapsed() >= SECOND * (self.number() + 1) {
            self.end_second();
        }
        self.show();
    }

    fn number(&self) -> u32 {
        u32::try_from(self.series.len()).expect("a century in seconds")
    }

    /// Closes the second that is over.
    fn end_second(&mut self) {
        let interval = self.threads.interval();
        let ended = self.started + SECOND * (self.number() + 1);
        let batch = self.engine.generator.recipe().batch;
        let mut intended = std::mem::take(&mut self.carried);
        if let Some((pace, before)) = &mut self.pace {
            let due = pace.due_by(ended);
            intended += due.saturating_sub(*before);
            *before = due;
        }
        let mut totals = std::mem::take(&mut self.second);
        totals.lateness.add(&totals.tally, interval.busy);
        let sent = self.engine.sent();
        let tally = &totals.tally;
        let mut second = Second {
            second: u64::from(self.number()),
            intended: intended * batch,
            sent: sent - std::mem::replace(&mut self.sent_before, sent),
            accepted: tally.accepted,
            rejected: tally.rejected,
            unanswered: tally.unanswered,
            errors: tally.errors_by_kind(),
            in_flight: self.engine.in_flight(),
            corrected: tally.corrected.quick(),
            uncorrected: tally.uncorrected.quick(),
            behind_ms: tally.behind_max.as_secs_f64() * 1e3,
            generator_cpu_cores: interval.cores,
            ..Second::default()
        };
        if let Some(following) = &self.following {
            let persisted = following.persisted();
            second.persisted =
                Some(persisted - std::mem::replace(&mut self.persisted_before, persisted));
            second.delay_ms = Some(lossy(following.oldest_ms()));
        }
        if let Some(servers) = &self.servers {
            second.servers = servers.used();
        }
        self.last.p50_ms = second.corrected.map(|it| it.p50_ms);
        self.last.p99_ms = second.corrected.map(|it| it.p99_ms);
        self.last.behind_ms = second.behind_ms;
        self.series.push(second);
        self.add(&totals);
    }

    fn add(&mut self, totals: &Totals) {
        for to in [&mut self.run, &mut self.step] {
            to.tally.merge(&totals.tally);
            to.visible.merge(&totals.visible);
            to.lateness.requests += totals.lateness.requests;
            to.lateness.late += totals.lateness.late;
            to.lateness.behind_max = to.lateness.behind_max.max(totals.lateness.behind_max);
        }
    }

    fn show(&mut self) {
        let now = Instant::now();
        let batch = lossy(self.engine.generator.recipe().batch);
        let mut tally = Tally::default();
        for part in [&self.run.tally, &self.second.tally] {
            tally.accepted += part.accepted;
            tally.rejected += part.rejected;
            tally.unanswered += part.unanswered;
            tally.not_sent += part.not_sent;
            super::tally::add_all(&mut tally.rejected_by, &part.rejected_by);
            super::tally::add_all(&mut tally.unanswered_by, &part.unanswered_by);
        }
        let rate = self.pace.as_ref().and_then(|(pace, _)| pace.rate(now));
        let following = self.following.as_ref();
        let snapshot = Snapshot {
            elapsed_seconds: (now - self.started).as_secs_f64(),
            target_seconds: self.target_seconds,
            target_rate: rate.map(|rate| rate * batch),
            sent: self.engine.sent(),
            accepted: tally.accepted,
            rejected: tally.rejected,
            unanswered: tally.unanswered,
            in_flight: self.engine.in_flight(),
            errors: tally.errors_by_kind(),
            persisted: following.map(|it| it.persisted()),
            delay_ms: following.map(|it| lossy(it.oldest_ms())),
            ..self.last.clone()
        };
        self.display.update(&snapshot);
    }

    /// Waits for the second to end, and returns what was counted since this was called last.
    pub(crate) async fn take_step(&mut self) -> Totals {
        let end = self.started + SECOND * (self.number() + 1);
        self.during(tokio::time::sleep_until(end.into())).await;
        self.look();
        std::mem::take(&mut self.step)
    }

    /// Where the run stands, seconds since it began.
    pub(crate) fn elapsed_seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Ends the second that is under way, and with it the run.
    pub(crate) fn finish(mut self) -> Seen {
        self.look();
        self.end_second();
        Seen {
            totals: self.run,
            series: self.series,
            versions: self
                .servers
                .as_ref()
                .map(Servers::versions)
                .unwrap_or_default(),
            cpu_share: self.threads.cpu_share(),
        }
    }
}

/// Everything seen, when it is over.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) totals: Totals,
    pub(crate) series: Vec<Second>,
    pub(crate) versions: std::collections::BTreeMap<String, String>,
    pub(crate) cpu_share: Option<f64>,
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn lossy(count: u64) -> f64 {
    count as f64
}
