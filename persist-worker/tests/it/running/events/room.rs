//! A stream of events that is nearly full.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::stream::State;
use contract::event::{STREAM, SUBJECTS};
use devstack::eventually::eventually;
use futures_util::StreamExt as _;
use tokio_util::task::AbortOnDropHandle;

use super::{Arrived, arrived, check_order, commit_events, outbox_empty, subscribe};
use crate::running::rig::{LIMIT, Rig};

const MIB: u64 = 1024 * 1024;

async fn state(rig: &Rig) -> State {
    let stream = rig.jetstream.get_stream(STREAM).await.unwrap();
    stream.cached_info().state.clone()
}

/// A small stream.
async fn rig() -> Rig {
    let rig = Rig::bare().await;
    let flags = ["--partitions", "1", "--events-bytes-max", "4MiB"];
    rig.migrate(&flags).await.unwrap();
    rig
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_young_is_kept_and_events_wait_which_hinders_nothing_else() {
    let rig = rig().await;
    let committed = commit_events(&rig, 0, 1..1_501, 5).await;
    let worker = rig.start(&[]);
    let full = eventually(LIMIT, async || {
        // No further batch fits.
        (state(&rig).await.bytes > 3 * MIB).then_some(())
    });
    full.await.expect("it fills up");
    rig.persisted(&rig.publish(0, &[1, 2]).await).await;
    worker.ready().await;
    // A subscriber's copy of what is dropped here, in place of its age.
    let copy = Mutex::new(Vec::new());
    let keep = async || {
        let arrived = arrived(&rig).await;
        let last = arrived.last().map(|it| it.sequence);
        copy.lock().unwrap().extend(arrived);
        last
    };
    let empty = eventually(LIMIT, async || {
        if let Some(last) = keep().await {
            let stream = rig.jetstream.get_stream(STREAM).await.unwrap();
            let purge = stream.purge().filter(SUBJECTS).sequence(last + 1);
            purge.await.unwrap();
        }
        (rig.count("select count(*) from outbox").await == 0).then_some(())
    });
    empty.await.expect("they follow when there is room");
    keep().await;
    let copy = copy.into_inner().unwrap();
    check_order(&copy, &[&committed]);
    assert!(worker.readiness.is_ready());
    worker.drain().await;
}

/// Twice what the stream may hold goes through it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_makes_room_and_the_outbox_stays_small() {
    let keep_min = Duration::from_secs(2);
    let rig = rig().await;
    let worker = rig.start(&["--events-keep-min", "2s"]);
    let mut committed = Vec::new();
    // By sequence: what a subscriber that is always there sees.
    let copy = Arc::new(Mutex::new(BTreeMap::new()));
    let _subscriber = AbortOnDropHandle::new(tokio::spawn({
        let mut messages = subscribe(&rig).await.messages().await.unwrap();
        let copy = Arc::clone(&copy);
        async move {
            while let Some(message) = messages.next().await {
                let event = Arrived::from(&message.unwrap());
                copy.lock().unwrap().insert(event.sequence, event);
            }
        }
    }));
    // When what lies before such a sequence was gone, by this machine's clock, which is the log's.
    let gone = Mutex::new(Vec::new());
    let mut chunk = 10;
    while committed.len() < 12_000 {
        committed.extend(commit_events(&rig, 0, chunk..chunk + 100, 5).await);
        rig.publish(0, &[chunk]).await;
        chunk += 100;
        let small = eventually(LIMIT, async || {
            let state = state(&rig).await;
            let seen = (state.first_sequence, now_nanos());
            gone.lock().unwrap().push(seen);
            (rig.count("select count(*) from outbox").await <= 500).then_some(())
        });
        if small.await.is_none() {
            let left = rig.count("select count(*) from outbox").await;
            panic!("{left} events wait: {:?}", state(&rig).await);
        }
    }
    outbox_empty(&rig).await;
    let all = eventually(LIMIT, async || {
        (copy.lock().unwrap().len() >= committed.len()).then_some(())
    });
    all.await.expect("the subscriber gets them all");
    worker.ready().await;
    worker.drain().await;
    let copy = std::mem::take(&mut *copy.lock().unwrap());
    assert!(state(&rig).await.first_sequence > 5_000);
    for (first, at) in gone.into_inner().unwrap() {
        let before = copy.range(..first).next_back();
        if let Some((_, youngest)) = before {
            let age = at - youngest.stored_at;
            let least = i128::try_from(keep_min.as_nanos()).unwrap();
            assert!(age >= least, "purged when {age} ns old: {}", youngest.id);
        }
    }
    let copy: Vec<_> = copy.into_values().collect();
    check_order(&copy, &[&committed]);
}

fn now_nanos() -> i128 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i128::try_from(since_epoch.unwrap().as_nanos()).unwrap()
}
