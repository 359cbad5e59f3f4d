//! Rows of whatever records there may be, in PostgreSQL's binary COPY format: a decoder that knows
//! the manual and nothing of the encoder finds in them what the records say.
//!
//! The worker's modules are compiled as modules of the target: nothing in the worker has to be
//! public for it.
#![no_main]

use arbitrary::Arbitrary;
use batch::{Batch, LoggedChunk};
use contract::chunk::{Chunk, Header};
use contract::courier::{
    Command, CourierCapacity, CourierCreate, CourierDelete, CourierMovement, CourierUpdate,
    TextPatch,
};
use contract::{CourierCommand, Entry, Operation, Partition, Record, Ride, TrackingId};
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;

#[path = "../../persist-worker/src/batch.rs"]
#[allow(dead_code)]
mod batch;

#[path = "../../persist-worker/src/apply"]
#[allow(dead_code)]
mod apply {
    mod careful;
    mod copy;
    mod couriers;
    mod fault;
    mod fold;
    mod kinds;
    mod narrow;
    mod outbox;
    mod rejection;
    mod requests;
    mod rides;
    mod session;
    mod staging;

    use std::collections::BTreeMap;

    use crate::batch::Batch;
    use crate::expected;
    use copy::Rows;
    use fold::{Items, Write};
    use kinds::Known;

    /// Folds a batch as if the database were empty, encodes every row of it, and reads them.
    pub(crate) fn check(batch: &Batch) {
        let Ok(items) = Items::of(batch) else {
            return;
        };
        let items = &items.list[..];
        let folded =
            fold::fold(items, &Known::default(), &BTreeMap::new()).expect("hashes of today");
        let ledger: Vec<_> = requests::rows(items, &folded).collect();
        assert_eq!(ledger.len(), items.len());
        let found = encoded(ledger.iter().copied(), requests::encode);
        for (cells, (item, verdict)) in found.iter().zip(&ledger) {
            let text = |text: Option<String>| text.map(String::into_bytes);
            let told = expected::Told {
                outcome: verdict.outcome() as i16,
                action: verdict.action().map(|it| it as i16),
                code: text(verdict.code().map(|it| it.code().to_owned())),
                detail: text(verdict.detail(item)),
                duplicate_of: verdict.duplicate_of(),
                log_seq: item.log_seq,
                log_index: item.log_index,
                hash: item.hash.get(),
            };
            assert_eq!(*cells, expected::ledger(item.entry, told));
        }
        let writes: Vec<&Write> = folded.writes.iter().collect();
        check_rides(items, &writes);
        check_couriers(items, &writes);
    }

    fn check_rides(items: &[fold::Item<'_>], writes: &[&Write]) {
        let rows: Vec<_> = rides::rows(items, writes).collect();
        let plain = encoded(rows.iter().copied(), rides::encode);
        let staged = encoded(rows.iter().copied(), rides::encode_staged);
        assert_eq!((plain.len(), staged.len()), (rows.len(), rows.len()));
        for ((plain, mut staged), (item, state, last)) in plain.into_iter().zip(staged).zip(&rows) {
            assert_eq!(staged.pop(), Some(expected::bool(*last)));
            assert_eq!(plain, staged);
            let ids = [state.tracking_id, state.created_by];
            let hashes = [state.content_hash.get(), state.created_hash.get()];
            assert_eq!(
                plain,
                expected::ride(item.entry, ids, hashes, state.version)
            );
        }
    }

    fn check_couriers(items: &[fold::Item<'_>], writes: &[&Write]) {
        let rows: Vec<_> = couriers::rows(items, writes).collect();
        let staged = encoded(rows.iter().copied(), couriers::encode_staged);
        assert_eq!(staged.len(), rows.len());
        for (cells, (item, state, last)) in staged.iter().zip(&rows) {
            let courier = expected::Courier {
                name: &state.profile.name,
                capacities: [state.max_capacity, state.available_capacity],
                vehicle_type: state.profile.vehicle_type.as_deref(),
                phone: state.profile.phone.as_deref(),
                // A state that is passed through shows only what its own command brought.
                attributes: state
                    .profile
                    .attributes
                    .as_deref()
                    .filter(|_| *last || brings_attributes(item.entry)),
                tracking_id: state.tracking_id,
                created_by: state.created_by,
                created_hash: state.created_hash.get(),
                version: state.version,
                deleted: state.deleted,
                last: *last,
            };
            assert_eq!(*cells, expected::courier(item.entry, &courier));
        }
    }

    fn brings_attributes(entry: &contract::Entry) -> bool {
        let contract::Record::Courier(record) = &entry.record else {
            return false;
        };
        use contract::courier::Command;
        matches!(record.command, Command::Create(_) | Command::Update(_))
    }

    /// As `copy::copy` does it; what the server would get.
    fn encoded<T>(
        rows: impl IntoIterator<Item = T>,
        encode: impl Fn(T, &mut Rows),
    ) -> Vec<Vec<expected::Cell>> {
        let mut sent = Vec::new();
        let mut buffer = Rows::begin();
        for row in rows {
            encode(row, &mut buffer);
            if let Some(frame) = buffer.take_frame() {
                sent.extend_from_slice(&frame);
            }
        }
        sent.extend_from_slice(&buffer.end());
        expected::decode(&sent)
    }
}

#[path = "copy_row_encoder/expected.rs"]
mod expected;

#[derive(Arbitrary, Debug)]
struct Sent {
    id: [u8; 16],
    partner_id: u8,
    replaces: bool,
    expected_version: Option<u8>,
    record: Any,
}

#[derive(Arbitrary, Debug)]
enum Any {
    Ride(Box<AnyRide>),
    Courier(u8, AnyCommand),
}

#[derive(Arbitrary, Debug)]
struct AnyRide {
    /// Few, so that some are written twice.
    id: u8,
    int8: [i64; 3],
    int4: [i32; 2],
    int4_or_null: [Option<i32>; 5],
    to_date_us: Option<i64>,
    flags: [bool; 3],
    degrees: [Option<f64>; 4],
    extra: Option<String>,
}

#[derive(Arbitrary, Debug)]
enum AnyCommand {
    Create(String, u16, Option<u16>, [Option<String>; 3]),
    Update(
        Option<String>,
        Option<u16>,
        Option<u16>,
        [Option<Option<String>>; 2],
        Option<String>,
    ),
    SetCapacity(u16),
    Pickup(u8, u8),
    Dropoff(u8, u8),
    Delete,
}

fuzz_target!(|chunks: Vec<(i64, i64, Vec<Sent>)>| {
    let chunks = chunks
        .into_iter()
        .zip(1..)
        .map(|((stored_at_us, publish_by_us, sent), seq)| {
            let header = Header {
                chunk_id: Uuid::from_u128(seq.into()),
                partition: Partition(0),
                publish_by_us,
                origin: String::new(),
            };
            let entries = sent.into_iter().map(entry).collect();
            LoggedChunk {
                seq,
                stored_at_us,
                chunk: Chunk { header, entries },
            }
        });
    let batch = Batch {
        partition: Partition(0),
        incarnation: Uuid::nil(),
        chunks: chunks.collect(),
    };
    apply::check(&batch);
});

fn entry(sent: Sent) -> Entry {
    let mut id = sent.id;
    id[6] = 0x70 | id[6] & 0xf;
    id[8] = 0x80 | id[8] & 0x3f;
    let (operation, record) = match sent.record {
        Any::Ride(ride) if sent.replaces => (Operation::Replace, Record::Ride(self::ride(*ride))),
        Any::Ride(ride) => (Operation::Create, Record::Ride(self::ride(*ride))),
        Any::Courier(id, command) => {
            let record = CourierCommand {
                courier_id: format!("c-{}", id % 4),
                command: self::command(command),
            };
            (Operation::Command, Record::Courier(record))
        }
    };
    Entry {
        tracking_id: TrackingId::from_uuid(Uuid::from_bytes(id)).expect("version 7"),
        partner_id: i32::from(sent.partner_id % 2) + 1,
        operation,
        expected_version: sent.expected_version.map(|version| i32::from(version) + 1),
        record,
    }
}

fn ride(any: AnyRide) -> Ride {
    Ride {
        id: i64::from(any.id % 8) + 1,
        user_id: any.int8[0],
        vehicle_model_id: any.int4[0],
        package_id: any.int4_or_null[0],
        travel_type_id: any.int4[1],
        from_area_id: any.int4_or_null[1],
        to_area_id: any.int4_or_null[2],
        from_city_id: any.int4_or_null[3],
        to_city_id: any.int4_or_null[4],
        from_date_us: any.int8[1],
        to_date_us: any.to_date_us,
        online_booking: any.flags[0],
        mobile_site_booking: any.flags[1],
        booking_created_us: any.int8[2],
        from_lat: any.degrees[0],
        from_long: any.degrees[1],
        to_lat: any.degrees[2],
        to_long: any.degrees[3],
        car_cancellation: any.flags[2],
        extra: any.extra,
    }
}

fn command(any: AnyCommand) -> Command {
    let movement = |capacity: u8, reference: u8| CourierMovement {
        capacity: i32::from(capacity) + 1,
        reference: format!("r-{}", reference % 4),
    };
    match any {
        AnyCommand::Create(name, max, available, [vehicle_type, phone, attribute]) => {
            // The gateway has checked: no more is available than there is, and JSON is JSON.
            let available = available.map(|it| i32::from(it.min(max)));
            Command::Create(CourierCreate {
                name,
                max_capacity: max.into(),
                available_capacity: available,
                vehicle_type,
                phone,
                attributes: attribute.map(|it| object(&it)),
            })
        }
        AnyCommand::Update(name, max, available, [vehicle_type, phone], attribute) => {
            let patch = |value: Option<Option<String>>| value.map(|value| TextPatch { value });
            let available = available.map(|it| max.map_or(it, |max| it.min(max)));
            Command::Update(CourierUpdate {
                name,
                max_capacity: max.map(i32::from),
                available_capacity: available.map(i32::from),
                vehicle_type: patch(vehicle_type),
                phone: patch(phone),
                attributes: attribute.map(|it| object(&it)),
            })
        }
        AnyCommand::SetCapacity(litres) => Command::SetCapacity(CourierCapacity {
            available_capacity: litres.into(),
        }),
        AnyCommand::Pickup(capacity, reference) => Command::Pickup(movement(capacity, reference)),
        AnyCommand::Dropoff(capacity, reference) => Command::Dropoff(movement(capacity, reference)),
        AnyCommand::Delete => Command::Delete(CourierDelete {}),
    }
}

fn object(value: &str) -> String {
    serde_json::json!({ "a": value }).to_string()
}
