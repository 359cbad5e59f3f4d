//! What must hold a partition, with nothing skipped and the cursor where it was.

use bytes::Bytes;
use contract::Partition;
use contract::chunk::Encoder;
use contract::log::stream_name;
use uuid::Uuid;

use super::rig::{Rig, header};

/// One partition with four committed chunks, one ride each, and no worker; its cursor.
async fn four_committed() -> (Rig, i64) {
    let rig = Rig::with_partitions(1).await;
    let worker = rig.start(&[]);
    for ride in 1..=4 {
        rig.persisted(&rig.publish(0, &[ride]).await).await;
    }
    worker.drain().await;
    let (cursor, _) = rig.progress(0).await;
    (rig, cursor)
}

/// Starts a worker and expects it to hold partition 0 for a reason with these words.
async fn is_held(rig: &Rig, words: &str) {
    let (before, _) = rig.progress(0).await;
    let rows = rig.count("select count(*) from requests").await;
    let worker = rig.start(&[]);
    worker.says("partition-000", words).await;
    let (after, _) = rig.progress(0).await;
    assert_eq!(after, before, "the cursor did not move");
    assert_eq!(rig.count("select count(*) from requests").await, rows);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_another_incarnation() {
    let (rig, cursor) = four_committed().await;
    let name = stream_name(Partition(0));
    rig.jetstream.delete_stream(&name).await.unwrap();
    let said = rig.migrate(&[]).await.unwrap().join("\n");
    assert!(said.contains("will be held"), "{said}");
    let ids = rig.publish(0, &[5]).await;
    is_held(&rig, "another than the cursor counts in").await;
    assert_eq!(rig.progress(0).await.0, cursor);
    // The operator decides.
    let said = rig.migrate(&["--adopt-new-log"]).await.unwrap().join("\n");
    assert!(said.contains("starts over"), "{said}");
    let worker = rig.start(&[]);
    rig.persisted(&ids).await;
    worker.ready().await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_recreated_under_a_running_worker_until_it_is_adopted() {
    let (rig, cursor) = four_committed().await;
    let worker = rig.start(&[]);
    rig.committed(0, cursor + 1).await;
    rig.jetstream
        .delete_stream(stream_name(Partition(0)))
        .await
        .unwrap();
    worker.says("log", "does not exist").await;
    rig.migrate(&[]).await.unwrap();
    worker.says("partition-000", "incarnation").await;
    let ids = rig.publish(0, &[5]).await;
    rig.migrate(&["--adopt-new-log"]).await.unwrap();
    rig.persisted(&ids).await;
    worker.ready().await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_came_back_shorter() {
    let (rig, _) = four_committed().await;
    rig.recreate_stream(0).await;
    rig.publish(0, &[5]).await;
    is_held(&rig, "the log is shorter than what was committed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_came_back_shorter_and_was_written_past_the_cursor_since() {
    let (rig, cursor) = four_committed().await;
    rig.recreate_stream(0).await;
    for ride in 0..cursor + 3 {
        rig.publish(0, &[5 + ride]).await;
    }
    is_held(&rig, "is not the one that was committed").await;
}

/// Rewinds the database to before the third chunk, as a restore from a backup would.
async fn restore_older_database(rig: &Rig) {
    let second = rig.jetstream.get_stream(stream_name(Partition(0))).await;
    let second = second.unwrap().get_raw_message(2).await.unwrap();
    let id = second.headers.get("Nats-Msg-Id").unwrap().as_str();
    let id: Uuid = id.parse().unwrap();
    let sql = rig.sql().await;
    sql.execute("delete from requests where log_seq > 2", &[])
        .await
        .unwrap();
    sql.execute(
        "delete from rides where tracking_id not in (select tracking_id from requests)",
        &[],
    )
    .await
    .unwrap();
    sql.execute(
        "update progress set last_seq = 2, last_message_id = $1",
        &[&id],
    )
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_older_than_what_the_log_keeps() {
    let (rig, _) = four_committed().await;
    restore_older_database(&rig).await;
    let stream = rig.jetstream.get_stream(stream_name(Partition(0))).await;
    stream.unwrap().purge().sequence(4).await.unwrap();
    is_held(&rig, "message 2, the last one committed, is not in the log").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_within_what_the_log_keeps_catches_up() {
    let (rig, cursor) = four_committed().await;
    restore_older_database(&rig).await;
    let worker = rig.start(&[]);
    rig.committed(0, cursor).await;
    assert_eq!(rig.count("select count(*) from rides").await, 4);
    assert_eq!(rig.count("select count(*) from requests").await, 4);
    worker.ready().await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_database_on_a_purged_log() {
    let rig = Rig::with_partitions(1).await;
    for ride in 1..=3 {
        rig.publish(0, &[ride]).await;
    }
    let stream = rig.jetstream.get_stream(stream_name(Partition(0))).await;
    stream.unwrap().purge().sequence(3).await.unwrap();
    is_held(&rig, "message 1 is missing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_in_the_log() {
    let (rig, cursor) = four_committed().await;
    let next = u64::try_from(cursor).unwrap() + 1;
    for ride in 5..=7 {
        rig.publish(0, &[ride]).await;
    }
    let stream = rig.jetstream.get_stream(stream_name(Partition(0))).await;
    let stream = stream.unwrap();
    // In the middle: what stands before it is applied, what follows is not.
    stream.delete_message(next + 1).await.unwrap();
    let worker = rig.start(&[]);
    let gap = format!("message {} is missing", next + 1);
    worker.says("partition-000", &gap).await;
    assert_eq!(rig.progress(0).await.0, cursor + 1);
    assert_eq!(rig.count("select count(*) from rides").await, 5);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_with_nothing_behind_it() {
    let (rig, cursor) = four_committed().await;
    let next = u64::try_from(cursor).unwrap() + 1;
    rig.publish(0, &[5]).await;
    let stream = rig.jetstream.get_stream(stream_name(Partition(0))).await;
    stream.unwrap().delete_message(next).await.unwrap();
    is_held(&rig, "a gap in the log").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_no_chunk() {
    let (rig, cursor) = four_committed().await;
    let good = rig.publish(0, &[5]).await;
    let id = Uuid::now_v7().to_string();
    let bad = Bytes::from_static(b"not what a gateway writes");
    let seq = rig.publish_raw(0, &id, bad).await;
    let worker = rig.start(&[]);
    let reason = format!("message {seq} cannot be decoded");
    worker.says("partition-000", &reason).await;
    rig.persisted(&good).await;
    assert_eq!(rig.progress(0).await.0, cursor + 1);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_of_another_partition() {
    let (rig, _) = four_committed().await;
    let header = header(Partition(1));
    let id = header.chunk_id.to_string();
    rig.publish_raw(0, &id, Encoder::new().seal(header)).await;
    is_held(&rig, "of partition 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_under_another_message_id() {
    let (rig, _) = four_committed().await;
    let chunk = Encoder::new().seal(header(Partition(0)));
    let id = Uuid::now_v7().to_string();
    rig.publish_raw(0, &id, chunk).await;
    is_held(&rig, "its message id is").await;
}
