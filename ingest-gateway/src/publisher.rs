//! One of a partition's publishers: seals what has gathered, publishes it, and settles it. Each has
//! exactly one unresolved publish at any time, and so has each partner; whatever it brings meanwhile
//! is in the next chunk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{HeaderMap, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use contract::chunk::{Encoder, Header};
use contract::{Partition, Problem};
use futures_util::StreamExt as _;
use serde::Deserialize;
use uuid::Uuid;

use crate::clock::{Clock, Moment};
use crate::lanes::{Part, PublisherIndex};
use crate::link::Link;
use crate::measure::{Measures, PartitionMeasures};
use crate::queue::{Contribution, Queue, Settled};

/// How long one publish waits for its ack before the chunk is published again: far above a slow
/// fsync, and several times within the publish deadline.
const ATTEMPT_WAIT: Duration = Duration::from_secs(1);

/// Between a refusal that may pass (a leader election) and the next attempt.
const BACKOFF: Duration = Duration::from_millis(50);

const BACKOFF_MAX: Duration = Duration::from_millis(400);

/// How often everything that is ready goes first before a chunk is sealed. Once lets those go on
/// whom the last ack released and looks for what has arrived, twice reads that, and the third time
/// it is in the chunk. Nothing is waited for: with nothing ready it takes a few microseconds.
/// Under 256 connections of single records a chunk holds 75 instead of 50.
const GOES_FIRST: usize = 3;

/// How long nobody may be there for a partition before what arrives is refused at once: an
/// election takes less.
const STALL_AFTER: Duration = Duration::from_secs(1);

const FULL: &str = "the log is full";
const AWAY: &str = "the log cannot be reached";
const SLOW: &str = "the log is too slow: the record waited too long and was not published";
const REFUSED: &str = "the log refused the record's chunk";

/// Error codes of the server's JetStream API that are answered by themselves.
mod code {
    /// The stream could not store: "maximum bytes exceeded" when it is at `max_bytes` and
    /// discards new messages, else trouble that leaves the message's fate open.
    pub(super) const STORE_FAILED: u64 = 10_077;
    /// Of a replicated stream: a message with this id is on its way already.
    pub(super) const IN_PROCESS: u64 = 10_158;
}

/// What every publisher needs.
pub(crate) struct Publisher {
    pub(crate) index: PublisherIndex,
    pub(crate) queue: Arc<Queue>,
    pub(crate) link: Arc<Link>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) measures: PartitionMeasures,
    /// Where records are counted as they end, whether or not anyone still waits for the answer.
    pub(crate) totals: Arc<Measures>,
    /// From minting to the last moment of an ack.
    pub(crate) deadline: Duration,
    pub(crate) origin: String,
}

/// A chunk on its way.
struct Sealed {
    message: Bytes,
    message_id: String,
    publish_by: Moment,
    records: usize,
    contributions: Vec<Contribution>,
}

impl Publisher {
    /// Publishes until the queue is closed and everything in it settled.
    pub(crate) async fn run(self) {
        let _guard = NeverGone;
        let partition = self.queue.partition;
        let mut acks = self.acks().await;
        let mut number = 0_u64;
        loop {
            self.measures
                .records_in_flight
                .set(self.queue.records_in_flight() as f64);
            for _ in 0..GOES_FIRST {
                tokio::task::yield_now().await;
            }
            let gathered = self.queue.take(self.index);
            if gathered.is_empty() {
                if self.queue.is_closed() {
                    tracing::debug!(%partition, "publisher ends");
                    return;
                }
                self.queue.arrival(self.index).await;
                continue;
            }
            let Some(sealed) = self.seal(gathered) else {
                continue;
            };
            number += 1;
            let begun = Instant::now();
            self.queue.drains();
            let suspect = self.queue.is_suspect();
            let settled = self.publish(&sealed, number, suspect, &mut acks).await;
            self.queue.set_stalled(self.index, false);
            let stored = if settled == Settled::Stored {
                sealed.records
            } else {
                0
            };
            self.queue.drained(stored);
            let was_suspect = self.queue.ended(settled != Settled::Stored);
            self.record(&sealed, settled, was_suspect, begun);
            for contribution in sealed.contributions {
                self.settle(contribution, settled);
            }
        }
    }

    fn settle(&self, contribution: Contribution, settled: Settled) {
        let records = u64::from(contribution.records);
        match settled {
            Settled::Stored => self.totals.accepted.increment(records),
            Settled::Refused(problem, _) => self.totals.rejected(problem, records),
            Settled::Unanswered => self.totals.unanswered.increment(records),
        }
        self.queue.settle(contribution, settled);
    }

    /// The subscription that carries every ack of this partition. One for all, rather than
    /// async-nats's request: that keeps an entry for ever of each request that nobody answers
    /// (nats-io/nats.rs#1617).
    async fn acks(&self) -> Acks {
        let inbox = self.link.client.new_inbox();
        let subscription = self
            .link
            .client
            .subscribe(format!("{inbox}.*"))
            .await
            .expect("an inbox is a valid subject, and the client lives as long as its publishers");
        Acks {
            inbox,
            subscription,
        }
    }

    /// Makes the message, leaving out what has waited so long that no ack could be in time.
    fn seal(&self, gathered: Vec<Part>) -> Option<Sealed> {
        let now = self.clock.now();
        let mut encoder = Encoder::new();
        let contributions = gathered.iter().map(|part| part.contributions.len());
        let mut contributions = Vec::with_capacity(contributions.sum());
        let mut publish_by: Option<Moment> = None;
        let mut records = 0;
        for part in gathered {
            let mut start = 0;
            for contribution in part.contributions {
                let end = contribution.end;
                let half = contribution.minted.plus(self.deadline / 2);
                if half.is_over(&now) {
                    let refused = Settled::Refused(Problem::LogUnavailable, SLOW);
                    self.settle(contribution, refused);
                } else {
                    let by = contribution.minted.plus(self.deadline);
                    publish_by = Some(publish_by.map_or(by, |earliest| earliest.earlier(by)));
                    encoder.push_encoded(&part.entries[start..end]);
                    records += contribution.records as usize;
                    contributions.push(contribution);
                }
                start = end;
            }
        }
        let publish_by = publish_by?;
        let chunk_id = Uuid::now_v7();
        let message = encoder.seal(Header {
            chunk_id,
            partition: self.queue.partition,
            publish_by_us: publish_by.wall_us,
            origin: self.origin.clone(),
        });
        Some(Sealed {
            message,
            message_id: chunk_id.to_string(),
            publish_by,
            records,
            contributions,
        })
    }

    /// Publishes a chunk, again and again with the same message id, until the log has answered
    /// for it or its deadline is over.
    ///
    /// While nobody is there for a second, what arrives is refused at once, and so is what has
    /// gathered; a chunk that is only a probe is given up then as well.
    async fn publish(
        &self,
        chunk: &Sealed,
        number: u64,
        suspect: bool,
        acks: &mut Acks,
    ) -> Settled {
        let begun = Instant::now();
        // Whether an attempt is out of which nobody knows what became: then no later refusal
        // proves that the chunk is not stored.
        let mut unknown = false;
        let mut backoff = BACKOFF;
        for attempt in 0.. {
            if let Err(settled) = self.reach(chunk, unknown).await {
                return settled;
            }
            if attempt > 0 {
                self.measures.retries.increment(1);
            }
            match self.attempt(chunk, number, attempt, acks).await {
                Answer::Stored if chunk.publish_by.is_over(&self.clock.now()) => {
                    return Settled::Unanswered;
                }
                Answer::Stored => return Settled::Stored,
                Answer::Full if !unknown => return refused(FULL),
                Answer::Refused if !unknown => return refused(REFUSED),
                // An earlier attempt may be stored all the same. Asking again tells: the server
                // looks for the message id first.
                Answer::Full | Answer::Refused | Answer::NobodyThere => {}
                Answer::Pending => unknown = true,
                Answer::Silence => {
                    unknown = true;
                    continue;
                }
            }
            if !unknown && begun.elapsed() > STALL_AFTER {
                if suspect {
                    return refused(AWAY);
                }
                self.stall();
            }
            let left = chunk.publish_by.left(&self.clock.now());
            tokio::time::sleep(backoff.min(left)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        unreachable!("the loop ends at the deadline")
    }

    /// Refuses what has gathered, and what will arrive while the present chunk is tried.
    fn stall(&self) {
        self.queue.set_stalled(self.index, true);
        for part in self.queue.take_all() {
            for contribution in part.contributions {
                self.settle(contribution, refused(AWAY));
            }
        }
    }

    /// Waits until the log is connected.
    ///
    /// # Errors
    /// How the chunk ended, if its deadline is over first, or if the log has been away for long
    /// and the chunk was never sent.
    async fn reach(&self, chunk: &Sealed, unknown: bool) -> Result<(), Settled> {
        loop {
            let now = self.clock.now();
            if chunk.publish_by.is_over(&now) {
                return Err(if unknown {
                    Settled::Unanswered
                } else {
                    refused(AWAY)
                });
            }
            if self.link.is_connected() {
                return Ok(());
            }
            if !unknown && self.link.is_away() {
                return Err(refused(AWAY));
            }
            self.link.connected(chunk.publish_by.left(&now)).await;
        }
    }

    /// Publishes once and waits for the ack of this or an earlier attempt.
    async fn attempt(&self, chunk: &Sealed, number: u64, attempt: u32, acks: &mut Acks) -> Answer {
        let wait = chunk.publish_by.left(&self.clock.now()).min(ATTEMPT_WAIT);
        let exchange = async {
            let mut headers = HeaderMap::new();
            headers.insert(contract::log::MESSAGE_ID_HEADER, chunk.message_id.as_str());
            let reply = format!("{}.{number}-{attempt}", acks.inbox);
            let published = self
                .link
                .client
                .publish_with_reply_and_headers(
                    self.link.subject(self.queue.partition),
                    reply,
                    headers,
                    chunk.message.clone(),
                )
                .await;
            if let Err(error) = published {
                // Refused before it was sent: the client is closed, or the chunk is larger than
                // the server's max_payload, which was checked when the log was opened.
                tracing::error!(%error, "cannot publish");
                return Answer::NobodyThere;
            }
            acks.next(self.queue.partition, number).await
        };
        match tokio::time::timeout(wait, exchange).await {
            Ok(answer) => answer,
            Err(_) => Answer::Silence,
        }
    }

    fn record(&self, chunk: &Sealed, settled: Settled, suspect: bool, begun: Instant) {
        let measures = &self.measures;
        let partition = self.queue.partition;
        if settled == Settled::Stored {
            measures.chunks.increment(1);
            measures.chunk_records.record(chunk.records as f64);
            measures.chunk_bytes.record(chunk.message.len() as f64);
            measures
                .publish_seconds
                .record(begun.elapsed().as_secs_f64());
            if suspect {
                measures.available.set(1.0);
                tracing::info!(%partition, "the log takes the partition's chunks again");
            }
            return;
        }
        measures.refused.increment(1);
        measures.available.set(0.0);
        let (chunk_id, records) = (&chunk.message_id, chunk.records);
        // One line when it begins, not one per chunk for as long as it lasts.
        if suspect {
            tracing::debug!(%partition, chunk = chunk_id, records, outcome = ?settled, "chunk not acknowledged");
        } else {
            tracing::warn!(%partition, chunk = chunk_id, records, outcome = ?settled, "chunk not acknowledged");
        }
    }
}

/// A partition without its publisher would refuse everything for ever while the process looks
/// healthy: then the process had better be started anew.
struct NeverGone;

impl Drop for NeverGone {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a publisher panicked");
            std::process::abort();
        }
    }
}

fn refused(detail: &'static str) -> Settled {
    Settled::Refused(Problem::LogUnavailable, detail)
}

/// What the log said to one publish.
#[derive(PartialEq, Eq, Debug)]
enum Answer {
    Stored,
    /// The stream is at its bound.
    Full,
    /// Refused for another reason.
    Refused,
    /// On its way already, by an earlier attempt.
    Pending,
    /// No stream listens, or its leader is being elected: surely not stored by this attempt.
    NobodyThere,
    /// Nothing in time.
    Silence,
}

struct Acks {
    inbox: String,
    subscription: Subscriber,
}

#[derive(Deserialize)]
struct Ack {
    #[serde(default)]
    stream: String,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    code: u64,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl Acks {
    /// The next answer to any attempt of this chunk; answers to earlier chunks are skipped.
    async fn next(&mut self, partition: Partition, number: u64) -> Answer {
        loop {
            let Some(message) = self.subscription.next().await else {
                // Only when the client is closed.
                return std::future::pending().await;
            };
            if self.is_about(&message.subject, number) {
                return read(partition, message.status, &message.payload);
            }
        }
    }

    fn is_about(&self, subject: &Subject, number: u64) -> bool {
        let token = subject.as_str().strip_prefix(self.inbox.as_str());
        let chunk = token.and_then(|token| token.strip_prefix('.')?.split_once('-'));
        chunk.and_then(|(chunk, _)| chunk.parse().ok()) == Some(number)
    }
}

fn read(partition: Partition, status: Option<StatusCode>, payload: &[u8]) -> Answer {
    if status == Some(StatusCode::NO_RESPONDERS) {
        return Answer::NobodyThere;
    }
    let Ok(ack) = serde_json::from_slice::<Ack>(payload) else {
        tracing::error!(%partition, ?status, "an answer that is no ack");
        return Answer::Silence;
    };
    match ack.error {
        None if ack.stream == contract::log::stream_name(partition) => Answer::Stored,
        None => {
            tracing::error!(%partition, stream = ack.stream, "the ack is another stream's");
            Answer::Refused
        }
        Some(error) => {
            tracing::debug!(%partition, code = error.err_code, error.description, "the log refused a chunk");
            match error {
                ApiError {
                    err_code: code::STORE_FAILED,
                    description,
                    ..
                } if description.starts_with("maximum") => Answer::Full,
                ApiError {
                    err_code: code::IN_PROCESS,
                    ..
                } => Answer::Pending,
                // Server-side trouble such as no leader or no quorum: it may pass.
                ApiError { code: 500.., .. } => Answer::Pending,
                _ => Answer::Refused,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let read = |payload: &str| read(Partition(1), None, payload.as_bytes());
        assert_eq!(
            read(r#"{"stream":"WEIR_INGEST_001","seq":5}"#),
            Answer::Stored
        );
        assert_eq!(
            read(r#"{"stream":"WEIR_INGEST_001","seq":5,"duplicate":true}"#),
            Answer::Stored
        );
        assert_eq!(
            read(r#"{"stream":"WEIR_INGEST_000","seq":5}"#),
            Answer::Refused
        );
        assert_eq!(
            read(
                r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"WEIR_INGEST_001","seq":0}"#
            ),
            Answer::Full
        );
        assert_eq!(
            read(
                r#"{"error":{"code":409,"err_code":10158,"description":"duplicate message id is in process"}}"#
            ),
            Answer::Pending
        );
        assert_eq!(
            read(r#"{"error":{"code":503,"err_code":10008,"description":"no quorum"}}"#),
            Answer::Pending
        );
        assert_eq!(
            read(r#"{"error":{"code":400,"err_code":10054,"description":"message size"}}"#),
            Answer::Refused
        );
        assert_eq!(read("+OK"), Answer::Silence);
    }

    #[test]
    fn no_responders_is_nobody_there() {
        let answer = super::read(Partition(0), Some(StatusCode::NO_RESPONDERS), b"");
        assert_eq!(answer, Answer::NobodyThere);
    }
}
