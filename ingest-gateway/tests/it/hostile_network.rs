//! What a hostile network sends. Each attack is asserted to leave the gateway's memory bounded, an
//! honest client served meanwhile, and the process alive.
//!
//! The long forms (thousands of sockets, minutes) run by
//! `cargo test -p ingest-gateway --test it -- --ignored hostile_network`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_compression::tokio::bufread::{GzipEncoder, ZstdEncoder};
use bytes::Bytes;
use contract::limits::BODY_BYTES_MAX;
use devstack::eventually::eventually;
use futures_util::future::join_all;
use http::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use crate::harness::{Gateway, LIMIT, Log, ride};

/// How much memory an attack may make the gateway take, in bytes: twice the room for bodies that
/// the tests configure, for buffers that grow and what the allocator keeps for itself.
const MEMORY_GROWTH_MAX: u64 = 128 << 20;

/// Longest that an honest client waits on a machine that is attacked by all tests at once.
const HONEST_WAIT: Duration = Duration::from_secs(10);

/// Honest clients on loopback.
const HONEST: &str = "127.0.0.1";

/// Attackers: addresses of their own, so that the bound per address is theirs.
const ATTACKERS: [&str; 4] = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"];

const FLAGS: [&str; 2] = ["--body-bytes-max=64MiB", "--log-level=warn"];

/// How large an attack is.
#[derive(Clone, Copy)]
struct Size {
    sockets: usize,
    /// How long attackers come back for more.
    lasts: Duration,
}

const SHORT: Size = Size {
    sockets: 64,
    lasts: Duration::from_millis(500),
};
const LONG: Size = Size {
    sockets: 2_000,
    lasts: Duration::from_secs(60),
};

fn resident_bytes(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).expect("it lives");
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .and_then(|it| it.parse().ok())
        .expect("pages");
    pages * 4096
}

/// Runs an attack beside an honest client.
async fn besieged<T>(gateway: &mut Gateway, attack: impl AsyncFnOnce(&Gateway) -> T) -> T {
    for id in 1..=20 {
        assert_eq!(gateway.post(&ride(id)).await.status, 202);
    }
    let pid = gateway.child.id().expect("running");
    let before = resident_bytes(pid);
    let most = AtomicU64::new(before);
    let over = AtomicBool::new(false);
    let besieged: &Gateway = gateway;
    let honest = async {
        let mut id = 100;
        while !over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let answer = besieged.post(&ride(id)).await;
            assert_eq!(answer.status, 202, "{answer:?}");
            assert!(begun.elapsed() < HONEST_WAIT, "{:?}", begun.elapsed());
            most.fetch_max(resident_bytes(pid), Ordering::Relaxed);
            id += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        id
    };
    let attack = async {
        let done = attack(besieged).await;
        over.store(true, Ordering::Relaxed);
        done
    };
    let (done, id) = tokio::join!(attack, honest);
    let grown = most.load(Ordering::Relaxed) - before;
    assert!(grown < MEMORY_GROWTH_MAX, "{} MiB more", grown >> 20);
    assert_eq!(gateway.post(&ride(id)).await.status, 202);
    assert!(gateway.child.try_wait().unwrap().is_none(), "it lives");
    done
}

async fn attacker(gateway: &Gateway, number: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let source = ATTACKERS[number % ATTACKERS.len()];
    assert_ne!(source, HONEST);
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    socket
        .connect(gateway.address.parse().unwrap())
        .await
        .unwrap()
}

/// Sends `head` and then a byte at a time, until the gateway has had enough. What it answered.
async fn trickle(mut stream: TcpStream, head: &[u8], byte: &[u8]) -> Vec<u8> {
    let ended = async {
        let mut answer = Vec::new();
        let mut sent = stream.write_all(head).await;
        loop {
            let mut buffer = [0; 1024];
            let pause = Duration::from_millis(50);
            match tokio::time::timeout(pause, stream.read(&mut buffer)).await {
                Ok(Ok(read @ 1..)) => answer.extend_from_slice(&buffer[..read]),
                Ok(_) => return answer,
                Err(_) if sent.is_ok() && !byte.is_empty() => sent = stream.write_all(byte).await,
                Err(_) => {}
            }
        }
    };
    tokio::time::timeout(LIMIT * 2, ended)
        .await
        .expect("the gateway ends it in time")
}

/// Slow on the first byte, on heads, and on bodies.
async fn slow_loris(size: Size) {
    let log = Log::start(1).await;
    let slow = [
        &FLAGS[..],
        &["--header-read-limit=1s", "--body-read-limit=1s"],
    ]
    .concat();
    let mut gateway = Gateway::ready(&log, &slow).await;
    let told = AtomicU64::new(0);
    besieged(&mut gateway, async |gateway| {
        let until = Instant::now() + size.lasts;
        let body = gateway.head("content-length: 5000\r\n");
        let chunked = gateway.head("transfer-encoding: chunked\r\n") + "fff\r\n";
        loop {
            let attacks = (0..size.sockets).map(async |number| {
                let stream = attacker(gateway, number).await;
                match number % 5 {
                    0 => assert_eq!(trickle(stream, b"", b"").await, b""),
                    1 => assert_eq!(trickle(stream, b"P", b"").await, b""),
                    2 => {
                        let answer = trickle(stream, b"POST / HTTP/1.1\r\na: ", b"x").await;
                        assert_eq!(answer, b"");
                    }
                    number => {
                        let head = if number == 3 { &body } else { &chunked };
                        let answer = trickle(stream, head.as_bytes(), b" ").await;
                        let answer = String::from_utf8_lossy(&answer);
                        // A late byte may meet a closed socket, and the reset takes the answer.
                        let is_told = answer.starts_with("HTTP/1.1 408");
                        assert!(is_told || answer.is_empty(), "{answer}");
                        told.fetch_add(u64::from(is_told), Ordering::Relaxed);
                    }
                }
            });
            join_all(attacks).await;
            if Instant::now() > until {
                break;
            }
        }
    })
    .await;
    let told = told.load(Ordering::Relaxed);
    assert!(told >= size.sockets as u64 / 5, "{told} were told");
    let name = "weir_gateway_connections_cut_off_total{reason=\"silent\"}";
    assert!(gateway.metric(name).await > 0.0);
}

#[tokio::test]
async fn slow_loris_on_first_byte_head_and_body() {
    slow_loris(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see the module"]
async fn slow_loris_on_first_byte_head_and_body_long() {
    slow_loris(LONG).await;
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET /openapi.json` from HPACK's static table, and a literal path.
const GET: &[u8] = b"\x82\x86\x01\x01x\x04\x0d/openapi.json";

/// How an HTTP/2 connection begins.
fn preface(settings: &[u8]) -> Vec<u8> {
    let settings = frame(SETTINGS, 0, 0, settings);
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings].concat()
}

/// Most frames that an attacker gets to send before it must have been closed on.
const FRAMES_MAX: u32 = 200_000;

/// Sends frames, reading whatever comes, until the gateway closes; how many it took, about.
async fn flood(stream: TcpStream, first: &[u8], mut frames: impl FnMut(u32) -> Vec<u8>) -> u32 {
    let (mut reader, mut writer) = stream.into_split();
    writer.write_all(first).await.unwrap();
    let reading = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(1..) = reader.read(&mut buffer).await {}
    };
    let writing = async move {
        for number in (0..FRAMES_MAX).step_by(64) {
            let batch: Vec<u8> = (number..number + 64).flat_map(&mut frames).collect();
            if writer.write_all(&batch).await.is_err() {
                return number;
            }
        }
        FRAMES_MAX
    };
    // Whichever notices first.
    let reading = std::pin::pin!(reading);
    let flood = async {
        tokio::select! {
            sent = writing => sent,
            () = reading => 0,
        }
    };
    tokio::time::timeout(LIMIT, flood)
        .await
        .expect("it ends in time")
}

/// A kind of flood: what is sent after the preface, and then over and over.
type Flood = (&'static str, fn(u32) -> Vec<u8>);

const FLOODS: [Flood; 8] = [
    ("rapid reset", |n| {
        let stream = 2 * n + 1;
        let request = frame(1, END_STREAM | END_HEADERS, stream, GET);
        [request, frame(3, 0, stream, &[0, 0, 0, 8])].concat()
    }),
    ("CONTINUATION", |n| match n {
        0 => frame(1, 0, 1, GET),
        _ => frame(9, 0, 1, b"\x00\x01a\x01b"),
    }),
    ("large CONTINUATION", |n| match n {
        0 => frame(1, 0, 1, GET),
        _ => frame(9, 0, 1, &b"\x40\x01a\x7f\x81\x01".repeat(2_000)),
    }),
    ("SETTINGS", |_| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9])),
    ("PING", |_| frame(6, 0, 0, &[7; 8])),
    ("PRIORITY", |_| frame(2, 0, 1, &[0, 0, 0, 3, 1])),
    ("empty DATA", |n| match n {
        0 => frame(1, END_HEADERS, 1, b"\x83\x86\x01\x01x\x04\x09/v1/rides"),
        _ => frame(0, 0, 1, b""),
    }),
    ("unknown", |_| frame(99, 0, 0, b"x")),
];

async fn floods(size: Size) {
    let log = Log::start(1).await;
    let mut gateway = Gateway::ready(&log, &FLAGS).await;
    besieged(&mut gateway, async |gateway| {
        let until = Instant::now() + size.lasts;
        loop {
            for (name, frames) in FLOODS {
                let attacks = (0..size.sockets / 16).map(async |number| {
                    let stream = attacker(gateway, number).await;
                    flood(stream, &preface(b""), frames).await
                });
                for sent in join_all(attacks).await {
                    assert!(sent < FRAMES_MAX, "{name} is not ended");
                }
            }
            if Instant::now() > until {
                break;
            }
        }
    })
    .await;
    let name = "weir_gateway_connections_cut_off_total{reason=\"flood\"}";
    assert!(gateway.metric(name).await > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_floods_are_ended() {
    floods(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see the module"]
async fn http_2_floods_are_ended_long() {
    floods(LONG).await;
}

/// Answers pings and takes nothing of its answers, or asks for nothing more.
#[tokio::test]
async fn http_2_clients_that_only_answer_pings_are_closed() {
    let log = Log::start(1).await;
    let limits = ["--answer-read-limit=500ms", "--header-read-limit=1s"];
    let flags = [&FLAGS[..], &limits].concat();
    let mut gateway = Gateway::ready(&log, &flags).await;
    let requests: Vec<u8> = (0..100)
        .flat_map(|n| frame(1, END_STREAM | END_HEADERS, 2 * n + 1, GET))
        .collect();
    let no_window = preface(&[0, 4, 0, 0, 0, 0]);
    let little_window = preface(&[0, 4, 0, 0, 0, 1]);
    let one = frame(1, END_STREAM | END_HEADERS, 1, GET);
    let window = frame(8, 0, 0, &[0, 16, 0, 0]);
    let read_all = [preface(&[0, 4, 0, 16, 0, 0]), window, one].concat();
    besieged(&mut gateway, async |gateway| {
        let attacks = [
            [no_window, requests.clone()].concat(),
            [little_window, requests].concat(),
            read_all,
        ];
        let attacks = attacks.iter().map(async |bytes| {
            let stream = attacker(gateway, 1).await;
            trickle(stream, bytes, &frame(6, 1, 0, &[0; 8])).await
        });
        join_all(attacks).await;
    })
    .await;
    for reason in ["unread", "idle"] {
        let name = format!("weir_gateway_connections_cut_off_total{{reason=\"{reason}\"}}");
        assert!(gateway.metric(&name).await > 0.0, "{reason}");
    }
}

/// Takes nothing of its answers over HTTP/1.1.
#[tokio::test]
async fn a_slow_reader_is_closed() {
    let log = Log::start(1).await;
    let flags = [&FLAGS[..], &["--answer-read-limit=500ms"]].concat();
    let mut gateway = Gateway::ready(&log, &flags).await;
    besieged(&mut gateway, async |gateway| {
        let requests = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(500);
        let attacks = (0..SHORT.sockets).map(async |number| {
            let mut stream = attacker(gateway, number).await;
            stream.write_all(requests.as_bytes()).await.unwrap();
            let closed = eventually(LIMIT, || async {
                // Without reading: what is closed on cannot be written to.
                stream
                    .try_write(b"\r\n")
                    .is_err_and(is_closed)
                    .then_some(())
            });
            closed.await.expect("the gateway ends it");
        });
        join_all(attacks).await;
    })
    .await;
}

#[expect(clippy::needless_pass_by_value, reason = "a predicate of is_err_and")]
fn is_closed(error: std::io::Error) -> bool {
    error.kind() != std::io::ErrorKind::WouldBlock
}

/// Sends bytes, closes its side or not, and reads until the gateway closes.
async fn exchange(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut stream = gateway.connect().await;
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer))
        .await
        .expect("it is closed in time")
        .expect("by a close, not a reset");
    String::from_utf8(answer).unwrap()
}

/// What two servers could read in two ways: one refusal, then the end, and what follows is never
/// read as a request. Bare LF included, which hyper itself would take.
#[tokio::test]
async fn smuggled_requests_are_one_answer_and_the_end() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &FLAGS).await;
    let record = ride(1).to_string();
    let length = record.len();
    let good = gateway.head(&format!("content-length: {length}\r\n")) + &record;
    let chunks = format!("{length:x}\r\n{record}\r\n0\r\n\r\n");
    let head = |more: &str| gateway.head(more);
    let chunked = head("transfer-encoding: chunked\r\n");
    let long = "x".repeat(100_000);
    let shapes = [
        (
            "CL+TE",
            head(&format!(
                "content-length: {length}\r\ntransfer-encoding: chunked\r\n"
            )) + &chunks,
        ),
        (
            "TE+CL",
            head(&format!(
                "transfer-encoding: chunked\r\ncontent-length: {length}\r\n"
            )) + &chunks,
        ),
        (
            "TE+TE",
            head("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n") + &chunks,
        ),
        (
            "TE list",
            head("transfer-encoding: gzip, chunked\r\n") + &chunks,
        ),
        (
            "TE not last",
            head("transfer-encoding: chunked, identity\r\n") + &chunks,
        ),
        (
            "TE unknown",
            head("transfer-encoding: xchunked\r\n") + &chunks,
        ),
        (
            "TE in HTTP/1.0",
            chunked.replace("HTTP/1.1", "HTTP/1.0") + &chunks,
        ),
        (
            "TE with a tab",
            head("transfer-encoding:\tchunked\x0b\r\n") + &chunks,
        ),
        (
            "CL twice, equal",
            head(&format!(
                "content-length: {length}\r\ncontent-length: {length}\r\n"
            )) + &record,
        ),
        (
            "CL twice, different",
            head(&format!(
                "content-length: {length}\r\ncontent-length: 0\r\n"
            )) + &record,
        ),
        (
            "CL list",
            head(&format!("content-length: {length}, {length}\r\n")) + &record,
        ),
        (
            "CL signed",
            head(&format!("content-length: +{length}\r\n")) + &record,
        ),
        (
            "CL in hexadecimal",
            head("content-length: 0x5\r\n") + &record,
        ),
        (
            "CL too large",
            head("content-length: 18446744073709551617\r\n") + &record,
        ),
        ("CL empty", head("content-length:\r\n") + &record),
        ("bare LF", good.replace("\r\n", "\n")),
        (
            "bare LF in one line",
            good.replacen("host: x\r\n", "host: x\n", 1),
        ),
        ("bare LF at the end", good.replacen("\r\n\r\n", "\r\n\n", 1)),
        (
            "obs-fold",
            good.replacen("host: x\r\n", "host: x\r\n folded\r\n", 1),
        ),
        (
            "obs-fold of CL",
            good.replacen("content-length: ", "content-length:\r\n ", 1),
        ),
        (
            "space before colon",
            good.replacen("content-length:", "content-length :", 1),
        ),
        (
            "space before another colon",
            good.replacen("host:", "host :", 1),
        ),
        ("NUL in a value", good.replacen("host: x", "host: x\0", 1)),
        ("CR in a value", good.replacen("host: x", "host: x\ry", 1)),
        (
            "chunk extensions",
            chunked.clone() + "1;" + &long + "\r\n{\r\n0\r\n\r\n",
        ),
        (
            "chunk extensions, many",
            chunked.clone() + &format!("1;{}\r\n{{\r\n", "x".repeat(300)).repeat(100),
        ),
        (
            "chunk size too large",
            chunked.clone() + "fffffffffffffffff\r\n{",
        ),
        (
            "chunk size negative",
            chunked.clone() + "-1\r\n{\r\n0\r\n\r\n",
        ),
        (
            "chunk size with prefix",
            chunked.clone() + "0x1\r\n{\r\n0\r\n\r\n",
        ),
        ("chunk size empty", chunked.clone() + "\r\n{\r\n0\r\n\r\n"),
        (
            "chunk size with space",
            chunked.clone() + "1 \r\n{\r\n0\r\n\r\n",
        ),
        (
            "chunk with bare LF",
            chunked.clone() + &chunks.replace("\r\n", "\n"),
        ),
        (
            "chunk too long for its size",
            chunked.clone() + "1\r\n{}\r\n0\r\n\r\n",
        ),
        (
            "extension with bare LF",
            chunked + "1;a\nb\r\n{\r\n0\r\n\r\n",
        ),
    ];
    for (name, shape) in shapes {
        let answer = exchange(&gateway, format!("{shape}{good}{good}").as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect(name);
        assert!(head.starts_with("HTTP/1.1 400 "), "{name}: {answer}");
        assert!(
            head.contains("content-type: application/problem+json"),
            "{name}: {answer}"
        );
        // Exactly one, and whole: nothing follows it.
        let problem: Value =
            serde_json::from_str(body).unwrap_or_else(|_| panic!("{name}: {answer}"));
        assert_eq!(problem["status"], 400, "{name}");
        assert_eq!(problem["code"], "malformed", "{name}");
    }
    assert_eq!(log.messages().await, 0, "nothing was taken for a request");
    for (status, bytes) in [
        (414, format!("GET /{long} HTTP/1.1\r\n\r\n")),
        (431, format!("GET / HTTP/1.1\r\na: {long}\r\n\r\n")),
        (
            431,
            format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(150)),
        ),
    ] {
        let answer = exchange(&gateway, bytes.as_bytes()).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        let problem: Value =
            serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(problem["status"], status);
    }
    // Pipelined, what is as it should be is answered, one by one.
    let last = good.replacen("host: x\r\n", "host: x\r\nconnection: close\r\n", 1);
    let answers = exchange(&gateway, format!("{good}{good}{last}").as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 202").count(), 3, "{answers}");
}

#[tokio::test]
async fn an_endless_body_is_refused_and_closed() {
    let log = Log::start(1).await;
    let mut gateway = Gateway::ready(&log, &FLAGS).await;
    besieged(&mut gateway, async |gateway| {
        let attacks = (0..8).map(async |number| {
            let (mut reader, mut writer) = attacker(gateway, number).await.into_split();
            let head = gateway.head("transfer-encoding: chunked\r\n");
            writer.write_all(head.as_bytes()).await.unwrap();
            let chunk = [&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat();
            let writing = async {
                let mut sent = 0;
                while writer.write_all(&chunk).await.is_ok() {
                    sent += chunk.len();
                    assert!(sent < 20 * BODY_BYTES_MAX, "it goes on for ever");
                }
            };
            let reading = async {
                let mut answer = Vec::new();
                let _ = reader.read_to_end(&mut answer).await;
                String::from_utf8_lossy(&answer).into_owned()
            };
            let both = async { tokio::join!(writing, reading) };
            let ended = tokio::time::timeout(LIMIT, both).await;
            let ((), answer) = ended.expect("it is closed in time");
            // Too many at once, or too large: neither is read to its end.
            let refused = ["HTTP/1.1 413", "HTTP/1.1 503"];
            assert!(
                refused.iter().any(|it| answer.starts_with(it)),
                "{answer:?}"
            );
        });
        join_all(attacks).await;
    })
    .await;
}

async fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    GzipEncoder::new(plain).read_to_end(&mut out).await.unwrap();
    out
}

async fn zstd(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    ZstdEncoder::new(plain).read_to_end(&mut out).await.unwrap();
    out
}

/// A zstd frame that asks for a window of 2^41 - 1 bytes, and for a gigabyte.
const HUGE_WINDOWS: [&[u8]; 2] = [
    b"\x28\xb5\x2f\xfd\x00\xff\x01\x00\x00",
    b"\x28\xb5\x2f\xfd\x00\xa0\x01\x00\x00",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_are_refused_within_the_bounds() {
    let log = Log::start(1).await;
    let mut gateway = Gateway::ready(&log, &FLAGS).await;
    let zeros = vec![b' '; 32 << 20];
    let (gzipped, zstded) = (gzip(&zeros).await, zstd(&zeros).await);
    let (nothing_gzipped, nothing_zstded) = (gzip(b"").await, zstd(b"").await);
    let fill = |member: &[u8]| member.repeat((BODY_BYTES_MAX - 1) / member.len());
    let some = zeros[..1 << 20].to_vec();
    let bombs = [
        ("gzip", 413, gzipped.clone()),
        ("zstd", 413, zstded.clone()),
        // Many members, none of which is too large.
        ("gzip", 413, gzip(&some).await.repeat(100)),
        ("zstd", 413, zstd(&some).await.repeat(100)),
        // A bomb in a bomb is not JSON.
        ("gzip", 400, gzip(&gzip(&gzipped).await).await),
        ("zstd", 400, zstd(&zstded).await),
        ("zstd", 400, HUGE_WINDOWS[0].to_vec()),
        ("zstd", 400, HUGE_WINDOWS[1].to_vec()),
        // As many members and frames as fit, none of which holds anything: empty, or not read in
        // the time that a body has.
        ("gzip", 0, fill(&nothing_gzipped)),
        ("zstd", 0, fill(&nothing_zstded)),
        ("zstd", 0, fill(b"\x50\x2a\x4d\x18\x00\x00\x00\x00")),
    ];
    besieged(&mut gateway, async |gateway| {
        let authorization = format!("Bearer {}", gateway.key);
        for (number, (coding, status, bomb)) in bombs.into_iter().enumerate() {
            let headers = [
                ("authorization", authorization.as_str()),
                ("content-encoding", coding),
            ];
            let url = format!("http://{}/v1/rides", gateway.address);
            let body = Bytes::from(bomb);
            // Two at a time: they share the honest client's key, and with it its room.
            let answers = (0..2).map(async |_| {
                let answer = gateway.exchange(Method::POST, &url, &headers, body.clone());
                answer.await
            });
            let answers = join_all(answers).await;
            for answer in answers {
                // Bombs at once take each other's room: that is an answer, too.
                let expected = match status {
                    0 => [400, 408].contains(&answer.status),
                    _ => answer.status == status,
                };
                let full = answer.status == 503 && answer.body["code"] == "overloaded";
                assert!(expected || full, "{number}: {answer:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn one_address_cannot_take_every_connection() {
    let log = Log::start(1).await;
    let bounds = ["--connections-per-address-max=8", "--connections-max=64"];
    let flags = [&FLAGS[..], &bounds].concat();
    let mut gateway = Gateway::ready(&log, &flags).await;
    besieged(&mut gateway, async |gateway| {
        let held = join_all((0..8 * ATTACKERS.len()).map(|number| attacker(gateway, number))).await;
        let mut refused = attacker(gateway, 0).await;
        let mut answer = String::new();
        refused.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        let problem: Value =
            serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(problem["code"], "overloaded");
        drop(held);
    })
    .await;
    let name = "weir_gateway_connections_refused_total{bound=\"address\"}";
    assert_eq!(gateway.metric(name).await, 1.0);
}
