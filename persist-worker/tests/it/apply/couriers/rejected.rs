//! Commands that are rejected, or that the database refuses: each fails alone.

use contract::Entry;
use contract::courier::{Command, CourierCreate, CourierUpdate};
use contract::outcome::FailureCode;
use persist_worker::batch::Path;

use super::courier;
use crate::apply::world::{
    CREATED, UPDATED, World, create, delete, dropoff, pickup, rename, resize, ride, set, unstorable,
};

/// Courier, expected version, command; code, and what its sentence names.
type Case = (
    &'static str,
    Option<i32>,
    Command,
    &'static str,
    [&'static str; 2],
);

#[tokio::test]
async fn every_rejection_has_its_code_and_names_both_numbers() {
    let mut world = World::new().await;
    let before = vec![
        world.command("c", create(60)),
        world.command("c", pickup(15, "a")),
    ];
    world.apply(vec![before]).await.unwrap();
    let oversized = |bytes: usize| {
        Command::Update(CourierUpdate {
            attributes: Some(format!(r#"{{"a":"{}"}}"#, "x".repeat(bytes - 8))),
            ..CourierUpdate::default()
        })
    };
    let cases: [Case; 12] = [
        (
            "c",
            None,
            create(61),
            "conflict",
            ["other content", "PATCH"],
        ),
        ("d", None, set(1), "not-found", ["courier d", "create it"]),
        (
            "c",
            None,
            pickup(16, "a"),
            "conflict",
            ["15 litres", "16 litres"],
        ),
        (
            "c",
            Some(1),
            set(1),
            "stale-version",
            ["version 1", "version 2"],
        ),
        (
            "c",
            None,
            resize(Some(14), None),
            "capacity-in-use",
            ["14 litres", "15 litres"],
        ),
        (
            "c",
            None,
            resize(None, Some(61)),
            "over-capacity",
            ["61 litres", "60 litres"],
        ),
        (
            "c",
            None,
            resize(Some(9), Some(10)),
            "over-capacity",
            ["10 litres", "9 litres"],
        ),
        (
            "c",
            None,
            set(61),
            "over-capacity",
            ["61 litres", "60 litres"],
        ),
        (
            "c",
            None,
            pickup(46, "b"),
            "insufficient-capacity",
            ["46 litres", "45 litres"],
        ),
        (
            "c",
            None,
            dropoff(16, "b"),
            "excess-dropoff",
            ["16 litres", "15 litres"],
        ),
        (
            "c",
            None,
            oversized(4_097),
            "attributes-too-large",
            ["4097 bytes", "4096"],
        ),
        (
            "d",
            Some(1),
            delete(),
            "not-found",
            ["courier d", "does not exist"],
        ),
    ];
    let entries: Vec<Entry> = cases
        .iter()
        .map(|(id, expected_version, command, ..)| Entry {
            expected_version: *expected_version,
            ..world.command(id, command.clone())
        })
        .collect();
    // In between, one that is fine: a rejected command fails alone.
    let fine = world.command("c", dropoff(15, "b"));
    let mut chunk = entries.clone();
    chunk.push(fine.clone());
    let applied = world.apply(vec![chunk]).await.unwrap();
    assert_eq!(applied.path, Path::Fast);
    assert_eq!(applied.outcomes.failed.of(FailureCode::OverCapacity), 3);
    assert_eq!(
        (applied.outcomes.records(), applied.outcomes.updated),
        (13, 1)
    );
    for ((_, _, command, expected, numbers), entry) in cases.iter().zip(&entries) {
        let (code, detail) = world.failure(entry).await;
        assert_eq!(code, *expected, "{command:?}");
        for number in numbers {
            assert!(detail.contains(number), "{number} in {detail}");
        }
    }
    assert_eq!(world.outcome(&fine).await, UPDATED);
    assert_eq!(courier(&world, "c").await, Some((3, 60, 60, false)));
    // A rejected movement left its reference to whoever comes next.
    let next = world.command("c", pickup(46, "b"));
    world.apply(vec![vec![next.clone()]]).await.unwrap();
    assert_eq!(world.outcome(&next).await, UPDATED);
    // The largest that fits.
    let fits = world.command("c", oversized(4_096));
    world.apply(vec![vec![fits.clone()]]).await.unwrap();
    assert_eq!(world.outcome(&fits).await, UPDATED);
}

#[tokio::test]
async fn a_bad_command_fails_alone_and_those_after_it_are_judged_without_it() {
    let mut world = World::new().await;
    let bad_name = world.command("c", rename("A\0da"));
    let bad_reference = world.command("c", pickup(5, "a\0"));
    let bad_attributes = world.command(
        "d",
        Command::Create(CourierCreate {
            attributes: Some("{".to_owned()),
            name: "Bob".to_owned(),
            max_capacity: 1,
            ..CourierCreate::default()
        }),
    );
    let entries = vec![
        world.command("c", create(60)),
        world.create(ride(1)),
        bad_name.clone(),
        // As folded at first, its row holds the bad name.
        world.command("c", pickup(10, "x")),
        bad_reference.clone(),
        world.command("c", rename("Eve")),
        world.create(unstorable(2)),
        bad_attributes.clone(),
        // As folded at first, this one finds a courier; then there is none.
        world.command("d", set(0)),
        world.command("d", create(9)),
        world.command("d", pickup(9, "x")),
    ];
    let applied = world.apply(vec![entries.clone()]).await.unwrap();
    assert_eq!(applied.path, Path::Careful);
    assert_eq!(applied.outcomes.failed.of(FailureCode::Unstorable), 4);
    for entry in [&bad_name, &bad_reference, &bad_attributes] {
        assert_eq!(world.failure(entry).await.0, "unstorable");
    }
    assert_eq!(world.outcome(&entries[3]).await, UPDATED);
    assert_eq!(world.failure(&entries[8]).await.0, "not-found");
    assert_eq!(world.outcome(&entries[9]).await, CREATED);
    assert_eq!(courier(&world, "c").await, Some((3, 60, 50, false)));
    assert_eq!(courier(&world, "d").await, Some((2, 9, 0, false)));
    assert_eq!(world.count("couriers where name = 'Eve'").await, 1);
    assert_eq!(world.count("courier_movements").await, 2);
    // Told of what happened only.
    let events: Vec<_> = world
        .outbox()
        .await
        .into_iter()
        .map(|it| it.event)
        .collect();
    let expected = [
        "courier_created",
        "courier_capacity_updated",
        "courier_updated",
        "courier_created",
        "courier_capacity_updated",
    ];
    assert_eq!(events, expected);
}

#[tokio::test]
async fn a_hundred_bad_commands_in_a_row_hold_the_partition() {
    let mut world = World::new().await;
    let bad = |world: &World, n: usize| -> Vec<Entry> {
        (0..n).map(|_| world.command("c", rename("\0"))).collect()
    };
    let mut entries = vec![world.command("c", create(1))];
    entries.extend(bad(&world, 99));
    entries.push(world.command("c", set(0)));
    entries.extend(bad(&world, 99));
    let applied = world.apply(vec![entries]).await.unwrap();
    assert_eq!(applied.outcomes.failed.of(FailureCode::Unstorable), 198);
    let next = bad(&world, 1);
    let error = world.apply(vec![next]).await.unwrap_err();
    let held = matches!(
        error,
        persist_worker::batch::ApplyError::TooManyBad { in_a_row: 100, .. }
    );
    assert!(held, "{error:?}");
    assert_eq!(world.progress().await, 1);
}
