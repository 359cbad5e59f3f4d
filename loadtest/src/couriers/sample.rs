//! The recorded commands in the repository: made up, valid in their order but for two.

use serde_json::{Value, json};

use super::model::{Model, Verdict};
use crate::rides::Dice;

const COURIERS: u64 = 20;
const COMMANDS: u64 = 300;
/// The lines that must fail, from 1, and how: a van loaded beyond what it has left, and a change
/// that was decided on by looking at a version long gone.
pub const SAMPLE_FAILURES: [(usize, &str); 2] =
    [(120, "insufficient-capacity"), (240, "stale-version")];

const VEHICLES: [(&str, u64); 4] = [
    ("bicycle", 40),
    ("scooter", 80),
    ("van", 600),
    ("truck", 2_400),
];
const NAMES: [&str; 20] = [
    "Anil", "Bhavna", "Cyrus", "Deepa", "Ezra", "Fatima", "Girish", "Harini", "Imran", "Jyoti",
    "Kiran", "Leela", "Manoj", "Nisha", "Omkar", "Priya", "Rahul", "Sunita", "Tara", "Varun",
];

/// 300 commands to 20 couriers, one JSON object a line: all are created first, then they are out
/// and about, and one leaves at the end.
#[must_use]
pub fn sample_ndjson() -> String {
    let mut model = Model::default();
    let mut dice = Dice::new(2013);
    let mut text = String::new();
    for number in 0..COMMANDS {
        let line = usize::try_from(number + 1).expect("few lines");
        let failure = SAMPLE_FAILURES.iter().find(|(at, _)| *at == line);
        let item = match (number, failure) {
            (0..COURIERS, _) => creation(number, &mut dice),
            (_, Some((_, "stale-version"))) => json!({"command": "update",
                "courier_id": id(1), "vehicle_type": "truck", "expected_version": 1}),
            (_, Some(_)) => json!({"command": "pickup", "courier_id": id(2),
                "capacity": 5_000, "reference": format!("order-{line}")}),
            (number, None) if number + 1 == COMMANDS => {
                json!({"command": "delete", "courier_id": id(COURIERS)})
            }
            _ => loop {
                // What would fail or change nothing is thrown again.
                let item = change(line, &model, &mut dice);
                if model.clone().apply(&item) == Verdict::Changed {
                    break item;
                }
            },
        };
        model.apply(&item);
        text.push_str(&item.to_string());
        text.push('\n');
    }
    text
}

fn id(number: u64) -> String {
    format!("blr-{number:03}")
}

fn creation(number: u64, dice: &mut Dice) -> Value {
    let at = |length: usize| usize::try_from(number).expect("few couriers") % length;
    let (vehicle, max) = VEHICLES[at(VEHICLES.len())];
    let mut item = json!({"command": "create", "courier_id": id(number + 1),
        "name": NAMES[at(NAMES.len())], "max_capacity": max, "vehicle_type": vehicle});
    if dice.percent(50.0) {
        item["phone"] = format!("+91 80 5550 {:04}", dice.below(10_000)).into();
    }
    if dice.percent(30.0) {
        item["attributes"] = json!({"depot": (["north", "south"][at(2)])});
    }
    item
}

fn change(line: usize, model: &Model, dice: &mut Dice) -> Value {
    let id = id(1 + dice.below(COURIERS));
    let courier = model.courier(&id).expect("all were created");
    let reference = format!("order-{line}");
    let below = |dice: &mut Dice, bound: i64| dice.below(u64::try_from(bound).unwrap_or(0).max(1));
    match dice.below(100) {
        0..48 => {
            let capacity = 1 + below(dice, courier.available.min(courier.max / 3));
            json!({"command": "pickup", "courier_id": id, "capacity": capacity,
                "reference": reference})
        }
        48..88 => {
            let capacity = 1 + below(dice, courier.max - courier.available);
            json!({"command": "dropoff", "courier_id": id, "capacity": capacity,
                "reference": reference})
        }
        88..92 => {
            let shift = ["early", "late"][usize::from(dice.percent(50.0))];
            json!({"command": "update", "courier_id": id, "attributes": {"shift": shift}})
        }
        92..95 => json!({"command": "update", "courier_id": id, "max_capacity": courier.max + 20}),
        95..98 => json!({"command": "set_capacity", "courier_id": id,
            "available_capacity": courier.max}),
        _ => json!({"command": "update", "courier_id": id, "name": format!("{} R.", courier.name),
            "expected_version": courier.version}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_in_the_repository_is_the_generators() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/samples/courier-commands.ndjson"
        );
        let committed = std::fs::read_to_string(path).unwrap();
        assert_eq!(committed, sample_ndjson());
    }

    #[test]
    fn two_commands_of_the_sample_fail_and_the_others_change_something() {
        let mut model = Model::default();
        let text = sample_ndjson();
        let mut failures = Vec::new();
        for (at, line) in text.lines().enumerate() {
            match model.apply(&serde_json::from_str(line).unwrap()) {
                Verdict::Changed => {}
                Verdict::Refused(code) => failures.push((at + 1, code)),
                Verdict::Duplicate => panic!("{line}"),
            }
        }
        assert_eq!(failures, SAMPLE_FAILURES);
        assert_eq!(text.lines().count(), 300);
        assert!(model.courier("blr-020").unwrap().deleted);
    }
}
