//! A second opinion on JSON, by serde_json: whether a text is JSON at all, and what is in it.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_json::value::RawValue;

use crate::json::{DEPTH_MAX, Parsed};
use contract::courier::{Command, TextPatch};
use contract::{CourierCommand, Problem, Record, Ride};

/// A value, with every member that an object has, also those of one name.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array(Vec<Value>),
    Object(Vec<(String, Value)>),
}

/// Whether a text is JSON by the grammar alone, and not nested past the reader's bound.
pub(crate) fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(text).is_ok() && depth(text) <= DEPTH_MAX
}

/// The deepest nesting of a text that is JSON.
fn depth(text: &[u8]) -> usize {
    let (mut now, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                now += 1;
                deepest = deepest.max(now);
            }
            b']' | b'}' if !in_string => now -= 1,
            _ => {}
        }
    }
    deepest
}

pub(crate) fn is_blank(text: &[u8]) -> bool {
    text.iter().all(|byte| b" \t\r\n".contains(byte))
}

/// An item's answer is one that its text deserves.
pub(crate) fn check_item(text: &[u8], parsed: &Parsed) {
    match parsed {
        Ok(item) => {
            let value: Value = serde_json::from_slice(text).expect("what was taken is JSON");
            let Value::Object(members) = &value else {
                panic!("what was taken is an object");
            };
            assert!(!has_twice(&value), "a member stands twice");
            match &item.record {
                Record::Ride(ride) => check_ride(members, ride, item.expected_version.is_some()),
                Record::Courier(command) => check_command(members, command),
            }
        }
        Err(refusal) if refusal.problem == Problem::Malformed => {
            assert!(!is_json(text), "refused as no JSON: {}", refusal.detail);
        }
        Err(refusal) => {
            assert_eq!(refusal.problem, Problem::Invalid);
            assert!(is_json(text), "refused for more than not being JSON");
            assert!(!refusal.faults.is_empty(), "no fault is named");
            for fault in &refusal.faults {
                let pointer = &fault.pointer;
                assert!(pointer.is_empty() || pointer.starts_with('/'), "{pointer}");
                assert!(!fault.detail.is_empty());
            }
        }
    }
}

fn has_twice(value: &Value) -> bool {
    match value {
        Value::Object(members) => {
            let mut names: Vec<_> = members.iter().map(|(name, _)| name).collect();
            names.sort_unstable();
            names.windows(2).any(|two| two[0] == two[1])
                || members.iter().any(|(_, value)| has_twice(value))
        }
        Value::Array(elements) => elements.iter().any(has_twice),
        _ => false,
    }
}

/// `user_id`, `userId` and `userID` are one name.
fn plain(name: &str) -> String {
    name.replace('_', "").to_ascii_lowercase()
}

fn find<'v>(members: &'v [(String, Value)], name: &str) -> Option<&'v Value> {
    let known =
        |sent: &&(String, Value)| plain(&sent.0) == plain(name) && is_spelling(&sent.0, name);
    members.iter().find(known).map(|(_, value)| value)
}

/// Whether a member's name is one that the reader takes for `name`, which is in snake_case.
fn is_spelling(sent: &str, name: &str) -> bool {
    let mut camel = String::new();
    for (at, part) in name.split('_').enumerate() {
        match at {
            0 => camel.push_str(part),
            _ => {
                camel.push_str(&part[..1].to_ascii_uppercase());
                camel.push_str(&part[1..]);
            }
        }
    }
    let upper = camel.strip_suffix("Id").map(|stem| format!("{stem}ID"));
    sent == name
        || sent == camel
        || Some(sent) == upper.as_deref()
        || (name == "car_cancellation" && sent == "Car_Cancellation")
}

fn int(value: Option<&Value>) -> Option<i64> {
    match value? {
        // serde_json takes -0 for a double.
        Value::Number(number) if is_zero(number) => Some(0),
        Value::Number(number) => Some(number.as_i64().expect("an integer of 64 bits")),
        Value::Null => None,
        other => panic!("not an integer: {other:?}"),
    }
}

fn int32(value: Option<&Value>) -> Option<i32> {
    int(value).map(|number| i32::try_from(number).expect("an integer of 32 bits"))
}

fn bits(value: Option<&Value>) -> Option<u64> {
    match value? {
        Value::Number(number) => Some(without_sign(number.as_f64().expect("a double"))),
        Value::Null => None,
        other => panic!("not a number: {other:?}"),
    }
}

/// The bits of a double; -0 is 0, which is how contents are compared.
fn without_sign(number: f64) -> u64 {
    (number + 0.0).to_bits()
}

fn flag(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Bool(value)) => *value,
        None | Some(Value::Null) => false,
        other => match int(other) {
            Some(0) => false,
            Some(1) => true,
            _ => panic!("not a boolean: {other:?}"),
        },
    }
}

fn text(value: Option<&Value>) -> Option<&str> {
    match value? {
        Value::String(text) => Some(text),
        Value::Null => None,
        other => panic!("not a string: {other:?}"),
    }
}

/// Microseconds since the Unix epoch; `None` where it is not worth a second implementation.
fn micros(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => {
            let number = number.as_i64()?;
            let seconds = number.unsigned_abs() < 100_000_000_000;
            Some(number * if seconds { 1_000_000 } else { 1_000 })
        }
        // jiff takes more than RFC 3339 has and rounds a fraction where the reader cuts it: it is
        // asked about whole seconds, and knows no leap ones.
        Value::String(text) if !text.contains('.') && !text[17..].starts_with("60") => {
            let timestamp: jiff::Timestamp = text.parse().ok()?;
            Some(timestamp.as_microsecond())
        }
        _ => None,
    }
}

fn check_instant(value: Option<&Value>, us: Option<i64>) {
    match value {
        None | Some(Value::Null) => assert_eq!(us, None),
        Some(value) => {
            let us = us.expect("what was sent is kept");
            if let Some(expected) = micros(value) {
                assert_eq!(us, expected, "{value:?}");
            }
        }
    }
}

const RIDE: [&str; 19] = [
    "id",
    "user_id",
    "vehicle_model_id",
    "package_id",
    "travel_type_id",
    "from_area_id",
    "to_area_id",
    "from_city_id",
    "to_city_id",
    "from_date",
    "to_date",
    "online_booking",
    "mobile_site_booking",
    "booking_created",
    "from_lat",
    "from_long",
    "to_lat",
    "to_long",
    "car_cancellation",
];

fn check_ride(members: &[(String, Value)], ride: &Ride, conditional: bool) {
    let sent = |name| find(members, name);
    // Of a PUT the path may say it alone.
    if let Some(id) = int(sent("id")) {
        assert_eq!(ride.id, id);
    }
    assert!(ride.id > 0);
    assert_eq!(Some(ride.user_id), int(sent("user_id")));
    assert_eq!(Some(ride.vehicle_model_id), int32(sent("vehicle_model_id")));
    assert_eq!(ride.package_id, int32(sent("package_id")));
    assert!(ride.package_id.is_none_or(|it| (1..=7).contains(&it)));
    assert_eq!(Some(ride.travel_type_id), int32(sent("travel_type_id")));
    assert!((1..=3).contains(&ride.travel_type_id));
    assert_eq!(ride.from_area_id, int32(sent("from_area_id")));
    assert_eq!(ride.to_area_id, int32(sent("to_area_id")));
    assert_eq!(ride.from_city_id, int32(sent("from_city_id")));
    assert_eq!(ride.to_city_id, int32(sent("to_city_id")));
    check_instant(sent("from_date"), Some(ride.from_date_us));
    check_instant(sent("to_date"), ride.to_date_us);
    check_instant(sent("booking_created"), Some(ride.booking_created_us));
    assert_eq!(ride.online_booking, flag(sent("online_booking")));
    assert_eq!(ride.mobile_site_booking, flag(sent("mobile_site_booking")));
    assert_eq!(ride.car_cancellation, flag(sent("car_cancellation")));
    for (degrees, name, max) in [
        (ride.from_lat, "from_lat", 90.0),
        (ride.from_long, "from_long", 180.0),
        (ride.to_lat, "to_lat", 90.0),
        (ride.to_long, "to_long", 180.0),
    ] {
        assert_eq!(degrees.map(without_sign), bits(sent(name)), "{name}");
        assert!(degrees.is_none_or(|it| it.abs() <= max), "{name}");
    }
    assert_eq!(ride.from_lat.is_some(), ride.from_long.is_some());
    assert_eq!(ride.to_lat.is_some(), ride.to_long.is_some());
    let is_known = |name: &str| {
        RIDE.iter().any(|known| is_spelling(name, known))
            || (conditional && is_spelling(name, "expected_version"))
    };
    let unknown = members.iter().filter(|(name, _)| !is_known(name));
    let unknown: Vec<_> = unknown.cloned().collect();
    match &ride.extra {
        None => assert!(unknown.is_empty(), "dropped: {unknown:?}"),
        Some(extra) => check_kept(extra, Value::Object(unknown), 4096),
    }
}

/// An object that was kept holds what was sent, in canonical form.
fn check_kept(kept: &str, sent: Value, bytes_max: usize) {
    assert!(kept.len() <= bytes_max);
    let value: Value = serde_json::from_str(kept).expect("what is kept is JSON");
    assert_eq!(canonical(value), canonical(sent), "{kept}");
    assert!(!kept.contains("\\u0000"), "no NUL is kept");
}

fn is_zero(number: &Number) -> bool {
    number.as_f64() == Some(0.0)
}

/// Members sorted, and any zero as 0.
fn canonical(value: Value) -> Value {
    match value {
        Value::Object(mut members) => {
            members.sort_by(|a, b| a.0.cmp(&b.0));
            let members = members.into_iter().map(|(name, it)| (name, canonical(it)));
            Value::Object(members.collect())
        }
        Value::Array(elements) => Value::Array(elements.into_iter().map(canonical).collect()),
        Value::Number(number) if is_zero(&number) => Value::Number(0.into()),
        other => other,
    }
}

fn check_command(members: &[(String, Value)], record: &CourierCommand) {
    let sent = |name| find(members, name);
    match sent("courier_id") {
        Some(Value::String(id)) => assert_eq!(record.courier_id, *id),
        Some(id) => assert_eq!(
            Some(record.courier_id.clone()),
            int(Some(id)).map(|it| it.to_string())
        ),
        None => assert_eq!(record.courier_id, "7"),
    }
    let attributes = |kept: &Option<String>| match (kept.as_deref(), sent("attributes")) {
        (None | Some("null"), None | Some(Value::Null)) => {}
        (Some(kept), Some(object)) => check_kept(kept, object.clone(), 4096),
        other => panic!("attributes: {other:?}"),
    };
    let patch = |kept: &Option<TextPatch>, name| {
        let kept = kept.as_ref().map(|patch| patch.value.as_deref());
        assert_eq!(kept, sent(name).map(|value| text(Some(value))), "{name}");
    };
    match &record.command {
        Command::Create(it) => {
            assert_eq!(Some(&*it.name), text(sent("name")));
            assert_eq!(Some(it.max_capacity), int32(sent("max_capacity")));
            assert_eq!(it.available_capacity, int32(sent("available_capacity")));
            assert_eq!(it.vehicle_type.as_deref(), text(sent("vehicle_type")));
            assert_eq!(it.phone.as_deref(), text(sent("phone")));
            attributes(&it.attributes);
        }
        Command::Update(it) => {
            assert_eq!(it.name.as_deref(), text(sent("name")));
            assert_eq!(it.max_capacity, int32(sent("max_capacity")));
            assert_eq!(it.available_capacity, int32(sent("available_capacity")));
            patch(&it.vehicle_type, "vehicle_type");
            patch(&it.phone, "phone");
            attributes(&it.attributes);
        }
        Command::SetCapacity(it) => {
            assert_eq!(
                Some(it.available_capacity),
                int32(sent("available_capacity"))
            );
        }
        Command::Pickup(it) | Command::Dropoff(it) => {
            assert_eq!(Some(it.capacity), int32(sent("capacity")));
            assert!(it.capacity > 0);
            assert_eq!(Some(&*it.reference), text(sent("reference")));
        }
        Command::Delete(_) => {}
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(Value::Number(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Number(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Value::Number(
                    Number::from_f64(value).expect("JSON has finite numbers"),
                ))
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(Value::String(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = access.next_element()? {
                    elements.push(element);
                }
                Ok(Value::Array(elements))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = access.next_entry()? {
                    members.push(member);
                }
                Ok(Value::Object(members))
            }
        }

        deserializer.deserialize_any(Any)
    }
}
