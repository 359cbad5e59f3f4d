//! Publishing events so that the log decides who may, and what follows what.
//!
//! A relay begins by publishing its fence under a subject of its partition. Every event then
//! demands that this fence is still the latest there: whatever an earlier relay has in hand, in
//! its memory or under way, is refused from the moment its successor's fence is stored.
//!
//! Events go in atomic batches (NATS ADR-50): stored all or none, conditions looked at when the
//! batch is committed, one fsync for all of them. A window of single messages would be slower by
//! far, and one that is lost or refused between two that are stored would change the order.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::HeaderMap;
use async_nats::header::{NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID};
use async_nats::header::{
    NATS_BATCH_SEQUENCE, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID, NATS_ROLLUP,
};
use async_nats::jetstream::context::{GetStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use contract::Partition;
use contract::event::{STREAM, fence_subject, relay_started, subject};
use tokio::time::timeout;
use uuid::Uuid;

use super::outbox::Row;
use crate::log::{Log, LogError};
use crate::worker::Workplace;

/// Most events in one batch: at 500 the fixed cost of one, a few fsyncs, no longer shows; the
/// server takes 1,000.
pub(super) const BATCH_EVENTS_MAX: usize = 500;
/// Most bytes of documents in one batch, one alone may be larger: what the relay has in memory, and
/// the server before the commit.
pub(super) const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Batches that a process has in flight at once. The server takes 50 to one stream, of all workers
/// together: eight workers stay below, with room for what those that died left unfinished.
pub(crate) const BATCHES_IN_FLIGHT_MAX: usize = 5;
const _: () = assert!(8 * BATCHES_IN_FLIGHT_MAX < 50);
/// How long the handing over of a batch to the connection may take, besides the wait for its ack.
const HAND_OVER_MAX: Duration = Duration::from_secs(3);

/// async-nats does not name it.
const EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";

/// Events could not be published, or nobody knows whether they were.
#[derive(Debug, thiserror::Error)]
pub(super) enum PublishError {
    #[error(transparent)]
    Log(#[from] LogError),
    /// Created by something else than `migrate`, or by a server that is too old.
    #[error(
        "stream {STREAM} takes no atomic batches: it needs nats-server 2.12 and `persist-worker migrate`"
    )]
    NotAtomic,
    /// Which of them it was is not known here; the next session finds out.
    #[error(
        "this relay's fence is not the latest any more: it aged out or was purged, or another relay of the partition has begun"
    )]
    Fenced,
    #[error("{doing}: no answer from the log within {limit:?}")]
    Silent {
        doing: &'static str,
        limit: Duration,
    },
}

/// How one publish to the stream ended, unless it failed.
enum Ack {
    Stored {
        sequence: u64,
    },
    /// Everything, or something of a batch, has been stored under its id before.
    Repeated,
}

/// The right to publish a partition's events, until somebody else takes it.
pub(super) struct Publisher<'a> {
    place: &'a Workplace,
    fence_subject: String,
    fence_sequence: String,
}

impl<'a> Publisher<'a> {
    /// Puts up a fence: from here on nobody who did so before gets anything stored.
    pub(super) async fn begin(
        place: &'a Workplace,
        partition: Partition,
    ) -> Result<Self, PublishError> {
        check(&place.log).await?;
        let id = Uuid::now_v7().to_string();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_ms = i64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(i64::MAX);
        let fence = relay_started(partition, &id, &place.owner, now_ms);
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, id.as_str());
        // The latest is all that counts.
        headers.insert(NATS_ROLLUP, "sub");
        let fence_subject = fence_subject(partition);
        match send(&place.log, &fence_subject, headers, fence.into()).await? {
            Ack::Stored { sequence } => Ok(Self {
                place,
                fence_subject,
                fence_sequence: sequence.to_string(),
            }),
            // Nobody else has this id.
            Ack::Repeated => Err(PublishError::Fenced),
        }
    }

    /// Publishes the events in this order; they are stored when it returns.
    pub(super) async fn publish(&self, mut rows: &[Row]) -> Result<(), PublishError> {
        while let Some(first) = rows.first() {
            let ack = match rows.len() {
                1 => self.single(first).await?,
                _ => self.batch(rows).await?,
            };
            if rows.len() == 1 || matches!(ack, Ack::Stored { .. }) {
                return Ok(());
            }
            // Some of them were stored when nobody heard the answer, the oldest first: one by one
            // up to the first that was not.
            while let Some((row, rest)) = rows.split_first() {
                rows = rest;
                if matches!(self.single(row).await?, Ack::Stored { .. }) {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn single(&self, row: &Row) -> Result<Ack, PublishError> {
        let subject = subject(row.partner_id, &row.event);
        send(&self.place.log, &subject, self.headers(row), body(row)).await
    }

    async fn batch(&self, rows: &[Row]) -> Result<Ack, PublishError> {
        const DOING: &str = "publishing events";
        let (last, before) = rows.split_last().expect("a batch has events");
        let permits = &self.place.event_batches;
        let _permit = permits.acquire().await.expect("it is never closed");
        let id = Uuid::now_v7().simple().to_string();
        let handing_over = async {
            for (sequence, row) in (1_usize..).zip(before) {
                let headers = self.batch_headers(row, &id, sequence);
                let subject = subject(row.partner_id, &row.event);
                let client = &self.place.log.client;
                client
                    .publish_with_headers(subject, headers, body(row))
                    .await
                    .map_err(|error| LogError::request(DOING, error))?;
            }
            Ok::<_, LogError>(())
        };
        match timeout(HAND_OVER_MAX, handing_over).await {
            Ok(handed_over) => handed_over?,
            Err(_) => {
                return Err(PublishError::Silent {
                    doing: DOING,
                    limit: HAND_OVER_MAX,
                });
            }
        }
        let mut headers = self.batch_headers(last, &id, rows.len());
        headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
        let subject = subject(last.partner_id, &last.event);
        send(&self.place.log, &subject, headers, body(last)).await
    }

    fn batch_headers(&self, row: &Row, id: &str, sequence: usize) -> HeaderMap {
        let mut headers = self.headers(row);
        headers.insert(NATS_BATCH_ID, id);
        headers.insert(NATS_BATCH_SEQUENCE, sequence.to_string());
        headers
    }

    fn headers(&self, row: &Row) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, row.event_id.as_str());
        headers.insert(
            NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
            self.fence_sequence.as_str(),
        );
        headers.insert(
            EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT,
            self.fence_subject.as_str(),
        );
        headers
    }
}

/// Refuses a stream that would take a batch's messages one by one.
async fn check(log: &Log) -> Result<(), PublishError> {
    let stream = log.jetstream.get_stream(STREAM).await;
    let stream = stream.map_err(|error| match error.kind() {
        GetStreamErrorKind::JetStream(refused)
            if refused.error_code() == ErrorCode::STREAM_NOT_FOUND =>
        {
            LogError::NoStream(STREAM.to_owned())
        }
        _ => LogError::request("asking for the stream of events", error),
    })?;
    let config = &stream.cached_info().config;
    if config.allow_atomic_publish && config.allow_rollup {
        Ok(())
    } else {
        Err(PublishError::NotAtomic)
    }
}

fn body(row: &Row) -> Bytes {
    Bytes::copy_from_slice(row.body.as_bytes())
}

/// Publishes one message and waits for the answer.
async fn send(
    log: &Log,
    subject: &str,
    headers: HeaderMap,
    payload: Bytes,
) -> Result<Ack, PublishError> {
    let message = PublishMessage::build().payload(payload).headers(headers);
    let sent = log
        .jetstream
        .send_publish(subject.to_owned(), message)
        .await;
    let answered = match sent {
        Ok(ack) => ack.await,
        Err(error) => Err(error),
    };
    match answered {
        Ok(ack) if ack.duplicate => Ok(Ack::Repeated),
        Ok(ack) => Ok(Ack::Stored {
            sequence: ack.sequence,
        }),
        Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
            Err(PublishError::Fenced)
        }
        Err(error) if is_repeated(&error) => Ok(Ack::Repeated),
        Err(error) if error.kind() == PublishErrorKind::StreamNotFound => {
            Err(LogError::NoStream(STREAM.to_owned()).into())
        }
        Err(error) => Err(LogError::request("publishing events", error).into()),
    }
}

/// Whether a batch was refused because of an id that is stored.
fn is_repeated(error: &jetstream::context::PublishError) -> bool {
    use std::error::Error as _;
    let refused = error
        .source()
        .and_then(|source| source.downcast_ref::<jetstream::Error>());
    refused.is_some_and(|refused| {
        refused.error_code() == ErrorCode::ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE
    })
}
