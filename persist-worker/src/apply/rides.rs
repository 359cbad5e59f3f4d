//! The state of rides: columns, look-up, judgement and merge.

use std::collections::HashMap;

use contract::content_hash::UnknownVersion;
use contract::event::{Event, RideState};
use contract::outcome::Action;
use contract::{ContentHash, Operation, Record, TrackingId};
use tokio_postgres::{Row, Transaction};
use uuid::Uuid;

use super::copy::Rows;
use super::fold::{Id, Item, Judgement, Key, Verdict, Write};
use super::kinds;
use super::rejection::Rejection;

/// What a ride's row says besides its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct State {
    /// Record that wrote the present content.
    pub(crate) tracking_id: Uuid,
    pub(crate) content_hash: ContentHash,
    /// Record that created the ride.
    pub(crate) created_by: Uuid,
    pub(crate) created_hash: ContentHash,
    pub(crate) version: i32,
}

/// Every column, in the order of [`encode`].
macro_rules! columns {
    () => {
        "partner_id, id, user_id, vehicle_model_id, package_id, travel_type_id, from_area_id, \
         to_area_id, from_city_id, to_city_id, from_date, to_date, online_booking, \
         mobile_site_booking, booking_created, from_lat, from_long, to_lat, to_long, \
         car_cancellation, extra, tracking_id, content_hash, created_by, created_hash, version, \
         created_at, updated_at"
    };
}
const COLUMNS: i16 = 28;

/// Into the table itself.
pub(super) const COPY: &str = concat!("copy rides (", columns!(), ") from stdin (format binary)");

/// A staging table takes what the table would take: the same types, not-nulls and checks, so that
/// a record that is staged alone tells whether it can be stored.
pub(super) const CREATE_STAGED: &str = "create temporary table if not exists staged_rides \
     (like rides including constraints, last bool not null) on commit delete rows";

/// Into the staging table.
pub(super) const COPY_STAGED: &str = concat!(
    "copy staged_rides (",
    columns!(),
    ", last) from stdin (format binary)"
);

/// From the staging table into the table. What a ride was created with stays.
pub(super) const MERGE: &str = concat!(
    "insert into rides (",
    columns!(),
    ") select ",
    columns!(),
    " from staged_rides where last on conflict (partner_id, id) do update set \
     user_id = excluded.user_id, \
     vehicle_model_id = excluded.vehicle_model_id, \
     package_id = excluded.package_id, \
     travel_type_id = excluded.travel_type_id, \
     from_area_id = excluded.from_area_id, \
     to_area_id = excluded.to_area_id, \
     from_city_id = excluded.from_city_id, \
     to_city_id = excluded.to_city_id, \
     from_date = excluded.from_date, \
     to_date = excluded.to_date, \
     online_booking = excluded.online_booking, \
     mobile_site_booking = excluded.mobile_site_booking, \
     booking_created = excluded.booking_created, \
     from_lat = excluded.from_lat, \
     from_long = excluded.from_long, \
     to_lat = excluded.to_lat, \
     to_long = excluded.to_long, \
     car_cancellation = excluded.car_cancellation, \
     extra = excluded.extra, \
     tracking_id = excluded.tracking_id, \
     content_hash = excluded.content_hash, \
     version = excluded.version, \
     updated_at = excluded.updated_at"
);

/// The rides that the batch is about, as they are.
const LOOK_UP: &str = "select r.partner_id, r.id, r.tracking_id, r.content_hash, r.created_by, \
    r.created_hash, r.version \
    from (select distinct partner_id, ride_id from incoming where ride_id is not null) i \
    join rides r on r.partner_id = i.partner_id and r.id = i.ride_id";

/// Loads what the rides named in `incoming` are now.
pub(super) async fn look_up<'b>(
    transaction: &Transaction<'_>,
) -> Result<HashMap<Key<'b>, kinds::State>, tokio_postgres::Error> {
    let rows = transaction.query_typed(LOOK_UP, &[]).await?;
    rows.iter().map(state).collect()
}

fn state<'b>(row: &Row) -> Result<(Key<'b>, kinds::State), tokio_postgres::Error> {
    let key = Key {
        partner_id: row.try_get(0)?,
        id: Id::Ride(row.try_get(1)?),
    };
    let state = State {
        tracking_id: row.try_get(2)?,
        content_hash: ContentHash::from_stored(row.try_get(3)?),
        created_by: row.try_get(4)?,
        created_hash: ContentHash::from_stored(row.try_get(5)?),
        version: row.try_get(6)?,
    };
    Ok((key, kinds::State::Ride(state)))
}

/// What a record does to its ride. The condition comes first: whoever expects a version wants to
/// hear that it is another, also when somebody wrote the same content.
pub(super) fn judge(current: Option<&State>, item: &Item<'_>) -> Result<Judgement, UnknownVersion> {
    if let Some(expected) = item.entry.expected_version {
        let rejection = match current {
            None => Some(Rejection::NotFound),
            Some(state) if state.version != expected => Some(Rejection::StaleVersion {
                expected,
                present: state.version,
                by: state.tracking_id,
            }),
            Some(_) => None,
        };
        if let Some(rejection) = rejection {
            return Ok(Judgement::Settled(Verdict::Rejected(rejection)));
        }
    }
    let created = State {
        tracking_id: item.id(),
        content_hash: item.hash,
        created_by: item.id(),
        created_hash: item.hash,
        version: 1,
    };
    let Some(state) = current else {
        return Ok(change(created, Action::Created));
    };
    let settled = match item.entry.operation {
        Operation::Create if item.has(state.created_hash)? => Verdict::Duplicate(state.created_by),
        Operation::Create => Verdict::Rejected(Rejection::Conflict {
            created_by: state.created_by,
        }),
        Operation::Replace if item.has(state.content_hash)? => {
            Verdict::Duplicate(state.tracking_id)
        }
        Operation::Replace => {
            let replaced = State {
                tracking_id: item.id(),
                content_hash: item.hash,
                version: state.version.saturating_add(1),
                ..*state
            };
            return Ok(change(replaced, Action::Replaced));
        }
        Operation::Command => unreachable!("held where it was decoded"),
    };
    Ok(Judgement::Settled(settled))
}

fn change(after: State, action: Action) -> Judgement {
    Judgement::Change {
        after: kinds::State::Ride(after),
        events: Vec::new(),
        action,
    }
}

/// What others are told of a ride that was written, if they are told of rides.
pub(super) fn event(item: &Item<'_>, write: &Write) -> Option<Event> {
    let Record::Ride(ride) = &item.entry.record else {
        return None;
    };
    let version = write.after.ride()?.version;
    let state = RideState::new(ride, version);
    Some(match version {
        1 => Event::RideCreated(state),
        _ => Event::RideReplaced(state),
    })
}

/// Those of the writes that are rides', with their items. A function of its own, not a closure
/// where it is used: with its lifetimes named the future that copies the rows is `Send`.
pub(super) fn rows<'f, 'b: 'f>(
    items: &'f [Item<'b>],
    writes: &'f [&'f Write],
) -> impl Iterator<Item = (&'f Item<'b>, &'f State, bool)> {
    writes.iter().filter_map(|write| {
        let state = write.after.ride()?;
        Some((&items[write.item], state, write.last))
    })
}

/// Writes one row as [`COPY`] wants it.
pub(super) fn encode((item, state, _): (&Item<'_>, &State, bool), rows: &mut Rows) {
    rows.row(COLUMNS);
    columns(item, state, rows);
}

/// Writes one row as [`COPY_STAGED`] wants it.
pub(super) fn encode_staged((item, state, last): (&Item<'_>, &State, bool), rows: &mut Rows) {
    rows.row(COLUMNS + 1);
    columns(item, state, rows);
    rows.bool(last);
}

fn columns(item: &Item<'_>, state: &State, rows: &mut Rows) {
    let Record::Ride(ride) = &item.entry.record else {
        unreachable!("a ride's rows are written of rides")
    };
    rows.int4(item.key.partner_id);
    rows.int8(ride.id);
    rows.int8(ride.user_id);
    rows.int4(ride.vehicle_model_id);
    rows.or_null(ride.package_id, Rows::int4);
    rows.int4(ride.travel_type_id);
    rows.or_null(ride.from_area_id, Rows::int4);
    rows.or_null(ride.to_area_id, Rows::int4);
    rows.or_null(ride.from_city_id, Rows::int4);
    rows.or_null(ride.to_city_id, Rows::int4);
    rows.timestamptz(ride.from_date_us);
    rows.or_null(ride.to_date_us, Rows::timestamptz);
    rows.bool(ride.online_booking);
    rows.bool(ride.mobile_site_booking);
    rows.timestamptz(ride.booking_created_us);
    rows.or_null(ride.from_lat, Rows::float8);
    rows.or_null(ride.from_long, Rows::float8);
    rows.or_null(ride.to_lat, Rows::float8);
    rows.or_null(ride.to_long, Rows::float8);
    rows.bool(ride.car_cancellation);
    rows.or_null(ride.extra.as_deref(), Rows::jsonb);
    let State {
        tracking_id,
        content_hash,
        created_by,
        created_hash,
        version,
    } = *state;
    rows.uuid(tracking_id);
    rows.int8(content_hash.get());
    rows.uuid(created_by);
    rows.int8(created_hash.get());
    rows.int4(version);
    rows.timestamptz(accepted_at_us(created_by));
    rows.timestamptz(accepted_at_us(tracking_id));
}

/// A record was accepted at its tracking id's millisecond.
pub(super) fn accepted_at_us(id: Uuid) -> i64 {
    let unix_ms = TrackingId::from_uuid(id).map_or(0, TrackingId::unix_ms);
    unix_ms.cast_signed().saturating_mul(1_000)
}
