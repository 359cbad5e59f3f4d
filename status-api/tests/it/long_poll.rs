//! `?wait=`: woken by the row, bounded in number and time, and ended by a drain.

use std::time::{Duration, Instant};

use crate::stage::{Ended, LIMIT, Stage, XRIDES};

#[tokio::test]
async fn it_wakes_when_the_row_appears() {
    let stage = Stage::new().await;
    let id = stage.mint(XRIDES, 0, 0);
    let path = format!("/v1/requests/{id}?wait=30s");
    let started = Instant::now();
    let waiting = stage.get(XRIDES, &path);
    let writing = async {
        stage
            .until("waiting", async || {
                stage.metric("weir_status_long_polls").await == 1.0
            })
            .await;
        stage.end(id, XRIDES, &Ended::PERSISTED).await;
        Instant::now()
    };
    let (answer, written) = tokio::join!(waiting, writing);
    assert_eq!(
        (answer.status, &answer.json()["status"]),
        (200, &"persisted".into())
    );
    assert!(answer.header("etag").is_some());
    assert!(
        written.elapsed() < Duration::from_secs(5),
        "woken, not timed out"
    );
    assert!(started.elapsed() < Duration::from_secs(29));
    assert_eq!(stage.metric("weir_status_long_polls").await, 0.0);
}

#[tokio::test]
async fn it_ends_queued_when_the_time_is_over() {
    let stage = Stage::new().await;
    let id = stage.mint(XRIDES, 1, 0);
    let started = Instant::now();
    let answer = stage
        .get(XRIDES, &format!("/v1/requests/{id}?wait=300ms"))
        .await;
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert_eq!(
        (answer.status, &answer.json()["status"]),
        (200, &"queued".into())
    );
    assert!(answer.header("retry-after").is_some());
    stage
        .get(XRIDES, &format!("/v1/requests/{id}?wait=31s"))
        .await
        .is_problem(400, "bad-parameter");
    stage
        .get(XRIDES, &format!("/v1/requests/{id}?wait=5"))
        .await
        .is_problem(400, "bad-parameter");
}

#[tokio::test]
async fn many_wait_on_one_connection_and_share_statements() {
    const WAITING: usize = 60;
    let flags = ["--database-connections=1", "--long-polls-max=60"];
    let stage = Stage::with(&flags).await;
    let ids: Vec<_> = (0..WAITING)
        .map(|n| stage.mint(XRIDES, (n % 2) as u8, 0))
        .collect();
    let polls = ids.iter().map(|id| {
        let path = format!("/v1/requests/{id}?wait=30s");
        let stage = &stage;
        async move { stage.get(XRIDES, &path).await }
    });
    let full = format!("{:?}", WAITING as f64);
    let writing = async {
        stage
            .until(&full, async || {
                stage.metric("weir_status_long_polls").await == WAITING as f64
            })
            .await;
        // One more finds no place, and a plain request needs none.
        let one_more = stage.mint(XRIDES, 0, 0);
        let refused = stage
            .get(XRIDES, &format!("/v1/requests/{one_more}?wait=30s"))
            .await;
        refused.is_problem(503, "overloaded");
        assert!(refused.header("retry-after").is_some());
        assert_eq!(
            stage.request(XRIDES, one_more).await.json()["status"],
            "queued"
        );
        let before = stage
            .metric("weir_status_ledger_queries_total{query=\"poll\"}")
            .await;
        let started = Instant::now();
        for id in &ids {
            stage.end(*id, XRIDES, &Ended::PERSISTED).await;
        }
        (before, started)
    };
    let (answers, (before, started)) = tokio::join!(futures_util::future::join_all(polls), writing);
    assert!(
        answers
            .iter()
            .all(|answer| answer.json()["status"] == "persisted")
    );
    let polls = stage
        .metric("weir_status_ledger_queries_total{query=\"poll\"}")
        .await
        - before;
    // One statement for all per 50 ms, whatever number waits.
    let most = started.elapsed().as_secs_f64() / 0.05 + 2.0;
    assert!(polls <= most, "{polls} statements, at most {most} expected");
}

#[tokio::test]
async fn a_client_that_hangs_up_gives_its_place_back() {
    let stage = Stage::new().await;
    let id = stage.mint(XRIDES, 0, 0);
    let path = format!("/v1/requests/{id}?wait=30s");
    let waiting = async || stage.metric("weir_status_long_polls").await;
    tokio::select! {
        answer = stage.get(XRIDES, &path) => panic!("{answer:?}"),
        () = stage.until("waiting", async || waiting().await == 1.0) => {}
    }
    stage
        .until("given back", async || waiting().await == 0.0)
        .await;
}

#[tokio::test]
async fn a_drain_answers_queued_and_ends_well() {
    let stage = Stage::new().await;
    let id = stage.mint(XRIDES, 0, 0);
    let path = format!("/v1/requests/{id}?wait=30s");
    let started = Instant::now();
    let terminating = async {
        stage
            .until("waiting", async || {
                stage.metric("weir_status_long_polls").await == 1.0
            })
            .await;
        stage.terminate();
    };
    let (answer, ()) = tokio::join!(stage.get(XRIDES, &path), terminating);
    assert_eq!(
        (answer.status, &answer.json()["status"]),
        (200, &"queued".into())
    );
    assert_eq!(stage.exit_code().await, Some(0));
    assert!(
        started.elapsed() < LIMIT - Duration::from_secs(5),
        "it did not sit out the wait"
    );
}
