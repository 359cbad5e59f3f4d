//! The connections, and what each does all day: wait for its turn, send, read, count.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use uuid::Uuid;

use super::generate::{Body, Generator, Nature};
use super::mix::Kind;
use super::pace::{Pace, Turn};
use super::tally::{NOT_SENT, Tally, count};
use super::transport::{Answer, Failure, Head, Transport};
use crate::replay::ItemAnswer;
use crate::replay::answer::interpret;

/// A request sent so much later than it was due counts as late.
pub(crate) const LATE: Duration = Duration::from_millis(100);
/// Shares of the counting, so that connections hardly ever wait for each other.
const SHARDS: usize = 8;
/// Pause of a connection of the closed model that found nobody, so that it does not spin.
const CONNECT_PAUSE: Duration = Duration::from_millis(50);
/// Refused commands kept, likewise.
const REFUSED_MAX: usize = 1_000;
/// Contradictions kept; what is one too many is counted with the others all the same.
const CONTRADICTIONS_MAX: usize = 100;

/// A record that got a tracking id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given {
    pub(crate) tracking_id: Uuid,
    pub(crate) record: u64,
    pub(crate) due: Instant,
    pub(crate) accepted: Instant,
}

/// A request of which nobody knows whether it was stored, and a record of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unanswered {
    pub(crate) record: u64,
    pub(crate) at: Instant,
}

/// Commands to couriers that were meant to be valid and were refused at the door for good.
#[derive(Clone, Default, Debug)]
pub(crate) struct Refused {
    pub(crate) count: u64,
    /// Records and codes.
    pub(crate) first: Vec<(u64, String)>,
}

/// What requests to one gateway with one key begin with, by kind.
#[derive(Clone, Debug)]
pub(crate) struct Heads {
    pub(super) rides: Head,
    pub(super) couriers: Head,
}

/// What the answers say that cannot be true.
#[derive(Clone, Default, Debug)]
pub(crate) struct Contradictions {
    pub(crate) count: u64,
    pub(crate) first: Vec<String>,
}

impl Contradictions {
    pub(crate) fn add(&mut self, what: impl IntoIterator<Item = String>) {
        for what in what {
            self.count += 1;
            if self.first.len() < CONTRADICTIONS_MAX {
                self.first.push(what);
            }
        }
    }
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) generator: Generator,
    /// By gateway, then by partner.
    heads: Vec<Vec<Heads>>,
    timeout: Duration,
    /// Whether accepted records are remembered for following.
    follows: bool,
    shards: Vec<Mutex<Tally>>,
    /// Accepted and not yet taken by the follower, by partner.
    intake: Vec<Mutex<Vec<Given>>>,
    unanswered: Mutex<Vec<Unanswered>>,
    contradictions: Mutex<Contradictions>,
    refused: Mutex<Refused>,
    /// Requests.
    in_flight: AtomicU64,
    /// Records, since the beginning.
    sent: AtomicU64,
}

impl Engine {
    pub(crate) fn new(
        generator: Generator,
        heads: Vec<Vec<Heads>>,
        timeout: Duration,
        follows: bool,
    ) -> Self {
        let partners = heads.first().map_or(0, Vec::len);
        Self {
            generator,
            heads,
            timeout,
            follows,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            intake: (0..partners).map(|_| Mutex::default()).collect(),
            unanswered: Mutex::default(),
            contradictions: Mutex::default(),
            refused: Mutex::default(),
            in_flight: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        }
    }

    /// Lets every connection take turns until there are none, and all answers are there.
    pub(crate) async fn drive(
        self: &Arc<Self>,
        pace: &Arc<Pace>,
        transports: Vec<Transport>,
    ) -> Vec<Transport> {
        let mut slots = JoinSet::new();
        for (number, transport) in transports.into_iter().enumerate() {
            let slot = Slot {
                engine: Arc::clone(self),
                pace: Arc::clone(pace),
                shard: number % SHARDS,
                heads: number % self.heads.len(),
                transport,
            };
            slots.spawn(slot.run());
        }
        let mut back = Vec::with_capacity(slots.len());
        while let Some(transport) = slots.join_next().await {
            back.push(transport.expect("a connection's task does not panic"));
        }
        back
    }

    /// What was counted since this was called last, added to `to`.
    pub(crate) fn drain_counts(&self, to: &mut Tally) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            to.merge(&shard);
            shard.clear();
        }
    }

    /// What was accepted from one partner since this was called last.
    pub(crate) fn drain_given(&self, partner: usize, to: &mut Vec<Given>) {
        to.append(&mut lock(&self.intake[partner]));
    }

    pub(crate) fn take_unanswered(&self) -> Vec<Unanswered> {
        std::mem::take(&mut lock(&self.unanswered))
    }

    pub(crate) fn contradictions(&self) -> Contradictions {
        lock(&self.contradictions).clone()
    }

    pub(crate) fn refused(&self) -> Refused {
        lock(&self.refused).clone()
    }

    /// What a request begins with.
    fn head(&self, gateway: usize, request: u64) -> Cow<'_, Head> {
        let partner = self.generator.partner(request);
        let heads = &self.heads[gateway][partner];
        if self.generator.kind(request) == Kind::Ride {
            return Cow::Borrowed(&heads.rides);
        }
        match self.generator.recipe().body {
            Body::Array | Body::Ndjson => Cow::Borrowed(&heads.couriers),
            // Alone, each command has a route of its own.
            Body::Single => {
                let command = self.generator.command(request);
                let command = command.expect("a single record's number is its request's");
                let fleet = self.generator.fleet();
                let (method, route, content_type) = fleet.route(partner, &command);
                let base = &heads.couriers.base;
                Cow::Owned(Head {
                    base: Arc::clone(base),
                    method,
                    target: base.target(&route),
                    authorization: heads.couriers.authorization.clone(),
                    content_type,
                })
            }
        }
    }

    /// Requests that wait for their answer.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Records that went out since the beginning.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn records(&self, request: u64) -> std::ops::Range<u64> {
        let batch = self.generator.recipe().batch;
        request * batch..(request + 1) * batch
    }

    /// The request never went out.
    fn note_not_sent(&self, shard: usize, turn: &Turn, failure: Option<Failure>) {
        let batch = self.generator.recipe().batch;
        let mut tally = lock(&self.shards[shard]);
        note_turn(&mut tally, turn);
        tally.not_sent += batch;
        let code = failure.map_or(NOT_SENT, Failure::code);
        *tally.exchange_by.entry(code).or_default() += 1;
        tally.failed.record(turn.due.elapsed());
    }

    /// It went out, and was answered or not.
    fn note(&self, shard: usize, turn: &Turn, sent: Instant, answer: Result<Answer<'_>, Failure>) {
        let done = Instant::now();
        let records = self.records(turn.request);
        let items = usize::try_from(records.end - records.start).expect("at most 10,000");
        let (status, items) = match &answer {
            Ok(answer) => {
                let read = interpret(answer.status, answer.body, items);
                if !read.contradictions.is_empty() {
                    lock(&self.contradictions).add(read.contradictions);
                }
                (Some(answer.status.as_u16()), read.items)
            }
            Err(failure) => {
                let code = failure.code().to_owned();
                let none = ItemAnswer::Unanswered { code };
                (
                    None,
                    (0..items).map(|index| (index, none.clone())).collect(),
                )
            }
        };
        if self.follows {
            self.remember(turn, done, records.start, &items);
        }
        let mut tally = lock(&self.shards[shard]);
        note_turn(&mut tally, turn);
        match status {
            Some(status) => *tally.statuses.entry(status).or_default() += 1,
            None => {
                let code = answer.err().map_or("", Failure::code);
                *tally.exchange_by.entry(code).or_default() += 1;
            }
        }
        if status == Some(202) {
            tally.corrected.record(done - turn.due);
            tally.uncorrected.record(done - sent);
        } else {
            tally.failed.record(done - turn.due);
        }
        let mut seen = HashSet::new();
        for (index, answer) in &items {
            // Twice in one answer is a contradiction, not two records.
            if items.len() == 1 || seen.insert(*index) {
                self.note_item(&mut tally, records.start + *index as u64, answer);
            }
        }
    }

    fn note_item(&self, tally: &mut Tally, record: u64, answer: &ItemAnswer) {
        let nature = self.generator.nature(record);
        let bad = u64::from(nature == Nature::Bad);
        tally.sent += 1;
        tally.bad_sent += bad;
        tally.duplicates_sent += u64::from(matches!(nature, Nature::Again(_)));
        match answer {
            ItemAnswer::Accepted(_) => {
                tally.answered += 1;
                tally.accepted += 1;
                tally.bad_accepted += bad;
            }
            ItemAnswer::Rejected { code, retryable } => {
                tally.answered += 1;
                tally.rejected += 1;
                // Refused for now is no answer to what is wrong with it.
                if bad > 0 && !retryable {
                    tally.bad_rejected += 1;
                } else {
                    count(&mut tally.rejected_by, code, 1);
                    if !retryable {
                        self.note_refused(record, code);
                    }
                }
            }
            ItemAnswer::Unanswered { code } => {
                tally.unanswered += 1;
                count(&mut tally.unanswered_by, code, 1);
            }
        }
    }

    fn note_refused(&self, record: u64, code: &str) {
        if self.generator.command(record).is_none() {
            return;
        }
        let mut refused = lock(&self.refused);
        refused.count += 1;
        if refused.first.len() < REFUSED_MAX {
            refused.first.push((record, code.to_owned()));
        }
    }

    /// Keeps what has to be followed.
    fn remember(&self, turn: &Turn, done: Instant, first: u64, items: &[(usize, ItemAnswer)]) {
        let partner = self.generator.partner(turn.request);
        let mut intake = lock(&self.intake[partner]);
        for (index, answer) in items {
            let record = first + *index as u64;
            match answer {
                ItemAnswer::Accepted(tracking_id) => intake.push(Given {
                    tracking_id: *tracking_id,
                    record,
                    due: turn.due,
                    accepted: done,
                }),
                ItemAnswer::Unanswered { .. } => {
                    lock(&self.unanswered).push(Unanswered { record, at: done });
                }
                ItemAnswer::Rejected { .. } => {}
            }
        }
    }
}

fn note_turn(tally: &mut Tally, turn: &Turn) {
    tally.requests += 1;
    tally.late_own += u64::from(turn.behind > LATE);
    tally.late_waiting += u64::from(turn.behind <= LATE && turn.waited > LATE);
    tally.behind_max = tally.behind_max.max(turn.behind);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A count that a panic interrupted is off by one at most; the panic itself is reported.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request under way at a time.
struct Slot {
    engine: Arc<Engine>,
    pace: Arc<Pace>,
    shard: usize,
    /// Which gateway it is connected to.
    heads: usize,
    transport: Transport,
}

impl Slot {
    async fn run(mut self) -> Transport {
        let mut free_since = Instant::now();
        while let Some(turn) = self.pace.turn(free_since).await {
            if turn.due.elapsed() >= self.engine.timeout {
                // Nobody would have waited so long: the backlog ends here.
                self.engine.note_not_sent(self.shard, &turn, None);
                continue;
            }
            if let Err(failure) = self.transport.open().await {
                self.engine.note_not_sent(self.shard, &turn, Some(failure));
                if matches!(*self.pace, Pace::Closed { .. }) {
                    tokio::time::sleep(CONNECT_PAUSE).await;
                }
            } else {
                self.exchange(&turn).await;
            }
            free_since = Instant::now();
        }
        self.transport
    }

    async fn exchange(&mut self, turn: &Turn) {
        let engine = &*self.engine;
        let head = engine.head(self.heads, turn.request);
        let sent = Instant::now();
        engine.in_flight.fetch_add(1, Ordering::Relaxed);
        let batch = engine.generator.recipe().batch;
        engine.sent.fetch_add(batch, Ordering::Relaxed);
        let fill = |body: &mut Vec<u8>| engine.generator.write_body(turn.request, body);
        let deadline = (sent + engine.timeout).into();
        let answer = self.transport.exchange(&head, fill, deadline).await;
        engine.in_flight.fetch_sub(1, Ordering::Relaxed);
        engine.note(self.shard, turn, sent, answer);
    }
}
