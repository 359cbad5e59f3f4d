//! What a hostile network sends to the status API. The cases are the gateway's; the code that
//! meets them is chassis's for both, so here it is shown to be in place: memory bounded, an honest
//! client served meanwhile, and the process alive afterwards (`siege`).
//!
//! Where a client is slow there is a long form, too (2,000 sockets, a minute); all of them run, one
//! by one, by `cargo test -p status-api --test it -- --ignored hostile --test-threads=1`.

mod floods;
mod slow;

use devstack::siege::SHORT;
use futures_util::future::join_all;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::siege::{ask, attacker, besieged};
use crate::stage::{LIMIT, Stage, XRIDES};

/// The head of a look-up of `stage`'s partner, and its body.
fn lookup(stage: &Stage, headers: &str, body: &str) -> String {
    let key = stage.key_header(XRIDES);
    format!("POST /v1/requests/lookup HTTP/1.1\r\nhost: x\r\n{key}{headers}\r\n{body}")
}

async fn read_to_the_end(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer))
        .await
        .expect("it is closed in time")
        .expect("by a close, not a reset");
    String::from_utf8(answer).unwrap()
}

/// A good look-up, and what must not pass for one: the status of the answer, and what is sent.
fn smuggled(stage: &Stage) -> (String, Vec<(u16, String)>) {
    let body = r#"{"tracking_ids":[]}"#;
    let length = body.len();
    let post = |headers: &str, body: &str| lookup(stage, headers, body);
    let good = post(&format!("content-length: {length}\r\n"), body);
    let chunks = format!("{length:x}\r\n{body}\r\n0\r\n\r\n");
    let chunked = "transfer-encoding: chunked\r\n";
    let twice = |second: usize| {
        let headers = format!("content-length: {length}\r\ncontent-length: {second}\r\n");
        post(&headers, body)
    };
    let both = format!("content-length: {length}\r\n{chunked}");
    let long = "x".repeat(40_000);
    let folded = "host: x\r\n folded\r\n";
    let shapes = vec![
        (400, post(&both, &chunks)),
        (400, twice(length)),
        (400, twice(1)),
        (400, good.replace("\r\n", "\n")),
        (400, good.replacen("host: x\r\n", folded, 1)),
        (400, good.replacen("host:", "host :", 1)),
        (400, post(chunked, &format!("1;{long}\r\n{{\r\n0\r\n\r\n"))),
        (400, post(chunked, "fffffffffffffffff\r\n{")),
        (414, format!("GET /{long} HTTP/1.1\r\n\r\n")),
        (431, post(&format!("a: {long}\r\n"), "")),
        (431, post(&"a: b\r\n".repeat(200), "")),
    ];
    (good, shapes)
}

#[tokio::test]
async fn smuggled_requests_are_one_answer_and_the_end() {
    let stage = Stage::with(&["--log-level=warn"]).await;
    let (good, shapes) = smuggled(&stage);
    besieged(&stage, SHORT, async || {
        SHORT
            .again_and_again(async || {
                let sent = shapes.iter().enumerate();
                let attacks = sent.map(async |(number, (status, shape))| {
                    let mut stream = attacker(&stage, number).await;
                    // Whoever is refused in the middle of it need not have read the rest.
                    let request = format!("{shape}{good}");
                    let _ = stream.write_all(request.as_bytes()).await;
                    let answer = read_to_the_end(stream).await;
                    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
                    let expected = format!("HTTP/1.1 {status} ");
                    assert!(head.starts_with(&expected), "{shape:.300}: {answer}");
                    assert!(head.contains("application/problem+json"), "{answer}");
                    // Exactly one, and whole: nothing follows it.
                    let problem: Value = serde_json::from_str(body).expect("one document");
                    assert_eq!(problem["status"], *status, "{answer}");
                });
                join_all(attacks).await;
            })
            .await;
    })
    .await;
    let looked_up = "weir_status_ledger_queries_total{query=\"lookup\"}";
    assert_eq!(stage.metric(looked_up).await, 0.0);
}

#[tokio::test]
async fn one_address_cannot_take_every_connection() {
    let flags = ["--connections-per-address-max=8", "--log-level=warn"];
    let stage = Stage::with(&flags).await;
    let mut rounds = 0;
    besieged(&stage, SHORT, async || {
        SHORT
            .again_and_again(async || {
                // All of one address, which is another's turn the next time.
                let held = join_all((0..8).map(|_| attacker(&stage, rounds))).await;
                let mut refused = attacker(&stage, rounds).await;
                // It may have been closed on already.
                let _ = refused.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
                let answer = read_to_the_end(refused).await;
                assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
                assert!(answer.contains("urn:weir:problem:overloaded"), "{answer}");
                rounds += 1;
                drop(held);
                // Until the places are free again: the honest client has one or two.
                stage
                    .until("alone", async || {
                        stage.metric("weir_status_connections").await <= 2.0
                    })
                    .await;
            })
            .await;
    })
    .await;
    let name = "weir_status_connections_refused_total{bound=\"address\"}";
    assert_eq!(stage.metric(name).await, rounds as f64);
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
    ask(&stage).await;
}
