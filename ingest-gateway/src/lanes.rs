//! What gathers for a partition, in a lane for each partner. Only one partner's records have an
//! order among themselves, so nobody needs to stand behind what another has brought, nor wait
//! until it is published.

use std::collections::VecDeque;

use contract::limits::{
    ATTRIBUTES_BYTES_MAX, CHUNK_BYTES_MAX, CHUNK_RECORDS_MAX, COURIER_ID_CHARS_MAX,
    COURIER_NAME_CHARS_MAX, EXTRA_BYTES_MAX, PHONE_CHARS_MAX, VEHICLE_TYPE_CHARS_MAX,
};

use crate::item::ENTRY_BYTES_MAX;
use crate::queue::Contribution;

/// Most records of a part: about what the log takes in the time that its fsync needs anyway.
pub(crate) const PART_RECORDS_MAX: usize = 500;

/// Most bytes of a part's entries, likewise.
pub(crate) const PART_BYTES_MAX: usize = 64 * 1024;

/// What a chunk adds to its entries, in bytes: framing, and an origin of at most 128 bytes.
const CHUNK_OVERHEAD_BYTES: usize = 256;

/// Most bytes of a chunk's entries.
pub(crate) const ENTRIES_BYTES_MAX: usize = CHUNK_BYTES_MAX - CHUNK_OVERHEAD_BYTES;

const _: () = assert!(
    ENTRY_BYTES_MAX + EXTRA_BYTES_MAX <= PART_BYTES_MAX,
    "a ride fits a part"
);
const _: () = assert!(
    // A character is up to four bytes.
    ENTRY_BYTES_MAX
        + 4 * (COURIER_ID_CHARS_MAX + COURIER_NAME_CHARS_MAX)
        + 4 * (VEHICLE_TYPE_CHARS_MAX + PHONE_CHARS_MAX)
        + ATTRIBUTES_BYTES_MAX
        <= PART_BYTES_MAX,
    "a command to a courier fits a part"
);
const _: () = assert!(
    PART_BYTES_MAX <= ENTRIES_BYTES_MAX && PART_RECORDS_MAX <= CHUNK_RECORDS_MAX,
    "a part fits a chunk"
);

/// Entries of one partner that go into one chunk, in order.
#[derive(Default)]
pub(crate) struct Part {
    pub(crate) entries: Vec<u8>,
    pub(crate) records: usize,
    pub(crate) contributions: Vec<Contribution>,
}

impl Part {
    fn takes(&self, entry_bytes: usize) -> bool {
        self.records < PART_RECORDS_MAX && self.entries.len() + entry_bytes <= PART_BYTES_MAX
    }
}

/// One of a partition's publishers, counted from 0.
pub(crate) type PublisherIndex = usize;

struct Lane {
    partner: i32,
    /// Never empty, unless something of it is in flight.
    parts: VecDeque<Part>,
    /// The publisher whose chunk has something of it: until that is settled the lane is its alone,
    /// so that what one partner brings stays in order.
    in_flight: Option<PublisherIndex>,
}

impl Lane {
    fn is_idle(&self) -> bool {
        self.parts.is_empty() && self.in_flight.is_none()
    }
}

/// A lane for each partner that has something here or in flight; the front one gives next.
#[derive(Default)]
pub(crate) struct Lanes(VecDeque<Lane>);

impl Lanes {
    /// Whether something has gathered of which nothing is in flight.
    pub(crate) fn has_free(&self) -> bool {
        let mut lanes = self.0.iter();
        lanes.any(|lane| lane.in_flight.is_none() && !lane.parts.is_empty())
    }

    /// The partner's last part if an entry fits, else a new one.
    pub(crate) fn open_for(&mut self, partner: i32, entry_bytes: usize) -> &mut Part {
        // Few partners have something here at a time.
        let known = self.0.iter().position(|lane| lane.partner == partner);
        let index = known.unwrap_or_else(|| {
            self.0.push_back(Lane {
                partner,
                parts: VecDeque::new(),
                in_flight: None,
            });
            self.0.len() - 1
        });
        let parts = &mut self.0[index].parts;
        if !parts.back().is_some_and(|part| part.takes(entry_bytes)) {
            parts.push_back(Part::default());
        }
        parts.back_mut().expect("pushed if there was none")
    }

    /// The parts of a publisher's next chunk, whose last one is settled, lane by lane in turn: as
    /// many as fit, but of each lane only one while partners share the log, so that it is soon
    /// ready for the next, and none of a lane of which another publisher has something in flight.
    pub(crate) fn take(&mut self, publisher: PublisherIndex, is_shared: bool) -> Vec<Part> {
        self.release(publisher);
        let mut chunk: Vec<Part> = Vec::new();
        let (mut records, mut bytes) = (0, 0);
        // Lanes in a row that gave nothing.
        let mut passed = 0;
        while passed < self.0.len() {
            let lane = self.0.front_mut().expect("there are more than were passed");
            let gives = match lane.in_flight {
                None => true,
                Some(other) => other == publisher && !is_shared,
            };
            match lane.parts.front() {
                Some(next) if gives => {
                    records += next.records;
                    bytes += next.entries.len();
                    if records > CHUNK_RECORDS_MAX || bytes > ENTRIES_BYTES_MAX {
                        break;
                    }
                    chunk.extend(lane.parts.pop_front());
                    lane.in_flight = Some(publisher);
                    passed = 0;
                }
                _ => passed += 1,
            }
            self.0.rotate_left(1);
        }
        chunk
    }

    /// Nothing is in flight any more of what the publisher took.
    fn release(&mut self, publisher: PublisherIndex) {
        for lane in &mut self.0 {
            if lane.in_flight == Some(publisher) {
                lane.in_flight = None;
            }
        }
        self.0.retain(|lane| !lane.is_idle());
    }

    /// Everything that has gathered.
    pub(crate) fn take_all(&mut self) -> Vec<Part> {
        let lanes = self.0.iter_mut();
        let gathered = lanes.flat_map(|lane| std::mem::take(&mut lane.parts));
        let gathered = gathered.collect();
        self.0.retain(|lane| !lane.is_idle());
        gathered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn add(lanes: &mut Lanes, partner: i32, entry: &[u8]) {
        let part = lanes.open_for(partner, entry.len());
        part.entries.extend_from_slice(entry);
        part.records += 1;
    }

    #[test]
    fn a_newcomer_is_in_the_next_chunk_and_a_flood_gives_one_part() {
        let mut lanes = Lanes::default();
        for _ in 0..10 * PART_RECORDS_MAX {
            add(&mut lanes, 1, b"flood");
        }
        add(&mut lanes, 2, b"small");
        let chunk = lanes.take(0, true);
        assert_eq!(chunk.len(), 2);
        assert_eq!(chunk[0].records, PART_RECORDS_MAX);
        assert_eq!(chunk[1].entries, b"small");
        let chunk = lanes.take(0, true);
        assert_eq!(chunk.len(), 1, "one part while the log is shared");
        let chunk = lanes.take(0, false);
        assert_eq!(
            chunk.iter().map(|it| it.records).sum::<usize>(),
            CHUNK_RECORDS_MAX
        );
        assert!(lanes.take(0, true).is_empty());
        assert!(lanes.0.is_empty());
    }

    #[test]
    fn who_has_nothing_in_flight_waits_for_nobody() {
        let mut lanes = Lanes::default();
        add(&mut lanes, 1, b"flood");
        assert_eq!(lanes.take(0, true).len(), 1);
        add(&mut lanes, 1, b"more");
        assert!(!lanes.has_free() && lanes.take(1, true).is_empty());
        add(&mut lanes, 2, b"small");
        assert!(lanes.has_free());
        let chunk = lanes.take(1, true);
        assert_eq!(chunk.len(), 1);
        assert_eq!(chunk[0].entries, b"small");
        // What is refused while something is in flight leaves that lane to its publisher.
        assert_eq!(lanes.take_all().len(), 1);
        add(&mut lanes, 1, b"and more");
        assert!(!lanes.has_free() && lanes.take(1, true).is_empty());
        assert_eq!(lanes.take(0, true).len(), 1);
    }

    proptest! {
        /// Whoever brings how much, and whichever publisher is done first: nothing is lost, each
        /// partner's records are in one chunk at a time and keep their order, no chunk passes its
        /// bounds, and while lanes share, none gives twice in a chunk.
        #[test]
        fn each_partner_keeps_its_order(
            adds in prop::collection::vec((1_i32..8, 1_usize..5_000), 0..600),
            takes in prop::collection::vec(any::<(bool, bool, u8)>(), 0..60),
        ) {
            let mut lanes = Lanes::default();
            let mut sent = [const { Vec::new() }; 8];
            let mut given = [const { Vec::new() }; 8];
            let mut in_flight = [const { Vec::new() }; 2];
            let mut take = |lanes: &mut Lanes, publisher: usize, is_shared| {
                in_flight[publisher].clear();
                let waits = lanes.has_free();
                let chunk = lanes.take(publisher, is_shared);
                assert!(!(waits && chunk.is_empty()), "what is free is taken");
                let (records, bytes) = chunk.iter().fold((0, 0), |(records, bytes), part| {
                    (records + part.records, bytes + part.entries.len())
                });
                assert!(records <= CHUNK_RECORDS_MAX && bytes <= ENTRIES_BYTES_MAX);
                let mut partners: Vec<_> = chunk.iter().map(|part| part.entries[0]).collect();
                for part in &chunk {
                    given[usize::from(part.entries[0])].extend_from_slice(&part.entries);
                }
                partners.sort_unstable();
                partners.dedup();
                assert!(!is_shared || partners.len() == chunk.len());
                assert!(!partners.iter().any(|it| in_flight[1 - publisher].contains(it)));
                in_flight[publisher] = partners;
                !chunk.is_empty()
            };
            let mut takes = takes.into_iter();
            for (number, (partner, bytes)) in adds.into_iter().enumerate() {
                // The partner, then what tells entries apart.
                let mut entry = vec![number as u8; bytes];
                entry[0] = partner as u8;
                add(&mut lanes, partner, &entry);
                sent[partner as usize].extend(entry);
                if number % 16 == 0 && let Some((publisher, is_shared, times)) = takes.next() {
                    for _ in 0..times % 4 {
                        take(&mut lanes, publisher.into(), is_shared);
                    }
                }
            }
            while take(&mut lanes, 0, true) | take(&mut lanes, 1, true) {}
            prop_assert_eq!(sent, given);
        }
    }
}
