//! The routes, and what holds for all of them: a key, a count, and a problem for everything else.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::http::{Method, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use chassis::shutdown::Shutdown;
use contract::tracking_id::KeyRing;
use contract::{Problem, TrackingId};
use futures_util::StreamExt as _;
use partners::{Partner, Partners, Scope};

use crate::answer::Refusal;
use crate::config::Config;
use crate::ledger::Ledger;
use crate::observe;
use crate::routes::{courier, failures, lookup, request, ride};
use crate::waiting::Waiters;

/// Before an early refusal, input is discarded up to this size and time: a client that is still
/// writing would otherwise see a reset instead of the answer.
const DISCARD_BYTES_MAX: usize = 16 * 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// What every route needs.
#[derive(Clone)]
pub(crate) struct State(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) ledger: Ledger,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) ledger_retention: Duration,
    pub(crate) shutdown: Shutdown,
    partners: Partners,
    tracking_keys: KeyRing,
}

impl std::ops::Deref for State {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl State {
    pub(crate) fn new(
        config: Config,
        partners: Partners,
        ledger: Ledger,
        waiters: Arc<Waiters>,
        shutdown: Shutdown,
    ) -> Self {
        Self(Arc::new(Shared {
            ledger,
            waiters,
            ledger_retention: config.ledger_retention,
            shutdown,
            partners,
            tracking_keys: config.tracking_keys,
        }))
    }

    /// The id that `text` is, if it was minted for this partner. Needs no database.
    pub(crate) fn authentic(&self, text: &str, partner: &Partner) -> Option<TrackingId> {
        let id = text
            .parse()
            .ok()
            .filter(|id| self.tracking_keys.verify(*id, partner.id));
        if id.is_none() {
            observe::unverified();
        }
        id
    }

    /// Whether an id was minted for this partner. Needs no database.
    pub(crate) fn is_authentic(&self, id: TrackingId, partner: &Partner) -> bool {
        let authentic = self.tracking_keys.verify(id, partner.id);
        if !authentic {
            observe::unverified();
        }
        authentic
    }
}

pub(crate) fn router(state: State) -> Router {
    Router::new()
        .route(request::ONE, get(request::get))
        .route("/v1/requests/lookup", post(lookup::post))
        .route("/v1/requests", get(failures::get))
        .route(ride::ONE, get(ride::get))
        .route(ride::MANY, get(ride::list))
        .route(courier::ONE, get(courier::get))
        .route(courier::MANY, get(courier::list))
        .route("/openapi.json", get(openapi))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(state.clone(), authenticate))
        .layer(from_fn(count))
        .with_state(state)
}

async fn openapi() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "application/json")],
        include_str!("../openapi.json"),
    )
}

async fn not_found(request: Request) -> Refusal {
    discard(request.into_body()).await;
    Refusal::new(Problem::NotFound, "no such route")
}

async fn method_not_allowed(request: Request) -> Refusal {
    let method = request.method().clone();
    discard(request.into_body()).await;
    Refusal::new(
        Problem::MethodNotAllowed,
        format!("{method} is not allowed here; see Allow"),
    )
}

/// Finds the partner of everything below `/v1`, whether there is such a route or not: without a
/// key not even that is told.
async fn authenticate(
    axum::extract::State(state): axum::extract::State<State>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    if path != "/v1" && !path.starts_with("/v1/") {
        return next.run(request).await;
    }
    let header = request.headers().get(header::AUTHORIZATION);
    let key = partners::authorization::key(header);
    let now = SystemTime::now();
    let known = key.map(|key| state.partners.authenticate(&key, Scope::Read, now));
    let refusal = match known {
        Some(Ok(partner)) => {
            request.extensions_mut().insert(partner);
            return next.run(request).await;
        }
        Some(Err(denied)) => Refusal::denied(denied),
        None => Refusal::unauthorized(
            "send the key as Authorization: Bearer KEY, or as Basic user name",
        ),
    };
    discard(request.into_body()).await;
    refusal.into_response()
}

async fn discard(body: Body) {
    let mut chunks = body.into_data_stream();
    let discarding = async {
        let mut bytes = 0;
        while let Some(Ok(chunk)) = chunks.next().await {
            bytes += chunk.len();
            if bytes > DISCARD_BYTES_MAX {
                break;
            }
        }
    };
    // When it takes too long, the connection is closed on what is left.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, discarding).await;
}

/// Reads a body of at most `bytes_max` bytes.
pub(crate) async fn read_body(
    body: Body,
    bytes_max: usize,
    longest: Duration,
) -> Result<Vec<u8>, Refusal> {
    let mut chunks = body.into_data_stream();
    let mut read = Vec::new();
    let reading = async {
        while let Some(chunk) = chunks.next().await {
            let chunk =
                chunk.map_err(|_| Refusal::new(Problem::Malformed, "the body ended early"))?;
            if read.len() + chunk.len() > bytes_max {
                return Err(Refusal::new(
                    Problem::TooLarge,
                    format!("a body here has at most {bytes_max} bytes"),
                ));
            }
            read.extend_from_slice(&chunk);
        }
        Ok(())
    };
    let outcome = tokio::time::timeout(longest, reading).await;
    match outcome {
        Ok(Ok(())) => Ok(read),
        Ok(Err(refusal)) => {
            discard(Body::from_stream(chunks)).await;
            Err(refusal)
        }
        Err(_) => Err(Refusal::new(
            Problem::RequestTimeout,
            format!("the body took longer than {longest:?}"),
        )),
    }
}

/// Counts and times every answer by the route's pattern, never by the path itself.
async fn count(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let pattern = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("none", MatchedPath::as_str);
    let waits = waits(pattern, request.uri().query().unwrap_or_default());
    let route = format!("{pattern}{waits}");
    let method = known_method(request.method());
    let response = next.run(request).await;
    observe::request(
        &route,
        method,
        response.status().as_u16(),
        started.elapsed(),
    );
    response
}

/// Long polls take as long as they are asked to: apart, so as not to blur the others.
fn waits(pattern: &str, query: &str) -> &'static str {
    match pattern {
        request::ONE if query.contains("wait=") => "?wait",
        ride::ONE | ride::MANY | courier::ONE | courier::MANY if query.contains("after=") => {
            "?after"
        }
        _ => "",
    }
}

/// Anything can be sent as a method; a label has few values.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
