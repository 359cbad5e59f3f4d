//! One request: each standing, and who may see it.

use serde_json::json;

use crate::stage::{
    ACME, DAY_MS, Ended, HOUR_MS, Stage, XRIDES, mint, mint_for_both, now_ms, shown,
};

#[tokio::test]
async fn each_outcome_shows_every_member() {
    let stage = Stage::new().await;
    let created = stage.mint(XRIDES, 0, 5_000);
    let again = stage.mint(XRIDES, 1, 4_000);
    let failed = stage.mint(XRIDES, 0, 3_000);
    stage.end(created, XRIDES, &Ended::PERSISTED).await;
    let duplicate = Ended {
        outcome: 2,
        action: None,
        duplicate_of: Some(created),
        ..Ended::PERSISTED
    };
    stage.end(again, XRIDES, &duplicate).await;
    stage.end(failed, XRIDES, &Ended::FAILED).await;

    let answer = stage.request(XRIDES, created).await;
    let expected = json!({
        "tracking_id": created, "kind": "ride", "status": "persisted",
        "accepted_at": shown(created.unix_ms()), "completed_at": shown(created.unix_ms() + 1_000),
        "resource": {"id": 132_512}, "action": "created", "code": null, "detail": null,
        "duplicate_of": null, "delay_ms": 1_000,
    });
    assert_eq!((answer.status, answer.json()), (200, expected));
    assert_eq!(answer.header("content-type"), Some("application/json"));

    let answer = stage.request(XRIDES, again).await.json();
    assert_eq!(
        (&answer["status"], &answer["duplicate_of"]),
        (&"duplicate".into(), &json!(created))
    );
    assert_eq!(
        (&answer["action"], &answer["kind"]),
        (&json!(null), &"ride".into())
    );

    let answer = stage.request(XRIDES, failed).await.json();
    assert_eq!(
        (&answer["status"], &answer["code"]),
        (&"failed".into(), &"conflict".into())
    );
    assert_eq!(answer["detail"], "the ride exists with other content");
}

#[tokio::test]
async fn a_final_answer_is_cached_and_revalidated() {
    let stage = Stage::new().await;
    let id = stage.mint(XRIDES, 0, 5_000);
    stage.end(id, XRIDES, &Ended::PERSISTED).await;
    let answer = stage.request(XRIDES, id).await;
    let etag = answer.header("etag").expect("a tag").to_owned();
    let cache = answer.header("cache-control").expect("a policy").to_owned();
    assert!(
        cache.starts_with("private, max-age=") && cache.ends_with(", immutable"),
        "{cache}"
    );
    assert_eq!(answer.header("retry-after"), None);

    let path = format!("/v1/requests/{id}");
    let unchanged = stage
        .get_with(XRIDES, &path, &format!("if-none-match: \"x\", W/{etag}"))
        .await;
    assert_eq!((unchanged.status, unchanged.body.as_str()), (304, ""));
    assert_eq!(unchanged.header("etag"), Some(etag.as_str()));
    assert_eq!(unchanged.header("cache-control"), Some(cache.as_str()));
    let other = stage.get_with(XRIDES, &path, "if-none-match: \"x\"").await;
    assert_eq!(
        (other.status, other.header("etag")),
        (200, Some(etag.as_str()))
    );
}

#[tokio::test]
async fn without_a_row_the_watermark_and_the_retention_decide() {
    let stage = Stage::new().await;
    let now = now_ms();
    stage.commit_to(0, now - HOUR_MS).await;
    stage.commit_to(1, now).await;

    let behind = stage.mint(XRIDES, 0, HOUR_MS / 2);
    let answer = stage.request(XRIDES, behind).await;
    let json = answer.json();
    assert_eq!((answer.status, &json["status"]), (200, &"queued".into()));
    assert_eq!(json.as_object().unwrap().len(), 11, "all members: {json}");
    assert_eq!(
        (&json["kind"], &json["resource"]),
        (&json!(null), &json!(null))
    );
    assert_eq!(json["accepted_at"], shown(behind.unix_ms()));
    let delay_ms = json["delay_ms"].as_u64().unwrap();
    assert!((HOUR_MS / 2..HOUR_MS).contains(&delay_ms), "{delay_ms}");
    let retry_after: u64 = answer
        .header("retry-after")
        .expect("when to ask again")
        .parse()
        .unwrap();
    assert!((1..=30).contains(&retry_after));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("etag"), None);

    // The same age in a partition that is further: it should be there, and is not.
    let unknown = stage.mint(XRIDES, 1, HOUR_MS / 2);
    stage
        .request(XRIDES, unknown)
        .await
        .is_problem(404, "not-found");
    assert_eq!(stage.metric("weir_status_unknown_total").await, 1.0);
    let log = stage.log();
    let alarm = log
        .lines()
        .find(|line| line.contains(&unknown.to_string()))
        .expect("an alarm");
    assert!(alarm.contains("ERROR"), "{alarm}");

    // At the end of the slack of 30 s, and a millisecond past it.
    let inside = mint(XRIDES, 1, now - 30_000);
    assert_eq!(
        stage.request(XRIDES, inside).await.json()["status"],
        "queued"
    );
    let outside = mint(XRIDES, 1, now - 30_001);
    stage
        .request(XRIDES, outside)
        .await
        .is_problem(404, "not-found");

    let gone = stage.mint(XRIDES, 1, 91 * DAY_MS);
    stage.request(XRIDES, gone).await.is_problem(410, "gone");
    let kept = stage.mint(XRIDES, 1, 89 * DAY_MS);
    stage
        .request(XRIDES, kept)
        .await
        .is_problem(404, "not-found");
    assert_eq!(stage.metric("weir_status_unknown_total").await, 3.0);

    // A row counts however old it is.
    stage.end(gone, XRIDES, &Ended::PERSISTED).await;
    assert_eq!(
        stage.request(XRIDES, gone).await.json()["status"],
        "persisted"
    );
}

#[tokio::test]
async fn a_made_up_id_and_another_partners_make_no_query() {
    let stage = Stage::new().await;
    let theirs = stage.mint(XRIDES, 0, 1_000);
    stage.end(theirs, XRIDES, &Ended::PERSISTED).await;
    stage
        .request(ACME, theirs)
        .await
        .is_problem(404, "not-found");
    for made_up in [
        "018f2f4e-7c3a-7abc-8def-0123456789ab",
        "018f2f4e-7c3a-4abc-8def-0123456789ab",
        "018f2f4e7c3a7abc8def0123456789ab",
        "nonsense",
        "%00",
        "%ff",
        "lookups",
    ] {
        stage
            .get(XRIDES, &format!("/v1/requests/{made_up}"))
            .await
            .is_problem(404, "not-found");
    }
    let waited = stage
        .get(ACME, &format!("/v1/requests/{theirs}?wait=20s"))
        .await;
    waited.is_problem(404, "not-found");
    assert_eq!(stage.ledger_queries().await, 0.0);
    assert!(stage.metric("weir_status_unverified_total").await >= 8.0);

    assert_eq!(stage.request(XRIDES, theirs).await.status, 200);
    assert_eq!(stage.ledger_queries().await, 1.0, "the counter counts");
}

#[tokio::test]
async fn the_query_names_the_partner_even_when_the_tag_fits() {
    let stage = Stage::new().await;
    let id = mint_for_both(0, now_ms() - HOUR_MS);
    stage.end(id, XRIDES, &Ended::PERSISTED).await;
    assert_eq!(stage.request(XRIDES, id).await.status, 200);
    stage.request(ACME, id).await.is_problem(404, "not-found");
    assert_eq!(stage.ledger_queries().await, 2.0, "the tag let it through");
    let looked_up = stage
        .lookup(ACME, &json!({"tracking_ids": [id]}).to_string())
        .await
        .json();
    assert_eq!(looked_up["results"][0]["status"], "unknown");
    assert_eq!(looked_up["results"][0]["resource"], json!(null));
}
