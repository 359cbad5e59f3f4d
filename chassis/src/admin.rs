//! The admin listener: `/livez`, `/readyz` and `/metrics`, apart from the port that users call.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::net::TcpListener;

use crate::http::{self, Limits, TrustedProxies, WhenFull};
use crate::readiness::{NotReady, Noted, Readiness};
use crate::shutdown::Shutdown;
use crate::telemetry::Telemetry;
use crate::write_bound::WRITE_WAIT;

/// Most connections of probes and scrapers at once: each asks every few seconds.
const CONNECTIONS_MAX: usize = 64;

/// Longer than the interval of most probes and scrapers, so that they keep their connection.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(75);

/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

#[derive(Clone)]
struct Admin {
    readiness: Readiness,
    telemetry: Arc<Telemetry>,
    shutdown: Shutdown,
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
    reasons: Vec<NotReady>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<Noted>,
}

/// Serves until it is dropped or aborted: spawn it, and abort it as the last thing the process
/// does. During a drain it still answers, with `/readyz` saying that the process is leaving.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    telemetry: Telemetry,
    shutdown: Shutdown,
) -> io::Result<()> {
    let limits = Limits {
        connections_max: CONNECTIONS_MAX,
        // Probes and scrapers share an address more often than not.
        connections_per_address_max: u32::MAX,
        trusted_proxies: TrustedProxies::default(),
        when_full: WhenFull::Wait,
        headers_timeout: HEADERS_TIMEOUT,
        write_wait: WRITE_WAIT,
        head_bytes_max: HEAD_BYTES_MAX,
        read_buffer_bytes_max: HEAD_BYTES_MAX,
        cleartext_http2: false,
        refusal,
        metrics_prefix: "weir_admin",
    };
    let telemetry = Arc::new(telemetry);
    let routes = router(Admin {
        readiness,
        telemetry: Arc::clone(&telemetry),
        shutdown,
    });
    tokio::select! {
        // A shutdown of its own, which never begins: it answers until the end.
        served = http::serve(listener, routes, limits, None, Shutdown::new()) => served.map_err(io::Error::other),
        () = telemetry.upkeep() => Ok(()),
    }
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(admin)
}

/// For what no route sees.
fn refusal(status: u16, detail: &str) -> String {
    serde_json::json!({"type": "about:blank", "status": status, "detail": detail}).to_string()
}

async fn readyz(State(admin): State<Admin>) -> impl IntoResponse {
    let mut reasons = admin.readiness.reasons();
    if admin.shutdown.is_begun() {
        reasons.push(NotReady {
            condition: "shutdown".into(),
            reason: "shutting down".into(),
        });
    }
    let status = if reasons.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(Ready {
            ready: reasons.is_empty(),
            reasons,
            notes: admin.readiness.notes(),
        }),
    )
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        admin.telemetry.render(),
    )
}
