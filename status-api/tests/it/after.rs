//! `?after=`: a read that waits until a request has its outcome.

use std::time::{Duration, Instant};

use crate::stage::{ACME, DAY_MS, Ended, HOUR_MS, LIMIT, Stage, XRIDES, mint_for_both, now_ms};

const RIDE_AND_COURIER: &str = "
    with ride as (insert into rides values (1, 7, 7, 12, null, 2, 83, 448, null, null,
        '2013-01-01 02:00:00+00', null, false, true, '2012-12-31 23:59:59+00', null, null, null, null, false, null,
        '018f2f4e-7c3a-7abc-8def-0123456789ab', 1, '018f2f4e-7c3a-7abc-8def-0123456789ab', 1, 1, now(), now()))
    insert into couriers values (1, '7', 'Ada', 100, 45, null, null, null,
        '018f2f4e-7c3a-7abc-8def-0123456789ab', '018f2f4e-7c3a-7abc-8def-0123456789ab', 1, 1, now(), now(), null)";

/// What `?after=` can be asked of.
const READS: [&str; 4] = [
    "/v1/couriers/7?",
    "/v1/couriers?min_available=45&",
    "/v1/rides/7?",
    "/v1/rides?user_id=7&",
];

async fn waiting(stage: &Stage, count: usize) {
    let what = format!("{count} waiting");
    let there = async || stage.metric("weir_status_long_polls").await == count as f64;
    stage.until(&what, there).await;
}

#[tokio::test]
async fn what_is_read_holds_what_was_waited_for() {
    let stage = Stage::new().await;
    let id = stage.mint(XRIDES, 0, 0);
    // A failed command is settled, too: it is known that it changed nothing.
    let failed = stage.mint(XRIDES, 1, 0);
    let started = Instant::now();
    let reads = READS.map(|path| {
        let (stage, path) = (&stage, format!("{path}after={id}&wait=30s"));
        async move { stage.get(XRIDES, &path).await }
    });
    let writing = async {
        waiting(&stage, READS.len()).await;
        stage.execute(RIDE_AND_COURIER).await;
        stage.end(id, XRIDES, &Ended::PERSISTED).await;
        Instant::now()
    };
    let (answers, written) = tokio::join!(futures_util::future::join_all(reads), writing);
    for (path, answer) in READS.iter().zip(&answers) {
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let results = answer.json()["results"].as_array().map(Vec::len);
        assert!(results.is_none_or(|rows| rows == 1), "{path}: {answer:?}");
    }
    assert!(written.elapsed() < Duration::from_secs(5), "not timed out");
    assert!(started.elapsed() < Duration::from_secs(29));
    waiting(&stage, 0).await;

    stage.end(failed, XRIDES, &Ended::FAILED).await;
    for path in READS {
        // Settled at once, whatever the wait; also when the ledger no longer keeps it.
        for settled in [id, failed, stage.mint(XRIDES, 0, 91 * DAY_MS)] {
            let answer = stage.get(XRIDES, &format!("{path}after={settled}")).await;
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
        }
    }
    let none = stage
        .get(XRIDES, &format!("/v1/couriers/8?after={id}"))
        .await;
    none.is_problem(404, "not-found");
}

#[tokio::test]
async fn what_is_not_settled_in_time_is_not_read() {
    let stage = Stage::new().await;
    stage.execute(RIDE_AND_COURIER).await;
    let id = stage.mint(XRIDES, 0, 0);
    for path in READS {
        let started = Instant::now();
        let answer = stage
            .get(XRIDES, &format!("{path}after={id}&wait=200ms"))
            .await;
        assert!(started.elapsed() >= Duration::from_millis(200));
        answer.is_problem(503, "not-settled");
        assert_eq!(answer.json()["retryable"], true);
        let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=30).contains(&seconds), "{seconds}");
    }
    let name =
        "weir_status_requests_total{route=\"/v1/rides?after\",method=\"GET\",status=\"503\"}";
    assert_eq!(stage.metric(name).await, 1.0);
    let started = Instant::now();
    let answer = stage.get(XRIDES, &format!("/v1/couriers?after={id}")).await;
    answer.is_problem(503, "not-settled");
    assert!(started.elapsed() >= Duration::from_secs(5), "the default");
}

#[tokio::test]
async fn only_requests_of_ones_own_can_be_waited_for() {
    let stage = Stage::new().await;
    stage.execute(RIDE_AND_COURIER).await;
    stage.commit_to(0, now_ms()).await;
    let theirs = mint_for_both(1, now_ms() - 5_000);
    stage.end(theirs, ACME, &Ended::PERSISTED).await;
    let lost = stage.mint(XRIDES, 0, HOUR_MS);
    let hour_old = mint_for_both(0, now_ms() - HOUR_MS);
    stage.end(hour_old, ACME, &Ended::PERSISTED).await;
    for path in READS {
        let mut details = Vec::new();
        for id in [
            "018f2f4e-7c3a-7abc-8def-0123456789ab",
            &stage.mint(ACME, 0, 0).to_string(),
            &hour_old.to_string(),
            &lost.to_string(),
        ] {
            let answer = stage
                .get(XRIDES, &format!("{path}after={id}&wait=30s"))
                .await;
            answer.is_problem(404, "not-found");
            details.push(answer.json()["detail"].as_str().unwrap().to_owned());
        }
        details.dedup();
        assert_eq!(details.len(), 1, "the same words, which tell nothing");
        let answer = stage
            .get(XRIDES, &format!("{path}after={theirs}&wait=10ms"))
            .await;
        answer.is_problem(503, "not-settled");
        for (query, name) in [
            ("after=7", "after: "),
            (&format!("after={lost}&wait=31s")[..], "wait: "),
            ("wait=1s", "wait: "),
            ("aftre=7", "aftre: "),
        ] {
            let answer = stage.get(XRIDES, &format!("{path}{query}")).await;
            answer.is_problem(400, "bad-parameter");
            let detail = answer.json()["detail"].as_str().unwrap().to_owned();
            assert!(detail.starts_with(name), "{query}: {detail}");
        }
    }
}

#[tokio::test]
async fn a_crowd_shares_its_polls_and_has_a_bound() {
    const WAITING: usize = 60;
    let stage = Stage::with(&["--database-connections=1", "--long-polls-max=60"]).await;
    stage.execute(RIDE_AND_COURIER).await;
    let id = stage.mint(XRIDES, 0, 0);
    let path = format!("/v1/couriers/7?after={id}&wait=30s");
    let reads = (0..WAITING).map(|_| stage.get(XRIDES, &path));
    let writing = async {
        waiting(&stage, WAITING).await;
        let refused = stage.get(XRIDES, &path).await;
        refused.is_problem(503, "overloaded");
        assert!(refused.header("retry-after").is_some());
        let polls = "weir_status_ledger_queries_total{query=\"poll\"}";
        let (before, started) = (stage.metric(polls).await, Instant::now());
        stage.end(id, XRIDES, &Ended::PERSISTED).await;
        waiting(&stage, 0).await;
        (stage.metric(polls).await - before, started)
    };
    let (answers, (polls, started)) = tokio::join!(futures_util::future::join_all(reads), writing);
    assert!(answers.iter().all(|answer| answer.status == 200));
    // One statement for all per 50 ms, whatever number waits.
    let most = started.elapsed().as_secs_f64() / 0.05 + 2.0;
    assert!(polls <= most, "{polls} statements, at most {most} expected");
}

#[tokio::test]
async fn a_drain_does_not_sit_the_wait_out() {
    let stage = Stage::new().await;
    let id = stage.mint(XRIDES, 0, 0);
    let path = format!("/v1/couriers?after={id}&wait=30s");
    let started = Instant::now();
    let terminating = async {
        waiting(&stage, 1).await;
        stage.terminate();
    };
    let (answer, ()) = tokio::join!(stage.get(XRIDES, &path), terminating);
    answer.is_problem(503, "not-settled");
    assert_eq!(stage.exit_code().await, Some(0));
    assert!(started.elapsed() < LIMIT - Duration::from_secs(5));
}
