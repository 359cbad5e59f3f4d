//! What a batch costs, as seen on the wire between driver and server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use contract::Entry;
use persist_worker::batch::Path;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::world::{World, connect, create, pickup, rename, ride, set};

/// Messages from the driver by their type: `Q` a simple query, `E` an execution of a prepared
/// statement, `c` the end of a COPY, `d` its data.
type Sent = Arc<Mutex<BTreeMap<char, u64>>>;

/// Puts itself between a connection and the server, and counts.
async fn counted(world: &World) -> (tokio_postgres::Client, Sent) {
    let url = world.postgres.database_url();
    let config: tokio_postgres::Config = url.parse().unwrap();
    let server = config.get_ports()[0];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let between = listener.local_addr().unwrap().port();
    let sent = Sent::default();
    let counts = Arc::clone(&sent);
    tokio::spawn(async move {
        let (driver, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
        let (from_driver, mut to_driver) = driver.into_split();
        let (mut from_server, to_server) = server.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_driver).await });
        forward(from_driver, to_server, &counts).await;
    });
    let url = url.replace(&format!(":{server}/"), &format!(":{between}/"));
    let client = connect(&url).await;
    sent.lock().unwrap().clear();
    (client, sent)
}

async fn forward(mut driver: OwnedReadHalf, mut server: OwnedWriteHalf, sent: &Sent) {
    // The first message has no type.
    let mut kind = None;
    loop {
        let Ok(length) = driver.read_u32().await else {
            return;
        };
        let mut body = vec![0; length as usize - 4];
        driver.read_exact(&mut body).await.unwrap();
        if let Some(kind) = kind {
            server.write_u8(kind).await.unwrap();
        }
        server.write_u32(length).await.unwrap();
        server.write_all(&body).await.unwrap();
        let Ok(next) = driver.read_u8().await else {
            return;
        };
        *sent.lock().unwrap().entry(char::from(next)).or_default() += 1;
        kind = Some(next);
    }
}

const BATCHES: u64 = 5;

/// Applies [`BATCHES`] of so many records and returns what went over the wire.
async fn cost(
    world: &mut World,
    sent: &Sent,
    make: &dyn Fn(&World, i64) -> Entry,
    records: i64,
) -> BTreeMap<char, u64> {
    sent.lock().unwrap().clear();
    for batch in 0..BATCHES.cast_signed() {
        let ids = (1..=records).map(|id| id + batch * records + records * 10_000);
        let entries = ids.map(|id| make(world, id)).collect();
        world.apply(vec![entries]).await.unwrap();
    }
    let mut cost = std::mem::take(&mut *sent.lock().unwrap());
    // Data comes in frames, and statements are closed when the driver gets round to it.
    cost.retain(|kind, _| "QEcf".contains(*kind));
    cost
}

#[tokio::test]
async fn the_fast_path_makes_two_copies_a_batch_and_no_statement_per_row() {
    let mut world = World::new().await;
    let (client, sent) = counted(&world).await;
    world.client = client;
    let create = |world: &World, id| world.create(ride(id));
    let few = cost(&mut world, &sent, &create, 1).await;
    let many = cost(&mut world, &sent, &create, 2_000).await;
    assert_eq!(few, many);
    // Begin and commit; the cursor and two COPYs.
    assert_eq!(many[&'Q'], 2 * BATCHES);
    assert_eq!(many[&'E'], 3 * BATCHES);
    assert_eq!(many[&'c'], 2 * BATCHES);
    assert_eq!(world.count("rides").await, 2_001 * BATCHES.cast_signed());
}

#[tokio::test]
async fn the_careful_path_costs_the_same_for_one_record_and_for_thousands() {
    let mut world = World::new().await;
    let (client, sent) = counted(&world).await;
    world.client = client;
    let create = |world: &World, id| world.create(ride(id));
    for records in [1, 2_000] {
        cost(&mut world, &sent, &create, records).await;
    }
    // All of them again: the first batch learns that on the fast path, and does not count.
    let resend = vec![vec![world.create(ride(10_001))]];
    world.apply(resend).await.unwrap();
    let replace = |world: &World, id| {
        world.replace(contract::Ride {
            user_id: 1,
            ..ride(id)
        })
    };
    let few = cost(&mut world, &sent, &replace, 1).await;
    let many = cost(&mut world, &sent, &replace, 2_000).await;
    assert_eq!(few, many);
    assert_eq!(many[&'c'], 3 * BATCHES);
    assert_eq!(
        world.count("rides where version = 2").await,
        2_001 * BATCHES.cast_signed()
    );
}

#[tokio::test]
async fn what_applied_says_of_its_cost_is_what_it_cost() {
    let mut world = World::new().await;
    let entries = |world: &World| vec![vec![world.create(ride(1)), world.create(ride(2))]];
    let first = entries(&world);
    let fast = world.apply(first).await.unwrap();
    assert_eq!((fast.copies, fast.round_trips), (2, 7));
    let second = entries(&world);
    let careful = world.apply(second).await.unwrap();
    // Nothing is written, so nothing is staged.
    assert_eq!((careful.copies, careful.round_trips), (2, 8));
    let third = vec![vec![world.replace(contract::Ride {
        user_id: 1,
        ..ride(1)
    })]];
    let careful = world.apply(third).await.unwrap();
    assert_eq!((careful.copies, careful.round_trips), (3, 12));
}

/// Ten records of a kind each: what is new, what is resent, what conflicts, what is rejected.
fn mixed(world: &World, id: i64) -> Entry {
    let courier = &*((id - 1) / 10).to_string();
    let command = |command| world.command(courier, command);
    match (id - 1) % 10 {
        0 => command(create(60)),
        1 => command(pickup(20, "a")),
        2 => command(pickup(20, "a")),
        3 => command(pickup(21, "a")),
        4 => command(pickup(50, "b")),
        5 => command(create(61)),
        6 => world.command("nobody", set(1)),
        7 => command(rename("Bob")),
        8 => world.create(ride(id)),
        _ => command(set(7)),
    }
}

fn rejected(world: &World, id: i64) -> Entry {
    world.command(&id.to_string(), pickup(1, "a"))
}

#[tokio::test]
async fn a_mixed_batch_costs_the_same_whatever_the_number_of_records_and_rejections() {
    let mut world = World::new().await;
    let (client, sent) = counted(&world).await;
    world.client = client;
    let few = cost(&mut world, &sent, &mixed, 10).await;
    let many = cost(&mut world, &sent, &mixed, 1_000).await;
    assert_eq!(few, many);
    // Begin, staging table, two merges and commit; the cursor, two look-ups and four COPYs.
    assert_eq!(many[&'Q'], 5 * BATCHES);
    assert_eq!(many[&'E'], 7 * BATCHES);
    assert_eq!(many[&'c'], 4 * BATCHES);
    let couriers = "couriers where version = 4 and available_capacity = 7";
    assert_eq!(world.count(couriers).await, 101 * BATCHES.cast_signed());
    let few = cost(&mut world, &sent, &rejected, 10).await;
    assert_eq!(few, cost(&mut world, &sent, &rejected, 1_000).await);

    // All of them again, and others: the first batch learns that on the fast path.
    let resend = vec![vec![world.create(ride(100_009))]];
    world.apply(resend).await.unwrap();
    let careful = |world: &World, id| match (id - 1) % 10 {
        // One of those that are there, with other content; the next time it is there.
        8 => world.replace(contract::Ride {
            user_id: 2,
            ..ride(id)
        }),
        _ => mixed(world, id + 1_000_000_000),
    };
    let few = cost(&mut world, &sent, &careful, 10).await;
    let many = cost(&mut world, &sent, &careful, 1_000).await;
    assert_eq!(few, many);
    assert_eq!(many[&'c'], 5 * BATCHES);
    let rides = "rides where version = 2";
    assert_eq!(world.count(rides).await, 101 * BATCHES.cast_signed());
}

#[tokio::test]
async fn what_applied_says_of_a_mixed_batch_is_the_same_for_ten_and_a_thousand() {
    let mut world = World::new().await;
    let mut from = 0;
    for (path, copies, round_trips) in [(Path::Fast, 4, 12), (Path::Careful, 5, 16)] {
        for records in [10, 1_000] {
            let entries = (from + 1..=from + records).map(|id| mixed(&world, id));
            let chunk = entries.collect();
            from += records;
            let applied = world.apply(vec![chunk]).await.unwrap();
            assert_eq!(applied.path, path);
            let cost = (applied.copies, applied.round_trips);
            assert_eq!(cost, (copies, round_trips), "{records} records");
        }
        // Look first from now on.
        let resend = vec![vec![world.create(ride(9))]];
        world.apply(resend).await.unwrap();
    }
}

async fn whole_reads(world: &World) -> i64 {
    let sql = "select pg_stat_force_next_flush()";
    world.client.query_one(sql, &[]).await.unwrap();
    let sql = "select sum(seq_scan)::int8 from pg_stat_user_tables \
               where relname in ('couriers', 'courier_movements')";
    world.client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn couriers_and_references_are_found_by_their_keys_however_many_are_asked_for() {
    let mut world = World::new().await;
    let sql = "insert into couriers select 9, i::text, 'Ada', 9, 9, null, null, null, uuidv7(), \
                 uuidv7(), 1, 1, now(), now(), null from generate_series(1, 20000) i; \
               insert into courier_movements select 9, i::text, 1, 'a', 1, uuidv7() \
                 from generate_series(1, 20000) i";
    world.client.batch_execute(sql).await.unwrap();
    for analyze in ["", "analyze couriers; analyze courier_movements"] {
        world.client.batch_execute(analyze).await.unwrap();
        let before = whole_reads(&world).await;
        for (first, last) in [(1, 1), (2, 10_000)] {
            let ids = first..=last;
            let entries = ids.map(|id| world.command_of(9, &id.to_string(), pickup(1, "a")));
            let chunk = entries.collect();
            let applied = world.apply(vec![chunk]).await.unwrap();
            assert_eq!(applied.outcomes.duplicate, applied.outcomes.records());
        }
        assert_eq!(whole_reads(&world).await, before, "{analyze}");
    }
}
