//! Two writers of one partition, and a database that is away or broken.

use std::time::Duration;

use devstack::eventually::eventually;
use persist_worker::apply::Applier;
use persist_worker::batch::{ApplyError, Cursor};
use uuid::Uuid;

use super::world::{PARTITION, World, ride};

#[tokio::test]
async fn of_two_writers_at_one_cursor_one_commits_and_the_other_rolls_back() {
    let mut world = World::new().await;
    let mut other = world.connect().await;
    let mut committed = 0;
    for round in 0..20 {
        let batch = world.batch(vec![
            (0..50)
                .map(|i| world.create(ride(round * 50 + i + 1)))
                .collect(),
        ]);
        let (mut first, mut second) = (
            Applier::new(PARTITION, false),
            Applier::new(PARTITION, false),
        );
        let cursor = world.cursor;
        let (one, two) = tokio::join!(
            first.apply(&mut world.client, cursor, &batch),
            second.apply(&mut other, cursor, &batch)
        );
        let (winner, loser) = match (one, two) {
            (Ok(applied), Err(error)) | (Err(error), Ok(applied)) => (applied, error),
            both => panic!("expected one of each: {both:?}"),
        };
        assert!(
            matches!(loser, ApplyError::CursorMoved { expected, .. } if expected == cursor.last_seq)
        );
        world.cursor.last_seq = winner.last_seq;
        committed += 50;
        assert_eq!(world.count("rides").await, committed);
        assert_eq!(world.count("requests").await, committed);
    }
    // The loser's connection is free for the next batch.
    let batch = world.batch(vec![vec![world.create(ride(5_000))]]);
    let mut successor = Applier::new(PARTITION, false);
    let applied = successor.apply(&mut other, world.cursor, &batch).await;
    assert_eq!(applied.unwrap().outcomes.created, 1);
}

#[tokio::test]
async fn another_incarnation_moves_nothing() {
    let mut world = World::new().await;
    let mut batch = world.batch(vec![vec![world.create(ride(1))]]);
    batch.incarnation = Uuid::now_v7();
    let error = world.apply_batch(&batch).await.unwrap_err();
    assert!(matches!(error, ApplyError::CursorMoved { .. }), "{error:?}");
    assert_eq!(world.count("requests").await, 0);
}

#[tokio::test]
async fn a_broken_connection_is_transient_and_nothing_is_half_done() {
    let mut world = World::new().await;
    let doomed = world.connect().await;
    let mut doomed = std::mem::replace(&mut world.client, doomed);
    let pid: i32 = doomed
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    let batch = world.batch(vec![vec![world.create(ride(1))]]);
    world
        .client
        .execute("select pg_terminate_backend($1, 5000)", &[&pid])
        .await
        .unwrap();
    let error = world
        .applier
        .apply(&mut doomed, world.cursor, &batch)
        .await
        .unwrap_err();
    assert!(matches!(error, ApplyError::Transient { .. }), "{error:?}");
    assert_eq!(world.progress().await, 0);
    assert_eq!(world.apply_batch(&batch).await.unwrap().outcomes.created, 1);
}

#[tokio::test]
async fn a_future_dropped_halfway_leaves_a_usable_connection_and_no_trace() {
    let mut world = World::new().await;
    let batch = world.batch(vec![(1..=2_000).map(|id| world.create(ride(id))).collect()]);
    // A lock that the COPY waits for, so that it is dropped in the middle for certain.
    let locker = world.connect().await;
    locker
        .batch_execute("begin; lock table rides in exclusive mode")
        .await
        .unwrap();
    // Not the locker: within a transaction the server's activity is what it was at the first look.
    let observer = world.connect().await;
    {
        let apply = world
            .applier
            .apply(&mut world.client, Cursor { last_seq: 0 }, &batch);
        let mut apply = std::pin::pin!(apply);
        let waiting = eventually(Duration::from_secs(60), || async {
            let sql = "select 1 from pg_stat_activity where wait_event_type = 'Lock'";
            observer.query_opt(sql, &[]).await.unwrap()
        });
        tokio::select! {
            done = &mut apply => panic!("the lock did not hold: {done:?}"),
            found = waiting => drop(found.expect("the batch waits for the lock")),
        }
    }
    locker.batch_execute("commit").await.unwrap();
    assert_eq!(world.progress().await, 0);
    assert_eq!(
        world.apply_batch(&batch).await.unwrap().outcomes.created,
        2_000
    );
}

#[tokio::test]
async fn a_missing_table_is_this_installations_fault() {
    let mut world = World::new().await;
    world
        .client
        .batch_execute("drop table rides cascade")
        .await
        .unwrap();
    let batch = world.batch(vec![vec![world.create(ride(1))]]);
    let error = world.apply_batch(&batch).await.unwrap_err();
    assert!(matches!(error, ApplyError::Installation(_)), "{error:?}");
    // The driver cannot tell whose answer comes next, so nobody may ask on this connection.
    assert!(world.client.is_closed());
    world.client = world.connect().await;
    assert_eq!(world.progress().await, 0);
}

#[tokio::test]
async fn rows_that_are_refused_for_no_records_sake_stop_the_partition() {
    let mut world = World::new().await;
    let sql = "create unique index somebodys_idea on rides (user_id)";
    world.client.batch_execute(sql).await.unwrap();
    let batch = world.batch(vec![vec![world.create(ride(1)), world.create(ride(2))]]);
    let error = world.apply_batch(&batch).await.unwrap_err();
    assert!(matches!(error, ApplyError::Installation(_)), "{error:?}");
    assert_eq!(world.progress().await, 0);
}
