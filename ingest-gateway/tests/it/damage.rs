//! The log away, dead in part, full, frozen, or not what it was.

use contract::Partition;
use contract::log::StreamMetadata;
use devstack::eventually::eventually;
use http::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use uuid::Uuid;

use crate::harness::{Gateway, LIMIT, Log, ids_of, lines, ride};
use crate::tampering::Tampering;

#[tokio::test]
async fn a_killed_log_is_503_and_a_restarted_one_202() {
    let mut log = Log::start(2).await;
    let gateway = Gateway::ready(&log, &[]).await;
    let first = gateway.post(&ride(1)).await;
    assert_eq!(first.status, 202);
    log.nats.kill(0).await;
    let refused = gateway.post(&ride(2)).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.body["retryable"], true);
    let many = gateway.post(&json!([ride(3), 1])).await;
    assert_eq!(many.status, 503, "{many:?}");
    let not_ready = eventually(LIMIT, || async {
        let answer = gateway.readyz().await;
        (answer.status == 503).then_some(answer.body)
    });
    let reasons = not_ready.await.expect("readiness says so");
    assert_eq!(reasons["reasons"][0]["condition"], "log");

    log.nats.restart(0).await.unwrap();
    gateway.wait_ready().await;
    let again = gateway.post(&ride(4)).await;
    assert_eq!(again.status, 202, "{again:?}");
    for answer in [first, again] {
        assert!(log.holds(&answer.body["tracking_id"]).await);
    }
}

#[tokio::test]
async fn it_starts_without_a_log_and_serves_once_there_is_one() {
    let mut log = Log::start(2).await;
    log.nats.kill(0).await;
    let gateway = Gateway::start(&log.nats.url(), &[]).await;
    let refused = gateway.post(&ride(1)).await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.body["code"], "log-unavailable");
    assert_eq!(gateway.readyz().await.status, 503);
    log.nats.restart(0).await.unwrap();
    gateway.wait_ready().await;
    assert_eq!(gateway.post(&ride(1)).await.status, 202);
}

#[tokio::test]
async fn a_deleted_stream_fails_only_its_own_items() {
    let log = Log::start(2).await;
    let gateway = Gateway::ready(&log, &[]).await;
    log.context.delete_stream("WEIR_INGEST_001").await.unwrap();
    check_other_partition(&log, &gateway, "log-unavailable").await;
    assert_eq!(gateway.readyz().await.status, 200);
}

#[tokio::test]
async fn a_gateway_that_starts_beside_a_dead_stream_serves_the_others() {
    let log = Log::start(2).await;
    log.context.delete_stream("WEIR_INGEST_001").await.unwrap();
    let gateway = Gateway::ready(&log, &[]).await;
    check_other_partition(&log, &gateway, "log-unavailable").await;
}

#[tokio::test]
async fn any_stream_tells_the_partitions_and_a_late_one_is_still_compared() {
    let log = Log::start(3).await;
    let mut stream = log.context.get_stream("WEIR_INGEST_002").await.unwrap();
    let metadata = stream.info().await.unwrap().config.metadata.clone();
    let metadata = StreamMetadata::from_map(&metadata).unwrap();
    for dead in ["WEIR_INGEST_000", "WEIR_INGEST_001"] {
        log.context.delete_stream(dead).await.unwrap();
    }
    let gateway = Gateway::ready(&log, &[]).await;
    let [mut first, mut second, mut third] =
        [0, 1, 2].map(|partition| ids_of(log.partitions, Partition(partition)));
    let dead = gateway.post(&ride(first.next().unwrap())).await;
    assert_eq!(dead.status, 503, "{dead:?}");
    let alive = gateway.post(&ride(third.next().unwrap())).await;
    assert_eq!(alive.status, 202, "{alive:?}");

    log.create(Partition(0), metadata.installation).await;
    let ride_there = ride(first.next().unwrap());
    let returned = eventually(LIMIT, || async {
        (gateway.post(&ride_there).await.status == 202).then_some(())
    });
    returned.await.expect("it is served once it is there");

    log.create(Partition(1), Uuid::now_v7()).await;
    let refused = eventually(LIMIT, || async {
        (gateway.readyz().await.status == 503).then_some(())
    });
    refused.await.expect("a stream of another log is noticed");
    assert_eq!(
        gateway.post(&ride(second.next().unwrap())).await.status,
        503
    );
}

#[tokio::test]
async fn a_full_stream_fails_only_its_own_items() {
    let log = Log::start(2).await;
    let gateway = Gateway::ready(&log, &[]).await;
    let mut stream = log.context.get_stream("WEIR_INGEST_001").await.unwrap();
    let mut config = stream.info().await.unwrap().config.clone();
    config.max_bytes = 100;
    log.context.update_stream(config).await.unwrap();
    check_other_partition(&log, &gateway, "log-unavailable").await;
}

/// With partition 1 out of order: partition 0 takes its items, whatever becomes of the others.
async fn check_other_partition(log: &Log, gateway: &Gateway, code: &str) {
    let mut alive = ids_of(log.partitions, Partition(0));
    let mut dead = ids_of(log.partitions, Partition(1));
    for _ in 0..3 {
        let items: Vec<Value> = (0..20)
            .map(|index| {
                ride(
                    if index % 2 == 0 {
                        alive.next()
                    } else {
                        dead.next()
                    }
                    .unwrap(),
                )
            })
            .collect();
        let answer = gateway
            .send(
                Method::POST,
                "/v1/rides",
                "application/jsonl",
                lines(&items),
            )
            .await;
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(
            (&answer.body["accepted"], &answer.body["rejected"]),
            (&json!(10), &json!(10))
        );
        for (index, result) in answer.body["results"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
        {
            if index % 2 == 0 {
                assert!(result["tracking_id"].is_string(), "{result}");
            } else {
                assert_eq!(result["error"]["code"], code);
                assert_eq!(result["error"]["retryable"], true);
            }
        }
    }
    let refused = gateway.post(&ride(dead.next().unwrap())).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    let accepted = gateway.post(&ride(alive.next().unwrap())).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    assert_eq!(
        log.chunks(Partition(0))
            .await
            .iter()
            .map(|it| it.entries.len())
            .sum::<usize>(),
        31
    );
}

#[tokio::test]
async fn a_client_that_hangs_up_cancels_nothing() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    log.nats.freeze(0);
    let body = ride(7).to_string();
    let request = gateway.head(&format!("content-length: {}\r\n", body.len())) + &body;
    let mut stream = gateway.connect().await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let begun = eventually(LIMIT, || async {
        let in_flight = gateway
            .metric("weir_gateway_records_in_flight{partition=\"0\"}")
            .await;
        (in_flight > 0.0).then_some(())
    });
    begun.await.expect("the record is in flight");
    drop(stream);
    let gone = eventually(LIMIT, || async {
        (gateway.metric("weir_gateway_requests_in_flight").await == 0.0).then_some(())
    });
    gone.await.expect("the request is dropped");
    log.nats.thaw(0);
    let stored = eventually(LIMIT, || async {
        (!log.entries().await.is_empty()).then_some(())
    });
    stored.await.expect("it is published all the same");
    let counted = eventually(LIMIT, || async {
        let accepted = gateway.metric("weir_gateway_records_accepted_total").await;
        (accepted == 1.0).then_some(())
    });
    counted.await.expect("and counted");
}

#[tokio::test]
async fn a_frozen_log_leaves_records_unanswered_and_never_doubles_them() {
    let log = Log::start(1).await;
    let flags = ["--publish-deadline=2s", "--request-deadline=9s"];
    let gateway = Gateway::ready(&log, &flags).await;
    log.nats.freeze(0);
    let answer = gateway.post(&ride(1)).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.body["code"], "unanswered");
    let many = gateway.post(&json!([ride(2)])).await;
    assert_eq!(many.status, 503);
    log.nats.thaw(0);
    let accepted = eventually(LIMIT, || async {
        (gateway.post(&ride(3)).await.status == 202).then_some(())
    });
    accepted.await.expect("it recovers");
    // What went unanswered may be stored, once: every retry carried the same message id.
    let entries = log.entries().await;
    let mut ids: Vec<_> = entries.iter().map(|entry| entry.tracking_id).collect();
    let stored = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), stored, "nothing is stored twice");
}

#[tokio::test]
async fn streams_that_do_not_fit_together_are_not_served() {
    let log = Log::start(2).await;
    log.context.delete_stream("WEIR_INGEST_001").await.unwrap();
    log.create(Partition(1), Uuid::now_v7()).await;
    let gateway = Gateway::start(&log.nats.url(), &[]).await;
    let reason = eventually(LIMIT, || async {
        let answer = gateway.readyz().await.body;
        let reason = answer["reasons"][0]["reason"].as_str()?.to_owned();
        reason.contains("another installation").then_some(reason)
    });
    reason.await.expect("readiness says why");
    assert_eq!(gateway.post(&ride(1)).await.status, 503);
}

#[tokio::test]
async fn a_log_recreated_for_another_installation_is_no_longer_served() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    log.context.delete_stream("WEIR_INGEST_000").await.unwrap();
    log.create(Partition(0), Uuid::now_v7()).await;
    let refused = eventually(LIMIT, || async {
        (gateway.readyz().await.status == 503).then_some(())
    });
    refused.await.expect("it notices");
    assert_eq!(gateway.post(&ride(1)).await.status, 503);
}

#[tokio::test]
async fn a_lost_ack_is_asked_for_again_and_nothing_is_stored_twice() {
    let log = Log::start(1).await;
    let between = Tampering::start(&log.nats.url()).await;
    let gateway = Gateway::start(&between.url(), &[]).await;
    gateway.wait_ready().await;
    between.swallow_answers(true);
    let body = ride(1);
    let answer = gateway.post(&body);
    let restored = async {
        let retried = eventually(LIMIT, || async {
            let name = "weir_gateway_publish_retries_total{partition=\"0\"}";
            (gateway.metric(name).await >= 1.0).then_some(())
        });
        retried.await.expect("it is published again");
        between.swallow_answers(false);
    };
    let (answer, ()) = tokio::join!(answer, restored);
    assert_eq!(answer.status, 202, "{answer:?}");
    assert!(log.holds(&answer.body["tracking_id"]).await);
    assert_eq!(
        log.messages().await,
        1,
        "all attempts carried one message id"
    );
}

#[tokio::test]
async fn a_clock_that_the_log_contradicts_is_503_until_they_agree() {
    let log = Log::start(1).await;
    let between = Tampering::start(&log.nats.url()).await;
    let gateway = Gateway::start(&between.url(), &[]).await;
    gateway.wait_ready().await;
    between.shift_clock(true);
    let skewed = eventually(LIMIT, || async {
        let answer = gateway.readyz().await.body;
        (answer["reasons"][0]["condition"] == "clock").then_some(())
    });
    skewed.await.expect("readiness says so");
    let refused = gateway.post(&ride(1)).await;
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (503, &json!("clock-skew"))
    );
    let many = gateway.post(&json!([ride(1)])).await;
    assert_eq!(
        (many.status, &many.body["code"]),
        (503, &json!("clock-skew"))
    );
    assert!(
        gateway
            .metric("weir_gateway_clock_skew_seconds")
            .await
            .abs()
            > 2.0
    );
    between.shift_clock(false);
    gateway.wait_ready().await;
    assert_eq!(gateway.post(&ride(1)).await.status, 202);
}

#[tokio::test]
async fn a_cluster_that_loses_a_node_keeps_what_was_acknowledged() {
    const RIDES: i64 = 300;
    let mut log = Log::cluster(2).await;
    let gateway = Gateway::ready(&log, &[]).await;
    let mut acknowledged = Vec::new();
    for id in 1..=RIDES {
        if id == RIDES / 3 {
            log.nats.kill(1).await;
        }
        let answer = gateway.post(&ride(id)).await;
        match answer.status {
            202 => acknowledged.push(answer.body["tracking_id"].clone()),
            // While a leader is elected.
            503 => assert_eq!(answer.body["retryable"], true, "{answer:?}"),
            _ => panic!("{answer:?}"),
        }
    }
    assert!(
        acknowledged.len() as i64 > RIDES / 2,
        "{}",
        acknowledged.len()
    );
    log.nats.restart(1).await.unwrap();
    let stored: Vec<_> = log
        .entries()
        .await
        .iter()
        .map(|it| json!(it.tracking_id))
        .collect();
    for id in &acknowledged {
        assert_eq!(stored.iter().filter(|it| *it == id).count(), 1, "{id}");
    }
}
