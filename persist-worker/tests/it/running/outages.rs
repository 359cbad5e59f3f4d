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
