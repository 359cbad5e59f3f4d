//! JSON that nobody should send, to the real process: it answers, stays small, and goes on serving.
//!
//! What each grammatical oddity is answered with is in `json::conformance`; here is what is giant,
//! and what has to come through HTTP.

use async_compression::tokio::bufread::GzipEncoder;
use contract::limits::BODY_BYTES_MAX;
use http::Method;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use crate::harness::{Answer, Gateway, Log, ride};

/// More than the process may grow by, whatever it was sent, in bytes. A body of 8 MiB is there
/// twice, and what the parser notes of it takes at most ten times as much; two are read at once.
const GROWTH_BYTES_MAX: u64 = 512 * 1024 * 1024;

const MILLION: usize = 1_000_000;

/// A ride with one more member, as JSON text.
fn with(member: &str) -> String {
    let ride = ride(7).to_string();
    format!("{},{member}}}", &ride[..ride.len() - 1])
}

fn courier_with(attributes: &str) -> String {
    format!(r#"{{"courier_id":"c","name":"n","max_capacity":1,"attributes":{attributes}}}"#)
}

async fn post(gateway: &Gateway, path: &str, body: impl Into<bytes::Bytes>) -> Answer {
    gateway
        .send(Method::POST, path, "application/json", body)
        .await
}

/// The process's memory at its largest, in bytes.
fn peak_bytes(gateway: &Gateway) -> u64 {
    let pid = gateway.child.id().expect("running");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("alive");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|it| it.trim().strip_suffix(" kB")).unwrap();
    kib.trim().parse::<u64>().unwrap() * 1024
}

fn check_problem(answer: &Answer, status: u16, code: &str, case: &str) {
    assert_eq!(answer.status, status, "{case}: {answer:?}");
    assert_eq!(answer.body["code"], code, "{case}");
    assert_eq!(answer.body["status"], status, "{case}");
    assert_eq!(
        answer.headers["content-type"], "application/problem+json",
        "{case}"
    );
}

#[tokio::test]
async fn giants_are_refused_and_cost_little_and_honest_clients_are_served() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    assert_eq!(gateway.post(&ride(1)).await.status, 202);
    let before = peak_bytes(&gateway);
    let mut honest = 1;
    for (case, path, body, status, code) in giants() {
        let honest_ride = ride(honest + 1);
        // Beside it somebody else is served.
        let (answer, accepted) =
            tokio::join!(post(&gateway, path, body), gateway.post(&honest_ride));
        honest += 1;
        check_problem(&answer, status, code, case);
        assert_eq!(accepted.status, 202, "beside {case}: {accepted:?}");
    }
    let growth = peak_bytes(&gateway) - before;
    assert!(growth < GROWTH_BYTES_MAX, "grew by {growth} bytes");
    let entries = log.entries().await;
    assert_eq!(entries.len(), usize::try_from(honest).unwrap());
}

type Giant = (&'static str, &'static str, Vec<u8>, u16, &'static str);

fn giants() -> Vec<Giant> {
    const RIDES: &str = "/v1/rides";
    const COURIERS: &str = "/v1/couriers";
    // What is left beside the rest of the body.
    let room = BODY_BYTES_MAX - 1024;
    let arrays = "[".repeat(MILLION);
    let closed = format!("{arrays}{}", "]".repeat(MILLION));
    let objects = r#"{"a":"#.repeat(MILLION);
    let sevens = "7".repeat(room);
    let malformed = [
        ("a million open arrays", RIDES, arrays),
        ("a million arrays", RIDES, closed.clone()),
        ("a million open objects", RIDES, objects),
        (
            "a million arrays in extra",
            RIDES,
            with(&format!(r#""x":{closed}"#)),
        ),
        (
            "a million arrays in attributes",
            COURIERS,
            courier_with(&format!(r#"{{"x":{closed}}}"#)),
        ),
        (
            "a million arrays, wide",
            RIDES,
            format!("[{}[", "[],".repeat(MILLION)),
        ),
        (
            "an endless string",
            RIDES,
            with(&format!(r#""x":"{}"#, "\\\\".repeat(room / 2))),
        ),
        ("an endless number", RIDES, format!("[{}", "0".repeat(room))),
        (
            "an array of nothing",
            RIDES,
            format!("[{}]", ",".repeat(room)),
        ),
    ];
    let invalid = [
        ("a giant number", RIDES, sevens.clone()),
        (
            "a giant number in extra",
            RIDES,
            with(&format!(r#""x":{sevens}"#)),
        ),
        (
            "a giant number in attributes",
            COURIERS,
            courier_with(&format!(r#"{{"x":{sevens}}}"#)),
        ),
        (
            "a giant exponent in extra",
            RIDES,
            with(&format!(r#""x":1e{sevens}"#)),
        ),
        (
            "a giant number for an id",
            RIDES,
            with("")
                .replace(r#""id":7,"#, &format!(r#""id":{sevens},"#))
                .replace(",}", "}"),
        ),
        ("a giant string", RIDES, with(&format!(r#""x":"{sevens}""#))),
        ("a giant name", RIDES, with(&format!(r#""{sevens}":1"#))),
        (
            "a giant name that nobody can hold",
            RIDES,
            with(&format!(r#""\ud800{sevens}":1"#)),
        ),
        (
            "members of one name",
            RIDES,
            with(&vec![r#""":1"#; room / 5].join(",")),
        ),
        (
            "members that nobody can hold",
            RIDES,
            with(&vec![r#""":1e999"#; room / 9].join(",")),
        ),
        (
            "names that nobody can hold",
            RIDES,
            with(&vec![r#""\ud800":1"#; room / 11].join(",")),
        ),
        (
            "members that a courier has not",
            COURIERS,
            format!("{{{}}}", vec![r#""":1"#; room / 5].join(",")),
        ),
    ];
    let too_large = [
        (
            "elements without number",
            RIDES,
            format!("[{}1]", "1,".repeat(room / 2 - 1)),
        ),
        (
            "elements that nobody can hold",
            RIDES,
            format!("[{}1]", "1e999,".repeat(room / 6)),
        ),
        ("ten megabytes of a number", RIDES, "7".repeat(10 * MILLION)),
    ];
    let of = |status, code| {
        move |(case, path, body): (&'static str, &'static str, String)| {
            (case, path, body.into_bytes(), status, code)
        }
    };
    malformed
        .into_iter()
        .map(of(400, "malformed"))
        .chain(invalid.into_iter().map(of(422, "invalid")))
        .chain(too_large.into_iter().map(of(413, "too-large")))
        .collect()
}

/// What is giant on one line is that line's fault.
#[tokio::test]
async fn a_giant_line_harms_no_other() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    let deep = "[".repeat(MILLION);
    let number = "7".repeat(MILLION);
    let lines = [
        ride(1).to_string(),
        deep,
        ride(2).to_string(),
        with(&format!(r#""x":{number}"#)),
        ride(3).to_string(),
        with(r#""x":1e131071"#),
        "\u{feff}{}".to_owned(),
        ride(4).to_string(),
    ];
    let answer = gateway
        .send(
            Method::POST,
            "/v1/rides",
            "application/x-ndjson",
            lines.join("\n"),
        )
        .await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let codes: Vec<_> = answer.body["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| result["error"]["code"].clone())
        .collect();
    let (ok, bad, not_json) = (Value::Null, json!("invalid"), json!("malformed"));
    let expected = [&ok, &not_json, &ok, &bad, &ok, &bad, &not_json, &ok];
    assert!(codes.iter().eq(expected), "{codes:?}");
    assert_eq!(log.entries().await.len(), 4);
}

/// Compressed, what is giant is small on its way and no less refused.
#[tokio::test]
async fn giants_in_a_small_parcel() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    let before = peak_bytes(&gateway);
    for (plain, status, code) in [
        ("[".repeat(8 * MILLION), 400, "malformed"),
        ("7".repeat(8 * MILLION), 422, "invalid"),
        ("7".repeat(10 * MILLION), 413, "too-large"),
        ("[".repeat(100 * MILLION), 413, "too-large"),
    ] {
        let mut parcel = Vec::new();
        let mut encoder = GzipEncoder::new(plain.as_bytes());
        encoder.read_to_end(&mut parcel).await.unwrap();
        let authorization = format!("Bearer {}", gateway.key);
        let headers = [
            ("authorization", authorization.as_str()),
            ("content-encoding", "gzip"),
        ];
        let url = format!("http://{}/v1/rides", gateway.address);
        let answer = gateway.exchange(Method::POST, &url, &headers, parcel).await;
        check_problem(&answer, status, code, &plain[..1]);
    }
    let growth = peak_bytes(&gateway) - before;
    assert!(growth < GROWTH_BYTES_MAX, "grew by {growth} bytes");
    assert_eq!(gateway.post(&ride(1)).await.status, 202);
}

/// What the reader tells apart, HTTP tells apart: the whole document's fault, one item's, none's.
#[tokio::test]
async fn oddities_are_answered_as_they_deserve() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    for (value, status, pointer) in [
        ("1e-400", 202, ""),
        ("-0.0", 202, ""),
        ("18446744073709551615", 202, ""),
        (r#""\ud83d\ude00""#, 202, ""),
        (r#"{"b":1,"a":2}"#, 202, ""),
        ("1e400", 422, "/x"),
        ("1e131071", 422, "/x"),
        ("18446744073709551616", 422, "/x"),
        (r#""\ud800""#, 422, "/x"),
        (r#""\u0000""#, 422, "/x"),
        (r#"{"a":1,"a":1}"#, 422, "/x/a"),
        ("[[[[[[[[]]]]]]]]", 422, "/x"),
        ("True", 400, ""),
        ("nUll", 400, ""),
        ("NaN", 400, ""),
        ("01", 400, ""),
        ("'a'", 400, ""),
        ("\"\0\"", 400, ""),
        ("\"\t\"", 400, ""),
        ("\u{feff}1", 400, ""),
    ] {
        let in_attributes = courier_with(&format!(r#"{{"x":{value}}}"#));
        let in_extra = with(&format!(r#""x":{value}"#));
        for (path, object, body) in [
            ("/v1/rides", "", in_extra),
            ("/v1/couriers", "/attributes", in_attributes),
        ] {
            let answer = post(&gateway, path, body).await;
            match status {
                202 => assert_eq!(answer.status, 202, "{value}: {answer:?}"),
                422 => {
                    check_problem(&answer, 422, "invalid", value);
                    let found = answer.body["errors"][0]["pointer"].as_str().unwrap();
                    // The slow way names the member of the item that holds it.
                    let expected = format!("{object}{pointer}");
                    let named = found == expected || (found == object && !object.is_empty());
                    assert!(named, "{value}: {found}");
                }
                _ => check_problem(&answer, 400, "malformed", value),
            }
        }
    }
    for (bytes, what) in [
        (&b"\xff"[..], "no byte of UTF-8"),
        (b"\xc0\x80", "overlong"),
        (b"\xe2\x82", "truncated"),
        (b"\xed\xa0\x80", "a surrogate"),
        (b"\xf4\x90\x80\x80", "beyond the last"),
    ] {
        let ride = with(r#""x":"?""#).into_bytes();
        let at = ride.iter().position(|byte| *byte == b'?').unwrap();
        let body = [&ride[..at], bytes, &ride[at + 1..]].concat();
        let answer = post(&gateway, "/v1/rides", body).await;
        check_problem(&answer, 400, "malformed", what);
    }
}
