//! Partners' limits, as they meet them.

use std::num::NonZeroU32;

use devstack::eventually::eventually;
use http::Method;
use partners::{Bucket, Limits};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Answer, Gateway, LIMIT, Log, lines, ride, send_then_read};

/// So slow that nothing which counts is made up for while a test runs.
const SLOW: Option<NonZeroU32> = NonZeroU32::new(1);

/// Sets the development partner's limits, and waits until the gateway has them.
async fn limit(log: &Log, gateway: &Gateway, limits: Limits) {
    let urls = [log.nats.url()];
    let client = partners::connect(&urls, "test").await.unwrap();
    // The gateway serves before it has written its partners file there.
    let changed = eventually(LIMIT, || async {
        let bucket = Bucket::open(&client).await.ok()?;
        let change = bucket.change(1, |partner| partner.set_limits(limits));
        change.await.ok()
    });
    changed.await.expect("the partner is there");
    let expected = !limits.is_unlimited();
    let followed = eventually(LIMIT, || async {
        let answer = gateway.post(&ride(1)).await;
        (answer.headers.contains_key("ratelimit") == expected).then_some(())
    });
    followed.await.expect("the gateway follows");
}

fn burst(records: u32, bytes: u32) -> Limits {
    Limits {
        records_per_second: SLOW.filter(|_| records > 0),
        records_burst: NonZeroU32::new(records),
        bytes_per_second: SLOW.filter(|_| bytes > 0),
        bytes_burst: NonZeroU32::new(bytes),
    }
}

async fn send(gateway: &Gateway, rides: i64) -> Answer {
    let rides: Vec<Value> = (1..=rides).map(ride).collect();
    let body = lines(&rides);
    gateway
        .send(Method::POST, "/v1/rides", "application/x-ndjson", body)
        .await
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers[name].to_str().unwrap()
}

#[tokio::test]
async fn a_batch_takes_its_whole_cost_or_nothing_and_is_told_when_it_fits() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    limit(&log, &gateway, burst(2_000, 0)).await;
    let before = log.messages().await;

    let answer = send(&gateway, 1_500).await;
    assert_eq!(
        (answer.status, &answer.body["accepted"]),
        (202, &1_500.into())
    );
    assert_eq!(
        header(&answer, "ratelimit-policy"),
        r#""records";q=2000;w=2000"#
    );
    assert!(header(&answer, "ratelimit").starts_with(r#""records";r=4"#));

    let refused = send(&gateway, 1_000).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.body["code"], "quota-exceeded");
    assert_eq!(refused.body["retryable"], true);
    let wait: u32 = header(&refused, "retry-after").parse().unwrap();
    // 500 records are wanting, at one a second: not a moment less than that takes.
    assert!((400..=760).contains(&wait), "{wait}");
    assert!(header(&refused, "ratelimit").starts_with(r#""records";r=4"#));

    let refused = send(&gateway, 2_001).await;
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (413, &"too-large".into())
    );
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.contains("at most 2000 records"), "{detail}");

    // Neither of them took anything, and nothing of them was stored.
    assert_eq!(send(&gateway, 450).await.status, 202);
    let stored = log.entries().await.len();
    assert!(stored >= 1_950 && log.messages().await > before, "{stored}");

    // The existing client reads it in its own shape.
    assert_eq!(send(&gateway, 1_000).await.status, 429);
    let spent = eventually(LIMIT, || async {
        let answer = gateway
            .send(
                Method::POST,
                "/save/booking/detail",
                "application/json",
                ride(1).to_string(),
            )
            .await;
        (answer.status == 429).then_some(answer)
    });
    let answer = spent.await.expect("the rest is spent");
    assert_eq!(
        (&answer.body["type"], &answer.body["code"]),
        (&2.into(), &"quota-exceeded".into())
    );
    assert!(answer.headers.contains_key("retry-after"));
    let metric = r#"weir_gateway_quota_refused_total{partner="xrides"}"#;
    assert!(gateway.metric(metric).await >= 4.0);
    let metric = r#"weir_gateway_records_rejected_total{code="quota-exceeded"}"#;
    assert!(gateway.metric(metric).await >= 2_001.0);
}

#[tokio::test]
async fn bad_items_cost_as_good_ones_do() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    limit(&log, &gateway, burst(1_000, 0)).await;
    let bad = "{}\n".repeat(900);
    let bad = gateway.send(Method::POST, "/v1/rides", "application/jsonl", bad);
    assert_eq!(bad.await.status, 422);
    assert_eq!(send(&gateway, 200).await.status, 429);
}

#[tokio::test]
async fn a_body_larger_than_the_burst_is_refused_before_it_is_sent() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    limit(&log, &gateway, burst(0, 100_000)).await;
    let mut stream = gateway.connect().await;
    let head = gateway.head("content-length: 100001\r\nconnection: close\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(LIMIT, stream.read(&mut answer));
    let count = read.await.expect("an answer in time").unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]);
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("at most 100000 bytes in"), "{answer}");

    // What is told by no length is known once it is read; the limits are of what it unpacks to.
    assert_eq!(send(&gateway, 400).await.status, 202);
    let answer = send(&gateway, 400).await;
    assert_eq!(answer.status, 429);
    assert!(header(&answer, "ratelimit-policy").starts_with(r#""bytes";q=100000;"#));
}

/// Waits until each of them counts as many gateways.
async fn count(gateways: &[&Gateway], expected: f64) {
    for gateway in gateways {
        let counted = eventually(LIMIT, || async {
            let live = gateway.metric("weir_gateway_gateways_live").await;
            (live == expected).then_some(())
        });
        counted.await.expect("all gateways are counted");
    }
}

#[tokio::test]
async fn gateways_know_how_many_they_are_and_keep_the_number_while_the_log_is_away() {
    let mut log = Log::start(1).await;
    let (first, second, third) = tokio::join!(
        Gateway::ready(&log, &["--name=same"]),
        Gateway::ready(&log, &["--name=same"]),
        Gateway::ready(&log, &[]),
    );
    count(&[&first, &second, &third], 3.0).await;

    // In order, and without a word.
    third.terminate();
    count(&[&first, &second], 2.0).await;
    let mut fourth = Gateway::ready(&log, &[]).await;
    count(&[&first, &second, &fourth], 3.0).await;
    fourth.child.kill().await.unwrap();
    count(&[&first, &second], 2.0).await;

    log.nats.kill(0).await;
    let failed = eventually(LIMIT, || async {
        let failed = first.metric("weir_gateway_heartbeats_failed_total").await;
        (failed >= 4.0).then_some(())
    });
    failed.await.expect("beats fail");
    assert_eq!(first.metric("weir_gateway_gateways_live").await, 2.0);
    log.nats.restart(0).await.unwrap();
    let fifth = Gateway::ready(&log, &[]).await;
    count(&[&first, &second, &fifth], 3.0).await;
}

#[tokio::test]
async fn a_gateway_admits_its_part_of_a_limit_and_all_of_it_once_alone() {
    let log = Log::start(1).await;
    // Its key is the one in the bucket: the second is there to be counted.
    let first = Gateway::ready(&log, &[]).await;
    limit(&log, &first, burst(1_000, 0)).await;
    let second = Gateway::ready(&log, &[]).await;
    count(&[&first, &second], 2.0).await;
    assert_eq!(send(&first, 300).await.status, 202);
    assert_eq!(send(&first, 300).await.status, 429, "half of 1,000 is 500");
    second.terminate();
    count(&[&first], 1.0).await;
    assert_eq!(send(&first, 300).await.status, 202);
}

#[tokio::test]
async fn limits_follow_the_directory_and_end_with_it() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    limit(&log, &gateway, burst(1_000, 0)).await;
    assert_eq!(send(&gateway, 900).await.status, 202);
    assert_eq!(send(&gateway, 500).await.status, 429);
    // A larger burst: what is spent stays spent.
    limit(&log, &gateway, burst(2_000, 0)).await;
    let larger = eventually(LIMIT, || async {
        let answer = send(&gateway, 500).await;
        (answer.status == 202).then_some(())
    });
    larger.await.expect("the larger burst");
    assert_eq!(send(&gateway, 1_000).await.status, 429);
    limit(&log, &gateway, Limits::default()).await;
    let answer = send(&gateway, 5_000).await;
    assert_eq!(answer.status, 202);
    assert!(!answer.headers.contains_key("ratelimit-policy"));
}

/// What was refused for the log's sake costs nothing: the log goes between a request's head and the
/// rest of its body, so that only the end can tell.
#[tokio::test]
async fn what_the_log_s_absence_refuses_is_given_back() {
    let mut log = Log::start(1).await;
    let flags = [
        "--body-read-limit=30s",
        "--request-deadline=40s",
        "--shutdown-grace=50s",
    ];
    let gateway = Gateway::ready(&log, &flags).await;
    limit(&log, &gateway, burst(1_000, 0)).await;
    let rides: Vec<Value> = (1..=900).map(ride).collect();
    let body = Value::from(rides).to_string();
    let mut stream = gateway.connect().await;
    let more = format!(
        "content-length: {}\r\nexpect: 100-continue\r\nconnection: close\r\n",
        body.len()
    );
    stream
        .write_all(gateway.head(&more).as_bytes())
        .await
        .unwrap();
    // Said when the body is about to be read: the log was asked about before.
    let go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    let mut said = vec![0; go_on.len()];
    let read = tokio::time::timeout(LIMIT, stream.read_exact(&mut said));
    read.await.expect("in time").unwrap();
    assert_eq!(said, go_on.as_bytes());

    log.nats.kill(0).await;
    let away = eventually(LIMIT, || async {
        let answer = gateway.post(&ride(1)).await;
        (answer.body["detail"] == "the log cannot be reached").then_some(())
    });
    away.await.expect("heads are refused");
    let answer = send_then_read(stream, body.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.contains("urn:weir:problem:log-unavailable"),
        "{answer}"
    );

    log.nats.restart(0).await.unwrap();
    gateway.wait_ready().await;
    // Nothing that counts came back by itself: at one a second that takes a quarter of an hour.
    let returned = eventually(LIMIT, || async {
        let answer = send(&gateway, 900).await;
        (answer.status != 503).then_some(answer)
    });
    let answer = returned.await.expect("the log is back");
    assert_eq!(answer.status, 202, "{answer:?}");
}
