//! Answers: acceptances, and problems in the shapes of the routes they belong to.

use std::fmt::Write as _;

use bytes::Bytes;
use contract::problem::ProblemDocument;
use contract::{Problem, TrackingId};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use crate::refusal::Refusal;

pub(crate) type Answer = Response<Full<Bytes>>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Seconds after which a retryable refusal may be tried again unless it says otherwise: a reconnect
/// or an election.
const RETRY_AFTER_SECONDS: u32 = 1;

/// Which shape a route's refusals have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    /// RFC 9457.
    Problem,
    /// What XRides' existing client reads.
    Save,
}

fn with_body(status: u16, content_type: HeaderValue, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = StatusCode::from_u16(status).expect("problems have valid statuses");
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

/// 200 with a document that never changes while the process lives.
pub(crate) fn document(text: &'static str) -> Answer {
    with_body(200, JSON, Bytes::from_static(text.as_bytes()))
}

/// 202 for one record.
pub(crate) fn accepted(id: TrackingId, status_base: &str) -> Answer {
    let status_url = format!("{status_base}/v1/requests/{id}");
    let body =
        format!(r#"{{"tracking_id":"{id}","status":"accepted","status_url":"{status_url}"}}"#);
    let mut answer = with_body(202, JSON, body);
    let location = HeaderValue::try_from(status_url)
        .expect("the base URL was checked at start, and an id is ASCII");
    answer.headers_mut().insert(LOCATION, location);
    answer
}

/// 202 as XRides' existing client reads it.
pub(crate) fn saved(record_id: i64, id: TrackingId) -> Answer {
    let body = format!(r#"{{"id":{record_id},"type":1,"error":"","tracking_id":"{id}"}}"#);
    with_body(202, JSON, body)
}

#[derive(Serialize)]
struct SaveRefusal<'a> {
    id: Option<i64>,
    r#type: u8,
    error: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    retryable: bool,
    errors: &'a [contract::problem::Fault],
}

/// A refusal of the whole request.
pub(crate) fn refusal(refusal: Refusal, shape: Shape) -> Answer {
    let (problem, id, header) = (refusal.problem, refusal.id, refusal.header);
    let (retry_after, rate_limit) = (refusal.retry_after, refusal.rate_limit);
    let document = problem.document(refusal.detail).with_errors(refusal.faults);
    let (content_type, body) = match shape {
        Shape::Problem => (PROBLEM_JSON, to_json(&document)),
        Shape::Save => (
            JSON,
            to_json(&SaveRefusal {
                id,
                r#type: 2,
                error: &document.detail,
                title: document.title,
                status: document.status,
                detail: &document.detail,
                code: document.code,
                retryable: document.retryable,
                errors: &document.errors,
            }),
        ),
    };
    let mut answer = with_body(problem.status(), content_type, body);
    add_headers(&mut answer, problem, retry_after);
    if let Some(fields) = rate_limit {
        fields.write(answer.headers_mut());
    }
    if let Some(header) = header {
        let (name, value) = *header;
        answer
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    answer
}

fn add_headers(answer: &mut Answer, problem: Problem, retry_after: Option<u32>) {
    let headers = answer.headers_mut();
    match problem {
        Problem::Unauthorized => {
            for challenge in ["Bearer realm=\"weir\"", "Basic realm=\"weir\""] {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
        }
        Problem::UnsupportedMediaType => {
            let types = "application/json, application/x-ndjson, application/jsonl";
            headers.insert(ACCEPT, HeaderValue::from_static(types));
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd"));
        }
        _ if matches!(problem.status(), 429 | 503) => {
            let seconds = retry_after.unwrap_or(RETRY_AFTER_SECONDS);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        _ => {}
    }
}

/// What became of one item of many.
#[derive(Debug)]
pub(crate) enum ItemAnswer {
    Accepted(TrackingId),
    /// Refused by its own fault or by the log: surely not stored.
    Rejected(Box<Refusal>),
    Unanswered(Box<Refusal>),
}

/// The answer to an array or NDJSON, item by item in the order of the body.
pub(crate) fn many(items: Vec<ItemAnswer>) -> Answer {
    let (mut accepted, mut rejected, mut unanswered) = (0_usize, 0_usize, 0_usize);
    let mut temporary = None;
    // Of all items, the last to be worth trying again.
    let mut retry_after = None;
    let mut results = String::with_capacity(items.len() * 72);
    for (index, item) in items.into_iter().enumerate() {
        results.push(if index == 0 { '[' } else { ',' });
        write!(results, r#"{{"index":{index},"#).expect("a String grows");
        match item {
            ItemAnswer::Accepted(id) => {
                accepted += 1;
                write!(results, r#""tracking_id":"{id}"}}"#).expect("a String grows");
                continue;
            }
            ItemAnswer::Rejected(refusal) => {
                rejected += 1;
                retry_after = retry_after.max(refusal.retry_after);
                if refusal.problem.retryable() {
                    temporary.get_or_insert(refusal.problem);
                }
                push_error(&mut results, *refusal);
            }
            ItemAnswer::Unanswered(refusal) => {
                unanswered += 1;
                temporary = Some(Problem::Unanswered);
                push_error(&mut results, *refusal);
            }
        }
    }
    results.push(']');
    let counts = format!(
        r#""accepted":{accepted},"rejected":{rejected},"unanswered":{unanswered},"results":{results}}}"#
    );
    if accepted > 0 {
        return with_body(202, JSON, format!("{{{counts}"));
    }
    let problem = temporary.unwrap_or(Problem::Invalid);
    let detail = match problem {
        Problem::Invalid => "none of the items is a valid record".to_owned(),
        _ => format!(
            "none of the items was accepted: {rejected} were rejected, {unanswered} not answered \
             in time"
        ),
    };
    let mut body = to_json(&problem.document(detail));
    // The problem's members first, then the same as in an acceptance.
    body.pop();
    body.push(b',');
    body.extend_from_slice(counts.as_bytes());
    let mut answer = with_body(problem.status(), PROBLEM_JSON, body);
    add_headers(&mut answer, problem, retry_after);
    answer
}

fn push_error(results: &mut String, refusal: Refusal) {
    let document: ProblemDocument = refusal
        .problem
        .document(refusal.detail)
        .with_errors(refusal.faults);
    let document = serde_json::to_string(&document).expect("a problem can be written");
    results.push_str(r#""error":"#);
    results.push_str(&document);
    results.push('}');
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings, numbers and lists can be written")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};

    async fn parts(answer: Answer) -> (u16, http::HeaderMap, Value) {
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (
            head.status.as_u16(),
            head.headers,
            serde_json::from_slice(&body).unwrap(),
        )
    }

    fn id() -> TrackingId {
        "01234567-89ab-7aaa-aa55-550f0fc30000".parse().unwrap()
    }

    fn rejected(problem: Problem) -> ItemAnswer {
        ItemAnswer::Rejected(Box::new(Refusal::new(problem, "why")))
    }

    fn unanswered() -> ItemAnswer {
        ItemAnswer::Unanswered(Box::new(Refusal::new(Problem::Unanswered, "why")))
    }

    #[tokio::test]
    async fn one_acceptance_names_where_to_ask() {
        let (status, headers, body) = parts(accepted(id(), "http://status")).await;
        let url = format!("http://status/v1/requests/{}", id());
        assert_eq!(status, 202);
        assert_eq!(headers[LOCATION], url);
        assert_eq!(
            body,
            json!({"tracking_id": id(), "status": "accepted", "status_url": url})
        );
    }

    #[tokio::test]
    async fn many_is_202_if_any_was_accepted() {
        let items = vec![
            rejected(Problem::Invalid),
            ItemAnswer::Accepted(id()),
            unanswered(),
        ];
        let (status, headers, body) = parts(many(items)).await;
        assert_eq!((status, &headers[CONTENT_TYPE]), (202, &JSON));
        assert_eq!(body["accepted"], 1);
        assert_eq!(body["rejected"], 1);
        assert_eq!(body["unanswered"], 1);
        assert_eq!(body["results"][0]["error"]["code"], "invalid");
        assert_eq!(body["results"][1], json!({"index": 1, "tracking_id": id()}));
        assert_eq!(body["results"][2]["error"]["code"], "unanswered");
    }

    #[tokio::test]
    async fn many_is_422_if_all_were_bad_and_503_if_not_all_were() {
        let bad = || rejected(Problem::Invalid);
        for (items, status, code) in [
            (vec![bad(), rejected(Problem::Malformed)], 422, "invalid"),
            (vec![bad(), unanswered()], 503, "unanswered"),
            (
                vec![rejected(Problem::Overloaded), bad()],
                503,
                "overloaded",
            ),
            (
                vec![rejected(Problem::Overloaded), unanswered()],
                503,
                "unanswered",
            ),
        ] {
            let count = items.len();
            let (found, headers, body) = parts(many(items)).await;
            assert_eq!((found, body["code"].as_str()), (status, Some(code)));
            assert_eq!(headers[CONTENT_TYPE], PROBLEM_JSON);
            assert_eq!(headers.contains_key(RETRY_AFTER), status == 503);
            assert_eq!(body["results"].as_array().map(Vec::len), Some(count));
            assert_eq!(body["accepted"], 0);
        }
    }

    #[tokio::test]
    async fn the_old_client_gets_its_own_shape() {
        let mut fault = Refusal::new(Problem::Invalid, "why");
        fault.id = Some(7);
        let (status, headers, body) = parts(refusal(fault, Shape::Save)).await;
        assert_eq!((status, &headers[CONTENT_TYPE]), (422, &JSON));
        assert_eq!(
            body,
            json!({"id": 7, "type": 2, "error": "why", "title": "Not a valid record",
                "status": 422, "detail": "why", "code": "invalid", "retryable": false, "errors": []})
        );
        let (_, _, body) = parts(saved(7, id())).await;
        assert_eq!(
            body,
            json!({"id": 7, "type": 1, "error": "", "tracking_id": id()})
        );
    }
}
