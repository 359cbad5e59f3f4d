//! `GET /v1/requests/{tracking_id}`: what became of one request.

use std::sync::Arc;

use axum::Extension;
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Shared};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use contract::{Problem, TrackingId};
use partners::Partner;

use crate::answer::Refusal;
use crate::api::State;
use crate::instant::Micros;
use crate::ledger::{Asked, LedgerRow};
use crate::query::{self, One, Parameters};
use crate::routes::alarm_unknown;
use crate::settling;
use crate::standing::{RequestStatus, Standing};
use crate::tags;

pub(crate) const ONE: &str = "/v1/requests/{tracking_id}";

/// An outcome never changes; a day bounds what a client keeps after a database was restored.
const TERMINAL_CACHE: &str = "private, max-age=86400, immutable";

/// Version of the object's form, so that a new form gets new tags.
const FORM: u8 = 1;

pub(crate) async fn get(
    Shared(state): Shared<State>,
    Extension(partner): Extension<Arc<Partner>>,
    path: Result<Path<String>, PathRejection>,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let One { wait } = One::read(&query::pairs(parameters)?)?;
    let text = path.map(|Path(text)| text).unwrap_or_default();
    let id = state
        .authentic(&text, &partner)
        .ok_or_else(Refusal::no_such_request)?;
    let asked = Asked {
        id,
        partner_id: partner.id,
    };
    match settling::standing(&state, asked, wait).await? {
        Standing::Ended(row) => Ok(ended(row, &headers)),
        Standing::Queued => Ok(queued(id)),
        Standing::Gone => Err(Refusal::new(
            Problem::Gone,
            "the ledger no longer keeps outcomes this old",
        )),
        Standing::Unknown => {
            alarm_unknown(id, partner.id);
            Err(Refusal::no_such_request())
        }
    }
}

fn queued(id: TrackingId) -> Response {
    let now = Micros::now();
    let retry_after = settling::retry_after(id, now);
    let mut response = Json(RequestStatus::queued(id, now)).into_response();
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, retry_after.as_secs().into());
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn ended(row: LedgerRow, request_headers: &HeaderMap) -> Response {
    let etag = format!("\"{FORM}-{}-{:x}\"", row.outcome as i16, row.completed_at.0);
    let mut response = if tags::has_already(request_headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Json(RequestStatus::ended(row)).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(
        header::ETAG,
        HeaderValue::try_from(etag).expect("visible ASCII"),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static(TERMINAL_CACHE),
    );
    // The same URL is 404 to another partner.
    headers.insert(header::VARY, HeaderValue::from_static("authorization"));
    response
}
