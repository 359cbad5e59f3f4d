//! Resources that are changed only at a version.

use contract::Ride;
use contract::outcome::FailureCode;
use persist_worker::batch::Path;

use super::world::{DELETED, REPLACED, World, create, delete, expecting, pickup, ride, set};

fn of_user(user_id: i64) -> Ride {
    Ride { user_id, ..ride(1) }
}

#[tokio::test]
async fn a_conditional_replacement_meets_the_version_that_is_there() {
    let mut world = World::new().await;
    let first = world.create(of_user(1));
    world.apply(vec![vec![first.clone()]]).await.unwrap();

    // Nothing in the batch itself says that there is such a ride, or another version.
    let fits = expecting(1, world.replace(of_user(2)));
    let applied = world.apply(vec![vec![fits.clone()]]).await.unwrap();
    assert_eq!(applied.path, Path::Careful);
    assert_eq!(world.outcome(&fits).await, REPLACED);

    let stale = expecting(1, world.replace(of_user(3)));
    let same_but_stale = expecting(1, world.replace(of_user(2)));
    let same = expecting(2, world.replace(of_user(2)));
    let absent = expecting(1, world.replace(ride(2)));
    let entries = [&stale, &same_but_stale, &same, &absent].map(Clone::clone);
    let applied = world.apply(vec![entries.to_vec()]).await.unwrap();
    assert_eq!(applied.path, Path::Careful);
    assert_eq!(applied.outcomes.failed.of(FailureCode::StaleVersion), 2);
    let (code, detail) = world.failure(&stale).await;
    assert_eq!(code, "stale-version");
    let expected = format!(
        "ride 1 was expected to have version 1 and has version 2, made by request {}; unless that \
         is yours, read it again before deciding anew",
        fits.tracking_id
    );
    assert_eq!(detail, expected);
    assert_eq!(world.failure(&same_but_stale).await.0, "stale-version");
    let duplicate_of = world.ledger(1).await[&same.tracking_id.uuid()].3;
    assert_eq!(duplicate_of, Some(fits.tracking_id.uuid()));
    assert_eq!(world.failure(&absent).await.0, "not-found");
    assert_eq!(world.count("rides").await, 1);
}

/// Who lost an answer and sends again finds their own change named, and others the one they missed.
#[tokio::test]
async fn whoever_comes_late_learns_which_command_was_before() {
    let mut world = World::new().await;
    let made = world.command("c", create(60));
    let changed = expecting(1, world.command("c", set(30)));
    let again = expecting(1, world.command("c", set(30)));
    let deleted = world.command("c", delete());
    let first = vec![made, changed.clone(), again.clone(), deleted.clone()];
    world.apply(vec![first]).await.unwrap();
    assert_eq!(world.outcome(&deleted).await, DELETED);
    let late = [create(61), set(1), pickup(1, "a"), delete()];
    let late = late.map(|command| world.command("c", command));
    world.apply(vec![late.to_vec()]).await.unwrap();

    let (code, detail) = world.failure(&again).await;
    assert_eq!(code, "stale-version");
    let by = format!("version 2, made by request {};", changed.tracking_id);
    assert!(detail.contains(&by), "{detail}");
    for entry in late {
        let by = deleted.tracking_id;
        let detail = format!("courier c was deleted by request {by}, and its id is not used again");
        let expected = ("deleted".to_owned(), detail);
        assert_eq!(world.failure(&entry).await, expected);
    }
}

/// A condition says nothing of what others send: they stay on the fast path.
#[tokio::test]
async fn a_condition_turns_only_its_own_batch() {
    let mut world = World::new().await;
    let absent = expecting(1, world.replace(ride(9)));
    let applied = world.apply(vec![vec![absent]]).await.unwrap();
    assert_eq!(applied.path, Path::Careful);
    let new = world.create(ride(1));
    let applied = world.apply(vec![vec![new]]).await.unwrap();
    assert_eq!(applied.path, Path::Fast);
}

#[tokio::test]
async fn one_id_with_and_without_a_condition_is_two_records() {
    let mut world = World::new().await;
    let one = world.replace(ride(1));
    let other = expecting(1, one.clone());
    let error = world.apply(vec![vec![one, other]]).await.unwrap_err();
    let reused = matches!(
        error,
        persist_worker::batch::ApplyError::Installation(
            persist_worker::batch::InstallationFault::TrackingIdReused { .. }
        )
    );
    assert!(reused, "{error:?}");
}
