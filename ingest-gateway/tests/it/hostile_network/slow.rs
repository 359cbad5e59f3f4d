//! Clients that take their time: with the first byte, with heads, with bodies, between requests,
//! and with reading.
//!
//! Each bound is set to far less than it is by default, and seen to act before the default could.

use devstack::siege::http2::{
    END_HEADERS, END_STREAM, HEADERS, PING, WINDOW_UPDATE, frame, preface,
};
use std::time::Duration;

use devstack::eventually::eventually;
use devstack::siege::{Waits, is_closed};
use futures_util::future::join_all;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::floods::GET;
use crate::harness::{Gateway, LIMIT, Log};
use crate::siege::{
    BESIDE_BYTES_MAX, BODIES_BYTES_MAX, LONG, ROOM_FLAG, SHORT, Size, attacker, besieged, trickle,
};

/// What these tests set bounds to, where they are not said otherwise.
const BOUND: Duration = Duration::from_secs(1);

/// The bounds' defaults: a flag that does nothing shows as a wait about as long as these, a little
/// less where the connection was made before the test came to look.
const HEADER_READ_LIMIT: Duration = Duration::from_secs(30);
const BODY_READ_LIMIT: Duration = Duration::from_secs(6);
const ANSWER_READ_LIMIT: Duration = Duration::from_secs(10);

/// Slow on the first byte, on heads, and on bodies.
async fn slow_loris(size: Size) {
    let log = Log::start(1).await;
    let flags = [
        ROOM_FLAG,
        "--log-level=warn",
        "--header-read-limit=1s",
        "--body-read-limit=1s",
    ];
    let mut gateway = Gateway::ready(&log, &flags).await;
    let told = Waits::default();
    let [first_byte, head, body] = [(); 3].map(|()| Waits::default());
    besieged(
        &mut gateway,
        size.beside(BODIES_BYTES_MAX),
        async |gateway| {
            let length = gateway.head("content-length: 5000\r\n");
            let chunked = gateway.head("transfer-encoding: chunked\r\n") + "fff\r\n";
            size.again_and_again(async || {
                let attacks = (0..size.sockets).map(async |number| {
                    let stream = attacker(gateway, number).await;
                    let (sent, little, waits) = match number % 5 {
                        0 => ("", "", &first_byte),
                        1 => ("P", "", &head),
                        2 => ("POST / HTTP/1.1\r\na: ", "x", &head),
                        3 => (length.as_str(), " ", &body),
                        _ => (chunked.as_str(), " ", &body),
                    };
                    let ended = trickle(stream, sent.as_bytes(), little.as_bytes()).await;
                    waits.add(ended.after);
                    // A late byte may meet a closed socket, and the reset takes the answer.
                    let is_told = ended.answer.starts_with("HTTP/1.1 408");
                    let may_be_told = is_told && number % 5 >= 3;
                    assert!(may_be_told || ended.answer.is_empty(), "{}", ended.answer);
                    if is_told {
                        told.add(ended.after);
                    }
                });
                join_all(attacks).await;
            })
            .await;
        },
    )
    .await;
    first_byte.check(BOUND, HEADER_READ_LIMIT / 2, "the first byte");
    head.check(BOUND, HEADER_READ_LIMIT / 2, "the head");
    body.check(BOUND, BODY_READ_LIMIT / 2, "the body");
    let told = told.count();
    assert!(told >= size.sockets / 5, "{told} were told");
    assert!(cut_off(&gateway, "silent").await > 0.0);
}

#[tokio::test]
async fn slow_loris_on_first_byte_head_and_body() {
    slow_loris(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile_network"]
async fn slow_loris_on_first_byte_head_and_body_long() {
    slow_loris(LONG).await;
}

async fn cut_off(gateway: &Gateway, reason: &str) -> f64 {
    let name = format!("weir_gateway_connections_cut_off_total{{reason=\"{reason}\"}}");
    gateway.metric(&name).await
}

/// Asks once over HTTP/1.1, and then never again.
async fn idle(size: Size) {
    let log = Log::start(1).await;
    let flags = [ROOM_FLAG, "--log-level=warn", "--header-read-limit=1s"];
    let mut gateway = Gateway::ready(&log, &flags).await;
    let waits = Waits::default();
    besieged(
        &mut gateway,
        size.beside(BESIDE_BYTES_MAX),
        async |gateway| {
            size.again_and_again(async || {
                let attacks = (0..size.sockets).map(async |number| {
                    let stream = attacker(gateway, number).await;
                    let request = b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n";
                    let begun = Instant::now();
                    let ended = trickle(stream, request, b"").await;
                    assert!(ended.answer.starts_with("HTTP/1.1 4"), "{}", ended.answer);
                    assert_eq!(ended.answer.matches("HTTP/1.1").count(), 1);
                    waits.add(begun.elapsed());
                });
                join_all(attacks).await;
            })
            .await;
        },
    )
    .await;
    waits.check(BOUND, HEADER_READ_LIMIT / 2, "an idle connection");
}

#[tokio::test]
async fn idle_connections_are_closed() {
    idle(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile_network"]
async fn idle_connections_are_closed_long() {
    idle(LONG).await;
}

/// Answers pings and takes nothing of its answers, or asks for nothing more.
async fn only_pings(size: Size) {
    let log = Log::start(1).await;
    let flags = [
        ROOM_FLAG,
        "--log-level=warn",
        "--answer-read-limit=500ms",
        "--header-read-limit=1s",
    ];
    let mut gateway = Gateway::ready(&log, &flags).await;
    let get = |stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, GET);
    let requests: Vec<u8> = (0..100).flat_map(|n| get(2 * n + 1)).collect();
    let no_window = preface(&[0, 4, 0, 0, 0, 0]);
    let little_window = preface(&[0, 4, 0, 0, 0, 1]);
    let window = frame(WINDOW_UPDATE, 0, 0, &[0, 16, 0, 0]);
    let read_all = [preface(&[0, 4, 0, 16, 0, 0]), window, get(1)].concat();
    let attacks = [
        [no_window, requests.clone()].concat(),
        [little_window, requests].concat(),
        read_all,
    ];
    let [unread, idle] = [(); 2].map(|()| Waits::default());
    besieged(
        &mut gateway,
        size.beside(BODIES_BYTES_MAX),
        async |gateway| {
            size.again_and_again(async || {
                let clients = (0..size.sockets / 16).map(async |number| {
                    let stream = attacker(gateway, number).await;
                    let kind = number % attacks.len();
                    let pong = frame(PING, 1, 0, &[0; 8]);
                    let begun = Instant::now();
                    trickle(stream, &attacks[kind], &pong).await;
                    let waits = if kind == 2 { &idle } else { &unread };
                    waits.add(begun.elapsed());
                });
                join_all(clients).await;
            })
            .await;
        },
    )
    .await;
    unread.check(
        BOUND / 2,
        ANSWER_READ_LIMIT / 2,
        "an answer that is not read",
    );
    idle.check(BOUND, HEADER_READ_LIMIT / 2, "an idle client");
    for reason in ["unread", "idle"] {
        assert!(cut_off(&gateway, reason).await > 0.0, "{reason}");
    }
}

#[tokio::test]
async fn http_2_clients_that_only_answer_pings_are_closed() {
    only_pings(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile_network"]
async fn http_2_clients_that_only_answer_pings_are_closed_long() {
    only_pings(LONG).await;
}

/// Takes nothing of its answers over HTTP/1.1.
async fn slow_readers(size: Size) {
    let log = Log::start(1).await;
    let flags = [ROOM_FLAG, "--log-level=warn", "--answer-read-limit=500ms"];
    let mut gateway = Gateway::ready(&log, &flags).await;
    let waits = Waits::default();
    besieged(
        &mut gateway,
        size.beside(BODIES_BYTES_MAX),
        async |gateway| {
            let requests = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(500);
            size.again_and_again(async || {
                let attacks = (0..size.sockets).map(async |number| {
                    let begun = Instant::now();
                    let mut stream = attacker(gateway, number).await;
                    // Whoever is late with the rest may have been closed on.
                    let _ = stream.write_all(requests.as_bytes()).await;
                    let closed = eventually(LIMIT, || async { is_closed(&stream).then_some(()) });
                    closed.await.expect("the gateway ends it");
                    waits.add(begun.elapsed());
                });
                join_all(attacks).await;
            })
            .await;
        },
    )
    .await;
    waits.check(BOUND / 2, ANSWER_READ_LIMIT / 2, "a slow reader");
}

#[tokio::test]
async fn a_slow_reader_is_closed() {
    slow_readers(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile_network"]
async fn a_slow_reader_is_closed_long() {
    slow_readers(LONG).await;
}
