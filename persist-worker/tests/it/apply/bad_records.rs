//! Records that the database cannot hold: exactly those fail, and a flood of them holds.

use std::collections::BTreeSet;

use contract::outcome::FailureCode;
use contract::{Entry, Ride};
use persist_worker::batch::{ApplyError, Path};

use super::world::{CREATED, PARTNER, World, create, delete, pickup, ride, unstorable};

/// Four ways to be refused: no NUL in jsonb, no JSON at all, and instants out of range.
fn bad(id: i64) -> Ride {
    match id % 4 {
        0 => unstorable(id),
        1 => Ride {
            extra: Some("{".to_owned()),
            ..ride(id)
        },
        2 => Ride {
            from_date_us: i64::MIN,
            ..ride(id)
        },
        _ => Ride {
            to_date_us: Some(-210_866_803_200_000_001),
            ..ride(id)
        },
    }
}

#[tokio::test]
async fn exactly_the_bad_ones_fail_and_the_others_are_stored() {
    let mut world = World::new().await;
    let bad_ids = BTreeSet::from([1, 2, 3, 500, 501, 777, 1_000]);
    let entries: Vec<Entry> = (1..=1_000)
        .map(|id| {
            world.create(if bad_ids.contains(&id) {
                bad(id)
            } else {
                ride(id)
            })
        })
        .collect();
    let chunks = entries.chunks(300).map(<[Entry]>::to_vec).collect();
    let applied = world.apply(chunks).await.unwrap();
    assert_eq!(applied.path, Path::Careful);
    assert_eq!(
        (
            applied.outcomes.created,
            applied.outcomes.failed.of(FailureCode::Unstorable)
        ),
        (993, 7)
    );

    let ledger = world.ledger(PARTNER).await;
    for (id, entry) in (1..).zip(&entries) {
        let row = &ledger[&entry.tracking_id.uuid()];
        if bad_ids.contains(&id) {
            assert_eq!(*row, (3, None, Some("unstorable".to_owned()), None));
        } else {
            assert_eq!((row.0, row.1), CREATED);
        }
    }
    assert_eq!(world.count("rides").await, 993);
    let sql = "select detail from requests where code = 'unstorable' and resource_id = '500'";
    let detail: String = world.client.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(
        detail,
        "ride 500 cannot be stored: it contains a character that the database cannot hold \
         (SQLSTATE 22P05)"
    );
}

#[tokio::test]
async fn what_a_bad_record_stood_in_front_of_comes_into_effect() {
    let mut world = World::new().await;
    // Refused: the create, then the one that the first refusal let through.
    let chain = [
        bad(4),
        bad(4),
        Ride {
            user_id: 5,
            ..bad(4)
        },
        ride(4),
        ride(4),
    ];
    let entries: Vec<_> = chain.into_iter().map(|ride| world.create(ride)).collect();
    let applied = world.apply(vec![entries.clone()]).await.unwrap();
    assert_eq!(applied.outcomes.failed.of(FailureCode::Unstorable), 3);
    assert_eq!(world.outcome(&entries[3]).await, CREATED);
    let resent = &world.ledger(PARTNER).await[&entries[4].tracking_id.uuid()];
    assert_eq!(resent.3, Some(entries[3].tracking_id.uuid()));
}

#[tokio::test]
async fn a_bad_record_that_is_replaced_in_its_own_batch_is_found_all_the_same() {
    let mut world = World::new().await;
    for id in [8, 16] {
        let (first, second) = (world.create(bad(id)), world.replace(ride(id)));
        let mut chunk = vec![first.clone(), second.clone()];
        if id == 16 {
            chunk.push(world.command("c", create(1)));
        }
        world.restart();
        let applied = world.apply(vec![chunk]).await.unwrap();
        assert_eq!(applied.path, Path::Careful);
        assert_eq!(world.outcome(&first).await, (3, None));
        assert_eq!(world.outcome(&second).await, CREATED);
    }
}

/// No gateway lets a NUL through, but others may have written the log.
#[tokio::test]
async fn a_courier_that_the_database_cannot_even_be_asked_for_fails_alone() {
    let mut world = World::new().await;
    let made = world.command("c\0", create(60));
    let moved = world.command("c\0", pickup(1, "a"));
    let deleted = world.command("c\0", delete());
    let fine = world.command("c", create(60));
    let chunk = vec![made.clone(), moved.clone(), deleted.clone(), fine.clone()];
    let applied = world.apply(vec![chunk.clone()]).await.unwrap();
    assert_eq!(applied.path, Path::Careful);
    assert_eq!(world.outcome(&fine).await, CREATED);
    let (code, detail) = world.failure(&made).await;
    assert_eq!(code, "unstorable");
    assert_eq!(
        detail,
        "courier c\u{fffd} cannot be stored: it contains a character that the database cannot hold \
         (SQLSTATE 22021)"
    );
    for entry in [&moved, &deleted] {
        let (code, detail) = world.failure(entry).await;
        assert_eq!(code, "not-found");
        assert!(detail.contains("courier c\u{fffd} "), "{detail}");
    }
    let named = "requests where resource_id = U&'c\\fffd'";
    assert_eq!(world.count(named).await, 3);

    // Stored twice by the log, they are known again.
    let applied = world.apply(vec![chunk]).await.unwrap();
    assert_eq!(applied.outcomes.repeated, 4);
}

#[tokio::test]
async fn a_constraint_of_somebody_elses_is_a_records_fault_too() {
    let mut world = World::new().await;
    let sql = "alter table rides add check (user_id <> 666)";
    world.client.batch_execute(sql).await.unwrap();
    let entries = vec![
        world.create(ride(1)),
        world.create(Ride {
            user_id: 666,
            ..ride(2)
        }),
    ];
    let applied = world.apply(vec![entries]).await.unwrap();
    assert_eq!(
        (
            applied.outcomes.created,
            applied.outcomes.failed.of(FailureCode::Unstorable)
        ),
        (1, 1)
    );
}

#[tokio::test]
async fn a_hundred_bad_records_in_a_row_hold_the_partition() {
    let mut world = World::new().await;
    let bad_ones = |world: &World, ids: std::ops::Range<i64>| -> Vec<Entry> {
        ids.map(|id| world.create(bad(id))).collect()
    };
    let ninety_nine = bad_ones(&world, 1_000..1_099);
    let applied = world.apply(vec![ninety_nine]).await.unwrap();
    assert_eq!(applied.outcomes.failed.of(FailureCode::Unstorable), 99);
    // The hundredth is the first of the next batch.
    let next = vec![bad_ones(&world, 1_099..1_100), vec![world.create(ride(1))]];
    let error = world.apply(next).await.unwrap_err();
    assert!(
        matches!(
            &error,
            ApplyError::TooManyBad {
                in_a_row: 100,
                log_seq: 2,
                log_index: 0,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(world.progress().await, 1);
    assert_eq!(world.count("requests").await, 99);

    // A good one in between, and it is the records after all.
    let next = vec![vec![world.create(ride(1))], bad_ones(&world, 2_000..2_099)];
    assert_eq!(
        world
            .apply(next)
            .await
            .unwrap()
            .outcomes
            .failed
            .of(FailureCode::Unstorable),
        99
    );
}

#[tokio::test]
async fn every_second_record_bad_ends_within_a_transactions_time() {
    let mut world = World::new().await;
    let entry = |id| {
        world.create(if id % 2 == 0 {
            unstorable(id)
        } else {
            ride(id)
        })
    };
    let entries: Vec<_> = (1..=1_000).map(entry).collect();
    let applied = world.apply(vec![entries]).await.unwrap();
    assert_eq!(
        (
            applied.outcomes.created,
            applied.outcomes.failed.of(FailureCode::Unstorable)
        ),
        (500, 500)
    );
}
