//! What a courier is and what becomes of a command, said a second time and naively.

use super::*;

/// What a command ended as, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    Done(Action),
    Duplicate(Uuid),
    Failed(&'static str),
}

/// A courier in other terms than the rules': by what is in use, and by its whole history.
#[derive(Clone, Debug)]
pub(super) struct Naive {
    pub(super) name: String,
    pub(super) max: i64,
    pub(super) in_use: i64,
    pub(super) texts: [Option<String>; 2],
    pub(super) attributes: Option<Value>,
    creation: CourierCreate,
    /// The commands that changed it, its creation first.
    pub(super) changed_by: Vec<Uuid>,
    pub(super) deleted: bool,
}

#[derive(Default, Debug)]
pub(super) struct Model {
    pub(super) couriers: BTreeMap<String, Naive>,
    /// By courier, whether it is a pickup, and reference.
    movements: BTreeMap<(String, bool, String), (i64, Uuid)>,
}

impl Model {
    pub(super) fn apply(
        &mut self,
        id: Uuid,
        expected: Option<i32>,
        sent: &CourierCommand,
    ) -> Ended {
        let name = sent.courier_id.clone();
        let found = self.couriers.get(&name).cloned();
        if let Command::Create(create) = &sent.command {
            let ended = match &found {
                None => Ended::Done(Action::Created),
                Some(it) if it.creation == *create => Ended::Duplicate(it.changed_by[0]),
                Some(it) if it.deleted => Ended::Failed("deleted"),
                Some(_) => Ended::Failed("conflict"),
            };
            if found.is_none() {
                self.couriers.insert(name, created(id, create));
            }
            return ended;
        }
        let movement = match &sent.command {
            Command::Pickup(it) => Some((true, it)),
            Command::Dropoff(it) => Some((false, it)),
            _ => None,
        };
        let key = movement.map(|(is_pickup, it)| (name.clone(), is_pickup, it.reference.clone()));
        if let (Some(key), Some((_, it))) = (&key, movement)
            && let Some((litres, by)) = self.movements.get(key)
        {
            return match i64::from(it.capacity) == *litres {
                true => Ended::Duplicate(*by),
                false => Ended::Failed("conflict"),
            };
        }
        let Some(before) = found else {
            return Ended::Failed("not-found");
        };
        if before.deleted {
            return Ended::Failed("deleted");
        }
        if expected.is_some_and(|version| version as usize != before.changed_by.len()) {
            return Ended::Failed("stale-version");
        }
        let mut after = before.clone();
        if let Err(code) = after.change(&sent.command) {
            return Ended::Failed(code);
        }
        if after.shown() == before.shown() {
            return Ended::Duplicate(*before.changed_by.last().unwrap());
        }
        after.changed_by.push(id);
        if let (Some(key), Some((_, it))) = (key, movement) {
            self.movements.insert(key, (it.capacity.into(), id));
        }
        let action = match after.deleted {
            true => Action::Deleted,
            false => Action::Updated,
        };
        self.couriers.insert(name, after);
        Ended::Done(action)
    }
}

fn created(id: Uuid, create: &CourierCreate) -> Naive {
    let attributes = create.attributes.as_deref();
    let unused = create.available_capacity.unwrap_or(create.max_capacity);
    Naive {
        name: create.name.clone(),
        max: create.max_capacity.into(),
        in_use: i64::from(create.max_capacity) - i64::from(unused),
        texts: [create.vehicle_type.clone(), create.phone.clone()],
        attributes: attributes.map(|it| serde_json::from_str(it).unwrap()),
        creation: create.clone(),
        changed_by: vec![id],
        deleted: false,
    }
}

impl Naive {
    fn change(&mut self, command: &Command) -> Result<(), &'static str> {
        match command {
            Command::Create(_) => unreachable!(),
            Command::Update(update) => return self.patch(update),
            Command::SetCapacity(it) => {
                self.in_use = self.max - i64::from(it.available_capacity);
                if self.in_use < 0 {
                    return Err("over-capacity");
                }
            }
            Command::Pickup(it) => {
                self.in_use += i64::from(it.capacity);
                if self.in_use > self.max {
                    return Err("insufficient-capacity");
                }
            }
            Command::Dropoff(it) => {
                self.in_use -= i64::from(it.capacity);
                if self.in_use < 0 {
                    return Err("excess-dropoff");
                }
            }
            Command::Delete(_) => self.deleted = true,
        }
        Ok(())
    }

    fn patch(&mut self, update: &CourierUpdate) -> Result<(), &'static str> {
        self.max = update.max_capacity.map_or(self.max, i64::from);
        if let Some(available) = update.available_capacity {
            self.in_use = self.max - i64::from(available);
            if self.in_use < 0 {
                return Err("over-capacity");
            }
        }
        if self.in_use > self.max {
            return Err("capacity-in-use");
        }
        if let Some(name) = &update.name {
            self.name.clone_from(name);
        }
        for (text, patch) in self
            .texts
            .iter_mut()
            .zip([&update.vehicle_type, &update.phone])
        {
            if let Some(patch) = patch {
                text.clone_from(&patch.value);
            }
        }
        match update.attributes.as_deref() {
            None => {}
            Some("null") => self.attributes = None,
            Some(patch) => {
                let patch: Value = serde_json::from_str(patch).unwrap();
                // The generated ones nest no deeper.
                let attributes = self.attributes.get_or_insert_with(|| serde_json::json!({}));
                for (name, value) in patch.as_object().unwrap() {
                    match value {
                        Value::Null => drop(attributes.as_object_mut().unwrap().remove(name)),
                        value => attributes[name] = value.clone(),
                    }
                }
                if attributes.to_string().len() > 4096 {
                    return Err("attributes-too-large");
                }
            }
        }
        Ok(())
    }

    fn shown(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let Self {
            name,
            max,
            in_use,
            texts,
            attributes,
            deleted,
            ..
        } = self.clone();
        (name, max, in_use, texts, attributes, deleted)
    }
}
