//! What is kept of people goes when it is asked to.

use devstack::eventually::eventually;
use serde_json::{Value, json};

use super::installation::{Installation, LIMIT, ride, text};

/// Sends a record and waits until it is settled; its tracking id and its outcome.
async fn settled(weir: &Installation, key: &str, path: &str, body: &Value) -> (String, Value) {
    let request = http::Request::post(weir.gateway(path));
    let request = request.header("authorization", format!("Bearer {key}"));
    let answer = weir.send(request, &body.to_string()).await;
    assert_eq!(answer.status, 202, "{}", answer.whole);
    let id = answer.json["tracking_id"].as_str().unwrap().to_owned();
    let outcome = outcome(weir, key, &id).await;
    (id, outcome)
}

async fn outcome(weir: &Installation, key: &str, id: &str) -> Value {
    let asked = eventually(LIMIT, || async {
        let request = http::Request::get(weir.status(&format!("/v1/requests/{id}?wait=5s")));
        let request = request.header("authorization", format!("Bearer {key}"));
        let answer = weir.send(request, "").await;
        (answer.status == 200 && answer.json["status"] != "queued").then_some(answer.json)
    });
    asked.await.expect("an outcome")
}

async fn found(weir: &Installation, key: &str, path: &str) -> u16 {
    let request = http::Request::get(weir.status(path));
    let request = request.header("authorization", format!("Bearer {key}"));
    weir.send(request, "").await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_erased_is_gone_and_the_ledger_still_says_what_became_of_it() {
    let weir = Installation::start(|_| {}).await;
    let key = weir.stack.endpoints().partners[0].api_key.clone();
    let other = weir.stack.endpoints().partners[1].api_key.clone();
    let (created, _) = settled(&weir, &key, "/v1/rides", &ride()).await;
    settled(&weir, &other, "/v1/rides", &ride()).await;
    let mut second = ride();
    second["vehicle_model_id"] = 13.into();
    let (refused, conflict) = settled(&weir, &key, "/v1/rides", &second).await;
    assert_eq!(conflict["code"], "conflict");
    second["id"] = 2.into();
    second["user_id"] = 3.into();
    settled(&weir, &key, "/v1/rides", &second).await;

    let tried = weir
        .json(&["erase", "xrides", "--user-id", "2", "--dry-run"])
        .await;
    assert_eq!(
        (&tried["rides"], &tried["dry_run"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(
        found(&weir, &key, "/v1/rides/1").await,
        200,
        "it was only tried"
    );

    let erased = weir.json(&["erase", "xrides", "--user-id", "2"]).await;
    assert_eq!(
        (&erased["rides"], &erased["ledger_details"]),
        (&json!(1), &json!(1)),
        "{erased}"
    );
    assert!(erased["log_until"].is_string());
    assert_eq!(found(&weir, &key, "/v1/rides/1").await, 404);
    assert_eq!(
        found(&weir, &key, "/v1/rides/2").await,
        200,
        "another user's"
    );
    assert_eq!(
        found(&weir, &other, "/v1/rides/1").await,
        200,
        "another partner's"
    );
    assert_eq!(outcome(&weir, &key, &created).await["status"], "persisted");
    assert_eq!(outcome(&weir, &key, &refused).await["detail"], Value::Null);

    let erased = weir.json(&["erase", "xrides", "--ride-id", "2"]).await;
    assert_eq!(erased["rides"], 1);
    assert_eq!(found(&weir, &key, "/v1/rides/2").await, 404);
    let again = weir.json(&["erase", "xrides", "--ride-id", "2"]).await;
    assert_eq!(again["rides"], 0, "there is nothing left");
    let said = weir.partner(&["erase", "xrides", "--ride-id", "2"]).await;
    assert_eq!(said.status.code(), Some(0));
    assert!(text(&said.stdout).starts_with("nothing is left to remove"));
    let whose = ["erase", "xrides", "--ride-id", "99"];
    weir.refused(&whose, 1, "xrides has no ride 99").await;

    let (_, anew) = settled(&weir, &key, "/v1/rides", &ride()).await;
    assert_eq!(anew["action"], "created", "the worker goes on: {anew}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_courier_is_erased_once_it_is_deleted() {
    let weir = Installation::start(|_| {}).await;
    let key = weir.stack.endpoints().partners[0].api_key.clone();
    let create = json!({
        "command": "create", "courier_id": "c-1", "name": "Ada Lovelace", "max_capacity": 60,
        "phone": "+44 20 7946 0000", "attributes": {"note": "left handed"},
    });
    settled(&weir, &key, "/v1/courier-commands", &create).await;
    let erase = ["erase", "xrides", "--courier-id", "c-1"];
    weir.refused(&erase, 1, "courier c-1 of xrides is not deleted")
        .await;
    weir.refused(
        &["erase", "xrides", "--courier-id", "c-2"],
        1,
        "xrides has no courier c-2 and never had",
    )
    .await;
    weir.refused(&["erase", "xrides"], 64, "--user-id").await;
    let delete = json!({"command": "delete", "courier_id": "c-1"});
    settled(&weir, &key, "/v1/courier-commands", &delete).await;
    let erased = weir.json(&erase).await;
    assert_eq!(erased["couriers"], 1);
    let url = weir.stack.endpoints().database_url;
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let query = "select name, phone is null, attributes is null from couriers";
    let row = client.query_one(query, &[]).await.unwrap();
    let row: (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(row, ("erased".to_owned(), true, true));
}
