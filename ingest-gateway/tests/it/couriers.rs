//! Commands to couriers, and conditions: every route, what reaches the log, what does not.

use contract::courier::{Command, TextPatch};
use contract::{CourierCommand, Entry, Operation, Record};
use http::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Gateway, Log, lines, ride};

const JSON: &str = "application/json";

fn courier(id: &Value) -> Value {
    json!({"courier_id": id, "name": "Anna", "max_capacity": 100})
}

fn command_of(entry: &Entry) -> &CourierCommand {
    match &entry.record {
        Record::Courier(command) => command,
        Record::Ride(_) => panic!("{entry:?} is a command"),
    }
}

/// With the partner's key and one more header.
async fn send_with(
    gateway: &Gateway,
    method: Method,
    path: &str,
    header: (&str, &str),
    body: &str,
) -> Answer {
    let authorization = format!("Bearer {}", gateway.key);
    let headers = [("authorization", authorization.as_str()), header];
    let url = format!("http://{}{path}", gateway.address);
    gateway
        .exchange(method, &url, &headers, body.to_owned())
        .await
}

fn pointers(answer: &Answer) -> Vec<&str> {
    let errors = answer.body["errors"].as_array();
    errors
        .into_iter()
        .flatten()
        .filter_map(|fault| fault["pointer"].as_str())
        .collect()
}

#[tokio::test]
async fn every_route_stores_its_command_before_it_answers() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    let merge_patch = "application/merge-patch+json";
    let moved = r#"{"capacity":5,"reference":"order 1"}"#;
    let mut acknowledged = Vec::new();
    for (method, path, content_type, body) in [
        (
            Method::POST,
            "/v1/couriers",
            JSON,
            r#"{"courierId":7,"name":"Anna","maxCapacity":100}"#,
        ),
        (
            Method::PATCH,
            "/v1/couriers/7",
            merge_patch,
            r#"{"phone":null}"#,
        ),
        (Method::PATCH, "/v1/couriers/7", JSON, "{}"),
        (
            Method::PUT,
            "/v1/couriers/7/capacity",
            JSON,
            r#"{"available_capacity":50}"#,
        ),
        (Method::POST, "/v1/couriers/7/pickups", JSON, moved),
        (Method::POST, "/v1/couriers/7/dropoffs", JSON, moved),
        (
            Method::POST,
            "/v1/courier-commands",
            JSON,
            r#"{"command":"set_capacity","courier_id":"7","available_capacity":1,"expected_version":9}"#,
        ),
        (Method::DELETE, "/v1/couriers/7", JSON, ""),
        (
            Method::DELETE,
            "/v1/couriers/7",
            JSON,
            r#"{"expected_version":10}"#,
        ),
    ] {
        let answer = gateway.send(method.clone(), path, content_type, body).await;
        assert_eq!(answer.status, 202, "{method} {path}: {answer:?}");
        assert_eq!(answer.body["status"], "accepted");
        let id = answer.body["tracking_id"].as_str().unwrap().to_owned();
        assert!(answer.headers["location"].to_str().unwrap().ends_with(&id));
        acknowledged.push(id);
    }
    let entries = log.entries().await;
    let stored: Vec<_> = entries
        .iter()
        .map(|entry| {
            assert_eq!(entry.operation, Operation::Command);
            assert_eq!(command_of(entry).courier_id, "7");
            (command_of(entry).word(), entry.expected_version)
        })
        .collect();
    assert_eq!(
        stored,
        [
            ("create", None),
            ("update", None),
            ("update", None),
            ("set_capacity", None),
            ("pickup", None),
            ("dropoff", None),
            ("set_capacity", Some(9)),
            ("delete", None),
            ("delete", Some(10)),
        ]
    );
    let ids: Vec<_> = entries
        .iter()
        .map(|it| it.tracking_id.to_string())
        .collect();
    assert_eq!(ids, acknowledged, "one connection's, in the order sent");
    let Command::Update(update) = &command_of(&entries[1]).command else {
        panic!("an update")
    };
    assert_eq!(update.phone, Some(TextPatch { value: None }));
    let couriers = gateway
        .metric(r#"weir_gateway_requests_total{route="/v1/couriers/{id}",status="202"}"#)
        .await;
    assert_eq!(couriers as u64, 4);
}

#[tokio::test]
async fn other_methods_say_which_there_are_and_who_reads() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    for (method, path, allow) in [
        (Method::GET, "/v1/couriers", "POST"),
        (Method::DELETE, "/v1/couriers", "POST"),
        (Method::GET, "/v1/couriers?min_available=45", "POST"),
        (Method::GET, "/v1/couriers/7", "PATCH, DELETE"),
        (Method::PUT, "/v1/couriers/7", "PATCH, DELETE"),
        (Method::GET, "/v1/couriers/7/capacity", "PUT"),
        (Method::PATCH, "/v1/couriers/7/capacity", "PUT"),
        (Method::GET, "/v1/couriers/7/pickups", "POST"),
        (Method::DELETE, "/v1/couriers/7/dropoffs", "POST"),
        (Method::GET, "/v1/courier-commands", "POST"),
        (Method::PUT, "/v1/courier-commands", "POST"),
    ] {
        let answer = gateway.send(method.clone(), path, JSON, "").await;
        assert_eq!(answer.status, 405, "{method} {path}");
        assert_eq!(answer.headers["allow"], allow, "{method} {path}");
        assert_eq!(answer.body["code"], "method-not-allowed");
        let detail = answer.body["detail"].as_str().unwrap();
        assert_eq!(detail.contains("status API"), method == Method::GET);
    }
    for path in [
        "/v1/couriers/",
        "/v1/couriers/7/x",
        "/v1/couriers/7/pickups/1",
    ] {
        let answer = gateway.send(Method::POST, path, JSON, "{}").await;
        assert_eq!(answer.status, 404, "{path}");
    }
    let url = format!("http://{}/v1/couriers/7/pickups", gateway.address);
    let answer = gateway.exchange(Method::POST, &url, &[], "{}").await;
    assert_eq!(answer.status, 401);
    let answer = gateway
        .send(
            Method::PATCH,
            "/v1/couriers/7",
            "application/json-patch+json",
            "[]",
        )
        .await;
    assert_eq!(answer.status, 415);
    assert_eq!(
        answer.headers["accept-patch"],
        "application/merge-patch+json, application/json"
    );
    let answer = gateway
        .send(
            Method::POST,
            "/v1/couriers/7/pickups",
            "application/x-ndjson",
            "{}",
        )
        .await;
    assert_eq!(answer.status, 415);
    assert_eq!(log.messages().await, 0);
}

#[tokio::test]
async fn a_condition_travels_with_the_record() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    let moved = r#"{"capacity":5,"reference":"order 1"}"#;
    let ride = ride(7).to_string();
    let conditional_ride = ride.replacen('{', r#"{"expectedVersion":3,"#, 1);
    for (method, path, body) in [
        (Method::PATCH, "/v1/couriers/7", r#"{"name":"B"}"#),
        (
            Method::PUT,
            "/v1/couriers/7/capacity",
            r#"{"available_capacity":0}"#,
        ),
        (Method::POST, "/v1/couriers/7/pickups", moved),
        (Method::POST, "/v1/couriers/7/dropoffs", moved),
        (Method::DELETE, "/v1/couriers/7", ""),
        (
            Method::DELETE,
            "/v1/couriers/7",
            r#"{"expected_version":3}"#,
        ),
        (Method::PUT, "/v1/rides/7", &ride),
        (Method::PUT, "/v1/rides/7", &conditional_ride),
    ] {
        let header = ("if-match", "\"3\"");
        let answer = send_with(&gateway, method.clone(), path, header, body).await;
        assert_eq!(answer.status, 202, "{method} {path}: {answer:?}");
        for bad in ["*", "3", "W/\"3\"", "\"3\", \"4\"", "\"0\"", "\"x\""] {
            let header = ("if-match", bad);
            let answer = send_with(&gateway, method.clone(), path, header, body).await;
            assert_eq!(answer.status, 400, "{method} {path} {bad}: {answer:?}");
            assert_eq!(answer.body["code"], "bad-parameter");
            assert!(answer.body["detail"].as_str().unwrap().contains("If-Match"));
        }
    }
    let entries = log.entries().await;
    let versions: Vec<_> = entries.iter().map(|it| it.expected_version).collect();
    assert_eq!(versions, [Some(3); 8]);
    let Record::Ride(stored) = &entries[7].record else {
        panic!("a ride")
    };
    assert_eq!(stored.extra, None);

    // Given twice, and different.
    for (method, path, body) in [
        (Method::PATCH, "/v1/couriers/7", r#"{"expected_version":4}"#),
        (Method::PUT, "/v1/rides/7", &conditional_ride),
    ] {
        let header = ("if-match", "\"5\"");
        let answer = send_with(&gateway, method, path, header, body).await;
        assert_eq!(answer.status, 422, "{path}: {answer:?}");
        assert_eq!(answer.body["code"], "invalid");
    }
    // Where nothing exists yet, or each item has its own.
    for (path, body) in [
        ("/v1/couriers", courier(&json!(7))),
        (
            "/v1/courier-commands",
            json!({"command": "delete", "courier_id": 7}),
        ),
        ("/v1/rides", crate::harness::ride(7)),
        ("/save/booking/detail", crate::harness::ride(7)),
    ] {
        let header = ("if-match", "\"3\"");
        let answer = send_with(&gateway, Method::POST, path, header, &body.to_string()).await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
    }
    assert_eq!(log.entries().await.len(), 8);
}

#[tokio::test]
async fn ids_in_paths_are_percent_encoded_utf_8() {
    let log = Log::start(2).await;
    let gateway = Gateway::ready(&log, &[]).await;
    for path in [
        "/v1/couriers/a%2Fb%20%C3%BC%25",
        "/v1/couriers/a%2fb%20%c3%bc%25",
    ] {
        let answer = gateway.send(Method::DELETE, path, JSON, "").await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    let same = courier(&json!("a/b ü%")).to_string();
    let answer = gateway.send(Method::POST, "/v1/couriers", JSON, same).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let entries = log.entries().await;
    let ids: Vec<_> = entries
        .iter()
        .map(|entry| &command_of(entry).courier_id[..])
        .collect();
    assert_eq!(ids, ["a/b ü%"; 3]);
    let partitions: Vec<_> = entries
        .iter()
        .map(|it| it.tracking_id.partition())
        .collect();
    assert!(partitions.iter().all(|it| *it == partitions[0]));
    for id in ["%", "%4", "%zz", "%ff", "a%00", "%0A", &"x".repeat(65)] {
        let path = format!("/v1/couriers/{id}");
        let answer = gateway.send(Method::DELETE, &path, JSON, "").await;
        assert_eq!(answer.status, 422, "{id}: {answer:?}");
        assert_eq!(pointers(&answer), ["/courier_id"], "{id}");
    }
    let mismatch = r#"{"courier_id":"8","name":"B"}"#;
    let answer = gateway
        .send(Method::PATCH, "/v1/couriers/7", JSON, mismatch)
        .await;
    assert_eq!(pointers(&answer), ["/courier_id"]);
    assert_eq!(log.entries().await.len(), 3);
}

#[tokio::test]
async fn what_is_no_command_is_422_with_pointers_and_never_reaches_the_log() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    let five_kib = format!(r#"{{"a":"{}"}}"#, "x".repeat(5 * 1024));
    for (name, value) in [
        ("name", "7"),
        ("name", r#""\u0000""#),
        ("name", r#""\ud800""#),
        ("max_capacity", "-1"),
        ("max_capacity", "2147483648"),
        ("max_capacity", "18446744073709551616"),
        ("max_capacity", "1e999"),
        ("max_capacity", "1.5"),
        ("available_capacity", "101"),
        ("courier_id", "\"\""),
        ("courier_id", "1.0"),
        ("attributes", "[]"),
        ("attributes", &five_kib),
        ("note", "1"),
        ("maxCapacity", "1"),
        ("expected_version", "1"),
    ] {
        let mut text = courier(&json!(7));
        text.as_object_mut().unwrap().remove(name);
        let text = text
            .to_string()
            .replacen('{', &format!("{{\"{name}\":{value},"), 1);
        let answer = gateway.send(Method::POST, "/v1/couriers", JSON, text).await;
        assert_eq!(answer.status, 422, "{name} {value:.50}: {answer:?}");
        assert_eq!(answer.body["code"], "invalid");
        // Of two spellings the second is the fault.
        let expected = if name == "maxCapacity" {
            "/max_capacity"
        } else {
            &format!("/{name}")
        };
        assert_eq!(pointers(&answer), [expected], "{value:.50}");
    }
    for (body, status) in [("", 400), ("{", 400), ("[]", 400), ("7", 422)] {
        let answer = gateway.send(Method::POST, "/v1/couriers", JSON, body).await;
        assert_eq!(answer.status, status, "{body}");
    }
    for (body, status) in [("", 400), ("[]", 422), (r#"{"capacity":0}"#, 422)] {
        let path = "/v1/couriers/7/pickups";
        let answer = gateway.send(Method::POST, path, JSON, body).await;
        assert_eq!(answer.status, status, "{body}");
    }
    assert_eq!(log.messages().await, 0);
}

#[tokio::test]
async fn a_bad_line_of_a_burst_never_harms_its_neighbours() {
    let log = Log::start(2).await;
    let gateway = Gateway::ready(&log, &[]).await;
    let create = json!({"command": "create", "courier_id": 7, "name": "A", "max_capacity": 9});
    let pickup = json!({"command": "pickup", "courier_id": 7, "capacity": 1, "reference": "r",
        "expected_version": 1});
    let mut text = lines(&[create.clone(), pickup.clone(), json!({"command": "fly"})]);
    text.push_str("{not json\n\n{\"command\":\"delete\",\"courier_id\":\"\\ud800\"}\r\n");
    text.push_str(&lines(&[json!({"command": "delete", "courier_id": "7"})]));
    let answer = gateway
        .send(
            Method::POST,
            "/v1/courier-commands",
            "application/x-ndjson",
            text,
        )
        .await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(
        (&answer.body["accepted"], &answer.body["rejected"]),
        (&json!(3), &json!(3))
    );
    let results = answer.body["results"].as_array().unwrap();
    let codes: Vec<_> = results
        .iter()
        .map(|result| result["error"]["code"].as_str())
        .collect();
    let (invalid, malformed) = (Some("invalid"), Some("malformed"));
    assert_eq!(codes, [None, None, invalid, malformed, invalid, None]);
    let faults = |index: usize| &results[index]["error"]["errors"];
    assert_eq!(faults(2)[0]["pointer"], "/command");
    assert_eq!(faults(4)[0]["pointer"], "/courier_id");
    let stored: Vec<_> = log
        .entries()
        .await
        .iter()
        .map(|entry| json!(entry.tracking_id))
        .collect();
    let accepted = [0, 1, 5].map(|index| results[index]["tracking_id"].clone());
    assert_eq!(stored, accepted);

    let answer = gateway
        .send(
            Method::POST,
            "/v1/couriers",
            JSON,
            json!([create, pickup]).to_string(),
        )
        .await;
    assert_eq!(answer.status, 422, "{answer:?}");
    assert_eq!(answer.body["results"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn the_commands_to_one_courier_keep_the_bodys_order() {
    const COURIERS: usize = 50;
    const COMMANDS: usize = 5_000;
    let log = Log::start(4).await;
    let gateway = Gateway::ready(&log, &[]).await;
    let items: Vec<_> = (0..COMMANDS)
        .map(|number| {
            json!({"command": "set_capacity", "courier_id": number % COURIERS,
                "available_capacity": number})
        })
        .collect();
    let (ndjson, array) = tokio::join!(
        gateway.send(
            Method::POST,
            "/v1/courier-commands",
            "application/jsonl",
            lines(&items)
        ),
        gateway.send(
            Method::POST,
            "/v1/courier-commands",
            JSON,
            json!(items).to_string()
        ),
    );
    let mut orders = Vec::new();
    for answer in [ndjson, array] {
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(answer.body["accepted"], COMMANDS);
        let results = answer.body["results"].as_array().unwrap();
        let ids: Vec<_> = results
            .iter()
            .map(|result| result["tracking_id"].as_str().unwrap().to_owned())
            .collect();
        orders.push(ids);
    }
    let entries = log.entries().await;
    assert_eq!(entries.len(), 2 * COMMANDS);
    for order in orders {
        let place: std::collections::HashMap<_, _> = order
            .iter()
            .enumerate()
            .map(|(index, id)| (id.as_str(), index))
            .collect();
        let mut last = vec![None; COURIERS];
        let mut found = 0;
        for entry in &entries {
            let id = entry.tracking_id.to_string();
            let Some(index) = place.get(id.as_str()) else {
                continue;
            };
            let courier: usize = command_of(entry).courier_id.parse().unwrap();
            assert_eq!(courier, index % COURIERS);
            assert!(last[courier] < Some(*index), "in the body's order");
            last[courier] = Some(*index);
            found += 1;
        }
        assert_eq!(found, COMMANDS);
    }
}
