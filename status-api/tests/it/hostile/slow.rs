//! Clients that take their time: with the first byte, with heads, with bodies, between requests,
//! and with reading.
//!
//! Each bound that has a flag is set to far less than it is by default, and seen to act before the
//! default could.

use std::time::Duration;

use devstack::siege::{LONG, SHORT, Size, Waits, is_closed, trickle};
use futures_util::future::join_all;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::lookup;
use crate::siege::{attacker, besieged};
use crate::stage::{LIMIT, Stage};

/// What these tests set bounds to.
const BOUND: Duration = Duration::from_secs(1);
const BOUNDS: [&str; 3] = [
    "--headers-timeout=1s",
    "--answer-read-limit=1s",
    "--log-level=warn",
];

/// The defaults of the bounds: a flag that does nothing shows as a wait about as long as these.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_READ_LIMIT: Duration = Duration::from_secs(10);

/// What a body may take; no flag sets it.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Slow on the first byte, on heads, and on bodies.
async fn slow_loris(size: Size) {
    let stage = Stage::with(&BOUNDS).await;
    let length = lookup(&stage, "content-length: 5000\r\n", "");
    let chunked = lookup(&stage, "transfer-encoding: chunked\r\n", "fff\r\n");
    let [first_byte, head, body, told] = [(); 4].map(|()| Waits::default());
    besieged(&stage, size, async || {
        size.again_and_again(async || {
            let attacks = (0..size.sockets).map(async |number| {
                let stream = attacker(&stage, number).await;
                let (sent, little, waits) = match number % 5 {
                    0 => ("", "", &first_byte),
                    1 => ("G", "", &head),
                    2 => ("GET / HTTP/1.1\r\na: ", "x", &head),
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
                    let problem = "urn:weir:problem:request-timeout";
                    assert!(ended.answer.contains(problem), "{}", ended.answer);
                    told.add(ended.after);
                }
            });
            join_all(attacks).await;
        })
        .await;
    })
    .await;
    first_byte.check(BOUND, HEADERS_TIMEOUT / 2, "the first byte");
    head.check(BOUND, HEADERS_TIMEOUT / 2, "the head");
    body.check(BODY_TIMEOUT, 2 * BODY_TIMEOUT, "the body");
    let told = told.count();
    assert!(told >= size.sockets / 5, "{told} were told");
}

#[tokio::test]
async fn slow_loris_on_first_byte_head_and_body() {
    slow_loris(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile"]
async fn slow_loris_on_first_byte_head_and_body_long() {
    slow_loris(LONG).await;
}

/// Asks once, and then never again.
async fn idle(size: Size) {
    let stage = Stage::with(&BOUNDS).await;
    let waits = Waits::default();
    besieged(&stage, size, async || {
        size.again_and_again(async || {
            let attacks = (0..size.sockets).map(async |number| {
                let stream = attacker(&stage, number).await;
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
    })
    .await;
    waits.check(BOUND, HEADERS_TIMEOUT / 2, "an idle connection");
}

#[tokio::test]
async fn idle_connections_are_closed() {
    idle(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile"]
async fn idle_connections_are_closed_long() {
    idle(LONG).await;
}

/// Asks and asks, and takes nothing of its answers.
async fn slow_readers(size: Size) {
    let stage = Stage::with(&BOUNDS).await;
    let waits = Waits::default();
    besieged(&stage, size, async || {
        let requests = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(500);
        size.again_and_again(async || {
            let attacks = (0..size.sockets).map(async |number| {
                let begun = Instant::now();
                let mut stream = attacker(&stage, number).await;
                // Whoever is late with the rest may have been closed on.
                let _ = stream.write_all(requests.as_bytes()).await;
                let closed = devstack::eventually::eventually(LIMIT, || async {
                    is_closed(&stream).then_some(())
                });
                closed.await.expect("the service ends it");
                waits.add(begun.elapsed());
            });
            join_all(attacks).await;
        })
        .await;
    })
    .await;
    waits.check(BOUND, ANSWER_READ_LIMIT / 2, "a slow reader");
}

#[tokio::test]
async fn a_slow_reader_is_closed() {
    slow_readers(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile"]
async fn a_slow_reader_is_closed_long() {
    slow_readers(LONG).await;
}
