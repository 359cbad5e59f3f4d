//! A courier's members, and what the tests of commands share.

mod agreement;
mod commands;

use contract::Problem;
use contract::limits::ATTRIBUTES_BYTES_MAX;
use serde_json::json;

use super::super::{Body, Form as AnyForm, read, read_lines, read_one, reread};
use super::*;

const CREATE: AnyForm = AnyForm::Courier(Form::Create);
const COMMANDS: AnyForm = AnyForm::Courier(Form::Commands);

fn of(action: Action, if_match: Option<i32>) -> AnyForm {
    AnyForm::Courier(Form::Of {
        courier_id: "7".to_owned(),
        action,
        if_match,
    })
}

fn one(text: &str, form: &AnyForm) -> Result<(CourierCommand, Option<i32>), Refusal> {
    let item = match read(text.as_bytes(), form)? {
        Body::One(item) => item.map_err(|refusal| *refusal)?,
        Body::Many(_) => panic!("{text} is one item"),
    };
    assert_eq!(item.operation, Operation::Command);
    match item.record {
        Record::Courier(command) => Ok((command, item.expected_version)),
        Record::Ride(_) => panic!("{text} is no ride"),
    }
}

fn command(text: &str, form: &AnyForm) -> Command {
    match one(text, form) {
        Ok((command, _)) => command.command,
        Err(refusal) => panic!("{text}: {refusal:?}"),
    }
}

/// The pointers of an item's faults.
fn pointers(text: &str, form: &AnyForm) -> Vec<String> {
    let refusal = one(text, form).expect_err(text);
    assert_eq!(refusal.problem, Problem::Invalid, "{refusal:?}");
    assert!(refusal.detail.len() < 1_000, "{refusal:?}");
    refusal.faults.into_iter().map(|it| it.pointer).collect()
}

/// The smallest create, with one member changed or added by its JSON text.
fn with(name: &str, value: &str) -> String {
    let mut members = vec![
        ("courier_id", "\"c-1\""),
        ("name", "\"Anna\""),
        ("max_capacity", "100"),
    ];
    members.retain(|member| member.0 != name);
    if !value.is_empty() {
        members.push((name, value));
    }
    let members = members
        .iter()
        .map(|(name, value)| format!("{}:{value}", json!(name)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

fn full_create() -> CourierCreate {
    CourierCreate {
        name: "Anna Ü".to_owned(),
        max_capacity: 100,
        available_capacity: Some(0),
        vehicle_type: Some("cargo bike".to_owned()),
        phone: Some("+49 30 1".to_owned()),
        attributes: Some(r#"{"a":[1,null],"b":{}}"#.to_owned()),
    }
}

fn patch(value: Option<&str>) -> Option<TextPatch> {
    let value = value.map(str::to_owned);
    Some(TextPatch { value })
}

#[test]
fn every_member_of_a_create_is_read_in_either_spelling() {
    let snake = r#"{"courier_id":7,"name":"Anna \u00dc","max_capacity":100,"available_capacity":0,
        "vehicle_type":"cargo bike","phone":"+49 30 1","attributes":{"b":{}, "a":[1,null]}}"#;
    let camel = snake
        .replace("max_capacity", "maxCapacity")
        .replace("available_capacity", "availableCapacity")
        .replace("vehicle_type", "vehicleType");
    for text in [
        snake.to_owned(),
        camel.replace("courier_id", "courierId"),
        camel.replace("courier_id", "courierID"),
    ] {
        let (created, condition) = one(&text, &CREATE).unwrap();
        assert_eq!(created.courier_id, "7");
        assert_eq!(created.command, Command::Create(full_create()));
        assert_eq!(condition, None);
    }
    let minimal = CourierCreate {
        name: "Anna".to_owned(),
        max_capacity: 100,
        ..CourierCreate::default()
    };
    for name in [
        "name",
        "available_capacity",
        "vehicle_type",
        "phone",
        "attributes",
    ] {
        let value = if name == "name" { "\"Anna\"" } else { "null" };
        assert_eq!(
            command(&with(name, value), &CREATE),
            Command::Create(minimal.clone())
        );
    }
}

#[test]
fn ids_are_texts_and_integers_are_their_digits() {
    let longest = "🚲".repeat(64);
    for (value, id) in [
        ("7", "7"),
        ("\"7\"", "7"),
        ("-7", "-7"),
        ("0", "0"),
        ("\"07\"", "07"),
        ("9223372036854775807", "9223372036854775807"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("\"a/b %\"", "a/b %"),
        (&format!("\"{longest}\""), &longest),
    ] {
        let (created, _) = one(&with("courier_id", value), &CREATE).unwrap();
        assert_eq!(created.courier_id, id, "{value}");
    }
}

#[test]
fn values_that_no_create_can_have() {
    let long = |characters: usize| format!("\"{}\"", "ü".repeat(characters));
    for (name, value) in [
        ("courier_id", ""),
        ("courier_id", "null"),
        ("courier_id", "\"\""),
        ("courier_id", "7.0"),
        ("courier_id", "9223372036854775808"),
        ("courier_id", "18446744073709551616"),
        ("courier_id", "true"),
        ("courier_id", "[7]"),
        ("courier_id", "\"a\\u0000\""),
        ("courier_id", "\"a\\n\""),
        ("courier_id", "\"\\u0085\""),
        ("courier_id", "\"\\ud800\""),
        ("courier_id", &long(65)),
        ("name", ""),
        ("name", "null"),
        ("name", "\"\""),
        ("name", "1"),
        ("name", "{}"),
        ("name", "\"\\u0000\""),
        ("name", "\"\\u001f\""),
        ("name", "\"\\udc00\""),
        ("name", &long(201)),
        ("name", &long(100_000)),
        ("max_capacity", ""),
        ("max_capacity", "null"),
        ("max_capacity", "-1"),
        ("max_capacity", "2147483648"),
        ("max_capacity", "9223372036854775808"),
        ("max_capacity", "18446744073709551616"),
        ("max_capacity", "-9223372036854775809"),
        ("max_capacity", "1e999"),
        ("max_capacity", "1.0"),
        ("max_capacity", "1e2"),
        ("max_capacity", "\"100\""),
        ("max_capacity", "true"),
        ("available_capacity", "-1"),
        ("available_capacity", "101"),
        ("available_capacity", "0.5"),
        ("available_capacity", "\"1\""),
        ("availableCapacity", "101"),
        ("vehicle_type", "1"),
        ("vehicle_type", "\"\""),
        ("vehicle_type", "\"\\u0000\""),
        ("vehicle_type", &long(65)),
        ("phone", "4930"),
        ("phone", "\"\""),
        ("phone", "\"1\\t2\""),
        ("phone", &long(33)),
        ("attributes", "1"),
        ("attributes", "\"{}\""),
        ("attributes", "[]"),
        ("attributes", "true"),
        ("attributes", "{\"a\":1e999}"),
        ("attributes", "{\"a\":\"\\ud800\"}"),
        // What is not a create's.
        ("expected_version", "1"),
        ("expectedVersion", "null"),
        ("capacity", "1"),
        ("reference", "\"r\""),
        ("command", "\"create\""),
        ("id", "7"),
        ("Name", "\"Anna\""),
        ("", "1"),
        ("a/b~", "1e999"),
    ] {
        let expected = match name {
            "a/b~" => "/a~1b~0".to_owned(),
            name => format!("/{name}"),
        };
        assert_eq!(
            pointers(&with(name, value), &CREATE),
            [expected],
            "{name}: {value:.100}"
        );
    }
    assert_eq!(one(&with("name", &long(200)), &CREATE).err(), None);
    for bound in ["0", "2147483647"] {
        assert_eq!(one(&with("max_capacity", bound), &CREATE).err(), None);
    }
    assert_eq!(one(&with("available_capacity", "100"), &CREATE).err(), None);
}

#[test]
fn every_fault_is_told_at_once() {
    let text = r#"{"courierID":"","maxCapacity":-1,"available_capacity":"x","vehicle_type":1,
        "phone":"\u0000","attributes":{"a":"\u0000"},"capacity":1,"surname":"B","age":1e999}"#;
    assert_eq!(
        pointers(text, &CREATE),
        [
            "/age",
            "/courierID",
            "/name",
            "/maxCapacity",
            "/available_capacity",
            "/vehicle_type",
            "/phone",
            "/attributes/a",
            "/capacity",
            "/surname",
        ]
    );
    assert_eq!(
        pointers("{}", &CREATE),
        ["/courier_id", "/name", "/max_capacity"]
    );
}

#[test]
fn a_member_stands_once_in_whatever_spelling() {
    for (text, pointer) in [
        (with("name", r#""a","name":"b""#), "/name"),
        (with("maxCapacity", "1"), "/maxCapacity"),
        (with("courierId", "1"), "/courierId"),
        (with("phone", r#""1","phone":null"#), "/phone"),
        (
            with("attributes", r#"{"x":{"y":1,"y":1}}"#),
            "/attributes/x/y",
        ),
        (with("attributes", r#"{"x":1,"\u0078":1}"#), "/attributes/x"),
    ] {
        assert_eq!(pointers(&text, &CREATE), [pointer], "{text}");
    }
    let slow = with("name", r#"1e999,"name":"b""#);
    assert_eq!(pointers(&slow, &CREATE), ["/name", "/name"]);
}

#[test]
fn attributes_are_canonical_and_bounded() {
    let stored = |value: &str| match command(&with("attributes", value), &CREATE) {
        Command::Create(create) => create.attributes,
        other => panic!("{other:?}"),
    };
    assert_eq!(stored("{}").as_deref(), Some("{}"));
    assert_eq!(
        stored(r#" { "b" : [ -0.0 , 1E2 ] , "a" : {"d":null,"c":"\u00fc\n"} } "#).as_deref(),
        Some(r#"{"a":{"c":"ü\n","d":null},"b":[0.0,100.0]}"#)
    );
    let of_size = |bytes: usize| format!(r#"{{"x":"{}"}}"#, "y".repeat(bytes - 8));
    assert_eq!(
        stored(&of_size(ATTRIBUTES_BYTES_MAX)).map(|it| it.len()),
        Some(ATTRIBUTES_BYTES_MAX)
    );
    for bytes in [ATTRIBUTES_BYTES_MAX + 1, 5 * 1024, 1024 * 1024] {
        let text = with("attributes", &of_size(bytes));
        assert_eq!(pointers(&text, &CREATE), ["/attributes"], "{bytes}");
    }
    // The object of the attributes is the first level.
    let of_depth = |depth: usize| {
        let inner = "[".repeat(depth - 1) + &"]".repeat(depth - 1);
        with("attributes", &format!(r#"{{"x":{{"y":{inner}}}}}"#))
    };
    assert_eq!(one(&of_depth(7), &CREATE).err(), None);
    assert_eq!(pointers(&of_depth(8), &CREATE), ["/attributes/x"]);
    assert_eq!(pointers(&of_depth(900), &CREATE), ["/attributes/x"]);
}

#[test]
fn every_member_has_its_place_and_is_known_by_its_name() {
    for (place, (field, name)) in FIELDS.into_iter().enumerate() {
        assert_eq!(field as usize, place);
        assert_eq!(Field::of(name), Some(field));
    }
}
