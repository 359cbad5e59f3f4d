//! Which other gateways there are: partners' limits are shared among them.
//!
//! Every gateway writes into a bucket of the log that it is there, every half second, and reads who
//! else did. Time is the log's alone: a gateway is there if it wrote less than [`LIVE_FOR`] before
//! this one last did. So no clock of ours matters, and while the log is away nothing changes: the
//! last number holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_nats::client::{RequestError, RequestErrorKind};
use async_nats::connection::State;
use async_nats::jetstream::{self, kv, stream::StorageType};
use async_nats::{Client, HeaderMap, Message, StatusCode};
use bytes::Bytes;
use chassis::shutdown::Shutdown;
use contract::Partition;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use metrics::{Counter, Gauge};
use tokio::time::{MissedTickBehavior, interval, timeout};
use uuid::Uuid;

/// The bucket's name.
pub(crate) const BUCKET: &str = "weir_gateways";

/// How often a gateway says that it is there.
const BEAT_INTERVAL: Duration = Duration::from_millis(500);

/// How long one that no longer says so counts: one beat may be lost and the next late. With a beat
/// on top, everyone knows of a death within 1.75 s.
const LIVE_FOR: Duration = Duration::from_millis(1_250);

/// How long the log keeps what one that died has said: only to stay tidy, so well above
/// [`LIVE_FOR`].
const KEPT_FOR: Duration = Duration::from_secs(10);

/// Longest wait for one answer of the log.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// Most answers to one question: more gateways than share a limit, and the end of the list.
const ANSWERS_MAX: usize = 1_024;

/// Asked for the last message of each subject at once (`multi_last`), so that one question a beat
/// suffices, and no consumer that could die in silence.
const LIST_SUBJECT: &str = "$JS.API.DIRECT.GET.KV_weir_gateways";
const LIST_QUESTION: &str = r#"{"multi_last":["$KV.weir_gateways.>"]}"#;

const KV_OPERATION: &str = "KV-Operation";
const DELETED: &str = "DEL";

/// What this gateway says, and what it hears.
pub(crate) struct Heartbeat {
    client: Client,
    /// This process's key: names need not differ, and a restarted one is another.
    id: String,
    /// For people who look into the bucket.
    name: Bytes,
    view: View,
    /// How many share each limit, this gateway included.
    gateways: Arc<AtomicU32>,
    live: Gauge,
    failed: Counter,
    /// What went wrong last, so that it is told once.
    told: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum BeatError {
    #[error("not connected to the log")]
    NotConnected,
    #[error("the log did not answer in time")]
    TimedOut,
    #[error("cannot ask the log: {0}")]
    Ask(#[from] RequestError),
    #[error("cannot send to the log: {0}")]
    Send(#[source] async_nats::PublishError),
    #[error("cannot create bucket {BUCKET}: {0}")]
    Create(#[source] async_nats::Error),
    #[error("the log refused the heartbeat: {0}")]
    Refused(String),
    #[error("the list of gateways cannot be read: {0}")]
    List(&'static str),
}

/// What one gateway last said.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Beat {
    id: String,
    /// When the log heard it.
    at: Timestamp,
}

impl Heartbeat {
    /// `gateways` is kept true to how many there are.
    pub(crate) fn new(client: Client, name: &str, gateways: Arc<AtomicU32>) -> Self {
        let id = Uuid::now_v7().simple().to_string();
        metrics::describe_gauge!(
            "weir_gateway_gateways_live",
            "Gateways that share partners' limits, this one included"
        );
        metrics::describe_counter!(
            "weir_gateway_heartbeats_failed_total",
            "Beats after which it was not known who else is there"
        );
        let live = metrics::gauge!("weir_gateway_gateways_live");
        live.set(1.0);
        Self {
            client,
            view: View::new(id.clone()),
            id,
            name: Bytes::copy_from_slice(name.as_bytes()),
            gateways,
            live,
            failed: metrics::counter!("weir_gateway_heartbeats_failed_total"),
            told: None,
        }
    }

    /// Says it is there and counts who is, until shutdown begins; then takes back what it said.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let mut ticks = interval(BEAT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.begun() => break,
                _ = ticks.tick() => self.beat().await,
            }
        }
        if let Err(error) = self.leave().await {
            tracing::debug!(%error, "the other gateways will find out by themselves");
        }
    }

    /// One beat. What fails is tried again with the next.
    pub(crate) async fn beat(&mut self) {
        let count = match self.speak_and_listen().await {
            Ok(count) => count,
            Err(error) => {
                self.failed.increment(1);
                let error = error.to_string();
                if self.told.as_ref() != Some(&error) {
                    let gateways = self.gateways.load(Ordering::Relaxed);
                    tracing::warn!(error, gateways, "who else is there is not known right now");
                    self.told = Some(error);
                }
                return;
            }
        };
        if self.told.take().is_some() {
            tracing::info!(gateways = count, "who else is there is known again");
        }
        if self.gateways.swap(count, Ordering::Relaxed) != count {
            tracing::info!(
                gateways = count,
                "partners' limits are shared by as many gateways"
            );
        }
        self.live.set(f64::from(count));
    }

    async fn speak_and_listen(&mut self) -> Result<u32, BeatError> {
        if self.client.connection_state() != State::Connected {
            return Err(BeatError::NotConnected);
        }
        match self.say(HeaderMap::new(), self.name.clone()).await {
            // No stream listens: the first gateway ever, where `migrate` did not make it.
            Err(BeatError::Ask(error)) if error.kind() == RequestErrorKind::NoResponders => {
                in_time(self.create_bucket()).await?;
                self.say(HeaderMap::new(), self.name.clone()).await?;
            }
            said => said?,
        }
        let beats = in_time(self.list()).await?;
        Ok(self.view.heard(&beats))
    }

    /// Writes under this gateway's key, and waits until the log has it.
    async fn say(&self, headers: HeaderMap, what: Bytes) -> Result<(), BeatError> {
        let subject = format!("$KV.{BUCKET}.{}", self.id);
        let asked = self.client.request_with_headers(subject, headers, what);
        let answer = in_time(async { Ok(asked.await?) }).await?;
        let answer = String::from_utf8_lossy(&answer.payload);
        if answer.contains(r#""error""#) {
            return Err(BeatError::Refused(answer.into_owned()));
        }
        Ok(())
    }

    /// Everyone is told at the next beat, rather than by this one's silence.
    async fn leave(&self) -> Result<(), BeatError> {
        if self.client.connection_state() != State::Connected {
            return Err(BeatError::NotConnected);
        }
        let mut headers = HeaderMap::new();
        headers.insert(KV_OPERATION, DELETED);
        self.say(headers, Bytes::new()).await
    }

    /// On disk, as `migrate` makes it: a gateway that may not create streams could not bring back
    /// one that a restart of the log has lost. Two small fsyncs a second are what that costs.
    async fn create_bucket(&self) -> Result<(), BeatError> {
        let context = jetstream::new(self.client.clone());
        let ingest = contract::log::stream_name(Partition(0));
        // As many copies as of what matters: as many servers may be away.
        let replicas = match context.get_stream(ingest).await {
            Ok(stream) => stream.cached_info().config.num_replicas,
            Err(_) => 1,
        };
        let config = kv::Config {
            bucket: BUCKET.to_owned(),
            description: "Weir: which gateways are there".to_owned(),
            history: 1,
            max_age: KEPT_FOR,
            storage: StorageType::File,
            num_replicas: replicas.max(1),
            ..kv::Config::default()
        };
        let created = context.create_key_value(config).await;
        created
            .map(|_| ())
            .map_err(|error| BeatError::Create(error.into()))
    }

    /// What every gateway said last.
    async fn list(&self) -> Result<Vec<Beat>, BeatError> {
        let inbox = self.client.new_inbox();
        let subscribed = self.client.subscribe(inbox.clone()).await;
        let mut answers = subscribed
            .map_err(|_| BeatError::List("no subscription"))?
            .take(ANSWERS_MAX);
        let asked = self.client.publish_with_reply(
            LIST_SUBJECT,
            inbox,
            Bytes::from_static(LIST_QUESTION.as_bytes()),
        );
        asked.await.map_err(BeatError::Send)?;
        let mut beats = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer.status {
                None | Some(StatusCode::OK) => beats.extend(read(&answer)?),
                // The end of the list.
                Some(status) if status.as_u16() == 204 => return Ok(beats),
                Some(_) => return Err(BeatError::List("the log refused the question")),
            }
        }
        Err(BeatError::List("it does not end"))
    }
}

async fn in_time<T>(asking: impl Future<Output = Result<T, BeatError>>) -> Result<T, BeatError> {
    let answered = timeout(ANSWER_WAIT, asking).await;
    answered.unwrap_or(Err(BeatError::TimedOut))
}

/// What a message of the bucket says; none of one that has left.
fn read(message: &Message) -> Result<Option<Beat>, BeatError> {
    let headers = message.headers.as_ref();
    let header = |name: &str| headers.and_then(|headers| headers.get(name));
    if header(KV_OPERATION).is_some() {
        return Ok(None);
    }
    let subject = header("Nats-Subject").map(|it| it.as_str());
    let id = subject.and_then(|subject| subject.rsplit('.').next());
    let at = header("Nats-Time-Stamp").and_then(|it| it.as_str().parse().ok());
    match (id, at) {
        (Some(id), Some(at)) => Ok(Some(Beat {
            id: id.to_owned(),
            at,
        })),
        _ => Err(BeatError::List("a message without subject or time")),
    }
}

/// Who is there, judged by the log's clock alone.
struct View {
    own: String,
    /// This gateway's own last beat, and since when there was no gap in them.
    last: Option<Timestamp>,
    unbroken_since: Timestamp,
    count: u32,
}

impl View {
    fn new(own: String) -> Self {
        Self {
            own,
            last: None,
            unbroken_since: Timestamp::MIN,
            count: 1,
        }
    }

    /// How many there are. Right after a gap in this gateway's own beats it counts nobody out: the
    /// log was away, and the others are as much on their way back as this one is.
    fn heard(&mut self, beats: &[Beat]) -> u32 {
        let Some(own) = beats.iter().find(|beat| beat.id == self.own) else {
            // A copy of the bucket that lags behind.
            return self.count;
        };
        let is_within = |since: Timestamp| own.at.duration_since(since).unsigned_abs() < LIVE_FOR;
        if !self.last.is_some_and(is_within) {
            self.unbroken_since = own.at;
        }
        self.last = Some(own.at);
        let live = beats
            .iter()
            .filter(|beat| beat.at >= own.at || is_within(beat.at));
        let live = u32::try_from(live.count()).unwrap_or(u32::MAX);
        if live > self.count || !is_within(self.unbroken_since) {
            self.count = live;
        }
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(id: &str, ms: i64) -> Beat {
        Beat {
            id: id.to_owned(),
            at: Timestamp::from_millisecond(1_000_000 + ms).expect("in range"),
        }
    }

    /// Beats of its own every half second up to `until_ms`, with the others as they were.
    fn follow(view: &mut View, from_ms: i64, until_ms: i64, others: &[Beat]) -> u32 {
        let mut count = 0;
        for ms in (from_ms..=until_ms).step_by(500) {
            let mut beats = others.to_vec();
            beats.push(beat("own", ms));
            count = view.heard(&beats);
        }
        count
    }

    #[test]
    fn who_joins_counts_at_once_and_who_dies_no_longer_than_two_seconds() {
        let mut view = View::new("own".to_owned());
        assert_eq!(follow(&mut view, 0, 5_000, &[]), 1);
        assert_eq!(
            follow(
                &mut view,
                5_500,
                5_500,
                &[beat("a", 5_400), beat("b", 5_100)]
            ),
            3
        );
        // Their last beats, or another that is a little ahead.
        let others = [beat("a", 5_900), beat("b", 5_600)];
        assert_eq!(follow(&mut view, 6_000, 6_500, &others), 3);
        assert_eq!(follow(&mut view, 7_000, 7_000, &others), 2);
        assert_eq!(follow(&mut view, 7_500, 7_500, &others), 1);
    }

    #[test]
    fn who_left_in_order_is_gone_at_once() {
        let mut view = View::new("own".to_owned());
        let other = [beat("a", 4_900)];
        assert_eq!(follow(&mut view, 0, 5_000, &other), 2);
        assert_eq!(follow(&mut view, 5_500, 5_500, &[]), 1);
    }

    #[test]
    fn after_the_log_was_away_nobody_is_counted_out_before_they_had_time_to_return() {
        let mut view = View::new("own".to_owned());
        let others = [beat("a", 4_900), beat("b", 4_800)];
        assert_eq!(follow(&mut view, 0, 5_000, &others), 3);
        assert_eq!(follow(&mut view, 60_000, 61_000, &others), 3);
        // One is back, the other is not.
        let others = [beat("a", 61_300), beat("b", 4_800)];
        assert_eq!(follow(&mut view, 61_500, 61_500, &others), 2);
    }

    #[test]
    fn a_list_without_its_own_beat_says_nothing() {
        let mut view = View::new("own".to_owned());
        assert_eq!(follow(&mut view, 0, 5_000, &[beat("a", 4_900)]), 2);
        assert_eq!(view.heard(&[]), 2);
        assert_eq!(view.heard(&[beat("a", 9_000)]), 2);
    }

    #[test]
    fn those_who_died_are_known_in_time() {
        assert!(LIVE_FOR + BEAT_INTERVAL < Duration::from_secs(2));
        assert!(LIVE_FOR > BEAT_INTERVAL * 2, "one beat may be lost");
        assert!(KEPT_FOR > LIVE_FOR * 2);
    }
}
