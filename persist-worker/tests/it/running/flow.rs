//! What works when nothing is wrong.

use std::time::{Duration, SystemTime};

use async_nats::jetstream::message::PublishMessage;
use contract::log::stream_name;
use contract::{Partition, TrackingId};
use devstack::eventually::eventually;
use tokio::time::Instant;
use uuid::Uuid;

use super::rig::{LIMIT, Rig};

#[tokio::test(flavor = "multi_thread")]
async fn a_record_arrives_and_a_restarted_worker_goes_on_after_it() {
    let rig = Rig::with_partitions(1).await;
    let worker = rig.start(&[]);
    worker.ready().await;
    let first = rig.publish(0, &[1]).await;
    rig.persisted(&first).await;
    worker.drain().await;
    let second = rig.publish(0, &[2, 3]).await;
    let worker = rig.start(&[]);
    rig.persisted(&second).await;
    worker.ready().await;
    assert_eq!(rig.count("select count(*) from rides").await, 3);
    assert_eq!(rig.count("select count(*) from requests").await, 3);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_record_is_visible_at_once() {
    let rig = Rig::with_partitions(1).await;
    let worker = rig.start(&[]);
    rig.persisted(&rig.publish(0, &[1]).await).await;
    let published = Instant::now();
    rig.persisted(&rig.publish(0, &[2]).await).await;
    // Publishing, the commit, and one poll of the test: far below any timer of the worker.
    let took = published.elapsed();
    assert!(took < Duration::from_millis(500), "{took:?}");
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_goes_in_few_batches() {
    let rig = Rig::with_partitions(1).await;
    let mut ids: Vec<TrackingId> = Vec::new();
    for chunk in 0..40 {
        let rides: Vec<i64> = (0..50).map(|ride| 1 + chunk * 50 + ride).collect();
        ids.extend(rig.publish(0, &rides).await);
    }
    let worker = rig.start(&[]);
    rig.persisted(&ids).await;
    // One transaction has one completed_at.
    let batches = rig
        .count("select count(distinct completed_at) from requests")
        .await;
    assert!(batches <= 10, "{batches} batches of 40 chunks");
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watermark_of_an_idle_partition_moves() {
    let rig = Rig::with_partitions(2).await;
    let worker = rig.start(&[]);
    let mut last = SystemTime::UNIX_EPOCH;
    for _ in 0..3 {
        let moved = eventually(LIMIT, async || {
            let (a, b) = (rig.progress(0).await.1, rig.progress(1).await.1);
            (a.min(b) > last).then_some(a.min(b))
        });
        last = moved.await.expect("both partitions' committed_to moves");
    }
    let age = SystemTime::now().duration_since(last).unwrap_or_default();
    assert!(age < Duration::from_secs(6), "{age:?} behind");
    assert_eq!(rig.count("select count(*) from requests").await, 0);
    worker.drain().await;
}

/// Of a worker whose clock is slow, too: what it sends says nothing about its clock.
#[tokio::test(flavor = "multi_thread")]
async fn the_watermark_of_an_idle_partition_follows_the_clock_of_the_log_alone() {
    let rig = Rig::with_partitions(1).await;
    let worker = rig.start(&[]);
    rig.committed(0, 1).await;
    worker.drain().await;
    let (last_seq, committed_to) = rig.progress(0).await;
    let stream = rig.jetstream.get_stream(stream_name(Partition(0))).await;
    let (stream, seq) = (stream.unwrap(), u64::try_from(last_seq).unwrap());
    let message = stream.get_raw_message(seq).await.unwrap();
    let chunk = contract::chunk::decode(&message.payload).unwrap();
    assert!(chunk.entries.is_empty());
    assert_eq!(chunk.header.publish_by_us, i64::MAX);
    let committed_to = committed_to.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let stored_at_us = message.time.unix_timestamp_nanos().unsigned_abs() / 1_000;
    assert_eq!(committed_to.as_micros(), stored_at_us);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_disappears_is_made_anew() {
    use futures_util::TryStreamExt as _;
    let rig = Rig::with_partitions(1).await;
    let worker = rig.start(&[]);
    rig.persisted(&rig.publish(0, &[1]).await).await;
    let stream = rig.jetstream.get_stream(stream_name(Partition(0))).await;
    let stream = stream.unwrap();
    let consumers: Vec<String> = stream.consumer_names().try_collect().await.unwrap();
    assert_eq!(consumers.len(), 1, "one consumer for one partition");
    stream.delete_consumer(&consumers[0]).await.unwrap();
    rig.persisted(&rig.publish(0, &[2, 3]).await).await;
    worker.ready().await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn purging_keeps_the_message_that_the_cursor_stands_on() {
    let rig = Rig::with_partitions(1).await;
    let worker = rig.start(&["--log-retain", "1s"]);
    for ride in 1..=20 {
        rig.publish(0, &[ride]).await;
    }
    let purged = eventually(LIMIT, async || {
        (rig.stream(0).await.state.first_sequence > 20).then_some(())
    });
    purged.await.expect("what is committed and old is purged");
    worker.drain().await;
    let (last_seq, _) = rig.progress(0).await;
    let stream = rig.jetstream.get_stream(stream_name(Partition(0))).await;
    let stream = stream.unwrap();
    let message = stream.get_raw_message(u64::try_from(last_seq).unwrap());
    message.await.expect("the cursor's message is kept");
    let worker = rig.start(&[]);
    rig.persisted(&rig.publish(0, &[21]).await).await;
    worker.ready().await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn past_half_of_the_stream_what_is_committed_goes_at_once() {
    let rig = Rig::bare().await;
    let flags = ["--partitions", "1", "--stream-bytes-max", "1MiB"];
    rig.migrate(&flags).await.unwrap();
    let worker = rig.start(&[]);
    let mut ride = 1;
    // Twice what fits.
    for _ in 0..80 {
        let rides: Vec<i64> = (ride..ride + 400).collect();
        ride += 400;
        let room = eventually(LIMIT, async || {
            (rig.stream(0).await.state.bytes < 900 * 1024).then_some(())
        });
        room.await.expect("there is room again");
        rig.publish(0, &rides).await;
    }
    let low = eventually(LIMIT, async || {
        (rig.stream(0).await.state.bytes <= 512 * 1024).then_some(())
    });
    low.await.expect("the stream is at most half full");
    let (last_seq, _) = rig.progress(0).await;
    assert!(last_seq >= 80);
    assert_eq!(rig.count("select count(*) from rides").await, 80 * 400);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_full_of_what_is_committed_before_the_worker_came_gets_room() {
    let rig = Rig::bare().await;
    let flags = ["--partitions", "1", "--stream-bytes-max", "256KiB"];
    rig.migrate(&flags).await.unwrap();
    // Until not even an empty chunk fits.
    let mut id = Uuid::nil();
    for bytes in [16 * 1024, 16] {
        loop {
            let next = Uuid::now_v7();
            let message = PublishMessage::build()
                .payload(vec![0; bytes].into())
                .message_id(next.to_string());
            let subject = contract::log::subject(Partition(0));
            let sent = rig.jetstream.send_publish(subject, message).await.unwrap();
            if sent.await.is_err() {
                break;
            }
            id = next;
        }
    }
    // As if all of it had been committed.
    let last_seq = rig.stream(0).await.state.last_sequence;
    rig.sql()
        .await
        .execute(
            "update progress set last_seq = $1, last_message_id = $2",
            &[&i64::try_from(last_seq).unwrap(), &id],
        )
        .await
        .unwrap();
    let worker = rig.start(&[]);
    rig.persisted(&rig.publish(0, &[1]).await).await;
    assert!(rig.stream(0).await.state.bytes <= 160 * 1024);
    worker.ready().await;
    worker.drain().await;
}
