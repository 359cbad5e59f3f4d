//! How fast batches go in.

use std::time::Instant;

use contract::{Entry, Ride};
use persist_worker::batch::{Batch, Path};

use super::world::{World, create, dropoff, logged, pickup, ride};

const BATCHES: u64 = 25;
const CHUNKS_PER_BATCH: u64 = 50;
const RECORDS_PER_CHUNK: u64 = 400;

/// A ride as real ones are: point to point, most members set.
fn booking(id: i64) -> Ride {
    // As many users as the real bookings have, in no order, and journeys of one month: an index
    // by them takes its entries all over.
    let spread = id.wrapping_mul(7_919);
    Ride {
        user_id: spread % 48_730 + 11,
        from_date_us: ride(id).from_date_us + spread % 43_200 * 60_000_000,
        from_area_id: Some(393),
        to_area_id: Some(83),
        from_lat: Some(13.199_56),
        from_long: Some(77.706_88),
        to_lat: Some(12.924_15),
        to_long: Some(77.672_29),
        online_booking: true,
        ..ride(id)
    }
}

fn batches(world: &World, make: &dyn Fn(&World, i64) -> Entry) -> Vec<Batch> {
    let chunk = |seq: u64| {
        let first = seq * RECORDS_PER_CHUNK;
        let ids = (first..first + RECORDS_PER_CHUNK).map(|id| id.cast_signed() + 1);
        logged(seq, 0, ids.map(|id| make(world, id)).collect())
    };
    let from = world.cursor.last_seq.unsigned_abs();
    (0..BATCHES)
        .map(|batch| {
            let first = from + 1 + batch * CHUNKS_PER_BATCH;
            world.batch_of((first..first + CHUNKS_PER_BATCH).map(chunk).collect())
        })
        .collect()
}

async fn measure(world: &mut World, what: &str, make: &dyn Fn(&World, i64) -> Entry, path: Path) {
    let batches = batches(world, make);
    let sql = "select pg_backend_pid()";
    let backend: i32 = world.client.query_one(sql, &[]).await.unwrap().get(0);
    let cpu = || [cpu_seconds("self"), cpu_seconds(&backend.to_string())];
    let before = cpu();
    let began = Instant::now();
    let mut records = 0;
    for batch in &batches {
        let applied = world.apply_batch(batch).await.unwrap();
        records += applied.outcomes.records();
        if batch.chunks[0].seq != batches[0].chunks[0].seq {
            assert_eq!(applied.path, path);
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let after = cpu();
    println!(
        "{what}: {records} records in {seconds:.2} s, {:.0} records/s; processor time {:.2} s here, {:.2} s in the server",
        records as f64 / seconds,
        after[0] - before[0],
        after[1] - before[1]
    );
}

/// Processor time of a process so far: what a busy machine does not distort.
fn cpu_seconds(pid: &str) -> f64 {
    /// `USER_HZ`, which Linux keeps at 100 for everybody.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks.map(|it| it.parse::<f64>().unwrap()).sum::<f64>() / TICKS_PER_SECOND
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "benchmark, run by hand: cargo test --release -p persist-worker --test it -- --ignored --nocapture batches_per_second"]
async fn batches_per_second() {
    let mut world = World::new().await;
    world
        .client
        .batch_execute("drop index rides_by_user")
        .await
        .unwrap();
    measure(
        &mut world,
        "creates without the index by user",
        &|world, id| world.create(booking(id)),
        Path::Fast,
    )
    .await;
    let mut world = World::new().await;
    measure(
        &mut world,
        "creates",
        &|world, id| world.create(booking(id)),
        Path::Fast,
    )
    .await;
    // From here on the sequence goes on, and with it the ids: look back at the first ones.
    let back = (BATCHES * CHUNKS_PER_BATCH * RECORDS_PER_CHUNK).cast_signed();
    let resend = move |world: &World, id: i64| world.create(booking(id - back));
    measure(&mut world, "resends", &resend, Path::Careful).await;
    let replace = move |world: &World, id: i64| {
        world.replace(Ride {
            user_id: 99,
            ..booking(id - 2 * back)
        })
    };
    world.applier = persist_worker::apply::Applier::new(super::world::PARTITION, false);
    measure(&mut world, "replacements", &replace, Path::Careful).await;
}

const COURIERS: i64 = 500;

/// A movement of one of a few couriers that fits as often as not, after their creation.
fn movement(world: &World, id: i64) -> Entry {
    let courier = (id % COURIERS).to_string();
    match id {
        1..=COURIERS => world.command(&courier, create(1_000)),
        _ if id % 3 == 0 => world.command(&courier, dropoff(1, &id.to_string())),
        _ => world.command(&courier, pickup(1, &id.to_string())),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "benchmark, run by hand: cargo test --release -p persist-worker --test it -- --ignored --nocapture batches_with_couriers"]
async fn batches_with_couriers_per_second() {
    let mut world = World::new().await;
    measure(&mut world, "commands", &movement, Path::Fast).await;
    let mut world = World::new().await;
    let mixed = |world: &World, id: i64| match id % 5 {
        0 => movement(world, id / 5 + 1),
        _ => world.create(booking(id)),
    };
    measure(&mut world, "four rides to a command", &mixed, Path::Fast).await;
}
