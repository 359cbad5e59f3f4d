//! The bounds that connections are served within.

use chassis::http::{Limits, TrustedProxies, WhenFull};
use contract::Problem;

use crate::config::Config;

/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Read buffer of an HTTP/1.1 connection at most, in bytes.
const READ_BUFFER_BYTES_MAX: usize = 32 * 1024;

pub(crate) fn limits(config: &Config) -> Limits {
    Limits {
        connections_max: chassis::http::reachable(config.connections_max),
        connections_per_address_max: config.peers.connections_per_address_max,
        trusted_proxies: TrustedProxies::new(&config.peers.trusted_proxies),
        when_full: WhenFull::Wait,
        headers_timeout: config.headers_timeout,
        write_wait: config.peers.answer_read_limit,
        head_bytes_max: HEAD_BYTES_MAX,
        read_buffer_bytes_max: READ_BUFFER_BYTES_MAX,
        cleartext_http2: false,
        refusal,
        metrics_prefix: "weir_status",
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
