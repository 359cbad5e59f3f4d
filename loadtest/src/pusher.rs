//! A closed-loop pusher that costs as little as a client can: one task and one raw connection
//! each, bodies built ahead, answers hardly looked at. For measurements on a machine that the
//! generator shares with what it measures.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::base_url::BaseUrl;
use crate::latency::Latencies;

/// How long a request may take after the time is over before it is abandoned.
const LAST_ANSWER_WAIT: Duration = Duration::from_secs(10);
/// Pause before a broken connection is opened again, so that a dead server is not hammered.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// Pushes to `/v1/rides` over a fixed number of connections, each sending its next request when
/// the answer to the last is there.
#[derive(Clone, Debug)]
pub struct Pusher {
    base: BaseUrl,
    headers: HeaderMap,
    connections: usize,
    duration: Duration,
}

/// What a pusher cannot be made of.
#[derive(Debug, thiserror::Error)]
pub enum PusherError {
    /// Not a base URL.
    #[error("cannot push to {url:?}: {why}")]
    Url {
        /// What was given.
        url: String,
        /// Why not.
        why: String,
    },
    /// A key or content type that no header can carry.
    #[error("{0} holds characters that no header can carry")]
    Header(&'static str),
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct PushReport {
    /// Requests that were answered.
    pub requests: u64,
    /// Records that the answers say were accepted.
    pub records_accepted: u64,
    /// Answers by HTTP status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without a whole answer, and connections that did not open.
    pub errors: u64,
    /// Of answers with status 202.
    pub latency: Latencies,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

impl PushReport {
    /// Answered requests a second.
    #[must_use]
    pub fn requests_per_second(&self) -> f64 {
        per_second(self.requests, self.elapsed)
    }

    /// Accepted records a second.
    #[must_use]
    pub fn records_per_second(&self) -> f64 {
        per_second(self.records_accepted, self.elapsed)
    }

    /// Answers that were not 202, and requests without one.
    #[must_use]
    pub fn not_accepted(&self) -> u64 {
        let accepted = self.statuses.get(&StatusCode::ACCEPTED.as_u16());
        self.requests - accepted.copied().unwrap_or_default() + self.errors
    }

    /// Adds what another pusher did at the same time, to another gateway for instance.
    pub fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.records_accepted += other.records_accepted;
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        self.errors += other.errors;
        self.latency.merge(&other.latency);
        self.elapsed = self.elapsed.max(other.elapsed);
    }
}

fn per_second(count: u64, elapsed: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a throughput need not be exact")]
    let count = count as f64;
    count / elapsed.as_secs_f64().max(1e-9)
}

impl Pusher {
    /// A pusher with 64 connections and ten seconds.
    ///
    /// # Errors
    /// When `url` is no `http://` base URL, or the key or content type cannot be sent.
    pub fn new(url: &str, key: &str, content_type: &str) -> Result<Self, PusherError> {
        let base: BaseUrl = url.parse().map_err(|why| PusherError::Url {
            url: url.to_owned(),
            why,
        })?;
        let mut headers = HeaderMap::new();
        let value =
            |text: &str, name| HeaderValue::from_str(text).map_err(|_| PusherError::Header(name));
        headers.insert(HOST, value(base.authority(), "the URL")?);
        headers.insert(AUTHORIZATION, value(&format!("Bearer {key}"), "the key")?);
        headers.insert(CONTENT_TYPE, value(content_type, "the content type")?);
        Ok(Self {
            base,
            headers,
            connections: 64,
            duration: Duration::from_secs(10),
        })
    }

    /// How many connections, at least one: as many requests are under way.
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// For how long new requests are begun.
    #[must_use]
    pub fn duration(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// Pushes; `body` makes the body of the n-th request, n from 0, over all connections (see
    /// [`crate::rides::Bodies`]). Requests under way when the time is over are still answered.
    pub async fn run<F>(&self, body: F) -> PushReport
    where
        F: Fn(u64) -> Bytes + Send + Sync + 'static,
    {
        let target: Uri = self
            .base
            .target("/v1/rides")
            .parse()
            .expect("a base URL and a route make a target");
        let started = Instant::now();
        let shared = Arc::new(Shared {
            address: self.base.address().to_owned(),
            target,
            headers: self.headers.clone(),
            body: Box::new(body),
            next: AtomicU64::new(0),
            end: started + self.duration,
        });
        let mut tasks = JoinSet::new();
        for _ in 0..self.connections {
            tasks.spawn(Arc::clone(&shared).push());
        }
        let mut report = PushReport::default();
        while let Some(part) = tasks.join_next().await {
            report.merge(&part.expect("a pushing task does not panic"));
        }
        report.elapsed = started.elapsed();
        report
    }
}

struct Shared {
    address: String,
    target: Uri,
    headers: HeaderMap,
    body: Box<dyn Fn(u64) -> Bytes + Send + Sync>,
    next: AtomicU64,
    end: Instant,
}

impl Shared {
    /// One connection's life, opened again when it breaks.
    async fn push(self: Arc<Self>) -> PushReport {
        let mut part = PushReport::default();
        let last = self.end + LAST_ANSWER_WAIT;
        while Instant::now() < self.end {
            match tokio::time::timeout_at(last, self.connected(&mut part)).await {
                Ok(Ok(())) => {}
                Ok(Err(())) => {
                    part.errors += 1;
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
                Err(_) => part.errors += 1,
            }
        }
        part
    }

    /// Requests over one connection until the time is over or it breaks. The connection is driven
    /// by the very task that uses it: no wake-up crosses threads for one exchange.
    async fn connected(&self, part: &mut PushReport) -> Result<(), ()> {
        let stream = TcpStream::connect(&self.address).await.map_err(|_| ())?;
        stream.set_nodelay(true).map_err(|_| ())?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|_| ())?;
        let mut requests = pin!(self.requests(sender, part));
        let mut connection = pin!(connection);
        let mut open = true;
        std::future::poll_fn(|context| {
            // Requests first: what they write is flushed by the poll that follows.
            if let Poll::Ready(result) = requests.as_mut().poll(context) {
                return Poll::Ready(result);
            }
            if open && Pin::as_mut(&mut connection).poll(context).is_ready() {
                open = false;
            }
            // What the connection has read may complete the exchange at once.
            requests.as_mut().poll(context)
        })
        .await
    }

    async fn requests(
        &self,
        mut sender: http1::SendRequest<Full<Bytes>>,
        part: &mut PushReport,
    ) -> Result<(), ()> {
        while Instant::now() < self.end {
            sender.ready().await.map_err(|_| ())?;
            let body = (self.body)(self.next.fetch_add(1, Ordering::Relaxed));
            let mut request = Request::new(Full::new(body));
            *request.method_mut() = Method::POST;
            *request.uri_mut() = self.target.clone();
            *request.headers_mut() = self.headers.clone();
            let from = Instant::now();
            let response = sender.send_request(request).await.map_err(|_| ())?;
            let status = response.status();
            let answer = response.into_body().collect().await.map_err(|_| ())?;
            part.requests += 1;
            *part.statuses.entry(status.as_u16()).or_default() += 1;
            if status == StatusCode::ACCEPTED {
                part.latency.record(from.elapsed());
                part.records_accepted += accepted(&answer.to_bytes());
            }
        }
        Ok(())
    }
}

/// How many records a 202 accepted: its `accepted` member, or one. Found by its name, without
/// reading the rest: parsing a hundred results would cost more than sending their rides.
fn accepted(answer: &[u8]) -> u64 {
    const MEMBER: &[u8] = b"\"accepted\":";
    let Some(at) = answer.windows(MEMBER.len()).position(|it| it == MEMBER) else {
        return 1;
    };
    answer[at + MEMBER.len()..]
        .iter()
        .skip_while(|byte| **byte == b' ')
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_records_are_read_off_the_answer() {
        assert_eq!(accepted(br#"{"tracking_id":"x","status":"accepted"}"#), 1);
        assert_eq!(
            accepted(br#"{"accepted":97,"rejected":3,"results":[]}"#),
            97
        );
        assert_eq!(accepted(br#"{"results":[],"accepted": 100}"#), 100);
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        assert!(Pusher::new("localhost", "k", "application/json").is_err());
        assert!(Pusher::new("http://localhost", "k\n", "application/json").is_err());
    }
}
