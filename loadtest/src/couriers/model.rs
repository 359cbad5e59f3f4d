//! The rules for couriers, written a second time and naively: what a sequence of commands comes
//! to. The harness shares no code with the services, so it cannot share their mistakes.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Largest attributes, in bytes of compact JSON.
const ATTRIBUTES_BYTES_MAX: usize = 4_096;

/// What a command comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Changed,
    Duplicate,
    /// With the failure's code.
    Refused(&'static str),
}

/// One courier, deleted ones included.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Courier {
    pub(crate) name: String,
    pub(crate) max: i64,
    pub(crate) available: i64,
    vehicle_type: Option<String>,
    phone: Option<String>,
    attributes: Option<Map<String, Value>>,
    pub(crate) version: i64,
    pub(crate) deleted: bool,
    /// The members of the create command.
    creation: Map<String, Value>,
    /// Capacities by direction and reference.
    movements: HashMap<(bool, String), i64>,
}

/// The couriers by id.
#[derive(Clone, Default, Debug)]
pub(crate) struct Model {
    couriers: HashMap<String, Courier>,
}

impl Model {
    pub(crate) fn courier(&self, id: &str) -> Option<&Courier> {
        self.couriers.get(id)
    }

    /// Applies one item of `POST /v1/courier-commands` that a gateway has accepted.
    pub(crate) fn apply(&mut self, item: &Value) -> Verdict {
        let item = canonical(item);
        let (Some(id), Some(word)) = (courier_id(&item), text(&item, "command")) else {
            return Verdict::Refused("not-a-command");
        };
        let courier = self.couriers.get_mut(&id);
        if word == "create" {
            let mut item = item;
            // Null is what is not given.
            item.retain(|_, value| !value.is_null());
            return match courier {
                Some(courier) => courier.create_again(&item),
                None => {
                    self.couriers.insert(id, Courier::create(item));
                    Verdict::Changed
                }
            };
        }
        let Some(courier) = courier else {
            return Verdict::Refused("not-found");
        };
        courier.apply(&word, &item)
    }
}

/// The id of an item's courier: an integer is its decimal digits.
pub(crate) fn courier_id(item: &Map<String, Value>) -> Option<String> {
    match item.get("courier_id").or_else(|| item.get("courierId"))? {
        Value::String(id) => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

impl Courier {
    fn create(item: Map<String, Value>) -> Self {
        let max = number(&item, "max_capacity").unwrap_or_default();
        Self {
            name: text(&item, "name").unwrap_or_default(),
            max,
            available: number(&item, "available_capacity").unwrap_or(max),
            vehicle_type: text(&item, "vehicle_type"),
            phone: text(&item, "phone"),
            attributes: item.get("attributes").and_then(Value::as_object).cloned(),
            version: 1,
            deleted: false,
            creation: item,
            movements: HashMap::new(),
        }
    }

    fn create_again(&self, item: &Map<String, Value>) -> Verdict {
        match (self.creation == *item, self.deleted) {
            (true, _) => Verdict::Duplicate,
            (false, true) => Verdict::Refused("deleted"),
            (false, false) => Verdict::Refused("conflict"),
        }
    }

    fn apply(&mut self, word: &str, item: &Map<String, Value>) -> Verdict {
        let movement = match word {
            "pickup" => Some(true),
            "dropoff" => Some(false),
            _ => None,
        };
        let key = movement.map(|up| (up, text(item, "reference").unwrap_or_default()));
        let moved = number(item, "capacity").unwrap_or_default();
        if let Some(before) = key.as_ref().and_then(|key| self.movements.get(key)) {
            return if *before == moved {
                Verdict::Duplicate
            } else {
                Verdict::Refused("conflict")
            };
        }
        if self.deleted {
            return Verdict::Refused("deleted");
        }
        if number(item, "expected_version").is_some_and(|version| version != self.version) {
            return Verdict::Refused("stale-version");
        }
        let mut after = self.clone();
        let fault = match word {
            "update" => after.update(item),
            "set_capacity" => after.set_available(number(item, "available_capacity")),
            "pickup" => after.move_by(-moved, "insufficient-capacity"),
            "dropoff" => after.move_by(moved, "excess-dropoff"),
            "delete" => {
                after.deleted = true;
                None
            }
            _ => Some("not-a-command"),
        };
        if let Some(code) = fault {
            return Verdict::Refused(code);
        }
        if after == *self {
            return Verdict::Duplicate;
        }
        after.version += 1;
        if let Some(key) = key {
            after.movements.insert(key, moved);
        }
        *self = after;
        Verdict::Changed
    }

    fn move_by(&mut self, litres: i64, code: &'static str) -> Option<&'static str> {
        self.available += litres;
        (!(0..=self.max).contains(&self.available)).then_some(code)
    }

    fn set_available(&mut self, available: Option<i64>) -> Option<&'static str> {
        self.available = available.unwrap_or(self.available);
        (self.available > self.max).then_some("over-capacity")
    }

    fn update(&mut self, item: &Map<String, Value>) -> Option<&'static str> {
        let in_use = self.max - self.available;
        let max = number(item, "max_capacity");
        let available = number(item, "available_capacity");
        self.max = max.unwrap_or(self.max);
        match (max, available) {
            (Some(max), None) => self.available = max - in_use,
            (_, Some(available)) => self.available = available,
            (None, None) => {}
        }
        if self.available < 0 {
            return Some("capacity-in-use");
        }
        if self.available > self.max {
            return Some("over-capacity");
        }
        self.name = text(item, "name").unwrap_or_else(|| self.name.clone());
        for (name, field) in [
            ("vehicle_type", &mut self.vehicle_type),
            ("phone", &mut self.phone),
        ] {
            if item.contains_key(name) {
                *field = text(item, name);
            }
        }
        match item.get("attributes") {
            Some(Value::Object(patch)) => {
                merge(self.attributes.get_or_insert_default(), patch);
            }
            Some(_) => self.attributes = None,
            None => {}
        }
        let bytes = self.attributes.as_ref().map(|it| {
            let text = serde_json::to_string(it);
            text.expect("maps of JSON are JSON").len()
        });
        (bytes.unwrap_or_default() > ATTRIBUTES_BYTES_MAX).then_some("attributes-too-large")
    }
}

/// RFC 7396.
fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                target.remove(name);
            }
            Value::Object(patch) => {
                let inner = target.entry(name.clone()).or_insert(Value::Null);
                if !inner.is_object() {
                    *inner = Value::Object(Map::new());
                }
                merge(inner.as_object_mut().expect("was just made one"), patch);
            }
            other => {
                target.insert(name.clone(), other.clone());
            }
        }
    }
}

/// With the names of this API, whichever spelling was sent.
fn canonical(item: &Value) -> Map<String, Value> {
    let names = [
        ("courierId", "courier_id"),
        ("maxCapacity", "max_capacity"),
        ("availableCapacity", "available_capacity"),
        ("vehicleType", "vehicle_type"),
        ("expectedVersion", "expected_version"),
    ];
    let mut item = item.as_object().cloned().unwrap_or_default();
    for (camel, snake) in names {
        if let Some(value) = item.remove(camel) {
            item.insert(snake.to_owned(), value);
        }
    }
    if let Some(id) = courier_id(&item) {
        item.insert("courier_id".to_owned(), id.into());
    }
    item
}

fn text(item: &Map<String, Value>, name: &str) -> Option<String> {
    item.get(name)?.as_str().map(str::to_owned)
}

fn number(item: &Map<String, Value>, name: &str) -> Option<i64> {
    item.get(name)?.as_i64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_rules_one_by_one() {
        let mut model = Model::default();
        let mut apply = |item: Value| model.apply(&item);
        let refused = Verdict::Refused;
        let create = json!({"command": "create", "courier_id": 7, "name": "A", "maxCapacity": 50});
        for (item, verdict) in [
            (
                json!({"command": "delete", "courier_id": 7}),
                refused("not-found"),
            ),
            (create.clone(), Verdict::Changed),
            (create.clone(), Verdict::Duplicate),
            (
                json!({"command": "create", "courier_id": "7", "name": "B", "maxCapacity": 50}),
                refused("conflict"),
            ),
            (
                json!({"command": "pickup", "courier_id": "7", "capacity": 20, "reference": "a"}),
                Verdict::Changed,
            ),
            (
                json!({"command": "pickup", "courier_id": "7", "capacity": 20, "reference": "a"}),
                Verdict::Duplicate,
            ),
            (
                json!({"command": "pickup", "courier_id": "7", "capacity": 9, "reference": "a"}),
                refused("conflict"),
            ),
            (
                json!({"command": "pickup", "courier_id": "7", "capacity": 31, "reference": "b"}),
                refused("insufficient-capacity"),
            ),
            (
                json!({"command": "dropoff", "courier_id": "7", "capacity": 21, "reference": "a"}),
                refused("excess-dropoff"),
            ),
            (
                json!({"command": "dropoff", "courier_id": "7", "capacity": 5, "reference": "a"}),
                Verdict::Changed,
            ),
            (
                json!({"command": "update", "courier_id": "7", "max_capacity": 10}),
                refused("capacity-in-use"),
            ),
            (
                json!({"command": "update", "courier_id": "7", "max_capacity": 40}),
                Verdict::Changed,
            ),
            (
                json!({"command": "update", "courier_id": "7", "max_capacity": 40}),
                Verdict::Duplicate,
            ),
            (
                json!({"command": "update", "courier_id": "7", "available_capacity": 41}),
                refused("over-capacity"),
            ),
            (
                json!({"command": "set_capacity", "courier_id": "7", "available_capacity": 41}),
                refused("over-capacity"),
            ),
            (
                json!({"command": "set_capacity", "courier_id": "7", "available_capacity": 25}),
                Verdict::Duplicate,
            ),
            (
                json!({"command": "set_capacity", "courier_id": "7", "available_capacity": 40, "expected_version": 3}),
                refused("stale-version"),
            ),
            (
                json!({"command": "set_capacity", "courier_id": "7", "available_capacity": 40, "expected_version": 4}),
                Verdict::Changed,
            ),
            (
                json!({"command": "update", "courier_id": "7", "attributes": {"a": {"b": 1, "c": 2}}}),
                Verdict::Changed,
            ),
            (
                json!({"command": "update", "courier_id": "7", "attributes": {"a": {"b": null}}}),
                Verdict::Changed,
            ),
            (
                json!({"command": "update", "courier_id": "7", "attributes": {"x": "y".repeat(4_090)}}),
                refused("attributes-too-large"),
            ),
            (
                json!({"command": "update", "courier_id": "7", "phone": null}),
                Verdict::Duplicate,
            ),
            (
                json!({"command": "delete", "courier_id": "7"}),
                Verdict::Changed,
            ),
            (
                json!({"command": "delete", "courier_id": "7"}),
                refused("deleted"),
            ),
            (
                json!({"command": "pickup", "courier_id": "7", "capacity": 20, "reference": "a"}),
                Verdict::Duplicate,
            ),
            (create, Verdict::Duplicate),
        ] {
            assert_eq!(apply(item.clone()), verdict, "{item}");
        }
        let courier = model.courier("7").unwrap();
        assert_eq!(
            (courier.available, courier.max, courier.version),
            (40, 40, 8)
        );
        assert!(courier.deleted);
    }
}
