//! The link to the log: the connection, the partition streams, and what they say of the clock.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{Client, Event, Subject};
use bytes::Bytes;
use chassis::readiness::Condition;
use contract::limits::CHUNK_BYTES_MAX;
use contract::log::{MetadataError, StreamMetadata};
use contract::timing::SKEW_ALLOWANCE;
use contract::{Partition, Partitions};
use partners::{Access, ConnectError};
use serde::Deserialize;
use tokio::sync::watch;

use crate::clock::{Clock, Skew};
use crate::measure::Measures;

/// How long the log may be gone before requests are refused at once: a reconnect takes less.
const AWAY_AFTER: Duration = Duration::from_secs(1);

/// How often the connection and this process's own two clocks are looked at.
const TICK: Duration = Duration::from_millis(200);

/// How often the streams are asked what they are and what time it is.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// How long a question to the log may take. Also bounds how wrong a clock comparison can be.
const QUESTION_WAIT: Duration = Duration::from_secs(1);

/// What the server counts towards `max_payload` besides the chunk: the message id header.
const HEADER_BYTES: usize = 256;

/// The connection; cheap to share.
pub(crate) struct Link {
    pub(crate) client: Client,
    /// Since when the log is disconnected; `None` while it is connected.
    gone_since: watch::Receiver<Option<Instant>>,
    subjects: Vec<Subject>,
    /// Whether the streams are still those that were opened.
    sound: AtomicBool,
}

/// The log cannot be used as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("not connected to the log")]
    NotConnected,
    #[error("cannot ask for stream {stream}: {source}")]
    Ask {
        stream: String,
        source: async_nats::client::RequestError,
    },
    #[error("the log's answer about stream {stream} cannot be read: {source}")]
    Unreadable {
        stream: String,
        source: serde_json::Error,
    },
    #[error("stream {stream}: {description} ({code})")]
    Stream {
        stream: String,
        code: u64,
        description: String,
    },
    #[error("stream {stream}: {source}")]
    Metadata {
        stream: String,
        source: MetadataError,
    },
    #[error(
        "stream {stream} belongs to another installation or has another number of partitions than {first}"
    )]
    Unequal { stream: String, first: String },
    #[error(
        "stream {stream} was created anew with another installation or number of partitions: restart the gateway"
    )]
    Changed { stream: String },
    #[error("{0}")]
    Inequality(String),
}

impl LogError {
    /// Whether the log was reached and is wrong, rather than not reached.
    fn is_unsound(&self) -> bool {
        matches!(
            self,
            Self::Metadata { .. }
                | Self::Unequal { .. }
                | Self::Changed { .. }
                | Self::Inequality(_)
        )
    }
}

#[derive(Deserialize)]
struct InfoAnswer {
    error: Option<InfoError>,
    #[serde(default)]
    config: StreamConfig,
    /// RFC 3339.
    ts: Option<String>,
}

#[derive(Deserialize)]
struct InfoError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
struct NamesAnswer {
    /// `None` without any, or when asking failed. A page has more names than there are partitions.
    streams: Option<HashSet<String>>,
}

#[derive(Deserialize, Default)]
struct StreamConfig {
    #[serde(default)]
    metadata: HashMap<String, String>,
    /// Nanoseconds.
    #[serde(default)]
    duplicate_window: u64,
}

/// What one stream said.
struct StreamInfo {
    metadata: StreamMetadata,
    duplicate_window: Duration,
    /// `None` if the log did not say what time it is.
    skew: Option<Skew>,
}

/// Connects in the background, now and whenever the connection breaks, for ever.
///
/// # Errors
/// When an address cannot be parsed.
pub(crate) async fn connect(
    access: &Access,
    name: &str,
) -> Result<(Client, watch::Receiver<Option<Instant>>), ConnectError> {
    let (gone, gone_since) = watch::channel(Some(Instant::now()));
    let gone = Arc::new(gone);
    let client = access
        .options()
        .name(name)
        .retry_on_initial_connect()
        .max_reconnects(None)
        .connection_timeout(Duration::from_secs(2))
        .ping_interval(Duration::from_secs(2))
        .reconnect_delay_callback(|attempts| {
            // 10 ms, 20 ms, ... half a second: a restarted log is found again at once.
            let doublings = u32::try_from(attempts.min(6)).unwrap_or(6);
            Duration::from_millis(10 << doublings).min(Duration::from_millis(500))
        })
        .request_timeout(Some(QUESTION_WAIT))
        .event_callback(move |event| {
            match &event {
                Event::Connected => {
                    gone.send_replace(None);
                    tracing::info!("connected to the log");
                }
                Event::Disconnected | Event::Closed => {
                    gone.send_if_modified(|since| {
                        let news = since.is_none();
                        since.get_or_insert_with(Instant::now);
                        news
                    });
                    tracing::warn!("disconnected from the log");
                }
                other => tracing::warn!(event = %other, "the log's connection reports"),
            }
            std::future::ready(())
        })
        .connect(access.addresses()?)
        .await
        .map_err(ConnectError::Connect)?;
    Ok((client, gone_since))
}

impl Link {
    pub(crate) fn new(
        client: Client,
        gone_since: watch::Receiver<Option<Instant>>,
        partitions: Partitions,
    ) -> Self {
        let subjects = partitions.iter().map(contract::log::subject);
        Self {
            client,
            gone_since,
            subjects: subjects.map(Subject::from).collect(),
            sound: AtomicBool::new(true),
        }
    }

    pub(crate) fn subject(&self, partition: Partition) -> Subject {
        self.subjects[partition.index()].clone()
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.gone_since.borrow().is_none()
    }

    /// Whether it has been gone for so long that waiting for it is no use.
    pub(crate) fn is_away(&self) -> bool {
        self.gone_since
            .borrow()
            .is_some_and(|since| since.elapsed() > AWAY_AFTER)
    }

    pub(crate) fn is_sound(&self) -> bool {
        self.sound.load(Ordering::Relaxed)
    }

    /// Waits until it is connected, or has been away for too long, at most `wait`.
    pub(crate) async fn connected(&self, wait: Duration) {
        let mut gone_since = self.gone_since.clone();
        let connected = gone_since.wait_for(Option::is_none);
        let _ = tokio::time::timeout(wait.min(TICK), connected).await;
    }
}

/// Waits for the log and learns its partitions: of the first stream, or of another if that one is
/// dead, and requires equal what the others say. Those that say nothing are left to [`Watch`].
/// Asks until it succeeds.
pub(crate) async fn open(
    client: &Client,
    clock: &Clock,
    publish_deadline: Duration,
    log: &Condition,
) -> StreamMetadata {
    loop {
        match try_open(client, clock, publish_deadline).await {
            Ok(metadata) => return metadata,
            Err(error) => log.not_ready(error.to_string()),
        }
        tokio::time::sleep(TICK).await;
    }
}

async fn try_open(
    client: &Client,
    clock: &Clock,
    publish_deadline: Duration,
) -> Result<StreamMetadata, LogError> {
    let (teller, told) = any_stream(client, clock).await?;
    if let Some(skew) = &told.skew {
        clock.measured(skew);
    }
    for partition in told.metadata.partitions.iter() {
        if partition == teller {
            continue;
        }
        match ask(client, clock, partition).await {
            Ok(other) if is_same_log(&told.metadata, &other.metadata) => {}
            Ok(_) => {
                return Err(LogError::Unequal {
                    stream: contract::log::stream_name(partition),
                    first: contract::log::stream_name(teller),
                });
            }
            Err(error) if error.is_unsound() => return Err(error),
            // One dead stream fails its own items only. It is compared once it answers.
            Err(error) => tracing::debug!(%partition, %error, "not compared yet"),
        }
    }
    check_inequalities(client, publish_deadline, told.duplicate_window)?;
    Ok(told.metadata)
}

/// Asks the first stream what it is, and if it does not answer, the others there are until one
/// does.
///
/// # Errors
/// The first stream's, if none answers; that of the one that answers, if it cannot be served.
async fn any_stream(client: &Client, clock: &Clock) -> Result<(Partition, StreamInfo), LogError> {
    let first = match ask(client, clock, Partition(0)).await {
        Ok(info) => return Ok((Partition(0), info)),
        Err(error) if error.is_unsound() || matches!(error, LogError::NotConnected) => {
            return Err(error);
        }
        Err(error) => error,
    };
    // How many partitions there are is not known yet: only streams that exist are asked.
    let names = stream_names(client).await;
    for partition in (1..=u8::MAX).map(Partition) {
        if !names.contains(&contract::log::stream_name(partition)) {
            continue;
        }
        match ask(client, clock, partition).await {
            Ok(info) => return Ok((partition, info)),
            Err(error) if error.is_unsound() => return Err(error),
            Err(_) => {}
        }
    }
    Err(first)
}

/// The names of the streams that take partitions' subjects; none if they cannot be learned.
async fn stream_names(client: &Client) -> HashSet<String> {
    let question = r#"{"subject":"weir.ingest.*"}"#;
    let answer = client.request("$JS.API.STREAM.NAMES", question.into());
    let Ok(answer) = answer.await else {
        return HashSet::new();
    };
    let names = serde_json::from_slice::<NamesAnswer>(&answer.payload);
    names
        .ok()
        .and_then(|names| names.streams)
        .unwrap_or_default()
}

/// The incarnation may differ: each stream has its own.
fn is_same_log(one: &StreamMetadata, other: &StreamMetadata) -> bool {
    one.installation == other.installation
        && one.partitions == other.partitions
        && one.partition_hash == other.partition_hash
}

fn check_inequalities(
    client: &Client,
    publish_deadline: Duration,
    duplicate_window: Duration,
) -> Result<(), LogError> {
    let mut violations = contract::timing::violations(publish_deadline, duplicate_window);
    let max_payload = client.max_payload();
    if CHUNK_BYTES_MAX + HEADER_BYTES >= max_payload {
        violations.push(format!(
            "chunk bytes {CHUNK_BYTES_MAX} + headers {HEADER_BYTES} must be less than the server's \
             max_payload {max_payload}"
        ));
    }
    if violations.is_empty() {
        Ok(())
    } else {
        Err(LogError::Inequality(violations.join("; ")))
    }
}

/// Asks a stream what it is. Through async-nats's own request, which keeps a small entry for ever
/// of each question that nobody answers: none is asked while disconnected, and one at a time.
async fn ask(client: &Client, clock: &Clock, partition: Partition) -> Result<StreamInfo, LogError> {
    let stream = contract::log::stream_name(partition);
    if client.connection_state() != State::Connected {
        return Err(LogError::NotConnected);
    }
    let asked = clock.now();
    let subject = format!("$JS.API.STREAM.INFO.{stream}");
    let answer = client.request(subject, Bytes::new()).await;
    let answered = clock.now();
    let answer = answer.map_err(|source| LogError::Ask {
        stream: stream.clone(),
        source,
    })?;
    let info: InfoAnswer =
        serde_json::from_slice(&answer.payload).map_err(|source| LogError::Unreadable {
            stream: stream.clone(),
            source,
        })?;
    if let Some(error) = info.error {
        return Err(LogError::Stream {
            stream,
            code: error.err_code,
            description: error.description,
        });
    }
    let metadata = StreamMetadata::from_map(&info.config.metadata)
        .map_err(|source| LogError::Metadata { stream, source })?;
    Ok(StreamInfo {
        metadata,
        duplicate_window: Duration::from_nanos(info.config.duplicate_window),
        skew: info
            .ts
            .and_then(|ts| ts.parse::<jiff::Timestamp>().ok())
            .map(|ts| Skew::between(&asked, answered, ts.as_microsecond())),
    })
}

/// What watching the log needs.
pub(crate) struct Watch {
    pub(crate) link: Arc<Link>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) measures: Arc<Measures>,
    /// Of the stream that told it when the log was opened.
    pub(crate) metadata: StreamMetadata,
    pub(crate) publish_deadline: Duration,
    pub(crate) log: Condition,
    pub(crate) clock_condition: Condition,
}

impl Watch {
    /// Keeps the conditions `log` and `clock` true to what is, until it is dropped.
    pub(crate) async fn run(self) {
        let mut next_check = Instant::now();
        let mut silent = vec![false; usize::from(self.metadata.partitions.count())];
        loop {
            let now = self.clock.now();
            let jumped = self.clock.divergence_us(&now)
                > i64::try_from(SKEW_ALLOWANCE.as_micros()).unwrap_or(i64::MAX);
            if !self.link.is_connected() {
                self.log.not_ready(LogError::NotConnected.to_string());
                next_check = now.at;
            } else if now.at >= next_check || jumped {
                self.check(&mut silent).await;
                next_check = Instant::now() + CHECK_INTERVAL;
            }
            if self.clock.is_trusted(&self.clock.now()) {
                self.clock_condition.ready();
            } else {
                self.clock_condition
                    .not_ready("this machine's clock and the log's disagree");
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// `silent`: which partitions' streams did not answer last time, so that it is said once.
    async fn check(&self, silent: &mut [bool]) {
        let mut reached = 0;
        let mut unsound = None;
        let mut last_error = None;
        // The largest: each stream's leader may be another machine.
        let mut skew: Option<Skew> = None;
        for partition in self.metadata.partitions.iter() {
            match self.check_stream(partition).await {
                Ok(info) => {
                    reached += 1;
                    silent[partition.index()] = false;
                    skew = [skew, info.skew]
                        .into_iter()
                        .flatten()
                        .max_by_key(|skew| skew.us.saturating_abs());
                }
                Err(error) if error.is_unsound() => unsound = Some(error),
                Err(error) => {
                    if !std::mem::replace(&mut silent[partition.index()], true) {
                        tracing::warn!(%partition, %error, "a partition's stream does not answer");
                    }
                    last_error = Some(error);
                }
            }
        }
        if let Some(skew) = &skew {
            self.measures.skew_seconds.set(skew.us as f64 / 1e6);
            self.clock.measured(skew);
        }
        self.link.sound.store(unsound.is_none(), Ordering::Relaxed);
        // One dead stream fails its own items only, so the gateway stays ready for the others.
        match (unsound, last_error) {
            (Some(error), _) => self.log.not_ready(error.to_string()),
            (None, Some(error)) if reached == 0 => self.log.not_ready(error.to_string()),
            _ => self.log.ready(),
        }
    }

    async fn check_stream(&self, partition: Partition) -> Result<StreamInfo, LogError> {
        let info = ask(&self.link.client, &self.clock, partition).await?;
        if !is_same_log(&self.metadata, &info.metadata) {
            return Err(LogError::Changed {
                stream: contract::log::stream_name(partition),
            });
        }
        check_inequalities(
            &self.link.client,
            self.publish_deadline,
            info.duplicate_window,
        )?;
        Ok(info)
    }
}
