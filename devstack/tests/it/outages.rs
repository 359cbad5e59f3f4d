//! Done-when 4 and 5: the log and the database go away in mid-replay and come back.

use std::sync::Arc;

use devstack::stack::Role;
use serde_json::json;

use crate::support::{RIDES, System, recorded, ride, until};

#[tokio::test(flavor = "multi_thread")]
async fn nats_is_killed_and_started_again() {
    let system = System::start(|_| {}).await;
    let file = recorded(RIDES);
    let replay = system.replay(file.path(), &["--rate", "1500", "--batch", "10"]);
    system
        .reached("select count(*) from requests", RIDES / 5)
        .await;
    system.stack.kill(Role::Nats, 0).await;
    // Without the log, 503 with a time to try again, and nothing else.
    let refused = system.post("/v1/rides", ride(1).to_string()).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(refused.json["retryable"], true);
    system
        .stack
        .start_again(Role::Nats, 0)
        .await
        .expect("it starts again");
    let report = replay.finish().await;
    assert_eq!(
        (&report["lost"], &report["doubled"], &report["failed"]),
        (&json!(0), &json!(0), &json!(0)),
        "{report}"
    );
    assert_eq!(report["persisted"], report["accepted"]);
    let accepted_again = until_accepted(&system).await;
    assert_eq!(system.settled(&accepted_again).await["status"], "persisted");
}

async fn until_accepted(system: &System) -> String {
    let id = Arc::new(std::sync::Mutex::new(String::new()));
    until("the gateway accepts again", || async {
        let answer = system.post("/v1/rides", ride(2).to_string()).await;
        if let Some(tracking_id) = answer.json["tracking_id"].as_str() {
            tracking_id.clone_into(&mut id.lock().expect("not poisoned"));
        }
        answer.status == 202
    })
    .await;
    let id = id.lock().expect("not poisoned");
    id.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_stopped_for_a_while() {
    let system = System::start(|_| {}).await;
    let before = system.post("/v1/rides", ride(1).to_string()).await;
    system
        .settled(before.json["tracking_id"].as_str().expect("an id"))
        .await;

    let file = recorded(RIDES);
    let replay = system.replay(file.path(), &["--rate", "1500", "--batch", "10"]);
    system
        .reached("select count(*) from requests", RIDES / 5)
        .await;
    system.stack.stop(Role::Postgres, 0).await;
    // Intake goes on; the status API cannot know and says so, for settled and for new ids alike.
    let accepted = system.post("/v1/rides", ride(2).to_string()).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    for answer in [&before, &accepted] {
        let id = answer.json["tracking_id"].as_str().expect("an id");
        let status = system.get(&format!("/v1/requests/{id}")).await;
        assert_eq!(status.status, 503, "{status:?}");
        assert!(!status.header("retry-after").is_empty());
    }
    system
        .stack
        .start_again(Role::Postgres, 0)
        .await
        .expect("it starts again");
    let report = replay.finish().await;
    assert_eq!(report["accepted"], RIDES);
    assert_eq!(
        (&report["persisted"], &report["lost"]),
        (&json!(RIDES), &json!(0)),
        "{report}"
    );
    let id = accepted.json["tracking_id"].as_str().expect("an id");
    assert_eq!(system.settled(id).await["status"], "persisted");
}

/// Queued is what an accepted record is while nobody writes, and its delay grows.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_queued_until_a_worker_comes() {
    let system = System::start(|_| {}).await;
    system.stack.freeze(Role::Worker, 0);
    let accepted = system.post("/v1/rides", ride(1).to_string()).await;
    let id = accepted.json["tracking_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let first = system.get(&format!("/v1/requests/{id}")).await;
    assert_eq!(
        (first.status, &first.json["status"]),
        (200, &json!("queued")),
        "{first:?}"
    );
    assert!(!first.header("retry-after").is_empty());
    until("the delay grows", || async {
        system.get(&format!("/v1/requests/{id}")).await.json["delay_ms"].as_i64()
            > first.json["delay_ms"].as_i64()
    })
    .await;
    system.stack.thaw(Role::Worker, 0);
    assert_eq!(system.settled(&id).await["status"], "persisted");
}
