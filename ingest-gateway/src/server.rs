//! Connections: the bounds that the gateway serves them within, HTTP/1.1 and HTTP/2 on one port.

use std::sync::Arc;

use bytes::Bytes;
use chassis::http::{Handler, Limits, TrustedProxies, WhenFull};
use chassis::shutdown::Shutdown;
use chassis::tls::Tls;
use contract::Problem;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::net::TcpListener;

use crate::config::Args;
use crate::ingest::Gateway;

/// Largest request head, in bytes: a key, a path and what clients add by themselves.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Read buffer of an HTTP/1.1 connection at most, in bytes. A body of a hundred rides fits.
const READ_BUFFER_BYTES_MAX: usize = 128 * 1024;

/// Accepts and serves connections until shutdown begins, then lets each finish what it has begun.
/// Returns when the last connection is closed.
pub(crate) async fn serve(
    listener: TcpListener,
    gateway: Arc<Gateway>,
    args: &Args,
    tls: Option<Arc<Tls>>,
    shutdown: Shutdown,
) {
    let limits = Limits {
        connections_max: chassis::http::reachable(args.connections_max as usize),
        connections_per_address_max: args.peers.connections_per_address_max,
        trusted_proxies: TrustedProxies::new(&args.peers.trusted_proxies),
        when_full: WhenFull::TurnAway,
        headers_timeout: args.header_read_limit,
        write_wait: args.peers.answer_read_limit,
        head_bytes_max: HEAD_BYTES_MAX,
        read_buffer_bytes_max: READ_BUFFER_BYTES_MAX,
        cleartext_http2: true,
        refusal,
        metrics_prefix: "weir_gateway",
    };
    let requests = Requests(gateway);
    chassis::http::serve_to_the_end(listener, requests, limits, tls, shutdown).await;
}

#[derive(Clone)]
struct Requests(Arc<Gateway>);

impl Handler for Requests {
    type Body = Full<Bytes>;

    async fn handle(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.0.handle(request).await
    }
}

/// The problem of a request or connection that no route sees.
fn refusal(status: u16, detail: &str) -> String {
    let problem = match status {
        503 => Problem::Overloaded,
        _ => Problem::Malformed,
    };
    let mut document = problem.document(detail);
    // HTTP has finer words than the vocabulary: 414, 431.
    document.status = status;
    if problem == Problem::Malformed {
        document.title = "Not a request that can be read";
    }
    serde_json::to_string(&document).expect("a problem is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_the_status_that_it_is_sent_with() {
        for (status, code) in [(400, "malformed"), (414, "malformed"), (503, "overloaded")] {
            let document: serde_json::Value =
                serde_json::from_str(&refusal(status, "why")).expect("JSON");
            assert_eq!(document["status"], status);
            assert_eq!(document["code"], code);
            assert_eq!(document["type"], format!("urn:weir:problem:{code}"));
            assert_eq!(document["detail"], "why");
        }
    }
}
