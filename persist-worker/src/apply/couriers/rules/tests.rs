use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use contract::courier::{CourierCapacity, CourierDelete};
use contract::event::{SCHEMA_VERSION, schema};
use contract::{CourierCommand, Record, TrackingId};
use jsonschema::Validator;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

use model::{Ended, Model};
use sequences::sequences;

mod model;
mod sequences;

static SCHEMAS: LazyLock<HashMap<&str, Validator>> = LazyLock::new(|| {
    let named = Event::NAMES.into_iter().chain(["envelope"]);
    let compiled = named.map(|name| {
        let schema = serde_json::from_str(schema(name, SCHEMA_VERSION).unwrap()).unwrap();
        let options = jsonschema::options().should_validate_formats(true);
        (name, options.build(&schema).unwrap())
    });
    compiled.collect()
});

fn assert_follows_its_schema(event: &Event, document: &str) {
    let document: Value = serde_json::from_str(document).unwrap();
    for (name, part) in [("envelope", &document), (event.name(), &document["data"])] {
        let found: Vec<_> = SCHEMAS[name].iter_errors(part).collect();
        assert!(found.is_empty(), "{name}: {found:?} in {document}");
    }
}

fn tracking_id(number: u128) -> Uuid {
    Uuid::from_u128(1_700_000_000_000 << 80 | 0x7 << 76 | 0b10 << 62 | number << 24)
}

/// The rules, with what a worker keeps for them.
#[derive(Default)]
struct Ruled {
    couriers: BTreeMap<String, State>,
    created_by: BTreeMap<String, CourierCommand>,
    movements: HashMap<(String, bool, String), Movement>,
    /// Where the chain of capacity events stands.
    told: BTreeMap<String, i32>,
}

impl Ruled {
    fn apply(&mut self, id: Uuid, expected: Option<i32>, sent: &CourierCommand) -> Ended {
        let name = &sent.courier_id;
        let reference = match &sent.command {
            Command::Pickup(it) => Some((name.clone(), true, it.reference.clone())),
            Command::Dropoff(it) => Some((name.clone(), false, it.reference.clone())),
            _ => None,
        };
        let earlier = reference.as_ref().and_then(|it| self.movements.get(it));
        let given = Given {
            courier_id: name,
            command: &sent.command,
            tracking_id: id,
            hash: ContentHash::of(&Record::Courier(sent.clone())),
            expected_version: expected,
            repeats_creation: self.created_by.get(name) == Some(sent),
            earlier: earlier.copied(),
        };
        let before = self.couriers.get(name).cloned();
        let (after, events, action) = match apply(before.as_ref(), &given) {
            Err(rejection) => return Ended::Failed(rejection.code().code()),
            Ok(Effect::Duplicate(of)) => return Ended::Duplicate(of),
            Ok(Effect::Changed {
                after,
                events,
                action,
            }) => (after, events, action),
        };
        assert_eq!(
            after.version,
            before.as_ref().map_or(0, |it| it.version) + 1
        );
        assert_eq!(after.tracking_id, id);
        assert!(0 <= after.available_capacity && after.available_capacity <= after.max_capacity);
        self.listen(&after, &events, id);
        if before.is_none() {
            self.created_by.insert(name.clone(), sent.clone());
        }
        if let (Some(key), Command::Pickup(it) | Command::Dropoff(it)) = (reference, &sent.command)
        {
            let movement = Movement {
                capacity: it.capacity,
                tracking_id: id,
            };
            assert_eq!(self.movements.insert(key, movement), None);
        }
        self.couriers.insert(name.clone(), after);
        Ended::Done(action)
    }

    /// Believes the events, and nothing but the events.
    fn listen(&mut self, after: &State, events: &[Event], id: Uuid) {
        assert!((1..=2).contains(&events.len()), "{events:?}");
        let tracking_id = TrackingId::from_uuid(id).unwrap();
        for (n, event) in (0..).zip(events) {
            assert_follows_its_schema(event, &event.document(7, tracking_id, n));
            let (courier_id, version) = match event {
                Event::CourierCapacityUpdated(change) => {
                    assert_eq!(self.told[&change.courier_id], change.previous);
                    assert_ne!(change.previous, change.new);
                    self.told.insert(change.courier_id.clone(), change.new);
                    (&change.courier_id, change.version)
                }
                Event::CourierCreated(it) => {
                    let first = (it.courier_id.clone(), it.available_capacity);
                    assert_eq!(self.told.insert(first.0, first.1), None);
                    (&it.courier_id, it.version)
                }
                Event::CourierUpdated(it) | Event::CourierDeleted(it) => {
                    assert_eq!(it.max_capacity, after.max_capacity);
                    (&it.courier_id, it.version)
                }
                Event::RideCreated(_) | Event::RideReplaced(_) => panic!("of a courier"),
            };
            assert_eq!(version, after.version);
            if n == 1 {
                assert_eq!(event.name(), "courier_capacity_updated");
                assert_eq!(events[0].name(), "courier_updated");
            }
            if n as usize + 1 == events.len() {
                assert_eq!(self.told[courier_id], after.available_capacity);
            }
        }
    }
}

proptest! {
    #[test]
    fn any_sequence_of_commands_ends_as_a_naive_model_says(sequence in sequences()) {
        let (mut model, mut ruled) = (Model::default(), Ruled::default());
        for (number, (expected, sent)) in (1..).zip(&sequence) {
            let id = tracking_id(number);
            let before = ruled.couriers.get(&sent.courier_id).cloned();
            let by_model = model.apply(id, *expected, sent);
            let by_rules = ruled.apply(id, *expected, sent);
            prop_assert_eq!(&by_rules, &by_model, "{:?} on {:?}", sent, before);
            let after = ruled.couriers.get(&sent.courier_id);
            if !matches!(by_rules, Ended::Done(_)) {
                prop_assert_eq!(before.as_ref(), after);
            }
            let Some(after) = after else { continue };
            let naive = &model.couriers[&sent.courier_id];
            let attributes = after.profile.attributes.as_deref();
            let attributes = attributes.map(|it| serde_json::from_str::<Value>(it).unwrap());
            prop_assert_eq!(&after.profile.name, &naive.name);
            prop_assert_eq!(&attributes, &naive.attributes);
            prop_assert_eq!(&after.profile.vehicle_type, &naive.texts[0]);
            prop_assert_eq!(&after.profile.phone, &naive.texts[1]);
            let available = i64::from(after.available_capacity);
            prop_assert_eq!((i64::from(after.max_capacity), available), (naive.max, naive.max - naive.in_use));
            prop_assert_eq!(after.version as usize, naive.changed_by.len());
            prop_assert_eq!(Some(&after.tracking_id), naive.changed_by.last());
            prop_assert_eq!(after.created_by, naive.changed_by[0]);
            prop_assert_eq!(after.deleted, naive.deleted);
        }
    }
}

fn courier(max_capacity: i32, available_capacity: i32) -> State {
    State {
        profile: Arc::new(Profile {
            name: "Ada".to_owned(),
            vehicle_type: None,
            phone: None,
            attributes: None,
        }),
        max_capacity,
        available_capacity,
        tracking_id: tracking_id(9),
        created_by: tracking_id(1),
        created_hash: ContentHash::from_stored(1),
        version: 4,
        deleted: false,
    }
}

/// A rejection's sentence.
fn sentence(state: &State, expected_version: Option<i32>, command: Command) -> String {
    let record = CourierCommand {
        courier_id: "c-1".to_owned(),
        command,
    };
    let given = Given {
        courier_id: "c-1",
        command: &record.command,
        tracking_id: tracking_id(10),
        hash: ContentHash::from_stored(2),
        expected_version,
        repeats_creation: false,
        earlier: None,
    };
    let rejection = apply(Some(state), &given).unwrap_err();
    rejection.sentence(&contract::Entry {
        tracking_id: TrackingId::from_uuid(tracking_id(10)).unwrap(),
        partner_id: 1,
        operation: contract::Operation::Command,
        expected_version,
        record: Record::Courier(record.clone()),
    })
}

#[test]
fn a_sentence_names_both_numbers() {
    let movement = |capacity| CourierMovement {
        capacity,
        reference: "r".to_owned(),
    };
    let update = |max_capacity, available_capacity| {
        Command::Update(CourierUpdate {
            max_capacity,
            available_capacity,
            ..CourierUpdate::default()
        })
    };
    let state = courier(60, 45);
    for (expected_version, command, numbers) in [
        (Some(3), Command::Delete(CourierDelete {}), ["3", "4"]),
        (
            None,
            Command::Pickup(movement(46)),
            ["46 litres", "45 litres"],
        ),
        (
            None,
            Command::Dropoff(movement(16)),
            ["16 litres", "15 litres"],
        ),
        (None, update(Some(14), None), ["14 litres", "15 litres"]),
        (None, update(None, Some(61)), ["61 litres", "60 litres"]),
        (None, update(Some(7), Some(8)), ["8 litres", "7 litres"]),
        (
            None,
            Command::SetCapacity(CourierCapacity {
                available_capacity: 61,
            }),
            ["61 litres", "60 litres"],
        ),
        (
            None,
            Command::Update(CourierUpdate {
                attributes: Some(format!(r#"{{"a":"{}"}}"#, "x".repeat(4_089))),
                ..CourierUpdate::default()
            }),
            ["4097 bytes", "4096"],
        ),
    ] {
        let sentence = sentence(&state, expected_version, command);
        assert!(sentence.contains("courier c-1"), "{sentence}");
        for number in numbers {
            assert!(sentence.contains(number), "{sentence}");
        }
    }
}

#[test]
fn capacities_reach_the_ends_of_their_range() {
    let state = courier(i32::MAX, 0);
    let given = |command| Given {
        courier_id: "c-1",
        command,
        tracking_id: tracking_id(10),
        hash: ContentHash::from_stored(2),
        expected_version: Some(4),
        repeats_creation: false,
        earlier: None,
    };
    let all = Command::Dropoff(CourierMovement {
        capacity: i32::MAX,
        reference: "r".to_owned(),
    });
    let Ok(Effect::Changed { after, events, .. }) = apply(Some(&state), &given(&all)) else {
        panic!("it fits");
    };
    assert_eq!(after.available_capacity, i32::MAX);
    let document = events[0].document(1, TrackingId::from_uuid(after.tracking_id).unwrap(), 0);
    assert!(
        document.contains(r#""difference":2147483647"#),
        "{document}"
    );
    let smaller = Command::Update(CourierUpdate {
        max_capacity: Some(0),
        ..CourierUpdate::default()
    });
    let rejection = apply(Some(&state), &given(&smaller)).unwrap_err();
    let in_use = i32::MAX;
    assert_eq!(rejection, Rejection::CapacityInUse { max: 0, in_use });
}
