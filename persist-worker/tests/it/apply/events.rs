//! What the outbox holds after a batch.

use contract::Ride;
use persist_worker::batch::Path;
use serde_json::{Value, json};

use super::world::{World, create, delete, dropoff, pickup, rename, resize, ride, set};

/// The capacity that the chain of events of a courier leads to, each from where the former ended.
fn chain(told: &[super::world::Told], courier_id: &str) -> i64 {
    let mut at = None;
    for it in told
        .iter()
        .filter(|it| it.body["data"]["courier_id"] == courier_id)
    {
        let data = &it.body["data"];
        match it.event.as_str() {
            "courier_created" => at = data["available_capacity"].as_i64(),
            "courier_capacity_updated" => {
                assert_eq!(data["previous"].as_i64(), at, "{it:?}");
                at = data["new"].as_i64();
            }
            _ => {}
        }
    }
    at.unwrap()
}

#[tokio::test]
async fn every_change_is_told_once_in_log_order_with_a_chain_that_never_breaks() {
    for path in [Path::Fast, Path::Careful] {
        let mut world = World::new().await;
        if path == Path::Careful {
            let rides = vec![world.create(ride(1)), world.create(ride(1))];
            world.apply(vec![rides]).await.unwrap();
            let again = world.create(ride(1));
            world.apply(vec![vec![again]]).await.unwrap();
        }
        let first = world.cursor.last_seq + 1;
        let chunks = vec![
            vec![
                world.command("c", create(60)),
                world.create(ride(2)),
                world.command("c", pickup(20, "a")),
                world.command("c", pickup(50, "b")),
                world.command("d", create(5)),
            ],
            vec![],
            vec![
                world.command("c", resize(Some(50), None)),
                world.command("c", rename("Bob")),
                world.command("c", set(50)),
                world.command("d", pickup(5, "a")),
                world.command("c", delete()),
                world.command("d", dropoff(2, "a")),
            ],
        ];
        let both = chunks[2][0].tracking_id;
        let applied = world.apply(chunks).await.unwrap();
        assert_eq!(applied.path, path);
        let told = world.outbox().await;
        let brief: Vec<_> = told
            .iter()
            .map(|it| {
                let data = &it.body["data"];
                let id = data["courier_id"].as_str().unwrap();
                let at = (it.at.0 - first, it.at.1);
                (at, &*it.event, id, data["version"].as_i64().unwrap())
            })
            .collect();
        let moved = "courier_capacity_updated";
        let expected = vec![
            ((0, 0), "courier_created", "c", 1),
            ((0, 1), moved, "c", 2),
            ((0, 2), "courier_created", "d", 1),
            ((2, 0), "courier_updated", "c", 3),
            ((2, 1), moved, "c", 3),
            ((2, 2), "courier_updated", "c", 4),
            ((2, 3), moved, "c", 5),
            ((2, 4), moved, "d", 2),
            ((2, 5), "courier_deleted", "c", 6),
            ((2, 6), moved, "d", 3),
        ];
        assert_eq!(brief, expected);
        assert_eq!((chain(&told, "c"), chain(&told, "d")), (50, 2));
        assert_eq!(told[3].event_id, format!("{both}/0"));
        assert_eq!(told[4].event_id, format!("{both}/1"));
        let data = &told[4].body["data"];
        assert_eq!(
            *data,
            json!({
                "courier_id": "c", "version": 3, "max_capacity": 50, "previous": 40, "new": 30,
                "difference": -10, "cause": "update", "reference": null,
                "tracking_id": both.to_string(),
            })
        );
        assert_eq!(told[4].body["subject"], "couriers/c");
        assert_eq!(told[4].body["time"], "2026-11-20T08:00:00.000Z");
        let causes: Vec<_> = told.iter().map(|it| &it.body["data"]["cause"]).collect();
        assert_eq!(
            (causes[1], causes[6]),
            (&json!("pickup"), &json!("set_capacity"))
        );
        assert_eq!(told[9].body["data"]["reference"], "a");
    }
}

#[tokio::test]
async fn rides_are_told_of_only_when_that_is_wanted() {
    let mut world = World::new().await;
    let quiet = vec![world.create(ride(1)), world.command("c", create(1))];
    world.apply(vec![quiet]).await.unwrap();
    assert_eq!(world.outbox().await.len(), 1);

    world.ride_events = true;
    world.restart();
    let full = Ride {
        extra: Some(r#"{"n":1}"#.to_owned()),
        to_lat: Some(12.5),
        to_long: Some(77.5),
        to_date_us: Some(1_357_000_000_000_000),
        ..ride(2)
    };
    let created = vec![
        world.create(full),
        world.command("c", set(0)),
        world.create(ride(3)),
    ];
    let applied = world.apply(vec![created]).await.unwrap();
    assert_eq!(applied.path, Path::Fast);
    let replaced = vec![world.replace(ride(2)), world.create(ride(3))];
    let applied = world.apply(vec![replaced]).await.unwrap();
    assert_eq!(applied.path, Path::Careful);
    let told = world.outbox().await;
    let brief: Vec<_> = told[1..]
        .iter()
        .map(|it| (it.at, &*it.event, &it.body["subject"]))
        .collect();
    let subjects = ["rides/2", "couriers/c", "rides/3"].map(Value::from);
    let expected = vec![
        ((2, 0), "ride_created", &subjects[0]),
        ((2, 1), "courier_capacity_updated", &subjects[1]),
        ((2, 2), "ride_created", &subjects[2]),
        ((3, 0), "ride_replaced", &subjects[0]),
    ];
    assert_eq!(brief, expected);
    assert_eq!(told[1].body["data"]["extra"], json!({"n": 1}));
    assert_eq!(told[4].body["data"]["version"], 2);

    // One that cannot be stored is not told of, though its content is no JSON.
    let bad = vec![
        world.create(super::world::unstorable(4)),
        world.create(ride(5)),
    ];
    world.apply(vec![bad]).await.unwrap();
    assert_eq!(world.outbox().await.len(), 6);
}
