//! The fake's couriers: a model of its own, and what it does wrong when asked to.

use std::collections::HashMap;

use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

/// What goes wrong; movements are counted from 1 in the order they arrive.
#[derive(Clone, Default, Debug)]
pub(crate) struct CourierFaults {
    /// This movement is refused with 422 though nothing is wrong with it.
    pub(crate) reject: Option<u64>,
    /// This one fails though nothing is wrong with it.
    pub(crate) fail: Option<u64>,
    /// This one takes effect twice.
    pub(crate) twice: Option<u64>,
    /// This one is persisted and has no effect.
    pub(crate) swallow: Option<u64>,
    /// The tracking id of this one is denied afterwards.
    pub(crate) lose: Option<u64>,
}

/// The couriers, and what became of commands.
#[derive(Default, Debug)]
pub(crate) struct Couriers {
    pub(crate) couriers: HashMap<String, Value>,
    /// Commands in the order they arrived.
    pub(crate) commands: Vec<Value>,
    references: HashMap<(String, String, String), Uuid>,
    outcomes: HashMap<Uuid, Value>,
    movements: u64,
}

/// A request to a route of its own as an item of `POST /v1/courier-commands`.
pub(crate) fn command(method: &Method, path: &str, mut item: Value) -> Value {
    let rest = path.trim_start_matches("/v1/courier");
    if rest == "-commands" {
        return item;
    }
    let mut parts = rest.trim_start_matches("s/").split('/');
    let word = match (method.as_str(), rest) {
        ("POST", "s") => {
            item["command"] = "create".into();
            return item;
        }
        ("PATCH", _) => "update",
        ("DELETE", _) => "delete",
        ("PUT", _) => "set_capacity",
        (_, path) if path.ends_with("/pickups") => "pickup",
        _ => "dropoff",
    };
    item["command"] = word.into();
    item["courier_id"] = parts.next().unwrap().into();
    item
}

impl Couriers {
    /// Takes a command in; the code of a refusal if it is none.
    pub(crate) fn take(
        &mut self,
        faults: &CourierFaults,
        command: &Value,
    ) -> Result<Uuid, &'static str> {
        let word = command["command"].as_str().ok_or("invalid")?;
        let id = match &command["courier_id"] {
            Value::String(id) => id.clone(),
            Value::Number(id) => id.to_string(),
            _ => return Err("invalid"),
        };
        let movement = matches!(word, "pickup" | "dropoff");
        if movement {
            let whole = command["capacity"].as_u64().is_some_and(|it| it > 0)
                && command["reference"]
                    .as_str()
                    .is_some_and(|it| !it.is_empty())
                && command["weight"].is_null();
            if !whole {
                return Err("invalid");
            }
            self.movements += 1;
        }
        let number = self.movements;
        let is = |fault: Option<u64>| movement && fault == Some(number);
        if is(faults.reject) {
            return Err("invalid");
        }
        let tracking_id = Uuid::now_v7();
        self.commands.push(command.clone());
        let outcome = if is(faults.fail) {
            Err("insufficient-capacity")
        } else if is(faults.swallow) {
            Ok(Some("updated"))
        } else {
            if is(faults.twice) {
                let mut again = command.clone();
                again["reference"] = "again".into();
                self.apply(&id, word, &again, tracking_id)?;
            }
            self.apply(&id, word, command, tracking_id)
        };
        if !is(faults.lose) {
            let answer = answer(tracking_id, &id, outcome);
            self.outcomes.insert(tracking_id, answer);
        }
        Ok(tracking_id)
    }

    /// What a look-up says.
    pub(crate) fn outcome(&self, tracking_id: Uuid) -> Option<Value> {
        self.outcomes.get(&tracking_id).cloned()
    }

    /// What `GET /v1/couriers/{id}` says.
    pub(crate) fn get(&self, id: &str) -> Option<&Value> {
        self.couriers.get(id).filter(|it| it["deleted"] != true)
    }

    /// The action, or nothing for a duplicate; or the failure's code.
    fn apply(
        &mut self,
        id: &str,
        word: &str,
        command: &Value,
        tracking_id: Uuid,
    ) -> Result<Option<&'static str>, &'static str> {
        if word == "create" {
            if let Some(courier) = self.couriers.get(id) {
                let same = courier["creation"] == *command;
                return if same { Ok(None) } else { Err("conflict") };
            }
            let mut courier = command.clone();
            if courier["available_capacity"].is_null() {
                courier["available_capacity"] = courier["max_capacity"].clone();
            }
            courier["creation"] = command.clone();
            courier["version"] = 1.into();
            self.couriers.insert(id.to_owned(), courier);
            return Ok(Some("created"));
        }
        let reference = command["reference"].as_str().unwrap_or_default();
        let key = (id.to_owned(), word.to_owned(), reference.to_owned());
        if self.references.contains_key(&key) {
            return Ok(None);
        }
        let courier = self.couriers.get_mut(id).ok_or("not-found")?;
        if courier["deleted"] == true {
            return Err("deleted");
        }
        let expected = &command["expected_version"];
        if !expected.is_null() && *expected != courier["version"] {
            return Err("stale-version");
        }
        let capacity = command["capacity"].as_i64().unwrap_or_default();
        let [max, available] =
            ["max_capacity", "available_capacity"].map(|name| courier[name].as_i64().unwrap());
        let mut action = "updated";
        match word {
            "pickup" if capacity > available => return Err("insufficient-capacity"),
            "pickup" => courier["available_capacity"] = (available - capacity).into(),
            "dropoff" if capacity > max - available => return Err("excess-dropoff"),
            "dropoff" => courier["available_capacity"] = (available + capacity).into(),
            "set_capacity" => courier["available_capacity"] = command["available_capacity"].clone(),
            "delete" => {
                courier["deleted"] = true.into();
                action = "deleted";
            }
            _ => {
                if let Some(max_after) = command["max_capacity"].as_i64() {
                    courier["available_capacity"] = (max_after - (max - available)).into();
                }
                for (name, value) in command.as_object().unwrap() {
                    courier[name] = value.clone();
                }
            }
        }
        if !reference.is_empty() {
            self.references.insert(key, tracking_id);
        }
        let courier = self.couriers.get_mut(id).unwrap();
        courier["version"] = (courier["version"].as_i64().unwrap() + 1).into();
        Ok(Some(action))
    }
}

fn answer(
    tracking_id: Uuid,
    id: &str,
    outcome: Result<Option<&'static str>, &'static str>,
) -> Value {
    let (status, action, code) = match outcome {
        Ok(Some(action)) => ("persisted", Some(action), None),
        Ok(None) => ("duplicate", None, None),
        Err(code) => ("failed", None, Some(code)),
    };
    json!({"tracking_id": tracking_id, "kind": "courier", "status": status,
        "accepted_at": "2026-01-01T00:00:00Z", "completed_at": "2026-01-01T00:00:00.250Z",
        "resource": {"id": id}, "action": action, "code": code, "detail": null,
        "duplicate_of": null, "delay_ms": 250})
}
