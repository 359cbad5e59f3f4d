//! JSON that nobody should send, to the real process: it answers, stays small, and goes on serving.
//!
//! What each grammatical oddity is answered with is in `json::conformance`; here is what is giant,
//! and what has to come through HTTP. The long forms run with those of `hostile_network`.

mod oddities;

use std::sync::atomic::{AtomicUsize, Ordering};

use async_compression::tokio::bufread::GzipEncoder;
use bytes::Bytes;
use contract::limits::BODY_BYTES_MAX;
use http::Method;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use crate::harness::{Answer, Gateway, Log, ride};
use crate::siege::{LONG, SHORT, Size, besieged};

/// More than the process may grow by, whatever it was sent, in bytes. A body of 8 MiB is there
/// twice, and what the parser notes of it takes at most ten times as much; two are read at once.
const GROWTH_BYTES_MAX: u64 = 512 << 20;

const MILLION: usize = 1_000_000;

/// The id of rides that attackers send.
const ATTACKERS: i64 = 7_777_777;

/// A ride with one more member, as JSON text.
fn with(member: &str) -> String {
    let ride = ride(ATTACKERS).to_string();
    format!("{},{member}}}", &ride[..ride.len() - 1])
}

fn courier_with(attributes: &str) -> String {
    format!(r#"{{"courier_id":"c","name":"n","max_capacity":1,"attributes":{attributes}}}"#)
}

async fn post(gateway: &Gateway, path: &str, body: impl Into<Bytes>) -> Answer {
    gateway
        .send(Method::POST, path, "application/json", body)
        .await
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

/// A giant that is refused for its grammar or its size leaves nothing at the log.
async fn giants_come(size: Size) {
    let log = Log::start(1).await;
    let mut gateway = Gateway::ready(&log, &["--log-level=warn"]).await;
    let giants: Vec<_> = giants()
        .into_iter()
        .map(|(case, path, body, status, code)| (case, path, Bytes::from(body), status, code))
        .collect();
    let honest = AtomicUsize::new(0);
    besieged(&mut gateway, GROWTH_BYTES_MAX, async |gateway| {
        size.again_and_again(async || {
            for (case, path, body, status, code) in &giants {
                // Beside it somebody else is served, in time or not at all.
                let beside = ride(2);
                let (answer, accepted) =
                    tokio::join!(post(gateway, path, body.clone()), gateway.post(&beside));
                honest.fetch_add(1, Ordering::Relaxed);
                check_problem(&answer, *status, code, case);
                assert_eq!(accepted.status, 202, "beside {case}: {accepted:?}");
            }
        })
        .await;
    })
    .await;
    assert!(honest.into_inner() >= giants.len());
    assert_eq!(stored(&log).await, 0, "no giant is stored");
}

/// How many rides and couriers of the attackers' are at the log.
async fn stored(log: &Log) -> usize {
    let entries = log.entries().await;
    let of_attackers = |record: &contract::Record| match record {
        contract::Record::Ride(ride) => ride.id == ATTACKERS,
        contract::Record::Courier(_) => true,
    };
    entries.iter().filter(|it| of_attackers(&it.record)).count()
}

#[tokio::test]
async fn giants_are_refused_and_cost_little_and_honest_clients_are_served() {
    giants_come(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile_network"]
async fn giants_are_refused_and_cost_little_and_honest_clients_are_served_long() {
    giants_come(LONG).await;
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
                .replace(
                    &format!(r#""id":{ATTACKERS},"#),
                    &format!(r#""id":{sevens},"#),
                )
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
async fn giant_lines(size: Size) {
    let log = Log::start(1).await;
    let mut gateway = Gateway::ready(&log, &["--log-level=warn"]).await;
    let lines = [
        ride(1).to_string(),
        "[".repeat(MILLION),
        ride(2).to_string(),
        with(&format!(r#""x":{}"#, "7".repeat(MILLION))),
        ride(3).to_string(),
        with(r#""x":1e131071"#),
        "\u{feff}{}".to_owned(),
        ride(4).to_string(),
    ];
    let lines = Bytes::from(lines.join("\n"));
    besieged(&mut gateway, GROWTH_BYTES_MAX, async |gateway| {
        size.again_and_again(async || {
            let kind = "application/x-ndjson";
            let answer = gateway.send(Method::POST, "/v1/rides", kind, lines.clone());
            let answer = answer.await;
            assert_eq!(answer.status, 202, "{answer:?}");
            let codes = codes(&answer);
            let (ok, bad, not_json) = (Value::Null, json!("invalid"), json!("malformed"));
            let expected = [&ok, &not_json, &ok, &bad, &ok, &bad, &not_json, &ok];
            assert!(codes.iter().eq(expected), "{codes:?}");
        })
        .await;
    })
    .await;
    assert_eq!(stored(&log).await, 0);
}

/// What each item is refused with; null where it is accepted.
fn codes(answer: &Answer) -> Vec<Value> {
    let results = answer.body["results"].as_array().expect("results");
    let codes = results.iter().map(|it| it["error"]["code"].clone());
    codes.collect()
}

#[tokio::test]
async fn a_giant_line_harms_no_other() {
    giant_lines(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile_network"]
async fn a_giant_line_harms_no_other_long() {
    giant_lines(LONG).await;
}

/// Compressed, what is giant is small on its way and no less refused.
async fn parcels(size: Size) {
    let log = Log::start(1).await;
    let mut gateway = Gateway::ready(&log, &["--log-level=warn"]).await;
    let mut parcels = Vec::new();
    for (plain, status, code) in [
        ("[".repeat(8 * MILLION), 400, "malformed"),
        ("7".repeat(8 * MILLION), 422, "invalid"),
        ("7".repeat(10 * MILLION), 413, "too-large"),
        ("[".repeat(100 * MILLION), 413, "too-large"),
    ] {
        let mut parcel = Vec::new();
        let mut encoder = GzipEncoder::new(plain.as_bytes());
        encoder.read_to_end(&mut parcel).await.unwrap();
        parcels.push((Bytes::from(parcel), status, code));
    }
    besieged(&mut gateway, GROWTH_BYTES_MAX, async |gateway| {
        let authorization = format!("Bearer {}", gateway.key);
        let headers = [
            ("authorization", authorization.as_str()),
            ("content-encoding", "gzip"),
        ];
        let url = format!("http://{}/v1/rides", gateway.address);
        size.again_and_again(async || {
            for (parcel, status, code) in &parcels {
                let answer = gateway.exchange(Method::POST, &url, &headers, parcel.clone());
                check_problem(&answer.await, *status, code, "a parcel");
            }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn giants_in_a_small_parcel() {
    parcels(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile_network"]
async fn giants_in_a_small_parcel_long() {
    parcels(LONG).await;
}
