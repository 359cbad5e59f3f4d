//! Sending, by one schedule, in a closed loop, or step after step.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chassis::shutdown::Shutdown;

use super::RunError;
use super::capacity::{Search, Step};
use super::engine::Engine;
use super::follow::Following;
use super::monitor::{Monitor, Totals};
use super::pace::{Pace, Pacer};
use super::schedule::{Profile, Schedule};
use super::settings::{Model, Settings};
use super::slo::{Measured, explain};
use super::transport::Transport;
use crate::report::schema::{CapacityStep, FindCapacity, Objective};

/// How long after a step's end its backlog may still be sent: what has not gone out by then is
/// counted as never sent, and the step is over.
const STEP_GRACE: Duration = Duration::from_secs(1);
/// Longest wait between two steps for ids to settle.
const STEP_SETTLE_MAX: Duration = Duration::from_secs(30);
/// From a step's beginning to its first request.
const STEP_LEAD: Duration = Duration::from_millis(20);

/// What sending has come to.
#[derive(Debug)]
pub(super) struct Sent {
    /// Records.
    pub(super) intended: u64,
    /// From the first request due to the last answer.
    pub(super) elapsed: Duration,
    /// The time the schedule gave, as far as it was followed; `None` for the closed model.
    pub(super) scheduled: Option<Duration>,
    pub(super) capacity: Option<(FindCapacity, Vec<Objective>)>,
}

pub(super) struct Sender<'a> {
    pub(super) settings: &'a Settings,
    pub(super) engine: &'a Arc<Engine>,
    pub(super) following: Option<Arc<Following>>,
    pub(super) stop: &'a Shutdown,
}

impl Sender<'_> {
    /// Sends all there is to send, and waits for the answers.
    pub(super) async fn send(
        &self,
        monitor: &mut Monitor,
        transports: Vec<Transport>,
        started: Instant,
    ) -> Result<Sent, RunError> {
        let batch = self.settings.recipe.batch;
        let (pace, scheduled) = match &self.settings.model {
            Model::FindCapacity {
                first_rate,
                step_seconds,
            } => {
                let length = Duration::from_secs_f64(*step_seconds);
                return self
                    .search(monitor, transports, *first_rate, length, started)
                    .await;
            }
            Model::Open(profile) => {
                let schedule = Schedule::new(profile, batch);
                let length = schedule.length();
                (Pace::open(schedule, 0, started), Some(length))
            }
            Model::Closed { seconds } => {
                let until = started + Duration::from_secs_f64(*seconds);
                (Pace::closed(0, until), None)
            }
        };
        let pace = Arc::new(pace);
        self.drive(monitor, &pace, transports, None).await?;
        let ended = Instant::now();
        let elapsed = ended.saturating_duration_since(started);
        Ok(Sent {
            intended: pace.due_by(ended) * batch,
            elapsed,
            scheduled: scheduled.map(|length| length.min(elapsed)),
            capacity: None,
        })
    }

    /// Sends by one pace until it ends, `cut` has passed, or the user has had enough.
    async fn drive(
        &self,
        monitor: &mut Monitor,
        pace: &Arc<Pace>,
        transports: Vec<Transport>,
        cut: Option<Instant>,
    ) -> Result<Vec<Transport>, RunError> {
        let pacer = Pacer::start(pace).map_err(RunError::Thread)?;
        monitor.paced_by(pace);
        let stopping = async {
            let cut = async {
                match cut {
                    Some(cut) => tokio::time::sleep_until(cut.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.begun() => {}
                () = cut => {}
            }
            pace.stop();
            std::future::pending::<Infallible>().await
        };
        let driving = async {
            tokio::select! {
                transports = self.engine.drive(pace, transports) => transports,
                never = stopping => match never {},
            }
        };
        let transports = monitor.during(driving).await;
        drop(pacer);
        Ok(transports)
    }

    /// `find-capacity`.
    async fn search(
        &self,
        monitor: &mut Monitor,
        mut transports: Vec<Transport>,
        first_rate: f64,
        length: Duration,
        started: Instant,
    ) -> Result<Sent, RunError> {
        let mut search = Search::new(first_rate);
        let mut found = FindCapacity::default();
        let (mut kept, mut missed) = (Vec::new(), Vec::new());
        let (mut next_request, mut requests_intended) = (0, 0);
        while let Some(rate) = search.next_rate().filter(|_| !self.stop.is_begun()) {
            let profile = Profile::Steady {
                rate,
                seconds: length.as_secs_f64(),
            };
            let schedule = Schedule::new(&profile, self.settings.recipe.batch);
            let requests = schedule.requests();
            let begun = Instant::now() + STEP_LEAD;
            let from_seconds = monitor.elapsed_seconds();
            let pace = Arc::new(Pace::open(schedule, next_request, begun));
            let cut = begun + length + STEP_GRACE;
            transports = self.drive(monitor, &pace, transports, Some(cut)).await?;
            let elapsed = begun.elapsed();
            let taken = pace.next_request() - next_request;
            next_request = pace.next_request();
            if self.stop.is_begun() {
                requests_intended += taken;
                break;
            }
            requests_intended += requests;
            let between = (from_seconds, monitor.elapsed_seconds());
            monitor.during(self.settled()).await;
            let totals = monitor.take_step().await;
            let (step, judged) = self.judge(rate, &totals, (requests, taken), (length, elapsed));
            monitor.say(&describe(&step));
            found.steps.push(CapacityStep {
                from_seconds: between.0,
                to_seconds: between.1,
                ..step
            });
            search.note(judged.step);
            if judged.step == Step::Kept {
                kept = judged.objectives;
            } else {
                missed = judged.objectives;
            }
        }
        found.knee_rate = search.knee();
        found.limited_by_generator = search.limited_by_generator();
        let objectives = if search.knee().is_some() {
            kept
        } else {
            missed
        };
        Ok(Sent {
            intended: requests_intended * self.settings.recipe.batch,
            elapsed: started.elapsed(),
            scheduled: None,
            capacity: Some((found, objectives)),
        })
    }

    /// Waits until what a step had accepted has its outcomes, so that the next starts from rest.
    async fn settled(&self) {
        let Some(following) = &self.following else {
            return;
        };
        let accepted = async {
            // What was accepted last may not have been taken up yet: twice a look's distance.
            let mut look = tokio::time::interval(Duration::from_millis(50));
            let mut quiet = 0;
            while quiet < 3 {
                look.tick().await;
                quiet = if following.pending() == 0 {
                    quiet + 1
                } else {
                    0
                };
            }
        };
        tokio::select! {
            () = accepted => {}
            () = tokio::time::sleep(STEP_SETTLE_MAX) => {}
            () = self.stop.begun() => {}
        }
    }

    /// Holds a step against the objectives.
    fn judge(
        &self,
        rate: f64,
        totals: &Totals,
        (requests, taken): (u64, u64),
        (length, elapsed): (Duration, Duration),
    ) -> (CapacityStep, Judged) {
        let batch = self.settings.recipe.batch;
        let never = (requests - taken) * batch;
        let measured = measure(totals, requests * batch, never, length, elapsed);
        let generator = totals.lateness.judge(None);
        let slos = self.settings.objectives.iter();
        let objectives: Vec<_> = slos.map(|slo| slo.judge(&measured)).collect();
        // Losses are known at the end only.
        let first_missed = objectives.iter().find(|it| !it.met && it.metric != "lost");
        let (step, why) = match (generator.why, first_missed) {
            (Some(why), _) => (Step::Invalid, Some(why)),
            (None, Some(missed)) => (Step::Missed, Some(explain(missed))),
            (None, None) => (Step::Kept, None),
        };
        let report = CapacityStep {
            rate,
            accepted_rate: lossy(totals.tally.accepted) / elapsed.as_secs_f64().max(1e-9),
            accept_p50_ms: measured.accept.p50_ms,
            accept_p99_ms: measured.accept.p99_ms,
            error_share: measured.errors.unwrap_or_default(),
            kept: step == Step::Kept,
            why,
            ..CapacityStep::default()
        };
        (report, Judged { step, objectives })
    }
}

struct Judged {
    step: Step,
    objectives: Vec<Objective>,
}

/// What objectives are held against; `never` are records that were due and are not in the totals.
pub(super) fn measure(
    totals: &Totals,
    intended: u64,
    never: u64,
    scheduled: Duration,
    elapsed: Duration,
) -> Measured {
    let tally = &totals.tally;
    let share = |part: u64| lossy(part) / lossy(intended.max(1));
    let in_time = scheduled.as_secs_f64() / elapsed.as_secs_f64().max(1e-9);
    Measured {
        accept: tally.corrected.distribution().summary,
        visible: totals.visible.distribution().summary,
        errors: Some(share(tally.errors() + never)),
        lost: None,
        rate: Some(share(tally.accepted + tally.bad_rejected) * in_time.min(1.0)),
    }
}

fn describe(step: &CapacityStep) -> String {
    let p99 = step.accept_p99_ms;
    let p99 = p99.map_or_else(
        || "nothing accepted".to_owned(),
        |ms| format!("p99 {ms:.1} ms"),
    );
    match &step.why {
        None => format!("{:.0} records/s: kept, {p99}", step.rate),
        Some(why) => format!("{:.0} records/s: {p99}: {why}", step.rate),
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub(super) fn lossy(count: u64) -> f64 {
    count as f64
}
