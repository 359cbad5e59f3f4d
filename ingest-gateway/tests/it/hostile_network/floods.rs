//! HTTP/2 frames without end, in the clear and over TLS, by the same code.

use devstack::eventually::eventually;
use devstack::siege::http2::{
    DATA, END_HEADERS, END_STREAM, FLOODS, HEADERS, PING, RST_STREAM, flood, frame, preface,
};
use futures_util::future::join_all;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::task::coop;

use crate::certificate::{Certificate, Client};
use crate::harness::{Gateway, LIMIT, Log, ride};
use crate::siege::{
    BESIDE_BYTES_MAX, LONG, ROOM_FLAG, SHORT, Size, attacker, besieged_beside, trickle,
};

/// `GET /openapi.json` from HPACK's static table, and a literal path.
pub(super) const GET: &[u8] = b"\x82\x86\x01\x01x\x04\x0d/openapi.json";

/// `POST /v1/rides`, likewise.
pub(super) const POST: &[u8] = b"\x83\x86\x01\x01x\x04\x09/v1/rides";

/// A ride over a connection of its own, encrypted or not, as long as somebody lets it in.
async fn post_alone(gateway: &Gateway, tls: Option<&Client>, id: i64) -> u16 {
    let Some(tls) = tls else {
        return gateway.post(&ride(id)).await.status;
    };
    let stream = tls.encrypt(gateway.connect().await).await;
    let answer = exchange(stream, &only_request(gateway, id)).await;
    answer[9..12].parse().expect("a status")
}

/// A ride, and nothing after it.
fn only_request(gateway: &Gateway, id: i64) -> String {
    let record = ride(id).to_string();
    let length = record.len();
    let head = format!("connection: close\r\ncontent-length: {length}\r\n");
    gateway.head(&head) + &record
}

/// Sends a request over TLS; the answer until the gateway closes.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    // To a task that has had its turn no socket is writable, so TLS keeps what it took; reading
    // does not send that, and the client would wait for the answer to nothing.
    stream.flush().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// All floods at once beside an honest client.
async fn floods(size: Size, encrypted: bool) {
    let log = Log::start(1).await;
    let certificate = Certificate::new();
    let mut flags = vec![ROOM_FLAG, "--log-level=warn"];
    let tls_flags = certificate.flags();
    if encrypted {
        flags.extend(tls_flags.iter().map(String::as_str));
    }
    let mut gateway = Gateway::ready(&log, &flags).await;
    let honest = encrypted.then(|| certificate.client("http/1.1"));
    let honest = async |gateway: &Gateway, id| post_alone(gateway, honest.as_ref(), id).await;
    let client = encrypted.then(|| certificate.client("h2"));
    let attack = async |gateway: &Gateway| {
        size.again_and_again(async || {
            for (name, frames) in FLOODS {
                let attacks = (0..size.sockets / 16).map(async |number| {
                    let stream = attacker(gateway, number).await;
                    match &client {
                        None => flood(stream, &preface(b""), |n| frames(POST, n)).await,
                        Some(tls) => {
                            let stream = tls.encrypt(stream).await;
                            flood(stream, &preface(b""), |n| frames(POST, n)).await
                        }
                    }
                });
                for ended in join_all(attacks).await {
                    assert!(ended, "{name} is not ended");
                }
            }
        })
        .await;
    };
    Box::pin(besieged_beside(
        &mut gateway,
        size.beside(BESIDE_BYTES_MAX),
        honest,
        attack,
    ))
    .await;
    let name = "weir_gateway_connections_cut_off_total{reason=\"flood\"}";
    assert!(gateway.metric(name).await > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_floods_are_ended() {
    floods(SHORT, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_floods_are_ended_over_tls() {
    floods(SHORT, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile_network"]
async fn http_2_floods_are_ended_long() {
    floods(LONG, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile_network"]
async fn http_2_floods_are_ended_over_tls_long() {
    floods(LONG, true).await;
}

/// Begins handshakes and leaves them there.
async fn silent_handshakes(size: Size) {
    let log = Log::start(1).await;
    let certificate = Certificate::new();
    let tls_flags = certificate.flags();
    let mut flags = vec![ROOM_FLAG, "--log-level=warn", "--tls-handshake-limit=2s"];
    flags.extend(tls_flags.iter().map(String::as_str));
    let mut gateway = Gateway::ready(&log, &flags).await;
    let honest = certificate.client("http/1.1");
    let honest = async |gateway: &Gateway, id| post_alone(gateway, Some(&honest), id).await;
    let attack = async |gateway: &Gateway| {
        size.again_and_again(async || {
            let attacks = (0..size.sockets).map(async |number| {
                let stream = attacker(gateway, number).await;
                let hello = [&b""[..], &[22, 3, 1, 1, 0, 1]][number % 2];
                let ended = trickle(stream, hello, b"").await;
                assert_eq!(ended.answer, "");
                ended.after
            });
            let waits = join_all(attacks).await;
            // Sooner than by default, which is 5 s; a busy machine may be late with others.
            let first = waits.iter().min().expect("there are some");
            assert!((1_000..5_000).contains(&first.as_millis()), "{first:?}");
        })
        .await;
    };
    Box::pin(besieged_beside(
        &mut gateway,
        size.beside(BESIDE_BYTES_MAX),
        honest,
        attack,
    ))
    .await;
    let name = "weir_gateway_connections_cut_off_total{reason=\"handshake\"}";
    assert!(gateway.metric(name).await >= size.sockets as f64);
}

/// The honest client shares its task with thousands of attackers, who use its turns up.
#[tokio::test]
async fn an_honest_client_asks_although_its_task_has_had_its_turn() {
    let log = Log::start(1).await;
    let certificate = Certificate::new();
    let flags = certificate.flags();
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let gateway = Gateway::ready(&log, &flags).await;
    let tls = certificate.client("http/1.1");
    let stream = tls.encrypt(gateway.connect().await).await;
    let request = only_request(&gateway, 1);
    while coop::has_budget_remaining() {
        coop::consume_budget().await;
    }
    let answer = exchange(stream, &request).await;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
}

#[tokio::test]
async fn silent_handshakes_are_closed() {
    silent_handshakes(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile_network"]
async fn silent_handshakes_are_closed_long() {
    silent_handshakes(LONG).await;
}

/// h2 warns of every PING ack that nobody asked for: what a client can cause at will is not
/// logged unless somebody asks for it.
#[tokio::test]
async fn a_client_cannot_fill_the_log() {
    let log = Log::start(1).await;
    for level in ["info", "debug", "h2=warn"] {
        let flags = [&*format!("--log-level={level}")];
        let gateway = Gateway::ready_and_logged(&log, &flags).await;
        let mut stream = gateway.connect().await;
        let pongs = frame(PING, 1, 0, &[9; 8]).repeat(1_000);
        let ask = frame(PING, 0, 0, b"the last");
        stream
            .write_all(&[preface(b""), pongs, ask].concat())
            .await
            .unwrap();
        let mut answers = Vec::new();
        let answered = eventually(LIMIT, || {
            let mut buffer = [0; 4096];
            if let Ok(read) = stream.try_read(&mut buffer) {
                answers.extend_from_slice(&buffer[..read]);
            }
            let is_there = answers.windows(8).any(|it| it == b"the last");
            async move { is_there.then_some(()) }
        });
        answered.await.expect("all of them were read");
        let logged = gateway.logged();
        let warnings = logged.matches("PING ack").count();
        match level {
            "h2=warn" => assert_eq!(warnings, 1_000, "who asks for them gets them"),
            _ => assert_eq!(warnings, 0, "{level}: {logged}"),
        }
    }
}

/// A stream that is reset makes clients drop the answer that came before.
#[tokio::test]
async fn a_refused_request_may_be_sent_to_its_end() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &["--log-level=warn"]).await;
    // `expect`, whose name is in HPACK's static table.
    let expecting = [POST, b"\x0f\x14\x0c100-continue"].concat();
    tokio::join!(
        is_not_reset(&gateway, POST),
        is_not_reset(&gateway, &expecting)
    );
}

async fn is_not_reset(gateway: &Gateway, head: &[u8]) {
    let mut stream = gateway.connect().await;
    let begun = [preface(b""), frame(HEADERS, END_HEADERS, 1, head)].concat();
    stream.write_all(&begun).await.unwrap();
    let mut kinds = Vec::new();
    let read = async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let [a, b, c, kind, flags, ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            stream.read_exact(&mut payload).await.unwrap();
            kinds.push(kind);
            if kind == DATA && flags & END_STREAM != 0 {
                // It is answered; only now the client gets to the end of what it sends.
                let rest = frame(DATA, END_STREAM, 1, b"{}");
                let rest = [rest, frame(PING, 0, 0, b"the last")].concat();
                stream.write_all(&rest).await.unwrap();
            }
            if kind == PING {
                break;
            }
        }
    };
    tokio::time::timeout(LIMIT, read).await.expect("in time");
    assert!(kinds.contains(&DATA), "answered: {kinds:?}");
    assert!(!kinds.contains(&RST_STREAM), "{kinds:?}");
}
