//! What a hostile network sends to the status API. The cases are the gateway's; the code that
//! meets them is chassis's for both, so here it is shown to be in place.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::stage::{LIMIT, Stage, XRIDES};

/// How much memory the attacks here may make the process take, in bytes.
const MEMORY_GROWTH_MAX: u64 = 64 << 20;

/// The defaults of bounds that are set to half a second here: a flag that does nothing shows as a
/// wait as long as these.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_READ_LIMIT: Duration = Duration::from_secs(10);

async fn resident_bytes(stage: &Stage) -> f64 {
    stage.metric("process_resident_memory_bytes").await
}

/// Asserts what every attack leaves behind: little memory, and a service that serves.
async fn check_unharmed(stage: &Stage, before: f64) {
    let grown = resident_bytes(stage).await - before;
    assert!(grown < MEMORY_GROWTH_MAX as f64, "{grown} bytes more");
    check_served(stage).await;
}

async fn check_served(stage: &Stage) {
    let answer = stage.get(XRIDES, "/v1/rides/1").await;
    answer.is_problem(404, "not-found");
}

/// Sends bytes and reads until the service closes.
async fn exchange(stage: &Stage, bytes: &str) -> String {
    let stream = stage.connect(bytes).await;
    read_to_the_end(stream).await
}

async fn read_to_the_end(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer))
        .await
        .expect("it is closed in time")
        .expect("by a close, not a reset");
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn smuggled_requests_are_one_answer_and_the_end() {
    let stage = Stage::new().await;
    check_served(&stage).await;
    let (before, asked) = (resident_bytes(&stage).await, stage.ledger_queries().await);
    let key = stage.key_header(XRIDES);
    let body = r#"{"tracking_ids":[]}"#;
    let length = body.len();
    let post = |headers: &str, body: &str| {
        format!("POST /v1/requests/lookup HTTP/1.1\r\nhost: x\r\n{key}{headers}\r\n{body}")
    };
    let good = post(&format!("content-length: {length}\r\n"), body);
    let chunks = format!("{length:x}\r\n{body}\r\n0\r\n\r\n");
    let chunked = "transfer-encoding: chunked\r\n";
    let long = "x".repeat(40_000);
    let shapes = [
        (
            400,
            post(&format!("content-length: {length}\r\n{chunked}"), &chunks),
        ),
        (
            400,
            post(
                &format!("content-length: {length}\r\ncontent-length: {length}\r\n"),
                body,
            ),
        ),
        (
            400,
            post(
                &format!("content-length: {length}\r\ncontent-length: 1\r\n"),
                body,
            ),
        ),
        (400, good.replace("\r\n", "\n")),
        (
            400,
            good.replacen("host: x\r\n", "host: x\r\n folded\r\n", 1),
        ),
        (400, good.replacen("host:", "host :", 1)),
        (400, post(chunked, &format!("1;{long}\r\n{{\r\n0\r\n\r\n"))),
        (400, post(chunked, "fffffffffffffffff\r\n{")),
        (414, format!("GET /{long} HTTP/1.1\r\n\r\n")),
        (431, post(&format!("a: {long}\r\n"), "")),
        (431, post(&"a: b\r\n".repeat(200), "")),
    ];
    for (status, shape) in shapes {
        let answer = exchange(&stage, &format!("{shape}{good}")).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{shape:.300}: {answer}"
        );
        assert!(head.contains("application/problem+json"), "{answer}");
        // Exactly one, and whole: nothing follows it.
        let problem: Value = serde_json::from_str(body).expect("one document");
        assert_eq!(problem["status"], status, "{answer}");
    }
    assert_eq!(stage.ledger_queries().await, asked);
    check_unharmed(&stage, before).await;
}

#[tokio::test]
async fn slow_and_crowding_clients_leave_room_for_others() {
    let flags = [
        "--headers-timeout=500ms",
        "--answer-read-limit=500ms",
        "--connections-per-address-max=24",
    ];
    let stage = Stage::with(&flags).await;
    check_served(&stage).await;
    let before = resident_bytes(&stage).await;
    let begun = Instant::now();
    let mut held = Vec::new();
    for number in 0..20 {
        let beginning = [
            "",
            "G",
            "GET / HTTP/1.1\r\na: b",
            "GET /v1/rides/1 HTTP/1.1\r\nhost:",
        ];
        held.push(stage.connect(beginning[number % beginning.len()]).await);
    }
    // One that asks and asks, and reads nothing.
    let deaf = stage
        .connect(&"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(500))
        .await;
    check_served(&stage).await;
    for stream in held {
        assert_eq!(read_to_the_end(stream).await, "");
    }
    assert!(begun.elapsed() < HEADERS_TIMEOUT, "{:?}", begun.elapsed());
    stage
        .until("the deaf one is closed on", async || {
            let tried = deaf.try_write(b"\r\n");
            tried.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
        })
        .await;
    assert!(begun.elapsed() < ANSWER_READ_LIMIT, "{:?}", begun.elapsed());
    check_unharmed(&stage, before).await;

    let mut crowd = Vec::new();
    for _ in 0..24 {
        crowd.push(stage.connect("").await);
    }
    let mut refused = stage.connect("").await;
    let _ = refused.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
    let answer = read_to_the_end(refused).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("urn:weir:problem:overloaded"), "{answer}");
    drop(crowd);
    let name = "weir_status_connections_refused_total{bound=\"address\"}";
    assert_eq!(stage.metric(name).await, 1.0);
}

/// Idle after an answer, and slow with a body.
#[tokio::test]
async fn idle_clients_and_slow_bodies_are_ended() {
    let stage = Stage::with(&["--headers-timeout=500ms"]).await;
    check_served(&stage).await;
    let before = resident_bytes(&stage).await;
    let key = stage.key_header(XRIDES);
    let post = |headers: &str, body: &str| {
        format!("POST /v1/requests/lookup HTTP/1.1\r\nhost: x\r\n{key}{headers}\r\n{body}")
    };
    let slow = [
        post("content-length: 100\r\nconnection: close\r\n", "{"),
        post(
            "transfer-encoding: chunked\r\nconnection: close\r\n",
            "64\r\n{",
        ),
    ];
    let slow = slow.map(|request| {
        let stage = &stage;
        async move {
            let answer = exchange(stage, &request).await;
            assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
            assert!(
                answer.contains("urn:weir:problem:request-timeout"),
                "{answer}"
            );
        }
    });
    let idle = async {
        let begun = Instant::now();
        let answer = exchange(&stage, "GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(answer.matches("HTTP/1.1 4").count(), 1, "{answer}");
        let waited = begun.elapsed();
        assert!(waited < HEADERS_TIMEOUT, "{waited:?}");
        // Beside the slow ones.
        check_served(&stage).await;
    };
    let [known, chunked] = slow;
    tokio::join!(known, chunked, idle);
    check_unharmed(&stage, before).await;
}

#[tokio::test]
async fn trusted_proxies_have_no_bound_per_address() {
    let flags = [
        "--connections-per-address-max=2",
        "--trusted-proxies=127.0.0.0/8,fd00::/8",
    ];
    let stage = Stage::with(&flags).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(stage.connect("").await);
    }
    check_served(&stage).await;
}
