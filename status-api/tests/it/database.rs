//! The database away, frozen, back, and without tables.

use std::time::{Duration, Instant};

use devstack::fixture::Fixture;

use crate::stage::{Ended, Stage, XRIDES, migrate};

/// What a bounded answer may take: the acquire timeout, the query's own, and a busy machine.
const BOUND: Duration = Duration::from_secs(12);

#[tokio::test]
async fn away_is_503_never_404_and_it_recovers() {
    let mut stage = Stage::new().await;
    let persisted = stage.mint(XRIDES, 0, 5_000);
    let made_up = "/v1/requests/018f2f4e-7c3a-7abc-8def-0123456789ab";
    stage.end(persisted, XRIDES, &Ended::PERSISTED).await;
    assert_eq!(stage.request(XRIDES, persisted).await.status, 200);

    stage.postgres.stop().await;
    let started = Instant::now();
    let id = format!("/v1/requests/{persisted}");
    let body = format!("{{\"tracking_ids\":[\"{persisted}\"]}}");
    for path in [
        &id,
        "/v1/requests?status=failed",
        "/v1/rides/1",
        "/v1/rides?user_id=1",
        "/v1/couriers/1",
        "/v1/couriers",
        &format!("/v1/couriers?after={persisted}"),
        &format!("{id}?wait=1s"),
    ] {
        let answer = stage.get(XRIDES, path).await;
        answer.is_problem(503, "database-unavailable");
        assert!(answer.header("retry-after").is_some());
    }
    stage
        .lookup(XRIDES, &body)
        .await
        .is_problem(503, "database-unavailable");
    assert!(started.elapsed() < 9 * BOUND, "{:?}", started.elapsed());
    stage
        .get(XRIDES, made_up)
        .await
        .is_problem(404, "not-found");
    stage.until_not_ready().await;
    let reasons = stage.readyz().await.json();
    assert_eq!(reasons["reasons"][0]["condition"], "database", "{reasons}");

    stage.postgres.restart().await.unwrap();
    stage.until_ready().await;
    let answer = stage.request(XRIDES, persisted).await;
    assert_eq!(
        (answer.status, &answer.json()["status"]),
        (200, &"persisted".into())
    );
    assert_eq!(stage.metric("weir_status_unknown_total").await, 0.0);
}

#[tokio::test]
async fn long_polls_under_way_are_told() {
    let mut stage = Stage::new().await;
    let id = stage.mint(XRIDES, 0, 0);
    let path = format!("/v1/requests/{id}?wait=30s");
    let started = Instant::now();
    let request = format!("GET {path} HTTP/1.1\r\n{}", stage.key_header(XRIDES));
    let waiting = tokio::spawn(stage.detached(request));
    stage
        .until("waiting", async || {
            stage.metric("weir_status_long_polls").await == 1.0
        })
        .await;
    stage.postgres.stop().await;
    let answer = waiting.await.unwrap();
    answer.is_problem(503, "database-unavailable");
    assert!(
        started.elapsed() < Duration::from_secs(29),
        "told, not timed out"
    );
}

#[tokio::test]
async fn a_frozen_database_is_503_in_bounded_time() {
    let stage = Stage::new().await;
    let id = stage.mint(XRIDES, 0, 0);
    assert_eq!(stage.request(XRIDES, id).await.status, 200);
    stage.postgres.freeze();
    let started = Instant::now();
    stage
        .request(XRIDES, id)
        .await
        .is_problem(503, "database-unavailable");
    assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
    stage.until_not_ready().await;
    stage.postgres.thaw();
    stage.until_ready().await;
    stage
        .until("answering", async || {
            stage.request(XRIDES, id).await.status == 200
        })
        .await;
}

#[tokio::test]
async fn it_starts_without_database_and_without_tables() {
    let mut postgres = Fixture::postgres().await;
    postgres.stop().await;
    let mut stage = Stage::on(postgres, &[]).await;
    let id = stage.mint(XRIDES, 0, 0);
    stage
        .request(XRIDES, id)
        .await
        .is_problem(503, "database-unavailable");
    stage.until_not_ready().await;

    stage.postgres.restart().await.unwrap();
    stage
        .until("there, without tables", async || {
            stage.readyz().await.body.contains("progress")
        })
        .await;
    stage
        .request(XRIDES, id)
        .await
        .is_problem(503, "database-unavailable");

    migrate(&stage.postgres.database_url()).await;
    stage.until_ready().await;
    assert_eq!(stage.request(XRIDES, id).await.json()["status"], "queued");
    assert!(
        stage
            .metric("weir_status_watermark_lag_seconds{partition=\"0\"}")
            .await
            >= 30.0
    );
}

#[tokio::test]
async fn sessions_are_read_only() {
    let stage = Stage::new().await;
    // Reading this view writes; under a read-only session it fails, and the service says so.
    stage.execute("create table written (at timestamptz)").await;
    stage
        .execute(
            "create function write() returns int4 language sql volatile
             as 'insert into written values (now()) returning 1'",
        )
        .await;
    stage
        .execute(
            "create or replace view status_progress as
             select partition, committed_to, write() as wrote from progress",
        )
        .await;
    let id = stage.mint(XRIDES, 0, 0);
    stage
        .request(XRIDES, id)
        .await
        .is_problem(503, "database-unavailable");
    stage
        .until("said", async || {
            stage.log().contains("read-only transaction")
        })
        .await;
}
