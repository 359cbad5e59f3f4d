//! Many requests at once.

use serde_json::{Value, json};

use crate::stage::{ACME, DAY_MS, Ended, HOUR_MS, Stage, XRIDES, now_ms};

#[tokio::test]
async fn the_order_is_kept_and_one_statement_is_made() {
    let stage = Stage::new().await;
    stage.commit_to(0, now_ms()).await;
    let persisted = stage.mint(XRIDES, 0, 5_000);
    let queued = stage.mint(XRIDES, 1, 1_000);
    let unknown = stage.mint(XRIDES, 0, HOUR_MS);
    let gone = stage.mint(XRIDES, 0, 100 * DAY_MS);
    let theirs = stage.mint(ACME, 0, 5_000);
    stage.end(persisted, XRIDES, &Ended::PERSISTED).await;
    stage.end(theirs, ACME, &Ended::PERSISTED).await;

    let ids = json!([
        queued, "nonsense", persisted, theirs, unknown, gone, persisted
    ]);
    let answer = stage
        .lookup(XRIDES, &json!({"tracking_ids": ids}).to_string())
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let results = answer.json()["results"].as_array().unwrap().clone();
    let statuses: Vec<&str> = results
        .iter()
        .map(|it| it["status"].as_str().unwrap())
        .collect();
    assert_eq!(
        statuses,
        [
            "queued",
            "unknown",
            "persisted",
            "unknown",
            "unknown",
            "gone",
            "persisted"
        ]
    );
    let shown: Vec<Value> = results.iter().map(|it| it["tracking_id"].clone()).collect();
    assert_eq!(Value::from(shown), ids, "each as it was asked for");
    assert!(
        results.iter().all(|it| it.as_object().unwrap().len() == 11),
        "all members"
    );
    assert_eq!(
        results[2],
        stage.request(XRIDES, persisted).await.json(),
        "the same object"
    );
    assert_eq!(
        stage.ledger_queries().await,
        2.0,
        "one for all, one for the single one"
    );
    assert_eq!(
        stage.metric("weir_status_unknown_total").await,
        1.0,
        "only the authentic one"
    );

    let nobody = stage.lookup(XRIDES, r#"{"tracking_ids":["x",""]}"#).await;
    assert_eq!(nobody.json()["results"][1]["status"], "unknown");
    assert_eq!(
        stage.lookup(XRIDES, r#"{"tracking_ids":[]}"#).await.json(),
        json!({"results": []})
    );
    assert_eq!(stage.ledger_queries().await, 2.0, "nothing to ask for");
}

#[tokio::test]
async fn a_thousand_are_taken_and_no_more() {
    let stage = Stage::new().await;
    let mut ids: Vec<_> = (0..1_000)
        .map(|n| stage.mint(XRIDES, (n % 2) as u8, 1_000))
        .collect();
    for id in ids.iter().step_by(100) {
        stage.end(*id, XRIDES, &Ended::PERSISTED).await;
    }
    let answer = stage
        .lookup(XRIDES, &json!({"tracking_ids": ids}).to_string())
        .await
        .json();
    for (index, result) in answer["results"].as_array().unwrap().iter().enumerate() {
        let expected = if index % 100 == 0 {
            "persisted"
        } else {
            "queued"
        };
        assert_eq!(
            (&result["tracking_id"], &result["status"]),
            (&json!(ids[index]), &expected.into())
        );
    }
    ids.push(ids[0]);
    let over = stage
        .lookup(XRIDES, &json!({"tracking_ids": ids}).to_string())
        .await;
    over.is_problem(413, "too-large");
    let huge = format!("{{\"tracking_ids\":[\"{}\"]}}", "x".repeat(5_000_000));
    stage
        .lookup(XRIDES, &huge)
        .await
        .is_problem(413, "too-large");
    assert_eq!(stage.ledger_queries().await, 1.0);
}

#[tokio::test]
async fn faults_of_a_body_are_named() {
    let stage = Stage::new().await;
    stage.lookup(XRIDES, "").await.is_problem(400, "empty");
    stage.lookup(XRIDES, "{").await.is_problem(400, "malformed");
    let answer = stage
        .lookup(XRIDES, r#"{"tracking_ids":["a", 1, null, "b", {}]}"#)
        .await;
    answer.is_problem(422, "invalid");
    let json = answer.json();
    let pointers: Vec<_> = json["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["pointer"].clone())
        .collect();
    assert_eq!(
        pointers,
        ["/tracking_ids/1", "/tracking_ids/2", "/tracking_ids/4"]
    );
    let form = stage
        .send(
            &format!(
                "POST /v1/requests/lookup HTTP/1.1\r\ncontent-type: application/x-www-form-urlencoded\r\n\
                 content-length: 2\r\n{}",
                stage.key_header(XRIDES)
            ),
            "{}",
        )
        .await;
    form.is_problem(415, "unsupported-media-type");
    let unauthorized = "POST /v1/requests/lookup HTTP/1.1\r\ncontent-length: 3000000\r\n";
    stage
        .send(unauthorized, &"x".repeat(3_000_000))
        .await
        .is_problem(401, "unauthorized");
}
