//! The temporary tables of a writer's connection: made once, and made again when they are gone.

use contract::outcome::FailureCode;
use contract::{Entry, Ride};
use persist_worker::batch::{ApplyError, Cursor, InstallationFault, Path};

use super::world::{CREATED, World, create, pickup, ride, set};

/// What a batch of one command may write ahead; the tables' definitions alone would be four times
/// as much.
const WAL_BYTES_MAX: i64 = 8 * 1024;

const BATCHES: i64 = 9;

/// The usual batch's WAL. Not the most: a page that is changed for the first time since a checkpoint
/// is written as a whole.
async fn median_wal_bytes(world: &mut World, make: &dyn Fn(&World, i64) -> Entry) -> (Path, i64) {
    let mut bytes = Vec::new();
    let mut path = None;
    for batch in 0..BATCHES {
        let entry = make(world, batch);
        let before = wal(world).await;
        let applied = world.apply(vec![vec![entry]]).await.unwrap();
        bytes.push(wal(world).await - before);
        let path = *path.get_or_insert(applied.path);
        assert_eq!(applied.path, path);
    }
    bytes.sort_unstable();
    (path.unwrap(), bytes[bytes.len() / 2])
}

async fn wal(world: &World) -> i64 {
    let sql = "select (pg_current_wal_insert_lsn() - '0/0')::int8";
    world.client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn temporary_tables(world: &World) -> Vec<(String, u32)> {
    let sql = "select relname::text, oid from pg_class \
               where relnamespace = pg_my_temp_schema() and relkind = 'r' order by 1";
    let rows = world.client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn a_batch_of_one_record_writes_little() {
    let mut world = World::new().await;
    let first = world.command("7", create(100));
    world.apply(vec![vec![first]]).await.unwrap();
    let change = |world: &World, n: i64| match n % 2 {
        0 => world.command("7", set(i32::try_from(n).unwrap())),
        _ => world.command("7", pickup(1, &n.to_string())),
    };
    let (path, bytes) = median_wal_bytes(&mut world, &change).await;
    assert_eq!(path, Path::Fast);
    assert!(bytes < WAL_BYTES_MAX, "{bytes}");

    for _ in 0..2 {
        let again = world.create(ride(1));
        world.apply(vec![vec![again]]).await.unwrap();
    }
    let replace = |world: &World, user_id| world.replace(Ride { user_id, ..ride(1) });
    let (path, bytes) = median_wal_bytes(&mut world, &replace).await;
    assert_eq!(path, Path::Careful);
    assert!(bytes < WAL_BYTES_MAX, "{bytes}");
}

#[tokio::test]
async fn new_rides_need_no_temporary_table_and_others_make_theirs_once() {
    let mut world = World::new().await;
    for id in 1..=3 {
        let new = world.create(ride(id));
        world.apply(vec![vec![new]]).await.unwrap();
    }
    assert_eq!(temporary_tables(&world).await, []);
    let mut seen = Vec::new();
    for round in 0..3 {
        let command = world.command("7", create(round));
        world.apply(vec![vec![command]]).await.unwrap();
        let resend = world.create(ride(1));
        world.apply(vec![vec![resend]]).await.unwrap();
        world.restart();
        seen.push(temporary_tables(&world).await);
        for (table, _) in &seen[0] {
            assert_eq!(world.count(table).await, 0, "{table}");
        }
    }
    let names: Vec<_> = seen[0].iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["incoming", "staged_couriers", "staged_rides"]);
    assert!(seen.iter().all(|it| *it == seen[0]), "{seen:?}");
}

#[tokio::test]
async fn what_a_rollback_takes_back_is_made_again() {
    let mut world = World::new().await;
    let ahead = Cursor { last_seq: 7 };
    let batch = world.batch(vec![vec![world.command("7", create(1))]]);
    let apply = world.applier.apply(&mut world.client, ahead, &batch);
    let error = apply.await.unwrap_err();
    assert!(matches!(error, ApplyError::CursorMoved { .. }), "{error:?}");
    assert_eq!(temporary_tables(&world).await, []);
    assert_eq!(world.apply_batch(&batch).await.unwrap().path, Path::Fast);

    // The rides come first on the fast path and meet their key; the courier was to follow.
    let mut other = World::new().await;
    let new = other.create(ride(1));
    other.apply(vec![vec![new]]).await.unwrap();
    let mixed = vec![other.create(ride(1)), other.command("7", create(1))];
    let command = mixed[1].clone();
    let applied = other.apply(vec![mixed]).await.unwrap();
    assert_eq!(applied.path, Path::Careful);
    assert_eq!(other.outcome(&command).await, CREATED);
}

/// The staging tables are as the tables were: the partition is held, which ends the connection, and
/// the next one knows the constraint.
#[tokio::test]
async fn a_constraint_of_somebody_elses_is_learnt_with_the_next_connection() {
    let mut world = World::new().await;
    let first = world.command("7", create(100));
    world.apply(vec![vec![first]]).await.unwrap();
    let sql = "alter table couriers add check (available_capacity <> 66)";
    world.client.batch_execute(sql).await.unwrap();
    let batch = world.batch(vec![vec![world.command("7", set(66))]]);
    let error = world.apply_batch(&batch).await.unwrap_err();
    let held = matches!(
        error,
        ApplyError::Installation(InstallationFault::Rows {
            table: "couriers",
            ..
        })
    );
    assert!(held, "{error:?}");
    world.client = world.connect().await;
    let applied = world.apply_batch(&batch).await.unwrap();
    assert_eq!(applied.outcomes.failed.of(FailureCode::Unstorable), 1);
}
