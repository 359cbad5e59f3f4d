//! One partition's queue: where encoded entries gather while a chunk is being published.
//!
//! What a request adds is the queue's from then on: a client that hangs up cancels nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use contract::limits::{CHUNK_BYTES_MAX, CHUNK_RECORDS_MAX, ITEMS_MAX};
use contract::{Partition, Problem};
use tokio::sync::{Notify, oneshot};

use crate::clock::Moment;
use crate::lanes::{Lanes, PART_BYTES_MAX, PART_RECORDS_MAX, Part};
use crate::quota::Spread;
use crate::refusal::Refusal;
use crate::shares::{Amount, Bounds, Hold, Shares};

/// Records that one partition gathers and publishes at most: two of the largest requests and
/// several full chunks, a second's worth at the rate the log takes.
pub(crate) const RECORDS_IN_FLIGHT_MAX: usize = 40_000;

/// Bytes of entries that one partition gathers and publishes at most; 256 partitions at their
/// bound would take 8 GiB, two take 64 MiB.
pub(crate) const BYTES_IN_FLIGHT_MAX: usize = 32 * 1024 * 1024;

/// Of that, what a partner that is alone may hold, and what several share: alone half, so that
/// whoever comes next finds room; together half a chunk, a few milliseconds' publishing, so that
/// as little waits on the way as keeps the log busy.
const ROOM: Bounds = Bounds {
    all: Amount::new(RECORDS_IN_FLIGHT_MAX as u32, BYTES_IN_FLIGHT_MAX as u32),
    alone: Amount::new(
        RECORDS_IN_FLIGHT_MAX as u32 / 2,
        BYTES_IN_FLIGHT_MAX as u32 / 2,
    ),
    shared: Amount::new(CHUNK_RECORDS_MAX as u32 / 2, 2 * CHUNK_BYTES_MAX as u32),
};

/// How much the last chunk weighs in the rate at which the partition drains: one that was slow
/// hardly shows, ten show.
const DRAIN_WEIGHT: f64 = 0.2;

/// Longest `Retry-After` for want of room, in seconds, before it is spread: a log that has stood
/// still may go on at any moment.
const RETRY_AFTER_SECONDS_MAX: f64 = 30.0;

/// How long a request waits for room in a partition before its items there are refused.
pub(crate) const ROOM_WAIT: Duration = Duration::from_millis(200);

/// What an entry usually takes, in bytes: only to allocate once.
const ENTRY_BYTES_USUAL: usize = 192;

const _: () = assert!(
    ITEMS_MAX <= RECORDS_IN_FLIGHT_MAX,
    "the largest request fits a partition"
);

/// How the records of one request in one chunk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Settled {
    /// On the log's disk, in time.
    Stored,
    /// Surely not stored.
    Refused(Problem, &'static str),
    /// Stored or not: nobody knows.
    Unanswered,
}

/// Some consecutive records of one request, all in one chunk.
pub(crate) struct Piece {
    pub(crate) records: usize,
    pub(crate) settled: oneshot::Receiver<Settled>,
}

/// Room for records in a partition; given back when dropped unused.
#[must_use]
pub(crate) struct Room<'q> {
    queue: &'q Queue,
    hold: Hold,
}

impl Room<'_> {
    pub(crate) fn partition(&self) -> Partition {
        self.queue.partition
    }

    /// Adds one entry, and says where its end will be known.
    pub(crate) fn add_one(self, entry: &[u8], minted: Moment) -> oneshot::Receiver<Settled> {
        let (settled, receiver) = oneshot::channel();
        let (queue, room) = (self.queue, self.hold);
        let mut gathering = queue.lock();
        let part = gathering.lanes.open_for(room.partner(), entry.len());
        part.entries.extend_from_slice(entry);
        part.records += 1;
        part.contributions.push(Contribution {
            end: part.entries.len(),
            records: 1,
            room,
            minted,
            settled,
        });
        queue.wake(gathering);
        receiver
    }

    /// Adds a request's entries in their order, over as many parts as they need.
    pub(crate) fn add_many(self, share: &Encoded, minted: Moment) -> Vec<Piece> {
        let mut pieces = Vec::with_capacity(1 + share.ends.len() / PART_RECORDS_MAX);
        let (queue, mut hold) = (self.queue, self.hold);
        assert_eq!(
            hold.amount().count as usize,
            share.ends.len(),
            "room was taken for each entry"
        );
        let mut gathering = queue.lock();
        let (mut index, mut start) = (0, 0);
        while index < share.ends.len() {
            let entry_bytes = share.ends[index] - start;
            let part = gathering.lanes.open_for(hold.partner(), entry_bytes);
            let first = index;
            let piece_start = start;
            let room_left = PART_RECORDS_MAX - part.records;
            let bytes_left = PART_BYTES_MAX - part.entries.len();
            while index < share.ends.len()
                && index - first < room_left
                && share.ends[index] - piece_start <= bytes_left
            {
                start = share.ends[index];
                index += 1;
            }
            part.entries
                .extend_from_slice(&share.bytes[piece_start..start]);
            part.records += index - first;
            let records = u32::try_from(index - first).expect("bounded by PART_RECORDS_MAX");
            // The last piece holds whatever the estimate was too high by.
            let room = if hold.amount().count == records {
                hold.split(Amount::new(u32::MAX, u32::MAX))
            } else {
                let bytes = u32::try_from(start - piece_start).unwrap_or(u32::MAX);
                hold.split(Amount::new(records, bytes))
            };
            let (settled, receiver) = oneshot::channel();
            part.contributions.push(Contribution {
                end: part.entries.len(),
                records,
                room,
                minted,
                settled,
            });
            pieces.push(Piece {
                records: index - first,
                settled: receiver,
            });
        }
        queue.wake(gathering);
        pieces
    }
}

/// Encoded entries of one request for one partition, in the order of its body.
pub(crate) struct Encoded {
    pub(crate) bytes: Vec<u8>,
    /// Where each entry ends in `bytes`.
    pub(crate) ends: Vec<usize>,
}

impl Encoded {
    pub(crate) fn with_capacity(records: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(records * ENTRY_BYTES_USUAL),
            ends: Vec::with_capacity(records),
        }
    }
}

/// One request's part of a gathering chunk.
pub(crate) struct Contribution {
    /// Where it ends in the chunk's bytes.
    pub(crate) end: usize,
    pub(crate) records: u32,
    /// What it holds of its partner's share, until it is settled.
    room: Hold,
    pub(crate) minted: Moment,
    pub(crate) settled: oneshot::Sender<Settled>,
}

/// At most [`ITEMS_MAX`] records; a request may be larger than the room in bytes.
fn amount(records: usize, bytes: usize) -> Amount {
    let records = u32::try_from(records).expect("bounded by ITEMS_MAX");
    Amount::new(records, u32::try_from(bytes).unwrap_or(u32::MAX))
}

/// In how many seconds so much has drained at a rate; 1 when there is no rate yet.
fn seconds(queued: f64, rate: f64) -> u32 {
    if rate <= 0.0 {
        return 1;
    }
    (queued / rate).ceil().clamp(1.0, RETRY_AFTER_SECONDS_MAX) as u32
}

pub(crate) struct Queue {
    pub(crate) partition: Partition,
    gathering: Mutex<Gathering>,
    /// Wakes the publisher; it alone waits.
    arrived: Notify,
    room: Arc<Shares>,
    /// Records a second that the log has lately acknowledged while it was asked to, as bits of a
    /// float; written by the publisher alone.
    drain_rate: AtomicU64,
    spread: Spread,
    stalled: AtomicBool,
}

#[derive(Default)]
struct Gathering {
    lanes: Lanes,
    /// Whether the publisher waits: only then it needs waking.
    publisher_waits: bool,
    /// Set once nothing more will be published.
    closed: bool,
}

impl Queue {
    pub(crate) fn new(partition: Partition) -> Self {
        Self {
            partition,
            gathering: Mutex::default(),
            arrived: Notify::new(),
            room: Shares::new(ROOM),
            drain_rate: AtomicU64::new(0.0_f64.to_bits()),
            spread: Spread::new(),
            stalled: AtomicBool::new(false),
        }
    }

    /// Room for that many of a partner's records if there is some now and none of its own wait for
    /// it; `None` for no records.
    pub(crate) fn try_room(&self, partner: i32, records: usize, bytes: usize) -> Option<Room<'_>> {
        if records == 0 || self.is_stalled() {
            return None;
        }
        let hold = self.room.try_take(partner, amount(records, bytes))?;
        Some(Room { queue: self, hold })
    }

    /// Room for that many of a partner's records, at once or until the deadline.
    ///
    /// # Errors
    /// 503 when there is none, at once if the partition's stream is away.
    pub(crate) async fn room(
        &self,
        partner: i32,
        records: usize,
        bytes: usize,
        deadline: tokio::time::Instant,
    ) -> Result<Room<'_>, Refusal> {
        if self.is_stalled() {
            return Err(Refusal::new(
                Problem::LogUnavailable,
                "the log does not take the record's partition at the moment",
            ));
        }
        let hold = self.room.take(partner, amount(records, bytes), deadline);
        match hold.await {
            Some(hold) => Ok(Room { queue: self, hold }),
            None => Err(Refusal {
                retry_after: Some(self.retry_after()),
                ..Refusal::new(
                    Problem::Overloaded,
                    "too many records are in flight in the record's partition",
                )
            }),
        }
    }

    /// In how many seconds what is in flight will have drained, at the rate of late; spread.
    fn retry_after(&self) -> u32 {
        let queued = f64::from(self.room.held().count);
        let rate = f64::from_bits(self.drain_rate.load(Ordering::Relaxed));
        self.spread.over(seconds(queued, rate))
    }

    /// The log took so long for as many records, none if it did not take them.
    pub(crate) fn drained(&self, records: usize, took: Duration) {
        let lately = records as f64 / took.as_secs_f64().max(1e-6);
        let before = f64::from_bits(self.drain_rate.load(Ordering::Relaxed));
        let rate = if before == 0.0 {
            lately
        } else {
            before + DRAIN_WEIGHT * (lately - before)
        };
        self.drain_rate.store(rate.to_bits(), Ordering::Relaxed);
    }

    /// Whether the log refuses this partition at the moment: what arrives is refused at once.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    pub(crate) fn set_stalled(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
    }

    fn wake(&self, mut gathering: MutexGuard<'_, Gathering>) {
        let wake = std::mem::take(&mut gathering.publisher_waits);
        drop(gathering);
        if wake {
            self.arrived.notify_one();
        }
    }

    /// The parts of the next chunk; none if nothing has gathered.
    pub(crate) fn take(&self) -> Vec<Part> {
        let is_shared = self.room.present() > 1;
        self.lock().lanes.take(is_shared)
    }

    /// Returns once something may have gathered, or the queue is closed. For the publisher only.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn arrival(&self) {
        {
            let mut gathering = self.lock();
            if !gathering.lanes.is_empty() || gathering.closed {
                return;
            }
            gathering.publisher_waits = true;
        }
        self.arrived.notified().await;
    }

    /// Everything that has gathered, to be refused.
    pub(crate) fn take_all(&self) -> impl Iterator<Item = Part> + use<> {
        self.lock().lanes.take_all()
    }

    /// Tells a request how its part ended, and gives its room back.
    pub(crate) fn settle(&self, contribution: Contribution, settled: Settled) {
        drop(contribution.room);
        // A client that has hung up does not listen any more.
        let _ = contribution.settled.send(settled);
    }

    /// Lets the publisher end once all that has gathered is settled.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Records gathered or being published.
    pub(crate) fn records_in_flight(&self) -> usize {
        self.room.held().count as usize
    }

    fn lock(&self) -> MutexGuard<'_, Gathering> {
        // Nothing in here panics half way through a change.
        self.gathering
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::lanes::ENTRIES_BYTES_MAX;

    fn share(entries: usize, entry_bytes: usize) -> Encoded {
        Encoded {
            bytes: (0..entries * entry_bytes).map(|it| it as u8).collect(),
            ends: (1..=entries).map(|it| it * entry_bytes).collect(),
        }
    }

    fn chunks(queue: &Queue) -> impl Iterator<Item = Vec<Part>> {
        std::iter::repeat_with(|| queue.take()).take_while(|chunk| !chunk.is_empty())
    }

    fn add(queue: &Queue, share: &Encoded) -> Vec<Piece> {
        let room = queue.try_room(1, share.ends.len(), share.bytes.len());
        room.expect("room").add_many(share, Clock::new().now())
    }

    #[tokio::test]
    async fn a_large_share_fills_chunks_in_order_and_gives_all_room_back() {
        let queue = Queue::new(Partition(0));
        let large = share(9_000, 100);
        let pieces = add(&queue, &large);
        assert_eq!(queue.records_in_flight(), 9_000);
        assert_eq!(pieces.iter().map(|it| it.records).sum::<usize>(), 9_000);
        let mut bytes = Vec::new();
        let mut count = 0;
        for chunk in chunks(&queue) {
            count += 1;
            for part in chunk {
                bytes.extend_from_slice(&part.entries);
                for contribution in part.contributions {
                    queue.settle(contribution, Settled::Stored);
                }
            }
        }
        assert_eq!(count, 3);
        assert_eq!(bytes, large.bytes);
        assert_eq!(queue.records_in_flight(), 0);
        assert_eq!(queue.room.held(), Amount::default());
        for piece in pieces {
            assert_eq!(piece.settled.await, Ok(Settled::Stored));
        }
    }

    #[tokio::test]
    async fn chunks_are_bounded_in_bytes_as_well() {
        let queue = Queue::new(Partition(0));
        let pieces = add(&queue, &share(300, 4_000));
        assert!(pieces.len() >= 3, "{}", pieces.len());
        for chunk in chunks(&queue) {
            let bytes: usize = chunk.iter().map(|part| part.entries.len()).sum();
            assert!(bytes <= ENTRIES_BYTES_MAX);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_partition_refuses_after_a_short_wait_and_recovers() {
        let queue = Queue::new(Partition(0));
        let deadline = || tokio::time::Instant::now() + ROOM_WAIT;
        let held = queue.try_room(1, RECORDS_IN_FLIGHT_MAX, 1);
        let refusal = queue.room(1, 1, 300, deadline()).await.err();
        let refusal = refusal.expect("there is no room");
        assert_eq!(refusal.problem, Problem::Overloaded);
        assert!((1..=2).contains(&refusal.retry_after.expect("a time")));
        // 40,000 are in flight, and 4,000 a second drain.
        queue.drained(4_000, Duration::from_secs(1));
        let refusal = queue.room(2, 1, 300, deadline()).await.err();
        let refusal = refusal.expect("there is no room for others either");
        assert!((10..=15).contains(&refusal.retry_after.expect("a time")));
        drop(held);
        assert!(queue.room(1, 1, 300, deadline()).await.is_ok());
        queue.set_stalled(true);
        let refusal = queue.room(1, 1, 300, deadline()).await.err();
        assert_eq!(refusal.map(|it| it.problem), Some(Problem::LogUnavailable));
    }

    #[test]
    fn the_wait_is_what_drains_by_then_and_bounded() {
        for (queued, rate, expected) in [
            (0.0, 1_000.0, 1),
            (999.0, 1_000.0, 1),
            (1_001.0, 1_000.0, 2),
            (40_000.0, 4_000.0, 10),
            (40_000.0, 1.0, 30),
            // Nothing was ever measured; and the log stands still.
            (40_000.0, 0.0, 1),
            (40_000.0, 1e-9, 30),
        ] {
            assert_eq!(seconds(queued, rate), expected, "{queued} {rate}");
        }
        let queue = Queue::new(Partition(0));
        for _ in 0..100 {
            queue.drained(1_000, Duration::from_millis(100));
        }
        let rate = || f64::from_bits(queue.drain_rate.load(Ordering::Relaxed));
        assert!((rate() - 10_000.0).abs() < 1.0);
        queue.drained(0, Duration::from_secs(5));
        assert!((rate() - 8_000.0).abs() < 1.0);
    }

    #[tokio::test]
    async fn many_singles_share_a_chunk() {
        let queue = Queue::new(Partition(0));
        let mut receivers = Vec::new();
        for number in 0..10_u8 {
            let room = queue.try_room(1, 1, 300).expect("room");
            receivers.push(room.add_one(&[number], Clock::new().now()));
        }
        let chunk = queue.take();
        assert_eq!(chunk.len(), 1, "one part");
        assert_eq!(chunk[0].entries, (0..10).collect::<Vec<_>>());
        assert!(queue.take().is_empty());
    }
}
