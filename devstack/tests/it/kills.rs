//! Done-when 3: processes killed and frozen in mid-replay; nothing is lost, nothing doubled.

use devstack::stack::{Role, StackConfig};
use serde_json::{Value, json};

use crate::support::{RIDES, Replay, System, recorded};

const RATE: &str = "1500";

fn replicated(config: &mut StackConfig) {
    config.gateways = 2;
    config.workers = 2;
    config.nats_nodes = Some(3);
    config.partitions = Some(4);
    config.supervises = true;
}

async fn mid_replay(system: &System) -> (Replay, tempfile::NamedTempFile) {
    let file = recorded(RIDES);
    let replay = system.replay(file.path(), &["--rate", RATE, "--batch", "10"]);
    system
        .reached("select count(*) from requests", RIDES / 5)
        .await;
    (replay, file)
}

/// Every accepted id has exactly one row, every row a ride, every ride its row.
async fn assert_conserved(system: &System, report: &Value) {
    assert_eq!(
        (&report["lost"], &report["doubled"]),
        (&json!(0), &json!(0)),
        "{report}"
    );
    let rides = "select count(*) from rides where partner_id = 1";
    let created = "select count(*) from requests where outcome = 1 and action = 1";
    assert_eq!(system.count(rides).await, system.count(created).await);
    let doubled = "select count(*) from (select resource_id from requests where action = 1 group by 1 having count(*) > 1) d";
    assert_eq!(system.count(doubled).await, Some(0));
    let persisted = report["persisted"].as_i64().expect("a count");
    assert!(system.count(created).await.expect("a count") >= persisted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_and_a_gateway_are_killed() {
    let system = System::start(replicated).await;
    let (replay, _file) = mid_replay(&system).await;
    system.stack.kill(Role::Worker, 0).await;
    system.stack.kill(Role::Gateway, 1).await;
    let report = replay.finish().await;
    assert_conserved(&system, &report).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_frozen_and_thawed_after_its_partitions_were_taken_over() {
    let system = System::start(replicated).await;
    let (replay, _file) = mid_replay(&system).await;
    let owners = "select count(distinct owner) from leases where owner is not null";
    system.stack.freeze(Role::Worker, 0);
    // The other one takes all four: then the frozen one's view of the world is as stale as it gets.
    crate::support::until("one worker holds every lease", || async {
        system.count(owners).await == Some(1)
    })
    .await;
    let report = replay.finish().await;
    system.stack.thaw(Role::Worker, 0);
    assert_conserved(&system, &report).await;
    crate::support::until("the thawed worker has its share again", || async {
        system.count(owners).await == Some(2)
    })
    .await;
    let again = recorded(RIDES);
    let second = system.replay(again.path(), &[]).finish().await;
    assert_conserved(&system, &second).await;
}
