//! What the log holds, read with a consumer of the test's own.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::{self, Message};
use contract::{Entry, Partition, Record};
use futures_util::StreamExt as _;

use crate::support::{System, until};

/// Messages asked for at a time.
const PAGE: usize = 500;
/// Longest wait for a page: what is there comes at once.
const PAGE_WAIT: Duration = Duration::from_secs(2);

/// An entry and where the log has it.
#[derive(Debug)]
pub(super) struct Logged {
    pub(super) entry: Entry,
}

impl Logged {
    pub(super) fn id(&self) -> String {
        self.entry.tracking_id.to_string()
    }

    pub(super) fn courier(&self) -> &str {
        match &self.entry.record {
            Record::Courier(command) => &command.courier_id,
            Record::Ride(_) => panic!("nobody sent rides"),
        }
    }
}

/// Every command that the log holds, by (partition, sequence, index), once all of them are applied.
pub(super) async fn everything_applied(system: &System) -> Vec<Logged> {
    let context = context(system).await;
    let partitions = system
        .count("select partitions::int8 from installation")
        .await;
    let mut logged = Vec::new();
    for partition in 0..u8::try_from(partitions.expect("a database")).expect("at most 256") {
        let stream = contract::log::stream_name(Partition(partition));
        let messages = messages(&context, &stream).await;
        let last = messages.last().map_or(0, sequence);
        let applied = format!("select last_seq from progress where partition = {partition}");
        until("the log is applied", || async {
            let applied = system.count(&applied).await;
            applied.is_some_and(|it| it.unsigned_abs() >= last)
        })
        .await;
        for message in messages {
            let chunk = contract::chunk::decode(&message.payload).expect("a chunk");
            let entries = chunk.entries.into_iter();
            logged.extend(entries.map(|entry| Logged { entry }));
        }
    }
    logged
}

/// An administrative client of the log.
pub(super) async fn context(system: &System) -> jetstream::Context {
    let url = system.stack.endpoints().nats_url;
    let client = partners::connect(&[url], "a test").await;
    let client = client.expect("the log answers");
    jetstream::new(client)
}

/// Everything that a stream holds.
pub(super) async fn messages(context: &jetstream::Context, stream: &str) -> Vec<Message> {
    let mut stream = context.get_stream(stream).await.expect("a stream");
    let last = stream.info().await.expect("its state").state.last_sequence;
    let consumer = stream
        .create_consumer(Config {
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::None,
            memory_storage: true,
            ..Config::default()
        })
        .await
        .expect("a consumer");
    let mut messages: Vec<Message> = Vec::new();
    while messages.last().map_or(0, sequence) < last {
        let mut page = consumer
            .fetch()
            .max_messages(PAGE)
            .expires(PAGE_WAIT)
            .messages()
            .await
            .expect("a page");
        let before = messages.len();
        while let Some(message) = page.next().await {
            messages.push(message.expect("a message"));
        }
        assert!(messages.len() > before, "the stream ends before {last}");
    }
    messages
}

fn sequence(message: &Message) -> u64 {
    message
        .info()
        .expect("a message of a stream")
        .stream_sequence
}
