//! Outcomes of any interleaving of creates, replacements, resends, double-stored chunks and
//! restarts equal a simple model's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use contract::{Entry, Operation, Record, Ride};
use persist_worker::apply::Applier;
use persist_worker::batch::{ApplyError, Batch, Cursor, LoggedChunk};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use uuid::Uuid;

use super::world::{LedgerRow, PARTITION, World, logged, ride, unstorable};

const CASES: u32 = 64;
const EXPIRED_US: i64 = 10_000_001;

/// A record before it has an id. Few rides and contents, so that they meet often.
#[derive(Clone, Debug)]
struct Sent {
    replace: bool,
    ride: i64,
    content: Content,
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
    let sent = (any::<bool>(), 1..5_i64, content).prop_map(|(replace, ride, content)| Sent {
        replace,
        ride,
        content,
    });
    let chunks = proptest::collection::vec(proptest::collection::vec(sent, 0..7), 1..12);
    let disturbance = prop_oneof![
        3 => Just(Disturbance::None),
        1 => Just(Disturbance::Restart),
        1 => (0..8_000_u64).prop_map(Disturbance::CutOff),
    ];
    let batches = proptest::collection::vec((1..4_usize, disturbance), 16);
    let again = proptest::collection::vec((0..12_usize, 0..12_usize, any::<bool>()), 0..4);
    let late = proptest::collection::btree_set(0..30_usize, 0..3);
    (chunks, again, late, batches).prop_map(|(chunks, stored_again, late, batches)| Plan {
        chunks,
        stored_again,
        late,
        batches,
    })
}

impl Plan {
    /// The log: what it holds, in its order.
    fn log(&self, world: &World, partner_id: i32) -> Vec<(i64, Vec<Entry>)> {
        let entry = |sent: &Sent| {
            let operation = if sent.replace {
                Operation::Replace
            } else {
                Operation::Create
            };
            let record = match sent.content {
                Content::Good(user_id) => Ride {
                    user_id,
                    ..ride(sent.ride)
                },
                Content::Unstorable => unstorable(sent.ride),
            };
            world.entry_of(partner_id, operation, record)
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
        let Record::Ride(ride) = &entry.record else {
            panic!("a ride")
        };
        let row = if late {
            failed("expired")
        } else {
            self.applied(id, ride, entry.operation)
        };
        self.ledger.insert(id, row);
    }

    fn applied(&mut self, id: Uuid, ride: &Ride, operation: Operation) -> LedgerRow {
        let present = self.rides.get(&ride.id).cloned();
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
    world.start_over().await;
    let mut batches = plan.batches.iter().cycle();
    while world.cursor.last_seq.unsigned_abs() < log.len() as u64 {
        let (chunks, disturbance) = *batches.next().unwrap();
        let batch = next_batch(world, log, chunks);
        match disturbance {
            Disturbance::None => {}
            Disturbance::Restart => world.applier = Applier::new(PARTITION, false),
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
    world.applier = Applier::new(PARTITION, false);
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
        let mut model = Model::default();
        for (late_us, entries) in &log {
            entries
                .iter()
                .for_each(|entry| model.apply(*late_us > 0, entry));
        }
        let (ledger, rides) = runtime.block_on(async {
            run(world, &plan, &log).await;
            (
                world.ledger(partner_id).await,
                stored_rides(world, partner_id).await,
            )
        });
        prop_assert_eq!(ledger, model.ledger);
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
