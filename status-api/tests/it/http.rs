//! Keys, methods, and paths that are not there.

use std::process::Command;

use contract::Kind;
use contract::outcome::{Action, FailureCode};
use serde_json::{Value, json};

use crate::stage::{Stage, XRIDES};

#[tokio::test]
async fn every_route_needs_a_key() {
    let stage = Stage::new().await;
    for path in [
        "/v1/requests/x",
        "/v1/requests?status=failed",
        "/v1/rides/1",
        "/v1/rides?user_id=1",
        "/v1/couriers/1",
        "/v1/couriers",
        "/v1/nothing",
        "/v1",
    ] {
        let answer = stage.send(&format!("GET {path} HTTP/1.1\r\n"), "").await;
        answer.is_problem(401, "unauthorized");
        let challenge = answer.header("www-authenticate").expect("a challenge");
        assert!(
            challenge.contains("Bearer") && challenge.contains("Basic"),
            "{challenge}"
        );
        let wrong = format!("GET {path} HTTP/1.1\r\nauthorization: Bearer weir_dev_wrong\r\n");
        stage.send(&wrong, "").await.is_problem(401, "unauthorized");
    }
    assert_eq!(stage.ledger_queries().await, 0.0);
}

#[tokio::test]
async fn unknown_routes_and_wrong_methods_are_problems() {
    let stage = Stage::new().await;
    stage.get(XRIDES, "/").await.is_problem(404, "not-found");
    stage
        .get(XRIDES, "/v1/nothing")
        .await
        .is_problem(404, "not-found");
    let allowed = async |method: &str, path: &str| {
        let key = stage.key_header(XRIDES);
        let answer = stage
            .send(&format!("{method} {path} HTTP/1.1\r\n{key}"), "")
            .await;
        answer.is_problem(405, "method-not-allowed");
        answer.header("allow").expect("what is allowed").to_owned()
    };
    assert_eq!(allowed("DELETE", "/v1/rides/1").await, "GET,HEAD");
    assert_eq!(allowed("GET", "/v1/requests/lookup").await, "POST");
    assert_eq!(allowed("POST", "/v1/requests").await, "GET,HEAD");
    assert_eq!(allowed("POST", "/v1/couriers").await, "GET,HEAD");
    assert_eq!(allowed("PATCH", "/v1/couriers/1").await, "GET,HEAD");
}

#[tokio::test]
async fn the_document_is_true() {
    let stage = Stage::new().await;
    let answer = stage.send("GET /openapi.json HTTP/1.1\r\n", "").await;
    assert_eq!(answer.status, 200);
    let document = answer.json();
    assert_eq!(document["openapi"], "3.1.0");
    for (path, methods) in document["paths"].as_object().unwrap() {
        let methods = methods.as_object().unwrap().keys();
        for method in methods.filter(|key| *key != "parameters") {
            let path = path.replace("{tracking_id}", "x").replace("{id}", "x");
            let head = format!(
                "{} {path} HTTP/1.1\r\n{}",
                method.to_uppercase(),
                stage.key_header(XRIDES)
            );
            let answer = stage.send(&head, "").await;
            assert_ne!(answer.status, 405, "{method} {path}");
            assert!(!answer.body.contains("no such route"), "{method} {path}");
        }
    }
    // What a queued request shows is what the document requires.
    let id = stage.mint(XRIDES, 0, 0);
    let shown = stage.request(XRIDES, id).await.json();
    let members: Vec<&String> = shown.as_object().unwrap().keys().collect();
    let mut required: Vec<String> = serde_json::from_value::<Vec<String>>(
        document["components"]["schemas"]["Request"]["required"].clone(),
    )
    .unwrap();
    required.sort();
    assert_eq!(members, required.iter().collect::<Vec<_>>());
    assert!(matches!(
        document["components"]["schemas"]["StoredRide"],
        Value::Object(_)
    ));
    // Every word that a row can hold is one that the document lists.
    let words = |member: &str| {
        document["components"]["schemas"]["Request"]["properties"][member]["enum"].clone()
    };
    let kinds = Kind::ALL.map(Kind::word);
    assert_eq!(words("kind"), json!([kinds[0], kinds[1], null]));
    let actions: Vec<_> = (1..)
        .map_while(Action::from_number)
        .map(Action::word)
        .collect();
    assert_eq!(
        words("action").as_array().unwrap()[..actions.len()],
        actions[..]
    );
    let codes = &document["components"]["schemas"]["Request"]["properties"]["code"]["description"];
    for code in FailureCode::ALL {
        assert!(
            codes.as_str().unwrap().contains(code.code()),
            "{code:?} is not in: {codes}"
        );
    }
}

#[tokio::test]
async fn a_client_that_never_finishes_its_headers_is_cut_off() {
    let stage = Stage::with(&["--headers-timeout=200ms", "--connections-max=1"]).await;
    // The one place is taken by a client that says nothing, then by one that stops half way; the
    // next is served all the same.
    for beginning in ["", "GET /v1/rides/1 HTTP/1.1\r\nhost:"] {
        let held = stage.connect(beginning).await;
        stage
            .get(XRIDES, "/v1/rides/1")
            .await
            .is_problem(404, "not-found");
        drop(held);
    }
}

#[test]
fn bad_configuration_exits_64_and_names_every_fault() {
    let run = |flags: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_status-api"))
            .args(flags)
            .output()
            .unwrap()
    };
    let bad_flag = run(&["--nonsense"]);
    assert_eq!(bad_flag.status.code(), Some(64));
    let flags = [
        "--database-url=x",
        "--partners=/nowhere/p",
        "--tracking-keys=/nowhere/k",
        "--listen=127.0.0.1:0",
    ];
    let faults = run(&flags);
    assert_eq!(faults.status.code(), Some(64));
    let text = String::from_utf8(faults.stderr).unwrap();
    assert!(
        text.contains("--database-url")
            && text.contains("/nowhere/p")
            && text.contains("/nowhere/k"),
        "{text}"
    );
    assert!(faults.stdout.is_empty());
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    assert_eq!(run(&["--version"]).status.code(), Some(0));
}
