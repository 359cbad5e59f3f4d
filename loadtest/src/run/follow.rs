//! Every tracking id is asked about until it has its outcome, while the load runs and after it.
//!
//! An id is asked about for the first time shortly after its 202 and then at growing distances, so
//! that what is seen as *visible* is late by at most [`ASK_STEP`] or an eighth of the time that
//! it took, never early. If looking up cannot keep pace, ids are asked later and `visible` only
//! grows: the figure never flatters.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chassis::shutdown::Shutdown;
use uuid::Uuid;

use super::books::{Books, Outcome};
use super::engine::{Engine, Given, Unanswered};
use super::generate::Nature;
use super::source::{Database, Found, Miss, Source, Status, Verdict};
use super::tally::Durations;
use crate::couriers::Courier;

/// From a 202 to the first question.
const FIRST_ASK: Duration = Duration::from_millis(5);
/// Least time between two questions about one id.
const ASK_STEP: Duration = Duration::from_millis(20);
/// Between two look-ups that are not full, so that following does not slow what it follows.
const LOOKUP_INTERVAL: Duration = Duration::from_millis(10);
/// Pauses while whoever is asked is away.
const AWAY_MIN: Duration = Duration::from_millis(50);
const AWAY_MAX: Duration = Duration::from_secs(1);
/// How long an id stays unknown before it is called lost; asked again meanwhile, since a database
/// that was set back a little catches up.
const UNKNOWN_PATIENCE: Duration = Duration::from_secs(10);
/// Ids older than what is applied by so much are not merely late (the services' own slack).
const APPLIED_SLACK_MS: u64 = 30_000;

/// What followers share with whoever shows how they are doing.
#[derive(Debug)]
pub(crate) struct Following {
    engine: Arc<Engine>,
    books: Mutex<Books>,
    /// Since it was drained last.
    visible: Mutex<Durations>,
    persisted: AtomicU64,
    /// Ids that were given and have no outcome.
    pending: AtomicU64,
    /// Age of the oldest of them by follower, in milliseconds.
    oldest_ms: Vec<AtomicU64>,
    /// The most that a question came late, in milliseconds.
    lag_max_ms: AtomicU64,
    sending_over: AtomicBool,
    refused: Mutex<Option<String>>,
}

impl Following {
    pub(crate) fn new(engine: Arc<Engine>, started: Instant, followers: usize) -> Self {
        Self {
            engine,
            books: Mutex::new(Books::new(started)),
            visible: Mutex::default(),
            persisted: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            oldest_ms: (0..followers).map(|_| AtomicU64::new(0)).collect(),
            lag_max_ms: AtomicU64::new(0),
            sending_over: AtomicBool::new(false),
            refused: Mutex::new(None),
        }
    }

    /// No more ids will be given: who has none left goes home.
    pub(crate) fn sending_is_over(&self) {
        self.sending_over.store(true, Ordering::Release);
    }

    /// Records known to be persisted.
    pub(crate) fn persisted(&self) -> u64 {
        self.persisted.load(Ordering::Relaxed)
    }

    /// Ids taken up that have no outcome yet.
    pub(crate) fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// How far persisting lags behind accepting.
    pub(crate) fn oldest_ms(&self) -> u64 {
        let ages = self.oldest_ms.iter().map(|it| it.load(Ordering::Relaxed));
        ages.max().unwrap_or_default()
    }

    /// The most that a question came later than it should have: `visible` is too long by as much.
    pub(crate) fn lag_max(&self) -> Duration {
        Duration::from_millis(self.lag_max_ms.load(Ordering::Relaxed))
    }

    /// Why following ended early, if it did.
    pub(crate) fn refused(&self) -> Option<String> {
        lock(&self.refused).clone()
    }

    pub(crate) fn drain_visible(&self, to: &mut Durations) {
        let mut visible = lock(&self.visible);
        to.merge(&visible);
        visible.clear();
    }

    /// The books, once all followers are done.
    pub(crate) fn take_books(&self) -> Books {
        std::mem::replace(&mut lock(&self.books), Books::new(Instant::now()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One id that waits for its next question; the one to be asked soonest is the greatest.
#[derive(Debug)]
struct Pending {
    ask_at: Instant,
    given: Given,
    unknown_since: Option<Instant>,
}

impl Pending {
    fn key(&self) -> (Reverse<Instant>, Reverse<u64>) {
        (Reverse(self.ask_at), Reverse(self.given.record))
    }
}

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Pending {}

impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pending {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// Ids without an outcome.
#[derive(Debug, Default)]
struct Queue {
    waiting: BinaryHeap<Pending>,
    /// Under way in a look-up: not lost when that is broken off.
    asked: Vec<Pending>,
}

/// Follows the ids of some partners with one source.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) following: Arc<Following>,
    /// Which of the `oldest_ms` is its own.
    pub(crate) number: usize,
    pub(crate) partners: Vec<usize>,
    pub(crate) source: Source,
    pub(crate) settle_timeout: Duration,
    pub(crate) stop: Shutdown,
}

impl Follower {
    /// Follows until sending is over and every id has its outcome, or patience ends; returns what
    /// has none.
    pub(crate) async fn run(mut self) -> Vec<Given> {
        let mut queue = Queue::default();
        let stop = self.stop.clone();
        let patience = patience(Arc::clone(&self.following), self.settle_timeout);
        tokio::select! {
            () = self.follow(&mut queue) => {}
            () = patience => {}
            () = stop.begun() => {}
        }
        // What was accepted and never taken up counts as well.
        self.take_up(&mut queue);
        let mut left = queue.waiting.into_vec();
        left.append(&mut queue.asked);
        self.close(left).await
    }

    async fn follow(&mut self, queue: &mut Queue) {
        let mut away = AWAY_MIN;
        let mut last_lookup = Instant::now();
        loop {
            // Seen before taking up: what is given after it was set does not exist.
            let over = self.following.sending_over.load(Ordering::Acquire);
            self.take_up(queue);
            self.show_oldest(queue);
            if over && queue.waiting.is_empty() {
                return;
            }
            let pause = LOOKUP_INTERVAL.saturating_sub(last_lookup.elapsed());
            if !self.pick_due(queue) {
                tokio::time::sleep(pause.max(FIRST_ASK)).await;
                continue;
            }
            if queue.asked.len() < self.source.ids_max() {
                tokio::time::sleep(pause).await;
            }
            last_lookup = Instant::now();
            let ids: Vec<Uuid> = queue.asked.iter().map(|it| it.given.tracking_id).collect();
            match self.source.ask(&ids).await {
                Ok(found) => {
                    away = AWAY_MIN;
                    self.note(queue, found);
                }
                Err(Miss::Again(after)) => {
                    queue.waiting.extend(queue.asked.drain(..));
                    // The service's own wish, but often enough to see it come back.
                    let pause = after.unwrap_or(away).clamp(AWAY_MIN, AWAY_MAX);
                    tokio::time::sleep(pause).await;
                    away = (away * 2).min(AWAY_MAX);
                }
                Err(Miss::Refused(why)) => {
                    lock(&self.following.refused).get_or_insert(why);
                    return;
                }
            }
        }
    }

    /// Takes over what the connections have had accepted.
    fn take_up(&self, queue: &mut Queue) {
        let mut given = Vec::new();
        for partner in &self.partners {
            self.following.engine.drain_given(*partner, &mut given);
        }
        if given.is_empty() {
            return;
        }
        let mut books = lock(&self.following.books);
        let before = queue.waiting.len();
        for given in given {
            if books.accept(&given) {
                queue.waiting.push(Pending {
                    ask_at: given.accepted + FIRST_ASK,
                    given,
                    unknown_since: None,
                });
            }
        }
        let taken = (queue.waiting.len() - before) as u64;
        self.following.pending.fetch_add(taken, Ordering::Relaxed);
    }

    /// Picks what is to be asked about now; whether there is anything.
    fn pick_due(&self, queue: &mut Queue) -> bool {
        let now = Instant::now();
        while queue.asked.len() < self.source.ids_max()
            && queue.waiting.peek().is_some_and(|it| it.ask_at <= now)
        {
            queue.asked.extend(queue.waiting.pop());
        }
        let Some(first) = queue.asked.first() else {
            return false;
        };
        let lag = u64::try_from((now - first.ask_at).as_millis()).unwrap_or(u64::MAX);
        self.following.lag_max_ms.fetch_max(lag, Ordering::Relaxed);
        true
    }

    fn show_oldest(&self, queue: &Queue) {
        // Asked about before the others, so usually the oldest; a scan would cost more than it
        // tells.
        let oldest = queue.waiting.peek().map(|it| it.given.accepted.elapsed());
        let ms = oldest.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        self.following.oldest_ms[self.number].store(ms, Ordering::Relaxed);
    }

    /// Takes in the answer to what is in `queue.asked`.
    fn note(&self, queue: &mut Queue, found: Vec<Found>) {
        let now = Instant::now();
        let mut asked: HashMap<Uuid, Pending> = queue
            .asked
            .drain(..)
            .map(|it| (it.given.tracking_id, it))
            .collect();
        let mut settled: HashMap<Uuid, Given> = HashMap::new();
        let mut persisted = 0;
        let mut visible = Vec::new();
        let mut books = lock(&self.following.books);
        for found in found {
            let id = found.tracking_id;
            let Some(mut pending) = asked.remove(&id) else {
                match settled.get(&id) {
                    Some(given) => books.answered_twice(given),
                    None => {
                        let what = format!("a look-up answers about {id}, which was not asked");
                        books.contradictions.add([what]);
                    }
                }
                continue;
            };
            let outcome = match found.verdict {
                Verdict::Settled(outcome) => outcome,
                Verdict::Unknown => {
                    let since = *pending.unknown_since.get_or_insert(now);
                    if now - since < UNKNOWN_PATIENCE {
                        queue.waiting.push(again(pending, now));
                        continue;
                    }
                    Outcome::Lost
                }
                Verdict::Queued => {
                    queue.waiting.push(again(pending, now));
                    continue;
                }
                Verdict::Nonsense(what) => {
                    books.contradictions.add([format!("{id} {what}")]);
                    queue.waiting.push(again(pending, now));
                    continue;
                }
            };
            let given = pending.given;
            let own = self.following.engine.generator.resource(given.record);
            if let Some(other) = found.resource.filter(|it| *it != own) {
                let what = format!("{id} was given for {own}, and speaks of {other}");
                books.contradictions.add([what]);
            }
            persisted += u64::from(outcome == Outcome::Persisted);
            visible.push(now - given.due);
            books.settle(&given, &outcome, &self.following.engine.generator);
            settled.insert(id, given);
        }
        if !asked.is_empty() && !self.source.silence_is_queued() {
            let what = format!("a look-up is silent about {} ids", asked.len());
            books.contradictions.add([what]);
        }
        drop(books);
        queue
            .waiting
            .extend(asked.into_values().map(|it| again(it, now)));
        self.count(settled.len() as u64, persisted, &visible);
    }

    fn count(&self, settled: u64, persisted: u64, visible: &[Duration]) {
        let following = &self.following;
        following.pending.fetch_sub(settled, Ordering::Relaxed);
        following.persisted.fetch_add(persisted, Ordering::Relaxed);
        let mut durations = lock(&following.visible);
        for duration in visible {
            durations.record(*duration);
        }
    }

    /// What is unknown when patience ends is lost; what is queued is unsettled.
    async fn close(mut self, left: Vec<Pending>) -> Vec<Given> {
        self.following.oldest_ms[self.number].store(0, Ordering::Relaxed);
        let applied_to_ms = match &mut self.source {
            Source::Database(database) if !left.is_empty() => database.applied_to_ms().await,
            _ => None,
        };
        let mut unsettled = Vec::new();
        let mut books = lock(&self.following.books);
        for pending in left {
            let passed = applied_to_ms.is_some_and(|applied| {
                minted_ms(pending.given.tracking_id) + APPLIED_SLACK_MS < applied
            });
            if passed || pending.unknown_since.is_some() {
                let generator = &self.following.engine.generator;
                books.settle(&pending.given, &Outcome::Lost, generator);
            } else {
                unsettled.push(pending.given);
            }
        }
        unsettled
    }
}

async fn patience(following: Arc<Following>, settle_timeout: Duration) {
    while !following.sending_over.load(Ordering::Acquire) {
        tokio::time::sleep(LOOKUP_INTERVAL * 10).await;
    }
    tokio::time::sleep(settle_timeout).await;
}

/// Asks again, the later the longer it has been waiting.
fn again(mut pending: Pending, now: Instant) -> Pending {
    let age = now.saturating_duration_since(pending.given.accepted);
    pending.ask_at = now + ASK_STEP.max(age / 8);
    pending
}

/// The Unix milliseconds of a UUIDv7 (RFC 9562).
fn minted_ms(id: Uuid) -> u64 {
    let (high, _) = id.as_u64_pair();
    high >> 16
}

/// How many rides of unanswered requests, and how many new couriers, are stored after all; `None`
/// if nobody can tell.
///
/// Only fresh ones are asked about: a repeated one is stored if its original is. What happened to
/// the couriers of the fleet, their versions tell.
pub(crate) async fn count_stored(
    engine: &Engine,
    unanswered: &[Unanswered],
    mut by_partner: Vec<Status>,
    patience: Duration,
) -> Option<u64> {
    let until = Instant::now() + patience;
    let fresh: HashSet<u64> = unanswered
        .iter()
        .map(|it| it.record)
        .filter(|record| engine.generator.nature(*record) == Nature::Fresh)
        .collect();
    let mut stored = 0;
    for record in fresh {
        let status = &mut by_partner[engine.generator.partner_of(record)];
        let generator = &engine.generator;
        let route = match generator.command(record).map(|it| it.courier) {
            None => format!("/v1/rides/{}", generator.id(record)),
            Some(Courier::New(_)) => format!("/v1/couriers/{}", generator.resource(record)),
            Some(Courier::Fleet(_)) => continue,
        };
        loop {
            match status.is_stored(&route).await {
                Ok(is_stored) => {
                    stored += u64::from(is_stored);
                    break;
                }
                Err(Miss::Again(after)) if Instant::now() < until => {
                    tokio::time::sleep(after.unwrap_or(AWAY_MIN).min(AWAY_MAX)).await;
                }
                Err(_) => return None,
            }
        }
    }
    Some(stored)
}

/// Makes sure that the database can be read before a run depends on it.
pub(crate) async fn try_database(url: &str) -> Result<Source, tokio_postgres::Error> {
    let mut database = Database::new(url.to_owned());
    database.open().await?;
    Ok(Source::Database(Box::new(database)))
}
