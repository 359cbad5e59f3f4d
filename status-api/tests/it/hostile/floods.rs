//! HTTP/2 frames without end, and TLS handshakes without one.

use std::time::Duration;

use devstack::siege::http2::{
    END_HEADERS, END_STREAM, FLOODS, HEADERS, flood, frame, get, post, preface,
};
use devstack::siege::{LONG, SHORT, Size, Waits, trickle};
use futures_util::future::join_all;
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::TlsConnector;

use super::read_to_the_end;
use crate::siege::{attacker, besieged, besieged_beside};
use crate::stage::Stage;
use crate::tls::{Certificate, ask, encrypt};

/// A stage that speaks TLS only.
async fn encrypted(certificate: &Certificate, flags: &[&str]) -> Stage {
    let tls = certificate.flags();
    let tls = tls.iter().map(String::as_str);
    let flags: Vec<_> = tls.chain(flags.iter().copied()).collect();
    Stage::with(&flags).await
}

/// A whole answer, encrypted.
async fn served(stage: &Stage, client: &TlsConnector) {
    let answer = ask(stage, client).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

async fn cut_off(stage: &Stage, reason: &str) -> f64 {
    let name = format!("weir_status_connections_cut_off_total{{reason=\"{reason}\"}}");
    stage.metric(&name).await
}

/// All floods, one after the other, beside an honest client.
async fn floods(size: Size) {
    let certificate = Certificate::new();
    let stage = encrypted(&certificate, &["--log-level=warn"]).await;
    let [honest, client] = ["http/1.1", "h2"].map(|it| certificate.client(it));
    let lookup = &post("/v1/requests/lookup");
    let attack = async || {
        size.again_and_again(async || {
            for (name, frames) in FLOODS {
                let attacks = (0..size.sockets / 16).map(async |number| {
                    let stream = encrypt(&client, attacker(&stage, number).await).await;
                    let stream = stream.unwrap();
                    let protocol = stream.get_ref().1.alpn_protocol();
                    assert_eq!(protocol, Some(&b"h2"[..]));
                    flood(stream, &preface(b""), |n| frames(lookup, n)).await
                });
                for ended in join_all(attacks).await {
                    assert!(ended, "{name} is not ended");
                }
            }
        })
        .await;
    };
    let honest = async || served(&stage, &honest).await;
    Box::pin(besieged_beside(&stage, size, honest, attack)).await;
    assert!(cut_off(&stage, "flood").await > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_floods_are_ended_over_tls() {
    floods(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile"]
async fn http_2_floods_are_ended_over_tls_long() {
    floods(LONG).await;
}

/// In the clear there is no HTTP/2 here: closed at once, without a word that a client of either
/// protocol could take for an answer to what it sent.
#[tokio::test]
async fn without_tls_http_2_is_refused() {
    let stage = Stage::with(&["--log-level=warn"]).await;
    let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, &get("/openapi.json"));
    let request = [preface(b""), request].concat();
    besieged(&stage, SHORT, async || {
        SHORT
            .again_and_again(async || {
                let attacks = (0..SHORT.sockets).map(async |number| {
                    let mut stream = attacker(&stage, number).await;
                    stream.write_all(&request).await.unwrap();
                    let answer = read_to_the_end(stream).await;
                    assert_eq!(answer, "");
                });
                join_all(attacks).await;
            })
            .await;
    })
    .await;
}

/// Begins handshakes and leaves them there.
#[tokio::test]
async fn silent_handshakes_are_closed() {
    /// Set by a flag, and what it is by default.
    const BOUND: Duration = Duration::from_secs(1);
    const DEFAULT: Duration = Duration::from_secs(5);
    let certificate = Certificate::new();
    let flags = ["--tls-handshake-limit=1s", "--log-level=warn"];
    let stage = encrypted(&certificate, &flags).await;
    let honest = certificate.client("http/1.1");
    let waits = Waits::default();
    let attack = async || {
        let attacks = (0..SHORT.sockets).map(async |number| {
            let hello = [&b""[..], &[22, 3, 1, 1, 0, 1]][number % 2];
            let ended = trickle(attacker(&stage, number).await, hello, b"").await;
            assert_eq!(ended.answer, "");
            waits.add(ended.after);
        });
        join_all(attacks).await;
    };
    let honest = async || served(&stage, &honest).await;
    Box::pin(besieged_beside(&stage, SHORT, honest, attack)).await;
    waits.check(BOUND, DEFAULT / 2, "a handshake");
    assert_eq!(cut_off(&stage, "handshake").await, SHORT.sockets as f64);
}
