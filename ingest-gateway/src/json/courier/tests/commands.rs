//! Commands: what each may carry, their condition, and bursts of them.

use super::*;

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
