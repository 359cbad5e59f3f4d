//! Acts at the log.

use contract::Partitions;
use devstack::fixture::{Fixture, NatsFixture};
use devstack::nats::{Door, Nats, Passwords, User, connect};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::PATIENCE;
use User::{Gateway, Status, Subscriber, Worker};

/// Something one can do to a nats-server.
#[derive(Clone, Copy)]
enum Act {
    Publish(&'static str),
    Subscribe(&'static str),
}
use Act::{Publish, Subscribe};

/// What it means, the act, and who may beside the admin, who may everything.
const ACTS: &[(&str, Act, &[User])] = &[
    (
        "publish a chunk",
        Publish("weir.ingest.000"),
        &[Gateway, Worker],
    ),
    (
        "publish an event",
        Publish("weir.events.1.courier_created"),
        &[Worker],
    ),
    ("publish a fence", Publish("weir.relay.001"), &[Worker]),
    ("publish anything else", Publish("weir.other"), &[]),
    (
        "say that a gateway is there",
        Publish("$KV.weir_gateways.some"),
        &[Gateway],
    ),
    ("change a partner", Publish("$KV.weir_partners.1"), &[]),
    (
        "change a partner's name",
        Publish("$KV.weir_partners.name.acme"),
        &[],
    ),
    (
        "ask what a partition's stream is",
        Publish("$JS.API.STREAM.INFO.WEIR_INGEST_001"),
        &[Gateway, Worker],
    ),
    (
        "ask what another stream is",
        Publish("$JS.API.STREAM.INFO.OTHER"),
        &[],
    ),
    (
        "ask how full the stream of events is",
        Publish("$JS.API.STREAM.INFO.WEIR_EVENTS"),
        &[Worker, Subscriber],
    ),
    (
        "ask how full the bucket of partners is",
        Publish("$JS.API.STREAM.INFO.KV_weir_partners"),
        &[Gateway, Status],
    ),
    (
        "learn the streams' names",
        Publish("$JS.API.STREAM.NAMES"),
        &[Gateway],
    ),
    ("list streams", Publish("$JS.API.STREAM.LIST"), &[]),
    ("ask about the account", Publish("$JS.API.INFO"), &[]),
    (
        "create a stream",
        Publish("$JS.API.STREAM.CREATE.WEIR_INGEST_002"),
        &[],
    ),
    (
        "change a stream",
        Publish("$JS.API.STREAM.UPDATE.WEIR_INGEST_000"),
        &[],
    ),
    (
        "delete a stream",
        Publish("$JS.API.STREAM.DELETE.WEIR_INGEST_000"),
        &[],
    ),
    (
        "delete a message",
        Publish("$JS.API.STREAM.MSG.DELETE.WEIR_INGEST_000"),
        &[],
    ),
    (
        "purge a partition",
        Publish("$JS.API.STREAM.PURGE.WEIR_INGEST_000"),
        &[Worker],
    ),
    (
        "purge the events",
        Publish("$JS.API.STREAM.PURGE.WEIR_EVENTS"),
        &[Worker],
    ),
    (
        "purge the partners",
        Publish("$JS.API.STREAM.PURGE.KV_weir_partners"),
        &[],
    ),
    (
        "take a copy of a stream",
        Publish("$JS.API.STREAM.SNAPSHOT.WEIR_INGEST_000"),
        &[],
    ),
    (
        "restore a stream",
        Publish("$JS.API.STREAM.RESTORE.WEIR_INGEST_000"),
        &[],
    ),
    (
        "make a leader step down",
        Publish("$JS.API.STREAM.LEADER.STEPDOWN.WEIR_INGEST_000"),
        &[],
    ),
    (
        "read a chunk",
        Publish("$JS.API.STREAM.MSG.GET.WEIR_INGEST_000"),
        &[Worker],
    ),
    (
        "read a chunk from any replica",
        Publish("$JS.API.DIRECT.GET.WEIR_INGEST_000"),
        &[Worker],
    ),
    (
        "read the last chunk of a subject",
        Publish("$JS.API.DIRECT.GET.WEIR_INGEST_000.weir.ingest.000"),
        &[],
    ),
    (
        "follow a partition",
        Publish("$JS.API.CONSUMER.CREATE.WEIR_INGEST_000"),
        &[Worker],
    ),
    (
        "fetch from a partition",
        Publish("$JS.API.CONSUMER.MSG.NEXT.WEIR_INGEST_000.some"),
        &[Worker],
    ),
    (
        "follow a partition for good",
        Publish("$JS.API.CONSUMER.DURABLE.CREATE.WEIR_INGEST_000.some"),
        &[],
    ),
    (
        "list who follows a partition",
        Publish("$JS.API.CONSUMER.NAMES.WEIR_INGEST_000"),
        &[],
    ),
    (
        "read a partner",
        Publish("$JS.API.DIRECT.GET.KV_weir_partners.$KV.weir_partners.1"),
        &[Gateway, Status],
    ),
    (
        "follow the partners",
        Publish("$JS.API.CONSUMER.CREATE.KV_weir_partners.some.$KV.weir_partners.>"),
        &[],
    ),
    (
        "learn which gateways are there",
        Publish("$JS.API.DIRECT.GET.KV_weir_gateways"),
        &[Gateway],
    ),
    (
        "follow the events",
        Publish("$JS.API.CONSUMER.CREATE.WEIR_EVENTS"),
        &[],
    ),
    (
        "follow the events for good",
        Publish("$JS.API.CONSUMER.DURABLE.CREATE.WEIR_EVENTS.some"),
        &[],
    ),
    (
        "ask how far a consumer of events is",
        Publish("$JS.API.CONSUMER.INFO.WEIR_EVENTS.some"),
        &[Subscriber],
    ),
    (
        "read an event",
        Publish("$JS.API.DIRECT.GET.WEIR_EVENTS"),
        &[Subscriber],
    ),
    (
        "fetch events",
        Publish("$JS.API.CONSUMER.MSG.NEXT.WEIR_EVENTS.some"),
        &[Subscriber],
    ),
    (
        "acknowledge events",
        Publish("$JS.ACK.WEIR_EVENTS.some.1.1.1.1.0"),
        &[Subscriber],
    ),
    (
        "acknowledge for another stream",
        Publish("$JS.ACK.WEIR_INGEST_000.some.1.1.1.1.0"),
        &[],
    ),
    ("listen to everything", Subscribe(">"), &[]),
    ("listen to chunks", Subscribe("weir.ingest.*"), &[]),
    (
        "listen to events",
        Subscribe("weir.events.>"),
        &[Subscriber],
    ),
    ("listen to changes of partners", Subscribe("$KV.>"), &[]),
    ("listen to what is asked", Subscribe("$JS.API.>"), &[]),
    (
        "listen to answers without a name",
        Subscribe("_INBOX.>"),
        &[],
    ),
    (
        "listen to a gateway's answers",
        Subscribe("_INBOX_gateway.>"),
        &[Gateway],
    ),
    (
        "listen to a worker's answers",
        Subscribe("_INBOX_worker.>"),
        &[Worker],
    ),
    (
        "listen to a status API's answers",
        Subscribe("_INBOX_status.>"),
        &[Status],
    ),
    (
        "listen to the admin's answers",
        Subscribe("_INBOX_admin.>"),
        &[],
    ),
    (
        "listen to the server's own events",
        Subscribe("$SYS.>"),
        &[],
    ),
];

/// A connection that hears of every single act whether the server let it pass.
struct Verbose {
    stream: BufReader<TcpStream>,
}

impl Verbose {
    async fn connect(nats: &NatsFixture, user: User, passwords: &Passwords) -> Self {
        let url = nats.url();
        let address = url.strip_prefix("nats://").unwrap();
        let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
        let mut info = String::new();
        stream.read_line(&mut info).await.unwrap();
        assert!(info.contains("\"auth_required\":true"), "{info}");
        let mut connection = Self { stream };
        let (name, password) = (user.name(), passwords.of(user));
        let hello = format!(
            "CONNECT {{\"verbose\":true,\"pedantic\":false,\"user\":\"{name}\",\"pass\":\"{password}\"}}\r\n"
        );
        assert_eq!(connection.say(&hello).await, "+OK");
        connection
    }

    async fn say(&mut self, operation: &str) -> String {
        let stream = self.stream.get_mut();
        stream.write_all(operation.as_bytes()).await.unwrap();
        loop {
            let mut line = String::new();
            let read = timeout(PATIENCE, self.stream.read_line(&mut line));
            read.await.expect("an answer in time").unwrap();
            // The server may ask whether one is there.
            if line.trim() != "PING" {
                return line.trim().to_owned();
            }
        }
    }

    async fn may(&mut self, act: Act) -> bool {
        let operation = match act {
            Publish(subject) => format!("PUB {subject} 0\r\n\r\n"),
            Subscribe(subject) => format!("SUB {subject} 1\r\n"),
        };
        let answer = self.say(&operation).await;
        if answer == "+OK" {
            if matches!(act, Subscribe(_)) {
                assert_eq!(self.say("UNSUB 1\r\n").await, "+OK");
            }
            return true;
        }
        assert!(answer.contains("Permissions Violation"), "{answer}");
        false
    }
}

pub(super) fn door() -> (Door, Passwords) {
    let passwords = Passwords::generate().unwrap();
    let door = Door {
        users: Some((passwords.clone(), Partitions::new(2).unwrap())),
        tls: None,
    };
    (door, passwords)
}

#[tokio::test]
async fn each_role_may_what_it_must_at_the_log_and_nothing_else() {
    let (door, passwords) = door();
    let nats = Fixture::nats_behind(1, &door).await;
    let mut wrong = Vec::new();
    for user in User::ALL {
        let mut connection = Verbose::connect(&nats, user, &passwords).await;
        for (what, act, who) in ACTS {
            // Not even an admin of Weir's is one of the server.
            let may = who.contains(&user) || user == User::Admin;
            if connection.may(*act).await != may {
                let verb = if may { "may not" } else { "may" };
                wrong.push(format!("{} {verb} {what}", user.name()));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[tokio::test]
async fn nobody_enters_the_log_without_a_name_or_with_another_users_password() {
    let (door, passwords) = door();
    let nats = Fixture::nats_behind(1, &door).await;
    assert!(connect(&nats.url()).await.is_err());
    let admin = nats.url_as(User::Admin);
    let wrong = admin.replace(passwords.of(User::Admin), passwords.of(User::Gateway));
    assert!(connect(&wrong).await.is_err());
    assert!(connect(&admin).await.is_ok());
}

/// An installation that had no accounts yet keeps what its log holds.
#[tokio::test]
async fn streams_from_before_there_were_accounts_are_the_logs_still() {
    let (door, _) = door();
    let deps = Fixture::deps().await;
    let directory = tempfile::tempdir().unwrap();
    for (behind, is_first) in [(&Door::default(), true), (&door, false), (&door, false)] {
        let nats = Nats::start_with(&deps, directory.path(), 1, behind).await;
        let nats = nats.unwrap();
        let client = connect(&nats.url_as(User::Admin)).await.unwrap();
        let context = async_nats::jetstream::new(client);
        if is_first {
            let config = async_nats::jetstream::stream::Config {
                name: "WEIR_INGEST_000".to_owned(),
                subjects: vec!["weir.ingest.000".to_owned()],
                ..Default::default()
            };
            context.create_stream(config).await.unwrap();
            let stored = context.publish("weir.ingest.000", "chunk".into()).await;
            stored.unwrap().await.unwrap();
        }
        let stream = context.get_stream("WEIR_INGEST_000").await.unwrap();
        let message = stream.get_raw_message(1).await.unwrap();
        assert_eq!(&message.payload[..], b"chunk");
        nats.kill(0).await;
    }
}
