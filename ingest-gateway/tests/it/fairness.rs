//! One partner's flood, and another that wants to send.

use std::time::{Duration, Instant};

use devstack::eventually::eventually;
use futures_util::future::join_all;
use http::Method;
use jiff::Timestamp;
use partners::{Bucket, Limits, NewPartner, Scope};
use serde_json::Value;

use crate::harness::{Answer, Gateway, LIMIT, Log, lines, ride};

/// Longer than anyone waits for room: who is not refused by then has some.
const ROOM_WAIT: Duration = Duration::from_millis(600);

/// A key of another partner than the gateway's own.
pub(crate) async fn other_key(log: &Log) -> String {
    let client = partners::connect(&[log.nats.url()], "test").await.unwrap();
    let new = NewPartner {
        name: "other".to_owned(),
        id: None,
        limits: Limits::default(),
        scopes: vec![Scope::Ingest],
        expires_at: None,
    };
    let added = eventually(LIMIT, || async {
        let bucket = Bucket::open(&client).await.ok()?;
        bucket.get(1).await.ok().flatten()?;
        bucket.add(&new, Timestamp::now()).await.ok()
    });
    let (_, key) = added.await.expect("another partner");
    key.reveal().to_owned()
}

async fn send_one(gateway: &Gateway, key: &str, id: i64) -> Answer {
    let authorization = format!("Bearer {key}");
    let headers = [("authorization", authorization.as_str())];
    let url = format!("http://{}/v1/rides", gateway.address);
    let body = ride(id).to_string();
    gateway.exchange(Method::POST, &url, &headers, body).await
}

#[tokio::test]
async fn a_flood_that_the_log_does_not_take_leaves_room_for_others() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    let key = other_key(&log).await;
    let known = eventually(LIMIT, || async {
        (send_one(&gateway, &key, 1).await.status == 202).then_some(())
    });
    known.await.expect("the gateway knows the other partner");

    log.nats.freeze(0);
    let batches = (1..6).map(|batch| {
        let rides: Vec<Value> = (1..=8_000).map(|id| ride(batch * 10_000 + id)).collect();
        let body = lines(&rides);
        let gateway = &gateway;
        async move {
            let sent = gateway.send(Method::POST, "/v1/rides", "application/x-ndjson", body);
            sent.await
        }
    });
    let flood = async {
        let answers = join_all(batches).await;
        let refused: Vec<_> = answers
            .iter()
            .filter(|it| it.body["code"] == "overloaded")
            .collect();
        // It had half of the room and no more.
        assert!(refused.len() >= 3, "{}", refused.len());
        for answer in refused {
            assert_eq!(answer.status, 503);
            let wait: u32 = answer.headers["retry-after"]
                .to_str()
                .unwrap()
                .parse()
                .unwrap();
            assert!((1..=45).contains(&wait), "{wait}");
        }
    };
    let other = async {
        let refused = eventually(LIMIT, || async {
            let metric = r#"weir_gateway_records_rejected_total{code="overloaded"}"#;
            (gateway.metric(metric).await > 0.0).then_some(())
        });
        refused.await.expect("the flood meets its bound");
        let sent = send_one(&gateway, &key, 2);
        let mut sent = std::pin::pin!(sent);
        let refused = tokio::time::timeout(ROOM_WAIT, sent.as_mut()).await;
        assert!(refused.is_err(), "it is in the queue: {refused:?}");
        log.nats.thaw(0);
        assert_eq!(sent.await.status, 202);
    };
    tokio::join!(flood, other);
}

/// Sends more than a partition takes while the log stands still, until some is refused: how long
/// those who are refused are told to wait, in seconds.
async fn told_to_wait(log: &Log, gateway: &Gateway) -> Vec<u32> {
    let metric = r#"weir_gateway_records_rejected_total{code="overloaded"}"#;
    let before = gateway.metric(metric).await;
    log.nats.freeze(0);
    let batches = (1..5).map(|batch| {
        let rides: Vec<Value> = (1..=8_000).map(|id| ride(batch * 10_000 + id)).collect();
        let body = lines(&rides);
        gateway.send(Method::POST, "/v1/rides", "application/x-ndjson", body)
    });
    let thaw = async {
        let refused = eventually(LIMIT, || async {
            (gateway.metric(metric).await > before).then_some(())
        });
        refused.await.expect("the flood meets its bound");
        log.nats.thaw(0);
    };
    let (answers, ()) = tokio::join!(join_all(batches), thaw);
    let refused = answers.iter().filter(|answer| answer.status == 503);
    let waits: Vec<u32> = refused
        .map(|answer| {
            assert_eq!(answer.body["code"], "overloaded", "{answer:?}");
            let wait = answer.headers["retry-after"].to_str().unwrap();
            wait.parse().unwrap()
        })
        .collect();
    assert!(!waits.is_empty());
    waits
}

#[tokio::test]
async fn who_is_refused_for_want_of_room_is_told_how_fast_the_log_takes_it() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    // All that is known of the log's pace: it took longer than this for one record.
    let slow = Duration::from_millis(200);
    log.nats.freeze(0);
    let thaw = async {
        let begun = Instant::now();
        let passed = eventually(LIMIT, || async { (begun.elapsed() > slow).then_some(()) });
        passed.await.expect("time passes");
        log.nats.thaw(0);
    };
    let one = ride(1);
    let (answer, ()) = tokio::join!(gateway.post(&one), thaw);
    assert_eq!(answer.status, 202, "{answer:?}");
    // Thousands are there, and five a second drain: the longest that anyone is told, and half of it.
    for wait in told_to_wait(&log, &gateway).await {
        assert!((30..=45).contains(&wait), "{wait}");
    }

    // Then it takes thousands at once.
    for batch in 1..=4 {
        let rides: Vec<Value> = (1..=4_000).map(|id| ride(batch * 10_000 + id)).collect();
        let sent = gateway.send(
            Method::POST,
            "/v1/rides",
            "application/x-ndjson",
            lines(&rides),
        );
        let answer = sent.await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    for wait in told_to_wait(&log, &gateway).await {
        assert!((1..30).contains(&wait), "{wait}");
    }
}

/// How nice each thread for long work is, and how long all of them have worked, in clock ticks.
fn long_work(pid: u32) -> (Vec<i64>, u64) {
    let mut nice = Vec::new();
    let mut worked = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        // A thread may have ended meanwhile.
        let Ok(stat) = std::fs::read_to_string(task.unwrap().path().join("stat")) else {
            continue;
        };
        let (name, rest) = stat.rsplit_once(") ").unwrap();
        if name.ends_with("(long-work") {
            // proc_pid_stat(5), counted from the state, its third.
            let rest: Vec<&str> = rest.split(' ').collect();
            worked += rest[11].parse::<u64>().unwrap();
            nice.push(rest[16].parse().unwrap());
        }
    }
    (nice, worked)
}

#[tokio::test]
async fn large_requests_stand_back_while_others_are_there() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    let key = other_key(&log).await;
    let rides: Vec<Value> = (1..=5_000).map(ride).collect();
    let body = lines(&rides);
    let send_large = || async {
        let sent = gateway.send(
            Method::POST,
            "/v1/rides",
            "application/x-ndjson",
            body.clone(),
        );
        assert_eq!(sent.await.status, 202);
    };
    let pid = gateway.child.id().expect("running");
    for _ in 0..5 {
        send_large().await;
    }
    let (nice, worked) = long_work(pid);
    let own = i64::from(rustix::process::getpriority_process(None).unwrap());
    assert!(!nice.is_empty());
    assert!(
        nice.iter().all(|nice| *nice == (own + 10).min(19)),
        "{nice:?}"
    );
    assert_eq!(worked, 0, "alone it has all there is");

    let stood_back = eventually(LIMIT, || async {
        // Until the gateway knows the other partner, that is refused.
        send_one(&gateway, &key, 1).await;
        send_large().await;
        (long_work(pid).1 > 0).then_some(())
    });
    stood_back.await.expect("it stands back");
}
