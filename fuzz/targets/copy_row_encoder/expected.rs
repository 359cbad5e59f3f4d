//! What a server that knows only the manual finds in the rows, and what it should find.

use contract::courier::Command;
use contract::{Entry, Record};
use uuid::Uuid;

/// `None` is null.
pub(crate) type Cell = Option<Vec<u8>>;

/// <https://www.postgresql.org/docs/18/sql-copy.html#SQL-COPY-BINARY-FORMAT>
pub(crate) fn decode(data: &[u8]) -> Vec<Vec<Cell>> {
    let mut rest = data
        .strip_prefix(b"PGCOPY\n\xff\r\n\0")
        .expect("the signature");
    let mut take = |bytes: usize| {
        let (taken, after) = rest.split_at(bytes);
        rest = after;
        taken
    };
    assert_eq!(take(4), [0; 4], "no flags");
    assert_eq!(take(4), [0; 4], "no header extension");
    let mut rows = Vec::new();
    loop {
        let columns = i16::from_be_bytes(take(2).try_into().expect("two bytes"));
        if columns == -1 {
            break;
        }
        let cells = (0..columns).map(|_| {
            let bytes = i32::from_be_bytes(take(4).try_into().expect("four bytes"));
            let null = bytes == -1;
            (!null).then(|| take(usize::try_from(bytes).expect("a length")).to_vec())
        });
        rows.push(cells.collect());
    }
    assert!(rest.is_empty(), "nothing follows the trailer");
    rows
}

pub(crate) fn bool(value: bool) -> Cell {
    Some(vec![u8::from(value)])
}

fn int2(value: i16) -> Cell {
    Some(value.to_be_bytes().to_vec())
}

fn int4(value: i32) -> Cell {
    Some(value.to_be_bytes().to_vec())
}

fn int8(value: i64) -> Cell {
    Some(value.to_be_bytes().to_vec())
}

fn float8(value: f64) -> Cell {
    Some(value.to_bits().to_be_bytes().to_vec())
}

fn uuid(value: Uuid) -> Cell {
    Some(value.as_u128().to_be_bytes().to_vec())
}

fn text(value: &str) -> Cell {
    Some(value.as_bytes().to_vec())
}

fn jsonb(value: &str) -> Cell {
    Some([&[1], value.as_bytes()].concat())
}

/// Microseconds since 2000, and never one of the infinities.
fn instant(unix_us: i64) -> Cell {
    let us = i128::from(unix_us) - 946_684_800_000_000;
    let least = i128::from(i64::MIN) + 1;
    int8(i64::try_from(us.max(least)).expect("smaller than what was given"))
}

/// The first 48 bits of a UUIDv7.
fn accepted_at(id: Uuid) -> Cell {
    instant(i64::try_from(id.as_u128() >> 80).expect("48 bits") * 1_000)
}

pub(crate) struct Told {
    pub(crate) outcome: i16,
    pub(crate) action: Option<i16>,
    pub(crate) code: Option<Vec<u8>>,
    pub(crate) detail: Option<Vec<u8>>,
    pub(crate) duplicate_of: Option<Uuid>,
    pub(crate) log_seq: i64,
    pub(crate) log_index: i32,
    pub(crate) hash: i64,
}

pub(crate) fn ledger(entry: &Entry, told: Told) -> Vec<Cell> {
    let (kind, resource) = match &entry.record {
        Record::Ride(ride) => (1, ride.id.to_string()),
        Record::Courier(courier) => (2, courier.courier_id.clone()),
    };
    vec![
        uuid(entry.tracking_id.uuid()),
        int4(entry.partner_id),
        int2(kind),
        int2(told.outcome),
        told.action.and_then(int2),
        text(&resource),
        told.code,
        told.detail,
        told.duplicate_of.and_then(uuid),
        int8(told.log_seq),
        int4(told.log_index),
        int8(told.hash),
    ]
}

pub(crate) fn ride(entry: &Entry, ids: [Uuid; 2], hashes: [i64; 2], version: i32) -> Vec<Cell> {
    let Record::Ride(ride) = &entry.record else {
        panic!("a ride");
    };
    vec![
        int4(entry.partner_id),
        int8(ride.id),
        int8(ride.user_id),
        int4(ride.vehicle_model_id),
        ride.package_id.and_then(int4),
        int4(ride.travel_type_id),
        ride.from_area_id.and_then(int4),
        ride.to_area_id.and_then(int4),
        ride.from_city_id.and_then(int4),
        ride.to_city_id.and_then(int4),
        instant(ride.from_date_us),
        ride.to_date_us.and_then(instant),
        bool(ride.online_booking),
        bool(ride.mobile_site_booking),
        instant(ride.booking_created_us),
        ride.from_lat.and_then(float8),
        ride.from_long.and_then(float8),
        ride.to_lat.and_then(float8),
        ride.to_long.and_then(float8),
        bool(ride.car_cancellation),
        ride.extra.as_deref().and_then(jsonb),
        uuid(ids[0]),
        int8(hashes[0]),
        uuid(ids[1]),
        int8(hashes[1]),
        int4(version),
        accepted_at(ids[1]),
        accepted_at(ids[0]),
    ]
}

pub(crate) struct Courier<'s> {
    pub(crate) name: &'s str,
    /// Max, available.
    pub(crate) capacities: [i32; 2],
    pub(crate) vehicle_type: Option<&'s str>,
    pub(crate) phone: Option<&'s str>,
    pub(crate) attributes: Option<&'s str>,
    pub(crate) tracking_id: Uuid,
    pub(crate) created_by: Uuid,
    pub(crate) created_hash: i64,
    pub(crate) version: i32,
    pub(crate) deleted: bool,
    pub(crate) last: bool,
}

pub(crate) fn courier(entry: &Entry, courier: &Courier<'_>) -> Vec<Cell> {
    let Record::Courier(command) = &entry.record else {
        panic!("a courier");
    };
    let changed_at = accepted_at(courier.tracking_id);
    let (direction, movement) = match &command.command {
        Command::Pickup(movement) => (int2(1), Some(movement)),
        Command::Dropoff(movement) => (int2(2), Some(movement)),
        _ => (None, None),
    };
    vec![
        int4(entry.partner_id),
        text(&command.courier_id),
        text(courier.name),
        int4(courier.capacities[0]),
        int4(courier.capacities[1]),
        courier.vehicle_type.and_then(text),
        courier.phone.and_then(text),
        courier.attributes.and_then(text),
        uuid(courier.tracking_id),
        uuid(courier.created_by),
        int8(courier.created_hash),
        int4(courier.version),
        accepted_at(courier.created_by),
        changed_at.clone(),
        changed_at.filter(|_| courier.deleted),
        bool(courier.last),
        direction,
        movement.and_then(|it| text(&it.reference)),
        movement.and_then(|it| int4(it.capacity)),
    ]
}
