//! Who works on what.

use std::collections::BTreeSet;
use std::time::Duration;

use devstack::eventually::eventually;
use tokio::time::Instant;

use super::rig::{LIMIT, Rig};

/// Waits until two workers have as many partitions each.
pub(crate) async fn shared_by_two(rig: &Rig, within: Duration) {
    let shared = eventually(within, async || {
        let owners: Option<Vec<String>> = rig.owners().await.into_iter().collect();
        let owners = owners?;
        let names: BTreeSet<_> = owners.iter().collect();
        let each = owners.len() / 2;
        let fair = names
            .iter()
            .all(|name| owners.iter().filter(|owner| owner == name).count() == each);
        (names.len() == 2 && fair).then_some(())
    });
    if shared.await.is_none() {
        panic!("not shared by two: {:?}", rig.owners().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_share_and_one_takes_over_when_the_other_dies() {
    let rig = Rig::with_partitions(4).await;
    let first = rig.start(&["--owner", "first"]);
    let all = eventually(LIMIT, async || {
        rig.owners().await.iter().all(Option::is_some).then_some(())
    });
    all.await.expect("one worker alone takes all");
    let second = rig.start(&["--owner", "second"]);
    shared_by_two(&rig, Duration::from_secs(10)).await;
    let mut ids = Vec::new();
    for partition in 0..4 {
        ids.extend(rig.publish(partition, &[1 + i64::from(partition)]).await);
    }
    rig.persisted(&ids).await;

    second.kill().await;
    let died = Instant::now();
    let mut ids = Vec::new();
    for partition in 0..4 {
        ids.extend(rig.publish(partition, &[11 + i64::from(partition)]).await);
    }
    rig.persisted(&ids).await;
    let took = died.elapsed();
    assert!(took < Duration::from_secs(7), "taken over after {took:?}");
    assert!(took > Duration::from_secs(2), "a living lease was taken");
    assert_eq!(rig.count("select count(*) from rides").await, 8);
    first.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_leaves_its_leases_to_be_taken_at_once() {
    let rig = Rig::with_partitions(2).await;
    let first = rig.start(&[]);
    rig.persisted(&rig.publish(0, &[1]).await).await;
    rig.persisted(&rig.publish(1, &[2]).await).await;
    first.drain().await;
    assert_eq!(rig.owners().await, [None, None]);
    assert_eq!(rig.count("select count(*) from workers").await, 0);
    let second = rig.start(&[]);
    second.ready().await;
    let third = rig.start(&[]);
    shared_by_two(&rig, LIMIT).await;
    let drained = Instant::now();
    second.drain().await;
    let ids = [rig.publish(0, &[3]).await, rig.publish(1, &[4]).await].concat();
    rig.persisted(&ids).await;
    let took = drained.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    third.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_a_lease_is_ready() {
    let rig = Rig::with_partitions(1).await;
    let first = rig.start(&[]);
    rig.persisted(&rig.publish(0, &[1]).await).await;
    let second = rig.start(&[]);
    second.ready().await;
    assert_eq!(rig.owners().await.len(), 1);
    first.drain().await;
    second.drain().await;
}

/// A worker that froze in the middle of a transaction: its backend lives, holds the cursor's row
/// and could still commit.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_frozen_writer_had_in_flight_never_commits() {
    let rig = Rig::with_partitions(1).await;
    let frozen = rig.sql().await;
    frozen
        .batch_execute(
            "update leases set owner = 'frozen', beaten_at = clock_timestamp(), \
                 backend_pid = pg_backend_pid(), \
                 backend_start = (select backend_start from pg_stat_activity where pid = pg_backend_pid())",
        )
        .await
        .unwrap();
    let in_flight = "begin; update progress set last_seq = last_seq + 1 where partition = 0";
    frozen.batch_execute(in_flight).await.unwrap();
    let started = Instant::now();
    let worker = rig.start(&[]);
    let ids = rig.publish(0, &[1]).await;
    rig.persisted(&ids).await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert!(took >= Duration::from_secs(5), "{took:?}");
    // Thawed.
    let refused = frozen.batch_execute("commit").await;
    assert!(refused.is_err(), "its backend is gone");
    assert_eq!(rig.count("select count(*) from requests").await, 1);
    worker.ready().await;
    worker.drain().await;
}

/// A worker that lives but whose transaction does not end: slow on purpose, since that takes half a
/// minute to be believed.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stuck_in_a_transaction_is_replaced() {
    let rig = Rig::with_partitions(2).await;
    let workers = [rig.start(&[]), rig.start(&[])];
    shared_by_two(&rig, LIMIT).await;
    let before = rig.owners().await;
    let lock = rig.sql().await;
    let locked = "begin; select from progress where partition = 0 for update";
    lock.batch_execute(locked).await.unwrap();
    let stuck_at = Instant::now();
    let ids = rig.publish(0, &[1]).await;
    let replaced = eventually(Duration::from_secs(60), async || {
        let owner = rig.owners().await.swap_remove(0);
        (owner.is_some() && owner != before[0]).then_some(stuck_at.elapsed())
    });
    let took = replaced.await.expect("the other worker takes over");
    assert!(took > Duration::from_secs(30), "after {took:?}");
    lock.batch_execute("rollback").await.unwrap();
    rig.persisted(&ids).await;
    for worker in workers {
        worker.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_lease_was_taken_stops_writing() {
    let rig = Rig::with_partitions(1).await;
    let worker = rig.start(&[]);
    rig.persisted(&rig.publish(0, &[1]).await).await;
    let sql = rig.sql().await;
    // Somebody else has it and keeps beating.
    let taken = "update leases set owner = 'other', beaten_at = clock_timestamp()";
    sql.batch_execute(taken).await.unwrap();
    let writers = "select count(*) from pg_stat_activity \
                   where application_name = 'weir persist-worker partition 0'";
    let gone = eventually(LIMIT, async || {
        let beat = "update leases set beaten_at = clock_timestamp()";
        sql.batch_execute(beat).await.unwrap();
        (rig.count(writers).await == 0).then_some(())
    });
    gone.await.expect("its writer is gone");
    assert_eq!(rig.owners().await, [Some("other".to_owned())]);
    worker.drain().await;
    assert_eq!(rig.owners().await, [Some("other".to_owned())]);
}
