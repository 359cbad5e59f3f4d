//! Bodies that never end, and small ones that become large.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_compression::Level;
use async_compression::tokio::bufread::{GzipEncoder, ZstdEncoder};
use async_compression::zstd::CParameter;
use bytes::Bytes;
use contract::limits::BODY_BYTES_MAX;
use devstack::eventually::eventually;
use futures_util::future::join_all;
use http::Method;
use tokio::io::AsyncReadExt as _;

use crate::fairness::other_key;
use crate::harness::{Answer, Gateway, LIMIT, Log, ride};
use crate::siege::{
    BODIES_BYTES_MAX, LONG, ROOM_BYTES, ROOM_FLAG, SHORT, Size, attacker, besieged, pour,
};

/// So many bodies at once that without the bound on all of them they would take far more than
/// there may be.
const BODIES: usize = 32;
const _: () = assert!((BODIES * BODY_BYTES_MAX) as u64 > BODIES_BYTES_MAX + ROOM_BYTES);

/// A gateway whose honest clients are one partner's, and the key of another: an attacker takes all
/// the room that its own partner may have.
async fn gateway_and_attackers_key(log: &Log) -> (Gateway, String) {
    let mut gateway = Gateway::ready(log, &[ROOM_FLAG, "--log-level=warn"]).await;
    let honest = other_key(log).await;
    let attackers = std::mem::replace(&mut gateway.key, honest);
    let known = eventually(LIMIT, || async {
        (gateway.post(&ride(1)).await.status == 202).then_some(())
    });
    known.await.expect("the gateway knows the other partner");
    (gateway, attackers)
}

async fn endless_bodies(size: Size) {
    let log = Log::start(1).await;
    let (mut gateway, key) = gateway_and_attackers_key(&log).await;
    besieged(&mut gateway, BODIES_BYTES_MAX, async |gateway| {
        let told = AtomicUsize::new(0);
        size.again_and_again(async || {
            let attacks = (0..BODIES).map(async |number| {
                let stream = attacker(gateway, number).await;
                let head = gateway.head("transfer-encoding: chunked\r\n");
                let head = head.replace(&gateway.key, &key);
                let chunk = [&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat();
                let answer = pour(stream, head.as_bytes(), &chunk, 20 * BODY_BYTES_MAX).await;
                // Too large, too many at once, or too slow for a busy machine: none is read to
                // its end.
                let refused = ["HTTP/1.1 413", "HTTP/1.1 503", "HTTP/1.1 408"];
                let is_told = refused.iter().any(|it| answer.starts_with(it));
                assert!(is_told || answer.is_empty(), "{answer}");
                told.fetch_add(usize::from(is_told), Ordering::Relaxed);
            });
            join_all(attacks).await;
        })
        .await;
        assert!(told.into_inner() > BODIES / 2, "most read the answer");
    })
    .await;
}

#[tokio::test]
async fn an_endless_body_is_refused_and_closed() {
    endless_bodies(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile_network"]
async fn an_endless_body_is_refused_and_closed_long() {
    endless_bodies(LONG).await;
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

/// A coding, the status that is deserved (0: what a body gets that is empty, or not read in time),
/// and a body.
type Bomb = (&'static str, u16, Vec<u8>);

async fn bombs() -> Vec<Bomb> {
    let zeros = vec![b' '; 32 << 20];
    let (gzipped, zstded) = (gzip(&zeros).await, zstd(&zeros).await);
    let (nothing_gzipped, nothing_zstded) = (gzip(b"").await, zstd(b"").await);
    let fill = |member: &[u8]| member.repeat((BODY_BYTES_MAX - 1) / member.len());
    let some = zeros[..1 << 20].to_vec();
    vec![
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
        // As many members and frames as fit, none of which holds anything.
        ("gzip", 0, fill(&nothing_gzipped)),
        ("zstd", 0, fill(&nothing_zstded)),
        ("zstd", 0, fill(b"\x50\x2a\x4d\x18\x00\x00\x00\x00")),
    ]
}

async fn post(gateway: &Gateway, key: &str, coding: &str, body: Bytes) -> Answer {
    let authorization = format!("Bearer {key}");
    let headers = [
        ("authorization", authorization.as_str()),
        ("content-encoding", coding),
    ];
    let url = format!("http://{}/v1/rides", gateway.address);
    gateway.exchange(Method::POST, &url, &headers, body).await
}

async fn bombed(size: Size) {
    let log = Log::start(1).await;
    let (mut gateway, key) = gateway_and_attackers_key(&log).await;
    let bombs: Vec<_> = bombs()
        .await
        .into_iter()
        .map(|(coding, status, bomb)| (coding, status, Bytes::from(bomb)))
        .collect();
    besieged(&mut gateway, BODIES_BYTES_MAX, async |gateway| {
        size.again_and_again(async || {
            for (number, (coding, status, bomb)) in bombs.iter().enumerate() {
                // By itself each is answered as it deserves, and there is room to see it.
                if *status != 0 {
                    let alone = post(gateway, &key, coding, bomb.clone()).await;
                    assert_eq!(alone.status, *status, "{number}: {alone:?}");
                }
                let answers = (0..4).map(|_| post(gateway, &key, coding, bomb.clone()));
                for answer in join_all(answers).await {
                    // Bombs at once take each other's room: that is an answer, too.
                    let expected = match status {
                        0 => [400, 408].contains(&answer.status),
                        _ => answer.status == *status,
                    };
                    let full = answer.status == 503 && answer.body["code"] == "overloaded";
                    assert!(expected || full, "{number}: {answer:?}");
                }
            }
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_are_refused_within_the_bounds() {
    bombed(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: see hostile_network"]
async fn bombs_are_refused_within_the_bounds_long() {
    bombed(LONG).await;
}

/// A window is bounded, whatever is in the frame, and who asks for too much is told what to do.
#[tokio::test]
async fn a_zstd_window_has_a_bound_that_is_told() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &["--log-level=warn"]).await;
    let plain = ride(1).to_string();
    let with_window = async |log: u32| {
        let window = [CParameter::window_log(log)];
        let mut out = Vec::new();
        let mut encoder =
            ZstdEncoder::with_quality_and_params(plain.as_bytes(), Level::Default, &window);
        encoder.read_to_end(&mut out).await.unwrap();
        Bytes::from(out)
    };
    let fits = post(&gateway, &gateway.key, "zstd", with_window(23).await).await;
    assert_eq!(fits.status, 202, "{fits:?}");
    let huge = HUGE_WINDOWS.map(Bytes::from_static);
    for body in huge.into_iter().chain([with_window(24).await]) {
        let answer = post(&gateway, &gateway.key, "zstd", body).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert_eq!(answer.body["code"], "malformed");
        assert_eq!(answer.body["retryable"], false);
        let detail = answer.body["detail"].as_str().unwrap();
        for said in ["more than 8 MiB", "window log of 23"] {
            assert!(detail.contains(said), "{detail}");
        }
    }
}
