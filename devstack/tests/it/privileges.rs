//! Who may do what at the log and in the database, act by act, at real servers as the real users.
//! That everything a service needs is allowed is proven by every other test here: they run as
//! these users, too.

use std::fs;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::{System, ride, until};

mod answers;
mod at_the_log;
mod in_the_database;

/// Rides that are created, sent again, replaced and refused, so that a worker's every statement is
/// made; then not one complaint in any server's log.
#[tokio::test]
async fn no_service_asks_for_what_it_may_not() {
    let system = System::start(|config| config.supervises = true).await;
    let first: Value = (1..=50).map(ride).collect();
    let body = Bytes::from(first.to_string());
    let mut last = Value::Null;
    for _ in 0..2 {
        let answer = system.post("/v1/rides", body.clone()).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        last = answer.json["results"][49]["tracking_id"].clone();
    }
    let outcome = system.settled(last.as_str().unwrap()).await;
    assert_eq!(outcome["status"], "duplicate", "{outcome}");
    let mut changed = ride(7);
    changed["user_id"] = json!(99);
    let answer = system.post("/v1/rides", changed.to_string()).await;
    let outcome = system
        .settled(answer.json["tracking_id"].as_str().unwrap())
        .await;
    assert_eq!(outcome["code"], "conflict", "{outcome}");
    let url = system.gateway("/v1/rides/7");
    let key = system.key(0);
    let put = system.send(
        "PUT",
        &url,
        Some(&key),
        "application/json",
        changed.to_string(),
    );
    let answer = put.await;
    let outcome = system
        .settled(answer.json["tracking_id"].as_str().unwrap())
        .await;
    assert_eq!(outcome["action"], "replaced", "{outcome}");
    for path in ["/v1/rides/7", "/v1/requests?status=failed"] {
        assert_eq!(system.get(path).await.status, 200, "{path}");
    }
    // An event goes its whole way: outbox, fence, stream.
    let courier = json!({"courier_id": "c-1", "name": "Ada", "max_capacity": 60}).to_string();
    let answer = system.post("/v1/couriers", courier).await;
    let outcome = system
        .settled(answer.json["tracking_id"].as_str().unwrap())
        .await;
    assert_eq!(outcome["action"], "created", "{outcome}");
    until("the event is relayed", || async {
        system.count("select count(*) from outbox").await == Some(0)
    })
    .await;
    for path in ["/v1/couriers/c-1", "/v1/couriers?min_available=45"] {
        assert_eq!(system.get(path).await.status, 200, "{path}");
    }
    // A second worker takes over from a first that died, and ends the backend it wrote with.
    system.stack.kill(devstack::stack::Role::Worker, 0).await;
    let answer = system.post("/v1/rides", ride(51).to_string()).await;
    let outcome = system
        .settled(answer.json["tracking_id"].as_str().unwrap())
        .await;
    assert_eq!(outcome["status"], "persisted", "{outcome}");

    let logs = system.stack.logs().to_owned();
    let (_, _files) = system.stack.shutdown().await;
    let mut seen = 0;
    for entry in fs::read_dir(logs).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        seen += 1;
        let complaint = text.lines().find(|line| {
            let line = line.to_lowercase();
            line.contains("violation")
                || line.contains("permission denied")
                || line.contains("must be owner")
                || line.contains("superuser")
        });
        assert_eq!(complaint, None, "{}", path.display());
    }
    assert!(seen >= 5, "{seen} logs");
}
