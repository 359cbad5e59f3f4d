//! One partition's queue: where encoded entries gather while a chunk is being published.
//!
//! What a request adds is the queue's from then on: a client that hangs up cancels nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use contract::limits::{CHUNK_BYTES_MAX, CHUNK_RECORDS_MAX, ITEMS_MAX};
use contract::{Partition, Problem};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::clock::Moment;
use crate::lanes::{Lanes, PART_BYTES_MAX, PART_RECORDS_MAX, Part, PublisherIndex};
use crate::quota::Spread;
use crate::refusal::Refusal;
use crate::shares::{Amount, Bounds, Hold, Shares};

mod rate;

use rate::DrainRate;

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

/// Publishers of a partition. While one waits for the log to answer for what one partner brought,
/// the other publishes what others bring.
pub(crate) const PUBLISHERS: usize = 2;

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
    /// Each wakes one publisher, which alone waits for it.
    arrived: [Notify; PUBLISHERS],
    room: Arc<Shares>,
    /// Records a second that the log has lately acknowledged while it was asked to.
    drain: Mutex<DrainRate>,
    spread: Spread,
    /// By publisher.
    stalled: [AtomicBool; PUBLISHERS],
    /// Whether the last chunk failed: the next is a probe then.
    suspect: AtomicBool,
}

#[derive(Default)]
struct Gathering {
    lanes: Lanes,
    /// Which publishers wait: only they need waking.
    waits: [bool; PUBLISHERS],
    /// Set once nothing more will be published.
    closed: bool,
}

impl Queue {
    pub(crate) fn new(partition: Partition) -> Self {
        Self {
            partition,
            gathering: Mutex::default(),
            arrived: Default::default(),
            room: Shares::new(ROOM),
            drain: Mutex::default(),
            spread: Spread::new(),
            stalled: Default::default(),
            suspect: AtomicBool::new(false),
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
        let rate = self.drain().records_a_second();
        self.spread.over(seconds(queued, rate))
    }

    /// A publisher asks the log to store a chunk.
    pub(crate) fn drains(&self) {
        self.drain().begin(Instant::now());
    }

    /// The log has answered for a publisher's chunk, and stored so many records; none if it did not
    /// take them.
    pub(crate) fn drained(&self, records: usize) {
        self.drain().end(records, Instant::now());
    }

    fn drain(&self) -> MutexGuard<'_, DrainRate> {
        self.drain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the log refuses this partition at the moment: what arrives is refused at once.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.iter().any(|it| it.load(Ordering::Relaxed))
    }

    pub(crate) fn set_stalled(&self, publisher: PublisherIndex, stalled: bool) {
        self.stalled[publisher].store(stalled, Ordering::Relaxed);
    }

    /// How the last chunk ended, whoever published it.
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    /// Notes how a chunk ended, and says whether the one before had failed.
    pub(crate) fn ended(&self, failed: bool) -> bool {
        self.suspect.swap(failed, Ordering::Relaxed)
    }

    /// Wakes a publisher for what was added, if one waits and may take it. Otherwise one that
    /// publishes takes it next.
    fn wake(&self, mut gathering: MutexGuard<'_, Gathering>) {
        let Some(waits) = gathering.waits.iter().position(|waits| *waits) else {
            return;
        };
        if gathering.lanes.has_free() {
            gathering.waits[waits] = false;
            drop(gathering);
            self.arrived[waits].notify_one();
        }
    }

    /// The parts of the next chunk of a publisher, whose last one is settled; none if nothing has
    /// gathered that it may take.
    pub(crate) fn take(&self, publisher: PublisherIndex) -> Vec<Part> {
        let is_shared = self.room.present() > 1;
        let mut gathering = self.lock();
        let parts = gathering.lanes.take(publisher, is_shared);
        // What did not fit is the other's to take, if it has nothing to do.
        self.wake(gathering);
        parts
    }

    /// Returns once something may have gathered, or the queue is closed. For that publisher only.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn arrival(&self, publisher: PublisherIndex) {
        {
            let mut gathering = self.lock();
            if gathering.lanes.has_free() || gathering.closed {
                return;
            }
            gathering.waits[publisher] = true;
        }
        self.arrived[publisher].notified().await;
    }

    /// Everything that has gathered, to be refused.
    pub(crate) fn take_all(&self) -> Vec<Part> {
        self.lock().lanes.take_all()
    }

    /// Tells a request how its part ended, and gives its room back.
    pub(crate) fn settle(&self, contribution: Contribution, settled: Settled) {
        drop(contribution.room);
        // A client that has hung up does not listen any more.
        let _ = contribution.settled.send(settled);
    }

    /// Lets the publishers end once all that has gathered is settled.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.arrived.iter().for_each(Notify::notify_one);
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
mod tests;
