//! The bucket itself: opening it, and changing what it holds.
//!
//! | key | value |
//! |---|---|
//! | `<id>` | the partner's [`Document`] |
//! | `name.<name>` | `{"id":<id>,"by":"<who reserved it>"}`: whose name it is |
//!
//! A name is reserved by creating its entry, an id by creating the partner's: of two that try, the
//! server lets one. Everything else is written by compare-and-set on the revision that was read.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::kv::{CreateErrorKind, Operation, Store, UpdateErrorKind};
use async_nats::jetstream::stream::{Info, StorageType};
use async_nats::jetstream::{self, ErrorCode, context::GetStreamErrorKind, kv};
use futures_util::TryStreamExt as _;
use jiff::Timestamp;
use tokio::time::timeout;

use crate::document::{Conflict, Document, DocumentError, NameError};
use crate::model::{Limits, Scope};
use crate::seed::Seed;

mod adding;
mod reading;

pub(crate) use reading::Entry;

/// Its name.
pub const BUCKET: &str = "weir_partners";

/// Earlier forms of each document that are kept, for an operator who wonders who changed what.
const HISTORY: i64 = 8;

/// Longest wait for one answer of the log.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// Longest wait for the list of streams.
const LIST_WAIT: Duration = Duration::from_secs(5);

/// How often a change is made again when another was faster.
const CHANGE_TRIES: usize = 20;

/// The bucket, open.
#[derive(Clone, Debug)]
pub struct Bucket {
    client: Client,
    store: Store,
}

/// The bucket could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// There is none.
    #[error("the log has no bucket {BUCKET}: the first `weir partner add` creates it")]
    Missing,
    /// It did not answer in time.
    #[error("{doing}: the log did not answer in time")]
    TimedOut {
        /// What was tried.
        doing: &'static str,
    },
    /// It said no, or what it said cannot be read.
    #[error("{doing}: {source}")]
    Request {
        /// What was tried.
        doing: &'static str,
        /// The log's answer.
        source: async_nats::Error,
    },
    /// A document in it cannot be used.
    #[error("partner {id}: {source}")]
    Document {
        /// Its key.
        id: i32,
        /// Why.
        source: DocumentError,
    },
}

/// A partner could not be added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// Another has the name.
    #[error("the name {name} is partner {id}'s already")]
    NameTaken {
        /// The name.
        name: String,
        /// Whose.
        id: i32,
    },
    /// Another is just being added under that name, or was until it died a moment ago.
    #[error("another partner is just being added as {0}: try again in half a minute")]
    NameReserved(String),
    /// Another has the id.
    #[error("partner {0} exists already")]
    IdTaken(i32),
    /// So many were added at the same time that no id was left to this one.
    #[error("too many partners are being added at once: try again")]
    Contended,
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The limits do not go together.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The bucket.
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

/// A partner could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There is none of that id.
    #[error("there is no partner {0}")]
    Unknown(i32),
    /// Others changed it each time in between.
    #[error("the partner is being changed by others all the time: try again")]
    Contended,
    /// The change does not go with what the partner is.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The bucket.
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

/// A partner to be.
#[derive(Clone, Debug)]
pub struct NewPartner {
    /// See [`check_name`].
    pub name: String,
    /// The next free one without.
    pub id: Option<i32>,
    /// How much it may send.
    pub limits: Limits,
    /// What its first key is good for.
    pub scopes: Vec<Scope>,
    /// When that key ends; never without.
    pub expires_at: Option<Timestamp>,
}

/// Who reserves the names of `partners.toml`: all services that were given it, together.
const SEED: &str = "partners.toml";

impl Bucket {
    /// Opens it.
    ///
    /// # Errors
    /// [`BucketError::Missing`] when there is none.
    pub async fn open(client: &Client) -> Result<Self, BucketError> {
        let context = context(client);
        let doing = "cannot open the bucket of partners";
        let opening = async {
            match context.get_stream(format!("KV_{BUCKET}")).await {
                Ok(_) => {}
                Err(error) => {
                    return Err(match error.kind() {
                        GetStreamErrorKind::JetStream(answer)
                            if answer.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                        {
                            BucketError::Missing
                        }
                        _ => failed(doing)(error),
                    });
                }
            }
            context.get_key_value(BUCKET).await.map_err(failed(doing))
        };
        let store = in_time(doing, opening).await?;
        let client = client.clone();
        Ok(Self { client, store })
    }

    /// Opens it, and creates it first if need be: on disk, with as many replicas as the log's
    /// streams have.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn open_or_create(client: &Client) -> Result<Self, BucketError> {
        match Self::open(client).await {
            Err(BucketError::Missing) => {}
            opened => return opened,
        }
        let context = context(client);
        let doing = "cannot create the bucket of partners";
        // Whoever may not list streams may still create the bucket of a log of one node.
        let streams = context.streams().try_collect::<Vec<Info>>();
        let streams = timeout(LIST_WAIT, streams).await;
        let streams = streams.ok().and_then(Result::ok).unwrap_or_default();
        let replicas = streams.iter().map(|info| info.config.num_replicas).max();
        let config = jetstream::kv::Config {
            bucket: BUCKET.to_owned(),
            description: "Weir: who may call. Changed by `weir partner`".to_owned(),
            history: HISTORY,
            storage: StorageType::File,
            num_replicas: replicas.unwrap_or(1).max(1),
            ..jetstream::kv::Config::default()
        };
        let creating = async {
            context
                .create_key_value(config)
                .await
                .map_err(failed(doing))
        };
        match in_time(doing, creating).await {
            Ok(store) => Ok(Self {
                client: client.clone(),
                store,
            }),
            // Another may have been faster.
            Err(error) => Self::open(client).await.map_err(|_| error),
        }
    }

    /// Every partner, by id.
    ///
    /// # Errors
    /// [`BucketError`]; a document that cannot be read is one.
    pub async fn list(&self) -> Result<BTreeMap<i32, Document>, BucketError> {
        let mut documents = BTreeMap::new();
        for entry in self.entries().await?.entries {
            if let Some((id, json)) = partner_of(&entry) {
                let document = Document::parse(id, json)
                    .map_err(|source| BucketError::Document { id, source })?;
                documents.insert(id, document);
            }
        }
        Ok(documents)
    }

    /// What the bucket's stream says of itself.
    pub(crate) async fn info(&self) -> Result<Info, BucketError> {
        let doing = "cannot ask for the bucket of partners";
        let asking = async { self.store.stream.get_info().await.map_err(failed(doing)) };
        in_time(doing, asking).await
    }

    /// One partner.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn get(&self, id: i32) -> Result<Option<Document>, BucketError> {
        Ok(self.read(id).await?.map(|(document, _)| document))
    }

    async fn read(&self, id: i32) -> Result<Option<(Document, u64)>, BucketError> {
        let entry = self.entry(&id.to_string()).await?;
        let Some(entry) = entry.filter(|entry| entry.operation == Operation::Put) else {
            return Ok(None);
        };
        let document = Document::parse(id, &entry.value);
        let document = document.map_err(|source| BucketError::Document { id, source })?;
        Ok(Some((document, entry.revision)))
    }

    async fn entry(&self, key: &str) -> Result<Option<kv::Entry>, BucketError> {
        let doing = "cannot read from the bucket of partners";
        let reading = async { self.store.entry(key).await.map_err(failed(doing)) };
        in_time(doing, reading).await
    }

    /// Changes a partner: reads it, lets `change` have it, and writes it unless another did so in
    /// between; then again. `change` may be called more than once.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing is changed then, unless the log did not answer in time.
    pub async fn change<T>(
        &self,
        id: i32,
        mut change: impl FnMut(&mut Document) -> Result<T, Conflict>,
    ) -> Result<(Document, T), ChangeError> {
        for _ in 0..CHANGE_TRIES {
            let (mut document, revision) = self.read(id).await?.ok_or(ChangeError::Unknown(id))?;
            let before = document.clone();
            let outcome = change(&mut document)?;
            if document == before
                || self
                    .update(&id.to_string(), document.to_json(), revision)
                    .await?
            {
                return Ok((document, outcome));
            }
        }
        Err(ChangeError::Contended)
    }

    /// Whether it was written: not if the key has another revision by now.
    async fn update(&self, key: &str, json: Vec<u8>, revision: u64) -> Result<bool, BucketError> {
        let doing = "cannot write to the bucket of partners";
        let writing = async {
            match self.store.update(key, json.into(), revision).await {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(false),
                Err(error) => Err(failed(doing)(error)),
            }
        };
        in_time(doing, writing).await
    }

    /// Whether it was written: not if the key exists with another value.
    async fn create(&self, key: &str, json: Vec<u8>) -> Result<bool, BucketError> {
        let doing = "cannot write to the bucket of partners";
        let writing = async {
            match self.store.create(key, json.clone().into()).await {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Ok(false),
                Err(error) => Err(failed(doing)(error)),
            }
        };
        if in_time(doing, writing).await? {
            return Ok(true);
        }
        // Ours, if the first answer was lost on the way.
        let found = self.entry(key).await?;
        Ok(found.is_some_and(|entry| entry.value == json))
    }

    /// Writes those partners of `partners.toml` whose ids are not there already.
    ///
    /// # Errors
    /// [`AddError`]; those before it are written.
    pub async fn sow(&self, seed: &Seed) -> Result<(), AddError> {
        for document in seed.documents() {
            self.plant(document, Timestamp::now()).await?;
        }
        Ok(())
    }

    /// Writes a partner of `partners.toml`, unless its id is there already. False if it is.
    pub(crate) async fn plant(
        &self,
        document: &Document,
        now: Timestamp,
    ) -> Result<bool, AddError> {
        if self.read(document.id).await?.is_some() {
            return Ok(false);
        }
        self.reserve(&document.name, document.id, SEED, now).await?;
        let key = document.id.to_string();
        Ok(self.create(&key, document.to_json()).await?)
    }

    async fn delete(&self, key: &str, revision: Option<u64>) -> Result<(), BucketError> {
        let doing = "cannot write to the bucket of partners";
        let deleting = async {
            let deleted = self.store.delete_expect_revision(key, revision).await;
            deleted.map_err(failed(doing))
        };
        in_time(doing, deleting).await
    }
}

/// The partner that an entry holds; none for names, and for what was deleted.
pub(crate) fn partner_of(entry: &Entry) -> Option<(i32, &[u8])> {
    let id = partner_id(&entry.key)?;
    (!entry.is_deleted).then_some((id, &entry.value[..]))
}

/// The partner that a key belongs to; none if it is a name's.
pub(crate) fn partner_id(key: &str) -> Option<i32> {
    let id = key.parse().ok()?;
    // `7`, not `07`: one partner has one key.
    (id > 0 && key == format!("{id}")).then_some(id)
}

fn context(client: &Client) -> jetstream::Context {
    let mut context = jetstream::new(client.clone());
    context.set_timeout(ANSWER_WAIT);
    context
}

/// Bounds what the client leaves unbounded while it is not connected.
async fn in_time<T>(
    doing: &'static str,
    asking: impl Future<Output = Result<T, BucketError>>,
) -> Result<T, BucketError> {
    let answered = timeout(ANSWER_WAIT, asking).await;
    answered.map_err(|_elapsed| BucketError::TimedOut { doing })?
}

fn failed<E: Into<async_nats::Error>>(doing: &'static str) -> impl FnOnce(E) -> BucketError {
    move |error| BucketError::Request {
        doing,
        source: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_are_partners() {
        assert_eq!(partner_id("7"), Some(7));
        for key in ["", "0", "-1", "07", "+7", "2147483648", "name.7", "7.7"] {
            assert_eq!(partner_id(key), None, "{key}");
        }
    }
}
