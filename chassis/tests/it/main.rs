//! The admin listener over a real socket, as a probe and a scraper see it.

// The exception for tests does not reach their helpers.
#![allow(clippy::unwrap_used)]

mod silent;
mod transport;

use std::net::SocketAddr;

use chassis::readiness::Readiness;
use chassis::shutdown::Shutdown;
use chassis::telemetry::{LogFormat, TelemetryArgs};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address)
        .await
        .expect("the admin listener accepts");
    let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    let status = answer
        .split(' ')
        .nth(1)
        .expect("a status line")
        .parse()
        .expect("a status");
    let body = answer.split_once("\r\n\r\n").expect("a body").1.to_owned();
    (status, body)
}

#[tokio::test]
async fn probes_and_metrics() {
    let args = TelemetryArgs {
        log_format: LogFormat::Human,
        log_level: "off".into(),
    };
    let telemetry = chassis::telemetry::init(&args, "probed");
    let readiness = Readiness::new();
    let log = readiness.condition("log");
    let shutdown = Shutdown::new();
    let listener = chassis::listen::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let served = chassis::admin::serve(listener, readiness, telemetry, shutdown.clone());
    let task = tokio::spawn(served);

    assert_eq!(get(address, "/livez").await, (200, "alive\n".to_owned()));
    let starting = r#"{"ready":false,"reasons":[{"condition":"log","reason":"starting"}]}"#;
    assert_eq!(get(address, "/readyz").await, (503, starting.to_owned()));
    log.ready();
    assert_eq!(
        get(address, "/readyz").await,
        (200, r#"{"ready":true,"reasons":[]}"#.to_owned())
    );
    let (status, metrics) = get(address, "/metrics").await;
    assert_eq!(status, 200);
    assert!(
        metrics.contains("weir_build_info{service=\"probed\""),
        "{metrics}"
    );
    assert!(
        metrics.contains("process_resident_memory_bytes"),
        "{metrics}"
    );

    shutdown.begin();
    let leaving =
        r#"{"ready":false,"reasons":[{"condition":"shutdown","reason":"shutting down"}]}"#;
    assert_eq!(get(address, "/readyz").await, (503, leaving.to_owned()));
    assert_eq!(get(address, "/livez").await.0, 200);
    task.abort();
}

#[tokio::test]
async fn a_client_that_never_reads_does_not_keep_a_drain() {
    let body = vec![b'x'; 1 << 20];
    let router = axum::Router::new().route("/", axum::routing::get(move || async { body }));
    let listener = chassis::listen::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let limits = chassis::http::Limits {
        connections_max: 1,
        headers_timeout: chassis::shutdown::GRACE * 2,
        ..transport::limits("tested_drain")
    };
    let shutdown = Shutdown::new();
    let served = chassis::http::serve(listener, router, limits, None, shutdown.clone());
    let served = tokio::spawn(served);
    // More than both sides' buffers hold.
    let mut deaf = TcpStream::connect(address).await.unwrap();
    let requests = "GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(32);
    deaf.write_all(requests.as_bytes()).await.unwrap();
    deaf.readable().await.expect("an answer begins");
    shutdown.begin();
    let drained = served.await.expect("no panic");
    drained.expect("drained within the grace");
    drop(deaf);
}
