//! What nobody should send, and the answers to it.

use async_compression::tokio::bufread::{GzipEncoder, ZstdEncoder};
use contract::limits::BODY_BYTES_MAX;
use devstack::eventually::eventually;
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Gateway, LIMIT, Log, lines, ride, send_then_read};

const NINE_MIB: usize = 9 * 1024 * 1024;

#[tokio::test]
async fn bodies_that_are_too_large_get_an_answer_a_plain_client_reads() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    let known = gateway.head(&format!(
        "content-length: {NINE_MIB}\r\nconnection: close\r\n"
    ));
    let mut request = known.into_bytes();
    request.resize(request.len() + NINE_MIB, b' ');
    let answer = send_then_read(gateway.connect().await, &request).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("urn:weir:problem:too-large"), "{answer}");

    let chunked = gateway.head("transfer-encoding: chunked\r\nconnection: close\r\n");
    let mut request = chunked.into_bytes();
    for _ in 0..9 {
        request.extend_from_slice(b"100000\r\n");
        request.resize(request.len() + 0x10_0000, b' ');
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    let answer = send_then_read(gateway.connect().await, &request).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(log.messages().await, 0);
}

#[tokio::test]
async fn compressed_bodies_are_read_and_bounded() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    let authorization = format!("Bearer {}", gateway.key);
    let post = async |coding: &str, body: Vec<u8>| {
        let headers = [
            ("authorization", authorization.as_str()),
            ("content-encoding", coding),
        ];
        let url = format!("http://{}/v1/rides", gateway.address);
        gateway.exchange(Method::POST, &url, &headers, body).await
    };
    let plain = ride(1).to_string().into_bytes();
    let bomb = vec![b' '; 100 * 1024 * 1024];
    for (coding, body) in [
        ("gzip", gzip(&plain).await),
        ("zstd", zstd(&plain).await),
        ("GZIP", gzip(&plain).await),
    ] {
        let answer = post(coding, body).await;
        assert_eq!(answer.status, 202, "{coding}: {answer:?}");
    }
    for (coding, body) in [("gzip", gzip(&bomb).await), ("zstd", zstd(&bomb).await)] {
        assert!(body.len() < 1024 * 1024);
        let answer = post(coding, body).await;
        assert_eq!(answer.status, 413, "{coding}: {answer:?}");
    }
    for (coding, status) in [
        ("gzip", 400),
        ("zstd", 400),
        ("br", 415),
        ("gzip, zstd", 415),
    ] {
        let answer = post(coding, plain.clone()).await;
        assert_eq!(answer.status, status, "{coding}: {answer:?}");
    }
    assert_eq!(post("gzip", Vec::new()).await.status, 400);
    let half = gzip(&plain).await;
    assert_eq!(
        post("gzip", half[..half.len() / 2].to_vec()).await.status,
        400
    );
}

#[tokio::test]
async fn a_bad_item_never_harms_its_neighbours() {
    let log = Log::start(2).await;
    let gateway = Gateway::ready(&log, &[]).await;
    let good = ride(7);
    let answer = gateway.post(&json!([1, {"id": 0}, good])).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let results = &answer.body["results"];
    assert_eq!(
        (&answer.body["accepted"], &answer.body["rejected"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(results[0]["error"]["errors"][0]["pointer"], "");
    assert_eq!(results[1]["error"]["errors"][0]["pointer"], "/id");
    assert!(log.holds(&results[2]["tracking_id"]).await);

    let mut text = lines(&[json!(1), good]);
    text.push_str("{not json\n\n{\"note\":\"\\ud800\"}\n");
    let answer = gateway
        .send(Method::POST, "/v1/rides", "application/jsonl", text)
        .await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let codes: Vec<_> = answer.body["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| result["error"]["code"].as_str())
        .collect();
    assert_eq!(
        codes,
        [Some("invalid"), None, Some("malformed"), Some("invalid")]
    );

    let answer = gateway.post(&json!([1, {"id": 0}])).await;
    assert_eq!(answer.status, 422);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(answer.body["results"].as_array().map(Vec::len), Some(2));
    assert_eq!(log.entries().await.len(), 2);
}

#[tokio::test]
async fn what_cannot_be_stored_is_422_and_never_reaches_the_log() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    for note in [
        r#""\u0000""#,
        r#""\ud800""#,
        "1e999",
        "18446744073709551616",
    ] {
        let text = ride(1)
            .to_string()
            .replacen('{', &format!("{{\"note\":{note},"), 1);
        let answer = gateway
            .send(Method::POST, "/v1/rides", "application/json", text)
            .await;
        assert_eq!(answer.status, 422, "{note}: {answer:?}");
        assert_eq!(answer.body["code"], "invalid");
        assert_eq!(answer.body["errors"][0]["pointer"], "/note", "{note}");
    }
    for (body, status) in [
        ("", 400),
        ("[]", 400),
        ("{", 400),
        ("\u{feff}{}", 400),
        ("3", 422),
    ] {
        let answer = gateway
            .send(Method::POST, "/v1/rides", "application/json", body)
            .await;
        assert_eq!(answer.status, status, "{body:?}: {answer:?}");
    }
    let too_many = format!("[{}1]", "1,".repeat(10_000));
    let answer = gateway
        .send(Method::POST, "/v1/rides", "application/json", too_many)
        .await;
    assert_eq!(answer.status, 413);
    assert_eq!(log.messages().await, 0);
}

#[tokio::test]
async fn refusals_at_the_door() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    let authorization = format!("Bearer {}", gateway.key);
    let key = [("authorization", authorization.as_str())];
    let body = ride(1).to_string();
    let send = async |method: Method, path: &str, headers: &[(&str, &str)]| {
        let url = format!("http://{}{path}", gateway.address);
        gateway.exchange(method, &url, headers, body.clone()).await
    };
    for path in [
        "/v1/rides",
        "/v1/rides/1",
        "/v1/nothing",
        "/save/booking/detail",
    ] {
        for headers in [&[][..], &[("authorization", "Bearer weir_dev_wrong")]] {
            let answer = send(Method::POST, path, headers).await;
            assert_eq!(answer.status, 401, "{path}");
            let challenges = answer.headers.get_all("www-authenticate");
            assert_eq!(challenges.iter().count(), 2);
            assert_eq!(answer.body["code"], "unauthorized");
        }
    }
    for (method, path, status, allow) in [
        (Method::GET, "/v1/rides", 405, Some("POST")),
        (Method::DELETE, "/v1/rides/1", 405, Some("PUT")),
        (Method::PUT, "/save/booking/detail", 405, Some("POST")),
        (Method::GET, "/v1/requests/x", 404, None),
        (Method::POST, "/v1/carriers", 404, None),
        (Method::POST, "/", 404, None),
        (Method::PUT, "/v1/rides/0", 422, None),
    ] {
        let answer = send(method.clone(), path, &key).await;
        assert_eq!(answer.status, status, "{method} {path}");
        let found = answer
            .headers
            .get("allow")
            .map(|value| value.to_str().unwrap());
        assert_eq!(found, allow, "{method} {path}");
        assert_eq!(answer.body["status"], status);
    }
    let form = [
        key[0],
        ("content-type", "application/x-www-form-urlencoded"),
    ];
    assert_eq!(send(Method::POST, "/v1/rides", &form).await.status, 415);
    let basic = [("authorization", "Basic Og==")];
    assert_eq!(send(Method::POST, "/v1/rides", &basic).await.status, 401);
}

#[tokio::test]
async fn slow_and_broken_requests_are_ended() {
    let log = Log::start(1).await;
    let flags = [
        "--body-read-limit=300ms",
        "--header-read-limit=300ms",
        "--request-deadline=6s",
    ];
    let gateway = Gateway::ready(&log, &flags).await;
    let head = gateway.head("content-length: 100\r\nconnection: close\r\n");
    let answer = send_then_read(gateway.connect().await, format!("{head}{{").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    let head = gateway.head("transfer-encoding: chunked\r\n");
    let answer = send_then_read(gateway.connect().await, format!("{head}zz\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    // Nothing at all, the start of HTTP/2, half a head: each is closed.
    for bytes in ["", "PRI * HT", "POST /v1/rides HT"] {
        let mut stream = gateway.connect().await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "{bytes:?}");
    }
    let answer: Value = gateway.post(&ride(1)).await.body;
    assert_eq!(answer["status"], "accepted");
}

#[tokio::test]
async fn over_the_bound_of_connections_is_an_answer() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &["--connections-max=2"]).await;
    let _held = [gateway.connect().await, gateway.connect().await];
    let request = gateway.head("content-length: 2\r\n") + "{}";
    let answer = send_then_read(gateway.connect().await, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    let problem: Value = serde_json::from_str(body).expect("whole");
    assert_eq!(problem["code"], "overloaded");
    assert_eq!(problem["type"], "urn:weir:problem:overloaded");
}

#[tokio::test]
async fn over_the_bound_of_body_bytes_is_an_answer() {
    let log = Log::start(1).await;
    let patient = [
        "--body-bytes-max=16MiB",
        "--body-read-limit=60s",
        "--request-deadline=70s",
        "--shutdown-grace=80s",
    ];
    let gateway = Gateway::ready(&log, &patient).await;
    let head = gateway.head(&format!("content-length: {BODY_BYTES_MAX}\r\n"));
    let held = async |bytes: f64| {
        let held = eventually(LIMIT, || async {
            let held = gateway.metric("weir_gateway_body_in_flight_bytes").await;
            (held == bytes).then_some(())
        });
        held.await.expect("that much room is held");
    };
    let mut sending = [gateway.connect().await, gateway.connect().await];
    for stream in &mut sending {
        stream.write_all(head.as_bytes()).await.unwrap();
    }
    // A length that is only told takes next to nothing from others.
    held(2.0 * 64.0 * 1024.0).await;
    let accepted = gateway.post(&ride(1)).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");

    let nearly_all = vec![b' '; BODY_BYTES_MAX - 1];
    for stream in &mut sending {
        stream.write_all(&nearly_all).await.unwrap();
    }
    held(2.0 * BODY_BYTES_MAX as f64).await;
    let answer = gateway.post(&ride(1)).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.body["code"], "overloaded");
    drop(sending);
    let accepted = eventually(LIMIT, || async {
        (gateway.post(&ride(1)).await.status == 202).then_some(())
    });
    accepted.await.expect("their room is given back");
}

async fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = GzipEncoder::new(plain);
    encoder.read_to_end(&mut out).await.unwrap();
    out
}

async fn zstd(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = ZstdEncoder::new(plain);
    encoder.read_to_end(&mut out).await.unwrap();
    out
}

const _: () = assert!(NINE_MIB > BODY_BYTES_MAX);
