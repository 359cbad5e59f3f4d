//! What the reader tells apart, HTTP tells apart: the whole document's fault, one item's, none's.

use super::*;

/// A JSON value, how it ends, and where the fault is said to be in a ride (whose unknown members
/// are `extra`) and in a courier's attributes.
type Oddity = (&'static str, u16, &'static str, &'static str);

const KEPT: &str = "";

const ODDITIES: [Oddity; 29] = [
    ("1e-400", 202, KEPT, KEPT),
    ("-0.0", 202, KEPT, KEPT),
    ("18446744073709551615", 202, KEPT, KEPT),
    (r#""\ud83d\ude00""#, 202, KEPT, KEPT),
    (r#"{"b":1,"a":2}"#, 202, KEPT, KEPT),
    // The slow way, which reads numbers and halves of surrogate pairs that nobody can hold, names
    // the member of the item that they are in.
    ("1e400", 422, "/x", "/attributes"),
    ("1e131071", 422, "/x", "/attributes"),
    ("-1e131071", 422, "/x", "/attributes"),
    (r#"[{"y":1e131071}]"#, 422, "/x", "/attributes"),
    ("18446744073709551616", 422, "/x", "/attributes"),
    ("-9223372036854775809", 422, "/x", "/attributes"),
    (r#""\ud800""#, 422, "/x", "/attributes"),
    (r#""\udc00\ud800""#, 422, "/x", "/attributes"),
    (r#"{"\udfff":1}"#, 422, "/x", "/attributes"),
    (r#""\u0000""#, 422, "/x", "/attributes/x"),
    (r#"{"a":1,"a":1}"#, 422, "/x/a", "/attributes/x/a"),
    ("[[[[[[[[]]]]]]]]", 422, "/x", "/attributes/x"),
    ("True", 400, "", ""),
    ("TRUE", 400, "", ""),
    ("False", 400, "", ""),
    ("FALSE", 400, "", ""),
    ("NULL", 400, "", ""),
    ("nUll", 400, "", ""),
    ("NaN", 400, "", ""),
    ("Infinity", 400, "", ""),
    ("01", 400, "", ""),
    ("\"\0\"", 400, "", ""),
    ("\0", 400, "", ""),
    ("\u{feff}1", 400, "", ""),
];

/// Where a kind of record is sent, a good one, and the bad one.
struct Case {
    path: &'static str,
    good: String,
    bad: Vec<u8>,
    status: u16,
    pointer: &'static str,
    name: String,
}

fn ride_case(bad: impl Into<Vec<u8>>, status: u16, pointer: &'static str, name: &str) -> Case {
    Case {
        path: "/v1/rides",
        good: ride(3).to_string(),
        bad: bad.into(),
        status,
        pointer,
        name: format!("{name} in a ride"),
    }
}

fn courier_case(bad: String, status: u16, pointer: &'static str, name: &str) -> Case {
    Case {
        path: "/v1/couriers",
        good: courier_with("{}"),
        bad: bad.into_bytes(),
        status,
        pointer,
        name: format!("{name} in a courier"),
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (value, status, in_ride, in_courier) in ODDITIES {
        let extra = with(&format!(r#""x":{value}"#));
        cases.push(ride_case(extra, status, in_ride, value));
        let attributes = courier_with(&format!(r#"{{"x":{value}}}"#));
        cases.push(courier_case(attributes, status, in_courier, value));
    }
    // In and beside members that are known.
    for (member, pointer) in [
        (r#""from_lat":1e131071,"from_long":1"#, "/from_lat"),
        (r#""package_id":1e131071"#, "/package_id"),
        (r#""user_id":1"#, "/user_id"),
        (r#""userId":1"#, "/userId"),
        (r#""\ud800":1"#, ""),
    ] {
        cases.push(ride_case(with(member), 422, pointer, member));
    }
    let capacity = courier_with("{}").replace(r#""max_capacity":1"#, r#""max_capacity":1e131071"#);
    cases.push(courier_case(capacity, 422, "/max_capacity", "1e131071"));
    for (bytes, name) in [
        (&b"\xff"[..], "no byte of UTF-8"),
        (b"\xc0\x80", "overlong"),
        (b"\xe2\x82", "truncated"),
        (b"\xed\xa0\x80", "a surrogate"),
        (b"\xf4\x90\x80\x80", "beyond the last"),
    ] {
        let ride = with(r#""x":"?""#).into_bytes();
        let at = ride.iter().position(|byte| *byte == b'?').unwrap();
        let bad = [&ride[..at], bytes, &ride[at + 1..]].concat();
        cases.push(ride_case(bad, 400, "", name));
    }
    let marked = [&b"\xef\xbb\xbf"[..], ride(ATTACKERS).to_string().as_bytes()].concat();
    cases.push(ride_case(marked, 400, "", "a byte order mark"));
    let ended = [ride(ATTACKERS).to_string().as_bytes(), b"\0"].concat();
    cases.push(ride_case(ended, 400, "", "NUL behind it"));
    cases
}

fn check_fault(error: &Value, case: &Case) {
    let (code, name) = match case.status {
        400 => ("malformed", &case.name),
        _ => ("invalid", &case.name),
    };
    assert_eq!(error["code"], code, "{name}: {error}");
    if case.status == 422 {
        let faults = error["errors"].as_array().expect(name);
        let found: Vec<_> = faults.iter().map(|it| &it["pointer"]).collect();
        assert_eq!(found, [case.pointer], "{name}");
    }
}

/// By itself.
async fn check_alone(gateway: &Gateway, case: &Case) {
    let answer = post(gateway, case.path, case.bad.clone()).await;
    match case.status {
        202 => assert_eq!(answer.status, 202, "{}: {answer:?}", case.name),
        422 => check_problem(&answer, 422, "invalid", &case.name),
        _ => check_problem(&answer, 400, "malformed", &case.name),
    }
    if case.status != 202 {
        check_fault(&answer.body, case);
    }
}

/// Between two good ones: what is not JSON takes the whole array with it, and nothing else does.
async fn check_between(gateway: &Gateway, case: &Case) {
    let good = case.good.as_bytes();
    let array = [b"[", good, b",", &case.bad, b",", good, b"]"].concat();
    let answer = post(gateway, case.path, array).await;
    if case.status == 400 {
        check_problem(&answer, 400, "malformed", &case.name);
    } else {
        check_neighbours(&answer, case);
    }
    let lines = [good, b"\n", &case.bad, b"\n", good].concat();
    let kind = "application/x-ndjson";
    let answer = gateway.send(Method::POST, case.path, kind, lines).await;
    check_neighbours(&answer, case);
}

fn check_neighbours(answer: &Answer, case: &Case) {
    let name = &case.name;
    assert_eq!(answer.status, 202, "{name}: {answer:?}");
    let results = answer.body["results"].as_array().expect(name);
    let accepted = results.iter().map(|it| it["tracking_id"].is_string());
    let expected = [true, case.status == 202, true];
    assert!(accepted.eq(expected), "{name}: {answer:?}");
    if case.status != 202 {
        check_fault(&results[1]["error"], case);
    }
}

async fn oddities(size: Size) {
    let log = Log::start(1).await;
    let mut gateway = Gateway::ready(&log, &["--log-level=warn"]).await;
    let cases = &cases();
    besieged(&mut gateway, GROWTH_BYTES_MAX, async |gateway| {
        size.again_and_again(async || {
            for case in cases {
                check_alone(gateway, case).await;
                check_between(gateway, case).await;
            }
        })
        .await;
    })
    .await;
    // What was refused is not at the log: of the attackers' rides only what can be kept is.
    let entries = log.entries().await;
    for entry in entries {
        if let contract::Record::Ride(ride) = entry.record
            && ride.id == ATTACKERS
        {
            let extra = ride.extra.expect("only what can be kept");
            let kept: Value = serde_json::from_str(&extra).expect("JSON");
            assert!(kept["x"].is_number() || kept["x"].is_string() || kept["x"].is_object());
        }
    }
}

#[tokio::test]
async fn oddities_are_answered_as_they_deserve() {
    oddities(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile_network"]
async fn oddities_are_answered_as_they_deserve_long() {
    oddities(LONG).await;
}
