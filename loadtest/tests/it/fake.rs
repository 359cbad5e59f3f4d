//! A gateway and a status API in one, played by a table of what to do wrong.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use uuid::Uuid;

use crate::couriers::{self, CourierFaults, Couriers};

/// The keys that are accepted.
pub(crate) const KEY: &str = "secret";
pub(crate) const OTHER_KEY: &str = "other-secret";

/// What the fake does wrong; the default is nothing.
#[derive(Clone, Default, Debug)]
pub(crate) struct Faults {
    /// Rides that are refused with 422.
    pub(crate) invalid: HashSet<i64>,
    /// Rides that end `failed/conflict`.
    pub(crate) conflict: HashSet<i64>,
    /// Rides whose tracking id is denied afterwards.
    pub(crate) lose: HashSet<i64>,
    /// Rides that never leave the queue.
    pub(crate) stuck: HashSet<i64>,
    /// This ride gets the tracking id of the other one.
    pub(crate) same_id: Option<(i64, i64)>,
    /// Rides that one look-up answers twice.
    pub(crate) answer_twice: HashSet<i64>,
    /// Writing requests after which the connection is dropped without an answer, counted from 1.
    pub(crate) drop_requests: HashSet<u64>,
    /// Writing requests that are stored but never answered, counted from 1.
    pub(crate) freeze_requests: HashSet<u64>,
    /// From this writing request on nobody is there any more.
    pub(crate) die_at: Option<u64>,
    /// So many look-ups are answered with 503 first.
    pub(crate) lookups_away: u64,
    /// Then so many say that everything is queued.
    pub(crate) lookups_queued: u64,
    /// So many writing requests are refused with 503 first.
    pub(crate) overloaded: u64,
    /// From this writing request on all answers wait until so much time has passed.
    pub(crate) stall: Option<(u64, Duration)>,
    /// Writing requests answered in a second at most.
    pub(crate) per_second: Option<u32>,
    pub(crate) couriers: CourierFaults,
}

/// What has happened; shared by several listeners when they play one system.
#[derive(Default, Debug)]
pub(crate) struct System {
    pub(crate) rides: Vec<Value>,
    pub(crate) bodies: Vec<(Method, String, String)>,
    pub(crate) couriers: Couriers,
    given: HashMap<i64, Uuid>,
    tracked: HashMap<Uuid, (i64, bool)>,
    stored: HashSet<i64>,
    writes: u64,
    lookups: u64,
    /// By key: writing requests.
    pub(crate) keys: HashMap<String, u64>,
}

/// A listener; gone when dropped.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    pub(crate) system: Arc<Mutex<System>>,
    task: AbortHandle,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    pub(crate) async fn start(faults: Faults) -> Self {
        Self::join(Arc::default(), faults).await
    }

    /// One more listener of the same system, with faults of its own.
    pub(crate) async fn join(system: Arc<Mutex<System>>, faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let player = Arc::new(Player {
            faults,
            system: Arc::clone(&system),
            writes: Mutex::new(0),
            free_at: Mutex::new(Instant::now()),
            dead: tokio::sync::Notify::new(),
        });
        let task = tokio::spawn(serve(listener, player)).abort_handle();
        Self {
            address,
            system,
            task,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets the ride with the smallest id never have been stored.
    pub(crate) fn forget_first(&self) {
        let mut system = self.system.lock().unwrap();
        let first = *system.stored.iter().min().unwrap();
        system.stored.remove(&first);
    }

    /// How many writing requests arrived.
    pub(crate) fn writes(&self) -> u64 {
        self.system.lock().unwrap().writes
    }
}

struct Player {
    faults: Faults,
    system: Arc<Mutex<System>>,
    /// Of this listener.
    writes: Mutex<u64>,
    /// When the next answer may be given.
    free_at: Mutex<Instant>,
    dead: tokio::sync::Notify,
}

async fn serve(listener: TcpListener, player: Arc<Player>) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.unwrap().0,
            // Listener and connections go at once, as with SIGKILL.
            () = player.dead.notified() => return,
        };
        let player = Arc::clone(&player);
        connections.spawn(async move {
            let service = service_fn(move |request| Arc::clone(&player).answer(request));
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

type Answer = Response<Full<Bytes>>;

fn answer(status: u16, body: &Value) -> Answer {
    Response::builder()
        .status(StatusCode::from_u16(status).unwrap())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body.to_string().into()))
        .unwrap()
}

fn problem(status: u16, code: &str, retryable: bool) -> Value {
    json!({"type": format!("urn:weir:problem:{code}"), "title": code, "status": status,
        "detail": "as asked", "code": code, "retryable": retryable})
}

impl Player {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> std::io::Result<Answer> {
        let key = request.headers().get(header::AUTHORIZATION).cloned();
        let key = key
            .map(|key| key.to_str().unwrap().to_owned())
            .unwrap_or_default();
        if ![KEY, OTHER_KEY].contains(&key.trim_start_matches("Bearer ")) {
            return Ok(answer(401, &problem(401, "unauthorized", false)));
        }
        let content_type = request
            .headers()
            .get(header::CONTENT_TYPE)
            .map_or("", |it| it.to_str().unwrap())
            .to_owned();
        let (head, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map_err(std::io::Error::other)?
            .to_bytes();
        let courier = head.uri.path().starts_with("/v1/courier");
        match (head.method.clone(), head.uri.path()) {
            (Method::GET, path) if path.starts_with("/v1/couriers/") => {
                let id = path.rsplit('/').next().unwrap();
                Ok(match self.system.lock().unwrap().couriers.get(id) {
                    Some(courier) => answer(200, courier),
                    None => answer(404, &problem(404, "not-found", false)),
                })
            }
            (method, path)
                if path == "/v1/rides" || method == Method::PUT || (courier && method != "GET") =>
            {
                let answer = self.write(&head, &content_type, &body)?;
                *self.system.lock().unwrap().keys.entry(key).or_default() += 1;
                self.wait().await;
                let writes = *self.writes.lock().unwrap();
                if self.faults.freeze_requests.contains(&writes) {
                    std::future::pending::<()>().await;
                }
                Ok(answer)
            }
            (Method::POST, "/v1/requests/lookup") => Ok(self.lookup(&body)),
            (Method::GET, path) if path.starts_with("/v1/rides/") => {
                let id: i64 = path.rsplit('/').next().unwrap().parse().unwrap();
                let stored = self.system.lock().unwrap().stored.contains(&id);
                Ok(answer(if stored { 200 } else { 404 }, &json!({"id": id})))
            }
            (Method::GET, "/v1/requests") => Ok(answer(200, &json!({"results": []}))),
            _ => Ok(answer(404, &problem(404, "not-found", false))),
        }
    }

    /// Until the answer may be given.
    async fn wait(&self) {
        let writes = *self.writes.lock().unwrap();
        let until = {
            let mut free_at = self.free_at.lock().unwrap();
            if let Some((from, length)) = self.faults.stall
                && writes == from
            {
                *free_at = Instant::now() + length;
            }
            if let Some(per_second) = self.faults.per_second {
                *free_at = (*free_at).max(Instant::now()) + Duration::from_secs(1) / per_second;
            }
            *free_at
        };
        tokio::time::sleep_until(until.into()).await;
    }

    fn write(
        &self,
        head: &http::request::Parts,
        content_type: &str,
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let number = {
            let mut writes = self.writes.lock().unwrap();
            *writes += 1;
            *writes
        };
        if self.faults.die_at.is_some_and(|at| number >= at) {
            self.dead.notify_one();
            return Err(std::io::Error::other("killed"));
        }
        if self.faults.drop_requests.contains(&number) {
            return Err(std::io::Error::other("dropped"));
        }
        let mut system = self.system.lock().unwrap();
        system.writes += 1;
        if number <= self.faults.overloaded {
            return Ok(answer(503, &problem(503, "overloaded", true)));
        }
        let path = head.uri.path().to_owned();
        system
            .bodies
            .push((head.method.clone(), path, content_type.to_owned()));
        let take = |system: &mut System, item: Value| {
            if !head.uri.path().starts_with("/v1/courier") {
                return self.take(system, &item);
            }
            let command = couriers::command(&head.method, head.uri.path(), item);
            let taken = system.couriers.take(&self.faults.couriers, &command);
            taken.map_err(|code| problem(422, code, false))
        };
        let items: Vec<Value> = match (content_type, body.first()) {
            ("application/x-ndjson", _) => body
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .map(|line| serde_json::from_slice(line).unwrap())
                .collect(),
            (_, Some(b'[')) => serde_json::from_slice(body).unwrap(),
            _ => {
                let body = if body.is_empty() { b"{}" } else { body };
                let item: Value = serde_json::from_slice(body).unwrap();
                return Ok(match take(&mut system, item) {
                    Ok(id) => answer(202, &json!({"tracking_id": id, "status": "accepted"})),
                    Err(problem) => answer(422, &problem),
                });
            }
        };
        let results: Vec<_> = items
            .into_iter()
            .enumerate()
            .map(|(index, item)| match take(&mut system, item) {
                Ok(id) => json!({"index": index, "tracking_id": id}),
                Err(problem) => json!({"index": index, "error": problem}),
            })
            .collect();
        let accepted = results.iter().filter(|it| it["error"].is_null()).count();
        let body = json!({"accepted": accepted, "rejected": results.len() - accepted,
            "unanswered": 0, "results": results});
        Ok(answer(if accepted > 0 { 202 } else { 422 }, &body))
    }

    fn take(&self, system: &mut System, ride: &Value) -> Result<Uuid, Value> {
        let id = ride["id"].as_i64().unwrap();
        let bad = ride["user_id"].is_null()
            || ride["travel_type_id"].as_u64() > Some(3)
            || ride["from_date"] == "tomorrow"
            || ride["vehicle_model_id"].is_string();
        if bad || self.faults.invalid.contains(&id) {
            return Err(problem(422, "invalid", false));
        }
        system.rides.push(ride.clone());
        let tracking_id = match self.faults.same_id {
            Some((mine, other)) if mine == id => {
                *system.given.entry(other).or_insert_with(Uuid::now_v7)
            }
            Some((_, other)) if other == id => *system.given.entry(id).or_insert_with(Uuid::now_v7),
            _ => Uuid::now_v7(),
        };
        let created = system.stored.insert(id);
        system.given.insert(id, tracking_id);
        system.tracked.insert(tracking_id, (id, created));
        Ok(tracking_id)
    }

    fn lookup(&self, body: &[u8]) -> Answer {
        let mut system = self.system.lock().unwrap();
        system.lookups += 1;
        if system.lookups <= self.faults.lookups_away {
            return answer(503, &problem(503, "database-unavailable", true));
        }
        let queued = system.lookups <= self.faults.lookups_away + self.faults.lookups_queued;
        let asked: Value = serde_json::from_slice(body).unwrap();
        let asked = asked["tracking_ids"].as_array().unwrap();
        assert!((1..=1_000).contains(&asked.len()));
        let mut results = Vec::new();
        for id in asked {
            let id: Uuid = id.as_str().unwrap().parse().unwrap();
            let result = self.outcome(&system, id, queued);
            let ride = system.tracked.get(&id).map(|(ride, _)| *ride);
            if ride.is_some_and(|ride| self.faults.answer_twice.contains(&ride)) {
                results.push(result.clone());
            }
            results.push(result);
        }
        answer(200, &json!({"results": results}))
    }

    fn outcome(&self, system: &System, id: Uuid, queued: bool) -> Value {
        if let Some(outcome) = system.couriers.outcome(id) {
            return outcome;
        }
        let Some((ride, created)) = system.tracked.get(&id) else {
            return json!({"tracking_id": id, "status": "unknown"});
        };
        let (status, action, code) = if self.faults.lose.contains(ride) {
            return json!({"tracking_id": id, "status": "unknown"});
        } else if queued || self.faults.stuck.contains(ride) {
            ("queued", Value::Null, Value::Null)
        } else if self.faults.conflict.contains(ride) {
            ("failed", Value::Null, json!("conflict"))
        } else if *created {
            ("persisted", json!("created"), Value::Null)
        } else {
            ("duplicate", Value::Null, Value::Null)
        };
        json!({"tracking_id": id, "kind": "ride", "status": status,
            "accepted_at": "2026-01-01T00:00:00Z", "completed_at": "2026-01-01T00:00:00.250Z",
            "resource": {"id": ride}, "action": action, "code": code, "detail": null,
            "duplicate_of": null, "delay_ms": 250})
    }
}
