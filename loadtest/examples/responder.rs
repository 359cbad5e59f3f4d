//! A bare hyper server that answers as a gateway does, and does nothing else: what the generator
//! itself can reach, measured against it and compared with wrk (docs/loadtest.md).
//!
//! `cargo run --release -p loadtest --example responder` prints its URL.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

static NEXT: AtomicU64 = AtomicU64::new(1);

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let service = service_fn(answer);
            // A client that hangs up ends its connection, which is all there is to it.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let ndjson = request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().ends_with(b"ndjson"));
    let Ok(body) = request.into_body().collect().await else {
        return Ok(Response::new(Full::default()));
    };
    let text = if ndjson {
        let body = body.to_bytes();
        many(
            body.split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .count(),
        )
    } else {
        let id = id();
        format!(r#"{{"tracking_id":"{id}","status":"accepted","status_url":"/v1/requests/{id}"}}"#)
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}

fn many(records: usize) -> String {
    let mut text = String::with_capacity(80 + records * 75);
    let _ = write!(
        text,
        r#"{{"accepted":{records},"rejected":0,"unanswered":0,"results":["#
    );
    for index in 0..records {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(
            text,
            r#"{comma}{{"index":{index},"tracking_id":"{}"}}"#,
            id()
        );
    }
    text.push_str("]}");
    text
}

/// A UUIDv7 by its form, and no other answer's.
fn id() -> String {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("01900000-0000-7000-8000-{number:012x}")
}
