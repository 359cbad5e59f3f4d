//! A record's content in 64 bits: what tells a resend from a conflict.
//!
//! Version 1: XXH3-64 over, for each field that is not null in ascending order of its number in
//! `chunk.proto`, the number (u16) and the value, all little-endian: integers, booleans and
//! instants (microseconds) as i64; float64 by its bits, -0 as 0; strings as a u32 length and
//! UTF-8 bytes. A courier command is hashed as its id (1), its command's number with the value 0,
//! and the command's own fields; a text to be removed is the empty text. `extra` is hashed as it is carried: compact, with sorted keys. The top four bits
//! of the result are then replaced by the version, so that a stored hash says how to recompute
//! it: a change of the rule never turns yesterday's resend into a conflict.

use xxhash_rust::xxh3::xxh3_64;

use crate::courier::{Command, CourierCommand, CourierMovement, TextPatch};
use crate::record::{Record, Ride};

/// The version that new rows are written with.
pub const CONTENT_HASH_VERSION: u8 = 1;

const VERSION_SHIFT: u32 = 60;
const HASH_MASK: u64 = (1 << VERSION_SHIFT) - 1;

/// A versioned hash of a record's content; equal for equal content within a version.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ContentHash(u64);

/// A stored hash whose version this build cannot compute.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("content hash version {0} is not known to this build")]
pub struct UnknownVersion(pub u8);

impl ContentHash {
    /// The hash of a record's content in the current version.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        Self::version_1(record)
    }

    /// The hash in a version of choice; `None` if this build does not know it.
    #[must_use]
    pub fn of_version(record: &Record, version: u8) -> Option<Self> {
        (version == CONTENT_HASH_VERSION).then(|| Self::version_1(record))
    }

    /// As the tables hold it.
    #[must_use]
    pub fn get(self) -> i64 {
        self.0.cast_signed()
    }

    /// As read from a table.
    #[must_use]
    pub fn from_stored(stored: i64) -> Self {
        Self(stored.cast_unsigned())
    }

    /// 0 to 15.
    #[must_use]
    pub fn version(self) -> u8 {
        (self.0 >> VERSION_SHIFT) as u8
    }

    /// Whether a record has the content that this hash was taken of.
    ///
    /// # Errors
    /// [`UnknownVersion`] if this build cannot tell.
    pub fn matches(self, record: &Record) -> Result<bool, UnknownVersion> {
        Self::of_version(record, self.version())
            .map(|hash| hash == self)
            .ok_or(UnknownVersion(self.version()))
    }

    fn version_1(record: &Record) -> Self {
        let mut fields = Fields {
            bytes: Vec::with_capacity(256),
        };
        match record {
            Record::Ride(ride) => fields.ride(ride),
            Record::Courier(command) => fields.courier(command),
        }
        Self(xxh3_64(&fields.bytes) & HASH_MASK | 1 << VERSION_SHIFT)
    }
}

/// The bytes under the hash.
struct Fields {
    bytes: Vec<u8>,
}

impl Fields {
    fn ride(&mut self, ride: &Ride) {
        self.integer(1, Some(ride.id));
        self.integer(2, Some(ride.user_id));
        self.integer(3, Some(i64::from(ride.vehicle_model_id)));
        self.integer(4, ride.package_id.map(i64::from));
        self.integer(5, Some(i64::from(ride.travel_type_id)));
        self.integer(6, ride.from_area_id.map(i64::from));
        self.integer(7, ride.to_area_id.map(i64::from));
        self.integer(8, ride.from_city_id.map(i64::from));
        self.integer(9, ride.to_city_id.map(i64::from));
        self.integer(10, Some(ride.from_date_us));
        self.integer(11, ride.to_date_us);
        self.integer(12, Some(i64::from(ride.online_booking)));
        self.integer(13, Some(i64::from(ride.mobile_site_booking)));
        self.integer(14, Some(ride.booking_created_us));
        self.float(15, ride.from_lat);
        self.float(16, ride.from_long);
        self.float(17, ride.to_lat);
        self.float(18, ride.to_long);
        self.integer(19, Some(i64::from(ride.car_cancellation)));
        self.text(20, ride.extra.as_deref());
    }

    fn courier(&mut self, record: &CourierCommand) {
        self.text(1, Some(&record.courier_id));
        match &record.command {
            Command::Create(create) => {
                self.integer(2, Some(0));
                self.text(1, Some(&create.name));
                self.integer(2, Some(i64::from(create.max_capacity)));
                self.integer(3, create.available_capacity.map(i64::from));
                self.text(4, create.vehicle_type.as_deref());
                self.text(5, create.phone.as_deref());
                self.text(6, create.attributes.as_deref());
            }
            Command::Update(update) => {
                self.integer(3, Some(0));
                self.text(1, update.name.as_deref());
                self.integer(2, update.max_capacity.map(i64::from));
                self.integer(3, update.available_capacity.map(i64::from));
                self.patch(4, update.vehicle_type.as_ref());
                self.patch(5, update.phone.as_ref());
                self.text(6, update.attributes.as_deref());
            }
            Command::SetCapacity(capacity) => {
                self.integer(4, Some(0));
                self.integer(1, Some(i64::from(capacity.available_capacity)));
            }
            Command::Pickup(movement) => {
                self.integer(5, Some(0));
                self.movement(movement);
            }
            Command::Dropoff(movement) => {
                self.integer(6, Some(0));
                self.movement(movement);
            }
            Command::Delete(_) => self.integer(7, Some(0)),
        }
    }

    fn movement(&mut self, movement: &CourierMovement) {
        self.integer(1, Some(i64::from(movement.capacity)));
        self.text(2, Some(&movement.reference));
    }

    /// No text that can be set is empty, so the empty one stands for removal.
    fn patch(&mut self, number: u16, patch: Option<&TextPatch>) {
        self.text(
            number,
            patch.map(|patch| patch.value.as_deref().unwrap_or_default()),
        );
    }

    fn integer(&mut self, number: u16, value: Option<i64>) {
        if let Some(value) = value {
            self.bytes.extend(number.to_le_bytes());
            self.bytes.extend(value.to_le_bytes());
        }
    }

    fn float(&mut self, number: u16, value: Option<f64>) {
        // Adding positive zero turns -0 into 0 and changes nothing else.
        self.integer(
            number,
            value.map(|value| (value + 0.0).to_bits().cast_signed()),
        );
    }

    fn text(&mut self, number: u16, value: Option<&str>) {
        if let Some(value) = value {
            let len = u32::try_from(value.len()).expect("bounded by EXTRA_BYTES_MAX");
            self.bytes.extend(number.to_le_bytes());
            self.bytes.extend(len.to_le_bytes());
            self.bytes.extend(value.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::courier::{CourierCreate, CourierDelete, CourierUpdate};
    use proptest::prelude::*;

    fn ride() -> Ride {
        Ride {
            id: 132_512,
            user_id: 22_177,
            vehicle_model_id: 28,
            travel_type_id: 2,
            from_date_us: 1_356_979_500_000_000,
            booking_created_us: 1_356_978_000_000_000,
            from_lat: Some(0.0),
            from_long: Some(77.672_29),
            ..Ride::default()
        }
    }

    fn hash(ride: &Ride) -> ContentHash {
        ContentHash::of(&Record::Ride(ride.clone()))
    }

    #[test]
    fn golden_vectors() {
        let with_extra = Ride {
            extra: Some(r#"{"a":1,"b":[true]}"#.to_owned()),
            ..ride()
        };
        assert_eq!(format!("{:016x}", hash(&ride()).get()), GOLDEN[0]);
        assert_eq!(format!("{:016x}", hash(&with_extra).get()), GOLDEN[1]);
        assert_eq!(hash(&ride()).version(), 1);
        assert!(
            hash(&ride()).get() > 0,
            "version 1 keeps the sign bit clear"
        );
    }

    /// Computed with an independent implementation of XXH3-64.
    const GOLDEN: [&str; 2] = ["1c40564c63234679", "17077f2178c413d6"];

    #[test]
    fn golden_vectors_of_couriers() {
        let commands = [
            Command::Create(CourierCreate {
                name: "Ada".to_owned(),
                max_capacity: 60,
                attributes: Some(r#"{"a":1}"#.to_owned()),
                ..CourierCreate::default()
            }),
            Command::Pickup(CourierMovement {
                capacity: 7,
                reference: "order-9".to_owned(),
            }),
        ];
        let hashes = commands.map(|command| {
            let hash = ContentHash::of(&Record::Courier(CourierCommand {
                courier_id: "c-1".to_owned(),
                command,
            }));
            format!("{:016x}", hash.get())
        });
        assert_eq!(hashes, GOLDEN_COURIERS);
    }

    /// Computed with an independent implementation of XXH3-64.
    const GOLDEN_COURIERS: [&str; 2] = ["13b0b7cfd4273a2c", "1c3f6f572637d1cb"];

    #[test]
    fn a_pickup_and_a_dropoff_differ_and_so_do_keeping_and_removing() {
        let movement = CourierMovement {
            capacity: 7,
            reference: "order-9".to_owned(),
        };
        let removal = CourierUpdate {
            phone: Some(TextPatch { value: None }),
            ..CourierUpdate::default()
        };
        let commands = [
            Command::Pickup(movement.clone()),
            Command::Dropoff(movement),
            Command::Update(CourierUpdate::default()),
            Command::Update(removal),
            Command::Delete(CourierDelete {}),
        ];
        let hashes = commands.map(|command| {
            ContentHash::of(&Record::Courier(CourierCommand {
                courier_id: "c-1".to_owned(),
                command,
            }))
        });
        let distinct: std::collections::HashSet<_> = hashes.into_iter().collect();
        assert_eq!(distinct.len(), 5);
    }

    #[test]
    fn minus_zero_is_zero_and_null_is_not() {
        assert_eq!(
            hash(&Ride {
                from_lat: Some(-0.0),
                ..ride()
            }),
            hash(&ride())
        );
        assert_ne!(
            hash(&Ride {
                from_lat: None,
                ..ride()
            }),
            hash(&ride())
        );
        assert_ne!(
            hash(&Ride {
                package_id: Some(1),
                ..ride()
            }),
            hash(&Ride {
                from_area_id: Some(1),
                ..ride()
            }),
            "the same value in another field is other content"
        );
    }

    #[test]
    fn a_stored_hash_of_an_unknown_version_is_said_to_be_unknown() {
        let stored = ContentHash::from_stored(2 << VERSION_SHIFT);
        assert_eq!(
            stored.matches(&Record::Ride(ride())),
            Err(UnknownVersion(2))
        );
    }

    proptest! {
        #[test]
        fn a_stored_hash_matches_its_record_and_no_neighbour(id in 1..i64::MAX, user_id: i64) {
            let record = Record::Ride(Ride { id, user_id, ..ride() });
            let stored = ContentHash::from_stored(ContentHash::of(&record).get());
            prop_assert_eq!(stored.matches(&record), Ok(true));
            let other = Record::Ride(Ride { id, user_id: user_id.wrapping_add(1), ..ride() });
            prop_assert_eq!(stored.matches(&other), Ok(false));
        }
    }
}
