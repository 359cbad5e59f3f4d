//! Tracking ids: UUIDv7 (RFC 9562, section 5.7) whose 74 free bits say where a record is and let a
//! made-up id be refused without asking the database.
//!
//! ```text
//! bits 127..80  48  Unix milliseconds
//!       79..76   4  version, 7
//!       75..64  12  counter, upper bits
//!       63..62   2  variant, 0b10
//!       61..24  38  counter, lower bits
//!       23..16   8  partition
//!       15..0   16  tag: SipHash-2-4 over the 14 bytes above and the partner, keyed
//! ```
//!
//! The tag is a filter, not access control: a guess passes once in 65,536 times per key of the
//! ring, and then finds no row, because every query names the partner.

use std::fmt;
use std::hash::Hasher as _;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use siphasher::sip::SipHasher24;
use uuid::Uuid;

use crate::partition::Partition;

const COUNTER_BITS: u32 = 50;
const COUNTER_MAX: u64 = (1 << COUNTER_BITS) - 1;
const COUNTER_LOW_BITS: u32 = 38;

/// A UUIDv7 in Weir's layout. Sorts by time of minting.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrackingId(u128);

impl TrackingId {
    /// `None` unless the version is 7 and the variant is RFC 9562's. Says nothing of the tag:
    /// that is [`KeyRing::verify`].
    #[must_use]
    pub fn from_uuid(uuid: Uuid) -> Option<Self> {
        let rfc = uuid.get_variant() == uuid::Variant::RFC4122;
        (rfc && uuid.get_version_num() == 7).then(|| Self(uuid.as_u128()))
    }

    /// As a UUID.
    #[must_use]
    pub fn uuid(self) -> Uuid {
        Uuid::from_u128(self.0)
    }

    /// When it was minted, in Unix milliseconds.
    #[must_use]
    pub fn unix_ms(self) -> u64 {
        (self.0 >> 80) as u64
    }

    /// Where its record is.
    #[must_use]
    pub fn partition(self) -> Partition {
        Partition((self.0 >> 16) as u8)
    }

    fn tag(self) -> u16 {
        self.0 as u16
    }

    pub(crate) fn compose(unix_ms: u64, counter: u64, partition: Partition, tag: u16) -> Self {
        let high = (unix_ms << 16) | 0x7000 | (counter >> COUNTER_LOW_BITS);
        let low = (0b10 << 62)
            | (counter & ((1 << COUNTER_LOW_BITS) - 1)) << 24
            | u64::from(partition.0) << 16
            | u64::from(tag);
        Self(u128::from(high) << 64 | u128::from(low))
    }
}

impl fmt::Display for TrackingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uuid().hyphenated().fmt(f)
    }
}

impl fmt::Debug for TrackingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is no tracking id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a tracking id: a hyphenated UUID of version 7 is expected")]
pub struct NotATrackingId;

impl FromStr for TrackingId {
    type Err = NotATrackingId;

    fn from_str(text: &str) -> Result<Self, NotATrackingId> {
        // Only the form that was handed out: uuid would also take braces, urn: and no hyphens.
        if text.len() != 36 {
            return Err(NotATrackingId);
        }
        Uuid::parse_str(text)
            .ok()
            .and_then(Self::from_uuid)
            .ok_or(NotATrackingId)
    }
}

impl serde::Serialize for TrackingId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.uuid().serialize(serializer)
    }
}

/// The keys that tags are made and checked with.
///
/// The first mints, all verify. To change keys: append the new one everywhere, restart every
/// status API, then move it to the front and restart the gateways; drop the old one once no
/// ledger row minted with it is kept.
#[derive(Clone)]
pub struct KeyRing {
    keys: Vec<[u8; 16]>,
}

/// A fault in a key file; says the line, never the key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyRingError {
    /// No key at all.
    #[error("no tracking key: expected lines `<name> <64 hex digits>`")]
    Empty,
    /// A line that is not a key.
    #[error("line {0}: expected `<name> <64 hex digits>`")]
    Line(usize),
}

impl KeyRing {
    /// Reads a key file: one key a line, `<name> <64 hex digits>`; `#` starts a comment. Of the 32
    /// random bytes the first 16 key the tag; the rest is kept for a wider tag.
    ///
    /// # Errors
    /// [`KeyRingError`] names the line.
    pub fn parse(text: &str) -> Result<Self, KeyRingError> {
        let mut keys = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let (Some(_name), Some(digits), None) = (words.next(), words.next(), words.next())
            else {
                if line.trim().is_empty() {
                    continue;
                }
                return Err(KeyRingError::Line(number));
            };
            let mut key = [0; 32];
            hex::decode_to_slice(digits, &mut key).map_err(|_| KeyRingError::Line(number))?;
            keys.push(key[..16].try_into().expect("half of 32 bytes"));
        }
        if keys.is_empty() {
            return Err(KeyRingError::Empty);
        }
        Ok(Self { keys })
    }

    /// Whether the id was minted for this partner with a key of the ring; wrong once in 65,536
    /// made-up ids per key.
    #[must_use]
    pub fn verify(&self, id: TrackingId, partner_id: i32) -> bool {
        // Every key is tried, so that the time taken says nothing about which one fits.
        self.keys.iter().fold(false, |found, key| {
            found | (tag(key, id, partner_id) == id.tag())
        })
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({} keys)", self.keys.len())
    }
}

fn tag(key: &[u8; 16], id: TrackingId, partner_id: i32) -> u16 {
    let mut hasher = SipHasher24::new_with_key(key);
    hasher.write(&id.0.to_be_bytes()[..14]);
    hasher.write(&partner_id.to_le_bytes());
    hasher.finish() as u16
}

/// Mints ids that are unique and ascending within the process, whatever its clock does.
#[derive(Debug)]
pub struct Minter {
    ring: KeyRing,
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    unix_ms: u64,
    counter: u64,
}

impl Minter {
    /// Mints with the ring's first key.
    #[must_use]
    pub fn new(ring: KeyRing) -> Self {
        Self {
            ring,
            last: Mutex::new(Last {
                unix_ms: 0,
                counter: 0,
            }),
        }
    }

    /// A new id. Its time is `max(last, now_ms)`; the counter starts at random in each
    /// millisecond, with its top bit zero, and counts: two gateways meet with a chance of about
    /// 2^-49 per pair of ids in a millisecond.
    ///
    /// # Panics
    /// If the operating system has no randomness to give.
    #[must_use]
    pub fn mint(&self, partner_id: i32, partition: Partition, now_ms: u64) -> TrackingId {
        let (unix_ms, counter) = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if now_ms > last.unix_ms {
                *last = Last {
                    unix_ms: now_ms,
                    counter: seed(),
                };
            } else if last.counter == COUNTER_MAX {
                *last = Last {
                    unix_ms: last.unix_ms + 1,
                    counter: seed(),
                };
            } else {
                last.counter += 1;
            }
            (last.unix_ms, last.counter)
        };
        let untagged = TrackingId::compose(unix_ms, counter, partition, 0);
        TrackingId(untagged.0 | u128::from(tag(&self.ring.keys[0], untagged, partner_id)))
    }
}

fn seed() -> u64 {
    let random = getrandom::u64().expect("the operating system has randomness");
    random & (COUNTER_MAX >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RING: &str = "new 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n\
                        # the one before\n\
                        old ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f # June\n";

    fn ring() -> KeyRing {
        KeyRing::parse(RING).unwrap()
    }

    #[test]
    fn golden_layout_and_tag() {
        let id = TrackingId::compose(0x0123_4567_89AB, 0x2_AAAA_5555_0F0F, Partition(0xC3), 0);
        assert_eq!(id.to_string(), GOLDEN[0]);
        let tagged = TrackingId(id.0 | u128::from(tag(&ring().keys[0], id, 7)));
        assert_eq!(tagged.to_string(), GOLDEN[1]);
        assert!(ring().verify(tagged, 7));
        assert!(!ring().verify(tagged, 8));
    }

    /// Computed with an independent implementation of SipHash-2-4.
    const GOLDEN: [&str; 2] = [
        "01234567-89ab-7aaa-aa55-550f0fc30000",
        "01234567-89ab-7aaa-aa55-550f0fc3b8fc",
    ];

    #[test]
    fn ids_ascend_even_when_the_clock_falls_back() {
        let minter = Minter::new(ring());
        let mut last = minter.mint(1, Partition(0), 1_000);
        for now in [1_000, 1_000, 999, 5, 1_001, 1_001, 1_000] {
            let next = minter.mint(1, Partition(255), now);
            assert!(next > last, "{last} then {next}");
            assert!(next.unix_ms() >= last.unix_ms());
            last = next;
        }
        assert_eq!(last.unix_ms(), 1_001);
    }

    #[test]
    fn a_full_counter_borrows_the_next_millisecond() {
        let minter = Minter::new(ring());
        *minter.last.lock().unwrap() = Last {
            unix_ms: 1_000,
            counter: COUNTER_MAX,
        };
        assert_eq!(minter.mint(1, Partition(0), 1_000).unix_ms(), 1_001);
    }

    #[test]
    fn an_old_key_still_verifies_and_a_foreign_one_does_not() {
        let old_first: String = RING.lines().rev().map(|line| format!("{line}\n")).collect();
        let minter = Minter::new(KeyRing::parse(&old_first).unwrap());
        let foreign = RING.replace("0001", "aa01").replace("ff01", "bb01");
        let foreign = KeyRing::parse(&foreign).unwrap();
        let ids: Vec<_> = (0..1_000)
            .map(|now| minter.mint(1, Partition(1), now))
            .collect();
        assert!(ids.iter().all(|id| ring().verify(*id, 1)));
        let passed = ids.iter().filter(|id| foreign.verify(**id, 1)).count();
        assert!(
            passed < 5,
            "{passed} of 1,000 passed a ring that did not mint them"
        );
    }

    #[test]
    fn faults_in_a_key_file_name_the_line() {
        assert_eq!(KeyRing::parse("# none\n").unwrap_err(), KeyRingError::Empty);
        assert_eq!(
            KeyRing::parse("\n\nname abc\n").unwrap_err(),
            KeyRingError::Line(3)
        );
        assert_eq!(KeyRing::parse("name\n").unwrap_err(), KeyRingError::Line(1));
    }

    #[test]
    fn only_the_hyphenated_form_of_version_7_is_read() {
        let id = Minter::new(ring()).mint(1, Partition(1), 1);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(
            id.uuid()
                .simple()
                .to_string()
                .parse::<TrackingId>()
                .is_err()
        );
        assert!(Uuid::nil().to_string().parse::<TrackingId>().is_err());
        assert!("".parse::<TrackingId>().is_err());
        assert!("ééééééééééééééééééé".parse::<TrackingId>().is_err());
    }

    proptest! {
        #[test]
        fn every_part_comes_back(ms in 0_u64..1 << 48, counter in 0..=COUNTER_MAX, partition: u8, tag: u16) {
            let id = TrackingId::compose(ms, counter, Partition(partition), tag);
            prop_assert_eq!(TrackingId::from_uuid(id.uuid()), Some(id));
            prop_assert_eq!((id.unix_ms(), id.partition(), id.tag()), (ms, Partition(partition), tag));
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn any_text_gives_an_answer(text: String) {
            let _ = text.parse::<TrackingId>();
        }
    }
}
