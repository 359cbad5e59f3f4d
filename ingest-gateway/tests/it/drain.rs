//! SIGTERM: every request begun is answered.

use devstack::eventually::eventually;

use crate::harness::{Gateway, LIMIT, Log, ride};

#[tokio::test]
async fn a_drain_answers_everything_begun() {
    const REQUESTS: usize = 16;
    let log = Log::start(2).await;
    let mut gateway = Gateway::ready(&log, &[]).await;
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
