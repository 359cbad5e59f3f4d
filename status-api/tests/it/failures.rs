//! Pages of failures.

use std::collections::BTreeSet;

use contract::TrackingId;

use crate::stage::{ACME, Answer, Ended, HOUR_MS, Stage, XRIDES, now_ms, shown};

async fn page(stage: &Stage, limit: usize, cursor: &str) -> (Vec<String>, String) {
    let path = format!("/v1/requests?status=failed&since=&cursor={cursor}&limit={limit}");
    let answer = stage.get(XRIDES, &path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    (
        ids(&answer),
        answer.json()["next_cursor"].as_str().unwrap().to_owned(),
    )
}

fn ids(answer: &Answer) -> Vec<String> {
    let json = answer.json();
    let results = json["results"].as_array().unwrap();
    results
        .iter()
        .map(|it| it["tracking_id"].as_str().unwrap().to_owned())
        .collect()
}

fn texts(ids: &[TrackingId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn pages_follow_each_other_and_hold_failures_of_this_partner_only() {
    let stage = Stage::new().await;
    let mine: Vec<_> = (0..25_u64)
        .map(|n| stage.mint(XRIDES, (n % 2) as u8, HOUR_MS - n * 1_000))
        .collect();
    for id in &mine {
        stage.end(*id, XRIDES, &Ended::FAILED).await;
    }
    stage
        .end(stage.mint(ACME, 0, HOUR_MS), ACME, &Ended::FAILED)
        .await;
    stage
        .end(stage.mint(XRIDES, 0, HOUR_MS), XRIDES, &Ended::PERSISTED)
        .await;

    let mut read = Vec::new();
    let mut cursor = String::new();
    loop {
        let (some, next) = page(&stage, 10, &cursor).await;
        cursor = next;
        read.extend_from_slice(&some);
        if some.len() < 10 {
            break;
        }
    }
    assert_eq!(read, texts(&mine), "all, in order, once");
    assert_eq!(page(&stage, 10, &cursor).await.0, Vec::<String>::new());

    // `since` counts by acceptance.
    let since = shown(mine[20].unix_ms());
    let later = stage
        .get(XRIDES, &format!("/v1/requests?status=failed&since={since}"))
        .await;
    assert_eq!(ids(&later), texts(&mine[20..]));
    assert_eq!(later.json()["results"][0]["code"], "conflict");
    assert_eq!(later.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn a_slower_partitions_rows_are_never_skipped() {
    let stage = Stage::new().await;
    let now = now_ms();
    // Partition 0 is up to date; partition 1 has ten minutes to catch up with.
    stage.commit_to(0, now).await;
    stage.commit_to(1, now - 600_000).await;
    let old = stage.mint(XRIDES, 1, 900_000);
    let fast: Vec<_> = (0..5)
        .map(|n| stage.mint(XRIDES, 0, 300_000 - n * 1_000))
        .collect();
    for id in fast.iter().chain([&old]) {
        stage.end(*id, XRIDES, &Ended::FAILED).await;
    }
    let mut seen = BTreeSet::new();
    let (first, cursor) = page(&stage, 3, "").await;
    assert_eq!(
        first,
        texts(&[old, fast[0], fast[1]]),
        "newer rows are shown"
    );
    seen.extend(first);
    let (again, cursor) = page(&stage, 3, &cursor).await;
    assert_eq!(
        again,
        texts(&fast[..3]),
        "and shown again, since the cursor stays at the watermark"
    );
    seen.extend(again);

    // The slow partition commits rows that are older than what was shown.
    let slow: Vec<_> = (0..3)
        .map(|n| stage.mint(XRIDES, 1, 400_000 - n * 1_000))
        .collect();
    for id in &slow {
        stage.end(*id, XRIDES, &Ended::FAILED).await;
    }
    stage.commit_to(1, now).await;
    let mut cursor = cursor;
    loop {
        let (some, next) = page(&stage, 3, &cursor).await;
        cursor = next;
        seen.extend(some.iter().cloned());
        if some.len() < 3 {
            break;
        }
    }
    let all: BTreeSet<String> = texts(&slow)
        .into_iter()
        .chain(texts(&fast))
        .chain(texts(&[old]))
        .collect();
    assert_eq!(seen, all, "nothing was skipped");
    assert_eq!(page(&stage, 3, &cursor).await.0, Vec::<String>::new());
}

#[tokio::test]
async fn a_cursor_never_goes_back_before_where_its_page_began() {
    let stage = Stage::new().await;
    let before = stage.mint(XRIDES, 0, 600_000);
    stage.end(before, XRIDES, &Ended::FAILED).await;
    for partition in [0, 1] {
        stage.commit_to(partition, now_ms() - 2 * HOUR_MS).await;
    }
    // Above the watermark: what is older was not asked for, and stays away from later pages too.
    let since = shown(now_ms() - 300_000);
    let answer = stage
        .get(XRIDES, &format!("/v1/requests?status=failed&since={since}"))
        .await;
    let cursor = answer.json()["next_cursor"].as_str().unwrap().to_owned();
    let (rows, same) = page(&stage, 10, &cursor).await;
    assert_eq!((rows, &same), (Vec::new(), &cursor));

    let late: Vec<_> = (0..3)
        .map(|n| stage.mint(XRIDES, 0, 10_000 - n * 1_000))
        .collect();
    for id in &late {
        stage.end(*id, XRIDES, &Ended::FAILED).await;
    }
    // A full page above the watermark ends where it began: it is the last for now.
    let (rows, same) = page(&stage, 2, &cursor).await;
    assert_eq!((rows, &same), (texts(&late[..2]), &cursor));
    // Once the watermark has passed, the pages go on.
    for partition in [0, 1] {
        stage.commit_to(partition, now_ms() + 60_000).await;
    }
    let (rows, next) = page(&stage, 2, &cursor).await;
    assert_eq!(rows, texts(&late[..2]));
    assert_eq!(page(&stage, 2, &next).await.0, texts(&late[2..]));
}

#[tokio::test]
async fn bad_parameters_are_named() {
    let stage = Stage::new().await;
    for query in [
        "",
        "?status=",
        "?status=persisted",
        "?status=failed&limit=0",
        "?status=failed&limit=1001",
        "?status=failed&since=yesterday",
        "?status=failed&cursor=zzz",
        "?status=failed&cursro=a",
        "?status=failed&status=failed",
        "?status=failed&since=%ff",
    ] {
        stage
            .get(XRIDES, &format!("/v1/requests{query}"))
            .await
            .is_problem(400, "bad-parameter");
    }
    assert_eq!(stage.ledger_queries().await, 0.0);
}
