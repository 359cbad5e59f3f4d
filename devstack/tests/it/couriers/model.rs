//! The rules once more, as simply as can be, by somebody who has not seen the worker's: one command
//! after the other, maps of plain values, no batches.

use std::collections::{BTreeMap, HashMap, HashSet};

use contract::courier::{Command, CourierMovement, CourierUpdate};
use contract::{ContentHash, Record};

use super::log::Logged;
use super::{Outcome, State};

struct Courier {
    name: String,
    vehicle_type: Option<String>,
    max: i32,
    available: i32,
    version: i32,
    changed_by: String,
    created_by: String,
    created: ContentHash,
    deleted: bool,
}

/// What an event must say: courier, version, name, and what was available before and after.
pub(super) type Expected = (String, i32, &'static str, Option<(i32, i32)>);

#[derive(Default)]
pub(super) struct Model {
    couriers: BTreeMap<String, Courier>,
    /// Courier, whether it is a pickup, and reference, to capacity and tracking id.
    movements: HashMap<(String, bool, String), (i32, String)>,
    seen: HashSet<String>,
    /// By event id.
    pub(super) events: BTreeMap<String, Expected>,
}

fn failed(code: &str) -> Outcome {
    Outcome {
        outcome: 3,
        action: None,
        code: Some(code.to_owned()),
        duplicate_of: None,
    }
}

fn duplicate(of: &str) -> Outcome {
    Outcome {
        outcome: 2,
        action: None,
        code: None,
        duplicate_of: Some(of.to_owned()),
    }
}

fn done(action: i16) -> Outcome {
    Outcome {
        outcome: 1,
        action: Some(action),
        code: None,
        duplicate_of: None,
    }
}

impl Model {
    pub(super) fn outcomes(&self) -> usize {
        self.seen.len()
    }

    pub(super) fn states(&self) -> BTreeMap<String, State> {
        let state = |it: &Courier| {
            (
                it.version,
                it.available,
                it.max,
                it.name.clone(),
                it.deleted,
            )
        };
        self.couriers
            .iter()
            .map(|(id, it)| (id.clone(), state(it)))
            .collect()
    }

    /// How a command ends; `None` if it stood in the log before.
    pub(super) fn apply(&mut self, logged: &Logged) -> Option<Outcome> {
        let id = logged.id();
        if !self.seen.insert(id.clone()) {
            return None;
        }
        let Record::Courier(record) = &logged.entry.record else {
            panic!("nobody sent rides")
        };
        let courier = &record.courier_id;
        Some(match &record.command {
            Command::Create(_) => self.create(courier, &id, logged),
            Command::Pickup(movement) | Command::Dropoff(movement) => {
                let is_pickup = matches!(record.command, Command::Pickup(_));
                let key = (courier.clone(), is_pickup, movement.reference.clone());
                match self.movements.get(&key) {
                    Some((capacity, first)) if *capacity == movement.capacity => duplicate(first),
                    Some(_) => failed("conflict"),
                    None => self.change(courier, &id, logged, &record.command),
                }
            }
            command => self.change(courier, &id, logged, command),
        })
    }

    fn create(&mut self, courier: &str, id: &str, logged: &Logged) -> Outcome {
        let Record::Courier(record) = &logged.entry.record else {
            panic!("nobody sent rides")
        };
        let Command::Create(create) = &record.command else {
            panic!("a create")
        };
        let created = ContentHash::of(&logged.entry.record);
        if let Some(present) = self.couriers.get(courier) {
            return match present {
                same if same.created == created => duplicate(&same.created_by),
                gone if gone.deleted => failed("deleted"),
                _ => failed("conflict"),
            };
        }
        let available = create.available_capacity.unwrap_or(create.max_capacity);
        let new = Courier {
            name: create.name.clone(),
            vehicle_type: create.vehicle_type.clone(),
            max: create.max_capacity,
            available,
            version: 1,
            changed_by: id.to_owned(),
            created_by: id.to_owned(),
            created,
            deleted: false,
        };
        self.couriers.insert(courier.to_owned(), new);
        self.event(id, 0, courier, 1, "courier_created", None);
        done(1)
    }

    fn change(&mut self, courier: &str, id: &str, logged: &Logged, command: &Command) -> Outcome {
        let Some(present) = self.couriers.get_mut(courier) else {
            return failed("not-found");
        };
        if present.deleted {
            return failed("deleted");
        }
        if logged
            .entry
            .expected_version
            .is_some_and(|it| it != present.version)
        {
            return failed("stale-version");
        }
        let before = present.available;
        let mut updated = false;
        match command {
            Command::Create(_) => panic!("not a change"),
            Command::Delete(_) => {
                present.deleted = true;
                present.version += 1;
                let version = present.version;
                self.event(id, 0, courier, version, "courier_deleted", None);
                return done(4);
            }
            Command::SetCapacity(capacity) if capacity.available_capacity > present.max => {
                return failed("over-capacity");
            }
            Command::SetCapacity(capacity) => present.available = capacity.available_capacity,
            Command::Pickup(CourierMovement { capacity, .. }) if *capacity > before => {
                return failed("insufficient-capacity");
            }
            Command::Dropoff(CourierMovement { capacity, .. })
                if *capacity > present.max - before =>
            {
                return failed("excess-dropoff");
            }
            Command::Pickup(movement) => {
                present.available -= movement.capacity;
                let key = (courier.to_owned(), true, movement.reference.clone());
                self.movements
                    .insert(key, (movement.capacity, id.to_owned()));
            }
            Command::Dropoff(movement) => {
                present.available += movement.capacity;
                let key = (courier.to_owned(), false, movement.reference.clone());
                self.movements
                    .insert(key, (movement.capacity, id.to_owned()));
            }
            Command::Update(update) => match patched(present, update) {
                Ok(changed) => updated = changed,
                Err(code) => return failed(code),
            },
        }
        if !updated && present.available == before {
            return duplicate(&present.changed_by);
        }
        present.version += 1;
        id.clone_into(&mut present.changed_by);
        let (version, after) = (present.version, present.available);
        let mut n = 0;
        if updated {
            self.event(id, n, courier, version, "courier_updated", None);
            n += 1;
        }
        if after != before {
            let change = Some((before, after));
            self.event(id, n, courier, version, "courier_capacity_updated", change);
        }
        done(3)
    }

    fn event(
        &mut self,
        id: &str,
        n: u32,
        courier: &str,
        version: i32,
        name: &'static str,
        change: Option<(i32, i32)>,
    ) {
        let expected = (courier.to_owned(), version, name, change);
        self.events.insert(format!("{id}/{n}"), expected);
    }
}

/// Whether anything but the available capacity changed.
fn patched(courier: &mut Courier, update: &CourierUpdate) -> Result<bool, &'static str> {
    assert!(
        update.available_capacity.is_none() && update.attributes.is_none(),
        "not sent"
    );
    let max = update.max_capacity.unwrap_or(courier.max);
    let available = max - (courier.max - courier.available);
    if available < 0 {
        return Err("capacity-in-use");
    }
    let name = update.name.clone().unwrap_or_else(|| courier.name.clone());
    let vehicle_type = match &update.vehicle_type {
        Some(patch) => patch.value.clone(),
        None => courier.vehicle_type.clone(),
    };
    let updated =
        (&name, max, &vehicle_type) != (&courier.name, courier.max, &courier.vehicle_type);
    courier.name = name;
    courier.max = max;
    courier.vehicle_type = vehicle_type;
    courier.available = available;
    Ok(updated)
}
