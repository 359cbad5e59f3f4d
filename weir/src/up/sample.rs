//! Five rides, so that a newcomer sees the whole way of a record.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use devstack::stack::Endpoints;
use serde::Deserialize;
use serde_json::Value;

use crate::client::{Api, RequestError};
use crate::screen::Screen;

/// The rides; their ids are replaced.
const RIDES: &str = include_str!("../../samples/rides.ndjson");
/// How long a ride may stay queued before the sample is given up.
const OUTCOME_LIMIT: Duration = Duration::from_secs(30);

/// The sample did not go through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SampleError {
    #[error("the sample could not be pushed")]
    Request(#[from] RequestError),
    #[error("the gateway answered {status} to the sample: {body}")]
    Refused { status: u16, body: String },
    #[error("the status API answered {status} about a ride of the sample: {body}")]
    Status { status: u16, body: String },
    #[error("a ride of the sample was still queued after {OUTCOME_LIMIT:?}")]
    Queued,
}

#[derive(Deserialize)]
struct Accepted {
    results: Vec<Answered>,
}

#[derive(Deserialize)]
struct Answered {
    index: usize,
    tracking_id: Option<String>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Outcome {
    status: String,
    detail: Option<String>,
    delay_ms: Option<i64>,
}

/// An id that no earlier run has used: the present millisecond.
pub(super) fn fresh_id() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = now.unwrap_or_default().as_millis();
    u64::try_from(millis).expect("the year is below 500 million")
}

/// One ride of the sample under an id of the caller's, as JSON.
pub(super) fn ride(line: usize, id: u64) -> Value {
    let line = RIDES.lines().nth(line).expect("the sample has that line");
    let mut ride: Value = serde_json::from_str(line).expect("the sample is JSON");
    ride["id"] = Value::from(id);
    ride
}

/// Pushes the sample and shows each outcome; gives the first ride's tracking id.
pub(super) async fn push(
    endpoints: &Endpoints,
    screen: &Screen,
) -> Result<Option<String>, SampleError> {
    let api = Api::new(&endpoints.partners[0].api_key);
    let first_id = fresh_id();
    let count = RIDES.lines().count();
    let ids: Vec<u64> = (first_id..).take(count).collect();
    let mut body = String::new();
    for (line, id) in ids.iter().enumerate() {
        body.push_str(&ride(line, *id).to_string());
        body.push('\n');
    }
    screen.line(&format!("pushing a sample of {count} rides"));
    let url = format!("{}/v1/rides", endpoints.gateway[0]);
    let (status, answer) = api
        .post(&url, "application/x-ndjson", Bytes::from(body))
        .await?;
    let refused = || SampleError::Refused {
        status: status.as_u16(),
        body: String::from_utf8_lossy(&answer).into_owned(),
    };
    if status != http::StatusCode::ACCEPTED {
        return Err(refused());
    }
    let accepted: Accepted = serde_json::from_slice(&answer).map_err(|_| refused())?;
    let mut example = None;
    for answered in accepted.results {
        let id = ids.get(answered.index).copied().unwrap_or_default();
        match answered.tracking_id {
            Some(tracking_id) => {
                let outcome = outcome_of(&api, &endpoints.status[0], &tracking_id).await?;
                screen.line(&outcome_line(id, &tracking_id, &outcome));
                example.get_or_insert(tracking_id);
            }
            None => screen.line(&format!(
                "  ride {id}  refused  {}",
                answered.error.unwrap_or_default()
            )),
        }
    }
    Ok(example)
}

async fn outcome_of(
    api: &Api,
    status_url: &str,
    tracking_id: &str,
) -> Result<Outcome, SampleError> {
    let url = format!("{status_url}/v1/requests/{tracking_id}?wait=5s");
    let begun = Instant::now();
    while begun.elapsed() < OUTCOME_LIMIT {
        let (status, body) = api.get(&url).await?;
        let unreadable = || SampleError::Status {
            status: status.as_u16(),
            body: String::from_utf8_lossy(&body).into_owned(),
        };
        if status != http::StatusCode::OK {
            return Err(unreadable());
        }
        let outcome: Outcome = serde_json::from_slice(&body).map_err(|_| unreadable())?;
        if outcome.status != "queued" {
            return Ok(outcome);
        }
    }
    Err(SampleError::Queued)
}

fn outcome_line(id: u64, tracking_id: &str, outcome: &Outcome) -> String {
    let mut line = format!("  ride {id}  {tracking_id}  {}", outcome.status);
    if let Some(delay) = outcome.delay_ms {
        line.push_str(&format!(" after {delay} ms"));
    }
    if let Some(detail) = &outcome.detail {
        line.push_str(&format!(": {detail}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ride_of_the_sample_takes_an_id() {
        assert_eq!(RIDES.lines().count(), 5);
        for line in 0..5 {
            assert_eq!(ride(line, 77)["id"], 77);
        }
    }
}
