//! What goes away and comes back.

use persist_worker::{DatabaseError, RunError};

use super::rig::{LIMIT, Rig};

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_stopped_and_started() {
    let mut rig = Rig::with_partitions(2).await;
    let worker = rig.start(&[]);
    rig.persisted(&rig.publish(0, &[1]).await).await;
    rig.postgres.stop().await;
    worker.says("database", "").await;
    let mut ids = rig.publish(0, &[2, 3]).await;
    ids.extend(rig.publish(1, &[4]).await);
    rig.postgres.restart().await.unwrap();
    rig.persisted(&ids).await;
    assert_eq!(rig.count("select count(*) from rides").await, 4);
    worker.ready().await;
    worker.drain().await;
}

/// A commit whose answer is lost with the server may or may not have happened.
#[tokio::test(flavor = "multi_thread")]
async fn postgresql_killed_under_load_loses_and_doubles_nothing() {
    let mut rig = Rig::with_partitions(2).await;
    let worker = rig.start(&[]);
    let mut ids = Vec::new();
    for round in 0..3_i64 {
        for chunk in 0..60_i64 {
            let base = 1 + (round * 60 + chunk) * 20;
            let rides: Vec<i64> = (base..base + 20).collect();
            ids.extend(rig.publish(u8::from(chunk % 2 == 0), &rides).await);
            if chunk == 30 {
                rig.postgres.kill().await;
            }
        }
        rig.postgres.restart().await.unwrap();
    }
    rig.persisted(&ids).await;
    let published = i64::try_from(ids.len()).unwrap();
    assert_eq!(rig.count("select count(*) from requests").await, published);
    assert_eq!(rig.count("select count(*) from rides").await, published);
    worker.ready().await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_killed_and_started() {
    let mut rig = Rig::with_partitions(2).await;
    let worker = rig.start(&[]);
    rig.persisted(&rig.publish(0, &[1]).await).await;
    rig.nats.kill(0).await;
    worker.says("log", "").await;
    rig.nats.restart(0).await.unwrap();
    worker.ready().await;
    let ids = [rig.publish(0, &[2, 3]).await, rig.publish(1, &[4]).await].concat();
    rig.persisted(&ids).await;
    assert_eq!(rig.count("select count(*) from rides").await, 4);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_freezes_and_thaws() {
    let rig = Rig::with_partitions(1).await;
    let worker = rig.start(&[]);
    rig.persisted(&rig.publish(0, &[1]).await).await;
    rig.nats.freeze(0);
    worker.says("log", "").await;
    rig.nats.thaw(0);
    worker.ready().await;
    rig.persisted(&rig.publish(0, &[2]).await).await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_freezes_and_thaws() {
    let rig = Rig::with_partitions(1).await;
    let worker = rig.start(&[]);
    rig.persisted(&rig.publish(0, &[1]).await).await;
    rig.postgres.freeze();
    worker.says("database", "").await;
    let ids = rig.publish(0, &[2]).await;
    rig.postgres.thaw();
    rig.persisted(&ids).await;
    worker.ready().await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_three_nodes_dies_in_turn() {
    let mut rig = Rig::on_a_cluster().await;
    let flags = ["--partitions", "2", "--replicas", "3"];
    rig.migrate(&flags).await.unwrap();
    let worker = rig.start(&[]);
    let mut ids = Vec::new();
    let mut ride = 0;
    for node in 0..3 {
        worker.ready().await;
        rig.nats.kill(node).await;
        for partition in [0, 1, 0, 1] {
            ride += 1;
            ids.extend(rig.publish(partition, &[ride]).await);
        }
        rig.persisted(&ids).await;
        rig.nats.restart(node).await.unwrap();
    }
    assert_eq!(rig.count("select count(*) from rides").await, ride);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_away_when_the_worker_starts() {
    let mut rig = Rig::with_partitions(1).await;
    rig.nats.kill(0).await;
    rig.postgres.stop().await;
    let worker = rig.start(&[]);
    worker.says("log", "no connection").await;
    worker.says("database", "").await;
    rig.postgres.restart().await.unwrap();
    rig.nats.restart(0).await.unwrap();
    worker.ready().await;
    rig.persisted(&rig.publish(0, &[1]).await).await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_does_not_wait_for_servers_that_are_away() {
    let mut rig = Rig::with_partitions(1).await;
    let worker = rig.start(&[]);
    rig.persisted(&rig.publish(0, &[1]).await).await;
    rig.nats.kill(0).await;
    rig.postgres.stop().await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_would_lose_commits_is_refused() {
    for (change, setting) in [
        ("alter system set fsync = off", "fsync"),
        (
            "alter database postgres set synchronous_commit = off",
            "synchronous_commit",
        ),
    ] {
        let rig = Rig::with_partitions(1).await;
        let sql = rig.sql().await;
        let database: String = sql
            .query_one("select current_database()", &[])
            .await
            .unwrap()
            .get(0);
        let change = change.replace("database postgres", &format!("database \"{database}\""));
        sql.batch_execute(&change).await.unwrap();
        sql.batch_execute("select pg_reload_conf()").await.unwrap();
        let worker = rig.start(&[]);
        let refused = tokio::time::timeout(LIMIT, worker.task).await.unwrap();
        match refused.unwrap() {
            Err(RunError::Database(DatabaseError::Unsafe { setting: found })) => {
                assert_eq!(found, setting);
            }
            other => panic!("{other:?}"),
        }
        let error = rig.migrate(&[]).await.unwrap_err();
        assert!(error.to_string().contains(setting), "{error}");
    }
}
