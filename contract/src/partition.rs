//! Which partition a record belongs to: `XXH3-64(canonical key) % P`.
//!
//! The canonical key is `<partner>/<kind>/<id>` in UTF-8, for example `1/rides/132512`, so that any
//! language can compute it. The hash and the key form are golden (tests below): changing either
//! would apply two writes to one resource in two orders.

use std::fmt;
use std::io::Write as _;

use xxhash_rust::xxh3::xxh3_64;

use crate::limits::PARTITIONS_MAX;
use crate::record::Record;

/// Version of the canonical key and the hash over it, kept in the streams' metadata.
pub const PARTITION_HASH_VERSION: u32 = 1;

/// A partition's index, 0 to 255.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Partition(pub u8);

impl Partition {
    /// The index as an array subscript.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many partitions an installation has, 1 to 256; fixed when its streams are created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Partitions(u16);

/// A number of partitions outside 1 to 256.
#[derive(Debug, thiserror::Error)]
#[error("{0} partitions: choose 1 to {PARTITIONS_MAX}")]
pub struct PartitionsOutOfRange(pub u32);

impl Partitions {
    /// # Errors
    /// [`PartitionsOutOfRange`] unless `count` is 1 to 256.
    pub fn new(count: u32) -> Result<Self, PartitionsOutOfRange> {
        match u16::try_from(count) {
            Ok(n) if (1..=PARTITIONS_MAX).contains(&n) => Ok(Self(n)),
            _ => Err(PartitionsOutOfRange(count)),
        }
    }

    /// The count, 1 to 256.
    #[must_use]
    pub fn count(self) -> u16 {
        self.0
    }

    /// Every partition, in order.
    pub fn iter(self) -> impl Iterator<Item = Partition> {
        (0..self.0).map(|index| Partition(u8::try_from(index).expect("at most 256 partitions")))
    }

    /// The partition of a partner's record.
    #[must_use]
    pub fn of(self, partner_id: i32, record: &Record) -> Partition {
        match record {
            Record::Ride(ride) => self.of_key(ride_key(partner_id, ride.id).as_bytes()),
            Record::Courier(command) => {
                self.of_key(courier_key(partner_id, &command.courier_id).as_bytes())
            }
        }
    }

    fn of_key(self, key: &[u8]) -> Partition {
        let index = xxh3_64(key) % u64::from(self.0);
        Partition(u8::try_from(index).expect("below 256"))
    }
}

/// A canonical key on the stack: hashing a record's key allocates nothing.
struct Key {
    bytes: [u8; 40],
    len: usize,
}

impl Key {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn ride_key(partner_id: i32, ride_id: i64) -> Key {
    // 11 characters of an i32, 7 of "/rides/", 20 of an i64: 38 at most.
    let mut bytes = [0; 40];
    let mut free = &mut bytes[..];
    write!(free, "{partner_id}/rides/{ride_id}").expect("two integers and a word fit in 40 bytes");
    let left = free.len();
    Key {
        bytes,
        len: 40 - left,
    }
}

/// The id comes last, so that whatever characters it has, no two couriers share a key.
fn courier_key(partner_id: i32, courier_id: &str) -> String {
    format!("{partner_id}/couriers/{courier_id}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::courier::{Command, CourierCommand, CourierDelete};
    use crate::record::Ride;

    #[test]
    fn golden_keys_and_partitions() {
        // Computed once with an independent implementation of XXH3-64 (see docs/chunk-format.md).
        let golden: &[(i32, i64, &str, u64)] = &[
            (1, 132_512, "1/rides/132512", GOLDEN_HASHES[0]),
            (2, 1, "2/rides/1", GOLDEN_HASHES[1]),
            (
                i32::MAX,
                i64::MAX,
                "2147483647/rides/9223372036854775807",
                GOLDEN_HASHES[2],
            ),
        ];
        for (partner, id, text, hash) in golden {
            let key = ride_key(*partner, *id);
            assert_eq!(key.as_bytes(), text.as_bytes());
            assert_eq!(xxh3_64(key.as_bytes()), *hash, "{text}");
            for count in [1, 2, 3, 8, 256] {
                let partitions = Partitions::new(count).unwrap();
                let record = Record::Ride(Ride {
                    id: *id,
                    ..Ride::default()
                });
                assert_eq!(
                    u64::from(partitions.of(*partner, &record).0),
                    hash % u64::from(count)
                );
            }
        }
    }

    #[test]
    fn golden_courier_keys() {
        let golden = [
            (1, "c-1", "1/couriers/c-1", GOLDEN_COURIER_HASHES[0]),
            (2, "Ünit/7", "2/couriers/Ünit/7", GOLDEN_COURIER_HASHES[1]),
        ];
        for (partner, id, text, hash) in golden {
            assert_eq!(courier_key(partner, id), text);
            assert_eq!(xxh3_64(text.as_bytes()), hash, "{text}");
            let record = Record::Courier(CourierCommand {
                courier_id: id.to_owned(),
                command: Command::Delete(CourierDelete {}),
            });
            let partitions = Partitions::new(256).unwrap();
            assert_eq!(u64::from(partitions.of(partner, &record).0), hash % 256);
        }
    }

    const GOLDEN_COURIER_HASHES: [u64; 2] = [0x85c4_cfc1_018c_800d, 0x1104_5d0b_1fc5_0dbe];

    const GOLDEN_HASHES: [u64; 3] = [
        0x3c61_7ee2_1ab0_1edc,
        0x457c_e84d_9905_d27b,
        0x3409_4aae_bf7d_7044,
    ];

    #[test]
    fn the_count_is_bounded() {
        assert!(Partitions::new(0).is_err());
        assert!(Partitions::new(257).is_err());
        assert_eq!(Partitions::new(256).unwrap().iter().count(), 256);
    }
}
