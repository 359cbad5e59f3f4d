//! One partition's log, read in order from the cursor on.
//!
//! An ephemeral pull consumer without acknowledgements, opened anew whenever anything is odd; each
//! message is taken only if it is the very next. Opening compares the stream with the cursor.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::{BatchConfig, Config};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, ReplayPolicy};
use async_nats::jetstream::stream::Info;
use async_nats::{StatusCode, Subscriber};
use bytes::Bytes;
use contract::log::{StreamMetadata, stream_name};
use contract::{Partition, chunk};
use futures_util::StreamExt as _;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::batch::LoggedChunk;
use crate::held::HeldReason;
use crate::log::{Log, LogError, header, micros};
use crate::writer::Progress;

/// Messages asked for at a time, and again once half of them have come.
const PULL_MESSAGES: usize = 256;
/// Bytes asked for at a time, a few milliseconds' worth: bounds what waits in memory, per partition,
/// when the database is slow.
const PULL_BYTES: usize = 2 * 1024 * 1024;
/// How long a pull stands open; then the next is made.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// How often the server says that it is there while there is nothing to deliver.
const IDLE_HEARTBEAT: Duration = Duration::from_millis(500);
/// Two missed heartbeats, with a little for the way.
const SILENCE_MAX: Duration = Duration::from_millis(1_100);
/// How long the stream may be ahead with nothing delivered.
const STALL_MAX: Duration = Duration::from_secs(1);
/// How long the server keeps a consumer that nobody pulls from. Longer than a pull: one that waits
/// for a slow database must not lose it.
const INACTIVE_MAX: Duration = Duration::from_secs(45);

/// Why fetching ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FeedEnd {
    /// Open it again: nothing is known to be wrong.
    #[error("{0}")]
    Reopen(ReopenCause),
    /// Nothing may be applied.
    #[error(transparent)]
    Held(#[from] HeldReason),
    /// The log did not answer.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Why a consumer was given up.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ReopenCause {
    #[error("the connection to the log was made anew")]
    Reconnected,
    #[error("the log stayed silent: two heartbeats were missed")]
    Silent,
    #[error("the stream is ahead, but nothing was delivered for a second")]
    Stalled,
    #[error("the log ended the pull: {0}")]
    Status(String),
    #[error("message {found} was delivered where {expected} comes next")]
    OutOfOrder { expected: u64, found: u64 },
    #[error("the subscription ended")]
    Unsubscribed,
}

impl ReopenCause {
    /// The label in metrics.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Reconnected => "reconnected",
            Self::Silent => "silent",
            Self::Stalled => "stalled",
            Self::Status(_) => "status",
            Self::OutOfOrder { .. } => "out_of_order",
            Self::Unsubscribed => "unsubscribed",
        }
    }
}

/// A chunk as fetched.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) chunk: LoggedChunk,
    /// Size of the message, in bytes.
    pub(crate) bytes: usize,
    /// Messages that the stream holds beyond it.
    pub(crate) pending: u64,
}

/// An opened partition.
pub(crate) struct Feed {
    log: Log,
    partition: Partition,
    incarnation: Uuid,
    consumer: Consumer<Config>,
    subscriber: Subscriber,
    inbox: async_nats::Subject,
    /// Value of [`Log::connects`] that this consumer belongs to.
    connects: u64,
    next_seq: u64,
    delivered_any: bool,
    /// Messages asked for and not yet delivered.
    outstanding: usize,
    heard_at: Instant,
    stall: Stall,
}

/// The watch for a consumer that has died without a word.
#[derive(Debug)]
struct Stall {
    look_at: Instant,
    /// Whether the last look found the stream ahead.
    ahead: bool,
}

impl Stall {
    fn from_now() -> Self {
        Self {
            look_at: Instant::now() + STALL_MAX,
            ahead: false,
        }
    }
}

impl Feed {
    /// Compares stream and cursor, then makes a consumer that starts right after the cursor.
    pub(crate) async fn open(
        log: &Log,
        partition: Partition,
        progress: &Progress,
    ) -> Result<Self, FeedEnd> {
        // Before anything is asked: a reconnect from here on must be noticed.
        let connects = log.connects();
        let last_seq = progress.last_seq();
        verify(log, partition, progress).await?;
        let consumer = create_consumer(log, partition, last_seq + 1).await?;
        let inbox = async_nats::Subject::from(log.client.new_inbox());
        let subscriber = log
            .client
            .subscribe(inbox.clone())
            .await
            .map_err(|error| LogError::request("subscribing to deliveries", error))?;
        Ok(Self {
            log: log.clone(),
            partition,
            incarnation: progress.incarnation,
            consumer,
            subscriber,
            inbox,
            connects,
            next_seq: last_seq + 1,
            delivered_any: false,
            outstanding: 0,
            heard_at: Instant::now(),
            stall: Stall::from_now(),
        })
    }

    pub(crate) fn incarnation(&self) -> Uuid {
        self.incarnation
    }

    /// The next chunk, however long it takes.
    ///
    /// # Cancel safety
    /// Safe: a message is taken and checked without waiting in between.
    pub(crate) async fn next(&mut self) -> Result<Fetched, FeedEnd> {
        loop {
            if self.log.connects() != self.connects {
                return Err(FeedEnd::Reopen(ReopenCause::Reconnected));
            }
            self.pull().await?;
            tokio::select! {
                // What has come counts before any clock: this may be called again after a while.
                biased;
                message = self.subscriber.next() => {
                    let Some(message) = message else {
                        return Err(FeedEnd::Reopen(ReopenCause::Unsubscribed));
                    };
                    if let Some(fetched) = self.hear(message)? {
                        return Ok(fetched);
                    }
                }
                () = sleep_until(self.heard_at + SILENCE_MAX) => {
                    return Err(FeedEnd::Reopen(ReopenCause::Silent));
                }
                () = sleep_until(self.stall.look_at) => self.look_for_stall().await?,
            }
        }
    }

    /// Spares the server the wait until it forgets the consumer by itself.
    pub(crate) async fn delete_consumer(&self) {
        let (stream, consumer) = (
            stream_name(self.partition),
            &self.consumer.cached_info().name,
        );
        let deleted = self
            .log
            .jetstream
            .delete_consumer_from_stream(consumer, stream);
        if let Err(error) = deleted.await {
            tracing::debug!(partition = %self.partition, %error, "the consumer stays for a while");
        }
    }

    async fn pull(&mut self) -> Result<(), FeedEnd> {
        if self.outstanding > PULL_MESSAGES / 2 {
            return Ok(());
        }
        let pull = BatchConfig {
            batch: PULL_MESSAGES,
            max_bytes: PULL_BYTES,
            expires: Some(PULL_EXPIRES),
            idle_heartbeat: IDLE_HEARTBEAT,
            ..BatchConfig::default()
        };
        self.consumer
            .request_batch(pull, self.inbox.clone())
            .await
            .map_err(|error| LogError::request("asking for messages", error))?;
        self.outstanding += PULL_MESSAGES;
        Ok(())
    }

    /// A message of the subscription: a chunk, or a word about a pull.
    fn hear(&mut self, message: async_nats::Message) -> Result<Option<Fetched>, FeedEnd> {
        self.heard_at = Instant::now();
        match message.status {
            None | Some(StatusCode::OK) => self.deliver(message).map(Some),
            Some(StatusCode::IDLE_HEARTBEAT) => Ok(None),
            Some(status @ (StatusCode::TIMEOUT | StatusCode::REQUEST_TERMINATED)) => {
                // A pull that ran its course says how much of it was left; anything else with
                // these codes is an error.
                let left = message
                    .headers
                    .as_ref()
                    .and_then(|headers| headers.get("Nats-Pending-Messages"))
                    .and_then(|value| value.as_str().parse::<usize>().ok());
                match left {
                    Some(left) if ran_its_course(status, message.description.as_deref()) => {
                        self.outstanding = self.outstanding.saturating_sub(left);
                        Ok(None)
                    }
                    _ => Err(ended(status, message.description)),
                }
            }
            Some(status) => Err(ended(status, message.description)),
        }
    }

    fn deliver(&mut self, message: async_nats::Message) -> Result<Fetched, FeedEnd> {
        let message = async_nats::jetstream::Message {
            message,
            context: self.log.jetstream.clone(),
        };
        let info = message
            .info()
            .map_err(|source| LogError::request("reading a delivery's place in the log", source))?;
        let (seq, pending) = (info.stream_sequence, info.pending);
        let stored_at_us = micros(info.published.unix_timestamp_nanos());
        if seq != self.next_seq {
            let reconnected = self.log.connects() != self.connects;
            return Err(skipped(self.next_seq, seq, self.delivered_any, reconnected));
        }
        let message = message.message;
        let bytes = message.payload.len();
        let message_id = message.headers.as_ref().and_then(header);
        let chunk = decode(self.partition, seq, &message.payload, message_id.as_deref())?;
        self.next_seq += 1;
        self.delivered_any = true;
        self.outstanding = self.outstanding.saturating_sub(1);
        self.stall = Stall::from_now();
        Ok(Fetched {
            chunk: LoggedChunk {
                seq,
                stored_at_us,
                chunk,
            },
            bytes,
            pending,
        })
    }

    /// Found ahead twice, a second apart, with nothing delivered in between: the consumer is dead.
    async fn look_for_stall(&mut self) -> Result<(), FeedEnd> {
        let info = self.log.stream_info(self.partition).await?;
        let ahead = info.state.last_sequence >= self.next_seq;
        if ahead && self.stall.ahead {
            return Err(FeedEnd::Reopen(ReopenCause::Stalled));
        }
        self.stall = Stall {
            ahead,
            ..Stall::from_now()
        };
        Ok(())
    }
}

/// What it means that another message than the next one was delivered.
fn skipped(expected: u64, found: u64, delivered_any: bool, reconnected: bool) -> FeedEnd {
    // What was on its way when the connection broke never came.
    if reconnected {
        return FeedEnd::Reopen(ReopenCause::Reconnected);
    }
    if delivered_any || found < expected {
        return FeedEnd::Reopen(ReopenCause::OutOfOrder { expected, found });
    }
    // A consumer that has just been made has no reason to skip but a gap.
    HeldReason::Gap { expected, found }.into()
}

fn ran_its_course(status: StatusCode, description: Option<&str>) -> bool {
    status == StatusCode::TIMEOUT
        || matches!(
            description,
            Some("Batch Completed" | "Message Size Exceeds MaxBytes")
        )
}

fn ended(status: StatusCode, description: Option<String>) -> FeedEnd {
    let description = description.unwrap_or_default();
    FeedEnd::Reopen(ReopenCause::Status(format!("{status} {description}")))
}

/// Whether the stream is the one that the cursor counts in, and still holds what it stands on.
async fn verify(log: &Log, partition: Partition, progress: &Progress) -> Result<Info, FeedEnd> {
    let info = log.stream_info(partition).await?;
    let incarnation = incarnation(&info)?;
    if incarnation != progress.incarnation {
        return Err(HeldReason::Incarnation {
            cursor: progress.incarnation,
            log: incarnation,
        }
        .into());
    }
    let last_seq = progress.last_seq();
    let (first, log_last) = (info.state.first_sequence, info.state.last_sequence);
    if log_last < last_seq {
        return Err(HeldReason::Shorter { last_seq, log_last }.into());
    }
    if last_seq > 0 {
        let Some(stored) = log.message(partition, last_seq).await? else {
            return Err(HeldReason::CursorMissing { last_seq, first }.into());
        };
        let expected = progress.last_message_id();
        let found = stored.message_id.unwrap_or_else(|| "missing".to_owned());
        if found != expected {
            return Err(HeldReason::CursorAnother {
                last_seq,
                expected,
                found,
            }
            .into());
        }
    }
    // A consumer says nothing of a message that is missing where nothing follows.
    let expected = last_seq + 1;
    if log_last >= expected && log.message(partition, expected).await?.is_none() {
        let found = first.max(expected + 1);
        return Err(HeldReason::Gap { expected, found }.into());
    }
    Ok(info)
}

/// The incarnation that a stream's metadata names.
pub(crate) fn incarnation(info: &Info) -> Result<Uuid, HeldReason> {
    let metadata = StreamMetadata::from_map(&info.config.metadata)?;
    Ok(metadata.incarnation)
}

async fn create_consumer(
    log: &Log,
    partition: Partition,
    start_sequence: u64,
) -> Result<Consumer<Config>, LogError> {
    let config = Config {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
        ack_policy: AckPolicy::None,
        replay_policy: ReplayPolicy::Instant,
        inactive_threshold: INACTIVE_MAX,
        memory_storage: true,
        num_replicas: 1,
        ..Config::default()
    };
    log.jetstream
        .create_consumer_on_stream(config, stream_name(partition))
        .await
        .map_err(|error| LogError::request("creating a consumer", error))
}

/// A message as a chunk of this partition.
fn decode(
    partition: Partition,
    seq: u64,
    payload: &Bytes,
    message_id: Option<&str>,
) -> Result<chunk::Chunk, HeldReason> {
    let chunk = chunk::decode(payload).map_err(|source| HeldReason::Undecodable { seq, source })?;
    let header = &chunk.header;
    if header.partition != partition {
        let fault = format!("it says that it is of partition {}", header.partition);
        return Err(HeldReason::Foreign { seq, fault });
    }
    // Compared as it is compared at the next opening: letter by letter.
    let id = header.chunk_id.hyphenated().to_string();
    if message_id != Some(id.as_str()) {
        let fault = format!(
            "its message id is {}, its chunk id {id}",
            message_id.unwrap_or("missing")
        );
        return Err(HeldReason::Foreign { seq, fault });
    }
    Ok(chunk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::chunk::{Encoder, Header};

    fn sealed(partition: Partition, chunk_id: Uuid) -> Bytes {
        Encoder::new().seal(Header {
            chunk_id,
            partition,
            publish_by_us: 0,
            origin: "test".to_owned(),
        })
    }

    #[test]
    fn only_a_chunk_of_this_partition_under_its_own_id_is_taken() {
        let id = Uuid::now_v7();
        let text = id.to_string();
        let mine = Partition(3);
        let chunk = decode(mine, 7, &sealed(mine, id), Some(&text)).unwrap();
        assert_eq!(chunk.header.chunk_id, id);
        let foreign = decode(mine, 7, &sealed(Partition(4), id), Some(&text)).unwrap_err();
        assert!(foreign.to_string().contains("of partition 4"), "{foreign}");
        let other = decode(mine, 7, &sealed(mine, id), Some("other")).unwrap_err();
        assert!(other.to_string().contains("message id is other"), "{other}");
        let none = decode(mine, 7, &sealed(mine, id), None).unwrap_err();
        assert!(none.to_string().contains("missing"), "{none}");
        let bytes = Bytes::from_static(b"no chunk");
        let bad = decode(mine, 7, &bytes, Some(&text)).unwrap_err();
        assert!(
            bad.to_string().contains("message 7 cannot be decoded"),
            "{bad}"
        );
    }

    #[test]
    fn a_gap_is_one_only_at_a_consumer_that_missed_nothing() {
        assert!(matches!(skipped(5, 7, false, false), FeedEnd::Held(_)));
        for (found, delivered_any) in [(7, true), (4, false)] {
            let end = skipped(5, found, delivered_any, false);
            let cause = ReopenCause::OutOfOrder { expected: 5, found };
            assert!(matches!(end, FeedEnd::Reopen(it) if it == cause));
        }
        let end = skipped(5, 7, false, true);
        assert!(matches!(end, FeedEnd::Reopen(ReopenCause::Reconnected)));
    }

    #[test]
    fn only_a_finished_pull_is_no_error() {
        assert!(ran_its_course(StatusCode::TIMEOUT, Some("Request Timeout")));
        let ended = StatusCode::REQUEST_TERMINATED;
        assert!(ran_its_course(ended, Some("Message Size Exceeds MaxBytes")));
        assert!(!ran_its_course(ended, Some("Consumer Deleted")));
        assert!(!ran_its_course(ended, None));
    }
}
