//! Brings committed events from the outbox to the log of events, in order: [`Relay::session`].
//!
//! Whoever has the lease relays. Two that believe so never reorder, whatever froze and thawed
//! between them: each begins with a fence on the log, and the log takes events only from the one
//! whose fence is the latest (see [`publisher`]). What is sent is always the outbox's oldest end,
//! a batch that the log stores as a whole or not at all, and the next one only once it is stored;
//! so what has arrived is at any time the beginning of what was committed. Persisting never waits
//! for any of this.

use std::convert::Infallible;
use std::sync::Arc;

use chassis::readiness::Condition;
use contract::{Partition, TrackingId};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::backoff::Backoff;
use crate::database::DatabaseError;
use crate::meter;
use crate::pulse::Pulse;
use crate::worker::Workplace;
use outbox::{Key, Outbox, Row};
use publisher::{PublishError, Publisher};

pub(crate) use publisher::BATCHES_IN_FLIGHT_MAX;

mod outbox;
mod publisher;

/// Failures in a row after which `/readyz` names the partition's events.
const FAILURES_TOLD: u32 = 3;

/// How a partition's worker tells its relay that there may be something to do.
#[derive(Debug)]
pub(crate) struct Waker {
    /// How many times the partition was opened.
    openings: watch::Sender<u64>,
}

impl Waker {
    pub(crate) fn new() -> Self {
        Self {
            openings: watch::Sender::new(0),
        }
    }

    /// The cursor was read anew: it may count in another stream than before, and the outbox's
    /// keys with it.
    pub(crate) fn opened(&self) {
        self.openings.send_modify(|openings| *openings += 1);
    }

    /// A batch is committed.
    pub(crate) fn committed(&self) {
        self.openings.send_modify(|_| ());
    }
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the lease is somebody else's")]
    LeaseElsewhere,
    #[error("the partition's worker has ended")]
    WorkerEnded,
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// Relays a partition's events until the handle is dropped.
pub(crate) fn spawn(
    place: &Arc<Workplace>,
    partition: Partition,
    pulse: Pulse,
    waker: &Waker,
) -> AbortOnDropHandle<()> {
    let name = format!("events-{:03}", partition.0);
    let relay = Relay {
        place: Arc::clone(place),
        partition,
        pulse,
        openings: waker.openings.subscribe(),
        condition: place.readiness.condition(name),
        failures: 0,
        backoff: Backoff::new(),
    };
    AbortOnDropHandle::new(tokio::spawn(relay.relay()))
}

struct Relay {
    place: Arc<Workplace>,
    partition: Partition,
    pulse: Pulse,
    openings: watch::Receiver<u64>,
    condition: Condition,
    failures: u32,
    backoff: Backoff,
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Whoever has the lease next tells of it.
        self.condition.ready();
    }
}

impl Relay {
    async fn relay(mut self) {
        loop {
            let end = match self.session().await {
                Ok(never) => match never {},
                Err(end) => end,
            };
            self.tell(&end);
            tokio::time::sleep(self.backoff.pause()).await;
        }
    }

    /// From a fence to the first thing that is odd: what became of a batch without an answer is
    /// not known, so the next session begins with a new fence and the outbox as it is.
    async fn session(&mut self) -> Result<Infallible, End> {
        let place = Arc::clone(&self.place);
        let outbox = Outbox::open(&place.database, self.partition).await?;
        if !outbox.belongs_to(&place.owner).await? {
            return Err(End::LeaseElsewhere);
        }
        // Told before the log is asked for anything: it may be what keeps them waiting.
        self.pulse.relaying(oldest(&outbox.read(Key::FIRST).await?));
        let publisher = Publisher::begin(&place, self.partition).await?;
        let mut opening = 0;
        let mut next = Key::FIRST;
        loop {
            // Looked at before the outbox: what is committed from here on wakes again.
            let seen = *self.openings.borrow_and_update();
            if seen != opening {
                (opening, next) = (seen, Key::FIRST);
            }
            let mut rows = outbox.read(next).await?;
            while let Some(last) = rows.last().map(|row| row.key) {
                self.pulse.relaying(oldest(&rows));
                publisher.publish(&rows).await?;
                meter::events_relayed(rows.len());
                next = last.next();
                rows = outbox.remove_and_read(rows[0].key, next).await?;
                self.goes_well();
            }
            self.pulse.relaying(None);
            self.goes_well();
            if self.openings.changed().await.is_err() {
                return Err(End::WorkerEnded);
            }
        }
    }

    fn goes_well(&mut self) {
        self.failures = 0;
        self.backoff.reset();
        self.condition.ready();
    }

    fn tell(&mut self, end: &End) {
        let partition = self.partition;
        if matches!(end, End::LeaseElsewhere | End::WorkerEnded) {
            return;
        }
        meter::retried("events");
        self.failures += 1;
        tracing::warn!(%partition, failures = self.failures, reason = %end, "events wait in the outbox");
        if self.failures >= FAILURES_TOLD {
            let reason = format!("events wait in the outbox: {end}");
            self.condition.not_ready(reason);
        }
    }
}

/// When the command of the first of them was accepted, in microseconds since the Unix epoch.
fn oldest(rows: &[Row]) -> Option<i64> {
    let (tracking_id, _) = rows.first()?.event_id.split_once('/')?;
    let tracking_id: TrackingId = tracking_id.parse().ok()?;
    i64::try_from(tracking_id.unix_ms() * 1_000).ok()
}
