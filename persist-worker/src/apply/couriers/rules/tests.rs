use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use contract::courier::{CourierCapacity, CourierDelete};
use contract::event::{SCHEMA_VERSION, schema};
use contract::{CourierCommand, Record, TrackingId};
use jsonschema::Validator;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

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

/// What a command ended as, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Ended {
    Done(Action),
    Duplicate(Uuid),
    Failed(&'static str),
}

/// A courier in other terms than the rules': by what is in use, and by its whole history.
#[derive(Clone, Debug)]
struct Naive {
    name: String,
    max: i64,
    in_use: i64,
    texts: [Option<String>; 2],
    attributes: Option<Value>,
    creation: CourierCreate,
    /// The commands that changed it, its creation first.
    changed_by: Vec<Uuid>,
    deleted: bool,
}

#[derive(Default, Debug)]
struct Model {
    couriers: BTreeMap<String, Naive>,
    /// By courier, whether it is a pickup, and reference.
    movements: BTreeMap<(String, bool, String), (i64, Uuid)>,
}

impl Model {
    fn apply(&mut self, id: Uuid, expected: Option<i32>, sent: &CourierCommand) -> Ended {
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

fn texts() -> impl Strategy<Value = Option<String>> {
    proptest::option::of("[ab]")
}

fn patches() -> impl Strategy<Value = Option<TextPatch>> {
    proptest::option::of(texts().prop_map(|value| TextPatch { value }))
}

fn attributes(null: bool) -> impl Strategy<Value = Option<String>> {
    let value = prop_oneof![
        4 => (0..2).prop_map(Value::from),
        1 => Just(Value::from("x".repeat(1_400))),
        2 => Just(if null { Value::Null } else { Value::from(3) }),
    ];
    let object = proptest::collection::btree_map("[a-c]", value, 0..3)
        .prop_map(|members| Value::Object(members.into_iter().collect()).to_string());
    let whole = prop_oneof![
        6 => object,
        1 => Just(if null { "null" } else { "{}" }.to_owned()),
    ];
    proptest::option::of(whole)
}

fn commands() -> impl Strategy<Value = Command> {
    let create = (
        "[ab]",
        0..6,
        any::<bool>(),
        texts(),
        texts(),
        attributes(false),
    )
        .prop_map(
            |(name, max_capacity, all, vehicle_type, phone, attributes)| {
                Command::Create(CourierCreate {
                    name,
                    max_capacity,
                    available_capacity: (!all).then_some(max_capacity / 2),
                    vehicle_type,
                    phone,
                    attributes,
                })
            },
        );
    let capacity = || proptest::option::weighted(0.3, 0..8);
    let name = proptest::option::weighted(0.3, "[ab]");
    let update = (
        name,
        capacity(),
        capacity(),
        patches(),
        patches(),
        attributes(true),
    )
        .prop_map(
            |(name, max_capacity, available_capacity, vehicle_type, phone, attributes)| {
                Command::Update(CourierUpdate {
                    name,
                    max_capacity,
                    available_capacity,
                    vehicle_type,
                    phone,
                    attributes,
                })
            },
        );
    let movement = || {
        (1..4, "[r-u]").prop_map(|(capacity, reference)| CourierMovement {
            capacity,
            reference,
        })
    };
    let set = (0..8).prop_map(|available_capacity| {
        Command::SetCapacity(CourierCapacity { available_capacity })
    });
    prop_oneof![
        3 => create,
        6 => update,
        3 => set,
        6 => movement().prop_map(Command::Pickup),
        4 => movement().prop_map(Command::Dropoff),
        1 => Just(Command::Delete(CourierDelete {})),
    ]
}

fn sequences() -> impl Strategy<Value = Vec<(Option<i32>, CourierCommand)>> {
    let expected = proptest::option::weighted(0.15, 1..5);
    let one = (expected, "[12]", commands()).prop_map(|(expected, courier_id, command)| {
        let expected = match command {
            Command::Create(_) => None,
            _ => expected,
        };
        (
            expected,
            CourierCommand {
                courier_id,
                command,
            },
        )
    });
    proptest::collection::vec(one, 1..60)
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
