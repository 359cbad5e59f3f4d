//! What becomes of commands to couriers.

use contract::Entry;
use contract::courier::{Command, CourierCreate, CourierUpdate, TextPatch};
use contract::outcome::FailureCode;
use persist_worker::batch::{Outcomes, Path};
use uuid::Uuid;

use super::world::{
    DELETED, PARTNER, UPDATED, World, create, delete, dropoff, expecting, logged, pickup, rename,
    resize, ride, set,
};

mod rejected;

/// Version, max and available capacity, whether it is deleted.
type Courier = (i32, i32, i32, bool);

async fn courier(world: &World, id: &str) -> Option<Courier> {
    let sql = "select version, max_capacity, available_capacity, deleted_at is not null \
               from couriers where partner_id = $1 and courier_id = $2";
    let row = world.client.query_opt(sql, &[&PARTNER, &id]).await.unwrap();
    row.map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
}

async fn duplicate_of(world: &World, entry: &Entry) -> Option<Uuid> {
    world.ledger(PARTNER).await[&entry.tracking_id.uuid()].3
}

#[tokio::test]
async fn a_couriers_life_over_both_paths() {
    for path in [Path::Fast, Path::Careful] {
        let mut world = World::new().await;
        if path == Path::Careful {
            turn_careful(&mut world).await;
        }
        let made = world.command("c", create(60));
        let applied = world.apply(vec![vec![made.clone()]]).await.unwrap();
        assert_eq!((applied.path, applied.outcomes.created), (path, 1));
        assert_eq!(courier(&world, "c").await, Some((1, 60, 60, false)));

        let loaded = world.command("c", pickup(20, "a"));
        let again = world.command("c", pickup(20, "a"));
        let unloaded = world.command("c", dropoff(5, "a"));
        let smaller = world.command("c", resize(Some(50), None));
        let entries = [&loaded, &again, &unloaded, &smaller].map(Clone::clone);
        let applied = world.apply(vec![entries.to_vec()]).await.unwrap();
        let expected = Outcomes {
            updated: 3,
            duplicate: 1,
            ..Outcomes::default()
        };
        assert_eq!((applied.path, applied.outcomes), (path, expected));
        // 15 litres are in use still.
        assert_eq!(courier(&world, "c").await, Some((4, 50, 35, false)));
        assert_eq!(world.outcome(&loaded).await, UPDATED);
        let first = Some(loaded.tracking_id.uuid());
        assert_eq!(duplicate_of(&world, &again).await, first);

        let gone = world.command("c", delete());
        let late = [set(1), create(61), create(60), pickup(20, "a"), delete()]
            .map(|command| world.command("c", command));
        let mut entries = vec![gone.clone()];
        entries.extend(late.clone());
        world.apply(vec![entries]).await.unwrap();
        assert_eq!(courier(&world, "c").await, Some((5, 50, 35, true)));
        assert_eq!(world.outcome(&gone).await, DELETED);
        for refused in [&late[0], &late[1], &late[4]] {
            let (code, detail) = world.failure(refused).await;
            assert_eq!(code, "deleted");
            let by = gone.tracking_id;
            let expected =
                format!("courier c was deleted by request {by}, and its id is not used again");
            assert_eq!(detail, expected);
        }
        // A resend learns the truth, also of what is gone.
        let made = Some(made.tracking_id.uuid());
        assert_eq!(duplicate_of(&world, &late[2]).await, made);
        assert_eq!(duplicate_of(&world, &late[3]).await, first);
    }
}

/// Makes the applier look first from now on.
async fn turn_careful(world: &mut World) {
    let rides = |world: &World| vec![vec![world.create(ride(900))]];
    let first = rides(world);
    world.apply(first).await.unwrap();
    let resent = rides(world);
    assert_eq!(world.apply(resent).await.unwrap().path, Path::Careful);
}

#[tokio::test]
async fn a_condition_holds_for_one_of_two() {
    let mut world = World::new().await;
    let made = world.command("c", create(60));
    world.apply(vec![vec![made]]).await.unwrap();
    let first = expecting(1, world.command("c", pickup(40, "a")));
    let second = expecting(1, world.command("c", pickup(40, "b")));
    let chunk = vec![first.clone(), second.clone()];
    world.apply(vec![chunk]).await.unwrap();
    assert_eq!(world.outcome(&first).await, UPDATED);
    assert_eq!(world.failure(&second).await.0, "stale-version");
    // The condition does not keep a resend from the truth.
    let resent = expecting(1, world.command("c", pickup(40, "a")));
    world.apply(vec![vec![resent.clone()]]).await.unwrap();
    let duplicate_of = duplicate_of(&world, &resent).await;
    assert_eq!(duplicate_of, Some(first.tracking_id.uuid()));
}

#[tokio::test]
async fn what_changes_nothing_is_a_duplicate_of_what_made_it_so() {
    let mut world = World::new().await;
    let made = world.command("c", create(60));
    let moved = world.command("c", set(30));
    let idle = [
        set(30),
        rename("Ada"),
        resize(Some(60), Some(30)),
        rename("Ada"),
    ]
    .map(|command| world.command("c", command));
    world.apply(vec![vec![made, moved.clone()]]).await.unwrap();
    let applied = world.apply(vec![idle.to_vec()]).await.unwrap();
    assert_eq!(applied.outcomes.duplicate, 4);
    for entry in &idle {
        let of = duplicate_of(&world, entry).await;
        assert_eq!(of, Some(moved.tracking_id.uuid()));
    }
    assert_eq!(courier(&world, "c").await, Some((2, 60, 30, false)));
    assert_eq!(world.outbox().await.len(), 2);
}

#[tokio::test]
async fn a_chunk_stored_twice_moves_nothing_twice() {
    let mut world = World::new().await;
    let made = world.command("c", create(60));
    let chunk = vec![
        world.command("c", set(50)),
        world.command("c", resize(Some(70), None)),
        world.create(ride(1)),
        world.command("c", pickup(7, "a")),
    ];
    world.apply(vec![vec![made.clone()]]).await.unwrap();
    let applied = world
        .apply(vec![chunk.clone(), chunk.clone()])
        .await
        .unwrap();
    assert_eq!((applied.path, applied.outcomes.repeated), (Path::Fast, 4));
    let state = courier(&world, "c").await;
    assert_eq!(state, Some((4, 70, 53, false)));
    let told = world.outbox().await.len();

    // Commands alone: no ride's key is in the way, only the ledger's.
    let commands = vec![chunk[0].clone(), chunk[3].clone()];
    for (again, refused) in [(commands.clone(), true), (chunk, false), (commands, false)] {
        let applied = world.apply(vec![again.clone()]).await.unwrap();
        assert_eq!(applied.path, Path::Careful);
        assert_eq!(applied.outcomes.repeated, again.len() as u64);
        assert_eq!(applied.outcomes.records(), 0);
        assert_eq!(
            courier(&world, "c").await,
            state,
            "refused first: {refused}"
        );
        assert_eq!(world.outbox().await.len(), told);
    }
    // Late the second time, its first time stands.
    world.restart();
    let next = world.cursor.last_seq.unsigned_abs() + 1;
    let late = logged(next, 10_000_001, vec![made, world.command("c", delete())]);
    let applied = world
        .apply_batch(&world.batch_of(vec![late]))
        .await
        .unwrap();
    assert_eq!(applied.outcomes.repeated, 1);
    assert_eq!(applied.outcomes.failed.of(FailureCode::Expired), 1);
    assert_eq!(courier(&world, "c").await, state);
}

#[tokio::test]
async fn a_late_chunk_moves_nothing() {
    let mut world = World::new().await;
    let (in_time, late) = (
        world.command("c", create(60)),
        world.command("c", pickup(60, "a")),
    );
    let after = world.command("c", pickup(60, "a"));
    let batch = world.batch_of(vec![
        logged(1, 10_000_000, vec![in_time]),
        logged(2, 10_000_001, vec![late.clone()]),
        logged(3, 0, vec![after.clone()]),
    ]);
    world.apply_batch(&batch).await.unwrap();
    assert_eq!(world.failure(&late).await.0, "expired");
    assert_eq!(world.outcome(&after).await, UPDATED);
}

#[tokio::test]
async fn every_column_is_as_it_was_sent_and_a_patch_finds_every_digit() {
    let mut world = World::new().await;
    let attributes = r#"{"e":1e400,"n":12345678901234567890.50,"z":{"ü":[1.0,null]}}"#;
    let made = world.command(
        "ü 😀",
        Command::Create(CourierCreate {
            name: "Ada".to_owned(),
            max_capacity: i32::MAX,
            available_capacity: Some(0),
            vehicle_type: Some("van".to_owned()),
            phone: Some("+91 80".to_owned()),
            attributes: Some(attributes.to_owned()),
        }),
    );
    world.apply(vec![vec![made.clone()]]).await.unwrap();
    let patch = |attributes: &str, vehicle_type: Option<&str>| {
        Command::Update(CourierUpdate {
            vehicle_type: Some(TextPatch {
                value: vehicle_type.map(str::to_owned),
            }),
            attributes: Some(attributes.to_owned()),
            ..CourierUpdate::default()
        })
    };
    let select = "select name, max_capacity, available_capacity, vehicle_type, phone, \
                  attributes::text, tracking_id, created_by, created_hash, version, \
                  created_at = updated_at from couriers where courier_id = 'ü 😀'";
    let row = world.client.query_one(select, &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "Ada");
    assert_eq!((row.get::<_, i32>(1), row.get::<_, i32>(2)), (i32::MAX, 0));
    assert_eq!(row.get::<_, Option<&str>>(3), Some("van"));
    assert_eq!(row.get::<_, Option<&str>>(4), Some("+91 80"));
    assert_eq!(row.get::<_, Option<&str>>(5), Some(attributes));
    assert_eq!(row.get::<_, Uuid>(6), made.tracking_id.uuid());
    let hash = contract::ContentHash::of(&made.record).get();
    assert_eq!((row.get::<_, i64>(8), row.get::<_, bool>(10)), (hash, true));

    // The same numbers, as they were written, in a later batch: nothing changes but what is named.
    let same = world.command("ü 😀", patch(r#"{"e":1e400,"q":null}"#, Some("van")));
    let mut changed = world.command("ü 😀", patch(r#"{"e":null,"z":{"a":-0.0}}"#, None));
    changed.tracking_id = world.mint(super::world::NOW_MS + 1_000);
    world
        .apply(vec![vec![same.clone(), changed.clone()]])
        .await
        .unwrap();
    assert_eq!(world.outcome(&same).await, (2, None));
    let row = world.client.query_one(select, &[]).await.unwrap();
    let expected = r#"{"n":12345678901234567890.50,"z":{"a":-0.0,"ü":[1.0,null]}}"#;
    assert_eq!(row.get::<_, Option<&str>>(5), Some(expected));
    assert_eq!(row.get::<_, Option<&str>>(3), None);
    assert_eq!(row.get::<_, Uuid>(6), changed.tracking_id.uuid());
    assert_eq!(row.get::<_, Uuid>(7), made.tracking_id.uuid());
    assert_eq!((row.get::<_, i32>(9), row.get::<_, bool>(10)), (2, false));

    let sql = "set role weir_reader; select * from couriers_readable; reset role";
    world.client.batch_execute(sql).await.unwrap();
    let sql = "select kind, action from requests_readable where tracking_id = $1";
    let id = changed.tracking_id.uuid();
    let row = world.client.query_one(sql, &[&id]).await.unwrap();
    assert_eq!(
        (row.get::<_, &str>(0), row.get::<_, &str>(1)),
        ("courier", "updated")
    );
}

#[tokio::test]
async fn what_a_courier_is_passes_through_a_batch() {
    let mut world = World::new().await;
    for (id, path) in [("c", Path::Fast), ("d", Path::Careful)] {
        let made = Command::Create(CourierCreate {
            name: "Ada".to_owned(),
            max_capacity: 60,
            attributes: Some(r#"{"a":1}"#.to_owned()),
            ..CourierCreate::default()
        });
        let commands = [made, pickup(9, "a"), dropoff(8, "a"), set(7)];
        let chunk = commands.map(|command| world.command(id, command)).to_vec();
        let applied = world.apply(vec![chunk]).await.unwrap();
        assert_eq!(applied.path, path);
        let sql = "select attributes::text, available_capacity from couriers where courier_id = $1";
        let row = world.client.query_one(sql, &[&id]).await.unwrap();
        assert_eq!((row.get(0), row.get(1)), (r#"{"a":1}"#, 7));
        turn_careful(&mut world).await;
    }
}

#[tokio::test]
async fn couriers_of_partners_and_rides_of_the_same_number_do_not_meet() {
    let mut world = World::new().await;
    let entries = vec![
        world.command("7", create(60)),
        world.command_of(2, "7", create(40)),
        world.create(ride(7)),
        world.command_of(2, "7", pickup(40, "a")),
        world.command("7", pickup(40, "a")),
    ];
    let applied = world.apply(vec![entries.clone()]).await.unwrap();
    assert_eq!((applied.outcomes.created, applied.outcomes.updated), (3, 2));
    let applied = world.apply(vec![entries]).await.unwrap();
    assert_eq!(applied.outcomes.repeated, 5);
    assert_eq!(courier(&world, "7").await, Some((2, 60, 20, false)));
}

#[tokio::test]
async fn a_courier_of_a_newer_build_holds_the_partition_until_its_record_is_a_repeated_one() {
    let mut world = World::new().await;
    let made = world.command("c", create(60));
    world.apply(vec![vec![made.clone()]]).await.unwrap();
    let sql = "update couriers set created_hash = 2::int8 << 60";
    world.client.batch_execute(sql).await.unwrap();
    // Its outcome is known, so that nothing has to be compared.
    let applied = world.apply(vec![vec![made]]).await.unwrap();
    assert_eq!(
        (applied.path, applied.outcomes.repeated),
        (Path::Careful, 1)
    );
    let other = world.command("c", create(60));
    let error = world.apply(vec![vec![other]]).await.unwrap_err();
    let unknown = matches!(
        error,
        persist_worker::batch::ApplyError::UnknownHashVersion { log_seq: 3, .. }
    );
    assert!(unknown, "{error:?}");
}
