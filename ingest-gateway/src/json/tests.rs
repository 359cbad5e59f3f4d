use contract::limits::{EXTRA_BYTES_MAX, ITEMS_MAX};
use contract::{Operation, Problem, Record, Ride};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn good() -> Value {
    json!({
        "id": 132_512, "user_id": 22_177, "vehicle_model_id": 28, "package_id": 1,
        "travel_type_id": 3, "from_area_id": 83, "to_area_id": 448, "from_city_id": 15,
        "to_city_id": -1, "from_date": "2013-01-01T09:30:00+05:30", "to_date": 1_357_012_800,
        "online_booking": 1, "mobile_site_booking": false,
        "booking_created": 1_357_012_800_123_i64, "from_lat": 12.92415, "from_long": 77.67229,
        "to_lat": 13, "to_long": -0.0, "car_cancellation": true,
    })
}

/// The smallest ride, with one member changed or added by its JSON text.
fn with(name: &str, value: &str) -> String {
    let mut members = vec![
        ("id", "1"),
        ("user_id", "2"),
        ("vehicle_model_id", "12"),
        ("travel_type_id", "2"),
        ("from_date", "0"),
        ("booking_created", "0"),
    ];
    members.retain(|member| member.0 != name);
    members.push((name, value));
    let members = members
        .iter()
        .filter(|member| !member.1.is_empty())
        .map(|(name, value)| format!("\"{name}\":{value}"));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

const CREATE: Form = Form::Ride(ride::Form::Create);

fn put(id: i64, if_match: Option<i32>) -> Form {
    Form::Ride(ride::Form::Put { id, if_match })
}

fn read(body: &[u8]) -> Result<Body, Refusal> {
    super::read(body, &CREATE)
}

fn read_lines(body: &[u8]) -> Result<Vec<Parsed>, Refusal> {
    super::read_lines(body, &CREATE)
}

fn one(text: &str) -> Result<Ride, Box<Refusal>> {
    match read(text.as_bytes()) {
        Ok(Body::One(item)) => item.map(ride_of),
        Ok(Body::Many(_)) => panic!("{text} is one item"),
        Err(refusal) => Err(Box::new(refusal)),
    }
}

fn ride_of(item: Item) -> Ride {
    match item.record {
        Record::Ride(ride) => ride,
        Record::Courier(_) => panic!("{item:?} is a ride"),
    }
}

/// The pointers of an item's faults.
fn pointers<T: std::fmt::Debug>(item: Result<T, Box<Refusal>>) -> Vec<String> {
    let refusal = item.expect_err("faulty");
    assert_eq!(refusal.problem, Problem::Invalid, "{refusal:?}");
    refusal.faults.into_iter().map(|it| it.pointer).collect()
}

#[test]
fn every_member_is_read() {
    let ride = one(&good().to_string()).unwrap();
    assert_eq!(
        ride,
        Ride {
            id: 132_512,
            user_id: 22_177,
            vehicle_model_id: 28,
            package_id: Some(1),
            travel_type_id: 3,
            from_area_id: Some(83),
            to_area_id: Some(448),
            from_city_id: Some(15),
            to_city_id: Some(-1),
            from_date_us: 1_357_012_800_000_000,
            to_date_us: Some(1_357_012_800_000_000),
            online_booking: true,
            mobile_site_booking: false,
            booking_created_us: 1_357_012_800_123_000,
            from_lat: Some(12.92415),
            from_long: Some(77.67229),
            to_lat: Some(13.0),
            to_long: Some(0.0),
            car_cancellation: true,
            extra: None,
        }
    );
}

#[test]
fn names_may_be_in_either_case_and_spelling() {
    let snake = good();
    let camel = |id: &str| {
        let members = snake.as_object().unwrap().iter().map(|(name, value)| {
            let mut parts = name.split('_');
            let mut camel = parts.next().unwrap().to_owned();
            for part in parts {
                match part {
                    "id" => camel.push_str(id),
                    part => {
                        camel.push_str(&part[..1].to_uppercase());
                        camel.push_str(&part[1..]);
                    }
                }
            }
            (camel, value.clone())
        });
        Value::Object(members.collect())
    };
    let expected = one(&snake.to_string()).unwrap();
    for id in ["Id", "ID"] {
        assert_eq!(one(&camel(id).to_string()).unwrap(), expected);
    }
    let mut old = camel("ID");
    let members = old.as_object_mut().unwrap();
    let cancellation = members.remove("carCancellation").unwrap();
    members.insert("Car_Cancellation".into(), cancellation);
    assert_eq!(one(&old.to_string()).unwrap(), expected);
}

#[test]
fn optional_members_may_be_null_or_absent() {
    let mut absent = json!({"id": 1, "user_id": 2, "vehicle_model_id": 3, "travel_type_id": 1,
        "from_date": 0, "booking_created": 0});
    let expected = one(&absent.to_string()).unwrap();
    for name in [
        "package_id",
        "from_area_id",
        "to_area_id",
        "from_city_id",
        "to_city_id",
        "to_date",
        "from_lat",
        "from_long",
        "to_lat",
        "to_long",
        "online_booking",
        "car_cancellation",
    ] {
        absent[name] = Value::Null;
    }
    assert_eq!(one(&absent.to_string()).unwrap(), expected);
}

#[test]
fn every_fault_is_told_at_once() {
    let text = r#"{"id":0,"userID":"x","vehicleModelId":12.0,"travel_type_id":4,"package_id":0,
        "from_date":"2013","from_lat":91,"fromLong":77,"to_lat":1,"online_booking":2,"a/b~":"\u0000"}"#;
    assert_eq!(
        pointers(one(text)),
        [
            "/id",
            "/from_lat",
            "/to_long",
            "/userID",
            "/vehicleModelId",
            "/package_id",
            "/travel_type_id",
            "/from_date",
            "/online_booking",
            "/booking_created",
            "/a~1b~0",
        ]
    );
    assert_eq!(
        pointers(one("{}")),
        [
            "/id",
            "/user_id",
            "/vehicle_model_id",
            "/travel_type_id",
            "/from_date",
            "/booking_created"
        ]
    );
}

#[test]
fn values_that_no_ride_can_have() {
    for (name, value) in [
        ("id", "0"),
        ("id", "-1"),
        ("id", "1.0"),
        ("id", "1e0"),
        ("id", "\"1\""),
        ("id", "null"),
        ("id", "9223372036854775808"),
        ("id", "18446744073709551616"),
        ("id", "[]"),
        ("id", ""),
        ("user_id", "true"),
        ("user_id", "9223372036854775808"),
        ("user_id", "1e999"),
        ("vehicle_model_id", "2147483648"),
        ("vehicle_model_id", "null"),
        ("travel_type_id", "0"),
        ("travel_type_id", "4"),
        ("package_id", "0"),
        ("package_id", "8"),
        ("from_area_id", "-2147483649"),
        ("from_date", "null"),
        ("from_date", "\"2013-01-01\""),
        ("from_date", "1e300"),
        ("from_date", "true"),
        ("from_date", "0.0000001"),
        ("to_date", "\"\""),
        ("to_date", "253402300800000"),
        ("online_booking", "2"),
        ("online_booking", "\"true\""),
        ("car_cancellation", "1.0"),
        ("from_lat", "\"1\""),
    ] {
        assert_eq!(
            pointers(one(&with(name, value))),
            [format!("/{name}")],
            "{name}: {value}"
        );
    }
    assert_eq!(pointers(one(&with("from_lat", "1"))), ["/from_long"]);
    assert_eq!(pointers(one(&with("toLong", "1"))), ["/to_lat"]);
    let half_null = with("from_lat", r#"1,"fromLong":null"#);
    assert_eq!(pointers(one(&half_null)), ["/fromLong"]);
    for place in [r#"90.1,"from_long":0"#, r#"-91,"from_long":0"#] {
        assert_eq!(pointers(one(&with("from_lat", place))), ["/from_lat"]);
    }
    assert_eq!(
        pointers(one(&with("from_lat", r#"0,"from_long":180.5"#))),
        ["/from_long"]
    );
}

#[test]
fn a_member_stands_once_in_whatever_spelling() {
    assert_eq!(pointers(one(&with("userId", "2"))), ["/userId"]);
    assert_eq!(pointers(one(&with("x", r#"2,"user_id":2"#))), ["/user_id"]);
    assert_eq!(pointers(one(&with("x", r#"1,"x":1"#))), ["/x"]);
    assert_eq!(
        pointers(one(&with("x", r#"[{"y":{"z":1,"z":2}}]"#))),
        ["/x/0/y/z"]
    );
    // Also where the slow way reads the item.
    assert_eq!(
        pointers(one(&with("user_id", r#"1e999,"userId":1"#))),
        ["/user_id", "/userId"]
    );
    assert_eq!(
        pointers(one(&with("x", r#"1e999,"x":1e999"#))),
        ["/x", "/x"]
    );
}

#[test]
fn what_the_grammar_allows_and_nobody_can_hold_is_the_items_fault() {
    for value in [
        r#""\ud800""#,
        r#""\udc00\ud800""#,
        "18446744073709551616",
        "-9223372036854775809",
        "1e131071",
        "-1e400",
        r#"{"a":["\ud800"]}"#,
        r#""\u0000""#,
        r#"{"\u0000":1}"#,
    ] {
        let item = one(&with("note", value));
        let found = pointers(item);
        assert_eq!(found.len(), 1, "{value}");
        assert!(found[0].starts_with("/note"), "{value}: {found:?}");
    }
    assert_eq!(pointers(one(&with("\\ud800", "1"))), [""]);
    assert_eq!(pointers(one(&with("\\u0000", "1"))), ["/\0"]);
    for scalar in [
        "1",
        "null",
        "\"x\"",
        "true",
        "1e999",
        "\"\\ud800\"",
        "18446744073709551616",
    ] {
        assert_eq!(pointers(one(scalar)), [""], "{scalar}");
    }
}

#[test]
fn a_bad_item_never_harms_its_neighbours() {
    let good = with("id", "7");
    for bad in [
        "1",
        "null",
        "[]",
        r#"{"id":0}"#,
        r#""\u0000""#,
        r#""\ud800""#,
        "1e999",
        "99999999999999999999",
        &with("x", "1e999"),
        &with("x", r#""\ud800""#),
    ] {
        let text = format!("[{bad},{good}, {bad} ,{good}]");
        let Ok(Body::Many(items)) = read(text.as_bytes()) else {
            panic!("{text} is an array");
        };
        let ids: Vec<_> = items
            .iter()
            .map(|item| item.as_ref().ok().and_then(Item::ride_id))
            .collect();
        assert_eq!(ids, [None, Some(7), None, Some(7)], "{text}");
    }
}

#[test]
fn what_is_not_json_is_not_read_at_all() {
    let deep = "[".repeat(DEPTH_MAX + 1) + &"]".repeat(DEPTH_MAX + 1);
    let deeper = "[".repeat(500_000);
    for text in [
        "{",
        "}",
        "[1",
        "[1,]",
        "[,1]",
        "{\"a\":1,}",
        "{\"a\"}",
        "{a:1}",
        "{'a':1}",
        "01",
        "+1",
        "1.",
        ".5",
        "-",
        "1e",
        "0x1",
        "NaN",
        "Infinity",
        "True",
        "nUll",
        "tru",
        "\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\t\"",
        "\"a\nb\"",
        "[1] 2",
        "{} {}",
        "\u{feff}{}",
        "// x\n1",
        "[1 2]",
        "{\"a\" 1}",
        "{1:2}",
        "\u{a0}1",
        "[1]\0",
        &deep,
        &deeper,
    ] {
        let refusal = read(text.as_bytes()).expect_err(text);
        assert_eq!(refusal.problem, Problem::Malformed, "{text}");
    }
    for bytes in [
        &b"\"\xff\""[..],
        b"{\"a\":\"\xed\xa0\x80\"}",
        b"\xff\xfe1",
        b"[\"\xc0\x80\"]",
    ] {
        let refusal = read(bytes).expect_err("not UTF-8");
        assert_eq!(refusal.problem, Problem::Malformed, "{bytes:?}");
    }
    for text in ["", " \r\n\t", "[]", " [ ] "] {
        let refusal = read(text.as_bytes()).expect_err(text);
        assert_eq!(refusal.problem, Problem::Empty, "{text}");
    }
}

#[test]
fn extra_is_canonical() {
    let text = with(
        "zz",
        r#" { "b" : [ 1 , -2.50 , 1E2, "\u00fc\/\n" , null ] , "a" : 18446744073709551615 } , "Aa" : true"#,
    );
    assert_eq!(
        one(&text).unwrap().extra.as_deref(),
        Some(r#"{"Aa":true,"zz":{"a":18446744073709551615,"b":[1,-2.5,100.0,"ü/\n",null]}}"#)
    );
    assert_eq!(
        one(&with("x", "-0.0")).unwrap().extra.as_deref(),
        Some(r#"{"x":0.0}"#)
    );
}

#[test]
fn extra_is_bounded_in_bytes_and_depth() {
    let of_size = |bytes: usize| {
        with(
            "x",
            &format!("\"{}\"", "y".repeat(bytes - r#"{"x":""}"#.len())),
        )
    };
    assert_eq!(
        one(&of_size(EXTRA_BYTES_MAX)).unwrap().extra.unwrap().len(),
        EXTRA_BYTES_MAX
    );
    assert_eq!(pointers(one(&of_size(EXTRA_BYTES_MAX + 1))), [""]);
    // The object of the unknown members is the first level.
    let of_depth = |depth: usize| with("x", &("[".repeat(depth - 1) + &"]".repeat(depth - 1)));
    assert!(one(&of_depth(8)).is_ok());
    assert_eq!(pointers(one(&of_depth(9))), ["/x"]);
    assert_eq!(pointers(one(&of_depth(1_000))), ["/x"]);
}

#[test]
fn the_paths_id_and_the_bodys_agree() {
    let form = put(7, None);
    let read = |text: &str| read_one(text.as_bytes(), &form).map(|item| ride_of(item).id);
    assert_eq!(read(&with("id", "7")), Ok(7));
    assert_eq!(read(&with("id", "")), Ok(7));
    for id in ["8", "null", "\"7\"", "7.0"] {
        let refusal = read(&with("id", id)).unwrap_err();
        assert_eq!(refusal.faults[0].pointer, "/id", "{id}");
    }
    for array in ["[]", "[{}]", "[1e999]"] {
        let refusal = read(array).unwrap_err();
        assert_eq!(refusal.faults[0].pointer, "", "{array}");
    }
}

#[test]
fn a_put_may_have_a_condition_and_a_post_keeps_the_member_as_it_is() {
    let read = |text: &str, if_match| {
        let item = read_one(text.as_bytes(), &put(1, if_match))?;
        assert_eq!(item.operation, Operation::Replace);
        Ok::<_, Refusal>((item.expected_version, ride_of(item).extra))
    };
    assert_eq!(read(&with("id", "1"), None), Ok((None, None)));
    assert_eq!(read(&with("id", "1"), Some(3)), Ok((Some(3), None)));
    for name in ["expected_version", "expectedVersion"] {
        for if_match in [None, Some(3)] {
            assert_eq!(read(&with(name, "3"), if_match), Ok((Some(3), None)));
        }
        for (value, if_match) in [
            ("4", Some(3)),
            ("0", None),
            ("-1", None),
            ("null", None),
            ("null", Some(3)),
            ("2147483648", None),
            ("1.0", None),
            ("1e999", None),
            ("\"3\"", None),
        ] {
            let refusal = read(&with(name, value), if_match).unwrap_err();
            assert_eq!(refusal.faults[0].pointer, format!("/{name}"), "{value}");
        }
        let created = one(&with(name, "3")).unwrap();
        assert_eq!(created.extra, Some(format!(r#"{{"{name}":3}}"#)));
    }
    let save = Form::Ride(ride::Form::Save);
    let item = read_one(with("expected_version", "3").as_bytes(), &save).unwrap();
    assert_eq!(
        (item.operation, item.expected_version),
        (Operation::Replace, None)
    );
}

#[test]
fn lines_stand_for_themselves() {
    let good = with("id", "7");
    let text = format!("{good}\r\n\n  \n{{\n[{good}]\n{good}\n\"\\ud800\"\n{good}");
    let items = read_lines(text.as_bytes()).unwrap();
    let problems: Vec<_> = items
        .iter()
        .map(|item| item.as_ref().err().map(|refusal| refusal.problem))
        .collect();
    let (bad, ok) = (Some(Problem::Invalid), None);
    assert_eq!(problems, [ok, Some(Problem::Malformed), bad, ok, bad, ok]);
    let mut not_utf8 = good.clone().into_bytes();
    not_utf8.extend_from_slice(b"\n\xff\n");
    let items = read_lines(&not_utf8).unwrap();
    assert!(items[0].is_ok());
    assert_eq!(items[1].as_ref().unwrap_err().problem, Problem::Malformed);
    assert_eq!(read_lines(b"\n \n").unwrap_err().problem, Problem::Empty);
}

#[test]
fn there_are_only_so_many_items() {
    let array = |count: usize| format!("[{}1]", "1,".repeat(count - 1));
    assert!(read(array(ITEMS_MAX).as_bytes()).is_ok());
    let refusal = read(array(ITEMS_MAX + 1).as_bytes()).unwrap_err();
    assert_eq!(refusal.problem, Problem::TooLarge);
    let reread = array(ITEMS_MAX).replacen('1', "1e999", 1);
    assert!(read(reread.as_bytes()).is_ok());
    let reread = array(ITEMS_MAX + 1).replacen('1', "1e999", 1);
    assert_eq!(
        read(reread.as_bytes()).unwrap_err().problem,
        Problem::TooLarge
    );
    assert_eq!(
        read_lines("1\n".repeat(ITEMS_MAX).as_bytes())
            .unwrap()
            .len(),
        ITEMS_MAX
    );
    let refusal = read_lines("1\n".repeat(ITEMS_MAX + 1).as_bytes()).unwrap_err();
    assert_eq!(refusal.problem, Problem::TooLarge);
}

#[test]
fn an_answer_is_no_echo_of_what_was_sent() {
    let long = "y".repeat(10_000);
    let item = one(&with(&long, "1"));
    assert_eq!(pointers(item), [""]);
    let many: Vec<_> = (0..1_000).map(|_| "\"a\":1").collect();
    let refusal = one(&format!("{{{}}}", many.join(","))).unwrap_err();
    assert!(refusal.faults.len() <= FAULTS_MAX);
}

/// Texts that are JSON or nearly.
pub(super) fn nearly_json() -> impl Strategy<Value = String> {
    let atoms = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"a\"",
        "\"id\"",
        "\"user_id\"",
        "\"userId\"",
        "1",
        "-0",
        "0.5",
        "1e5",
        "1e999",
        "99999999999999999999",
        "null",
        "true",
        "false",
        "\"\\ud800\"",
        "\"\\ud83d\\ude00\"",
        "\"\\u0000\"",
        "\"é\"",
        " ",
        "\n",
        "\\",
        "\"",
        "e",
        "-",
        "\u{1}",
    ]);
    prop::collection::vec(atoms, 0..12).prop_map(|atoms| atoms.concat())
}

/// Any JSON value, as text.
pub(super) fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|it| it.to_string()),
        any::<i64>().prop_map(|it| it.to_string()),
        any::<f64>()
            .prop_filter("finite", |it| it.is_finite())
            .prop_map(|it| json!(it).to_string()),
        any::<String>().prop_map(|it| json!(it).to_string()),
    ];
    leaf.prop_recursive(4, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6)
                .prop_map(|it| format!("[{}]", it.join(", "))),
            prop::collection::btree_map(any::<String>(), inner, 0..6).prop_map(|it| {
                let members = it
                    .iter()
                    .map(|(name, value)| format!("{}: {value}", json!(name)));
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }),
        ]
    })
}

/// Whether a text is JSON by serde_json, which follows RFC 8259's grammar.
fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<&serde_json::value::RawValue>(bytes).is_ok()
        && std::str::from_utf8(bytes).is_ok()
}

fn check_against_grammar(bytes: &[u8]) -> Result<(), TestCaseError> {
    let malformed = match read(bytes) {
        Err(refusal) if refusal.problem == Problem::Malformed => true,
        Err(refusal) if refusal.problem == Problem::Empty => return Ok(()),
        _ => false,
    };
    prop_assert_eq!(
        malformed,
        !is_json(bytes),
        "{:?}",
        String::from_utf8_lossy(bytes)
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_give_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check_against_grammar(&bytes)?;
        let _ = read_lines(&bytes);
    }

    #[test]
    fn the_grammar_is_serde_jsons(text in nearly_json()) {
        check_against_grammar(text.as_bytes())?;
    }

    #[test]
    fn json_is_json(text in json_text()) {
        prop_assert!(read(text.as_bytes()).map_or_else(|refusal| refusal.problem == Problem::Empty, |_| true), "{}", text);
    }

    #[test]
    fn extra_holds_what_was_sent(text in json_text()) {
        let record = with("x", &text);
        if let Ok(ride) = one(&record) {
            let extra: Value = serde_json::from_str(&ride.extra.unwrap()).unwrap();
            let sent: Value = serde_json::from_str(&text).unwrap();
            // Minus zero is zero, as in PostgreSQL's jsonb.
            let normal = |value: &Value| value.to_string().replace("-0.0", "0.0");
            prop_assert_eq!(normal(&extra["x"]), normal(&sent));
        }
    }

    #[test]
    fn both_ways_of_reading_agree(items in prop::collection::vec(prop_oneof![nearly_json(), json_text(), Just(with("id", "7"))], 1..4)) {
        let text = format!("[{}]", items.join(","));
        let fast = read(text.as_bytes());
        let slow = reread::document(text.as_bytes(), &CREATE, false);
        match (fast, slow) {
            (Ok(Body::Many(fast)), Ok(Body::Many(slow))) => prop_assert_eq!(fast, slow),
            (Err(fast), Err(slow)) => prop_assert_eq!(fast.problem, slow.problem),
            (fast, slow) => prop_assert!(false, "{:?} and {:?}", fast, slow),
        }
    }
}
