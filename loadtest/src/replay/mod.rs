//! `loadtest replay FILE`: push a recorded file, follow every tracking id, close the books.

pub(crate) mod answer;
mod args;
mod convert;
mod couriers;
mod file;
mod follow;
pub(crate) mod preflight;
mod progress;
mod push;
mod reconcile;
mod report;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;

pub use answer::ItemAnswer;
pub use args::ReplayArgs;
pub use couriers::{CourierCheck, Unchecked};
pub use file::{FileError, Format, RowId};
pub use preflight::PreflightError;
pub use push::{BodyKind, SendMethod};
pub use reconcile::{Doubled, DoubledKind, Missing, Outcome, Reconciliation, Status, reconcile};
pub use report::{DoubledIds, MissingId, REPORT_VERSION, Report};

use crate::output::{OutputError, Replacement};
use crate::signals::Signals;
use file::Rows;
use follow::follow;
use progress::{Counters, Display};
use push::push;
use report::{Setting, write_outcomes};

/// The replay ran and the books do not balance.
const EXIT_DOES_NOT_ADD_UP: u8 = 2;

/// The replay could not be run, or its result not be written.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The recorded file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The services.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// `--json` or `--outcomes`.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Runs the command and prints: 0 when it adds up, 1 when it could not run or was interrupted, 2
/// when it does not add up; leaves with 64 when flags do not fit each other.
pub async fn main(args: ReplayArgs) -> ExitCode {
    match run(args).await {
        Ok(report) => {
            // A reader that has gone away (`| head`) must not turn into a panic.
            let _ = writeln!(std::io::stdout(), "{report}");
            if !report.adds_up {
                return ExitCode::from(EXIT_DOES_NOT_ADD_UP);
            }
            if report.interrupted {
                return ExitCode::FAILURE;
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The whole replay, in order.
///
/// # Errors
/// Before anything is sent: when the file, the services or the places of the results are not as
/// they must be. After it: when the results cannot be written.
pub async fn run(args: ReplayArgs) -> Result<Report, ReplayError> {
    let settings = args.settle();
    let rows = Rows::read(&args.file, &settings.reading)?;
    let json = args.json.as_deref().map(Replacement::create).transpose()?;
    let outcomes = args
        .outcomes
        .as_deref()
        .map(Replacement::create)
        .transpose()?;
    let (plan, following) = settings.plan(rows);
    preflight::check(&plan, &following).await?;

    let signals = Signals::listen();
    let counters = Arc::new(Counters::default());
    let display = Display::start(plan.rows.len(), Arc::clone(&counters));
    display.say(&plan.summary());
    let started_at = Timestamp::now();
    let pushed = push(&plan, &counters, &signals.stop_sending).await;
    if signals.stop_sending.is_begun() {
        display.say("interrupted: following what was accepted; once more to stop that too");
    }
    let followed = follow(
        &following,
        &pushed.answers,
        &counters,
        &signals.stop_following,
    )
    .await;
    let couriers = couriers::check(&plan, &following, &pushed.answers, &followed.outcomes).await;
    drop(display);

    let books = reconcile(&pushed.sent, &pushed.answers, &followed.outcomes);
    let setting = Setting {
        file: &args.file,
        started_at,
        interrupted: signals.stop_sending.is_begun(),
    };
    let report = Report::new(&setting, &plan.rows, &pushed, &followed, books, couriers);
    if let Some(file) = outcomes {
        file.finish(|to| write_outcomes(to, &plan.rows, &pushed.answers, &followed.outcomes))?;
    }
    if let Some(file) = json {
        file.finish(|to| Ok(serde_json::to_writer_pretty(to, &report)?))?;
    }
    Ok(report)
}
