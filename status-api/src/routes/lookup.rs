//! `POST /v1/requests/lookup`: what became of up to a thousand requests, in one statement.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use contract::Problem;
use contract::limits::LOOKUP_IDS_MAX;
use contract::problem::Fault;
use partners::Partner;
use serde::Serialize;
use serde_json::Value;

use crate::answer::Refusal;
use crate::api::{State, read_body};
use crate::instant::Micros;
use crate::ledger::Asked;
use crate::observe;
use crate::routes::alarm_unknown;
use crate::standing::{RequestStatus, Standing, judge};

/// Largest body, in bytes: a thousand ids take 40 kB, or 80 kB when laid out for people.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// Longest time for it to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct Answer {
    results: Vec<RequestStatus>,
}

pub(crate) async fn post(
    Shared(state): Shared<State>,
    Extension(partner): Extension<Arc<Partner>>,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let body = read_body(body, BODY_BYTES_MAX, BODY_TIMEOUT).await?;
    check_type(&parts.headers)?;
    let texts = parse(&body)?;
    let ids: Vec<_> = texts
        .iter()
        .map(|text| state.authentic(text, &partner))
        .collect();
    let asked: Vec<Asked> = ids
        .iter()
        .flatten()
        .map(|id| Asked {
            id: *id,
            partner_id: partner.id,
        })
        .collect();
    let seen = match asked.as_slice() {
        [] => Vec::new(),
        some => state.ledger.look_up(some, observe::Query::Lookup).await?,
    };
    let now = Micros::now();
    let mut seen = seen.into_iter();
    let results = texts.into_iter().zip(ids).map(|(text, id)| {
        let Some(id) = id else {
            return RequestStatus::unknown(text);
        };
        let seen = seen.next().expect("one row per id asked for");
        match judge(id, seen, now, state.ledger_retention) {
            Standing::Ended(row) => RequestStatus::ended(row),
            Standing::Queued => RequestStatus::queued(id, now),
            Standing::Gone => RequestStatus::gone(id),
            Standing::Unknown => {
                alarm_unknown(id, partner.id);
                RequestStatus::unknown(text)
            }
        }
    });
    let mut response = Json(Answer {
        results: results.collect(),
    })
    .into_response();
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn check_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let refuse = |detail: &str| Err(Refusal::new(Problem::UnsupportedMediaType, detail));
    if headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|it| it != "identity")
    {
        return refuse("send the body without Content-Encoding");
    }
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let essence = value
        .to_str()
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        refuse("send application/json")
    }
}

/// The ids as they were sent: any text is one, if perhaps nobody's.
fn parse(body: &[u8]) -> Result<Vec<String>, Refusal> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Refusal::new(
            Problem::Empty,
            "send {\"tracking_ids\": [...]}",
        ));
    }
    let body: Value = serde_json::from_slice(body).map_err(|error| {
        let detail = format!("line {}, column {}: not JSON", error.line(), error.column());
        Refusal::new(Problem::Malformed, detail)
    })?;
    let fault = |pointer: &str, detail: &str| {
        Refusal::invalid(vec![Fault {
            pointer: pointer.to_owned(),
            detail: detail.to_owned(),
        }])
    };
    let Value::Object(mut members) = body else {
        return Err(fault("", "must be an object: {\"tracking_ids\": [...]}"));
    };
    let ids = match members.remove("tracking_ids") {
        Some(Value::Array(ids)) => ids,
        Some(_) => return Err(fault("/tracking_ids", "must be an array of strings")),
        None => return Err(fault("/tracking_ids", "is required")),
    };
    if ids.len() > LOOKUP_IDS_MAX {
        let detail = format!(
            "{} tracking ids: at most {LOOKUP_IDS_MAX} in one call",
            ids.len()
        );
        return Err(Refusal::new(Problem::TooLarge, detail));
    }
    let mut texts = Vec::with_capacity(ids.len());
    let mut faults = Vec::new();
    for (index, id) in ids.into_iter().enumerate() {
        match id {
            Value::String(text) => texts.push(text),
            _ => faults.push(Fault {
                pointer: format!("/tracking_ids/{index}"),
                detail: "must be a string".into(),
            }),
        }
    }
    if faults.is_empty() {
        Ok(texts)
    } else {
        Err(Refusal::invalid(faults))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(body: &str) -> u16 {
        match parse(body.as_bytes()) {
            Ok(_) => 200,
            Err(refusal) => refusal.into_response().status().as_u16(),
        }
    }

    #[test]
    fn bodies() {
        assert_eq!(
            parse(br#"{"tracking_ids":["a","b"]}"#).expect("two ids"),
            ["a", "b"]
        );
        assert_eq!(status_of(r#"{"tracking_ids":[]}"#), 200);
        assert_eq!(status_of(""), 400);
        assert_eq!(status_of(" \n"), 400);
        assert_eq!(status_of("{"), 400);
        assert_eq!(status_of("[]"), 422);
        assert_eq!(status_of("{}"), 422);
        assert_eq!(status_of(r#"{"tracking_ids":"a"}"#), 422);
        assert_eq!(status_of(r#"{"tracking_ids":["a",1]}"#), 422);
        let many = |count| format!("{{\"tracking_ids\":{:?}}}", vec!["x"; count]);
        assert_eq!(status_of(&many(1_000)), 200);
        assert_eq!(status_of(&many(1_001)), 413);
    }

    #[test]
    fn content_types() {
        let with = |value: &'static str| {
            check_type(&HeaderMap::from_iter([(
                header::CONTENT_TYPE,
                HeaderValue::from_static(value),
            )]))
            .is_ok()
        };
        assert!(with("application/json"));
        assert!(with("Application/JSON; charset=utf-8"));
        assert!(!with("application/x-www-form-urlencoded"));
        assert!(check_type(&HeaderMap::new()).is_ok());
    }
}
