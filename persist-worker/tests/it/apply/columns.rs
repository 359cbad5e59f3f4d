//! What is stored equals what was sent, column by column.

use contract::{ContentHash, Entry, Record, Ride};
use tokio_postgres::Row;
use uuid::Uuid;

use super::world::{NOW_MS, PARTNER, World, ride};

/// Every optional member set, at the edges of what its column holds.
fn full(id: i64) -> Ride {
    Ride {
        id,
        user_id: i64::MIN,
        vehicle_model_id: i32::MAX,
        package_id: Some(7),
        travel_type_id: 3,
        from_area_id: Some(i32::MIN),
        to_area_id: Some(0),
        from_city_id: Some(-1),
        to_city_id: Some(1),
        from_date_us: 253_402_300_799_999_999,
        to_date_us: Some(-62_135_596_800_000_000),
        online_booking: true,
        mobile_site_booking: true,
        booking_created_us: -1,
        from_lat: Some(12.924_15),
        from_long: Some(-0.0),
        to_lat: Some(f64::MIN_POSITIVE),
        to_long: Some(-179.999_999_999_999_97),
        car_cancellation: true,
        extra: Some(r#"{"n":[1e400,"ü😀",null],"z":{"":true}}"#.to_owned()),
    }
}

/// Coordinates without the other half, and only false and null otherwise.
fn sparse(id: i64) -> Ride {
    Ride {
        to_long: Some(77.732_2),
        to_date_us: Some(1_356_979_500_000_001),
        extra: Some("{}".to_owned()),
        ..ride(id)
    }
}

const SELECT: &str = "select *, \
    (extract(epoch from from_date) * 1000000)::int8 as from_us, \
    (extract(epoch from to_date) * 1000000)::int8 as to_us, \
    (extract(epoch from booking_created) * 1000000)::int8 as booked_us, \
    (extract(epoch from created_at) * 1000)::int8 as created_ms, \
    (extract(epoch from updated_at) * 1000)::int8 as updated_ms, \
    extra::text as extra_text from rides where partner_id = $1 and id = $2";

fn as_stored(row: &Row) -> Ride {
    Ride {
        id: row.get("id"),
        user_id: row.get("user_id"),
        vehicle_model_id: row.get("vehicle_model_id"),
        package_id: row.get("package_id"),
        travel_type_id: row.get("travel_type_id"),
        from_area_id: row.get("from_area_id"),
        to_area_id: row.get("to_area_id"),
        from_city_id: row.get("from_city_id"),
        to_city_id: row.get("to_city_id"),
        from_date_us: row.get("from_us"),
        to_date_us: row.get("to_us"),
        online_booking: row.get("online_booking"),
        mobile_site_booking: row.get("mobile_site_booking"),
        booking_created_us: row.get("booked_us"),
        from_lat: row.get("from_lat"),
        from_long: row.get("from_long"),
        to_lat: row.get("to_lat"),
        to_long: row.get("to_long"),
        car_cancellation: row.get("car_cancellation"),
        extra: row.get("extra_text"),
    }
}

/// jsonb has its own spelling of a document; everything else comes back to the bit.
async fn assert_stored(world: &World, entry: &Entry, created_by: &Entry, version: i32) {
    let Record::Ride(sent) = &entry.record else {
        panic!("a ride")
    };
    let row = world
        .client
        .query_one(SELECT, &[&PARTNER, &sent.id])
        .await
        .unwrap();
    let stored = as_stored(&row);
    let same_json: bool = world
        .client
        .query_one(
            "select $1::text::jsonb is not distinct from $2::text::jsonb",
            &[&sent.extra, &stored.extra],
        )
        .await
        .unwrap()
        .get(0);
    assert!(
        same_json,
        "{:?} is stored as {:?}",
        sent.extra, stored.extra
    );
    let signs = |ride: &Ride| {
        [ride.from_lat, ride.from_long, ride.to_lat, ride.to_long].map(|it| it.map(f64::to_bits))
    };
    assert_eq!(signs(&stored), signs(sent));
    assert_eq!(
        stored,
        Ride {
            extra: stored.extra.clone(),
            ..sent.clone()
        }
    );

    let hash = |entry: &Entry| ContentHash::of(&entry.record).get();
    assert_eq!(row.get::<_, i32>("partner_id"), PARTNER);
    assert_eq!(row.get::<_, Uuid>("tracking_id"), entry.tracking_id.uuid());
    assert_eq!(row.get::<_, i64>("content_hash"), hash(entry));
    assert_eq!(
        row.get::<_, Uuid>("created_by"),
        created_by.tracking_id.uuid()
    );
    assert_eq!(row.get::<_, i64>("created_hash"), hash(created_by));
    assert_eq!(row.get::<_, i32>("version"), version);
    let ms = |entry: &Entry| entry.tracking_id.unix_ms().cast_signed();
    assert_eq!(row.get::<_, i64>("created_ms"), ms(created_by));
    assert_eq!(row.get::<_, i64>("updated_ms"), ms(entry));
}

#[tokio::test]
async fn both_paths_store_every_column_as_it_was_sent() {
    let mut world = World::new().await;
    let fast = [full(1), sparse(2), ride(3)].map(|ride| world.create(ride));
    world.apply(vec![fast.to_vec()]).await.unwrap();
    for entry in &fast {
        assert_stored(&world, entry, entry, 1).await;
    }

    // The other way round, one second later: every column changes, to null and from null.
    let mut careful =
        [sparse(1), full(2), full(3), full(4), sparse(5)].map(|ride| world.replace(ride));
    for entry in &mut careful {
        entry.tracking_id = world.mint(NOW_MS + 1_000);
    }
    let applied = world.apply(vec![careful.to_vec()]).await.unwrap();
    assert_eq!(
        (applied.outcomes.replaced, applied.outcomes.created),
        (3, 2)
    );
    for (entry, created_by) in careful.iter().zip(&fast) {
        assert_stored(&world, entry, created_by, 2).await;
    }
    for entry in &careful[3..] {
        assert_stored(&world, entry, entry, 1).await;
    }
}

#[tokio::test]
async fn the_ledger_says_where_the_log_had_the_record_and_people_can_read_it() {
    let mut world = World::new().await;
    let entries = vec![world.create(ride(1)), world.create(full(2))];
    world.apply(vec![vec![], entries.clone()]).await.unwrap();
    let sql = "select kind, resource_id, log_seq, log_index, content_hash, \
               completed_at between now() - interval '1 minute' and now() from requests \
               where tracking_id = $1";
    let row = world
        .client
        .query_one(sql, &[&entries[1].tracking_id.uuid()])
        .await
        .unwrap();
    assert_eq!((row.get::<_, i16>(0), row.get::<_, &str>(1)), (1, "2"));
    assert_eq!((row.get::<_, i64>(2), row.get::<_, i32>(3)), (2, 1));
    assert_eq!(
        row.get::<_, i64>(4),
        ContentHash::of(&entries[1].record).get()
    );
    assert!(row.get::<_, bool>(5));

    let sql = "select kind, outcome, action, extract(epoch from accepted_at)::float8, \
               tracking_id >= weir_tracking_id_at(accepted_at) from requests_readable limit 1";
    let row = world.client.query_one(sql, &[]).await.unwrap();
    let words: (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(words, ("ride", "persisted", "created"));
    assert_eq!(row.get::<_, f64>(3), NOW_MS as f64 / 1_000.0);
    assert!(row.get::<_, bool>(4));
    let sql = "set role weir_reader; select travel_type from rides_readable; \
               select * from status_progress; select * from status_requests; reset role";
    world.client.batch_execute(sql).await.unwrap();
    // The rest of what a reader may not: devstack's it::privileges.
    let sql = "set role weir_reader; select from rides";
    assert!(world.client.batch_execute(sql).await.is_err());
}
