//! `loadtest run`: puts load on an installation by a schedule that nothing can move, follows every
//! tracking id to its outcome, and says what the figures are worth.
//!
//! In call order: `settings` (what was asked for), `generate` (bodies, before the first is due),
//! `schedule` (when each request is due), `pace` (the gate that opens by it), `engine` (the
//! connections behind the gate), `follow` and `books` (what became of every id), `fleet` and
//! `accounts` (whether the couriers are what their commands make them), `honesty` (whether
//! the generator kept its schedule), `slo`, and `outcome` (the report and the exit code).
//!
//! # Why an open model, and from when latency counts
//!
//! Users do not wait for each other. So when a request is due follows from the profile alone, and
//! its latency counts from that moment: while a server stands still, requests go on being due, and
//! each of them waits. The uncorrected latency, from the moment a request really went out, is shown
//! beside it, because it is what closed-loop tools print, and to show what they hide.
//!
//! # Backlog
//!
//! A request that is due while every connection is busy waits here. Nothing is queued for it: only
//! its number has not been taken yet, so a backlog costs no memory. One that has waited for the
//! whole `--timeout` is never sent and counts as an error, `not-sent`. That bounds both the backlog
//! and the time a run may take after its schedule has ended.
//!
//! # Validity
//!
//! See `honesty`: lateness for want of a connection is the server's, lateness for want of CPU is
//! the generator's and makes the run invalid, exit 3.

mod accounts;
mod actions;
mod args;
mod books;
mod capacity;
mod engine;
mod fleet;
mod follow;
mod generate;
mod honesty;
mod http1;
mod http2;
mod mix;
mod monitor;
mod outcome;
mod pace;
mod prepare;
mod schedule;
mod send;
mod servers;
mod settings;
mod slo;
pub(crate) mod source;
mod tally;
mod transport;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use chassis::shutdown::Shutdown;
use jiff::Timestamp;
use tokio::task::JoinHandle;

pub use args::{Mix, RunArgs};
pub use generate::Body;
pub use slo::Slo;

use crate::output::{OutputError, Replacement};
use crate::replay::PreflightError;
use crate::report::schema::Action;
use crate::report::terminal::Display;
use crate::report::{RunReport, html};
use crate::signals::Signals;
use actions::ActionError;
use engine::{Engine, Unanswered};
use follow::count_stored;
use monitor::Monitor;
use outcome::Facts;
use prepare::{Followers, prepare};
use send::Sender;
use settings::Settings;

/// From preparations to the first request that is due, so that it is not late.
const LEAD: Duration = Duration::from_millis(50);

/// A follower that was later than this with a question says so.
const LAG_SAID_MIN: Duration = Duration::from_millis(250);

/// The run could not be made, or its report not be written.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The services.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// No connection of the pool opened.
    #[error("cannot connect to {url} with HTTP/{http}, nothing was sent")]
    Connect {
        /// The gateway.
        url: String,
        /// The version asked for.
        http: u8,
    },
    /// The seed's first ride is stored already, or its couriers have been changed.
    #[error(
        "seed {seed} was used against this installation before, and its records would all be \
         duplicates: leave --seed out, or take another; nothing was sent but couriers' creations"
    )]
    SeedUsed {
        /// The seed.
        seed: u64,
    },
    /// The couriers of the mix.
    #[error("cannot prepare the couriers, nothing else was sent: {0}")]
    Fleet(String),
    /// `--database-url`.
    #[error("cannot follow ids in the database, nothing was sent: {0}")]
    Database(#[source] tokio_postgres::Error),
    /// `--at`.
    #[error("cannot do what --at asks for, nothing was sent: {0}")]
    Action(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No thread for the pace.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] std::io::Error),
    /// `--json` or `--html`.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl From<ActionError> for RunError {
    fn from(error: ActionError) -> Self {
        Self::Action(Box::new(error))
    }
}

/// Runs the command and prints: 0 when all objectives are met and the books balance, 1 when it
/// could not run or was interrupted, 2 when not, 3 when the generator fell behind; leaves with 64
/// when flags do not fit each other.
pub async fn main(args: RunArgs) -> ExitCode {
    match run(args.settle()).await {
        Ok((report, files)) => {
            // A reader that has gone away (`| head`) must not turn into a panic.
            let _ = writeln!(std::io::stdout(), "{report}");
            match files.write(&report) {
                Ok(()) => ExitCode::from(report.exit_code),
                Err(error) => fail(&error.into()),
            }
        }
        Err(error) => fail(&error),
    }
}

fn fail(error: &RunError) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// Where the report goes, proved writable before the run.
struct Files {
    json: Option<Replacement>,
    html: Option<Replacement>,
}

impl Files {
    fn create(settings: &Settings) -> Result<Self, OutputError> {
        let create = |path: &Option<std::path::PathBuf>| {
            path.as_deref().map(Replacement::create).transpose()
        };
        Ok(Self {
            json: create(&settings.json)?,
            html: create(&settings.html)?,
        })
    }

    fn write(self, report: &RunReport) -> Result<(), OutputError> {
        if let Some(file) = self.json {
            file.finish(|to| to.write_all(report.to_json().as_bytes()))?;
        }
        if let Some(file) = self.html {
            file.finish(|to| to.write_all(html::render(report).as_bytes()))?;
        }
        Ok(())
    }
}

/// The whole run, in order.
async fn run(settings: Settings) -> Result<(RunReport, Files), RunError> {
    let files = Files::create(&settings)?;
    let signals = Signals::listen();
    let display = Display::start();
    display.say(&settings.summary());
    let ready = prepare(&settings).await?;
    let engine = ready.engine;

    let started_at = Timestamp::now();
    let started = Instant::now() + LEAD;
    let followers = Followers::start(&settings, &engine, ready.sources, started, &signals);
    let following = followers.following();
    let actions = Actions::start(&settings, started);
    let mut monitor = Monitor::start(
        engine.clone(),
        following.clone(),
        ready.servers,
        settings.target_seconds(),
        display,
        started,
    );
    let sender = Sender {
        settings: &settings,
        engine: &engine,
        following,
        stop: &signals.stop_sending,
    };
    let sent = sender.send(&mut monitor, ready.transports, started).await?;
    let interrupted = signals.stop_sending.is_begun();
    if interrupted {
        monitor.say("interrupted: following what was accepted; once more to stop that too");
    }
    let actions = actions.finish().await;

    monitor.now_following();
    let followed = monitor.during(followers.finish(&engine)).await;
    if let Some(lag) = followed
        .as_ref()
        .map(|it| it.lag_max)
        .filter(|it| *it > LAG_SAID_MIN)
    {
        monitor.say(&format!(
            "looking up fell behind: visible is up to {lag:?} too long"
        ));
    }
    let unanswered = engine.take_unanswered();
    let look = look_for_unanswered(&settings, &engine, &unanswered, &signals);
    let stored = monitor.during(look).await;
    let couriers = match &ready.witnesses {
        Some(witnesses) => {
            let reading = fleet::states(&settings, engine.generator.fleet(), witnesses);
            Some(monitor.during(reading).await)
        }
        None => None,
    };
    let facts = Facts {
        settings: &settings,
        engine: &engine,
        started_at,
        interrupted,
        sent,
        actions,
        followed,
        unanswered,
        stored,
        couriers,
        seen: monitor.finish(),
    };
    Ok((facts.report(), files))
}

/// How many unanswered rides and new couriers are stored after all, once nothing more can come of them; `None`
/// if nobody can tell.
async fn look_for_unanswered(
    settings: &Settings,
    engine: &Engine,
    unanswered: &[Unanswered],
    signals: &Signals,
) -> Option<u64> {
    let last = unanswered.iter().map(|it| it.at).max()?;
    let until = last + settings.unanswered_wait;
    let lookups = settings.lookups();
    if lookups.is_some() || settings.recipe.kinds.has_couriers() {
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => {}
            () = signals.stop_following.begun() => {}
        }
    }
    count_stored(engine, unanswered, lookups?, settings.timeout).await
}

/// What `--at` asks for, at work.
struct Actions {
    run_over: Shutdown,
    task: Option<JoinHandle<Vec<Action>>>,
}

impl Actions {
    fn start(settings: &Settings, started: Instant) -> Self {
        let run_over = Shutdown::new();
        let task = settings.stack.as_ref().map(|(path, _)| {
            let planned = settings.actions.clone();
            let acting = actions::perform(planned, path.clone(), started, run_over.clone());
            tokio::spawn(acting)
        });
        Self { run_over, task }
    }

    /// Thaws what is frozen, and says what was done.
    async fn finish(self) -> Vec<Action> {
        self.run_over.begin();
        match self.task {
            Some(task) => task.await.expect("actions do not panic"),
            None => Vec::new(),
        }
    }
}
