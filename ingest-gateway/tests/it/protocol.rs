//! HTTP/2 beside HTTP/1.1, the description of the interface, flags.

use bytes::Bytes;
use http::{Method, Request, Version};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::process::Command;

use crate::harness::{Gateway, Log, ride};

#[tokio::test]
async fn http_2_by_prior_knowledge_on_the_same_port() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let requests = (1..=50).map(|id| {
        let request = Request::post(format!("http://{}/v1/rides", gateway.address))
            .header("authorization", format!("Bearer {}", gateway.key))
            .body(Full::from(ride(id).to_string()))
            .unwrap();
        client.request(request)
    });
    for answer in futures_util::future::join_all(requests).await {
        let answer = answer.unwrap();
        assert_eq!(
            (answer.version(), answer.status().as_u16()),
            (Version::HTTP_2, 202)
        );
        answer.into_body().collect().await.unwrap();
    }
    assert_eq!(log.entries().await.len(), 50);
}

#[tokio::test]
async fn the_description_of_the_interface_is_served_to_anyone() {
    let gateway = Gateway::start("nats://127.0.0.1:1", &[]).await;
    let url = format!("http://{}/openapi.json", gateway.address);
    let answer = gateway.exchange(Method::GET, &url, &[], "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/json");
    let source: Value = serde_json::from_str(include_str!("../../openapi.json")).unwrap();
    assert_eq!(answer.body, source);
}

/// The gateway describes both services, the status API itself alone.
#[test]
fn both_descriptions_say_the_same_of_the_status_api() {
    let parse = |text| serde_json::from_str::<Value>(text).unwrap();
    let whole = parse(include_str!("../../openapi.json"));
    let status = parse(include_str!("../../../status-api/openapi.json"));
    assert_eq!(status["openapi"], whole["openapi"]);
    for (path, item) in status["paths"].as_object().unwrap() {
        for (key, described) in item.as_object().unwrap() {
            let mut same = whole["paths"][path][key].clone();
            if let Some(operation) = same.as_object_mut() {
                // Only where there are two services it must be said which.
                operation.remove("servers");
            }
            assert_eq!(same, *described, "{path} {key}");
        }
    }
    for (kind, named) in status["components"].as_object().unwrap() {
        for (name, described) in named.as_object().unwrap() {
            assert_eq!(whole["components"][kind][name], *described, "{kind} {name}");
        }
    }
}

#[tokio::test]
async fn bad_usage_exits_64_and_names_every_fault() {
    for (flags, expected) in [
        (&["--listen=nowhere"][..], &["--listen"][..]),
        (
            &[
                "--nats-url=nats://h",
                "--partners=/no/p",
                "--tracking-keys=/no/k",
                "--shutdown-grace=1s",
            ],
            &["--partners: ", "--tracking-keys: ", "--shutdown-grace"],
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_ingest-gateway"))
            .args(flags)
            .output()
            .await
            .unwrap();
        assert_eq!(output.status.code(), Some(64), "{flags:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        for words in expected {
            assert!(said.contains(words), "{words} in {said}");
        }
    }
}
