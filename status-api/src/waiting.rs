//! Long polls: many requests wait, one task asks the database for all of them.
//!
//! A waiting request holds a place in a bounded table and no connection. The task looks all
//! waiting ids up in few statements, and rests at least four times as long as that took, so that
//! however many wait, they cost at most a fifth of one connection.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use contract::limits::LOOKUP_IDS_MAX;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::instant::Micros;
use crate::ledger::{Asked, Ledger, LedgerError};
use crate::observe::{self, Query};
use crate::standing::{Standing, judge};

/// Connections of the background pool: one for this, one for the monitor.
pub(crate) const BACKGROUND_CONNECTIONS: u32 = 2;

/// Least time between two look-ups of the same waiting id: what an outcome may be late.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How many times as long as the look-ups took the poller rests at least.
const REST_FACTOR: u32 = 4;

/// The table of those who wait.
pub(crate) struct Waiters {
    table: Mutex<Table>,
    places_max: usize,
    /// Wakes the poller when the table stops being empty.
    arrived: Notify,
}

#[derive(Default)]
struct Table {
    next_place: u64,
    waiting: BTreeMap<u64, Waiting>,
}

struct Waiting {
    asked: Asked,
    outcome: oneshot::Sender<Result<Standing, DatabaseAway>>,
}

/// The look-up failed while the request waited.
#[derive(Debug)]
struct DatabaseAway(Arc<LedgerError>);

/// How a wait ended without an outcome.
#[derive(Debug)]
pub(crate) enum NoOutcome {
    /// Still queued when the time was over.
    StillQueued,
    /// Every place is taken.
    Full,
    /// The database did not answer.
    DatabaseAway(Arc<LedgerError>),
}

impl Waiters {
    pub(crate) fn new(places_max: usize) -> Self {
        Self {
            table: Mutex::default(),
            places_max,
            arrived: Notify::new(),
        }
    }

    /// Waits until the request is queued no longer.
    ///
    /// # Cancel safety
    /// Dropping the future gives its place back.
    pub(crate) async fn wait(
        &self,
        asked: Asked,
        longest: Duration,
    ) -> Result<Standing, NoOutcome> {
        let (place, outcome) = self.enter(asked).ok_or(NoOutcome::Full)?;
        let ended = timeout(longest, outcome).await;
        drop(place);
        match ended {
            Ok(Ok(Ok(standing))) => Ok(standing),
            Ok(Ok(Err(DatabaseAway(error)))) => Err(NoOutcome::DatabaseAway(error)),
            // The poller is gone only when the process is.
            Ok(Err(_)) | Err(_) => Err(NoOutcome::StillQueued),
        }
    }

    #[allow(clippy::type_complexity)]
    fn enter(
        &self,
        asked: Asked,
    ) -> Option<(Place<'_>, oneshot::Receiver<Result<Standing, DatabaseAway>>)> {
        let (sender, receiver) = oneshot::channel();
        let mut table = self.table();
        if table.waiting.len() >= self.places_max {
            observe::long_poll_refused();
            return None;
        }
        let number = table.next_place;
        table.next_place += 1;
        table.waiting.insert(
            number,
            Waiting {
                asked,
                outcome: sender,
            },
        );
        observe::long_polls(table.waiting.len());
        drop(table);
        self.arrived.notify_one();
        Some((
            Place {
                waiters: self,
                number,
            },
            receiver,
        ))
    }

    fn leave(&self, number: u64) -> Option<Waiting> {
        let mut table = self.table();
        let left = table.waiting.remove(&number);
        observe::long_polls(table.waiting.len());
        left
    }

    fn snapshot(&self) -> Vec<(u64, Asked)> {
        self.table()
            .waiting
            .iter()
            .map(|(number, waiting)| (*number, waiting.asked))
            .collect()
    }

    fn settle(&self, number: u64, outcome: Result<Standing, DatabaseAway>) {
        if let Some(waiting) = self.leave(number) {
            // Whoever has just gone away does not read it.
            let _ = waiting.outcome.send(outcome);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change is one insertion or removal: a panic elsewhere leaves the table whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the table, given back when dropped.
struct Place<'a> {
    waiters: &'a Waiters,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiters.leave(self.number);
    }
}

/// Asks for all who wait; runs until it is aborted.
pub(crate) async fn run(waiters: Arc<Waiters>, ledger: Arc<Ledger>, ledger_retention: Duration) {
    loop {
        let waiting = waiters.snapshot();
        if waiting.is_empty() {
            waiters.arrived.notified().await;
            continue;
        }
        let started = Instant::now();
        for batch in waiting.chunks(LOOKUP_IDS_MAX) {
            poll(&waiters, &ledger, batch, ledger_retention).await;
        }
        sleep(POLL_INTERVAL.max(started.elapsed() * REST_FACTOR)).await;
    }
}

async fn poll(
    waiters: &Waiters,
    ledger: &Ledger,
    batch: &[(u64, Asked)],
    ledger_retention: Duration,
) {
    let asked: Vec<Asked> = batch.iter().map(|(_, asked)| *asked).collect();
    match ledger.look_up(&asked, Query::Poll).await {
        Ok(seen) => {
            let now = Micros::now();
            for ((number, asked), seen) in batch.iter().zip(seen) {
                let standing = judge(asked.id, seen, now, ledger_retention);
                if standing != Standing::Queued {
                    waiters.settle(*number, Ok(standing));
                }
            }
        }
        Err(error) => {
            let error = Arc::new(error);
            for (number, _) in batch {
                waiters.settle(*number, Err(DatabaseAway(Arc::clone(&error))));
            }
        }
    }
}
