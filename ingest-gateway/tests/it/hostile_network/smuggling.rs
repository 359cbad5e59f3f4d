//! What two servers could read in two ways, and heads without end: one answer, then the end.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Gateway, LIMIT, Log, ride};
use crate::siege::{BESIDE_BYTES_MAX, LONG, ROOM_FLAG, SHORT, Size, attacker, besieged, pour};

/// What a connection may hold of a head, in bytes: what is read at once, and its copy.
const CONNECTION_BYTES_MAX: u64 = 2 * 128 * 1024;

/// A record that no honest client sends: it must never reach the log.
const SMUGGLED: i64 = 7_777_777;

/// Most bytes of a head that an attacker gets to send before it must have been closed on: far
/// more than any bound, and than what sockets hold on their way.
const POURED_BYTES_MAX: usize = 256 << 20;

/// Sends bytes and reads until the gateway closes.
async fn exchange(mut stream: TcpStream, bytes: &[u8]) -> String {
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer))
        .await
        .expect("it is closed in time")
        .expect("by a close, not a reset");
    String::from_utf8(answer).unwrap()
}

/// A name, and what begins with a request that is refused.
type Shape = (&'static str, String);

/// The parts that the shapes are made of.
struct Parts<'g> {
    gateway: &'g Gateway,
    record: String,
    /// A request that is as it should be.
    good: String,
    /// The record as a chunked body.
    chunks: String,
}

impl<'g> Parts<'g> {
    fn new(gateway: &'g Gateway) -> Self {
        let record = ride(SMUGGLED).to_string();
        let length = record.len();
        Self {
            gateway,
            good: gateway.head(&format!("content-length: {length}\r\n")) + &record,
            chunks: format!("{length:x}\r\n{record}\r\n0\r\n\r\n"),
            record,
        }
    }

    /// Headers about the body's length, and what they are about.
    fn lengths(&self) -> Vec<Shape> {
        let length = self.record.len();
        let headers = [
            (
                "CL twice, equal",
                format!("content-length: {length}\r\ncontent-length: {length}\r\n"),
            ),
            (
                "CL twice, different",
                format!("content-length: {length}\r\ncontent-length: 0\r\n"),
            ),
            ("CL list", format!("content-length: {length}, {length}\r\n")),
            ("CL signed", format!("content-length: +{length}\r\n")),
            ("CL in hexadecimal", "content-length: 0x5\r\n".to_owned()),
            (
                "CL too large",
                "content-length: 18446744073709551617\r\n".to_owned(),
            ),
            ("CL empty", "content-length:\r\n".to_owned()),
        ];
        let shapes =
            headers.map(|(name, headers)| (name, self.gateway.head(&headers) + &self.record));
        shapes.into()
    }

    /// Headers that say that the body comes in chunks, or do not quite.
    fn codings(&self) -> Vec<Shape> {
        let length = format!("content-length: {}\r\n", self.record.len());
        let chunked = "transfer-encoding: chunked\r\n";
        let headers = [
            ("CL+TE", format!("{length}{chunked}")),
            ("TE+CL", format!("{chunked}{length}")),
            ("TE twice", format!("{chunked}{chunked}")),
            ("TE+TE", format!("{chunked}transfer-encoding: identity\r\n")),
            ("TE list", "transfer-encoding: gzip, chunked\r\n".to_owned()),
            (
                "TE not last",
                "transfer-encoding: chunked, identity\r\n".to_owned(),
            ),
            ("TE unknown", "transfer-encoding: xchunked\r\n".to_owned()),
            (
                "TE with a tab",
                "transfer-encoding:\tchunked\x0b\r\n".to_owned(),
            ),
        ];
        let shapes =
            headers.map(|(name, headers)| (name, self.gateway.head(&headers) + &self.chunks));
        let old = self.gateway.head(chunked).replace("HTTP/1.1", "HTTP/1.0");
        let old = ("TE in HTTP/1.0", old + &self.chunks);
        shapes.into_iter().chain([old]).collect()
    }

    /// Lines that end, go on or are divided in other ways.
    fn lines(&self) -> Vec<Shape> {
        let once = |from: &str, to: &str| self.good.replacen(from, to, 1);
        vec![
            ("bare LF", self.good.replace("\r\n", "\n")),
            ("bare LF in one line", once("host: x\r\n", "host: x\n")),
            ("bare LF at the end", once("\r\n\r\n", "\r\n\n")),
            ("obs-fold", once("host: x\r\n", "host: x\r\n folded\r\n")),
            (
                "obs-fold by a tab",
                once("host: x\r\n", "host: x\r\n\tfolded\r\n"),
            ),
            (
                "obs-fold of CL",
                once("content-length: ", "content-length:\r\n "),
            ),
            (
                "space before colon",
                once("content-length:", "content-length :"),
            ),
            ("space before another colon", once("host:", "host :")),
            ("NUL in a value", once("host: x", "host: x\0")),
            ("CR in a value", once("host: x", "host: x\ry")),
        ]
    }

    /// Bodies in chunks that are none.
    fn chunks(&self) -> Vec<Shape> {
        let long = "x".repeat(100_000);
        let bodies = [
            ("chunk extensions", format!("1;{long}\r\n{{\r\n0\r\n\r\n")),
            (
                "chunk extensions, many",
                format!("1;{}\r\n{{\r\n", "x".repeat(300)).repeat(100),
            ),
            (
                "chunk extensions, many short ones",
                format!("1;{}\r\n \r\n", "x".repeat(200)).repeat(2_000),
            ),
            ("chunk size too large", "fffffffffffffffff\r\n{".to_owned()),
            ("chunk size negative", "-1\r\n{\r\n0\r\n\r\n".to_owned()),
            ("chunk size with prefix", "0x1\r\n{\r\n0\r\n\r\n".to_owned()),
            ("chunk size empty", "\r\n{\r\n0\r\n\r\n".to_owned()),
            ("chunk size with space", "1 \r\n{\r\n0\r\n\r\n".to_owned()),
            ("chunk with bare LF", self.chunks.replace("\r\n", "\n")),
            (
                "chunk too long for its size",
                "1\r\n{}\r\n0\r\n\r\n".to_owned(),
            ),
            (
                "extension with bare LF",
                "1;a\nb\r\n{\r\n0\r\n\r\n".to_owned(),
            ),
        ];
        let chunked = self.gateway.head("transfer-encoding: chunked\r\n");
        bodies
            .map(|(name, body)| (name, chunked.clone() + &body))
            .into()
    }

    fn all(&self) -> Vec<Shape> {
        [self.lengths(), self.codings(), self.lines(), self.chunks()].concat()
    }
}

/// One answer, which is a problem of this status, and nothing behind it.
fn check_one_answer(answer: &str, status: u16, name: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").expect(name);
    let line = format!("HTTP/1.1 {status} ");
    assert!(head.starts_with(&line), "{name}: {answer}");
    let is_problem = head.contains("content-type: application/problem+json");
    assert!(is_problem, "{name}: {answer}");
    let problem: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{name}: {answer}"));
    assert_eq!(problem["status"], status, "{name}");
    assert_eq!(problem["code"], "malformed", "{name}");
}

async fn smuggled(size: Size) {
    let log = Log::start(1).await;
    let mut gateway = Gateway::ready(&log, &[ROOM_FLAG, "--log-level=warn"]).await;
    let bytes_max = BESIDE_BYTES_MAX + size.sockets as u64 * CONNECTION_BYTES_MAX;
    besieged(&mut gateway, bytes_max, async |gateway| {
        let parts = &Parts::new(gateway);
        let shapes = &parts.all();
        size.again_and_again(async || {
            let attacks = (0..size.sockets).map(async |number| {
                let (name, shape) = &shapes[number % shapes.len()];
                let stream = attacker(gateway, number).await;
                let bytes = format!("{shape}{0}{0}", parts.good);
                let answer = exchange(stream, bytes.as_bytes()).await;
                check_one_answer(&answer, 400, name);
            });
            join_all(attacks).await;
        })
        .await;
        let taken = log.entries().await;
        let taken = taken.iter().filter(|entry| match &entry.record {
            contract::Record::Ride(ride) => ride.id == SMUGGLED,
            contract::Record::Courier(_) => true,
        });
        assert_eq!(taken.count(), 0, "nothing was taken for a request");
        // Pipelined, what is as it should be is answered, one by one.
        let good = &parts.good;
        let last = good.replacen("host: x\r\n", "host: x\r\nconnection: close\r\n", 1);
        let stream = attacker(gateway, 0).await;
        let answers = exchange(stream, format!("{good}{good}{last}").as_bytes()).await;
        assert_eq!(answers.matches("HTTP/1.1 202").count(), 3, "{answers}");
    })
    .await;
}

const _: () = assert!(SHORT.sockets > 40, "every shape is sent");

#[tokio::test]
async fn smuggled_requests_are_one_answer_and_the_end() {
    smuggled(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile_network"]
async fn smuggled_requests_are_one_answer_and_the_end_long() {
    smuggled(LONG).await;
}

/// What goes on for ever: a name, how it begins, what follows again and again, and the answer.
fn endless(gateway: &Gateway) -> Vec<(&'static str, String, Vec<u8>, u16)> {
    let x = vec![b'x'; 4096];
    let extension = format!("1;{}\r\n \r\n", "x".repeat(250));
    let chunked = gateway.head("transfer-encoding: chunked\r\n");
    let get = "GET / HTTP/1.1\r\n".to_owned();
    vec![
        ("a URI", "GET /".to_owned(), x.clone(), 414),
        ("a header", get.clone() + "a: ", x.clone(), 431),
        ("a header's name", get.clone(), x.clone(), 431),
        ("headers", get.clone(), b"a: b\r\n".repeat(600), 431),
        (
            "other headers",
            get,
            b"content-type: b\r\n".repeat(200),
            431,
        ),
        ("empty lines", String::new(), b"\r\n".repeat(2_000), 431),
        ("a chunk extension", chunked.clone() + "1;", x.clone(), 400),
        (
            "chunk extensions",
            chunked.clone(),
            extension.repeat(16).into(),
            400,
        ),
        ("a chunk size", chunked.clone(), vec![b'0'; 4096], 400),
        ("a trailer", chunked.clone() + "0\r\na: ", x, 400),
        ("trailers", chunked + "0\r\n", b"a: b\r\n".repeat(600), 400),
    ]
}

async fn heads_without_end(size: Size) {
    let log = Log::start(1).await;
    let mut gateway = Gateway::ready(&log, &[ROOM_FLAG, "--log-level=warn"]).await;
    let bytes_max = BESIDE_BYTES_MAX + size.sockets as u64 * CONNECTION_BYTES_MAX;
    besieged(&mut gateway, bytes_max, async |gateway| {
        let kinds = &endless(gateway);
        let told: Vec<_> = kinds.iter().map(|_| AtomicUsize::new(0)).collect();
        size.again_and_again(async || {
            let attacks = (0..size.sockets).map(async |number| {
                let kind = number % kinds.len();
                let (name, head, piece, status) = &kinds[kind];
                let stream = attacker(gateway, number).await;
                let answer = pour(stream, head.as_bytes(), piece, POURED_BYTES_MAX).await;
                // What comes after the answer may have reset it.
                if !answer.is_empty() {
                    check_one_answer(&answer, *status, name);
                    told[kind].fetch_add(1, Ordering::Relaxed);
                }
            });
            join_all(attacks).await;
        })
        .await;
        for ((name, ..), told) in kinds.iter().zip(told) {
            assert!(told.into_inner() > 0, "{name}: nobody was told");
        }
    })
    .await;
}

#[tokio::test]
async fn heads_without_end_are_one_answer_and_the_end() {
    heads_without_end(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile_network"]
async fn heads_without_end_are_one_answer_and_the_end_long() {
    heads_without_end(LONG).await;
}

/// Just past the bounds, and just within them; over HTTP/2 as well.
#[tokio::test]
async fn heads_have_bounds_of_their_own() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &["--log-level=warn"]).await;
    let request = |path: usize, header: usize, headers: usize| {
        format!(
            "GET /{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\na: {}\r\n{}\r\n",
            "p".repeat(path),
            "h".repeat(header),
            "b: c\r\n".repeat(headers)
        )
    };
    for (path, header, headers, status) in [
        (8_000, 20_000, 90, 404),
        (8_200, 0, 0, 414),
        (0, 33_000, 0, 431),
        (0, 0, 150, 431),
    ] {
        let bytes = request(path, header, headers);
        let answer = exchange(gateway.connect().await, bytes.as_bytes()).await;
        let line = format!("HTTP/1.1 {status} ");
        assert!(
            answer.starts_with(&line),
            "{path} {header} {headers}: {answer}"
        );
    }
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    for (header, status) in [(20_000, 401), (40_000, 431)] {
        let request = Request::get(format!("http://{}/v1/rides", gateway.address))
            .header("a", "h".repeat(header))
            .body(Full::default())
            .unwrap();
        let answer = client.request(request).await.unwrap();
        assert_eq!(answer.status(), status, "{header} over HTTP/2");
    }
}
