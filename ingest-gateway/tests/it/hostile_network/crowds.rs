//! Too many: connections of one address, connections in all, streams of one connection.

use devstack::siege::http2::{END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, frame, preface};
use futures_util::future::join_all;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::floods::POST;
use crate::fairness::other_key;
use crate::harness::{Gateway, LIMIT, Log};
use crate::siege::{ATTACKERS, BESIDE_BYTES_MAX, LONG, ROOM_FLAG, SHORT, Size, attacker, besieged};

/// What whoever comes over a bound is told.
async fn turned_away(mut stream: TcpStream) -> Value {
    let mut answer = String::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await;
    read.expect("in time").expect("by a close");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("retry-after: "), "{answer}");
    let problem: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(problem["code"], "overloaded");
    problem
}

async fn crowds_of_one_address(size: Size) {
    let log = Log::start(1).await;
    let flags = [
        ROOM_FLAG,
        "--log-level=warn",
        "--connections-per-address-max=8",
        "--connections-max=64",
        "--header-read-limit=20s",
    ];
    let mut gateway = Gateway::ready(&log, &flags).await;
    let mut refused = 0.0;
    besieged(&mut gateway, BESIDE_BYTES_MAX, async |gateway| {
        size.again_and_again(async || {
            let places = 0..8 * ATTACKERS.len();
            let held = join_all(places.map(|number| attacker(gateway, number))).await;
            // Each address has as many as it may, and none has another's.
            for number in 0..ATTACKERS.len() {
                turned_away(attacker(gateway, number).await).await;
                refused += 1.0;
            }
            drop(held);
            until_alone(gateway).await;
        })
        .await;
    })
    .await;
    let name = "weir_gateway_connections_refused_total{bound=\"address\"}";
    assert_eq!(gateway.metric(name).await, refused);
    let name = "weir_gateway_connections_refused_total{bound=\"all\"}";
    assert_eq!(gateway.metric(name).await, 0.0);
}

/// Until the attackers' places are free again: the honest client's pool has one or two.
async fn until_alone(gateway: &Gateway) {
    let alone = devstack::eventually::eventually(LIMIT, || async {
        (gateway.metric("weir_gateway_connections ").await <= 2.0).then_some(())
    });
    alone.await.expect("their places are given back");
}

#[tokio::test]
async fn one_address_cannot_take_every_connection() {
    crowds_of_one_address(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile_network"]
async fn one_address_cannot_take_every_connection_long() {
    crowds_of_one_address(LONG).await;
}

/// A proxy speaks for many: its address has no bound, and says so for nobody else.
#[tokio::test]
async fn trusted_proxies_have_no_bound_and_others_cannot_claim_to_be_one() {
    let log = Log::start(1).await;
    let flags = [
        "--connections-per-address-max=2",
        "--trusted-proxies=127.0.0.2,fd00::/8",
    ];
    let gateway = Gateway::ready(&log, &flags).await;
    let ask = async |number: usize| {
        let mut stream = attacker(&gateway, number).await;
        let claims = "x-forwarded-for: 127.0.0.2\r\nx-forwarded-for: 198.51.100.7, fd00::1\r\n";
        let request =
            format!("GET /openapi.json HTTP/1.1\r\nhost: x\r\n{claims}connection: close\r\n\r\n");
        // Whoever is turned away may have been closed on already.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer[..answer.len().min(12)]).into_owned()
    };
    let _proxy = join_all((0..4).map(|_| attacker(&gateway, 0))).await;
    assert_eq!(ask(0).await, "HTTP/1.1 200");
    let _other = join_all((0..2).map(|_| attacker(&gateway, 1))).await;
    assert_eq!(ask(1).await, "HTTP/1.1 503");
    assert_eq!(ask(2).await, "HTTP/1.1 200");
}

/// Most requests at once on one HTTP/2 connection, as the gateway announces it.
const STREAMS_MAX: u32 = 128;

/// Begins more requests on one connection than there may be, and ends none.
async fn streams_without_end(size: Size) {
    let log = Log::start(1).await;
    let mut gateway = Gateway::ready(&log, &[ROOM_FLAG, "--log-level=warn"]).await;
    // Open requests have room partner by partner: who uses its own up shuts itself out.
    let attacker_key = other_key(&log).await;
    besieged(&mut gateway, BESIDE_BYTES_MAX, async |gateway| {
        let authorization = format!("Bearer {attacker_key}");
        assert!(authorization.len() < 127, "its length is one byte of HPACK");
        // Literal headers whose names are in HPACK's static table, their values as they are.
        let key = [
            &[0x0f, 0x08, authorization.len() as u8],
            authorization.as_bytes(),
        ]
        .concat();
        let head = [POST, &key, b"\x0f\x0d\x012"].concat();
        let over = 40;
        let requests: Vec<u8> = (0..STREAMS_MAX + over)
            .flat_map(|n| frame(HEADERS, END_HEADERS, 2 * n + 1, &head))
            .collect();
        let bytes = [preface(b""), requests, frame(PING, 0, 0, b"the last")].concat();
        size.again_and_again(async || {
            let attacks = (0..size.sockets / 16).map(async |number| {
                let mut stream = attacker(gateway, number).await;
                stream.write_all(&bytes).await.unwrap();
                let refused = refused_streams(&mut stream).await;
                assert_eq!(refused.len(), over as usize);
                assert!(refused.iter().all(|it| *it > 2 * STREAMS_MAX));
            });
            join_all(attacks).await;
        })
        .await;
    })
    .await;
}

/// The streams that are refused before the answer to the ping comes.
async fn refused_streams(stream: &mut TcpStream) -> Vec<u32> {
    let read = async {
        let mut refused = Vec::new();
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let [a, b, c, kind, _, s, t, u, v] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            stream.read_exact(&mut payload).await.unwrap();
            match kind {
                PING if payload == b"the last" => return refused,
                // REFUSED_STREAM: the client may send it again.
                RST_STREAM if payload == [0, 0, 0, 7] => {
                    refused.push(u32::from_be_bytes([s, t, u, v]));
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(LIMIT, read).await.expect("in time")
}

#[tokio::test]
async fn streams_without_end_are_refused() {
    streams_without_end(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile_network"]
async fn streams_without_end_are_refused_long() {
    streams_without_end(LONG).await;
}

/// What an answer over HTTP/2 may take that waits to be read, in bytes: its stream, its head and its
/// body, but nothing of the work on it.
const UNREAD_BYTES_MAX: u64 = 2 * 1024;

/// Asks as often as it may on each connection, without a key, and leaves no window for an answer.
async fn answers_that_nobody_takes(size: Size) {
    let log = Log::start(1).await;
    let mut gateway = Gateway::ready(&log, &["--log-level=warn"]).await;
    let connections = size.sockets / 16;
    let answers = connections as u64 * u64::from(STREAMS_MAX);
    let bytes_max = BESIDE_BYTES_MAX + answers * UNREAD_BYTES_MAX;
    besieged(&mut gateway, bytes_max, async |gateway| {
        // INITIAL_WINDOW_SIZE 0, and `GET /x`, which is nowhere.
        let begun = preface(b"\0\x04\0\0\0\0");
        let requests = (0..STREAMS_MAX).flat_map(|n| {
            let head = b"\x82\x86\x01\x01x\x04\x02/x";
            frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, head)
        });
        let requests: Vec<u8> = requests.collect();
        let bytes = [begun, requests, frame(PING, 0, 0, b"the last")].concat();
        size.again_and_again(async || {
            let attacks = (0..connections).map(async |number| {
                let mut stream = attacker(gateway, number).await;
                stream.write_all(&bytes).await.unwrap();
                assert!(refused_streams(&mut stream).await.is_empty());
                stream
            });
            drop(join_all(attacks).await);
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn answers_that_nobody_takes_hold_little() {
    answers_that_nobody_takes(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile_network"]
async fn answers_that_nobody_takes_hold_little_long() {
    answers_that_nobody_takes(LONG).await;
}
