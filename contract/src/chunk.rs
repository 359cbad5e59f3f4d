//! The chunk: what one log message holds. `docs/chunk-format.md` is the specification.
//!
//! ```text
//! offset  0  4 bytes  magic "WEIR"
//!         4  1 byte   version, 2
//!         5  3 bytes  zero
//!         8  8 bytes  XXH3-64 of the payload, little-endian
//!        16  ...      payload: protobuf message weir.chunk.v1.Chunk
//! ```
//!
//! A reader that meets anything it does not know stops there and says so: skipping would lose
//! acknowledged records.

use bytes::{BufMut as _, Bytes};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::courier::CourierCommand;
use crate::partition::Partition;
use crate::record::{Entry, Operation, Record};
use crate::tracking_id::TrackingId;

/// The protobuf messages as prost generates them from `proto/chunk.proto`.
#[allow(missing_docs, unreachable_pub)]
pub(crate) mod wire {
    include!(concat!(env!("OUT_DIR"), "/weir.chunk.v1.rs"));
}

/// The version that this build writes. It reads version 1 as well, which has rides only.
pub const VERSION: u8 = 2;

const VERSION_RIDES_ONLY: u8 = 1;

const MAGIC: [u8; 4] = *b"WEIR";
const FRAME_BYTES: usize = 16;
const ENTRIES_FIELD: u32 = 15;

/// More than a header takes whose `origin` is at most 128 bytes.
const HEADER_ROOM_BYTES: usize = 240;

/// What a chunk says of itself, besides its entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Also the message id on the log.
    pub chunk_id: Uuid,
    /// The partition of every entry.
    pub partition: Partition,
    /// Microseconds since the Unix epoch. An ack after it is void; a chunk stored more than
    /// [`crate::timing::EXPIRY_SLACK`] after it applies nothing.
    pub publish_by_us: i64,
    /// Who published it, for people.
    pub origin: String,
}

/// A decoded chunk.
#[derive(Clone, PartialEq, Debug)]
pub struct Chunk {
    /// What it says of itself.
    pub header: Header,
    /// In the order in which they apply; may be empty.
    pub entries: Vec<Entry>,
}

/// Bytes that are not a chunk this build can read. The partition is held: nothing is skipped.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than the frame, or another magic.
    #[error("not a chunk: no WEIR frame in {0} bytes")]
    NotAChunk(usize),
    /// Written by a newer build.
    #[error(
        "chunk version {0}, this build reads up to {VERSION}: upgrade the workers before the gateways"
    )]
    UnknownVersion(u8),
    /// Damaged.
    #[error("checksum {found:016x} over the payload, the frame says {expected:016x}")]
    Checksum {
        /// As the frame has it.
        expected: u64,
        /// As computed.
        found: u64,
    },
    /// The payload is not the protobuf message.
    #[error("the payload is not a chunk message")]
    Payload(#[source] prost::DecodeError),
    /// The payload holds what this build would drop: a field that it does not know or that stands
    /// twice, a number out of its field's range or longer than it needs to be.
    #[error("the payload is not as a writer writes it, from its byte {at} on")]
    NotAsWritten {
        /// Offset of the first byte that reading and writing again would change.
        at: usize,
    },
    /// The message breaks a promise of the specification.
    #[error("entry {index}: {fault}")]
    Entry {
        /// Position in the chunk.
        index: usize,
        /// Which promise.
        fault: &'static str,
    },
    /// A field of the header breaks a promise of the specification.
    #[error("chunk header: {0}")]
    Header(&'static str),
}

/// Appends one encoded entry to `buf`: what [`Encoder::push_encoded`] takes.
///
/// Encoding needs no knowledge of the chunk, so it is done where the record was read, and sealing
/// a chunk only copies bytes.
pub fn encode_entry(entry: &Entry, buf: &mut Vec<u8>) {
    match &entry.record {
        Record::Ride(ride) => encode_with(entry, 4, ride, buf),
        Record::Courier(command) => encode_with(entry, 5, &command.to_wire(), buf),
    }
}

/// Written by hand rather than through `wire::Entry`, which would have to own the record.
fn encode_with(entry: &Entry, field: u32, record: &impl prost::Message, buf: &mut Vec<u8>) {
    let operation = match entry.operation {
        Operation::Create => wire::Operation::Create,
        Operation::Replace => wire::Operation::Replace,
        Operation::Command => wire::Operation::Command,
    };
    let partner_id = u64::from(entry.partner_id.unsigned_abs());
    let expected_version = entry
        .expected_version
        .map(|version| u64::from(version.unsigned_abs()));
    let record_bytes = record.encoded_len();
    let entry_bytes = 2
        + 16
        + 1
        + encoded_len_varint(partner_id)
        + 2
        + 1
        + encoded_len_varint(record_bytes as u64)
        + record_bytes
        + expected_version.map_or(0, |version| 1 + encoded_len_varint(version));
    buf.reserve(entry_bytes + 4);
    encode_key(ENTRIES_FIELD, WireType::LengthDelimited, buf);
    encode_varint(entry_bytes as u64, buf);
    encode_key(1, WireType::LengthDelimited, buf);
    encode_varint(16, buf);
    buf.put_slice(entry.tracking_id.uuid().as_bytes());
    encode_key(2, WireType::Varint, buf);
    encode_varint(partner_id, buf);
    encode_key(3, WireType::Varint, buf);
    encode_varint(u64::from((operation as i32).unsigned_abs()), buf);
    encode_key(field, WireType::LengthDelimited, buf);
    encode_varint(record_bytes as u64, buf);
    record.encode_raw(buf);
    if let Some(version) = expected_version {
        encode_key(6, WireType::Varint, buf);
        encode_varint(version, buf);
    }
}

/// Gathers encoded entries until the chunk is sealed.
#[derive(Default, Debug)]
pub struct Encoder {
    entries: Vec<u8>,
    records: usize,
}

impl Encoder {
    /// An empty chunk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one entry as [`encode_entry`] wrote it.
    pub fn push_encoded(&mut self, entry: &[u8]) {
        self.entries.extend_from_slice(entry);
        self.records += 1;
    }

    /// Entries so far.
    #[must_use]
    pub fn records(&self) -> usize {
        self.records
    }

    /// Bytes of entries so far; the sealed chunk is at most 256 bytes larger when `origin` is
    /// at most 128 bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// The message to publish. Sealing an empty chunk is fine: it moves a watermark.
    #[must_use]
    pub fn seal(self, header: Header) -> Bytes {
        let mut message = Vec::with_capacity(FRAME_BYTES + HEADER_ROOM_BYTES + self.entries.len());
        message.put_slice(&MAGIC);
        message.put_slice(&[VERSION, 0, 0, 0]);
        message.put_u64_le(0);
        put_header(header, &mut message);
        message.put_slice(&self.entries);
        let checksum = xxh3_64(&message[FRAME_BYTES..]);
        message[8..FRAME_BYTES].copy_from_slice(&checksum.to_le_bytes());
        message.into()
    }
}

/// Reads a log message.
///
/// # Errors
/// [`DecodeError`] on anything that a writer of this version would not have written.
pub fn decode(message: &[u8]) -> Result<Chunk, DecodeError> {
    let Some((frame, payload)) = message.split_at_checked(FRAME_BYTES) else {
        return Err(DecodeError::NotAChunk(message.len()));
    };
    if frame[..4] != MAGIC {
        return Err(DecodeError::NotAChunk(message.len()));
    }
    let version = frame[4];
    if !(VERSION_RIDES_ONLY..=VERSION).contains(&version) || frame[5..8] != [0, 0, 0] {
        return Err(DecodeError::UnknownVersion(version));
    }
    let expected = u64::from_le_bytes(frame[8..16].try_into().expect("eight bytes"));
    let found = xxh3_64(payload);
    if expected != found {
        return Err(DecodeError::Checksum { expected, found });
    }
    let chunk = wire::Chunk::decode(payload).map_err(DecodeError::Payload)?;
    let header = Header {
        chunk_id: Uuid::from_slice(&chunk.chunk_id)
            .map_err(|_| DecodeError::Header("chunk_id is not 16 bytes"))?,
        partition: u8::try_from(chunk.partition)
            .map(Partition)
            .map_err(|_| DecodeError::Header("partition is over 255"))?,
        publish_by_us: chunk.publish_by_us,
        origin: chunk.origin,
    };
    let entries = chunk
        .entries
        .into_iter()
        .enumerate()
        .map(|(index, entry)| {
            entry_from_wire(entry, header.partition, version)
                .map_err(|fault| DecodeError::Entry { index, fault })
        })
        .collect::<Result<_, _>>()?;
    let chunk = Chunk { header, entries };
    check_as_written(&chunk, payload)?;
    Ok(chunk)
}

/// Protobuf passes over fields that it does not know, and cuts numbers to size: what was read,
/// written again, must be the very bytes that came. Last, so that what has a name is named.
fn check_as_written(chunk: &Chunk, payload: &[u8]) -> Result<(), DecodeError> {
    let mut again = Vec::with_capacity(payload.len());
    put_header(chunk.header.clone(), &mut again);
    for entry in &chunk.entries {
        encode_entry(entry, &mut again);
    }
    if again == payload {
        return Ok(());
    }
    let same = again.iter().zip(payload).take_while(|(a, b)| a == b);
    Err(DecodeError::NotAsWritten { at: same.count() })
}

/// Writes what precedes the entries.
fn put_header(header: Header, buf: &mut Vec<u8>) {
    let head = wire::Chunk {
        chunk_id: Bytes::copy_from_slice(header.chunk_id.as_bytes()),
        partition: u32::from(header.partition.0),
        publish_by_us: header.publish_by_us,
        origin: header.origin,
        entries: Vec::new(),
    };
    head.encode_raw(buf);
}

fn entry_from_wire(
    entry: wire::Entry,
    partition: Partition,
    version: u8,
) -> Result<Entry, &'static str> {
    let operation = match entry.operation() {
        wire::Operation::Create => Operation::Create,
        wire::Operation::Replace => Operation::Replace,
        wire::Operation::Command => Operation::Command,
        wire::Operation::Unspecified => return Err("an operation this build does not know"),
    };
    let tracking_id = Uuid::from_slice(&entry.tracking_id)
        .ok()
        .and_then(TrackingId::from_uuid)
        .ok_or("tracking_id is not a UUIDv7 of 16 bytes")?;
    if tracking_id.partition() != partition {
        return Err("the tracking id names another partition");
    }
    let record = match entry.record {
        Some(wire::entry::Record::Ride(ride)) => Record::Ride(ride),
        Some(wire::entry::Record::Courier(command)) => {
            Record::Courier(CourierCommand::from_wire(command)?)
        }
        None => return Err("a kind of record this build does not know"),
    };
    let is_command = operation == Operation::Command;
    if is_command != matches!(record, Record::Courier(_)) {
        return Err("the operation is not one of this kind of record");
    }
    if version == VERSION_RIDES_ONLY && (is_command || entry.expected_version.is_some()) {
        return Err("version 1 has neither couriers nor expected versions");
    }
    if entry.expected_version.is_some_and(|version| version < 1) {
        return Err("expected_version is below 1");
    }
    Ok(Entry {
        tracking_id,
        partner_id: i32::try_from(entry.partner_id)
            .ok()
            .filter(|id| *id > 0)
            .ok_or("partner_id is not an int32 above 0")?,
        operation,
        expected_version: entry.expected_version,
        record,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::courier::{
        Command, CourierCapacity, CourierCreate, CourierDelete, CourierMovement, CourierUpdate,
        TextPatch,
    };
    use crate::record::Ride;
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            chunk_id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001),
            partition: Partition(3),
            publish_by_us: 1_700_000_000_123_456,
            origin: "gateway-1".to_owned(),
        }
    }

    fn tracking_id(counter: u64) -> TrackingId {
        TrackingId::compose(1_700_000_000_123, counter, Partition(3), 0xBEEF)
    }

    fn full_ride() -> Ride {
        Ride {
            id: 132_512,
            user_id: 22_177,
            vehicle_model_id: 28,
            package_id: Some(1),
            travel_type_id: 3,
            from_area_id: Some(83),
            to_area_id: Some(448),
            from_city_id: Some(15),
            to_city_id: Some(-1),
            from_date_us: 1_356_979_500_000_000,
            to_date_us: Some(-1),
            online_booking: true,
            mobile_site_booking: false,
            booking_created_us: 1_356_978_000_000_001,
            from_lat: Some(12.924_15),
            from_long: Some(77.672_29),
            to_lat: Some(-0.0),
            to_long: Some(77.732_2),
            car_cancellation: true,
            extra: Some(r#"{"note":"ü"}"#.to_owned()),
        }
    }

    fn sealed(entries: &[Entry]) -> Bytes {
        let mut encoder = Encoder::new();
        for entry in entries {
            let mut buf = Vec::new();
            encode_entry(entry, &mut buf);
            encoder.push_encoded(&buf);
        }
        encoder.seal(header())
    }

    fn sample() -> Vec<Entry> {
        let minimal = Ride {
            id: 1,
            user_id: 2,
            vehicle_model_id: 12,
            travel_type_id: 2,
            ..Ride::default()
        };
        [
            (full_ride(), Operation::Create),
            (minimal, Operation::Replace),
        ]
        .into_iter()
        .zip(1..)
        .map(|((ride, operation), counter)| Entry {
            tracking_id: tracking_id(counter),
            partner_id: i32::MAX,
            operation,
            expected_version: None,
            record: Record::Ride(ride),
        })
        .collect()
    }

    #[test]
    fn version_1_as_it_was_first_written_still_reads() {
        let golden = include_bytes!("../testdata/chunk-v1.bin");
        let chunk = decode(golden).unwrap();
        assert_eq!(
            chunk,
            Chunk {
                header: header(),
                entries: sample()
            }
        );
    }

    /// One of each command, conditional every other time, and a conditional ride.
    fn sample_of_version_2() -> Vec<Entry> {
        let movement = || CourierMovement {
            capacity: 7,
            reference: "order-9".to_owned(),
        };
        let commands = [
            Command::Create(CourierCreate {
                name: "Ada".to_owned(),
                max_capacity: i32::MAX,
                available_capacity: Some(0),
                vehicle_type: Some("bike".to_owned()),
                phone: Some("+91 80 1234".to_owned()),
                attributes: Some(r#"{"a":1}"#.to_owned()),
            }),
            Command::Update(CourierUpdate {
                name: Some("Bo".to_owned()),
                max_capacity: Some(60),
                available_capacity: None,
                vehicle_type: Some(TextPatch { value: None }),
                phone: Some(TextPatch {
                    value: Some("1".to_owned()),
                }),
                attributes: Some("null".to_owned()),
            }),
            Command::SetCapacity(CourierCapacity {
                available_capacity: 45,
            }),
            Command::Pickup(movement()),
            Command::Dropoff(movement()),
            Command::Delete(CourierDelete {}),
        ];
        let couriers = commands.into_iter().zip(3..).map(|(command, n)| Entry {
            tracking_id: tracking_id(n),
            partner_id: 2,
            operation: Operation::Command,
            expected_version: (n % 2 == 0).then_some(i32::MAX),
            record: Record::Courier(CourierCommand {
                courier_id: "Ünit/7".to_owned(),
                command,
            }),
        });
        let mut entries = sample();
        entries[1].expected_version = Some(1);
        entries.extend(couriers);
        entries
    }

    #[test]
    fn version_2_as_it_was_first_written_still_reads_and_is_still_written() {
        let golden = include_bytes!("../testdata/chunk-v2.bin");
        let entries = sample_of_version_2();
        assert_eq!(sealed(&entries), golden.as_slice());
        assert_eq!(
            decode(golden).unwrap(),
            Chunk {
                header: header(),
                entries
            }
        );
    }

    #[test]
    fn version_1_has_neither_couriers_nor_expected_versions() {
        for at in 1..sample_of_version_2().len() {
            let entry = sample_of_version_2().swap_remove(at);
            let mut message = sealed(&[entry]).to_vec();
            message[4] = VERSION_RIDES_ONLY;
            assert!(matches!(
                decode(&message),
                Err(DecodeError::Entry { index: 0, .. })
            ));
        }
    }

    #[test]
    fn an_operation_of_another_kind_is_refused() {
        let mut entries = sample();
        entries[0].operation = Operation::Command;
        assert!(matches!(
            decode(&sealed(&entries)),
            Err(DecodeError::Entry { index: 0, .. })
        ));
    }

    #[test]
    fn an_empty_chunk_is_a_chunk() {
        let chunk = decode(&Encoder::new().seal(header())).unwrap();
        assert_eq!(
            chunk,
            Chunk {
                header: header(),
                entries: Vec::new()
            }
        );
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        let message = sealed(&sample());
        assert!(matches!(decode(b""), Err(DecodeError::NotAChunk(0))));
        assert!(matches!(
            decode(b"PNG and more than sixteen"),
            Err(DecodeError::NotAChunk(25))
        ));
        let mut newer = message.to_vec();
        newer[4] = 3;
        assert!(matches!(
            decode(&newer),
            Err(DecodeError::UnknownVersion(3))
        ));
        assert!(matches!(
            decode(&message[..message.len() - 1]),
            Err(DecodeError::Checksum { .. })
        ));
        let mut foreign = sample();
        foreign[1].tracking_id = TrackingId::compose(1, 1, Partition(4), 0);
        assert!(matches!(
            decode(&sealed(&foreign)),
            Err(DecodeError::Entry { index: 1, .. })
        ));
    }

    /// Re-frames a payload, so that what is under test is the payload and not the checksum.
    fn framed(payload: &[u8]) -> Vec<u8> {
        let mut message = vec![b'W', b'E', b'I', b'R', VERSION, 0, 0, 0];
        message.extend(xxh3_64(payload).to_le_bytes());
        message.extend(payload);
        message
    }

    /// Found by fuzzing: protobuf drops what it does not know, and an acknowledged record with it.
    #[test]
    fn nothing_is_passed_over() {
        let message = sealed(&sample());
        let payload = &message[FRAME_BYTES..];
        // A field 100; the partition once more; its number in two bytes where one is enough.
        let of_chunk: [&[u8]; 3] = [&[0xA0, 0x06, 1], &[0x10, 3], &[0x10, 0x83, 0]];
        for more in of_chunk {
            let message = framed(&[payload, more].concat());
            let refused = decode(&message).unwrap_err();
            assert!(
                matches!(refused, DecodeError::NotAsWritten { .. }),
                "{more:?}: {refused}"
            );
        }
        // An entry and a record with a field 100: the lengths around it grow as well.
        let id = tracking_id(1).uuid();
        let unknown = [0xA0, 0x06, 1];
        let entry = |ride: &[u8], more: &[u8]| {
            let mut entry = vec![0x0A, 16];
            entry.extend(id.as_bytes());
            entry.extend([0x10, 1, 0x18, 1, 0x22, ride.len() as u8]);
            entry.extend(ride);
            entry.extend(more);
            let header = Encoder::new().seal(header());
            let entry = [&[0x7A, entry.len() as u8], &entry[..]].concat();
            decode(&framed(&[&header[FRAME_BYTES..], &entry[..]].concat()))
        };
        assert_eq!(entry(&[0x08, 1], &[]).unwrap().entries.len(), 1);
        // vehicle_model_id, an int32, as a number of 64 bits whose lower half is -1.
        let cut = [0x18, 255, 255, 255, 255, 255, 255, 255, 255, 191, 1];
        for (ride, more) in [(&[0x08, 1][..], &unknown[..]), (&unknown, &[]), (&cut, &[])] {
            let refused = entry(ride, more).unwrap_err();
            assert!(
                matches!(refused, DecodeError::NotAsWritten { .. }),
                "{refused}"
            );
        }
    }

    fn any_ride() -> impl Strategy<Value = Ride> {
        let ids = (
            1..=i64::MAX,
            any::<i64>(),
            any::<i32>(),
            any::<Option<i32>>(),
            1..=3_i32,
        );
        let places = any::<[Option<i32>; 4]>();
        let instants = (any::<i64>(), any::<Option<i64>>(), any::<i64>());
        let coordinates = any::<[Option<f64>; 4]>();
        let rest = (any::<[bool; 3]>(), any::<Option<String>>());
        (ids, places, instants, coordinates, rest).prop_map(
            |(ids, places, instants, coordinates, rest)| Ride {
                id: ids.0,
                user_id: ids.1,
                vehicle_model_id: ids.2,
                package_id: ids.3,
                travel_type_id: ids.4,
                from_area_id: places[0],
                to_area_id: places[1],
                from_city_id: places[2],
                to_city_id: places[3],
                from_date_us: instants.0,
                to_date_us: instants.1,
                booking_created_us: instants.2,
                from_lat: coordinates[0].filter(|it| !it.is_nan()),
                from_long: coordinates[1].filter(|it| !it.is_nan()),
                to_lat: coordinates[2].filter(|it| !it.is_nan()),
                to_long: coordinates[3].filter(|it| !it.is_nan()),
                online_booking: rest.0[0],
                mobile_site_booking: rest.0[1],
                car_cancellation: rest.0[2],
                extra: rest.1,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(rides in proptest::collection::vec((any_ride(), 1..=i32::MAX, any::<bool>()), 0..20)) {
            let entries: Vec<_> = rides
                .into_iter()
                .zip(1..)
                .map(|((ride, partner_id, create), counter)| Entry {
                    tracking_id: tracking_id(counter),
                    partner_id,
                    operation: if create { Operation::Create } else { Operation::Replace },
                    expected_version: (partner_id % 3 == 0).then_some(partner_id),
                    record: Record::Ride(ride),
                })
                .collect();
            prop_assert_eq!(decode(&sealed(&entries)).unwrap(), Chunk { header: header(), entries });
        }

        #[test]
        fn any_payload_gives_an_answer(payload: Vec<u8>) {
            let _ = decode(&framed(&payload));
        }

        #[test]
        fn any_flipped_bit_is_noticed(at in 0_usize..300, bit in 0_u8..8) {
            let mut message = sealed(&sample()).to_vec();
            let at = at % message.len();
            message[at] ^= 1 << bit;
            prop_assert!(decode(&message).is_err());
        }
    }
}
