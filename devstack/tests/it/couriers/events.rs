//! What a subscriber sees.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::DirectGetErrorKind;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::log;
use super::model::{Expected, Model};
use super::number;
use crate::support::{System, until};

const STREAM: &str = contract::event::STREAM;
const SUBJECTS: &str = contract::event::SUBJECTS;

/// How long a subscriber waits for news before it looks all the same: news may get lost.
const LOOK_ANYWAY: Duration = Duration::from_secs(1);

/// Everything that the model says is there, nothing else, and in order.
pub(super) async fn assert_equal(system: &System, model: &Model) {
    relayed(system).await;
    let context = log::context(system).await;
    let messages = log::messages(&context, STREAM).await;
    let documents: Vec<Value> = messages
        .iter()
        .filter_map(|it| event(&it.subject, &it.payload))
        .collect();
    assert_in_order(&documents);
    let seen: BTreeMap<String, Expected> = documents.iter().map(said).collect();
    assert_eq!(seen.len(), model.events.len());
    for (id, expected) in &model.events {
        assert_eq!(seen.get(id), Some(expected), "{id}");
    }
    assert_chain(&documents);
}

/// Waits until the outbox is empty.
async fn relayed(system: &System) {
    until("every event is relayed", || async {
        system.count("select count(*) from outbox").await == Some(0)
    })
    .await;
}

/// The document, if the message is an event and no fence.
fn event(subject: &str, payload: &[u8]) -> Option<Value> {
    if !subject.starts_with("weir.events.") {
        return None;
    }
    let document: Value = serde_json::from_slice(payload).expect("JSON");
    let name = subject.rsplit('.').next().expect("a token");
    assert_eq!(document["type"], format!("weir.{name}"), "{document}");
    Some(document)
}

fn said(document: &Value) -> (String, Expected) {
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let data = &document["data"];
    let name = match document["type"].as_str() {
        Some("weir.courier_created") => "courier_created",
        Some("weir.courier_updated") => "courier_updated",
        Some("weir.courier_capacity_updated") => "courier_capacity_updated",
        Some("weir.courier_deleted") => "courier_deleted",
        other => panic!("{other:?}"),
    };
    let change = (name == "courier_capacity_updated").then(|| {
        let (previous, new) = (number(&data["previous"]), number(&data["new"]));
        assert_eq!(number(&data["difference"]), new - previous, "{document}");
        (previous, new)
    });
    let courier = text(&data["courier_id"]);
    (
        text(&document["id"]),
        (courier, number(&data["version"]), name, change),
    )
}

/// Of a courier's events no version comes back after a later one, except in a repeat of an event.
fn assert_in_order(documents: &[Value]) {
    let mut latest: HashMap<String, i32> = HashMap::new();
    let mut ids = std::collections::HashSet::new();
    for document in documents {
        let (id, (courier, version, ..)) = said(document);
        if !ids.insert(id) {
            continue;
        }
        let before = latest.entry(courier).or_default();
        assert!(*before <= version, "out of order: {document}");
        *before = version;
    }
}

/// Each change of capacity starts where the one before ended.
fn assert_chain(documents: &[Value]) {
    let mut available: HashMap<String, i32> = HashMap::new();
    let mut ids = std::collections::HashSet::new();
    for document in documents {
        let (id, (courier, _, name, change)) = said(document);
        if !ids.insert(id) {
            continue;
        }
        match (name, change) {
            ("courier_created", _) => {
                available.insert(courier, number(&document["data"]["available_capacity"]));
            }
            (_, Some((previous, new))) => {
                let before = available.insert(courier, new);
                assert_eq!(before, Some(previous), "{document}");
            }
            _ => {}
        }
    }
}

/// A client of the log as the user `subscriber`.
async fn subscribing(system: &System) -> async_nats::Client {
    let file = system.stack.directory().join("stack/passwords.json");
    let passwords: Value =
        serde_json::from_slice(&std::fs::read(file).expect("a file")).expect("JSON");
    let password = passwords["nats"]["subscriber"].as_str().expect("one");
    let url = system.stack.endpoints().nats_url;
    let (_, address) = url.rsplit_once('@').expect("the admin's");
    let access = partners::Access {
        urls: vec![format!("nats://subscriber:{password}@{address}")],
        inbox: Some(devstack::nats::User::Subscriber.inbox()),
        ..partners::Access::default()
    };
    access
        .connect("a subscriber")
        .await
        .expect("the log answers")
}

/// A subscriber as docs/events.md describes it: what it keeps is the sequence it has dealt with.
async fn subscriber(
    system: Arc<System>,
    seen: Arc<tokio::sync::Mutex<Vec<Value>>>,
    from: Arc<std::sync::atomic::AtomicU64>,
) {
    let client = subscribing(&system).await;
    let mut news = client.subscribe(SUBJECTS).await.expect("subscribed");
    let stream = jetstream::new(client).get_stream(STREAM).await;
    let stream = stream.expect("the stream of events");
    loop {
        let next = from.load(std::sync::atomic::Ordering::SeqCst) + 1;
        match stream
            .direct_get_next_for_subject(SUBJECTS, Some(next))
            .await
        {
            Ok(message) => {
                seen.lock()
                    .await
                    .extend(event(&message.subject, &message.payload));
                // Killed right here it sees the event again: at least once.
                from.store(message.sequence, std::sync::atomic::Ordering::SeqCst);
            }
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => {
                let _ = tokio::time::timeout(LOOK_ANYWAY, news.next()).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Done-when 2.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_is_killed_again_and_again_sees_every_event_in_order() {
    let system = Arc::new(System::start(|config| config.partitions = Some(2)).await);
    let seen = Arc::default();
    let from = Arc::default();
    let start = || {
        let (system, seen, from) = (Arc::clone(&system), Arc::clone(&seen), Arc::clone(&from));
        tokio::spawn(subscriber(system, seen, from))
    };
    let mut running = start();
    let mut expected = 0;
    for round in 0..6 {
        let lines: Vec<String> = (0..200).map(|n| line(round, n)).collect();
        expected += lines.len();
        let url = system.gateway("/v1/courier-commands");
        let key = system.key(0);
        let kind = "application/x-ndjson";
        let answer = system
            .send("POST", &url, Some(&key), kind, lines.join("\n"))
            .await;
        assert_eq!(answer.json["accepted"], 200, "{:?}", answer.json);
        let enough = expected - 150;
        until("some of the events have come", || async {
            seen.lock().await.len() >= enough
        })
        .await;
        running.abort();
        let _ = running.await;
        running = start();
    }
    let ids = || async {
        let seen = seen.lock().await;
        let ids = seen.iter().map(|it: &Value| it["id"].to_string());
        ids.collect::<std::collections::HashSet<_>>().len()
    };
    until("every event has come", || async { ids().await == expected }).await;
    running.abort();
    let seen = seen.lock().await;
    assert_in_order(&seen);
    assert_chain(&seen);
}

/// Ten couriers; the first round creates them.
fn line(round: i64, n: i64) -> String {
    let courier = format!("s-{}", n % 10);
    let command = if round == 0 && n < 10 {
        json!({"command": "create", "courier_id": courier, "name": "S", "max_capacity": 1_000_000})
    } else {
        json!({
            "command": "pickup", "courier_id": courier, "capacity": 1 + n,
            "reference": format!("{round}/{n}"),
        })
    };
    command.to_string()
}
