//! What a partition needs beside its batches: a moving watermark while it is idle, and a log that
//! does not grow for ever.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::jetstream::stream::Info;
use contract::Partition;
use contract::chunk::{Encoder, Header};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::feed::incarnation;
use crate::gather::Gathered;
use crate::log::{Log, LogError};
use crate::meter;
use crate::worker::Workplace;

/// How long after the last commit an empty chunk is sent: how far the watermark of an idle
/// partition trails behind what is usual.
const IDLE_CHUNK_AFTER: Duration = Duration::from_secs(2);
/// How long an empty chunk that was sent may stay uncommitted before another is sent: while the
/// database is slow they must not pile up.
const IDLE_CHUNK_LOST_AFTER: Duration = Duration::from_secs(20);
/// How often it is looked whether anything is due. A full stream refuses what is not yet
/// acknowledged, so it must not stay full for long.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// `publish_by` of an empty chunk, in microseconds since the Unix epoch. It holds nothing that could
/// expire, so that the watermark follows the log's clock alone: a deadline by this machine's, were
/// it slow, would keep an idle partition's watermark back.
const EMPTY_PUBLISH_BY_US: i64 = i64::MAX;
/// Marks over the retention time: purging trails by one part in this many.
const MARKS_PER_RETENTION: u32 = 64;
/// Marks over what the log holds when a partition is opened: one request each.
const MARKS_AT_OPENING: u64 = 16;

/// How far a partition is committed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Committed {
    last_seq: u64,
    /// Store time of that chunk by the log, in microseconds since the Unix epoch; unknown before
    /// the session's first batch.
    stored_at_us: Option<i64>,
    /// Messages that the log held beyond it.
    pending: u64,
    at: Instant,
}

impl Committed {
    /// When a session begins.
    pub(crate) fn so_far(last_seq: u64) -> Self {
        Self {
            last_seq,
            stored_at_us: None,
            pending: 0,
            at: Instant::now(),
        }
    }

    /// After a batch.
    pub(crate) fn by(gathered: &Gathered) -> Self {
        Self {
            last_seq: gathered.last_seq(),
            stored_at_us: Some(gathered.stored_at_us()),
            pending: gathered.pending,
            at: Instant::now(),
        }
    }
}

/// Starts the care for one session; it ends when the handle is dropped.
pub(crate) fn spawn(
    place: &Workplace,
    partition: Partition,
    incarnation: Uuid,
    committed: watch::Receiver<Committed>,
) -> AbortOnDropHandle<()> {
    let caretaker = Caretaker {
        log: place.log.clone(),
        owner: place.owner.clone(),
        partition,
        incarnation,
        retain: place.log_retain,
        committed,
        idle_chunk_sent: None,
        marks: None,
        retained_to: 0,
        is_crowded: true,
    };
    AbortOnDropHandle::new(tokio::spawn(caretaker.care()))
}

struct Caretaker {
    log: Log,
    owner: String,
    partition: Partition,
    incarnation: Uuid,
    retain: Duration,
    committed: watch::Receiver<Committed>,
    idle_chunk_sent: Option<Instant>,
    /// None until what the log held at the opening is marked.
    marks: Option<Marks>,
    /// Where the cursor was when retention by age was last looked at.
    retained_to: u64,
    /// Whether the stream was more than half full when last looked at; true before the first look.
    is_crowded: bool,
}

impl Caretaker {
    async fn care(mut self) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let committed = *self.committed.borrow_and_update();
            // Neither is urgent: what fails is tried again at the next look.
            if let Err(error) = self.move_watermark(committed).await {
                tracing::warn!(partition = %self.partition, %error, "no empty chunk could be sent");
            }
            if let Err(error) = self.retain(committed).await {
                tracing::warn!(partition = %self.partition, %error, "the log could not be purged");
            }
        }
    }

    async fn move_watermark(&mut self, committed: Committed) -> Result<(), LogError> {
        // A little early rather than a look late.
        let idle = committed.at.elapsed() + LOOK_EVERY / 2 >= IDLE_CHUNK_AFTER;
        let under_way = self
            .idle_chunk_sent
            .is_some_and(|sent| sent >= committed.at && sent.elapsed() < IDLE_CHUNK_LOST_AFTER);
        if !idle || under_way || committed.pending > 0 {
            return Ok(());
        }
        let chunk_id = Uuid::now_v7();
        let chunk = Encoder::new().seal(Header {
            chunk_id,
            partition: self.partition,
            publish_by_us: EMPTY_PUBLISH_BY_US,
            origin: self.owner.clone(),
        });
        self.idle_chunk_sent = Some(Instant::now());
        self.log.publish(self.partition, chunk_id, chunk).await?;
        meter::idle_chunk();
        Ok(())
    }

    /// Purges what is committed and either old enough or in the way.
    async fn retain(&mut self, committed: Committed) -> Result<(), LogError> {
        // Age is told by the log's clock alone, and only a commit makes anything older.
        let now_us = committed
            .stored_at_us
            .filter(|_| committed.last_seq != self.retained_to);
        // What is in the way is so whether this session committed anything or not: a stream that
        // is full of what was committed before takes nothing that could be.
        if now_us.is_none() && !self.is_crowded {
            return Ok(());
        }
        let info = self.log.stream_info(self.partition).await?;
        // The stream of another incarnation holds nothing that was committed; fetching will find
        // out by itself.
        if incarnation(&info).ok() != Some(self.incarnation) {
            return Ok(());
        }
        let by_size = first_to_keep_by_size(&info);
        self.is_crowded = by_size > 0;
        let by_age = match now_us {
            Some(now_us) => self.first_to_keep_by_age(&info, committed, now_us).await?,
            None => 0,
        };
        // Message last_seq is what the next opening is compared with.
        let first_to_keep = by_age.max(by_size).min(committed.last_seq);
        if first_to_keep > info.state.first_sequence {
            let purged = self.log.purge_before(self.partition, first_to_keep).await?;
            meter::purged(purged);
            tracing::debug!(partition = %self.partition, purged, first_to_keep, "purged the log");
        }
        if now_us.is_some() {
            self.retained_to = committed.last_seq;
        }
        Ok(())
    }

    async fn first_to_keep_by_age(
        &mut self,
        info: &Info,
        committed: Committed,
        now_us: i64,
    ) -> Result<u64, LogError> {
        if self.marks.is_none() {
            self.marks = Some(self.mark(info, committed.last_seq).await?);
        }
        let marks = self.marks.as_mut().expect("made just now");
        marks.note(committed.last_seq, now_us);
        Ok(marks.first_to_keep(now_us))
    }

    /// Marks some of what the log holds already.
    async fn mark(&self, info: &Info, last_seq: u64) -> Result<Marks, LogError> {
        let mut marks = Marks::new(self.retain);
        let first = info.state.first_sequence;
        let step = (last_seq.saturating_sub(first) / MARKS_AT_OPENING).max(1);
        let mut seq = first + step;
        while seq < last_seq {
            if let Some(stored_at_us) = self.log.stored_at(self.partition, seq).await? {
                marks.note(seq, stored_at_us);
            }
            seq += step;
        }
        Ok(marks)
    }
}

/// What must go so that the stream is at most half full: acknowledged records need the room.
fn first_to_keep_by_size(info: &Info) -> u64 {
    let state = &info.state;
    let half = u64::try_from(info.config.max_bytes).unwrap_or(0) / 2;
    // A max_bytes of -1 is unlimited.
    if half == 0 || state.bytes <= half || state.messages == 0 {
        return 0;
    }
    let message_bytes = (state.bytes / state.messages).max(1);
    state.first_sequence + (state.bytes - half).div_ceil(message_bytes)
}

/// When some of the messages were stored, in log order.
struct Marks {
    retain_us: i64,
    marks: VecDeque<(u64, i64)>,
    /// Result of the last [`Marks::first_to_keep`].
    kept_from: u64,
}

impl Marks {
    fn new(retain: Duration) -> Self {
        Self {
            retain_us: i64::try_from(retain.as_micros()).unwrap_or(i64::MAX),
            marks: VecDeque::new(),
            kept_from: 0,
        }
    }

    /// Takes note of a message, unless one close to it is noted already.
    fn note(&mut self, seq: u64, stored_at_us: i64) {
        let spacing_us = self.retain_us / i64::from(MARKS_PER_RETENTION);
        let close = self
            .marks
            .back()
            .is_some_and(|(last, at)| seq <= *last || stored_at_us - at < spacing_us);
        if !close {
            self.marks.push_back((seq, stored_at_us));
        }
    }

    /// The first sequence that is young enough to be kept, as far as marks tell; 0 at first.
    fn first_to_keep(&mut self, now_us: i64) -> u64 {
        let limit_us = now_us.saturating_sub(self.retain_us);
        while let Some((seq, stored_at_us)) = self.marks.front() {
            if *stored_at_us > limit_us {
                break;
            }
            self.kept_from = seq + 1;
            self.marks.pop_front();
        }
        self.kept_from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_retention_may_go_and_marks_stay_few() {
        let mut marks = Marks::new(Duration::from_secs(64));
        for second in 1..=200_i64 {
            // Four messages a second.
            for quarter in 0..4_i64 {
                let at_us = second * 1_000_000 + quarter * 250_000;
                marks.note(u64::try_from(second * 4 + quarter).unwrap(), at_us);
            }
            assert!(marks.marks.len() <= 201);
        }
        let now_us = 200 * 1_000_000;
        let first_to_keep = marks.first_to_keep(now_us);
        // 136 s is just old enough; its first message was marked.
        assert_eq!(first_to_keep, 136 * 4 + 1);
        assert_eq!(marks.first_to_keep(now_us), first_to_keep);
        assert_eq!(marks.marks.len(), 64);
    }
}
