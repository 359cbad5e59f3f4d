//! What couriers should come to, command by command, in the simplest words.

use std::collections::BTreeMap;

use contract::courier::{Command, CourierCreate};
use contract::{CourierCommand, Entry};
use uuid::Uuid;

use super::world::LedgerRow;

/// Event, courier, version, and for a change of capacity from where to where.
pub(super) type Event = (String, String, i64, Option<(i64, i64)>);

/// Name, max and available capacity, version, by whom it is so, whether it is deleted.
pub(super) type Row = (String, i32, i32, i32, Uuid, bool);

#[derive(Default, Debug)]
pub(super) struct Couriers {
    now: BTreeMap<String, Courier>,
    /// Pickups and dropoffs that took effect.
    moved: BTreeMap<(String, &'static str, String), (i32, Uuid)>,
}

#[derive(Clone, Debug)]
struct Courier {
    row: Row,
    created: (Uuid, CourierCreate),
}

impl Couriers {
    pub(super) fn rows(self) -> BTreeMap<String, Row> {
        let rows = self.now.into_iter().map(|(id, it)| (id, it.row));
        rows.collect()
    }

    /// A text with a NUL is what the database does not take.
    pub(super) fn apply(
        &mut self,
        entry: &Entry,
        sent: &CourierCommand,
        told: &mut Vec<Event>,
    ) -> LedgerRow {
        let id = entry.tracking_id.uuid();
        let courier_id = &sent.courier_id;
        let moved = match &sent.command {
            Command::Pickup(it) => Some(("pickup", it)),
            Command::Dropoff(it) => Some(("dropoff", it)),
            _ => None,
        };
        let key = moved.map(|(word, it)| (courier_id.clone(), word, it.reference.clone()));
        if let Some((capacity, by)) = key.as_ref().and_then(|key| self.moved.get(key)) {
            return match moved.unwrap().1.capacity == *capacity {
                true => (2, None, None, Some(*by)),
                false => failed("conflict"),
            };
        }
        let before = self.now.get(courier_id).cloned();
        let after = match decide(before.as_ref(), id, entry.expected_version, &sent.command) {
            Ok(after) => after,
            Err(row) => return row,
        };
        let reference = moved.is_some_and(|(_, it)| it.reference.contains('\0'));
        let name = before.as_ref().is_none_or(|it| it.row.0 != after.row.0);
        if reference || name && after.row.0.contains('\0') {
            return failed("unstorable");
        }
        let action = match (&before, after.row.5) {
            (None, _) => 1,
            (Some(_), false) => 3,
            (Some(_), true) => 4,
        };
        tell(courier_id, before.as_ref(), &after, told);
        if let (Some(key), Some((_, it))) = (key, moved) {
            self.moved.insert(key, (it.capacity, id));
        }
        self.now.insert(courier_id.clone(), after);
        (1, Some(action), None, None)
    }
}

fn failed(code: &str) -> LedgerRow {
    (3, None, Some(code.to_owned()), None)
}

fn decide(
    before: Option<&Courier>,
    id: Uuid,
    expected: Option<i32>,
    command: &Command,
) -> Result<Courier, LedgerRow> {
    if let Command::Create(create) = command {
        let row = (
            create.name.clone(),
            create.max_capacity,
            create.available_capacity.unwrap_or(create.max_capacity),
            1,
            id,
            false,
        );
        let created = (id, create.clone());
        return match before {
            None => Ok(Courier { row, created }),
            Some(it) if it.created.1 == *create => Err((2, None, None, Some(it.created.0))),
            Some(it) if it.row.5 => Err(failed("deleted")),
            Some(_) => Err(failed("conflict")),
        };
    }
    let before = before.ok_or(failed("not-found"))?;
    let (name, max, available, version, by, deleted) = before.row.clone();
    if deleted {
        return Err(failed("deleted"));
    }
    if expected.is_some_and(|expected| expected != version) {
        return Err(failed("stale-version"));
    }
    let out = max - available;
    let (name, max, available, deleted) = match command {
        Command::Create(_) => unreachable!(),
        Command::Delete(_) => (name, max, available, true),
        Command::SetCapacity(it) if it.available_capacity > max => {
            return Err(failed("over-capacity"));
        }
        Command::SetCapacity(it) => (name, max, it.available_capacity, false),
        Command::Pickup(it) if it.capacity > available => {
            return Err(failed("insufficient-capacity"));
        }
        Command::Pickup(it) => (name, max, available - it.capacity, false),
        Command::Dropoff(it) if it.capacity > out => return Err(failed("excess-dropoff")),
        Command::Dropoff(it) => (name, max, available + it.capacity, false),
        Command::Update(it) => {
            let max = it.max_capacity.unwrap_or(max);
            let available = match it.available_capacity {
                Some(available) if available > max => return Err(failed("over-capacity")),
                Some(available) => available,
                None if out > max => return Err(failed("capacity-in-use")),
                None => max - out,
            };
            (it.name.clone().unwrap_or(name), max, available, false)
        }
    };
    let row = (name, max, available, version, by, deleted);
    if row == before.row {
        return Err((2, None, None, Some(by)));
    }
    let (name, max, available, ..) = row;
    Ok(Courier {
        row: (name, max, available, version + 1, id, deleted),
        created: before.created.clone(),
    })
}

fn tell(id: &str, before: Option<&Courier>, after: &Courier, told: &mut Vec<Event>) {
    let version = i64::from(after.row.3);
    let event = |name: &str| (name.to_owned(), id.to_owned(), version, None);
    let Some(before) = before else {
        told.push(event("courier_created"));
        return;
    };
    if after.row.5 {
        told.push(event("courier_deleted"));
        return;
    }
    if (&before.row.0, before.row.1) != (&after.row.0, after.row.1) {
        told.push(event("courier_updated"));
    }
    let (from, to) = (before.row.2, after.row.2);
    if from != to {
        let change = Some((from.into(), to.into()));
        told.push((
            "courier_capacity_updated".to_owned(),
            id.to_owned(),
            version,
            change,
        ));
    }
}
