//! `GET /v1/requests/{tracking_id}`: what became of one request.

use std::sync::Arc;
use std::time::Duration;

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
use crate::observe;
use crate::query::{self, One, Parameters};
use crate::routes::alarm_unknown;
use crate::standing::{RequestStatus, Standing, judge};
use crate::waiting::NoOutcome;

/// An outcome never changes; a day bounds what a client keeps after a database was restored.
const TERMINAL_CACHE: &str = "private, max-age=86400, immutable";

/// Version of the object's form, so that a new form gets new tags.
const FORM: u8 = 1;

/// Bounds of `Retry-After` while queued.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

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
    let mut standing = look_up(&state, asked).await?;
    if let (Standing::Queued, Some(wait)) = (&standing, wait) {
        standing = wait_for(&state, asked, wait).await?;
    }
    match standing {
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

async fn look_up(state: &State, asked: Asked) -> Result<Standing, Refusal> {
    let seen = state
        .ledger
        .look_up(&[asked], observe::Query::Lookup)
        .await?;
    let seen = seen.into_iter().next().expect("one row per id asked for");
    Ok(judge(asked.id, seen, Micros::now(), state.ledger_retention))
}

/// Ends early, as queued, when the process is going away.
async fn wait_for(state: &State, asked: Asked, wait: Duration) -> Result<Standing, Refusal> {
    let outcome = tokio::select! {
        outcome = state.waiters.wait(asked, wait) => outcome,
        () = state.shutdown.begun() => Err(NoOutcome::StillQueued),
    };
    match outcome {
        Ok(standing) => Ok(standing),
        Err(NoOutcome::StillQueued) => Ok(Standing::Queued),
        Err(NoOutcome::Full) => Err(Refusal::overloaded(
            "too many requests are waiting; ask without wait, or later",
        )),
        Err(NoOutcome::DatabaseAway(error)) => Err(Refusal::database_away(&error)),
    }
}

fn queued(id: TrackingId) -> Response {
    let now = Micros::now();
    // Whoever has waited long may ask less often.
    let waited = Duration::from_millis(now.ms_since(Micros::from_unix_ms(id.unix_ms())));
    let retry_after = (waited / 4).clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX);
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
    let mut response = if has_already(request_headers, &etag) {
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

/// RFC 9110, section 13.1.2: weak comparison with each tag of the list.
fn has_already(headers: &HeaderMap, etag: &str) -> bool {
    let lists = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut tags = lists.flat_map(|list| list.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_weakly_and_in_lists() {
        let matches = |list: &'static str| {
            let headers =
                HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static(list))]);
            has_already(&headers, "\"1-1-a\"")
        };
        assert!(matches("\"1-1-a\""));
        assert!(matches("W/\"1-1-a\""));
        assert!(matches("\"x\", \"1-1-a\""));
        assert!(matches("*"));
        assert!(!matches("\"1-1-b\""));
        assert!(!matches("1-1-a"));
        assert!(!has_already(&HeaderMap::new(), "\"1-1-a\""));
    }
}
