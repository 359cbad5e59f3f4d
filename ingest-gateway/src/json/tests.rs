//! A ride's members, and what the tests of reading share.

mod agreement;
mod documents;

use contract::{Operation, Problem, Record, Ride};
use serde_json::{Value, json};

use super::*;

pub(super) use agreement::{json_text, nearly_json};

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
