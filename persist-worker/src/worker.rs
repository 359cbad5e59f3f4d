//! The whole story of one partition, in call order: [`Worker::session`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use chassis::readiness::{Condition, Readiness};
use contract::Partition;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::apply::Applier;
use crate::backoff::Backoff;
use crate::batch::{Applied, ApplyError, Cursor};
use crate::caretaker::{self, Committed};
use crate::database::{Database, DatabaseError};
use crate::feed::{Feed, FeedEnd, ReopenCause};
use crate::gather::{Batches, Gathered};
use crate::held::HeldReason;
use crate::log::{Log, LogError};
use crate::meter;
use crate::pulse::Pulse;
use crate::relay::{self, Waker};
use crate::writer::{Progress, Writer, WriterError};

/// How often a held partition is looked at again.
const HELD_LOOK_EVERY: Duration = Duration::from_secs(3);
/// How often a batch that the database refuses for good is tried again: it costs dead rows.
const REFUSED_LOOK_EVERY: Duration = Duration::from_secs(15);
/// Failures in a row after which `/readyz` names the partition: one or two are a reconnect.
const FAILURES_TOLD: u32 = 3;

/// What all partitions of a worker share.
pub(crate) struct Workplace {
    pub(crate) log: Log,
    pub(crate) database: Database,
    pub(crate) readiness: Readiness,
    /// This process in `leases`.
    pub(crate) owner: String,
    /// How long the log keeps what is committed.
    pub(crate) log_retain: Duration,
    /// Whether rides give events too.
    pub(crate) ride_events: bool,
    /// One permit per batch of events that is being published.
    pub(crate) event_batches: Semaphore,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("asked to stop")]
    Stopped,
    #[error("the lease is somebody else's")]
    LeaseLost,
    #[error("fetching is opened anew: {0}")]
    Reopen(ReopenCause),
    #[error("held: {0}")]
    Held(HeldReason),
    #[error(transparent)]
    Log(LogError),
    #[error(transparent)]
    Database(DatabaseError),
    #[error(transparent)]
    Writer(WriterError),
    #[error("{0}")]
    Apply(ApplyError),
}

/// One partition's worker, for as long as it has the lease.
pub(crate) struct Worker {
    place: Arc<Workplace>,
    partition: Partition,
    stop: CancellationToken,
    pulse: Pulse,
    applier: Applier,
    relay: Waker,
    /// Kept while only fetching is opened anew.
    writer: Option<Writer>,
    condition: Condition,
    failures: u32,
    backoff: Backoff,
}

impl Worker {
    pub(crate) fn new(
        place: Arc<Workplace>,
        partition: Partition,
        stop: CancellationToken,
        pulse: Pulse,
    ) -> Self {
        let condition = place
            .readiness
            .condition(format!("partition-{:03}", partition.0));
        Self {
            applier: Applier::new(partition, place.ride_events),
            place,
            partition,
            stop,
            pulse,
            relay: Waker::new(),
            writer: None,
            condition,
            failures: 0,
            backoff: Backoff::new(),
        }
    }

    /// Works until asked to stop or until the lease is lost; the transaction in flight is always
    /// waited for.
    pub(crate) async fn work(mut self) {
        let _relay = relay::spawn(&self.place, self.partition, self.pulse.clone(), &self.relay);
        loop {
            let end = match self.session().await {
                Ok(never) => match never {},
                Err(end) => end,
            };
            let pause = match &end {
                End::Stopped | End::LeaseLost => break,
                End::Held(HeldReason::Database(_)) => REFUSED_LOOK_EVERY,
                End::Held(_) => HELD_LOOK_EVERY,
                _ => self.backoff.pause(),
            };
            self.tell(&end);
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.condition.ready();
        meter::held(self.partition, false);
    }

    /// From a writer to the end of fetching. Whatever is odd ends it, and the next one begins with
    /// the cursor as the database has it: whether a commit that got no answer happened is seen
    /// there.
    async fn session(&mut self) -> Result<Infallible, End> {
        let stop = self.stop.clone();
        let opened = tokio::select! {
            () = stop.cancelled() => return Err(End::Stopped),
            opened = self.open() => opened?,
        };
        let (mut writer, progress, feed) = opened;
        self.opened(progress.last_seq());
        let mut cursor = Cursor {
            last_seq: progress.last_seq_stored(),
        };
        let (committed, seen) = watch::channel(Committed::so_far(progress.last_seq()));
        let _caretaker = caretaker::spawn(&self.place, self.partition, progress.incarnation, seen);
        let mut batches = Batches::of(self.partition, feed);
        loop {
            let gathered = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(End::Stopped),
                gathered = batches.next() => gathered,
            };
            let gathered = match gathered {
                Ok(gathered) => gathered,
                Err(end) => {
                    // The database is not at fault: its connection serves the next session.
                    self.writer = Some(writer);
                    return Err(end.into());
                }
            };
            let applied = self.apply(&mut writer, cursor, &gathered).await?;
            cursor.last_seq = applied.last_seq;
            committed.send_replace(Committed::by(&gathered));
        }
    }

    async fn open(&mut self) -> Result<(Writer, Progress, Feed), End> {
        let place = Arc::clone(&self.place);
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => Writer::open(&place.database, self.partition, &place.owner).await?,
        };
        let progress = writer.progress().await?.ok_or(HeldReason::NoProgress)?;
        match Feed::open(&place.log, self.partition, &progress).await {
            Ok(feed) => Ok((writer, progress, feed)),
            Err(end) => {
                self.writer = Some(writer);
                Err(end.into())
            }
        }
    }

    async fn apply(
        &mut self,
        writer: &mut Writer,
        cursor: Cursor,
        gathered: &Gathered,
    ) -> Result<Applied, ApplyError> {
        let batch = &gathered.batch;
        let began = Instant::now();
        let transaction = self.pulse.transaction(gathered.oldest_us());
        let applied = self.applier.apply(writer.client(), cursor, batch).await;
        drop(transaction);
        meter::transaction(began.elapsed());
        let applied = applied?;
        self.relay.committed();
        meter::applied(batch, gathered.pending);
        self.pulse
            .applied(gathered.stored_at_us(), gathered.pending == 0);
        self.failures = 0;
        self.backoff.reset();
        self.condition.ready();
        Ok(applied)
    }

    /// Cursor and log fit; whether the database takes batches is seen at the first one.
    fn opened(&mut self, last_seq: u64) {
        self.relay.opened();
        meter::held(self.partition, false);
        if self.failures < FAILURES_TOLD {
            self.condition.ready();
        }
        tracing::info!(partition = %self.partition, last_seq, "reading the log after the cursor");
    }

    /// Says why a session ended, to the log, the metrics and `/readyz`.
    fn tell(&mut self, end: &End) {
        let partition = self.partition;
        self.pulse.hindered();
        match end {
            End::Stopped | End::LeaseLost => {}
            End::Held(reason) => {
                meter::held(partition, true);
                self.condition.not_ready(reason.to_string());
                return;
            }
            End::Reopen(cause) => meter::reopened(cause),
            End::Log(_) => meter::retried("log"),
            End::Database(_) => meter::retried("database"),
            End::Writer(_) => meter::retried("writer"),
            End::Apply(_) => meter::retried("batch"),
        }
        self.failures += 1;
        tracing::warn!(%partition, failures = self.failures, reason = %end, "opening the partition anew");
        if self.failures >= FAILURES_TOLD {
            self.condition.not_ready(end.to_string());
        }
    }
}

impl From<FeedEnd> for End {
    fn from(end: FeedEnd) -> Self {
        match end {
            FeedEnd::Reopen(cause) => Self::Reopen(cause),
            FeedEnd::Held(reason) => Self::Held(reason),
            FeedEnd::Log(error @ LogError::NoStream(_)) => Self::Held(HeldReason::NoStream(error)),
            FeedEnd::Log(error) => Self::Log(error),
        }
    }
}

impl From<HeldReason> for End {
    fn from(reason: HeldReason) -> Self {
        Self::Held(reason)
    }
}

impl From<DatabaseError> for End {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Unsafe { .. } => Self::Held(HeldReason::Database(error.to_string())),
            _ => Self::Database(error),
        }
    }
}

impl From<WriterError> for End {
    fn from(error: WriterError) -> Self {
        match error {
            WriterError::LeaseLost(_) => Self::LeaseLost,
            WriterError::Database(error) => error.into(),
            WriterError::BackendStays { .. } => Self::Writer(error),
        }
    }
}

impl From<ApplyError> for End {
    fn from(error: ApplyError) -> Self {
        match &error {
            // The lease is read again with the next writer: not the owner, stop.
            ApplyError::CursorMoved { .. } | ApplyError::Transient { .. } => Self::Apply(error),
            ApplyError::Installation(fault) => {
                Self::Held(HeldReason::Database(format!("{error}: {fault}")))
            }
            ApplyError::TooManyBad { .. } | ApplyError::UnknownHashVersion { .. } => {
                Self::Held(HeldReason::Database(error.to_string()))
            }
        }
    }
}
