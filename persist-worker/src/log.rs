//! The log as the worker uses it: one NATS connection, and the few requests beside fetching.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::context::{GetStreamErrorKind, RequestErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{DirectGetErrorKind, Info, RawMessageErrorKind};
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use contract::Partition;
use contract::log::{MESSAGE_ID_HEADER, stream_name, subject};
use partners::Access;
use uuid::Uuid;

/// Longest wait for the answer to one request: several times what a busy disk takes.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// How soon a connection that is cut off without a word is noticed: two of these.
const PING_EVERY: Duration = Duration::from_secs(5);
/// Longest pause between two attempts to connect.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A request to the log failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// An address does not parse.
    #[error(transparent)]
    Address(#[from] partners::ConnectError),
    /// No connection.
    #[error("cannot connect to the log")]
    Connect(#[source] async_nats::ConnectError),
    /// The stream does not exist.
    #[error("stream {0} does not exist: run `persist-worker migrate`")]
    NoStream(String),
    /// A request was refused, or not answered.
    #[error("{doing} failed: {source}")]
    Request {
        /// What was asked for.
        doing: &'static str,
        /// Why it failed.
        source: async_nats::Error,
    },
}

impl LogError {
    pub(crate) fn request(doing: &'static str, source: impl Into<async_nats::Error>) -> Self {
        Self::Request {
            doing,
            source: source.into(),
        }
    }
}

/// A message as far as the cursor cares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Stored {
    /// `Nats-Msg-Id`, as it stands there.
    pub(crate) message_id: Option<String>,
    /// When the log stored it, in microseconds since the Unix epoch.
    pub(crate) stored_at_us: i64,
}

/// One connection to the log; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) client: Client,
    pub(crate) jetstream: jetstream::Context,
}

impl Log {
    /// Connects, and from then on reconnects for ever. With `wait` it does not return before there
    /// is a connection, without it returns at once.
    pub(crate) async fn connect(access: &Access, name: &str, wait: bool) -> Result<Self, LogError> {
        let mut options = access
            .options()
            .name(name)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .ping_interval(PING_EVERY)
            .max_reconnects(None)
            .reconnect_delay_callback(|attempts| {
                let doublings = u32::try_from(attempts.min(8)).expect("at most 8");
                (Duration::from_millis(25) * (1 << doublings)).min(RECONNECT_PAUSE_MAX)
            });
        if !wait {
            options = options.retry_on_initial_connect();
        }
        let client = options
            .connect(access.addresses()?)
            .await
            .map_err(LogError::Connect)?;
        let jetstream = jetstream::context::ContextBuilder::new()
            .timeout(REQUEST_TIMEOUT)
            .build(client.clone());
        Ok(Self { client, jetstream })
    }

    /// How many times it has connected: every change means that fetching must be opened anew.
    pub(crate) fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// A partition's stream as it is now.
    pub(crate) async fn stream_info(&self, partition: Partition) -> Result<Info, LogError> {
        let name = stream_name(partition);
        match self.jetstream.get_stream(&name).await {
            Ok(stream) => Ok(stream.cached_info().clone()),
            Err(error) => Err(match error.kind() {
                GetStreamErrorKind::JetStream(refused)
                    if refused.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    LogError::NoStream(name)
                }
                _ => LogError::request("asking for the stream", error),
            }),
        }
    }

    /// The message at `seq` by the stream's leader; `None` when there is none.
    pub(crate) async fn message(
        &self,
        partition: Partition,
        seq: u64,
    ) -> Result<Option<Stored>, LogError> {
        const DOING: &str = "reading a message of the log";
        let stream = self.stream_handle(partition).await?;
        match stream.get_raw_message(seq).await {
            Ok(message) => Ok(Some(Stored {
                message_id: header(&message.headers),
                stored_at_us: micros(message.time.unix_timestamp_nanos()),
            })),
            Err(error) => match error.kind() {
                RawMessageErrorKind::NoMessageFound => Ok(None),
                RawMessageErrorKind::JetStream(refused)
                    if refused.error_code() == ErrorCode::NO_MESSAGE_FOUND =>
                {
                    Ok(None)
                }
                _ => Err(LogError::request(DOING, error)),
            },
        }
    }

    /// When the message at `seq` was stored, by any replica; `None` when it has none.
    pub(crate) async fn stored_at(
        &self,
        partition: Partition,
        seq: u64,
    ) -> Result<Option<i64>, LogError> {
        let stream = self.stream_handle(partition).await?;
        match stream.direct_get(seq).await {
            Ok(message) => Ok(Some(micros(message.time.unix_timestamp_nanos()))),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(LogError::request("reading a message of the log", error)),
        }
    }

    /// Removes everything before `first_to_keep`; the number of messages removed.
    pub(crate) async fn purge_before(
        &self,
        partition: Partition,
        first_to_keep: u64,
    ) -> Result<u64, LogError> {
        let stream = self.stream_handle(partition).await?;
        let purged = stream.purge().sequence(first_to_keep).await;
        purged
            .map(|it| it.purged)
            .map_err(|error| LogError::request("purging the log", error))
    }

    /// Publishes a sealed chunk and waits until it is stored.
    pub(crate) async fn publish(
        &self,
        partition: Partition,
        chunk_id: Uuid,
        chunk: Bytes,
    ) -> Result<(), LogError> {
        const DOING: &str = "publishing an empty chunk";
        let message = PublishMessage::build()
            .payload(chunk)
            .message_id(chunk_id.hyphenated().to_string());
        let ack = self
            .jetstream
            .send_publish(subject(partition), message)
            .await;
        let ack = ack.map_err(|error| LogError::request(DOING, error))?;
        ack.await
            .map(|_| ())
            .map_err(|error| LogError::request(DOING, error))
    }

    /// Names of all streams.
    pub(crate) async fn stream_names(&self) -> Result<Vec<String>, LogError> {
        use futures_util::TryStreamExt as _;
        self.jetstream
            .stream_names()
            .try_collect()
            .await
            .map_err(|error| match error.kind() {
                RequestErrorKind::NoResponders => LogError::request(
                    "listing streams",
                    "the server runs without JetStream, or has no leader yet",
                ),
                _ => LogError::request("listing streams", error),
            })
    }

    async fn stream_handle(
        &self,
        partition: Partition,
    ) -> Result<jetstream::stream::Stream<()>, LogError> {
        self.jetstream
            .get_stream_no_info(stream_name(partition))
            .await
            .map_err(|error| LogError::request("naming the stream", error))
    }
}

pub(crate) fn header(headers: &async_nats::HeaderMap) -> Option<String> {
    headers
        .get(MESSAGE_ID_HEADER)
        .map(|value| value.as_str().to_owned())
}

/// Nanoseconds of a log's clock as the microseconds that everything here counts in.
pub(crate) fn micros(nanos: i128) -> i64 {
    i64::try_from(nanos.div_euclid(1_000)).expect("the log's clock is within 292,000 years of 1970")
}
