//! Where the log's answers go. nats-server sends an answer to whatever subject the question names,
//! and acts on it if that is a subject of its own: a document of a bucket is a fine request to
//! purge a stream, and an empty one deletes it. What must hold: whoever may not destroy the log
//! anyway hears its answers in an account of its own, and nothing else happens.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{self, stream};
use async_nats::{Client, HeaderMap};
use contract::limits::CHUNK_BYTES_MAX;
use devstack::eventually::eventually;
use devstack::fixture::{Fixture, NatsFixture};
use devstack::nats::User;
use futures_util::StreamExt as _;
use partners::Access;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::at_the_log::door;
use crate::support::PATIENCE;

const OUTSIDERS: [User; 3] = [User::Gateway, User::Status, User::Subscriber];

/// How long the log is looked at before it counts as unchanged: what a purge takes is a millisecond.
const LOOK: Duration = Duration::from_secs(1);

/// Each with the subjects it has.
const STREAMS: [(&str, &str); 5] = [
    ("WEIR_INGEST_000", "weir.ingest.000"),
    ("WEIR_INGEST_001", "weir.ingest.001"),
    ("WEIR_EVENTS", "weir.events.>"),
    ("KV_weir_partners", "$KV.weir_partners.>"),
    ("KV_weir_gateways", "$KV.weir_gateways.>"),
];

/// What there is at first. The first of each stream purges it, the second deletes it, if they come
/// as a request.
const MESSAGES: [(&str, &str); 10] = [
    ("weir.ingest.000", "{}"),
    ("weir.ingest.000", ""),
    ("weir.ingest.001", "{}"),
    ("weir.ingest.001", ""),
    ("weir.events.1.some", "{}"),
    ("weir.events.1.some", ""),
    ("$KV.weir_partners.1", "{}"),
    ("$KV.weir_partners.2", ""),
    ("$KV.weir_gateways.one", "{}"),
    ("$KV.weir_gateways.two", ""),
];

const DURABLE: &str = "some";

/// A log with streams, and one connection to it as the admin.
struct Log {
    nats: NatsFixture,
    admin: Client,
}

impl Log {
    async fn start(nodes: usize) -> Self {
        let (door, _) = door();
        let nats = Fixture::nats_behind(nodes, &door).await;
        let admin = connect(&nats, User::Admin).await;
        let log = Self { nats, admin };
        let context = log.context();
        for (name, subjects) in STREAMS {
            let config = stream::Config {
                name: name.to_owned(),
                subjects: vec![subjects.to_owned()],
                allow_direct: true,
                num_replicas: nodes,
                ..stream::Config::default()
            };
            context.create_stream(config).await.unwrap();
        }
        for (subject, text) in MESSAGES {
            let stored = context.publish(subject, text.into()).await.unwrap();
            stored.await.unwrap();
        }
        let events = context.get_stream("WEIR_EVENTS").await.unwrap();
        let config = pull::Config {
            durable_name: Some(DURABLE.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ..pull::Config::default()
        };
        events.create_consumer(config).await.unwrap();
        log
    }

    fn context(&self) -> jetstream::Context {
        jetstream::new(self.admin.clone())
    }

    /// What a stream holds; null if there is none.
    async fn holds(&self, stream: &str) -> Value {
        let Ok(stream) = self.context().get_stream(stream).await else {
            return Value::Null;
        };
        let state = stream.get_info().await.unwrap().state;
        let mut messages = Vec::new();
        for sequence in state.first_sequence..=state.last_sequence {
            if let Ok(message) = stream.get_raw_message(sequence).await {
                let payload = String::from_utf8_lossy(&message.payload).into_owned();
                messages.push(json!([sequence, message.subject.as_str(), payload]));
            }
        }
        json!(messages)
    }

    /// All but the gateways' bucket, into which a gateway may write.
    async fn contents(&self) -> Value {
        let mut contents = json!({});
        for (stream, _) in &STREAMS[..4] {
            contents[stream] = self.holds(stream).await;
        }
        contents
    }
}

/// A connection as one of Weir's processes has it.
async fn connect(nats: &NatsFixture, user: User) -> Client {
    let access = Access {
        urls: nats.url_as(user).split(',').map(str::to_owned).collect(),
        inbox: Some(user.inbox()),
        ..Access::default()
    };
    access.connect("a test").await.unwrap()
}

/// All that a role may ask and that has an answer.
fn questions(user: User) -> Vec<(String, &'static str)> {
    let reads = |stream: &str, subject: &str| {
        vec![
            (format!("$JS.API.STREAM.INFO.{stream}"), ""),
            (format!("$JS.API.DIRECT.GET.{stream}"), r#"{"seq":1}"#),
            (format!("$JS.API.DIRECT.GET.{stream}"), r#"{"seq":2}"#),
            (
                format!("$JS.API.DIRECT.GET.{stream}"),
                r#"{"seq":1,"batch":9,"next_by_subj":">"}"#,
            ),
            (format!("$JS.API.DIRECT.GET.{stream}.{subject}"), ""),
        ]
    };
    match user {
        User::Gateway => {
            let mut all = reads("KV_weir_partners", "$KV.weir_partners.2");
            all.extend([
                ("$JS.API.STREAM.INFO.WEIR_INGEST_000".to_owned(), ""),
                ("$JS.API.STREAM.NAMES".to_owned(), ""),
                (
                    "$JS.API.DIRECT.GET.KV_weir_gateways".to_owned(),
                    r#"{"multi_last":["$KV.weir_gateways.>"]}"#,
                ),
                ("$KV.weir_gateways.three".to_owned(), "beat"),
            ]);
            all
        }
        User::Status => reads("KV_weir_partners", "$KV.weir_partners.2"),
        User::Subscriber => {
            let mut all = reads("WEIR_EVENTS", "weir.events.1.some");
            all.extend([
                (format!("$JS.API.CONSUMER.INFO.WEIR_EVENTS.{DURABLE}"), ""),
                (
                    format!("$JS.API.CONSUMER.MSG.NEXT.WEIR_EVENTS.{DURABLE}"),
                    r#"{"batch":1,"no_wait":true}"#,
                ),
                (
                    format!("$JS.ACK.WEIR_EVENTS.{DURABLE}.1.1.1.1.0"),
                    r#"+NXT {"batch":1,"no_wait":true}"#,
                ),
            ]);
            all
        }
        User::Worker | User::Admin => Vec::new(),
    }
}

/// Subjects at which a message does harm.
fn targets(user: User) -> Vec<String> {
    let mut targets = vec![
        "weir.events.1.forged".to_owned(),
        "$KV.weir_partners.9".to_owned(),
    ];
    // A gateway may write there, whatever it likes.
    if user != User::Gateway {
        targets.push("weir.ingest.000".to_owned());
    }
    for (stream, _) in &STREAMS[..4] {
        for verb in ["PURGE", "DELETE", "MSG.DELETE"] {
            targets.push(format!("$JS.API.STREAM.{verb}.{stream}"));
            targets.push(format!("weir.api.STREAM.{verb}.{stream}"));
        }
    }
    targets
}

/// Nothing changes within [`LOOK`].
async fn assert_unchanged(log: &Log, before: &Value, what: &str) {
    let changed = eventually(LOOK, || async {
        let now = log.contents().await;
        (now != *before).then_some(now)
    });
    if let Some(now) = changed.await {
        panic!("{what}: {before:#} became {now:#}");
    }
}

#[tokio::test]
async fn no_answer_is_stored_purges_or_deletes_a_stream() {
    let log = Log::start(1).await;
    let before = log.contents().await;
    for user in OUTSIDERS {
        let client = connect(&log.nats, user).await;
        for target in targets(user) {
            for (question, body) in questions(user) {
                let asked = client.publish_with_reply(question, target.clone(), body.into());
                asked.await.unwrap();
            }
        }
        client.flush().await.unwrap();
        // The connection is still good, so the server has read all of it.
        let (question, body) = questions(user).swap_remove(0);
        client.request(question, body.into()).await.unwrap();
        assert_unchanged(&log, &before, user.name()).await;
    }
}

/// A consumer's messages go where its maker says, in the body of the question.
#[tokio::test]
async fn nobody_outside_says_where_a_consumer_delivers() {
    let log = Log::start(1).await;
    let before = log.contents().await;
    for user in OUTSIDERS {
        let client = connect(&log.nats, user).await;
        for (stream, _) in &STREAMS {
            // A partition is no place for a gateway's consumer either.
            for (number, target) in targets(User::Status).into_iter().enumerate() {
                let name = format!("c{number}");
                let body = json!({"stream_name": stream, "config": {
                    "name": name, "deliver_subject": target, "deliver_policy": "all",
                    "ack_policy": "none",
                }});
                for subject in [
                    format!("$JS.API.CONSUMER.CREATE.{stream}.{name}"),
                    format!("weir.api.CONSUMER.CREATE.{stream}.{name}"),
                ] {
                    client
                        .publish(subject, body.to_string().into())
                        .await
                        .unwrap();
                }
            }
        }
        client.flush().await.unwrap();
        assert_unchanged(&log, &before, user.name()).await;
    }
}

/// Messages that the server itself sends where a header says: its traces.
#[tokio::test]
async fn no_trace_is_stored_purges_or_deletes_a_stream() {
    let log = Log::start(1).await;
    let before = log.contents().await;
    for user in OUTSIDERS {
        let client = connect(&log.nats, user).await;
        for target in targets(user) {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Trace-Dest", target.as_str());
            let (question, body) = questions(user).swap_remove(1);
            let inbox = client.new_inbox();
            let asked =
                client.publish_with_reply_and_headers(question, inbox, headers, body.into());
            asked.await.unwrap();
        }
        client.flush().await.unwrap();
        assert_unchanged(&log, &before, user.name()).await;
    }
}

/// The server answers the API's subjects in every account, with a refusal where there are no
/// streams: who asked must not hear that as well.
#[tokio::test]
async fn a_question_across_accounts_has_its_own_answer_and_no_other() {
    for nodes in [1, 3] {
        let log = Log::start(nodes).await;
        for user in OUTSIDERS {
            let client = connect(&log.nats, user).await;
            for (question, body) in questions(user) {
                // An acknowledgement by itself has no message for an answer.
                if body.starts_with('+') {
                    continue;
                }
                let inbox = client.new_inbox();
                let mut answers = client.subscribe(inbox.clone()).await.unwrap();
                let asked = client.publish_with_reply(question.clone(), inbox, body.into());
                asked.await.unwrap();
                let answer = timeout(PATIENCE, answers.next()).await;
                let answer = answer.expect("an answer in time").unwrap();
                let text = String::from_utf8_lossy(&answer.payload).into_owned();
                assert!(!text.contains("error"), "{question}: {text}");
                let is_whole = body.contains("batch") || body.contains("multi_last");
                // What else there may be came before the answer to another question.
                let (other, other_body) = questions(user).swap_remove(1);
                client.request(other, other_body.into()).await.unwrap();
                let more = futures_util::FutureExt::now_or_never(answers.next()).flatten();
                assert!(is_whole || more.is_none(), "{question}: {more:?}");
            }
        }
    }
}

/// Also towards three servers, of which one dies.
#[tokio::test]
async fn the_largest_chunk_passes_and_its_ack_returns() {
    for nodes in [1, 3] {
        let mut log = Log::start(nodes).await;
        let gateway = connect(&log.nats, User::Gateway).await;
        for round in 0..2 {
            for is_duplicate in [false, true] {
                let chunk = vec![b'x'; CHUNK_BYTES_MAX];
                let acked = eventually(PATIENCE, || async {
                    let mut headers = HeaderMap::new();
                    headers.insert("Nats-Msg-Id", format!("chunk-{round}"));
                    let chunk = chunk.clone().into();
                    let asked = gateway.request_with_headers("weir.ingest.000", headers, chunk);
                    let answer: Value = serde_json::from_slice(&asked.await.ok()?.payload).ok()?;
                    answer["error"].is_null().then_some(answer)
                });
                let acked = acked.await.expect("an ack");
                assert_eq!(acked["stream"], "WEIR_INGEST_000", "{acked}");
                if is_duplicate {
                    assert_eq!(acked["duplicate"], true, "{acked}");
                }
            }
            if nodes == 3 && round == 0 {
                log.nats.kill(0).await;
            }
        }
        log.nats.restart(0).await.unwrap();
        let stored = eventually(PATIENCE, || async {
            let stream = log.context().get_stream("WEIR_INGEST_000").await.ok()?;
            let last = stream.get_last_raw_message_by_subject("weir.ingest.000");
            last.await.ok()
        });
        let stored = stored.await.expect("the chunk");
        // What the server notes of who asked is not stored.
        let headers: Vec<_> = stored
            .headers
            .iter()
            .map(|(name, _)| name.to_string())
            .collect();
        assert_eq!(headers, ["Nats-Msg-Id"]);
    }
}

#[tokio::test]
async fn a_subscriber_fetches_and_acknowledges_from_a_consumer_that_was_made_for_it() {
    let log = Log::start(1).await;
    let client = connect(&log.nats, User::Subscriber).await;
    let mut live = client.subscribe("weir.events.>").await.unwrap();
    let context = jetstream::new(client);
    let durable: jetstream::consumer::Consumer<pull::Config> = context
        .get_consumer_from_stream(DURABLE, "WEIR_EVENTS")
        .await
        .unwrap();
    let mut messages = durable.fetch().max_messages(2).messages().await.unwrap();
    while let Some(message) = messages.next().await {
        message.unwrap().double_ack().await.unwrap();
    }
    let events = log.context().get_stream("WEIR_EVENTS").await.unwrap();
    let info = events.consumer_info(DURABLE).await.unwrap();
    assert_eq!(info.ack_floor.stream_sequence, 2);
    let context = log.context();
    let stored = context.publish("weir.events.1.new", "news".into());
    stored.await.unwrap().await.unwrap();
    let heard = timeout(PATIENCE, live.next()).await.expect("in time");
    assert_eq!(heard.unwrap().subject.as_str(), "weir.events.1.new");
}
