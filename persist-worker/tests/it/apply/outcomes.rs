//! What becomes of creates, replacements, resends, late and double-stored chunks.

use contract::Ride;
use contract::outcome::FailureCode;
use persist_worker::batch::{ApplyError, InstallationFault, Outcomes, Path};

use super::world::{CREATED, PARTITION, PARTNER, REPLACED, World, logged, ride};

fn changed(id: i64) -> Ride {
    Ride {
        user_id: 99,
        ..ride(id)
    }
}

#[tokio::test]
async fn resends_conflicts_and_replacements_across_batches() {
    let mut world = World::new().await;
    let first = world.create(ride(1));
    let applied = world.apply(vec![vec![first.clone()]]).await.unwrap();
    assert_eq!(applied.path, Path::Fast);
    assert_eq!(world.outcome(&first).await, CREATED);

    let (resent, conflicting) = (world.create(ride(1)), world.create(changed(1)));
    let (replacing, again) = (world.replace(changed(1)), world.replace(changed(1)));
    let (original, new) = (world.create(ride(1)), world.replace(ride(2)));
    let entries = [&resent, &conflicting, &replacing, &again, &original, &new];
    let applied = world
        .apply(vec![entries.map(Clone::clone).to_vec()])
        .await
        .unwrap();
    assert_eq!(applied.path, Path::Careful);
    let expected = Outcomes {
        created: 1,
        replaced: 1,
        duplicate: 3,
        failed: [(FailureCode::Conflict, 1)].into_iter().collect(),
        ..Outcomes::default()
    };
    assert_eq!(applied.outcomes, expected);

    let ledger = world.ledger(PARTNER).await;
    let duplicate_of = |id: &contract::Entry| (2, None, None, Some(id.tracking_id.uuid()));
    assert_eq!(ledger[&resent.tracking_id.uuid()], duplicate_of(&first));
    assert_eq!(ledger[&again.tracking_id.uuid()], duplicate_of(&replacing));
    assert_eq!(ledger[&original.tracking_id.uuid()], duplicate_of(&first));
    let conflict = (3, None, Some("conflict".to_owned()), None);
    assert_eq!(ledger[&conflicting.tracking_id.uuid()], conflict);
    assert_eq!(world.outcome(&replacing).await, REPLACED);
    assert_eq!(world.outcome(&new).await, CREATED);

    let sql = "select user_id, version, created_by, tracking_id, created_at < updated_at + '1 s' \
               from rides where id = 1";
    let row = world.client.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i32>(1)), (99, 2));
    assert_eq!(row.get::<_, uuid::Uuid>(2), first.tracking_id.uuid());
    assert_eq!(row.get::<_, uuid::Uuid>(3), replacing.tracking_id.uuid());
}

#[tokio::test]
async fn a_failed_fast_path_is_followed_by_careful_batches_and_then_tried_again() {
    let mut world = World::new().await;
    let resend = |world: &World| vec![vec![world.create(ride(1))]];
    let chunks = resend(&world);
    assert_eq!(world.apply(chunks).await.unwrap().path, Path::Fast);
    let chunks = resend(&world);
    assert_eq!(world.apply(chunks).await.unwrap().path, Path::Careful);
    let mut careful = 0;
    for id in 2.. {
        let chunks = vec![vec![world.create(ride(id))]];
        if world.apply(chunks).await.unwrap().path == Path::Fast {
            break;
        }
        careful += 1;
    }
    assert_eq!(careful, 15);
}

#[tokio::test]
async fn a_chunk_stored_twice_is_applied_once() {
    let mut world = World::new().await;
    let entries = vec![world.create(ride(1)), world.replace(ride(2))];
    let twice = vec![entries.clone(), entries.clone()];
    let applied = world.apply(twice).await.unwrap();
    assert_eq!((applied.path, applied.outcomes.repeated), (Path::Fast, 2));
    let before = world.ledger(PARTNER).await;
    let applied = world.apply(vec![entries, vec![]]).await.unwrap();
    assert_eq!(applied.outcomes.repeated, 2);
    assert_eq!(applied.outcomes.records(), 0);
    assert_eq!(world.ledger(PARTNER).await, before);
    assert_eq!(world.progress().await, 4);
}

#[tokio::test]
async fn a_late_chunk_applies_nothing_and_says_so() {
    let mut world = World::new().await;
    let (in_time, late) = (world.create(ride(1)), world.replace(changed(1)));
    let batch = world.batch_of(vec![
        logged(1, 10_000_000, vec![in_time.clone()]),
        logged(2, 10_000_001, vec![late.clone(), in_time.clone()]),
    ]);
    let applied = world.apply_batch(&batch).await.unwrap();
    assert_eq!(
        (
            applied.outcomes.created,
            applied.outcomes.failed.of(FailureCode::Expired)
        ),
        (1, 1)
    );
    let sql = "select code, detail from requests where tracking_id = $1";
    let row = world
        .client
        .query_one(sql, &[&late.tracking_id.uuid()])
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "expired");
    assert!(row.get::<_, &str>(1).contains("10 s"), "{row:?}");
    assert_eq!(world.outcome(&in_time).await, CREATED);
}

#[tokio::test]
async fn the_watermark_follows_the_smaller_clock_and_never_turns_back() {
    let mut world = World::new().await;
    let publish_by_us = logged(1, 0, vec![]).chunk.header.publish_by_us;
    for (seq, late_us, expected) in [(1, -9, -9), (2, 7, 0), (3, -5, 0)] {
        let batch = world.batch_of(vec![logged(seq, late_us, vec![])]);
        let applied = world.apply_batch(&batch).await.unwrap();
        assert_eq!(applied.committed_to_us, publish_by_us + expected);
        assert_eq!(applied.copies, 0);
        assert_eq!(
            applied.last_message_id,
            batch.chunks[0].chunk.header.chunk_id
        );
    }
    let sql = "select extract(epoch from committed_to)::numeric * 1000000 = $1::int8::numeric \
               from progress where partition = $2";
    let partition = i32::from(PARTITION.0);
    let row = world
        .client
        .query_one(sql, &[&publish_by_us, &partition])
        .await
        .unwrap();
    assert!(row.get::<_, bool>(0));
}

#[tokio::test]
async fn one_tracking_id_for_two_records_stops_the_partition() {
    let mut world = World::new().await;
    let first = world.create(ride(1));
    world.apply(vec![vec![first.clone()]]).await.unwrap();
    let mut second = world.create(ride(2));
    second.tracking_id = first.tracking_id;
    let error = world.apply(vec![vec![second]]).await.unwrap_err();
    assert!(
        matches!(
            error,
            ApplyError::Installation(InstallationFault::TrackingIdReused { log_seq: 2, .. })
        ),
        "{error:?}"
    );
    assert_eq!(world.progress().await, 1);
    assert_eq!(world.count("rides").await, 1);
}
