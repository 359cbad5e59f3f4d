//! From a command on the log to the event that a subscriber reads.

use contract::courier::{
    Command, CourierCapacity, CourierCommand, CourierCreate, CourierDelete, CourierMovement,
    CourierUpdate, TextPatch,
};
use contract::event::{SCHEMA_VERSION, schema};
use contract::{Operation, Record, Ride};
use serde_json::{Value, json};

use super::{arrived, outbox_empty, repeated};
use crate::running::rig::{PARTNER, Rig};

fn command(courier_id: &str, command: Command) -> (Operation, Record) {
    let courier_id = courier_id.to_owned();
    let record = Record::Courier(CourierCommand {
        courier_id,
        command,
    });
    (Operation::Command, record)
}

fn create(name: &str) -> Command {
    Command::Create(CourierCreate {
        name: name.to_owned(),
        max_capacity: 60,
        available_capacity: None,
        vehicle_type: Some("bicycle".to_owned()),
        phone: None,
        attributes: Some(r#"{"shift":{"from":7.50}}"#.to_owned()),
    })
}

fn movement(capacity: i32, reference: &str) -> CourierMovement {
    CourierMovement {
        capacity,
        reference: reference.to_owned(),
    }
}

fn ride(operation: Operation, user_id: i64) -> (Operation, Record) {
    let record = Record::Ride(Ride {
        id: 11,
        user_id,
        vehicle_model_id: 12,
        travel_type_id: 2,
        to_date_us: Some(1_357_007_400_123_456),
        from_lat: Some(12.9),
        from_long: Some(77.6),
        extra: Some(r#"{"tip":5}"#.to_owned()),
        ..Ride::default()
    });
    (operation, record)
}

/// What a subscriber would check it against.
fn check_schemas(document: &Value) {
    let check = |name: &str, instance: &Value| {
        let schema = schema(name, SCHEMA_VERSION).unwrap();
        let schema = serde_json::from_str(schema).unwrap();
        let validator = jsonschema::draft202012::options()
            .should_validate_formats(true)
            .build(&schema)
            .unwrap();
        let faults: Vec<_> = validator
            .iter_errors(instance)
            .map(|it| it.to_string())
            .collect();
        assert!(faults.is_empty(), "{name}: {faults:?} in {instance}");
    };
    check("envelope", document);
    let name = document["type"]
        .as_str()
        .unwrap()
        .strip_prefix("weir.")
        .unwrap();
    let dataschema = format!("urn:weir:schema:{name}:{SCHEMA_VERSION}");
    assert_eq!(document["dataschema"], dataschema);
    check(name, &document["data"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_told_once_and_in_order() {
    let rig = Rig::with_partitions(1).await;
    let worker = rig.start(&["--ride-events"]);
    let update = Command::Update(CourierUpdate {
        name: Some("Ada".to_owned()),
        max_capacity: Some(80),
        phone: Some(TextPatch {
            value: Some("+91 80 1234".to_owned()),
        }),
        ..CourierUpdate::default()
    });
    let set = |available_capacity| Command::SetCapacity(CourierCapacity { available_capacity });
    let commands = vec![
        command("7", create("Grace")),
        ride(Operation::Create, 1),
        command("7", Command::Pickup(movement(20, "order-1"))),
        // Told once, and what is refused not at all.
        command("7", Command::Pickup(movement(20, "order-1"))),
        command("7", Command::Pickup(movement(41, "order-2"))),
        command("7", update),
        ride(Operation::Replace, 2),
        command("7", set(70)),
        command("7", Command::Dropoff(movement(10, "order-1"))),
        command("7", Command::Delete(CourierDelete {})),
        command("7", create("Grace too")),
    ];
    let ids = rig.publish_records(0, commands).await;
    rig.settled(&ids).await;
    outbox_empty(&rig).await;
    let arrived = arrived(&rig).await;
    assert_eq!(repeated(&arrived), 0);
    let told: Vec<_> = arrived
        .iter()
        .map(|it| {
            check_schemas(&it.document);
            assert_eq!(it.document["source"], format!("urn:weir:partner:{PARTNER}"));
            assert_eq!(it.document["id"], it.id);
            let name = it.document["type"].as_str().unwrap().replace("weir.", "");
            assert_eq!(it.subject, format!("weir.events.{PARTNER}.{name}"));
            let data = &it.document["data"];
            let change = (&data["previous"], &data["new"], &data["cause"]);
            let subject = &it.document["subject"];
            (name, json!([it.id, subject, data["version"], change]))
        })
        .collect();
    let told: Vec<_> = told
        .iter()
        .map(|(name, rest)| (name.as_str(), rest.clone()))
        .collect();
    let id = |command: usize, n: u32| format!("{}/{n}", ids[command]);
    let none = json!([null, null, null]);
    let expected = [
        ("courier_created", json!([id(0, 0), "couriers/7", 1, none])),
        ("ride_created", json!([id(1, 0), "rides/11", 1, none])),
        (
            "courier_capacity_updated",
            json!([id(2, 0), "couriers/7", 2, [60, 40, "pickup"]]),
        ),
        ("courier_updated", json!([id(5, 0), "couriers/7", 3, none])),
        (
            "courier_capacity_updated",
            json!([id(5, 1), "couriers/7", 3, [40, 60, "update"]]),
        ),
        ("ride_replaced", json!([id(6, 0), "rides/11", 2, none])),
        (
            "courier_capacity_updated",
            json!([id(7, 0), "couriers/7", 4, [60, 70, "set_capacity"]]),
        ),
        (
            "courier_capacity_updated",
            json!([id(8, 0), "couriers/7", 5, [70, 80, "dropoff"]]),
        ),
        ("courier_deleted", json!([id(9, 0), "couriers/7", 6, none])),
    ];
    assert_eq!(told, expected);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rides_are_told_of_only_when_asked_for() {
    let rig = Rig::with_partitions(1).await;
    let worker = rig.start(&[]);
    let records = vec![ride(Operation::Create, 1), command("7", create("Grace"))];
    let ids = rig.publish_records(0, records).await;
    rig.settled(&ids).await;
    outbox_empty(&rig).await;
    let arrived = arrived(&rig).await;
    let told: Vec<_> = arrived.iter().map(|it| &it.document["type"]).collect();
    assert_eq!(told, ["weir.courier_created"]);
    worker.drain().await;
}

/// docs/events.md promises how a second version would look; readers validate with the first's
/// envelope.
#[test]
fn a_second_version_fits_into_the_envelope() {
    let document = json!({
        "specversion": "1.0", "id": "019a9f3c-52f1-7c3e-8b1a-0c4d5e03b8fc/0/v2",
        "source": "urn:weir:partner:7", "type": "weir.courier_updated.v2",
        "subject": "couriers/7", "time": "2026-11-21T01:07:23.121Z",
        "datacontenttype": "application/json",
        "dataschema": "urn:weir:schema:courier_updated:2", "data": {},
    });
    let envelope = schema("envelope", SCHEMA_VERSION).unwrap();
    let envelope = serde_json::from_str(envelope).unwrap();
    let validator = jsonschema::draft202012::new(&envelope).unwrap();
    assert!(validator.is_valid(&document));
}
