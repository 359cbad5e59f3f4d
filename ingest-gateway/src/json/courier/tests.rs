use contract::Problem;
use contract::limits::ATTRIBUTES_BYTES_MAX;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::tests::{json_text, nearly_json};
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
fn a_patch_tells_what_is_absent_from_what_is_removed() {
    let form = of(Action::Update, None);
    let patched = |text: &str| command(text, &form);
    assert_eq!(patched("{}"), Command::Update(CourierUpdate::default()));
    assert_eq!(
        patched(
            r#"{"vehicleType":null,"phone":"1","attributes":{"b":null,"a":{"c":null}},
                "name":"B","max_capacity":0,"availableCapacity":0,"courier_id":7}"#
        ),
        Command::Update(CourierUpdate {
            name: Some("B".to_owned()),
            max_capacity: Some(0),
            available_capacity: Some(0),
            vehicle_type: patch(None),
            phone: patch(Some("1")),
            attributes: Some(r#"{"a":{"c":null},"b":null}"#.to_owned()),
        })
    );
    let removed = patched(r#"{"attributes":null}"#);
    let null = Some("null".to_owned());
    assert_eq!(
        removed,
        Command::Update(CourierUpdate {
            attributes: null,
            ..CourierUpdate::default()
        })
    );
    for (text, pointer) in [
        (r#"{"name":null}"#, "/name"),
        (r#"{"max_capacity":null}"#, "/max_capacity"),
        (r#"{"availableCapacity":null}"#, "/availableCapacity"),
        (r#"{"phone":""}"#, "/phone"),
        (r#"{"vehicle_type":7}"#, "/vehicle_type"),
        (r#"{"attributes":[]}"#, "/attributes"),
        (
            r#"{"max_capacity":1,"available_capacity":2}"#,
            "/available_capacity",
        ),
        (r#"{"courier_id":"8"}"#, "/courier_id"),
        (r#"{"courierId":null}"#, "/courierId"),
        (r#"{"courier_id":7.0}"#, "/courier_id"),
        (r#"{"capacity":1}"#, "/capacity"),
        (r#"{"command":"update"}"#, "/command"),
        (r#"{"note":1}"#, "/note"),
        ("[]", ""),
        ("null", ""),
    ] {
        let refusal = read_one(text.as_bytes(), &form).expect_err(text);
        let found: Vec<_> = refusal.faults.iter().map(|it| &it.pointer).collect();
        assert_eq!(found, [pointer], "{text}");
    }
}

#[test]
fn capacities_movements_and_deletions() {
    for (action, text, expected) in [
        (
            Action::SetCapacity,
            r#"{"availableCapacity":0}"#,
            Command::SetCapacity(CourierCapacity {
                available_capacity: 0,
            }),
        ),
        (
            Action::Pickup,
            r#"{"capacity":1,"reference":"r 1"}"#,
            Command::Pickup(CourierMovement {
                capacity: 1,
                reference: "r 1".to_owned(),
            }),
        ),
        (
            Action::Dropoff,
            r#"{"reference":"r","capacity":2147483647,"courier_id":"7"}"#,
            Command::Dropoff(CourierMovement {
                capacity: i32::MAX,
                reference: "r".to_owned(),
            }),
        ),
        (Action::Delete, "{}", Command::Delete(CourierDelete {})),
        (Action::Delete, "", Command::Delete(CourierDelete {})),
        (Action::Delete, " \r\n", Command::Delete(CourierDelete {})),
    ] {
        assert_eq!(command(text, &of(action, None)), expected, "{text}");
    }
    let long = "x".repeat(129);
    for (action, text, expected) in [
        (Action::SetCapacity, "{}", &["/available_capacity"][..]),
        (
            Action::SetCapacity,
            r#"{"available_capacity":null}"#,
            &["/available_capacity"],
        ),
        (
            Action::SetCapacity,
            r#"{"available_capacity":1,"max_capacity":2}"#,
            &["/max_capacity"],
        ),
        (Action::Pickup, "{}", &["/capacity", "/reference"]),
        (
            Action::Pickup,
            r#"{"capacity":0,"reference":""}"#,
            &["/capacity", "/reference"],
        ),
        (
            Action::Dropoff,
            r#"{"capacity":-1,"reference":7}"#,
            &["/capacity", "/reference"],
        ),
        (
            Action::Dropoff,
            r#"{"capacity":2147483648,"reference":null}"#,
            &["/capacity", "/reference"],
        ),
        (
            Action::Dropoff,
            &format!(r#"{{"capacity":1,"reference":"{long}"}}"#),
            &["/reference"],
        ),
        (
            Action::Pickup,
            r#"{"capacity":1,"reference":"a\u0000"}"#,
            &["/reference"],
        ),
        (Action::Delete, r#"{"reference":"r"}"#, &["/reference"]),
        (Action::Delete, "[]", &[""]),
        (Action::Delete, "null", &[""]),
    ] {
        let refusal = read_one(text.as_bytes(), &of(action, None)).expect_err(text);
        let found: Vec<_> = refusal.faults.iter().map(|it| &it.pointer[..]).collect();
        assert_eq!(found, expected, "{text}");
    }
    for action in Action::ALL {
        let empty = read_one(b"", &of(action, None)).map_err(|it| it.problem);
        let allowed = action == Action::Delete;
        assert_eq!(empty.err(), (!allowed).then_some(Problem::Empty));
    }
}

#[test]
fn the_condition_stands_in_the_header_or_in_the_body() {
    let version = |text: &str, if_match| {
        one(text, &of(Action::Delete, if_match)).map(|(_, condition)| condition)
    };
    assert_eq!(version("", None), Ok(None));
    assert_eq!(version("", Some(3)), Ok(Some(3)));
    for name in ["expected_version", "expectedVersion"] {
        for if_match in [None, Some(3)] {
            let text = format!(r#"{{"{name}":3}}"#);
            assert_eq!(version(&text, if_match), Ok(Some(3)));
        }
        for value in ["0", "-1", "2147483648", "1.0", "\"3\"", "null", "1e999"] {
            let text = format!(r#"{{"{name}":{value}}}"#);
            for if_match in [None, Some(3)] {
                let found = pointers(&text, &of(Action::Delete, if_match));
                assert_eq!(found, [format!("/{name}")], "{value}");
            }
        }
        let text = format!(r#"{{"{name}":4}}"#);
        let refusal = version(&text, Some(3)).unwrap_err();
        assert!(refusal.detail.contains('4') && refusal.detail.contains('3'));
    }
}

#[test]
fn a_burst_names_its_commands() {
    let text = r#"[
        {"command":"create","courier_id":1,"name":"A","max_capacity":5},
        {"command":"update","courierId":"1","phone":null,"expectedVersion":1},
        {"command":"set_capacity","courier_id":"1","available_capacity":4},
        {"command":"pickup","courier_id":1,"capacity":2,"reference":"r"},
        {"command":"dropoff","courier_id":1,"capacity":2,"reference":"r","expected_version":4},
        {"command":"delete","courier_id":1}]"#;
    let Ok(Body::Many(items)) = read(text.as_bytes(), &COMMANDS) else {
        panic!("an array");
    };
    let found: Vec<_> = items
        .into_iter()
        .map(|item| match item.expect("good") {
            Item {
                record: Record::Courier(command),
                expected_version,
                ..
            } => (command.word(), command.courier_id, expected_version),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [None, Some(1), None, None, Some(4), None];
    let expected: Vec<_> = Action::ALL
        .into_iter()
        .zip(expected)
        .map(|(action, version)| (action.word(), "1".to_owned(), version))
        .collect();
    assert_eq!(found, expected);
    for (text, expected) in [
        ("{}", &["/command", "/courier_id"][..]),
        (r#"{"command":"Create","courier_id":1}"#, &["/command"]),
        (r#"{"command":null,"courier_id":1}"#, &["/command"]),
        (
            r#"{"command":7,"courier_id":1,"note":1}"#,
            &["/command", "/note"],
        ),
        (
            r#"{"command":"delete","courier_id":1,"command":"delete"}"#,
            &["/command"],
        ),
        (r#"{"command":"delete"}"#, &["/courier_id"]),
        (
            r#"{"command":"pickup","courier_id":1,"available_capacity":1}"#,
            &["/capacity", "/reference", "/available_capacity"],
        ),
        (
            r#"{"command":"create","courier_id":1,"name":"A","max_capacity":5,"expected_version":1}"#,
            &["/expected_version"],
        ),
        (r#"{"command":"\ud800","courier_id":1}"#, &["/command"]),
        ("7", &[""]),
    ] {
        assert_eq!(pointers(text, &COMMANDS), expected, "{text}");
    }
}

#[test]
fn a_bad_item_never_harms_its_neighbours() {
    let good = with("courier_id", "7");
    for bad in [
        "1".to_owned(),
        "{}".to_owned(),
        with("name", r#""\ud800""#),
        with("max_capacity", "1e999"),
        with("max_capacity", "99999999999999999999"),
        with("attributes", r#"{"a":"\u0000"}"#),
        with("note", "1"),
    ] {
        let Ok(Body::Many(items)) = read(format!("[{bad},{good},{bad}]").as_bytes(), &CREATE)
        else {
            panic!("an array");
        };
        let good_ones: Vec<_> = items.iter().map(Result::is_ok).collect();
        assert_eq!(good_ones, [false, true, false], "{bad}");
    }
    let text = format!("{good}\n\n{{\n{good}\r\n{}", with("name", r#""\ud800""#));
    let items = read_lines(text.as_bytes(), &CREATE).unwrap();
    let problems: Vec<_> = items
        .into_iter()
        .map(|item| item.err().map(|refusal| refusal.problem))
        .collect();
    let (bad, malformed) = (Some(Problem::Invalid), Some(Problem::Malformed));
    assert_eq!(problems, [None, malformed, None, bad]);
}

#[test]
fn every_member_has_its_place_and_is_known_by_its_name() {
    for (place, (field, name)) in FIELDS.into_iter().enumerate() {
        assert_eq!(field as usize, place);
        assert_eq!(Field::of(name), Some(field));
    }
}

/// Items that are commands or nearly.
fn nearly_commands() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        prop::sample::select(vec![
            "1",
            "\"7\"",
            "null",
            "-1",
            "1e999",
            "\"\\ud800\"",
            "\"\\u0000\"",
            "{}",
            "{\"a\":null}",
            "\"pickup\"",
            "\"update\"",
            "\"create\"",
        ])
        .prop_map(str::to_owned),
        json_text(),
    ];
    let names = FIELDS.map(|(_, name)| name);
    let name = prop_oneof![
        9 => prop::sample::select(names.to_vec()),
        1 => prop::sample::select(vec!["courierId", "maxCapacity", "note", "a\\u0000"]),
    ];
    prop::collection::vec((name, value), 0..8).prop_map(|members| {
        let members = members
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value}"));
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    })
}

fn forms() -> impl Strategy<Value = AnyForm> {
    let of = (0..Action::ALL.len(), proptest::option::of(1..3_i32))
        .prop_map(|(index, if_match)| of(Action::ALL[index], if_match));
    prop_oneof![Just(CREATE), Just(COMMANDS), of]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Every item ends as a record that holds what the contract promises, or in faults.
    #[test]
    fn any_json_gives_one_answer(
        text in prop_oneof![nearly_commands(), json_text(), nearly_json()],
        form in forms(),
    ) {
        let items = match read(text.as_bytes(), &form) {
            Ok(Body::One(item)) => vec![item],
            Ok(Body::Many(items)) => items,
            Err(_) => return Ok(()),
        };
        for item in items {
            match item {
                Ok(item) => {
                    let Record::Courier(command) = &item.record else {
                        panic!("a courier's");
                    };
                    prop_assert!((1..=64).contains(&command.courier_id.chars().count()));
                    prop_assert!(!command.courier_id.chars().any(char::is_control));
                    prop_assert!(item.expected_version.is_none_or(|version| version >= 1));
                    let kept = match &command.command {
                        Command::Create(create) => create.attributes.as_deref(),
                        Command::Update(update) => update.attributes.as_deref(),
                        _ => None,
                    };
                    if let Some(kept) = kept {
                        let value: Value = serde_json::from_str(kept).expect("JSON");
                        prop_assert!(value.is_object() || value.is_null());
                        prop_assert!(!kept.contains("\\u0000"));
                    }
                }
                Err(refusal) => prop_assert!(
                    refusal.problem == Problem::Invalid && !refusal.faults.is_empty(),
                    "{:?}", refusal
                ),
            }
        }
    }

    #[test]
    fn both_ways_of_reading_agree(
        items in prop::collection::vec(nearly_commands(), 1..4),
        form in forms(),
    ) {
        let text = format!("[{}]", items.join(","));
        let fast = read(text.as_bytes(), &form);
        let slow = reread::document(text.as_bytes(), &form, false);
        match (fast, slow) {
            (Ok(Body::Many(fast)), Ok(Body::Many(slow))) => prop_assert_eq!(fast, slow),
            (fast, slow) => prop_assert!(false, "{:?} and {:?}", fast, slow),
        }
    }

    #[test]
    fn any_path_segment_gives_one_answer(segment in "[%0-9a-fA-F\u{fc}/]{0,80}") {
        if let Ok(id) = id_from_path(&segment) {
            prop_assert!((1..=64).contains(&id.chars().count()));
        }
    }
}
