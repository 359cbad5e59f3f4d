//! Following the bucket, and answering from memory.
//!
//! Four times a second the bucket is asked for what it holds beyond the last revision that was read.
//! Nothing at the log's side keeps a place for us, so nothing there can die in silence. Every second
//! the bucket says whether it is still the same, and whether its leader has more than we were told;
//! whenever something is odd or the connection was lost, and every few minutes, everything is read
//! again.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use async_nats::Client;
use async_nats::connection::State;
use jiff::Timestamp;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::bucket::{self, AddError, Bucket, BucketError, Entry};
use crate::cache::Cache;
use crate::document::Document;
use crate::meter;
use crate::model::{Denied, Partner, Scope};
use crate::seed::Seed;
use crate::snapshot::Snapshot;

/// How soon a bucket that could not be followed is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// How often the bucket is asked for what is new: a change has to be known everywhere within a
/// second, also when one answer is late. One question that finds nothing costs the log some 50 us.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Most pages that are asked for in a row, before the connection is looked at again.
const PAGES_MAX: usize = 16;

/// How often the bucket is asked whether it is the same and what its last revision is.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How often everything is read again though nothing seems to be missing: an entry removed from
/// the stream itself leaves no trace that could be read.
const LIST_INTERVAL: Duration = Duration::from_secs(300);

/// Everyone who may call, as last known. Cheap to clone; looking a key up takes no lock.
#[derive(Clone)]
pub struct Partners {
    current: Arc<ArcSwap<Snapshot>>,
}

/// Where partners come from besides the bucket.
#[derive(Clone, Default, Debug)]
pub struct Sources {
    /// Written into the bucket for ids that it does not have.
    pub seed: Seed,
    /// Where what is known is kept for the next start.
    pub cache: Option<PathBuf>,
}

/// Keeps [`Partners`] true to the bucket while it runs.
#[derive(Debug)]
pub struct Watcher {
    partners: Partners,
    seed: Seed,
    cache: Option<Cache>,
    /// What the cache file holds, as far as known.
    cached: Vec<u8>,
    documents: BTreeMap<i32, Document>,
    /// Ids whose document cannot be read; what was known of them before stays.
    unreadable: Vec<i32>,
    /// When the bucket was last seen to hold nothing else than what is known.
    confirmed_at: Instant,
    is_seeded: bool,
    /// What went wrong last, so that it is told once.
    told: String,
}

/// Why the bucket is no longer followed. All of these lead to its being opened again.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error("not connected to the log")]
    Disconnected,
    #[error("the connection to the log was lost in between")]
    Reconnected,
    #[error("the bucket has changes that nobody tells of")]
    Missed,
    #[error("the bucket is another than before")]
    Recreated,
    #[error("everything is read again")]
    ListAgain,
}

/// A bucket that is being followed.
struct Following {
    bucket: Bucket,
    /// The last revision that was read.
    read_to: u64,
    /// The bucket's last revision when it was opened: its message may be gone.
    opened_to: u64,
    /// The bucket's last revision at the last check: by the next one it is known here.
    promised: u64,
    created_at: i128,
    connects: u64,
    opened_at: Instant,
    checked_at: Instant,
}

impl Partners {
    /// Those of a file, for ever.
    #[must_use]
    pub fn fixed(seed: &Seed) -> Self {
        meter::describe();
        let documents = seed.documents().iter();
        let documents = documents.map(|document| (document.id, document.clone()));
        let partners = Self::empty();
        partners.replace(&documents.collect());
        partners
    }

    /// Those of the bucket, once the [`Watcher`] runs. Until it has reached the bucket: those of
    /// the cache file, and of the seed where the cache does not know the id.
    #[must_use]
    pub fn watch(sources: Sources) -> (Self, Watcher) {
        meter::describe();
        let partners = Self::empty();
        let mut watcher = Watcher {
            partners: partners.clone(),
            is_seeded: sources.seed.documents().is_empty(),
            seed: sources.seed,
            cache: sources.cache.map(Cache::new),
            cached: Vec::new(),
            documents: BTreeMap::new(),
            unreadable: Vec::new(),
            confirmed_at: Instant::now(),
            told: String::new(),
        };
        watcher.begin();
        (partners, watcher)
    }

    fn empty() -> Self {
        Self {
            current: Arc::new(ArcSwap::from_pointee(Snapshot::not_loaded())),
        }
    }

    fn replace(&self, documents: &BTreeMap<i32, Document>) {
        let snapshot = Snapshot::of(documents);
        meter::known(snapshot.partners());
        self.current.store(Arc::new(snapshot));
    }

    /// Whose key this is, if it is good for that at that time.
    ///
    /// # Errors
    /// [`Denied`], in words that are safe for whoever presented the key.
    pub fn authenticate(
        &self,
        key: &str,
        scope: Scope,
        now: SystemTime,
    ) -> Result<Arc<Partner>, Denied> {
        self.current.load().authenticate(key, scope, now)
    }

    /// Whether it is known who may call, be it from the bucket, the cache or the seed.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.current.load().is_loaded()
    }
}

impl fmt::Debug for Partners {
    /// Without names, keys and hashes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.current.load();
        f.debug_struct("Partners")
            .field("partners", &current.partners())
            .field("is_loaded", &current.is_loaded())
            .finish_non_exhaustive()
    }
}

impl Watcher {
    /// What is known before the bucket is.
    fn begin(&mut self) {
        let kept = self
            .cache
            .as_ref()
            .map(|cache| (cache.path(), cache.read()));
        let kept = match kept {
            Some((path, Err(error))) => {
                tracing::warn!(path = %path.display(), %error, "the partners cache is not used");
                None
            }
            Some((_, Ok(kept))) => kept,
            None => None,
        };
        if let Some(documents) = kept {
            self.cached = Cache::text(&documents);
            self.documents = documents;
        } else if self.seed.documents().is_empty() {
            return;
        }
        // As in the bucket, a seed never replaces what is known.
        for document in self.seed.documents() {
            let id = document.id;
            self.documents.entry(id).or_insert_with(|| document.clone());
        }
        self.partners.replace(&self.documents);
    }

    /// Follows the bucket until it is dropped. `report` is told whenever it may have changed
    /// whether partners are known, and why not.
    pub async fn run(mut self, client: Client, mut report: impl FnMut(Result<(), String>)) {
        if self.partners.is_loaded() {
            report(Ok(()));
        }
        loop {
            let ended = match self.open(&client).await {
                Ok(mut following) => {
                    report(Ok(()));
                    self.follow(&client, &mut following).await
                }
                Err(error) => error,
            };
            self.tell(&ended);
            if !self.partners.is_loaded() {
                report(Err(ended.to_string()));
            }
            self.meter();
            tokio::time::sleep(REOPEN_PAUSE).await;
        }
    }

    /// Reads everything.
    async fn open(&mut self, client: &Client) -> Result<Following, Ended> {
        let connects = client.statistics().connects.load(Ordering::Relaxed);
        if client.connection_state() != State::Connected {
            return Err(Ended::Disconnected);
        }
        let bucket = if self.is_seeded {
            Bucket::open(client).await?
        } else {
            Bucket::open_or_create(client).await?
        };
        let listed = bucket.entries().await?;
        self.relist(&listed.entries);
        self.plant(&bucket).await;
        self.publish().await;
        self.confirmed_at = Instant::now();
        self.meter();
        self.told.clear();
        Ok(Following {
            bucket,
            read_to: listed.read_to,
            opened_to: listed.info.state.last_sequence,
            promised: 0,
            created_at: listed.info.created.unix_timestamp_nanos(),
            connects,
            opened_at: Instant::now(),
            checked_at: Instant::now(),
        })
    }

    /// Applies changes until there is a reason to read everything again.
    async fn follow(&mut self, client: &Client, following: &mut Following) -> Ended {
        let mut polls = interval(POLL_INTERVAL);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            polls.tick().await;
            let mut step = still_connected(client, following);
            if step.is_ok() {
                step = self.poll(following).await;
            }
            if step.is_ok() && following.checked_at.elapsed() >= CHECK_INTERVAL {
                step = self.check(following).await;
            }
            if let Err(ended) = step {
                return ended;
            }
        }
    }

    /// Applies what is new.
    async fn poll(&mut self, following: &mut Following) -> Result<(), Ended> {
        let read_before = following.read_to;
        let mut failed = None;
        for _ in 0..PAGES_MAX {
            let page = match following.bucket.page(following.read_to + 1).await {
                Ok(page) => page,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            };
            for entry in &page.entries {
                following.read_to = entry.revision;
                self.apply(entry);
            }
            if !page.has_more {
                break;
            }
        }
        if following.read_to != read_before {
            self.publish().await;
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    async fn check(&mut self, following: &mut Following) -> Result<(), Ended> {
        following.checked_at = Instant::now();
        let info = following.bucket.info().await?;
        let last = info.state.last_sequence;
        let known = following.read_to.max(following.opened_to);
        if info.created.unix_timestamp_nanos() != following.created_at || last < known {
            return Err(Ended::Recreated);
        }
        if known < following.promised {
            return Err(Ended::Missed);
        }
        following.promised = last;
        if last == known {
            self.confirmed_at = Instant::now();
        }
        self.meter();
        if !self.is_seeded {
            self.plant(&following.bucket).await;
        }
        if following.opened_at.elapsed() > LIST_INTERVAL {
            return Err(Ended::ListAgain);
        }
        Ok(())
    }

    /// Replaces what is known by what the bucket holds.
    fn relist(&mut self, entries: &[Entry]) {
        let mut before = std::mem::take(&mut self.documents);
        self.unreadable.clear();
        for entry in entries {
            let Some(id) = bucket::partner_id(&entry.key) else {
                continue;
            };
            // What cannot be read stays as it was.
            if bucket::partner_of(entry).is_some()
                && let Some(known) = before.remove(&id)
            {
                self.documents.insert(id, known);
            }
            self.apply(entry);
        }
    }

    fn apply(&mut self, entry: &Entry) {
        let Some(id) = bucket::partner_id(&entry.key) else {
            return;
        };
        self.unreadable.retain(|other| *other != id);
        let Some((_, json)) = bucket::partner_of(entry) else {
            self.documents.remove(&id);
            return;
        };
        match Document::parse(id, json) {
            Ok(document) => {
                self.documents.insert(id, document);
            }
            Err(error) => {
                self.unreadable.push(id);
                tracing::error!(
                    partner = id, revision = entry.revision, %error,
                    "a partner's document cannot be used: what was known before stays"
                );
            }
        }
    }

    /// Writes those of the seed that the bucket does not have.
    async fn plant(&mut self, bucket: &Bucket) {
        let mut is_done = true;
        for document in self.seed.documents() {
            if let Some(known) = self.documents.get(&document.id) {
                warn_of_other_keys(document, known);
                continue;
            }
            match bucket.plant(document, Timestamp::now()).await {
                Ok(is_new) => {
                    if is_new {
                        tracing::info!(partner = document.id, "written from the partners file");
                    }
                    // As the next poll will tell; the next answer need not wait for it.
                    if let Ok(Some(planted)) = bucket.get(document.id).await {
                        self.documents.insert(planted.id, planted);
                    }
                }
                Err(error) => {
                    is_done = false;
                    // Refused for good only by whoever has the name.
                    if matches!(error, AddError::Bucket(_)) {
                        self.documents.insert(document.id, document.clone());
                    }
                    let error = error.to_string();
                    if self.told != error {
                        tracing::warn!(
                            partner = document.id,
                            error,
                            "the partners file cannot be written into the bucket"
                        );
                        self.told = error;
                    }
                }
            }
        }
        self.is_seeded = is_done;
    }

    /// Lets everyone see what is known, and keeps it for the next start.
    async fn publish(&mut self) {
        self.partners.replace(&self.documents);
        let Some(cache) = self.cache.clone() else {
            return;
        };
        let text = Cache::text(&self.documents);
        if text == self.cached {
            return;
        }
        let writing = tokio::task::spawn_blocking(move || {
            let written = cache.write(&text);
            (text, cache, written)
        });
        match writing.await {
            Ok((text, _, Ok(()))) => self.cached = text,
            Ok((_, cache, Err(error))) => {
                let path = cache.path().display().to_string();
                tracing::error!(path, %error, "the partners cache cannot be written");
            }
            // The runtime is going away.
            Err(_) => {}
        }
    }

    fn meter(&self) {
        meter::followed(self.stale(), self.unreadable.len());
    }

    /// For how long nothing has confirmed what is known; within a check's interval not at all.
    fn stale(&self) -> Duration {
        let age = self.confirmed_at.elapsed();
        if age <= 2 * CHECK_INTERVAL {
            Duration::ZERO
        } else {
            age
        }
    }

    /// Says why the bucket is not followed, once; nothing of what is normal and over at once.
    fn tell(&mut self, ended: &Ended) {
        let is_brief = matches!(ended, Ended::Disconnected | Ended::Reconnected);
        if matches!(ended, Ended::ListAgain) || (is_brief && self.stale().is_zero()) {
            return;
        }
        let words = ended.to_string();
        if self.told != words {
            tracing::warn!(
                reason = words,
                "the bucket of partners is not followed right now"
            );
            self.told = words;
        }
    }
}

fn still_connected(client: &Client, following: &Following) -> Result<(), Ended> {
    if client.connection_state() != State::Connected {
        return Err(Ended::Disconnected);
    }
    if client.statistics().connects.load(Ordering::Relaxed) != following.connects {
        return Err(Ended::Reconnected);
    }
    Ok(())
}

fn warn_of_other_keys(seed: &Document, known: &Document) {
    let is_known = |hash| known.keys.iter().any(|key| key.sha256 == hash);
    if !seed.keys.iter().all(|key| is_known(key.sha256)) {
        tracing::warn!(
            partner = seed.id,
            "the bucket has this partner with other keys than the partners file: those of the file \
             are not known"
        );
    }
}
