//! What gathers for a partition, in a lane for each partner. Only one partner's records have an
//! order among themselves, so nobody needs to stand behind what another has brought.

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

struct Lane {
    partner: i32,
    /// Never empty.
    parts: VecDeque<Part>,
}

/// A lane for each partner that has something here; the front one gives next.
#[derive(Default)]
pub(crate) struct Lanes(VecDeque<Lane>);

impl Lanes {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The partner's last part if an entry fits, else a new one.
    pub(crate) fn open_for(&mut self, partner: i32, entry_bytes: usize) -> &mut Part {
        // Few partners have something here at a time.
        let known = self.0.iter().position(|lane| lane.partner == partner);
        let index = known.unwrap_or_else(|| {
            self.0.push_back(Lane {
                partner,
                parts: VecDeque::new(),
            });
            self.0.len() - 1
        });
        let parts = &mut self.0[index].parts;
        if !parts.back().is_some_and(|part| part.takes(entry_bytes)) {
            parts.push_back(Part::default());
        }
        parts.back_mut().expect("pushed if there was none")
    }

    /// The parts of the next chunk, lane by lane in turn: as many as fit, but of each lane only
    /// one while partners share the log, so that it is soon ready for the next. None if nothing
    /// has gathered.
    pub(crate) fn take(&mut self, is_shared: bool) -> Vec<Part> {
        let turns = if is_shared { self.0.len() } else { usize::MAX };
        let mut chunk: Vec<Part> = Vec::new();
        let (mut records, mut bytes) = (0, 0);
        for _ in 0..turns {
            let Some(lane) = self.0.front_mut() else {
                break;
            };
            let next = lane.parts.front().expect("a lane is never empty");
            records += next.records;
            bytes += next.entries.len();
            if records > CHUNK_RECORDS_MAX || bytes > ENTRIES_BYTES_MAX {
                break;
            }
            chunk.extend(lane.parts.pop_front());
            let lane = self.0.pop_front().expect("it was the front");
            if !lane.parts.is_empty() {
                self.0.push_back(lane);
            }
        }
        chunk
    }

    /// Everything that has gathered.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = Part> + use<> {
        std::mem::take(&mut self.0)
            .into_iter()
            .flat_map(|lane| lane.parts)
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
        let chunk = lanes.take(true);
        assert_eq!(chunk.len(), 2);
        assert_eq!(chunk[0].records, PART_RECORDS_MAX);
        assert_eq!(chunk[1].entries, b"small");
        let chunk = lanes.take(true);
        assert_eq!(chunk.len(), 1, "one part while the log is shared");
        let chunk = lanes.take(false);
        assert_eq!(
            chunk.iter().map(|it| it.records).sum::<usize>(),
            CHUNK_RECORDS_MAX
        );
        assert!(lanes.is_empty());
        assert!(lanes.take(true).is_empty());
    }

    proptest! {
        /// Whoever brings how much: nothing is lost, each partner's records keep their order, no
        /// chunk passes its bounds, and while lanes share, none gives twice in a chunk.
        #[test]
        fn each_partner_keeps_its_order(
            adds in prop::collection::vec((1_i32..8, 1_usize..5_000), 0..600),
            takes in prop::collection::vec(any::<(bool, u8)>(), 0..60),
        ) {
            let mut lanes = Lanes::default();
            let mut sent = [const { Vec::new() }; 8];
            let mut given = [const { Vec::new() }; 8];
            let mut take = |lanes: &mut Lanes, is_shared| {
                let chunk = lanes.take(is_shared);
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
                !chunk.is_empty()
            };
            let mut takes = takes.into_iter();
            for (number, (partner, bytes)) in adds.into_iter().enumerate() {
                // The partner, then what tells entries apart.
                let mut entry = vec![number as u8; bytes];
                entry[0] = partner as u8;
                add(&mut lanes, partner, &entry);
                sent[partner as usize].extend(entry);
                if number % 16 == 0 && let Some((is_shared, times)) = takes.next() {
                    for _ in 0..times % 4 {
                        take(&mut lanes, is_shared);
                    }
                }
            }
            while take(&mut lanes, true) {}
            prop_assert_eq!(sent, given);
        }
    }
}
