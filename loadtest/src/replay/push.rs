//! Sends the rows: so many requests at a time, over all gateways in turn, each item's answer noted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chassis::shutdown::Shutdown;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::answer::{Interpreted, ItemAnswer, all, interpret};
use super::file::{RowId, Rows};
use super::progress::Counters;
use crate::base_url::BaseUrl;
use crate::connection::{Answer, Connection, ExchangeError};
use crate::latency::Latencies;

/// First pause when no gateway can be reached, and before a resend; doubles each time.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest such pause, unless `Retry-After` asks for more.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Longest `Retry-After` that is obeyed: a replay has an end.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// Contradictions kept word for word; the rest are counted.
const CONTRADICTIONS_KEPT: usize = 100;

/// How a ride is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SendMethod {
    /// `POST /v1/rides`: creates; commands to couriers go to `POST /v1/courier-commands`
    Post,
    /// `PUT /v1/rides/{id}`: creates or replaces, one row a request
    Put,
}

/// How several rides share a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BodyKind {
    /// A JSON array
    Array,
    /// One JSON object a line
    Ndjson,
}

/// What to send where, and how.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) rows: Rows,
    pub(crate) gateways: Vec<Arc<BaseUrl>>,
    pub(crate) authorization: HeaderValue,
    pub(crate) method: SendMethod,
    pub(crate) body: BodyKind,
    pub(crate) batch: usize,
    pub(crate) concurrency: usize,
    /// Records a second, over all connections.
    pub(crate) rate: Option<u32>,
    pub(crate) timeout: Duration,
    /// How often an item that was refused for now or left unanswered is sent again.
    pub(crate) retry: u32,
}

impl Plan {
    /// One line about what is to come.
    pub(crate) fn summary(&self) -> String {
        let urls: Vec<_> = self.gateways.iter().map(ToString::to_string).collect();
        format!(
            "{} rows, {} a request, {} requests at a time, to {}",
            self.rows.len(),
            self.batch,
            self.concurrency,
            urls.join(" ")
        )
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Pushed {
    /// Rows that were sent.
    pub(crate) sent: Vec<usize>,
    pub(crate) answers: Vec<(usize, ItemAnswer)>,
    pub(crate) http_statuses: BTreeMap<u16, u64>,
    pub(crate) exchange_errors: BTreeMap<&'static str, u64>,
    /// Rows sent again, by what was answered before.
    pub(crate) resent_by_code: BTreeMap<String, u64>,
    pub(crate) accept_latency: Latencies,
    pub(crate) refuse_latency: Latencies,
    pub(crate) contradictions: Contradictions,
    pub(crate) elapsed: Duration,
}

/// Statements that cannot be true, the first hundred word for word.
#[derive(Debug, Default)]
pub(crate) struct Contradictions {
    pub(crate) total: u64,
    pub(crate) first: Vec<String>,
}

impl Contradictions {
    pub(crate) fn add(&mut self, what: impl IntoIterator<Item = String>) {
        for what in what {
            self.total += 1;
            if self.first.len() < CONTRADICTIONS_KEPT {
                self.first.push(what);
            }
        }
    }
}

/// Sends every row, or until `stop` begins; requests under way are then still answered.
pub(crate) async fn push(plan: &Arc<Plan>, counters: &Arc<Counters>, stop: &Shutdown) -> Pushed {
    let feed = Arc::new(Feed {
        started: Instant::now(),
        next: AtomicUsize::new(0),
    });
    let mut workers = JoinSet::new();
    for number in 0..plan.concurrency {
        let worker = Worker {
            connections: plan.gateways.iter().cloned().map(Connection::new).collect(),
            gateway: number % plan.gateways.len(),
            plan: Arc::clone(plan),
            counters: Arc::clone(counters),
            stop: stop.clone(),
            part: Pushed::default(),
        };
        workers.spawn(worker.run(Arc::clone(&feed)));
    }
    let mut pushed = Pushed::default();
    while let Some(part) = workers.join_next().await {
        pushed.merge(part.expect("a worker does not panic"));
    }
    pushed.elapsed = feed.started.elapsed();
    pushed
}

/// Hands out rows in the file's order.
struct Feed {
    started: Instant,
    next: AtomicUsize,
}

impl Feed {
    /// The next batch and when it is due.
    fn next(&self, plan: &Plan) -> Option<(Vec<usize>, Option<Instant>)> {
        let rows = plan.rows.len();
        let first = self.next.fetch_add(plan.batch, Ordering::Relaxed);
        if first >= rows {
            return None;
        }
        let due = plan.rate.map(|rate| {
            #[expect(clippy::cast_precision_loss, reason = "a pace need not be exact")]
            let seconds = first as f64 / f64::from(rate);
            self.started + Duration::from_secs_f64(seconds)
        });
        Some(((first..rows.min(first + plan.batch)).collect(), due))
    }
}

struct Worker {
    plan: Arc<Plan>,
    connections: Vec<Connection>,
    /// The one whose turn it is.
    gateway: usize,
    counters: Arc<Counters>,
    stop: Shutdown,
    part: Pushed,
}

impl Worker {
    async fn run(mut self, feed: Arc<Feed>) -> Pushed {
        while !self.stop.is_begun() {
            let plan = Arc::clone(&self.plan);
            let Some((rows, due)) = feed.next(&plan) else {
                break;
            };
            if let Some(due) = due {
                tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = self.stop.begun() => break,
                }
            }
            Counters::add(&self.counters.sent, rows.len());
            self.part.sent.extend(&rows);
            self.batch(rows, due).await;
        }
        self.part
    }

    /// Sends a batch, and again what `--retry` allows.
    async fn batch(&mut self, mut rows: Vec<usize>, due: Option<Instant>) {
        let mut due = due;
        for attempt in 0.. {
            // With a pace, waiting for a free connection is the server's doing: it counts.
            let from = due.take().unwrap_or_else(Instant::now);
            let (read, pause) = self.request(&rows, from).await;
            self.part.contradictions.add(read.contradictions);
            let last = attempt >= self.plan.retry || self.stop.is_begun();
            let mut again = Vec::new();
            for (index, answer) in read.items {
                let resend = match &answer {
                    ItemAnswer::Accepted(_) => false,
                    ItemAnswer::Rejected { retryable, .. } => *retryable,
                    ItemAnswer::Unanswered { .. } => true,
                };
                if resend && !last {
                    again.push(rows[index]);
                    self.note_resend(&answer);
                } else {
                    self.count(&answer);
                }
                self.part.answers.push((rows[index], answer));
            }
            if again.is_empty() {
                return;
            }
            again.sort_unstable();
            again.dedup();
            rows = again;
            let doubled = PAUSE_MIN * 2_u32.pow(attempt.min(5));
            let pause = pause.unwrap_or_default().max(doubled.min(PAUSE_MAX));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.begun() => {}
            }
        }
    }

    fn note_resend(&mut self, answer: &ItemAnswer) {
        if let ItemAnswer::Rejected { code, .. } | ItemAnswer::Unanswered { code } = answer {
            *self.part.resent_by_code.entry(code.clone()).or_default() += 1;
        }
    }

    fn count(&self, answer: &ItemAnswer) {
        let counter = match answer {
            ItemAnswer::Accepted(_) => &self.counters.accepted,
            ItemAnswer::Rejected { .. } => &self.counters.rejected,
            ItemAnswer::Unanswered { .. } => &self.counters.unanswered,
        };
        Counters::add(counter, 1);
    }

    /// One request, to whichever gateway can be reached, and how long to wait before a resend.
    async fn request(&mut self, rows: &[usize], from: Instant) -> (Interpreted, Option<Duration>) {
        match self.exchange(rows).await {
            Ok(answer) => {
                *self
                    .part
                    .http_statuses
                    .entry(answer.status.as_u16())
                    .or_default() += 1;
                let latency = if answer.status == StatusCode::ACCEPTED {
                    &mut self.part.accept_latency
                } else {
                    &mut self.part.refuse_latency
                };
                latency.record(from.elapsed());
                let pause = answer.retry_after.map(|it| it.min(RETRY_AFTER_MAX));
                (interpret(answer.status, &answer.body, rows.len()), pause)
            }
            Err(error) => {
                let code = error.code();
                *self.part.exchange_errors.entry(code).or_default() += 1;
                let code = code.to_owned();
                (all(rows.len(), &ItemAnswer::Unanswered { code }), None)
            }
        }
    }

    /// Tries the gateways in turn while nothing has been sent, for at most the timeout.
    async fn exchange(&mut self, rows: &[usize]) -> Result<Answer, ExchangeError> {
        let give_up = Instant::now() + self.plan.timeout;
        let mut pause = PAUSE_MIN;
        loop {
            let mut unreachable = None;
            for _ in 0..self.connections.len() {
                self.gateway = (self.gateway + 1) % self.connections.len();
                let request = self.compose(rows, &self.plan.gateways[self.gateway]);
                let connection = &mut self.connections[self.gateway];
                match connection.exchange(request, self.plan.timeout).await {
                    Err(error) if error.nothing_was_sent() => unreachable = Some(error),
                    answered => return answered,
                }
            }
            let error = unreachable.expect("there is at least one gateway");
            if Instant::now() + pause >= give_up || self.stop.is_begun() {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn compose(&self, rows: &[usize], gateway: &BaseUrl) -> Request<Full<Bytes>> {
        let plan = &self.plan;
        let many = if plan.rows.are_commands() {
            "/v1/courier-commands"
        } else {
            "/v1/rides"
        };
        let (method, route, content_type, body) = match (plan.method, plan.batch) {
            (SendMethod::Put, _) => {
                let Some(RowId::Ride(id)) = plan.rows.id(rows[0]) else {
                    unreachable!("checked when the file was read")
                };
                let route = format!("/v1/rides/{id}");
                (
                    Method::PUT,
                    route,
                    "application/json",
                    plan.rows.object(rows[0]),
                )
            }
            (SendMethod::Post, 1) => {
                let body = plan.rows.object(rows[0]);
                (Method::POST, many.to_owned(), "application/json", body)
            }
            (SendMethod::Post, _) => {
                let (content_type, body) = match plan.body {
                    BodyKind::Array => ("application/json", plan.rows.array(rows)),
                    BodyKind::Ndjson => ("application/x-ndjson", plan.rows.ndjson(rows)),
                };
                (Method::POST, many.to_owned(), content_type, body)
            }
        };
        Request::builder()
            .method(method)
            .uri(gateway.target(&route))
            .header(AUTHORIZATION, plan.authorization.clone())
            .header(CONTENT_TYPE, content_type)
            .body(Full::new(body))
            .expect("a base URL and a route make a request")
    }
}

impl Pushed {
    fn merge(&mut self, part: Self) {
        self.sent.extend(part.sent);
        self.answers.extend(part.answers);
        for (status, count) in part.http_statuses {
            *self.http_statuses.entry(status).or_default() += count;
        }
        for (code, count) in part.exchange_errors {
            *self.exchange_errors.entry(code).or_default() += count;
        }
        for (code, count) in part.resent_by_code {
            *self.resent_by_code.entry(code).or_default() += count;
        }
        self.accept_latency.merge(&part.accept_latency);
        self.refuse_latency.merge(&part.refuse_latency);
        self.contradictions.total += part.contradictions.total;
        let room = CONTRADICTIONS_KEPT - self.contradictions.first.len();
        let kept = part.contradictions.first.into_iter().take(room);
        self.contradictions.first.extend(kept);
    }
}
