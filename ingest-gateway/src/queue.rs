//! One partition's queue: where encoded entries gather while a chunk is being published.
//!
//! What a request adds is the queue's from then on: a client that hangs up cancels nothing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use contract::limits::{
    ATTRIBUTES_BYTES_MAX, CHUNK_BYTES_MAX, CHUNK_RECORDS_MAX, COURIER_ID_CHARS_MAX,
    COURIER_NAME_CHARS_MAX, EXTRA_BYTES_MAX, ITEMS_MAX, PHONE_CHARS_MAX, VEHICLE_TYPE_CHARS_MAX,
};
use contract::{Partition, Problem};
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::clock::Moment;
use crate::item::ENTRY_BYTES_MAX;
use crate::refusal::Refusal;

/// Records that one partition gathers and publishes at most: two of the largest requests and
/// several full chunks, a second's worth at the rate the log takes.
pub(crate) const RECORDS_IN_FLIGHT_MAX: usize = 40_000;

/// Bytes of entries that one partition gathers and publishes at most; 256 partitions at their
/// bound would take 8 GiB, two take 64 MiB.
pub(crate) const BYTES_IN_FLIGHT_MAX: usize = 32 * 1024 * 1024;

/// How long a request waits for room in a partition before its items there are refused.
pub(crate) const ROOM_WAIT: Duration = Duration::from_millis(200);

/// What an entry usually takes, in bytes: only to allocate once.
const ENTRY_BYTES_USUAL: usize = 192;

/// What a chunk adds to its entries, in bytes: framing, and an origin of at most 128 bytes.
const CHUNK_OVERHEAD_BYTES: usize = 256;

const ENTRIES_BYTES_MAX: usize = CHUNK_BYTES_MAX - CHUNK_OVERHEAD_BYTES;

const _: () = assert!(
    ENTRY_BYTES_MAX + EXTRA_BYTES_MAX <= ENTRIES_BYTES_MAX,
    "a ride fits a chunk"
);
const _: () = assert!(
    // A character is up to four bytes.
    ENTRY_BYTES_MAX
        + 4 * (COURIER_ID_CHARS_MAX + COURIER_NAME_CHARS_MAX)
        + 4 * (VEHICLE_TYPE_CHARS_MAX + PHONE_CHARS_MAX)
        + ATTRIBUTES_BYTES_MAX
        <= ENTRIES_BYTES_MAX,
    "a command to a courier fits a chunk"
);
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
    records: u32,
    bytes: u32,
}

impl Room<'_> {
    pub(crate) fn partition(&self) -> Partition {
        self.queue.partition
    }

    /// Adds one entry, and says where its end will be known.
    pub(crate) fn add_one(self, entry: &[u8], minted: Moment) -> oneshot::Receiver<Settled> {
        let (settled, receiver) = oneshot::channel();
        let queue = self.queue;
        let (_, room_bytes) = self.spend();
        let mut gathering = queue.lock();
        let chunk = gathering.open_for(entry.len());
        chunk.entries.extend_from_slice(entry);
        chunk.records += 1;
        chunk.contributions.push(Contribution {
            end: chunk.entries.len(),
            records: 1,
            room_bytes,
            minted,
            settled,
        });
        queue.wake(gathering);
        receiver
    }

    /// Adds a request's entries in their order, over as many chunks as they need.
    pub(crate) fn add_many(self, share: &Encoded, minted: Moment) -> Vec<Piece> {
        let mut pieces = Vec::with_capacity(1 + share.ends.len() / CHUNK_RECORDS_MAX);
        let queue = self.queue;
        let (mut records_left, mut room_bytes_left) = self.spend();
        assert_eq!(
            records_left as usize,
            share.ends.len(),
            "room was taken for each entry"
        );
        let mut gathering = queue.lock();
        let (mut index, mut start) = (0, 0);
        while index < share.ends.len() {
            let chunk = gathering.open_for(share.ends[index] - start);
            let first = index;
            let piece_start = start;
            let room_left = CHUNK_RECORDS_MAX - chunk.records;
            let bytes_left = ENTRIES_BYTES_MAX - chunk.entries.len();
            while index < share.ends.len()
                && index - first < room_left
                && share.ends[index] - piece_start <= bytes_left
            {
                start = share.ends[index];
                index += 1;
            }
            chunk
                .entries
                .extend_from_slice(&share.bytes[piece_start..start]);
            chunk.records += index - first;
            let records = u32::try_from(index - first).expect("bounded by CHUNK_RECORDS_MAX");
            records_left -= records;
            // The last piece holds whatever the estimate was too high by.
            let room_bytes = if records_left == 0 {
                room_bytes_left
            } else {
                u32::try_from(start - piece_start).map_or(0, |it| it.min(room_bytes_left))
            };
            room_bytes_left -= room_bytes;
            let (settled, receiver) = oneshot::channel();
            chunk.contributions.push(Contribution {
                end: chunk.entries.len(),
                records,
                room_bytes,
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

    /// The room is its contributions' from now on.
    fn spend(self) -> (u32, u32) {
        let spent = (self.records, self.bytes);
        std::mem::forget(self);
        spent
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.queue.free(self.records, self.bytes);
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
    /// The bytes of room it holds.
    pub(crate) room_bytes: u32,
    pub(crate) minted: Moment,
    pub(crate) settled: oneshot::Sender<Settled>,
}

/// A chunk that gathers.
#[derive(Default)]
pub(crate) struct Gathered {
    pub(crate) entries: Vec<u8>,
    pub(crate) records: usize,
    pub(crate) contributions: Vec<Contribution>,
}

impl Gathered {
    fn takes(&self, entry_bytes: usize) -> bool {
        self.records < CHUNK_RECORDS_MAX && self.entries.len() + entry_bytes <= ENTRIES_BYTES_MAX
    }
}

pub(crate) struct Queue {
    pub(crate) partition: Partition,
    gathering: Mutex<Gathering>,
    /// Wakes the publisher; it alone waits.
    arrived: Notify,
    records: Semaphore,
    bytes: Semaphore,
    stalled: AtomicBool,
}

#[derive(Default)]
struct Gathering {
    chunks: VecDeque<Gathered>,
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
            records: Semaphore::new(RECORDS_IN_FLIGHT_MAX),
            bytes: Semaphore::new(BYTES_IN_FLIGHT_MAX),
            stalled: AtomicBool::new(false),
        }
    }

    /// Room for that many records if there is some now and nobody waits for it; `None` for no
    /// records.
    pub(crate) fn try_room(&self, records: usize, bytes: usize) -> Option<Room<'_>> {
        if records == 0 || self.is_stalled() {
            return None;
        }
        let (records, bytes) = Self::permits(records, bytes);
        let by_records = self.records.try_acquire_many(records).ok()?;
        let by_bytes = self.bytes.try_acquire_many(bytes).ok()?;
        by_records.forget();
        by_bytes.forget();
        Some(self.held(records, bytes))
    }

    /// Room for that many records, at once or until the deadline.
    ///
    /// # Errors
    /// 503 when there is none, at once if the partition's stream is away.
    pub(crate) async fn room(
        &self,
        records: usize,
        bytes: usize,
        deadline: tokio::time::Instant,
    ) -> Result<Room<'_>, Refusal> {
        if let Some(room) = self.try_room(records, bytes) {
            return Ok(room);
        }
        if self.is_stalled() {
            return Err(Refusal::new(
                Problem::LogUnavailable,
                "the log does not take the record's partition at the moment",
            ));
        }
        let (records, bytes) = Self::permits(records, bytes);
        let waited = tokio::time::timeout_at(deadline, async {
            let by_records = self.records.acquire_many(records).await.ok()?;
            let by_bytes = self.bytes.acquire_many(bytes).await.ok()?;
            by_records.forget();
            by_bytes.forget();
            Some(self.held(records, bytes))
        });
        waited.await.ok().flatten().ok_or_else(|| {
            Refusal::new(
                Problem::Overloaded,
                "too many records are in flight in the record's partition",
            )
        })
    }

    fn permits(records: usize, bytes: usize) -> (u32, u32) {
        let records = u32::try_from(records).expect("bounded by ITEMS_MAX");
        // A request may be larger than the bound in bytes: it then takes the whole of it.
        let bytes = u32::try_from(bytes.min(BYTES_IN_FLIGHT_MAX)).expect("bounded above");
        (records, bytes)
    }

    /// Whether the log refuses this partition at the moment: what arrives is refused at once.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    pub(crate) fn set_stalled(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
    }

    fn held(&self, records: u32, bytes: u32) -> Room<'_> {
        Room {
            queue: self,
            records,
            bytes,
        }
    }

    fn free(&self, records: u32, bytes: u32) {
        self.records.add_permits(records as usize);
        self.bytes.add_permits(bytes as usize);
    }

    fn wake(&self, mut gathering: MutexGuard<'_, Gathering>) {
        let wake = std::mem::take(&mut gathering.publisher_waits);
        drop(gathering);
        if wake {
            self.arrived.notify_one();
        }
    }

    /// The next chunk, if anything has gathered.
    pub(crate) fn take(&self) -> Option<Gathered> {
        self.lock().chunks.pop_front()
    }

    /// Returns once something may have gathered, or the queue is closed. For the publisher only.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn arrival(&self) {
        {
            let mut gathering = self.lock();
            if !gathering.chunks.is_empty() || gathering.closed {
                return;
            }
            gathering.publisher_waits = true;
        }
        self.arrived.notified().await;
    }

    /// Everything that has gathered, to be refused.
    pub(crate) fn take_all(&self) -> VecDeque<Gathered> {
        std::mem::take(&mut self.lock().chunks)
    }

    /// Tells a request how its part ended, and gives its room back.
    pub(crate) fn settle(&self, contribution: Contribution, settled: Settled) {
        self.free(contribution.records, contribution.room_bytes);
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
        RECORDS_IN_FLIGHT_MAX.saturating_sub(self.records.available_permits())
    }

    fn lock(&self) -> MutexGuard<'_, Gathering> {
        // Nothing in here panics half way through a change.
        self.gathering
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gathering {
    /// The last chunk if the entry fits, else a new one.
    fn open_for(&mut self, entry_bytes: usize) -> &mut Gathered {
        if !self
            .chunks
            .back()
            .is_some_and(|chunk| chunk.takes(entry_bytes))
        {
            self.chunks.push_back(Gathered::default());
        }
        self.chunks.back_mut().expect("pushed if there was none")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn share(entries: usize, entry_bytes: usize) -> Encoded {
        Encoded {
            bytes: (0..entries * entry_bytes).map(|it| it as u8).collect(),
            ends: (1..=entries).map(|it| it * entry_bytes).collect(),
        }
    }

    fn add(queue: &Queue, share: &Encoded) -> Vec<Piece> {
        let room = queue.try_room(share.ends.len(), share.bytes.len());
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
        let mut chunks = 0;
        while let Some(chunk) = queue.take() {
            chunks += 1;
            assert!(chunk.records <= CHUNK_RECORDS_MAX);
            assert!(chunk.entries.len() <= ENTRIES_BYTES_MAX);
            bytes.extend_from_slice(&chunk.entries);
            for contribution in chunk.contributions {
                queue.settle(contribution, Settled::Stored);
            }
        }
        assert_eq!(chunks, 3);
        assert_eq!(bytes, large.bytes);
        assert_eq!(queue.records_in_flight(), 0);
        assert_eq!(queue.bytes.available_permits(), BYTES_IN_FLIGHT_MAX);
        for piece in pieces {
            assert_eq!(piece.settled.await, Ok(Settled::Stored));
        }
    }

    #[tokio::test]
    async fn chunks_are_bounded_in_bytes_as_well() {
        let queue = Queue::new(Partition(0));
        let pieces = add(&queue, &share(300, 4_000));
        assert!(pieces.len() >= 3, "{}", pieces.len());
        while let Some(chunk) = queue.take() {
            assert!(chunk.entries.len() <= ENTRIES_BYTES_MAX);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_partition_refuses_after_a_short_wait_and_recovers() {
        let queue = Queue::new(Partition(0));
        let deadline = || tokio::time::Instant::now() + ROOM_WAIT;
        let held = queue.try_room(RECORDS_IN_FLIGHT_MAX, 1);
        let refusal = queue.room(1, 300, deadline()).await.err();
        assert_eq!(refusal.map(|it| it.problem), Some(Problem::Overloaded));
        drop(held);
        assert!(queue.room(1, 300, deadline()).await.is_ok());
        queue.set_stalled(true);
        let refusal = queue.room(1, 300, deadline()).await.err();
        assert_eq!(refusal.map(|it| it.problem), Some(Problem::LogUnavailable));
    }

    #[tokio::test]
    async fn many_singles_share_a_chunk() {
        let queue = Queue::new(Partition(0));
        let mut receivers = Vec::new();
        for number in 0..10_u8 {
            let room = queue.try_room(1, 300).expect("room");
            receivers.push(room.add_one(&[number], Clock::new().now()));
        }
        let chunk = queue.take().expect("one chunk");
        assert_eq!(chunk.entries, (0..10).collect::<Vec<_>>());
        assert!(queue.take().is_none());
    }
}
