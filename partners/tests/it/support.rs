//! A log, a handle that follows it, and a client that changes it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use devstack::eventually::eventually;
use devstack::fixture::{Fixture, NatsFixture};
use jiff::Timestamp;
use partners::{
    ApiKey, Bucket, Client, Denied, Document, Limits, NewPartner, Partners, Scope, Seed, Sources,
};
use tokio::task::JoinHandle;

/// Longer than anything here takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// What a change may take to be known everywhere.
pub(crate) const SOON: Duration = Duration::from_secs(1);

pub(crate) struct World {
    pub(crate) nats: NatsFixture,
    pub(crate) client: Client,
}

impl World {
    pub(crate) async fn start() -> Self {
        let nats = Fixture::nats().await;
        let client = partners::stay_connected(&[nats.url()], "test")
            .await
            .unwrap();
        Self { nats, client }
    }

    /// The bucket; made by the first who asks.
    pub(crate) async fn bucket(&self) -> Bucket {
        eventually(LIMIT, || async {
            Bucket::open_or_create(&self.client).await.ok()
        })
        .await
        .expect("a bucket")
    }

    pub(crate) async fn add(&self, name: &str) -> (Document, ApiKey) {
        let added = self.bucket().await.add(&new(name), Timestamp::now()).await;
        added.expect("added")
    }

    /// A process's view, over a connection of its own.
    pub(crate) async fn follower(&self, sources: Sources) -> Follower {
        Follower::start(&self.nats.url(), sources).await
    }
}

pub(crate) fn new(name: &str) -> NewPartner {
    NewPartner {
        name: name.to_owned(),
        id: None,
        limits: Limits::default(),
        scopes: Scope::ALL.to_vec(),
        expires_at: None,
    }
}

pub(crate) fn cached_in(cache: PathBuf) -> Sources {
    Sources {
        seed: Seed::default(),
        cache: Some(cache),
    }
}

pub(crate) struct Follower {
    pub(crate) partners: Partners,
    /// What was reported last; `None` before anything was.
    pub(crate) state: Arc<Mutex<Option<Result<(), String>>>>,
    watching: JoinHandle<()>,
}

impl Follower {
    pub(crate) async fn start(url: &str, sources: Sources) -> Self {
        let client = partners::stay_connected(&[url.to_owned()], "follower")
            .await
            .unwrap();
        let (partners, watcher) = Partners::watch(sources);
        let state = Arc::new(Mutex::new(None));
        let reported = Arc::clone(&state);
        let watching = watcher.run(client, move |told| *reported.lock().unwrap() = Some(told));
        Self {
            partners,
            state,
            watching: tokio::spawn(watching),
        }
    }

    pub(crate) fn ask(&self, key: &ApiKey, scope: Scope) -> Result<i32, Denied> {
        self.ask_text(key.reveal(), scope)
    }

    pub(crate) fn ask_text(&self, key: &str, scope: Scope) -> Result<i32, Denied> {
        let found = self.partners.authenticate(key, scope, SystemTime::now());
        found.map(|partner| partner.id)
    }

    /// Waits until a key is answered so.
    pub(crate) async fn until(
        &self,
        limit: Duration,
        key: &ApiKey,
        scope: Scope,
        expected: Result<i32, Denied>,
    ) {
        let found = eventually(limit, || async {
            (self.ask(key, scope) == expected).then_some(())
        });
        assert!(
            found.await.is_some(),
            "{:?} instead of {expected:?} after {limit:?}",
            self.ask(key, scope)
        );
    }

    pub(crate) async fn until_loaded(&self) {
        eventually(LIMIT, || async { self.partners.is_loaded().then_some(()) })
            .await
            .expect("loaded");
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.watching.abort();
    }
}
