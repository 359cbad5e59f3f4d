//! Asks the status API about every tracking id until each has its outcome, or patience ends.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chassis::shutdown::Shutdown;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request};
use http_body_util::Full;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use super::answer::ItemAnswer;
use super::progress::Counters;
use super::push::Contradictions;
use super::reconcile::{Outcome, Status};
use crate::base_url::BaseUrl;
use crate::connection::Connection;
use crate::latency::Latencies;

/// Most ids in one look-up: the API's bound.
const LOOKUP_IDS_MAX: usize = 1_000;
/// Pause after a look-up that settled nothing, so that following does not slow what it follows.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause, while nothing moves or the status API is away.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long an id stays unknown before it is called lost; asked again meanwhile, since a database
/// that was set back a little catches up.
const UNKNOWN_PATIENCE: Duration = Duration::from_secs(10);

/// Whom to ask.
pub(crate) struct Following {
    pub(crate) status: Vec<Arc<BaseUrl>>,
    pub(crate) authorization: HeaderValue,
    pub(crate) timeout: Duration,
    pub(crate) settle_timeout: Duration,
}

/// What became of the ids.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    /// Every answer but `queued`.
    pub(crate) outcomes: Vec<Outcome>,
    /// Accepted to completed, by the services' own clocks.
    pub(crate) time_to_settle: Latencies,
    /// Persisted by what they did: created, replaced.
    pub(crate) created: u64,
    pub(crate) replaced: u64,
    /// Ids that were unknown for a while.
    pub(crate) unknown_then_settled: u64,
    /// Look-ups that were answered with a 5xx or not at all, and repeated.
    pub(crate) lookups_repeated: u64,
    pub(crate) contradictions: Contradictions,
    /// Why following ended early, if it did.
    pub(crate) refused: Option<String>,
    pub(crate) elapsed: Duration,
}

/// Follows every accepted id; gives up at the settle timeout or when `stop` begins.
pub(crate) async fn follow(
    following: &Following,
    answers: &[(usize, ItemAnswer)],
    counters: &Counters,
    stop: &Shutdown,
) -> Followed {
    let mut seen = HashSet::new();
    let pending: VecDeque<_> = answers
        .iter()
        .filter_map(|(_, answer)| match answer {
            ItemAnswer::Accepted(id) => Some(*id),
            _ => None,
        })
        .filter(|id| seen.insert(*id))
        .collect();
    drop(seen);
    let started = Instant::now();
    let mut follower = Follower {
        connections: following
            .status
            .iter()
            .cloned()
            .map(Connection::new)
            .collect(),
        next: 0,
        following,
        counters,
        pending,
        unknown: HashMap::new(),
        followed: Followed::default(),
    };
    tokio::select! {
        () = follower.run() => {}
        () = tokio::time::sleep(following.settle_timeout) => {}
        () = stop.begun() => {}
    }
    follower.close(started)
}

struct Follower<'a> {
    following: &'a Following,
    counters: &'a Counters,
    connections: Vec<Connection>,
    next: usize,
    /// Oldest first; what is still queued goes to the back.
    pending: VecDeque<Uuid>,
    /// When each was unknown for the first time.
    unknown: HashMap<Uuid, Instant>,
    followed: Followed,
}

#[derive(Serialize)]
struct LookupRequest<'a> {
    tracking_ids: &'a [Uuid],
}

#[derive(Deserialize)]
struct LookupAnswer {
    results: Vec<LookupResult>,
}

#[derive(Deserialize)]
struct LookupResult {
    tracking_id: Uuid,
    status: String,
    #[serde(default)]
    accepted_at: Option<String>,
    #[serde(default)]
    completed_at: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    resource: Option<serde_json::Value>,
    #[serde(default)]
    action: Option<String>,
    #[serde(default)]
    code: Option<String>,
}

/// What to do after an answer that is not a list of results.
enum Verdict {
    Read(LookupAnswer),
    Again(Option<Duration>),
    Refused(String),
}

impl Follower<'_> {
    /// Cancel safe: at any await point an id is either in `pending` or has its outcome noted.
    async fn run(&mut self) {
        let mut pause = PAUSE_MIN;
        // Ids looked up since something settled: a whole turn without progress slows down.
        let mut idle = 0;
        while !self.pending.is_empty() {
            let asked: Vec<Uuid> = self.pending.iter().take(LOOKUP_IDS_MAX).copied().collect();
            match self.lookup(&asked).await {
                Verdict::Read(answer) => {
                    let settled = self.note(&asked, answer);
                    if settled > 0 {
                        idle = 0;
                        pause = PAUSE_MIN;
                        continue;
                    }
                    idle += asked.len();
                    if idle >= self.pending.len() {
                        idle = 0;
                        pause = (pause * 2).min(PAUSE_MAX);
                    }
                    tokio::time::sleep(pause).await;
                }
                Verdict::Again(after) => {
                    self.followed.lookups_repeated += 1;
                    pause = (pause * 2).min(PAUSE_MAX);
                    // The status API's own wish, but often enough to see it come back.
                    tokio::time::sleep(after.unwrap_or(pause).clamp(pause, PAUSE_MAX)).await;
                }
                Verdict::Refused(why) => {
                    self.followed.refused = Some(why);
                    return;
                }
            }
        }
    }

    async fn lookup(&mut self, asked: &[Uuid]) -> Verdict {
        self.next = (self.next + 1) % self.connections.len();
        let base = &self.following.status[self.next];
        let body = serde_json::to_vec(&LookupRequest {
            tracking_ids: asked,
        })
        .expect("ids are always JSON");
        let request = Request::builder()
            .method(Method::POST)
            .uri(base.target("/v1/requests/lookup"))
            .header(AUTHORIZATION, self.following.authorization.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .expect("a base URL and a route make a request");
        let connection = &mut self.connections[self.next];
        let answer = match connection.exchange(request, self.following.timeout).await {
            Ok(answer) => answer,
            Err(_) => return Verdict::Again(None),
        };
        if answer.status.is_server_error() || matches!(answer.status.as_u16(), 408 | 429) {
            return Verdict::Again(answer.retry_after);
        }
        let from = format!("{base} answers a look-up with {}", answer.status.as_u16());
        if answer.status != http::StatusCode::OK {
            let text = String::from_utf8_lossy(&answer.body);
            return Verdict::Refused(format!(
                "{from}: {}",
                text.chars().take(300).collect::<String>()
            ));
        }
        match serde_json::from_slice(&answer.body) {
            Ok(read) => Verdict::Read(read),
            Err(error) => Verdict::Refused(format!("{from} that cannot be read: {error}")),
        }
    }

    /// Takes in one answer; how many ids have their outcome by it.
    fn note(&mut self, asked: &[Uuid], answer: LookupAnswer) -> usize {
        let asked_set: HashSet<Uuid> = asked.iter().copied().collect();
        let mut settled = HashSet::new();
        let mut answered = HashSet::new();
        for result in answer.results {
            let id = result.tracking_id;
            if !asked_set.contains(&id) {
                let what = format!("a look-up answers about {id}, which was not asked");
                self.followed.contradictions.add([what]);
                continue;
            }
            answered.insert(id);
            match outcome(&result) {
                Ok(Some(outcome)) if outcome.status == Status::Unknown => {
                    let since = *self.unknown.entry(id).or_insert_with(Instant::now);
                    if since.elapsed() >= UNKNOWN_PATIENCE {
                        self.followed.outcomes.push(outcome);
                        settled.insert(id);
                    }
                }
                Ok(Some(outcome)) => {
                    // Twice in one answer is noted twice: the books will name it.
                    if settled.insert(id) {
                        self.measure(&result);
                    }
                    self.followed.outcomes.push(outcome);
                }
                Ok(None) => {}
                Err(what) => self.followed.contradictions.add([what]),
            }
        }
        if answered.len() < asked_set.len() {
            let silent = asked_set.len() - answered.len();
            let what = format!("a look-up of {} ids is silent about {silent}", asked.len());
            self.followed.contradictions.add([what]);
        }
        for id in asked {
            self.pending.pop_front();
            if !settled.contains(id) {
                self.pending.push_back(*id);
            }
        }
        Counters::add(&self.counters.settled, settled.len());
        settled.len()
    }

    fn measure(&mut self, result: &LookupResult) {
        if self.unknown.remove(&result.tracking_id).is_some() {
            self.followed.unknown_then_settled += 1;
        }
        let at = |text: &Option<String>| text.as_deref()?.parse::<Timestamp>().ok();
        if let (Some(from), Some(to)) = (at(&result.accepted_at), at(&result.completed_at)) {
            let took = Duration::try_from(to.duration_since(from)).unwrap_or_default();
            self.followed.time_to_settle.record(took);
        }
        match result.action.as_deref() {
            Some("created") => self.followed.created += 1,
            Some("replaced") => self.followed.replaced += 1,
            _ => {}
        }
    }

    /// What is unknown when patience ends is lost; what is queued is unsettled.
    fn close(mut self, started: Instant) -> Followed {
        for id in &self.pending {
            if self.unknown.contains_key(id) {
                self.followed.outcomes.push(Outcome {
                    tracking_id: *id,
                    status: Status::Unknown,
                    code: None,
                    created: None,
                });
            }
        }
        self.followed.elapsed = started.elapsed();
        self.followed
    }
}

fn outcome(result: &LookupResult) -> Result<Option<Outcome>, String> {
    let status = match result.status.as_str() {
        "queued" => return Ok(None),
        "persisted" => Status::Persisted,
        "duplicate" => Status::Duplicate,
        "failed" => Status::Failed,
        "unknown" => Status::Unknown,
        other => return Err(format!("{} has the status {other:?}", result.tracking_id)),
    };
    let resource = result.resource.as_ref().and_then(|it| it.get("id"));
    let created = match (result.action.as_deref(), resource) {
        (Some("created"), Some(id)) => {
            Some(format!("{}/{id}", result.kind.as_deref().unwrap_or("ride")))
        }
        _ => None,
    };
    Ok(Some(Outcome {
        tracking_id: result.tracking_id,
        status,
        code: result.code.clone(),
        created,
    }))
}
