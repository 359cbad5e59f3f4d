//! The ledger's day partitions.

use std::time::Duration;

use contract::Entry;
use devstack::eventually::eventually;
use jiff::civil::date;
use persist_worker::ledger::{LedgerError, ensure_day_partitions, move_default_rows};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::world::{NOW_MS, PARTNER, World, ride};

/// Longest that a lock may take to be waited for on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const DAY_MS: u64 = 86_400_000;

/// Records of these days before (the last day of the calendar: 9999-12-30 and later has none).
fn entries(world: &World, instants_ms: &[u64]) -> Vec<Entry> {
    let entry = |(id, ms): (i64, &u64)| {
        let mut entry = world.create(ride(id));
        entry.tracking_id = super::world::minter().mint(PARTNER, super::world::PARTITION, *ms);
        entry
    };
    (1..).zip(instants_ms).map(entry).collect()
}

async fn rows_in(world: &World, table: &str) -> i64 {
    world.count(&format!("only {table}")).await
}

#[tokio::test]
async fn a_row_of_an_unforeseen_day_is_kept_and_moved_where_it_belongs() {
    let mut world = World::new().await;
    let beyond_the_calendar = (1 << 48) - 1;
    let instants = [
        0,
        NOW_MS,
        NOW_MS + 30 * DAY_MS,
        NOW_MS + 30 * DAY_MS + 1,
        NOW_MS + 400 * DAY_MS,
        beyond_the_calendar,
    ];
    let entries = entries(&world, &instants);
    let applied = world.apply(vec![entries.clone()]).await.unwrap();
    assert_eq!(applied.outcomes.created, 6);
    assert_eq!(rows_in(&world, "requests_default").await, 5);
    let before = world.ledger(PARTNER).await;
    assert_eq!(before.len(), 6);

    assert_eq!(move_default_rows(&mut world.client).await.unwrap(), 4);
    assert_eq!(world.ledger(PARTNER).await, before);
    assert_eq!(rows_in(&world, "requests_default").await, 1);
    assert_eq!(rows_in(&world, "requests_19700101").await, 1);
    assert_eq!(rows_in(&world, "requests_20261220").await, 2);
    assert_eq!(rows_in(&world, "requests_20271225").await, 1);
    assert_eq!(move_default_rows(&mut world.client).await.unwrap(), 0);

    // Whoever comes to such a day later finds it, and a resend still meets its first row.
    let applied = world.apply(vec![entries]).await.unwrap();
    assert_eq!(applied.outcomes.repeated, 6);
}

#[tokio::test]
async fn days_are_made_once_whoever_comes_first_and_with_rows_already_waiting() {
    let mut world = World::new().await;
    let waiting = entries(&world, &[NOW_MS + 3 * DAY_MS]);
    world.apply(vec![waiting]).await.unwrap();
    let today = date(2026, 11, 20);
    let (first, second) = (world.connect().await, world.connect().await);
    let (one, two) = tokio::join!(
        ensure_day_partitions(&first, today, 7),
        ensure_day_partitions(&second, today, 7)
    );
    // 20 and 21 were there; each of the six others was made by one of the two or by both in turn.
    assert!((6..=12).contains(&(one.unwrap() + two.unwrap())));
    assert_eq!(ensure_day_partitions(&first, today, 7).await.unwrap(), 0);
    assert_eq!(rows_in(&world, "requests_default").await, 0);
    assert_eq!(rows_in(&world, "requests_20261123").await, 1);
    let sql = "select count(*) from pg_inherits where inhparent = 'requests'::regclass";
    let partitions: i64 = world.client.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(partitions, 9);
}

#[tokio::test]
async fn rows_that_arrive_while_their_day_is_made_are_never_lost() {
    let mut world = World::new().await;
    let mut mover = world.connect().await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let moving = tokio::spawn(async move {
        let mut moved = 0;
        while stopped.try_recv().is_err() {
            moved += move_default_rows(&mut mover).await.unwrap();
        }
        moved + move_default_rows(&mut mover).await.unwrap()
    });
    let mut written = Vec::new();
    for batch in 0..40_u64 {
        let chunk: Vec<_> = (0..50_i64)
            .map(|i| {
                let mut entry = world.create(ride(i + 1 + 50 * batch.cast_signed()));
                entry.tracking_id = world.mint(NOW_MS + (10 + batch) * DAY_MS);
                entry
            })
            .collect();
        written.extend(chunk.iter().map(|entry| entry.tracking_id.uuid()));
        // The day may become a partition while its rows are on their way to the default one: such
        // a batch is tried again, as the worker's loop does.
        let batch = world.batch(vec![chunk]);
        while let Err(error) = world.apply_batch(&batch).await {
            let transient = matches!(error, persist_worker::batch::ApplyError::Transient { .. });
            assert!(transient, "{error:?}");
        }
    }
    stop.send(()).unwrap();
    moving.await.unwrap();
    assert_eq!(rows_in(&world, "requests_default").await, 0);
    let ledger = world.ledger(PARTNER).await;
    assert!(written.iter().all(|id| ledger.contains_key(id)));
    assert_eq!(ledger.len(), written.len());
}

/// Waits until as many backends wait for a lock with such a statement. Never asked within a
/// transaction: there the server's activity is what it was at the first look.
async fn until_waiting(observer: &Client, query: &str, backends: i64, or: impl Fn() -> bool) {
    let waited = eventually(PATIENCE, || async {
        (waiting(observer, query).await >= backends || or()).then_some(())
    });
    waited.await.expect("the backends wait");
}

/// How many backends wait for a lock with such a statement.
async fn waiting(observer: &Client, query: &str) -> i64 {
    let sql = "select count(*) from pg_stat_activity \
               where wait_event_type = 'Lock' and query like $1";
    observer.query_one(sql, &[&query]).await.unwrap().get(0)
}

/// The mover is stopped right before it attaches, so that readers queue up behind it: with the
/// partitions as they were in their plans, they would look where the rows are not any more.
#[tokio::test]
async fn a_reader_that_waits_while_its_row_moves_finds_it() {
    const READERS: i64 = 4;
    let mut world = World::new().await;
    let entries = entries(&world, &[NOW_MS + 30 * DAY_MS]);
    world.apply(vec![entries.clone()]).await.unwrap();
    let id = entries[0].tracking_id.uuid();

    let stopper = world.connect().await;
    let at_the_default = "begin; lock table requests_default in access share mode";
    stopper.batch_execute(at_the_default).await.unwrap();
    let mut mover = world.connect().await;
    let moving = tokio::spawn(async move {
        // Busy when the readers below take longer than a lock is waited for.
        while let Err(error) = move_default_rows(&mut mover).await {
            assert!(matches!(error, LedgerError::Busy(_)), "{error:?}");
        }
    });
    until_waiting(&world.client, "%weir_move_day%", 1, || false).await;
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let reader = world.connect().await;
        readers.push(tokio::spawn(async move {
            let sql = "select from requests where tracking_id = $1";
            let found = reader.query_typed(sql, &[(&id, Type::UUID)]).await;
            found.unwrap().len()
        }));
    }
    // Each waits, or the mover gave way to it.
    let gave_way = || readers.iter().any(JoinHandle::is_finished);
    let reading = "select from requests where%";
    until_waiting(&world.client, reading, READERS, gave_way).await;
    stopper.batch_execute("commit").await.unwrap();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), 1);
    }
    moving.await.unwrap();
    assert_eq!(rows_in(&world, "requests_20261220").await, 1);
}

/// Days are made every day, with readers in the middle of whatever they do.
#[tokio::test]
async fn a_day_without_rows_is_made_while_the_ledger_is_being_read_and_written() {
    let world = World::new().await;
    let busy = world.connect().await;
    busy.batch_execute(
        "begin; lock table only requests in row exclusive mode; \
         select from requests_20261120",
    )
    .await
    .unwrap();
    let made = ensure_day_partitions(&world.client, date(2026, 11, 20), 7).await;
    assert_eq!(made.unwrap(), 6);
    busy.batch_execute("commit").await.unwrap();
}

/// The server itself tells such a row that it does not belong into the default partition any more,
/// as a check violation: it must not end as the record's fault.
#[tokio::test]
async fn a_day_made_while_its_row_waits_at_the_default_partition_is_nobodys_fault() {
    let mut world = World::new().await;
    let batch = world.batch(vec![entries(&world, &[NOW_MS + 5 * DAY_MS])]);
    let other = world.connect().await;
    other
        .batch_execute("begin; lock table requests_default in share row exclusive mode")
        .await
        .unwrap();
    let observer = world.connect().await;
    let attached = async {
        until_waiting(&observer, "copy requests%", 1, || false).await;
        let attach = "create table requests_20261125 (like requests including all); \
                      alter table requests attach partition requests_20261125 for values \
                      from (weir_tracking_id_at('2026-11-25Z')) \
                      to (weir_tracking_id_at('2026-11-26Z')); commit";
        other.batch_execute(attach).await.unwrap();
    };
    let cursor = world.cursor;
    let (applied, ()) = tokio::join!(
        world.applier.apply(&mut world.client, cursor, &batch),
        attached
    );
    let error = applied.unwrap_err();
    let transient = matches!(
        &error,
        persist_worker::batch::ApplyError::Transient { reason, .. } if reason.contains("23514")
    );
    assert!(transient, "{error:?}");
    let applied = world.apply_batch(&batch).await.unwrap();
    assert_eq!(applied.outcomes.created, 1);
    assert_eq!(rows_in(&world, "requests_20261125").await, 1);
}
