//! Outcomes, states and events of any interleaving of rides and commands to couriers, resends,
//! double-stored chunks and restarts equal a simple model's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use contract::courier::Command;
use contract::{Entry, Operation, Record, Ride};
use persist_worker::batch::{ApplyError, Batch, Cursor, LoggedChunk};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use uuid::Uuid;

use super::couriers_model::{Couriers, Event, Row};
use super::world::{
    LedgerRow, World, create, delete, dropoff, logged, pickup, rename, resize, ride, set,
    unstorable,
};

const CASES: u32 = 64;
const EXPIRED_US: i64 = 10_000_001;

/// A record before it has an id. Few resources and contents, so that they meet often.
#[derive(Clone, Debug)]
enum Sent {
    Ride {
        replace: bool,
        expected_version: Option<i32>,
        ride: i64,
        content: Content,
    },
    Command {
        expected_version: Option<i32>,
        courier: &'static str,
        command: Command,
    },
}

#[derive(Clone, Debug)]
enum Content {
    Good(i64),
    Unstorable,
}

#[derive(Clone, Debug)]
struct Plan {
    chunks: Vec<Vec<Sent>>,
    /// Chunks that the log stores (again), after all those before: which, and whether too late.
    stored_again: Vec<(usize, usize, bool)>,
    late: BTreeSet<usize>,
    batches: Vec<(usize, Disturbance)>,
    ride_events: bool,
}

#[derive(Clone, Copy, Debug)]
enum Disturbance {
    None,
    /// Another worker, which knows nothing of the one before.
    Restart,
    /// The worker is cut off after so many microseconds, wherever it is; another goes on from
    /// where the database says.
    CutOff(u64),
}

fn plans() -> impl Strategy<Value = Plan> {
    let content =
        prop_oneof![12 => (0..3_i64).prop_map(Content::Good), 1 => Just(Content::Unstorable)];
    let version = || proptest::option::weighted(0.1, 1..4);
    let of_ride = (any::<bool>(), version(), 1..5_i64, content).prop_map(
        |(replace, expected_version, ride, content)| Sent::Ride {
            replace,
            expected_version: expected_version.filter(|_| replace),
            ride,
            content,
        },
    );
    let couriers = prop_oneof![2 => Just("c"), 1 => Just("1")];
    let of_courier =
        (version(), couriers, commands()).prop_map(|(expected_version, courier, command)| {
            Sent::Command {
                expected_version: expected_version
                    .filter(|_| !matches!(command, Command::Create(_))),
                courier,
                command,
            }
        });
    let sent = prop_oneof![2 => of_ride, 3 => of_courier];
    let chunks = proptest::collection::vec(proptest::collection::vec(sent, 0..7), 1..12);
    let disturbance = prop_oneof![
        3 => Just(Disturbance::None),
        1 => Just(Disturbance::Restart),
        1 => (0..8_000_u64).prop_map(Disturbance::CutOff),
    ];
    let batches = proptest::collection::vec((1..4_usize, disturbance), 16);
    let again = proptest::collection::vec((0..12_usize, 0..12_usize, any::<bool>()), 0..4);
    let late = proptest::collection::btree_set(0..30_usize, 0..3);
    let plan = (chunks, again, late, batches, any::<bool>());
    plan.prop_map(|(chunks, stored_again, late, batches, ride_events)| Plan {
        chunks,
        stored_again,
        late,
        batches,
        ride_events,
    })
}

fn commands() -> impl Strategy<Value = Command> {
    let name = || prop_oneof![9 => Just("Bob"), 9 => Just("Eve"), 1 => Just("\0")];
    let reference = || prop_oneof![9 => Just("r"), 9 => Just("s"), 1 => Just("\0")];
    let capacity = || proptest::option::of(0..6);
    prop_oneof![
        4 => (4..6).prop_map(create),
        1 => Just(delete()),
        2 => name().prop_map(rename),
        4 => (capacity(), capacity()).prop_map(|(max, available)| resize(max, available)),
        3 => (0..7).prop_map(set),
        6 => (1..4, reference()).prop_map(|(capacity, reference)| pickup(capacity, reference)),
        4 => (1..4, reference()).prop_map(|(capacity, reference)| dropoff(capacity, reference)),
    ]
}

impl Plan {
    /// The log: what it holds, in its order.
    fn log(&self, world: &World, partner_id: i32) -> Vec<(i64, Vec<Entry>)> {
        let entry = |sent: &Sent| match sent {
            Sent::Ride {
                replace,
                expected_version,
                ride: id,
                content,
            } => {
                let operation = match replace {
                    true => Operation::Replace,
                    false => Operation::Create,
                };
                let record = match content {
                    Content::Good(user_id) => Ride {
                        user_id: *user_id,
                        ..ride(*id)
                    },
                    Content::Unstorable => unstorable(*id),
                };
                Entry {
                    expected_version: *expected_version,
                    ..world.entry_of(partner_id, operation, record)
                }
            }
            Sent::Command {
                expected_version,
                courier,
                command,
            } => Entry {
                expected_version: *expected_version,
                ..world.command_of(partner_id, courier, command.clone())
            },
        };
        let chunks = self
            .chunks
            .iter()
            .map(|chunk| chunk.iter().map(entry).collect::<Vec<_>>());
        let mut log: Vec<_> = (0..)
            .zip(chunks)
            .map(|(at, chunk)| {
                (
                    if self.late.contains(&at) {
                        EXPIRED_US
                    } else {
                        0
                    },
                    chunk,
                )
            })
            .collect();
        for (which, after, late) in &self.stored_again {
            let which = which % log.len();
            let at = which + 1 + after % (log.len() - which);
            let chunk = log[which].1.clone();
            log.insert(at, (if *late { EXPIRED_US } else { 0 }, chunk));
        }
        log
    }
}

/// What should be in the tables, in the simplest words.
#[derive(Default, Debug)]
struct Model {
    ledger: BTreeMap<Uuid, LedgerRow>,
    rides: BTreeMap<i64, Stored>,
    couriers: Couriers,
    ride_events: bool,
    told: Vec<Event>,
}

#[derive(Clone, PartialEq, Debug)]
struct Stored {
    current: (Uuid, Ride),
    created: (Uuid, Ride),
    version: i32,
}

impl Model {
    fn apply(&mut self, late: bool, entry: &Entry) {
        let id = entry.tracking_id.uuid();
        if self.ledger.contains_key(&id) {
            return;
        }
        let row = match &entry.record {
            _ if late => failed("expired"),
            Record::Ride(ride) => self.applied(entry, ride),
            Record::Courier(command) => self.couriers.apply(entry, command, &mut self.told),
        };
        self.ledger.insert(id, row);
    }

    fn applied(&mut self, entry: &Entry, ride: &Ride) -> LedgerRow {
        let (id, operation) = (entry.tracking_id.uuid(), entry.operation);
        let present = self.rides.get(&ride.id).cloned();
        match (entry.expected_version, &present) {
            (Some(_), None) => return failed("not-found"),
            (Some(expected), Some(it)) if it.version != expected => {
                return failed("stale-version");
            }
            _ => {}
        }
        let same = present.as_ref().map(|it| match operation {
            Operation::Create => it.created.clone(),
            Operation::Replace => it.current.clone(),
            Operation::Command => panic!("not of a ride"),
        });
        match (present, same) {
            (_, Some((first, content))) if content == *ride => (2, None, None, Some(first)),
            (Some(_), _) if operation == Operation::Create => failed("conflict"),
            _ if ride.extra.is_some() => failed("unstorable"),
            (present, _) => {
                let action = if present.is_some() { 2 } else { 1 };
                let stored = Stored {
                    current: (id, ride.clone()),
                    version: present.as_ref().map_or(1, |it| it.version + 1),
                    created: present.map_or((id, ride.clone()), |it| it.created),
                };
                if self.ride_events {
                    let word = ["ride_created", "ride_replaced"][usize::from(stored.version > 1)];
                    let (resource, version) = (ride.id.to_string(), stored.version.into());
                    self.told.push((word.to_owned(), resource, version, None));
                }
                self.rides.insert(ride.id, stored);
                (1, Some(action), None, None)
            }
        }
    }
}

fn failed(code: &str) -> LedgerRow {
    (3, None, Some(code.to_owned()), None)
}

/// Applies the log in the plan's batches, through its disturbances.
async fn run(world: &mut World, plan: &Plan, log: &[(i64, Vec<Entry>)]) {
    world.ride_events = plan.ride_events;
    world.start_over().await;
    let mut batches = plan.batches.iter().cycle();
    while world.cursor.last_seq.unsigned_abs() < log.len() as u64 {
        let (chunks, disturbance) = *batches.next().unwrap();
        let batch = next_batch(world, log, chunks);
        match disturbance {
            Disturbance::None => {}
            Disturbance::Restart => world.restart(),
            Disturbance::CutOff(after_us) => {
                cut_off(world, &batch, Duration::from_micros(after_us)).await;
                continue;
            }
        }
        let applied = world.apply_batch(&batch).await.unwrap();
        assert_eq!(applied.last_seq, world.progress().await);
    }
}

fn next_batch(world: &World, log: &[(i64, Vec<Entry>)], chunks: usize) -> Batch {
    let stored = |(seq, (late_us, entries)): (u64, &(i64, Vec<Entry>))| -> LoggedChunk {
        logged(seq, *late_us, entries.clone())
    };
    let done = usize::try_from(world.cursor.last_seq).unwrap();
    world.batch_of((1..).zip(log).skip(done).take(chunks).map(stored).collect())
}

/// Lets the batch run for a while and drops it; a successor first makes sure that nobody else
/// writes, as a worker does, then reads the cursor.
async fn cut_off(world: &mut World, batch: &Batch, after: Duration) {
    let apply = world.applier.apply(&mut world.client, world.cursor, batch);
    match tokio::time::timeout(after, apply).await {
        Ok(result) => assert!(
            !matches!(result, Err(ApplyError::Installation(_))),
            "{result:?}"
        ),
        Err(_elapsed) => {}
    }
    world.restart();
    let successor = world.connect().await;
    let before = std::mem::replace(&mut world.client, successor);
    // Ends the transaction that was cut off, one way or the other.
    let _ = before.batch_execute("").await;
    drop(before);
    world.cursor = Cursor {
        last_seq: world.progress().await,
    };
}

async fn stored_rides(world: &World, partner_id: i32) -> BTreeMap<i64, (i64, Uuid, Uuid, i32)> {
    let sql =
        "select id, user_id, tracking_id, created_by, version from rides where partner_id = $1";
    let rows = world.client.query(sql, &[&partner_id]).await.unwrap();
    rows.iter()
        .map(|row| (row.get(0), (row.get(1), row.get(2), row.get(3), row.get(4))))
        .collect()
}

async fn stored_couriers(world: &World, partner_id: i32) -> BTreeMap<String, Row> {
    let sql = "select courier_id, name, max_capacity, available_capacity, version, tracking_id, \
               deleted_at is not null from couriers where partner_id = $1";
    let rows = world.client.query(sql, &[&partner_id]).await.unwrap();
    let row = |row: &tokio_postgres::Row| {
        (
            row.get(1),
            row.get(2),
            row.get(3),
            row.get(4),
            row.get(5),
            row.get(6),
        )
    };
    rows.iter().map(|it| (it.get(0), row(it))).collect()
}

async fn told(world: &World) -> Vec<Event> {
    let events = world.outbox().await.into_iter().map(|it| {
        let data = &it.body["data"];
        let subject = it.body["subject"].as_str().unwrap();
        let (_, resource) = subject.split_once('/').unwrap();
        let change = data["previous"].as_i64().zip(data["new"].as_i64());
        let version = data["version"].as_i64().unwrap();
        (it.event, resource.to_owned(), version, change)
    });
    events.collect()
}

#[test]
fn outcomes_of_any_interleaving_equal_a_simple_models() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let world = std::cell::RefCell::new(runtime.block_on(World::new()));
    let partners = std::cell::Cell::new(100);
    let mut runner = TestRunner::new(Config {
        cases: CASES,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    });
    let result = runner.run(&plans(), |plan| {
        // Each case has a partner of its own, so the rows of the others do not disturb it.
        partners.set(partners.get() + 1);
        let partner_id = partners.get();
        let world = &mut *world.borrow_mut();
        let log = plan.log(world, partner_id);
        let mut model = Model {
            ride_events: plan.ride_events,
            ..Model::default()
        };
        for (late_us, entries) in &log {
            entries
                .iter()
                .for_each(|entry| model.apply(*late_us > 0, entry));
        }
        let (ledger, rides, couriers, told) = runtime.block_on(async {
            run(world, &plan, &log).await;
            (
                world.ledger(partner_id).await,
                stored_rides(world, partner_id).await,
                stored_couriers(world, partner_id).await,
                told(world).await,
            )
        });
        prop_assert_eq!(ledger, model.ledger);
        prop_assert_eq!(couriers, model.couriers.rows());
        prop_assert_eq!(told, model.told);
        let expected = model.rides.into_iter().map(|(id, it)| {
            (
                id,
                (it.current.1.user_id, it.current.0, it.created.0, it.version),
            )
        });
        prop_assert_eq!(rides, expected.collect());
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
