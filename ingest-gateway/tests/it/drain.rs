//! SIGTERM: every request begun is answered.

use devstack::eventually::eventually;
use tokio::io::AsyncWriteExt as _;

use crate::harness::{Gateway, LIMIT, Log, ride};

#[tokio::test]
async fn a_drain_answers_everything_begun() {
    const REQUESTS: usize = 16;
    let log = Log::start(2).await;
    // All that happens between freeze and thaw has half of the publish deadline: what has waited
    // longer when its chunk is sealed is refused, as it should be. A busy machine needs the longest
    // there can be.
    let patient = [
        "--publish-deadline=15s",
        "--request-deadline=25s",
        "--shutdown-grace=40s",
    ];
    let mut gateway = Gateway::ready(&log, &patient).await;
    // Nothing can be answered while the log is frozen, so all are begun when the signal comes.
    log.nats.freeze(0);
    let rides: Vec<_> = (1..=REQUESTS as i64).map(ride).collect();
    let answers = futures_util::future::join_all(rides.iter().map(|ride| gateway.post(ride)));
    let signalled = async {
        let begun = eventually(LIMIT, || async {
            let in_flight = gateway.metric("weir_gateway_requests_in_flight").await;
            (in_flight >= REQUESTS as f64).then_some(())
        });
        begun.await.expect("all are begun");
        gateway.terminate();
        let refusing = eventually(LIMIT, || async {
            let connected = tokio::net::TcpStream::connect(&gateway.address).await;
            connected.is_err().then_some(())
        });
        refusing.await.expect("it no longer accepts");
        log.nats.thaw(0);
    };
    let (answers, ()) = tokio::join!(answers, signalled);
    for answer in answers {
        assert_eq!(answer.status, 202, "{answer:?}");
        assert!(log.holds(&answer.body["tracking_id"]).await);
    }
    let status = tokio::time::timeout(LIMIT, gateway.child.wait()).await;
    assert!(status.unwrap().unwrap().success());
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_client_that_never_reads() {
    // More than the answers to these fit both sides' buffers.
    let plain = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(500);
    // HTTP/2 whose windows let nothing of a body through: the preface, SETTINGS with
    // INITIAL_WINDOW_SIZE 0, HEADERS of stream 1 with END_STREAM, in HPACK's static table
    // `:method GET`, `:scheme http`, `:authority x`, and a literal `:path /openapi.json`.
    let windowless = [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00",
        b"\x00\x00\x14\x01\x05\x00\x00\x00\x01",
        b"\x82\x86\x01\x01x\x04\x0d/openapi.json",
    ]
    .concat();
    tokio::join!(drains_beside(plain.as_bytes()), drains_beside(&windowless));
}

async fn drains_beside(requests: &[u8]) {
    let mut gateway = Gateway::start("nats://127.0.0.1:1", &[]).await;
    let mut deaf = gateway.connect().await;
    deaf.write_all(requests).await.unwrap();
    let answered = eventually(LIMIT, || async {
        let name = "weir_gateway_requests_total{route=\"/openapi.json\",status=\"200\"}";
        (gateway.metric(name).await > 0.0).then_some(())
    });
    answered.await.expect("an answer begins");
    gateway.terminate();
    let status = tokio::time::timeout(LIMIT, gateway.child.wait()).await;
    assert!(status.unwrap().unwrap().success(), "nothing was abandoned");
    drop(deaf);
}

#[tokio::test]
async fn nobody_needs_to_read_the_log() {
    let log = Log::start(1).await;
    let mut gateway = Gateway::start_unread(&log.nats.url(), &["--log-level=debug"]).await;
    gateway.wait_ready().await;
    assert_eq!(gateway.post(&ride(1)).await.status, 202);
    gateway.terminate();
    let status = tokio::time::timeout(LIMIT, gateway.child.wait()).await;
    assert!(status.unwrap().unwrap().success());
}
