//! Events on their way from the outbox to subscribers.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, pull};
use contract::event::{CapacityCause, CapacityChange, Event, STREAM, SUBJECTS, event_id};
use devstack::eventually::eventually;
use devstack::process::Signal;
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::process::spawn_worker;
use super::rig::{LIMIT, PARTNER, Rig};
use wire::Wire;

mod commits;
mod room;
mod wire;

/// Couriers of one partition whose events wait.
const COURIERS: usize = 7;

/// What a subscriber got, in order.
struct Arrived {
    sequence: u64,
    stored_at: i128,
    subject: String,
    id: String,
    document: Value,
}

/// Writes the outbox as commits would: `chunks` times `each` events of a few couriers. Their ids
/// in order.
async fn commit_events(
    rig: &Rig,
    partition: u8,
    chunks: std::ops::Range<i64>,
    each: i32,
) -> Vec<String> {
    let sql = rig.sql().await;
    let mut ids = Vec::new();
    let (mut seqs, mut indexes, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
    for seq in chunks {
        for index in 0..each {
            let nth = seq * i64::from(each) + i64::from(index);
            let courier = nth % i64::try_from(COURIERS).unwrap();
            let version = i32::try_from(nth / i64::try_from(COURIERS).unwrap()).unwrap() + 2;
            let event = Event::CourierCapacityUpdated(CapacityChange {
                courier_id: format!("c-{partition}-{courier}"),
                version,
                max_capacity: i32::MAX,
                previous: version - 1,
                new: version,
                cause: CapacityCause::Dropoff,
                reference: Some(format!("order-{nth}")),
            });
            let tracking_id = rig.mint(partition);
            ids.push(event_id(tracking_id, 0));
            seqs.push(seq);
            indexes.push(index);
            bodies.push(event.document(PARTNER, tracking_id, 0));
        }
    }
    sql.execute(
        "insert into outbox select $1, seq, index, $2, 'courier_capacity_updated', id, body \
         from unnest($3::int8[], $4::int4[], $5::text[], $6::text[]) it (seq, index, id, body)",
        &[
            &i32::from(partition),
            &PARTNER,
            &seqs,
            &indexes,
            &ids,
            &bodies,
        ],
    )
    .await
    .unwrap();
    ids
}

/// Everything that a subscriber sees who begins at the beginning.
async fn arrived(rig: &Rig) -> Vec<Arrived> {
    let consumer = subscribe(rig).await;
    let pending = usize::try_from(consumer.cached_info().num_pending).unwrap();
    let mut messages = consumer.messages().await.unwrap().take(pending);
    let mut arrived = Vec::new();
    while let Some(message) = timeout(LIMIT, messages.next()).await.unwrap() {
        arrived.push(Arrived::from(&message.unwrap()));
    }
    arrived
}

async fn subscribe(rig: &Rig) -> Consumer<pull::Config> {
    let stream = rig.jetstream.get_stream(STREAM).await.unwrap();
    let config = pull::Config {
        filter_subject: SUBJECTS.to_owned(),
        ack_policy: AckPolicy::None,
        ..pull::Config::default()
    };
    stream.create_consumer(config).await.unwrap()
}

impl From<&jetstream::Message> for Arrived {
    fn from(message: &jetstream::Message) -> Self {
        let headers = message.headers.as_ref().unwrap();
        let info = message.info().unwrap();
        Self {
            sequence: info.stream_sequence,
            stored_at: info.published.unix_timestamp_nanos(),
            subject: message.subject.to_string(),
            id: headers.get("Nats-Msg-Id").unwrap().as_str().to_owned(),
            document: serde_json::from_slice(&message.payload).unwrap(),
        }
    }
}

/// Messages in the stream of events, fences included.
async fn stored(rig: &Rig) -> u64 {
    let stream = rig.jetstream.get_stream(STREAM).await.unwrap();
    stream.cached_info().state.messages
}

async fn outbox_empty(rig: &Rig) {
    let empty = eventually(LIMIT, async || {
        (rig.count("select count(*) from outbox").await == 0).then_some(())
    });
    if empty.await.is_none() {
        let left = rig.count("select count(*) from outbox").await;
        panic!("{left} events are still in the outbox");
    }
}

/// Every one of `committed`, a partition's ids each, has arrived, and what arrived for the first
/// time did so in order; what is left once older versions are dropped, as subscribers do, is
/// every version of every courier.
fn check_order(arrived: &[Arrived], committed: &[&[String]]) {
    let mut seen = HashSet::new();
    let first: Vec<&str> = arrived
        .iter()
        .map(|it| it.id.as_str())
        .filter(|id| seen.insert(*id))
        .collect();
    for ids in committed {
        let wanted: HashSet<&str> = ids.iter().map(String::as_str).collect();
        let in_order: Vec<&str> = first
            .iter()
            .copied()
            .filter(|id| wanted.contains(id))
            .collect();
        assert_eq!(in_order.len(), ids.len(), "events that never arrived");
        assert!(in_order.iter().eq(ids.iter()), "arrived in another order");
    }
    let mut versions: BTreeMap<&str, i64> = BTreeMap::new();
    for event in arrived {
        let courier = event.document["subject"].as_str().unwrap();
        let version = event.document["data"]["version"].as_i64().unwrap();
        let last = versions.entry(courier).or_insert(version - 1);
        assert!(version <= *last + 1, "{courier}: {version} follows {last}");
        *last = version.max(*last);
    }
}

fn repeated(arrived: &[Arrived]) -> usize {
    let distinct: BTreeSet<&str> = arrived.iter().map(|it| it.id.as_str()).collect();
    arrived.len() - distinct.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn they_arrive_in_order_once_each_and_the_outbox_empties() {
    let rig = Rig::with_partitions(2).await;
    let left_over = commit_events(&rig, 0, 1..300, 5).await;
    let worker = rig.start(&[]);
    outbox_empty(&rig).await;
    // Woken by the commit of a chunk.
    let zero = commit_events(&rig, 0, 300..302, 1).await;
    let one = commit_events(&rig, 1, 1..10, 3).await;
    let ids = [rig.publish(0, &[1]).await, rig.publish(1, &[2]).await].concat();
    rig.persisted(&ids).await;
    outbox_empty(&rig).await;
    worker.ready().await;
    let arrived = arrived(&rig).await;
    assert_eq!(repeated(&arrived), 0);
    check_order(&arrived, &[&left_over, &zero, &one]);
    let subject = format!("weir.events.{PARTNER}.courier_capacity_updated");
    for event in &arrived {
        assert_eq!(event.subject, subject);
        assert_eq!(event.document["id"], event.id);
    }
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_killed_halfway_is_followed_by_one_that_loses_and_reorders_nothing() {
    let rig = Rig::with_partitions(1).await;
    let committed = commit_events(&rig, 0, 1..6_000, 5).await;
    let first = spawn_worker(&rig, "first");
    let some = eventually(LIMIT, async || (stored(&rig).await > 1_000).then_some(()));
    some.await.expect("it relays");
    first.kill().await;
    let left = rig.count("select count(*) from outbox").await;
    assert!(left > 0, "killed too late to show anything");
    let second = spawn_worker(&rig, "second");
    outbox_empty(&rig).await;
    check_order(&arrived(&rig).await, &[&committed]);
    second.signal(Signal::TERM);
    assert!(timeout(LIMIT, second.exited()).await.unwrap().success());
}

/// By hand: `cargo test --release -p persist-worker --test it -- --ignored --nocapture throughput`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn throughput_of_one_relay() {
    let rig = Rig::bare().await;
    let flags = ["--partitions", "1", "--events-bytes-max", "1GiB"];
    rig.migrate(&flags).await.unwrap();
    let chunks = 2_000;
    commit_events(&rig, 0, 1..chunks + 1, 100).await;
    let worker = rig.start(&[]);
    let begun = eventually(LIMIT, async || (stored(&rig).await > 0).then(Instant::now));
    let begun = begun.await.unwrap();
    let done = eventually(4 * LIMIT, async || {
        let last = stored(&rig).await > 100 * u64::try_from(chunks).unwrap();
        last.then(|| begun.elapsed())
    });
    let took = done.await.expect("all are relayed");
    let rate = 100.0 * chunks as f64 / took.as_secs_f64();
    println!("{} events in {took:?}: {rate:.0}/s", 100 * chunks);
    worker.drain().await;
}

/// The first worker freezes with a batch under way: its connections stand still, in both
/// directions. When they move again, the second has relayed that batch and what came after it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_frozen_relay_had_under_way_is_refused_after_its_successor() {
    let rig = Rig::with_partitions(1).await;
    // So short that the ids are forgotten by then, as they are after a longer freeze.
    let stream = rig.jetstream.get_stream(STREAM).await.unwrap();
    let mut config = stream.cached_info().config.clone();
    config.duplicate_window = Duration::from_millis(100);
    rig.jetstream.update_stream(config).await.unwrap();
    let log = Wire::to(&rig.nats.url()).await;
    let database = Wire::to(&rig.postgres.database_url()).await;
    let mut args = rig.run_args(&["--owner", "first"]);
    args.places.nats_url = log.url().to_owned();
    args.places.database_url = database.url().to_owned();
    let first = rig.start_with(args);
    rig.persisted(&rig.publish(0, &[1]).await).await;
    let fenced = eventually(LIMIT, async || (stored(&rig).await == 1).then_some(()));
    fenced.await.expect("it puts up its fence");
    // What it sends from here on is on its way, and not there.
    log.hold_what_is_sent();
    let mut committed = commit_events(&rig, 0, 10..20, 10).await;
    rig.persisted(&rig.publish(0, &[2]).await).await;
    let under_way = eventually(LIMIT, async || log.holds("Nats-Batch-Commit").then_some(()));
    under_way.await.expect("it publishes a batch");
    database.hold();
    let second = rig.start(&["--owner", "second"]);
    outbox_empty(&rig).await;
    committed.extend(commit_events(&rig, 0, 20..30, 10).await);
    rig.persisted(&rig.publish(0, &[3]).await).await;
    outbox_empty(&rig).await;
    let before = arrived(&rig).await.len();
    assert_eq!(before, committed.len());

    log.release();
    // The first relay's answer has been on its way back since before the second sent these.
    let answered = eventually(LIMIT, async || {
        log.heard("wrong last sequence").then_some(())
    });
    answered.await.expect("the late batch is refused");
    database.release();
    committed.extend(commit_events(&rig, 0, 30..40, 10).await);
    rig.persisted(&rig.publish(0, &[4]).await).await;
    outbox_empty(&rig).await;
    let arrived = arrived(&rig).await;
    assert_eq!(repeated(&arrived), 0, "the late batch was stored");
    check_order(&arrived, &[&committed]);
    second.drain().await;
    first.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_killed_halfway_delays_them() {
    let mut rig = Rig::with_partitions(1).await;
    let mut committed = commit_events(&rig, 0, 1..4_000, 5).await;
    let worker = rig.start(&[]);
    let some = eventually(LIMIT, async || {
        (rig.count("select count(*) from outbox").await < 18_000).then_some(())
    });
    some.await.expect("it relays");
    rig.nats.kill(0).await;
    worker.says("log", "").await;
    committed.extend(commit_events(&rig, 0, 4_000..4_010, 5).await);
    rig.nats.restart(0).await.unwrap();
    worker.ready().await;
    outbox_empty(&rig).await;
    check_order(&arrived(&rig).await, &[&committed]);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_stream_hinders_nothing_else() {
    let rig = Rig::with_partitions(1).await;
    rig.jetstream.delete_stream(STREAM).await.unwrap();
    let committed = commit_events(&rig, 0, 1..3, 2).await;
    let worker = rig.start(&[]);
    rig.persisted(&rig.publish(0, &[1, 2]).await).await;
    worker.ready().await;
    let done = rig.migrate(&[]).await.unwrap().join("\n");
    assert!(done.contains("created WEIR_EVENTS"), "{done}");
    outbox_empty(&rig).await;
    check_order(&arrived(&rig).await, &[&committed]);
    worker.ready().await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_three_nodes_dies_while_they_are_relayed() {
    let mut rig = Rig::on_a_cluster().await;
    let flags = ["--partitions", "1", "--replicas", "3"];
    rig.migrate(&flags).await.unwrap();
    let worker = rig.start(&[]);
    let mut committed = Vec::new();
    let mut chunk = 1;
    for node in 0..3 {
        worker.ready().await;
        committed.extend(commit_events(&rig, 0, chunk..chunk + 1_000, 5).await);
        rig.publish(0, &[chunk]).await;
        let begun = eventually(LIMIT, async || {
            (rig.count("select count(*) from outbox").await < 4_500).then_some(())
        });
        begun.await.expect("it relays");
        rig.nats.kill(node).await;
        outbox_empty(&rig).await;
        rig.nats.restart(node).await.unwrap();
        chunk += 1_000;
    }
    check_order(&arrived(&rig).await, &[&committed]);
    worker.drain().await;
}

/// One that panics is followed by another: here for as long as it meets a column of another type.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_fails_is_started_anew() {
    let rig = Rig::with_partitions(1).await;
    let committed = commit_events(&rig, 0, 1..3, 2).await;
    let sql = rig.sql().await;
    let retype = async |to: &str| {
        let alter = format!("alter table outbox alter column partner_id type {to}");
        sql.batch_execute(&alter).await.unwrap();
    };
    retype("int8").await;
    let worker = rig.start(&[]);
    let again = eventually(LIMIT, async || {
        let reads = "select coalesce(sum(idx_scan), 0)::int8 from pg_stat_user_tables \
             where relname = 'outbox'";
        (rig.count(reads).await > 1).then_some(())
    });
    again.await.expect("a second relay");
    rig.persisted(&rig.publish(0, &[1]).await).await;
    retype("int4").await;
    outbox_empty(&rig).await;
    check_order(&arrived(&rig).await, &[&committed]);
    worker.ready().await;
    worker.drain().await;
}

/// What waits from before a log was given up goes out before the events of the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_log_is_adopted_after_the_events_of_the_old_one() {
    let rig = Rig::with_partitions(1).await;
    let old = commit_events(&rig, 0, 1..20, 2).await;
    rig.recreate_stream_anew(0).await;
    rig.migrate(&["--adopt-new-log"]).await.unwrap();
    let kept = "select count(*) from outbox where log_seq < 1";
    assert_eq!(rig.count(kept).await, 38);
    let new = commit_events(&rig, 0, 20..22, 2).await;
    rig.sql()
        .await
        .batch_execute("update outbox set log_seq = log_seq - 19 where log_seq > 0")
        .await
        .unwrap();
    let worker = rig.start(&[]);
    outbox_empty(&rig).await;
    check_order(&arrived(&rig).await, &[&[old, new].concat()]);
    worker.drain().await;
}
