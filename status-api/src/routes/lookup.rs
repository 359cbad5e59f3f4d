//! `POST /v1/requests/lookup`: what became of up to a thousand requests, in one statement.

use std::collections::BTreeMap;
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
use serde_json::value::RawValue;

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
///
/// What the grammar of RFC 8259 does not allow is malformed. The rest is taken apart without
/// reading it, so that a value no text can be is the fault of its place alone.
fn parse(body: &[u8]) -> Result<Vec<String>, Refusal> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Refusal::new(
            Problem::Empty,
            "send {\"tracking_ids\": [...]}",
        ));
    }
    let body: &RawValue = serde_json::from_slice(body).map_err(|error| {
        let detail = format!("line {}, column {}: not JSON", error.line(), error.column());
        Refusal::new(Problem::Malformed, detail)
    })?;
    if !body.get().starts_with('{') {
        return Err(fault("", "must be an object: {\"tracking_ids\": [...]}"));
    }
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_str(body.get())
        .map_err(|_| fault("", "has a member whose name holds half of a surrogate pair"))?;
    let Some(ids) = members.remove("tracking_ids") else {
        return Err(fault("/tracking_ids", "is required"));
    };
    let ids: Vec<&RawValue> = serde_json::from_str(ids.get())
        .map_err(|_| fault("/tracking_ids", "must be an array of strings"))?;
    if ids.len() > LOOKUP_IDS_MAX {
        let detail = format!(
            "{} tracking ids: at most {LOOKUP_IDS_MAX} in one call",
            ids.len()
        );
        return Err(Refusal::new(Problem::TooLarge, detail));
    }
    texts(&ids)
}

fn texts(ids: &[&RawValue]) -> Result<Vec<String>, Refusal> {
    let mut texts = Vec::with_capacity(ids.len());
    let mut faults = Vec::new();
    for (index, id) in ids.iter().enumerate() {
        let detail = match serde_json::from_str(id.get()) {
            Ok(text) => {
                texts.push(text);
                continue;
            }
            Err(_) if id.get().starts_with('"') => "holds half of a surrogate pair",
            Err(_) => "must be a string",
        };
        faults.push(Fault {
            pointer: format!("/tracking_ids/{index}"),
            detail: detail.into(),
        });
    }
    if faults.is_empty() {
        Ok(texts)
    } else {
        Err(Refusal::invalid(faults))
    }
}

fn fault(pointer: &str, detail: &str) -> Refusal {
    Refusal::invalid(vec![Fault {
        pointer: pointer.to_owned(),
        detail: detail.to_owned(),
    }])
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
    fn what_the_grammar_allows_and_no_text_holds_is_the_fault_of_its_place() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        for (body, pointer) in [
            (r#"{"tracking_ids":["a","\ud800"]}"#, "/tracking_ids/1"),
            (r#"{"tracking_ids":[1e999]}"#, "/tracking_ids/0"),
            (r#"{"tracking_ids":1e999}"#, "/tracking_ids"),
            (r#"{"tracking_ids":[],"\ud800":1}"#, ""),
            ("1e999", ""),
            (&format!("{{\"tracking_ids\":[{deep}]}}"), "/tracking_ids/0"),
        ] {
            let refusal = parse(body.as_bytes()).expect_err("refused");
            let document = serde_json::to_value(refusal.document()).expect("JSON");
            assert_eq!(document["status"], 422, "{body}");
            assert_eq!(document["errors"][0]["pointer"], pointer, "{body}");
        }
        // Members that are not asked for are nobody's business.
        assert_eq!(
            status_of(r#"{"tracking_ids":[],"note":[1e999,"\ud800"]}"#),
            200
        );
        for body in [r#"{"tracking_ids":["\ud8"]}"#, "{}{}", "[01]", "\u{feff}{}"] {
            assert_eq!(status_of(body), 400, "{body}");
        }
        assert!(parse(b"{\"tracking_ids\":[\"\xff\"]}").is_err());
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
