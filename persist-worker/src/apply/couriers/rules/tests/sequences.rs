//! Sequences of commands to two couriers, so that they meet.

use super::*;

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

pub(super) fn sequences() -> impl Strategy<Value = Vec<(Option<i32>, CourierCommand)>> {
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
