//! The state of couriers: columns, look-up, judgement and merge.

use std::collections::{HashMap, HashSet};

use contract::content_hash::UnknownVersion;
use contract::courier::{Command, CourierMovement};
use contract::{ContentHash, CourierCommand, Record};
use futures_util::future::try_join;
use tokio_postgres::types::Type;
use tokio_postgres::{Row, Transaction};

use super::copy::Rows;
use super::fold::{Id, Item, Judgement, Key, Verdict, Write};
use super::kinds;
use super::rides::accepted_at_us;
use rules::{Effect, Given, Profile};
pub(crate) use rules::{Movement, State};

mod merge_patch;
mod rules;

/// Every column, in the order of [`encode_staged`].
macro_rules! columns {
    () => {
        "partner_id, courier_id, name, max_capacity, available_capacity, vehicle_type, phone, \
         attributes, tracking_id, created_by, created_hash, version, created_at, updated_at, \
         deleted_at"
    };
}
const STAGED_COLUMNS: i16 = 19;

/// A staging table takes what the table would take, and a movement in the row of the state that it
/// led to.
pub(super) const CREATE_STAGED: &str = "create temporary table if not exists staged_couriers \
     (like couriers including constraints, last bool not null, direction int2, \
     reference text collate \"C\", capacity int4) on commit delete rows";

/// Into the staging table.
pub(super) const COPY_STAGED: &str = concat!(
    "copy staged_couriers (",
    columns!(),
    ", last, direction, reference, capacity) from stdin (format binary)"
);

/// From the staging table into the table. What a courier was created with stays.
pub(super) const MERGE: &str = concat!(
    "insert into couriers (",
    columns!(),
    ") select ",
    columns!(),
    " from staged_couriers where last on conflict (partner_id, courier_id) do update set \
     name = excluded.name, \
     max_capacity = excluded.max_capacity, \
     available_capacity = excluded.available_capacity, \
     vehicle_type = excluded.vehicle_type, \
     phone = excluded.phone, \
     attributes = excluded.attributes, \
     tracking_id = excluded.tracking_id, \
     version = excluded.version, \
     updated_at = excluded.updated_at, \
     deleted_at = excluded.deleted_at"
);

/// A reference that is there already was found, so there is no conflict to expect.
pub(super) const MERGE_MOVEMENTS: &str = "insert into courier_movements \
    (partner_id, courier_id, direction, reference, capacity, tracking_id) \
    select partner_id, courier_id, direction, reference, capacity, tracking_id \
    from staged_couriers where reference is not null";

/// Arrays instead of a temporary table: the fast path has none, and they need no analysis. There is
/// one row at the most for each place; to say so keeps the planner from reading the whole table,
/// however many are asked for.
const LOOK_UP: &str = "select i.at, c.name, c.max_capacity, c.available_capacity, \
    c.vehicle_type, c.phone, c.attributes::text, c.tracking_id, c.created_by, c.created_hash, \
    c.version, c.deleted_at is not null \
    from unnest($1::int4[], $2::text[]) with ordinality as i (partner_id, courier_id, at), \
    lateral (select * from couriers it where it.partner_id = i.partner_id \
    and it.courier_id = i.courier_id limit 1) c";

const LOOK_UP_MOVEMENTS: &str = "select i.at, m.capacity, m.tracking_id \
    from unnest($1::int4[], $2::text[], $3::int2[], $4::text[]) \
    with ordinality as i (partner_id, courier_id, direction, reference, at), \
    lateral (select * from courier_movements it where it.partner_id = i.partner_id \
    and it.courier_id = i.courier_id and it.direction = i.direction \
    and it.reference = i.reference limit 1) m";

/// A movement's name, by which it takes effect once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct MovementKey<'b> {
    partner_id: i32,
    courier_id: &'b str,
    /// As `courier_movements.direction` has it.
    direction: i16,
    reference: &'b str,
}

impl<'b> MovementKey<'b> {
    /// `None` for what is no movement.
    pub(super) fn of(item: &Item<'b>) -> Option<Self> {
        let Record::Courier(courier) = &item.entry.record else {
            return None;
        };
        let (direction, movement) = movement(&courier.command)?;
        Some(Self {
            partner_id: item.key.partner_id,
            courier_id: &courier.courier_id,
            direction,
            reference: &movement.reference,
        })
    }
}

impl Movement {
    /// Of a pickup or dropoff that takes effect.
    pub(super) fn of(item: &Item<'_>) -> Self {
        let capacity = match &item.entry.record {
            Record::Courier(courier) => movement(&courier.command).map(|(_, it)| it.capacity),
            Record::Ride(_) => None,
        };
        Self {
            capacity: capacity.unwrap_or_default(),
            tracking_id: item.id(),
        }
    }
}

fn movement(command: &Command) -> Option<(i16, &CourierMovement)> {
    match command {
        Command::Pickup(movement) => Some((1, movement)),
        Command::Dropoff(movement) => Some((2, movement)),
        Command::Create(_) | Command::Update(_) | Command::SetCapacity(_) | Command::Delete(_) => {
            None
        }
    }
}

/// Whether the database can be asked for such a text. What it cannot be asked for is not there;
/// storing it will tell.
fn askable(text: &str) -> bool {
    !text.contains('\0')
}

/// What the database knows of a batch's couriers.
type Found<'b> = (
    HashMap<Key<'b>, kinds::State>,
    HashMap<MovementKey<'b>, Movement>,
);

/// Loads what the couriers that the items name are now, and which of their movements took effect
/// before: two statements at once, or none.
///
/// No lock: only the one writer of a partition changes its couriers, a writer before it was ended
/// before this one began, and the cursor was moved first in this transaction.
pub(super) async fn look_up<'b>(
    transaction: &Transaction<'_>,
    items: &[Item<'b>],
) -> Result<Found<'b>, tokio_postgres::Error> {
    let couriers = distinct(items.iter().filter_map(|item| match item.key.id {
        Id::Courier(courier_id) => askable(courier_id).then_some((item.key.partner_id, courier_id)),
        Id::Ride(_) => None,
    }));
    let named = items.iter().filter_map(MovementKey::of);
    let movements = distinct(named.filter(|it| askable(it.courier_id) && askable(it.reference)));
    try_join(
        look_up_states(transaction, &couriers),
        look_up_movements(transaction, &movements),
    )
    .await
}

fn distinct<T: Copy + Eq + std::hash::Hash>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = HashSet::new();
    all.filter(|it| seen.insert(*it)).collect()
}

async fn look_up_states<'b>(
    transaction: &Transaction<'_>,
    couriers: &[(i32, &'b str)],
) -> Result<HashMap<Key<'b>, kinds::State>, tokio_postgres::Error> {
    if couriers.is_empty() {
        return Ok(HashMap::new());
    }
    let (partners, ids): (Vec<i32>, Vec<&str>) = couriers.iter().copied().unzip();
    let rows = transaction
        .query_typed(
            LOOK_UP,
            &[(&partners, Type::INT4_ARRAY), (&ids, Type::TEXT_ARRAY)],
        )
        .await?;
    let found = |row: &Row| {
        let (partner_id, courier_id) = couriers[place(row)?];
        let key = Key {
            partner_id,
            id: Id::Courier(courier_id),
        };
        Ok((key, kinds::State::Courier(state(row)?)))
    };
    rows.iter().map(found).collect()
}

async fn look_up_movements<'b>(
    transaction: &Transaction<'_>,
    movements: &[MovementKey<'b>],
) -> Result<HashMap<MovementKey<'b>, Movement>, tokio_postgres::Error> {
    if movements.is_empty() {
        return Ok(HashMap::new());
    }
    let partners: Vec<i32> = movements.iter().map(|it| it.partner_id).collect();
    let ids: Vec<&str> = movements.iter().map(|it| it.courier_id).collect();
    let directions: Vec<i16> = movements.iter().map(|it| it.direction).collect();
    let references: Vec<&str> = movements.iter().map(|it| it.reference).collect();
    let rows = transaction
        .query_typed(
            LOOK_UP_MOVEMENTS,
            &[
                (&partners, Type::INT4_ARRAY),
                (&ids, Type::TEXT_ARRAY),
                (&directions, Type::INT2_ARRAY),
                (&references, Type::TEXT_ARRAY),
            ],
        )
        .await?;
    let found = |row: &Row| {
        let movement = Movement {
            capacity: row.try_get(1)?,
            tracking_id: row.try_get(2)?,
        };
        Ok((movements[place(row)?], movement))
    };
    rows.iter().map(found).collect()
}

/// Place of the row's question in the arrays.
fn place(row: &Row) -> Result<usize, tokio_postgres::Error> {
    let ordinality: i64 = row.try_get(0)?;
    Ok(usize::try_from(ordinality).expect("counted from 1") - 1)
}

fn state(row: &Row) -> Result<State, tokio_postgres::Error> {
    let profile = Profile {
        name: row.try_get(1)?,
        vehicle_type: row.try_get(4)?,
        phone: row.try_get(5)?,
        attributes: row.try_get(6)?,
    };
    Ok(State {
        profile: profile.into(),
        max_capacity: row.try_get(2)?,
        available_capacity: row.try_get(3)?,
        tracking_id: row.try_get(7)?,
        created_by: row.try_get(8)?,
        created_hash: ContentHash::from_stored(row.try_get(9)?),
        version: row.try_get(10)?,
        deleted: row.try_get(11)?,
    })
}

/// What a command amounts to, given the movement of its reference that took effect before.
pub(super) fn judge(
    state: Option<&State>,
    record: &CourierCommand,
    earlier: Option<Movement>,
    item: &Item<'_>,
) -> Result<Judgement, UnknownVersion> {
    let repeats_creation = match (&record.command, state) {
        (Command::Create(_), Some(state)) => item.has(state.created_hash)?,
        _ => false,
    };
    let given = Given {
        courier_id: &record.courier_id,
        command: &record.command,
        tracking_id: item.id(),
        hash: item.hash,
        expected_version: item.entry.expected_version,
        repeats_creation,
        earlier,
    };
    Ok(match rules::apply(state, &given) {
        Ok(Effect::Changed {
            after,
            events,
            action,
        }) => Judgement::Change {
            after: kinds::State::Courier(after),
            events,
            action,
        },
        Ok(Effect::Duplicate(of)) => Judgement::Settled(Verdict::Duplicate(of)),
        Err(rejection) => Judgement::Settled(Verdict::Rejected(rejection)),
    })
}

/// Those of the writes that are couriers', with their items.
pub(super) fn rows<'f, 'b: 'f>(
    items: &'f [Item<'b>],
    writes: &'f [&'f Write],
) -> impl Iterator<Item = (&'f Item<'b>, &'f State, bool)> {
    writes.iter().filter_map(|write| {
        let state = write.after.courier()?;
        Some((&items[write.item], state, write.last))
    })
}

/// Writes one row as [`COPY_STAGED`] wants it.
pub(super) fn encode_staged((item, state, last): (&Item<'_>, &State, bool), rows: &mut Rows) {
    let Record::Courier(record) = &item.entry.record else {
        unreachable!("a courier's rows are written of commands")
    };
    let State {
        profile,
        max_capacity,
        available_capacity,
        tracking_id,
        created_by,
        created_hash,
        version,
        deleted,
    } = state;
    let changed_at_us = accepted_at_us(*tracking_id);
    rows.row(STAGED_COLUMNS);
    rows.int4(item.key.partner_id);
    rows.text(&record.courier_id);
    rows.text(&profile.name);
    rows.int4(*max_capacity);
    rows.int4(*available_capacity);
    rows.or_null(profile.vehicle_type.as_deref(), Rows::text);
    rows.or_null(profile.phone.as_deref(), Rows::text);
    // The largest by far: a state that is passed through shows what is new in it.
    let is_new = matches!(record.command, Command::Create(_) | Command::Update(_));
    let attributes = profile.attributes.as_deref().filter(|_| last || is_new);
    rows.or_null(attributes, Rows::text);
    rows.uuid(*tracking_id);
    rows.uuid(*created_by);
    rows.int8(created_hash.get());
    rows.int4(*version);
    rows.timestamptz(accepted_at_us(*created_by));
    rows.timestamptz(changed_at_us);
    // Nothing changes it after its deletion.
    rows.or_null(deleted.then_some(changed_at_us), Rows::timestamptz);
    rows.bool(last);
    let movement = movement(&record.command);
    rows.or_null(movement.map(|(direction, _)| direction), Rows::int2);
    rows.or_null(movement.map(|(_, it)| it.reference.as_str()), Rows::text);
    rows.or_null(movement.map(|(_, it)| it.capacity), Rows::int4);
}
