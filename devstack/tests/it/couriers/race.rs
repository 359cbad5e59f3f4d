//! Dispatching as the README does it: look up, then pick up on the condition that nothing changed.

use serde_json::{Value, json};

use crate::support::System;

/// The condition as a member; as a header it has tests of its own.
async fn command(system: &System, path: &str, version: Option<i64>, mut body: Value) -> String {
    if let Some(version) = version {
        body["expected_version"] = version.into();
    }
    let answer = system.post(path, body.to_string()).await;
    assert_eq!(answer.status, 202, "{:?}", answer.json);
    let id = answer.json["tracking_id"].as_str().expect("an id");
    id.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_dispatchers_one_wins_and_the_other_is_told_why() {
    let system = System::start(|_| {}).await;
    let courier = json!({"courier_id": 7, "name": "Ada", "max_capacity": 60});
    let created = command(&system, "/v1/couriers", None, courier).await;

    // Read one's own write: the look-up waits until the command is settled.
    let found = system
        .get(&format!("/v1/couriers?min_available=45&after={created}"))
        .await;
    assert_eq!(found.status, 200, "{:?}", found.json);
    assert_eq!(found.json["results"][0]["courier_id"], "7");
    let one = system.get("/v1/couriers/7").await;
    assert_eq!(one.header("etag"), "\"1\"");
    let version = one.json["version"].as_i64();

    let pickup = |reference: &str| json!({"capacity": 45, "reference": reference});
    let path = "/v1/couriers/7/pickups";
    let first = command(&system, path, version, pickup("order-1")).await;
    let second = command(&system, path, version, pickup("order-2")).await;
    let (first, second) = (system.settled(&first).await, system.settled(&second).await);
    assert_eq!(
        (&first["status"], &first["action"]),
        (&json!("persisted"), &json!("updated"))
    );
    assert_eq!(second["status"], "failed");
    assert_eq!(second["code"], "stale-version");
    let detail = second["detail"].as_str().expect("a sentence");
    assert!(detail.contains('1') && detail.contains('2'), "{detail}");

    // Sent again because its answer was lost: the same outcome, no second deduction.
    let again = command(&system, path, version, pickup("order-1")).await;
    let again = system.settled(&again).await;
    assert_eq!(again["status"], "duplicate");
    assert_eq!(again["duplicate_of"], first["tracking_id"]);
    let now = system.get("/v1/couriers/7").await;
    assert_eq!(now.json["available_capacity"], 15);
    assert_eq!(now.json["version"], 2);
    assert_eq!(now.header("etag"), "\"2\"");
    let none = system.get("/v1/couriers?min_available=45").await;
    assert_eq!(none.json["results"], json!([]));
}
