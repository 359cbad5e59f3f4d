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
use std::time::Duration;

use contract::{Partition, TrackingId};
use tokio::sync::watch;
use tokio::time::Instant;
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
pub(crate) mod room;

/// How often the same reason is logged again.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// How often waiting events are counted, while there are any: it reads them.
const COUNT_EVERY: Duration = Duration::from_secs(10);

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

/// Relays a partition's events until the handle is dropped. A relay that panics is followed by
/// another: persisting goes on without it, so nothing else would notice.
pub(crate) fn spawn(
    place: &Arc<Workplace>,
    partition: Partition,
    pulse: Pulse,
    waker: &Waker,
) -> AbortOnDropHandle<()> {
    let place = Arc::clone(place);
    let openings = waker.openings.subscribe();
    let relay = move || Relay {
        place: Arc::clone(&place),
        partition,
        pulse: pulse.clone(),
        openings: openings.clone(),
        failures: 0,
        told: None,
        counted: None,
        backoff: Backoff::new(),
    };
    let relays = async move {
        let mut backoff = Backoff::new();
        while let Err(error) = AbortOnDropHandle::new(tokio::spawn(relay().relay())).await {
            meter::retried("relay");
            tracing::error!(%partition, %error, "the partition's relay failed and is started anew");
            tokio::time::sleep(backoff.pause()).await;
        }
    };
    AbortOnDropHandle::new(tokio::spawn(relays))
}

struct Relay {
    place: Arc<Workplace>,
    partition: Partition,
    pulse: Pulse,
    openings: watch::Receiver<u64>,
    /// In a row.
    failures: u32,
    /// The reason that was logged last, and when.
    told: Option<(String, Instant)>,
    counted: Option<Instant>,
    backoff: Backoff,
}

impl Relay {
    async fn relay(mut self) {
        loop {
            let end = match self.session().await {
                Ok(never) => match never {},
                Err(End::WorkerEnded) => return,
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
        self.waiting(&outbox, &outbox.read(Key::FIRST).await?)
            .await?;
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
                self.waiting(&outbox, &rows).await?;
                publisher.publish(&rows).await?;
                meter::events_relayed(rows.len());
                next = last.next();
                rows = outbox.remove_and_read(rows[0].key, next).await?;
                self.goes_well();
            }
            self.waiting(&outbox, &[]).await?;
            self.goes_well();
            if self.openings.changed().await.is_err() {
                return Err(End::WorkerEnded);
            }
        }
    }

    /// Says that these are the oldest that wait, and now and then how many there are.
    async fn waiting(&mut self, outbox: &Outbox, oldest_rows: &[Row]) -> Result<(), End> {
        self.pulse.relaying(oldest(oldest_rows));
        if oldest_rows.is_empty() {
            meter::events_waiting(self.partition, 0);
        } else if self.counted.is_none_or(|at| at.elapsed() >= COUNT_EVERY) {
            meter::events_waiting(self.partition, outbox.count().await?);
            self.counted = Some(Instant::now());
        }
        Ok(())
    }

    fn goes_well(&mut self) {
        if self.told.take().is_some() {
            tracing::info!(partition = %self.partition, "events are relayed again");
        }
        self.failures = 0;
        self.backoff.reset();
    }

    /// Says why a session ended, to the log and the metrics. Not to `/readyz`: records are
    /// persisted all the same, and a worker that is not ready for as long as a stream is full
    /// would hold up the very rollout that mends it.
    fn tell(&mut self, end: &End) {
        let partition = self.partition;
        if matches!(end, End::LeaseElsewhere | End::WorkerEnded) {
            return;
        }
        meter::retried("events");
        self.failures += 1;
        let reason = end.to_string();
        if matches!(end, End::Publish(PublishError::Fenced)) && self.failures == 1 {
            tracing::info!(%partition, reason, "putting up a new fence");
            return;
        }
        let is_news = self
            .told
            .as_ref()
            .is_none_or(|(told, at)| *told != reason || at.elapsed() >= TELL_EVERY);
        if is_news {
            tracing::warn!(%partition, failures = self.failures, reason, "events wait in the outbox");
            self.told = Some((reason, Instant::now()));
        }
    }
}

/// When the command of the first of them was accepted, in microseconds since the Unix epoch.
fn oldest(rows: &[Row]) -> Option<i64> {
    let (tracking_id, _) = rows.first()?.event_id.split_once('/')?;
    let tracking_id: TrackingId = tracking_id.parse().ok()?;
    i64::try_from(tracking_id.unix_ms() * 1_000).ok()
}
