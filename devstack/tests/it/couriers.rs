//! Couriers from end to end: whatever is killed, the final states, the outcomes and the events are
//! those of a sequential model that applies the log's commands in the ledger's order.

mod commands;
mod events;
mod log;
mod model;
mod race;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use devstack::stack::{Role, StackConfig};
use serde_json::Value;

use crate::support::{System, until};
use commands::Commands;
use log::Logged;
use model::Model;

/// Couriers that the commands are about.
const COURIERS: u64 = 500;
/// Connections that send one request after the other.
const CONNECTIONS: u64 = 16;
/// Commands in one request.
const BATCH: usize = 40;
/// Requests that a connection may send at most before the test gives up: kills cost some.
const REQUESTS_MAX: u64 = 4_000;

fn killable(config: &mut StackConfig) {
    config.gateways = 2;
    config.workers = 2;
    config.partitions = Some(4);
    config.supervises = true;
}

/// Done-when 1. The number is the issue's; a debug build takes it in well under a minute.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_commands_through_kills_equal_a_sequential_model() {
    equal_a_sequential_model(100_000).await;
}

async fn equal_a_sequential_model(wanted: usize) {
    let system = Arc::new(System::start(killable).await);
    let accepted = Arc::new(AtomicUsize::new(0));
    let senders: Vec<_> = (0..CONNECTIONS)
        .map(|connection| {
            let (system, accepted) = (Arc::clone(&system), Arc::clone(&accepted));
            tokio::spawn(async move { send(&system, connection, wanted, &accepted).await })
        })
        .collect();
    for (share, role, index) in [
        (20, Role::Worker, 0),
        (40, Role::Gateway, 1),
        (55, Role::Worker, 1),
        (70, Role::Gateway, 0),
        (85, Role::Worker, 0),
    ] {
        until("enough is accepted for the next kill", || async {
            accepted.load(Ordering::SeqCst) * 100 >= wanted * share
        })
        .await;
        system.stack.kill(role, index).await;
    }
    let mut sent = Vec::new();
    for sender in senders {
        sent.push(sender.await.expect("a sender does not panic"));
    }
    let logged = log::everything_applied(&system).await;
    assert_ledger_has(&sent, &logged);
    assert_sent_in_order(&sent, &logged);
    let mut model = Model::default();
    let rows = ledger(&system).await;
    for entry in &logged {
        let expected = model.apply(entry);
        let id = entry.id();
        let Some(expected) = expected else { continue };
        let row = rows
            .get(&id)
            .unwrap_or_else(|| panic!("{id} has no outcome"));
        assert_eq!(*row, expected, "{entry:?}");
    }
    assert_eq!(
        rows.len(),
        model.outcomes(),
        "outcomes that nobody asked for"
    );
    assert_eq!(states(&system).await, model.states());
    events::assert_equal(&system, &model).await;
}

/// What a connection sent, as the tracking ids that it was given, in the order sent.
type Sent = Vec<String>;

async fn send(system: &System, connection: u64, wanted: usize, accepted: &AtomicUsize) -> Sent {
    let mut commands = Commands::new(connection, COURIERS);
    let gateways = system.stack.endpoints().gateway;
    let key = system.key(0);
    let mut sent = Sent::new();
    for request in 0..REQUESTS_MAX {
        if accepted.load(Ordering::SeqCst) >= wanted {
            break;
        }
        let turn = usize::try_from(connection + request).expect("small");
        let url = format!("{}/v1/courier-commands", gateways[turn % gateways.len()]);
        let body = commands.lines(BATCH);
        let kind = "application/x-ndjson";
        let answer = system
            .try_send("POST", &url, Some(&key), kind, body.into())
            .await;
        // Unanswered, or refused because something is down: they may apply or not, and the log
        // says which.
        let results = answer.as_ref().and_then(|it| it.json["results"].as_array());
        let Some(results) = results else {
            tokio::task::yield_now().await;
            continue;
        };
        for result in results {
            if let Some(id) = result["tracking_id"].as_str() {
                sent.push(id.to_owned());
            } else {
                assert_eq!(result["error"]["retryable"], true, "{result}");
            }
        }
        accepted.fetch_add(
            results
                .iter()
                .filter(|it| it["tracking_id"].is_string())
                .count(),
            Ordering::SeqCst,
        );
    }
    sent
}

fn assert_ledger_has(sent: &[Sent], logged: &[Logged]) {
    let ids: HashSet<String> = logged.iter().map(Logged::id).collect();
    for id in sent.iter().flatten() {
        assert!(ids.contains(id), "accepted and not in the log: {id}");
    }
}

/// For commands that one connection sent one after the other, a courier's log has that order.
fn assert_sent_in_order(sent: &[Sent], logged: &[Logged]) {
    let mut places = HashMap::new();
    for (place, entry) in logged.iter().enumerate() {
        // A chunk that the log stored twice applies where it stands first.
        places.entry(entry.id()).or_insert((place, entry.courier()));
    }
    for connection in sent {
        let mut last: HashMap<&str, usize> = HashMap::new();
        for id in connection {
            let (place, courier) = places[id];
            if let Some(before) = last.insert(courier, place) {
                assert!(
                    before < place,
                    "{courier}: {id} went before what was sent first"
                );
            }
        }
    }
}

/// How a command ended, as the ledger has it.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    pub(crate) outcome: i16,
    pub(crate) action: Option<i16>,
    pub(crate) code: Option<String>,
    pub(crate) duplicate_of: Option<String>,
}

async fn ledger(system: &System) -> HashMap<String, Outcome> {
    let query = "select tracking_id::text, outcome, action, code, duplicate_of::text \
        from requests where kind = 2";
    let rows = system
        .database()
        .await
        .query(query, &[])
        .await
        .expect("a ledger");
    rows.iter()
        .map(|row| {
            let outcome = Outcome {
                outcome: row.get(1),
                action: row.get(2),
                code: row.get(3),
                duplicate_of: row.get(4),
            };
            (row.get(0), outcome)
        })
        .collect()
}

/// A courier at the end: version, available, maximum, name, and whether it is deleted.
pub(crate) type State = (i32, i32, i32, String, bool);

async fn states(system: &System) -> BTreeMap<String, State> {
    let query = "select courier_id, version, available_capacity, max_capacity, name, \
        deleted_at is not null from couriers";
    let rows = system
        .database()
        .await
        .query(query, &[])
        .await
        .expect("couriers");
    rows.iter()
        .map(|row| {
            let state = (row.get(1), row.get(2), row.get(3), row.get(4), row.get(5));
            (row.get(0), state)
        })
        .collect()
}

/// The value of a member that is a number.
pub(crate) fn number(value: &Value) -> i32 {
    let number = value
        .as_i64()
        .unwrap_or_else(|| panic!("{value} is no integer"));
    i32::try_from(number).expect("an int32")
}
