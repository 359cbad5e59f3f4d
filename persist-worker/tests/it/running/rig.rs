//! A log, a database, and as many workers as a test wants.

use std::time::{Duration, SystemTime};

use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::Info;
use bytes::Bytes;
use chassis::readiness::Readiness;
use chassis::shutdown::Shutdown;
use clap::Parser as _;
use contract::chunk::{Encoder, Header, encode_entry};
use contract::log::{StreamMetadata, stream_name, subject};
use contract::tracking_id::{KeyRing, Minter};
use contract::{Entry, Operation, Partition, Record, Ride, TrackingId};
use devstack::eventually::eventually;
use devstack::fixture::{Fixture, NatsFixture, PostgresFixture};
use persist_worker::{Cli, Command, MigrateArgs, MigrateError, RunArgs, RunError, migrate, run};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// How long anything but a takeover may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) const PARTNER: i32 = 7;

const KEYS: &str = "test 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

pub(crate) struct Rig {
    pub(crate) nats: NatsFixture,
    pub(crate) postgres: PostgresFixture,
    pub(crate) jetstream: jetstream::Context,
    minter: Minter,
}

/// A worker of this process.
pub(crate) struct Running {
    pub(crate) readiness: Readiness,
    pub(crate) shutdown: Shutdown,
    pub(crate) task: JoinHandle<Result<(), RunError>>,
}

impl Rig {
    /// Servers without anything on them.
    pub(crate) async fn bare() -> Self {
        Self::on(Fixture::nats().await).await
    }

    /// On three nodes, without anything on them.
    pub(crate) async fn on_a_cluster() -> Self {
        Self::on(Fixture::nats_cluster().await).await
    }

    async fn on(nats: NatsFixture) -> Self {
        let postgres = Fixture::postgres().await;
        let client = async_nats::ConnectOptions::new()
            .retry_on_initial_connect()
            .connect(nats.url().split(',').collect::<Vec<_>>())
            .await
            .unwrap();
        Self {
            nats,
            postgres,
            jetstream: jetstream::new(client),
            minter: Minter::new(KeyRing::parse(KEYS).unwrap()),
        }
    }

    /// Migrated.
    pub(crate) async fn with_partitions(count: u8) -> Self {
        let rig = Self::bare().await;
        let count = count.to_string();
        rig.migrate(&["--partitions", &count]).await.unwrap();
        rig
    }

    pub(crate) async fn migrate(&self, flags: &[&str]) -> Result<Vec<String>, MigrateError> {
        migrate(self.migrate_args(flags)).await
    }

    fn migrate_args(&self, flags: &[&str]) -> MigrateArgs {
        // The fixture's server has no room for streams of the default size.
        let mut flags = flags.to_vec();
        if !flags.contains(&"--stream-bytes-max") {
            flags.extend(["--stream-bytes-max", "16MiB"]);
        }
        if !flags.contains(&"--events-bytes-max") {
            flags.extend(["--events-bytes-max", "64MiB"]);
        }
        match self.parse("migrate", &flags) {
            Command::Migrate(args) => args,
            Command::Run(_) => unreachable!(),
        }
    }

    fn parse(&self, command: &str, flags: &[&str]) -> Command {
        let (nats, database) = (self.nats.url(), self.postgres.database_url());
        let places = ["--nats-url", &nats, "--database-url", &database];
        let mut words = vec!["persist-worker", command];
        words.extend(places);
        words.extend(flags);
        Cli::try_parse_from(words).unwrap().command
    }

    pub(crate) fn run_args(&self, flags: &[&str]) -> RunArgs {
        match self.parse("run", flags) {
            Command::Run(args) => args,
            Command::Migrate(_) => unreachable!(),
        }
    }

    pub(crate) fn start(&self, flags: &[&str]) -> Running {
        self.start_with(self.run_args(flags))
    }

    pub(crate) fn start_with(&self, args: RunArgs) -> Running {
        let readiness = Readiness::new();
        let shutdown = Shutdown::new();
        let running = run(args, readiness.clone(), shutdown.clone());
        Running {
            readiness,
            shutdown,
            task: tokio::spawn(running),
        }
    }

    /// A connection of the test's own.
    pub(crate) async fn sql(&self) -> Client {
        let (client, driver) = tokio_postgres::connect(&self.postgres.database_url(), NoTls)
            .await
            .unwrap();
        tokio::spawn(driver);
        client
    }

    /// A tracking id as a gateway would give it.
    pub(crate) fn mint(&self, partition: u8) -> TrackingId {
        self.minter.mint(PARTNER, Partition(partition), now_ms())
    }

    /// Publishes one chunk of new rides; their tracking ids.
    pub(crate) async fn publish(&self, partition: u8, rides: &[i64]) -> Vec<TrackingId> {
        let new = rides.iter().map(|ride| new_ride(*ride)).collect();
        self.publish_records(partition, new).await
    }

    /// The same, as gateways of the former release did.
    pub(crate) async fn publish_version_1(&self, partition: u8, rides: &[i64]) -> Vec<TrackingId> {
        let new = rides.iter().map(|ride| new_ride(*ride)).collect();
        let (ids, header, chunk) = self.chunk(partition, new);
        let mut chunk = chunk.to_vec();
        chunk[4] = 1;
        let id = header.chunk_id.to_string();
        self.publish_raw(partition, &id, chunk.into()).await;
        ids
    }

    /// Publishes one chunk of these; their tracking ids.
    pub(crate) async fn publish_records(
        &self,
        partition: u8,
        records: Vec<(Operation, Record)>,
    ) -> Vec<TrackingId> {
        let (ids, header, chunk) = self.chunk(partition, records);
        let id = header.chunk_id.to_string();
        self.publish_raw(partition, &id, chunk).await;
        ids
    }

    fn chunk(
        &self,
        partition: u8,
        records: Vec<(Operation, Record)>,
    ) -> (Vec<TrackingId>, Header, Bytes) {
        let mut encoder = Encoder::new();
        let mut ids = Vec::new();
        for (operation, record) in records {
            let tracking_id = self.mint(partition);
            let entry = Entry {
                tracking_id,
                partner_id: PARTNER,
                operation,
                expected_version: None,
                record,
            };
            let mut buf = Vec::new();
            encode_entry(&entry, &mut buf);
            encoder.push_encoded(&buf);
            ids.push(tracking_id);
        }
        let header = header(Partition(partition));
        let chunk = encoder.seal(header.clone());
        (ids, header, chunk)
    }

    /// Publishes any bytes; the sequence.
    pub(crate) async fn publish_raw(&self, partition: u8, id: &str, payload: Bytes) -> u64 {
        let message = PublishMessage::build().payload(payload).message_id(id);
        let subject = subject(Partition(partition));
        // Under one message id, as the gateway does, while a leader is elected.
        let sequence = eventually(LIMIT, async || {
            let sent = self
                .jetstream
                .send_publish(subject.clone(), message.clone());
            Some(sent.await.ok()?.await.ok()?.sequence)
        });
        sequence.await.expect("the log takes it")
    }

    pub(crate) async fn stream(&self, partition: u8) -> Info {
        let name = stream_name(Partition(partition));
        let stream = self.jetstream.get_stream(name).await.unwrap();
        stream.cached_info().clone()
    }

    /// Deletes a stream and creates it again with the same configuration, metadata included: what
    /// a server does that lost its disk and was restored from a description.
    pub(crate) async fn recreate_stream(&self, partition: u8) {
        let config = self.stream(partition).await.config;
        self.jetstream.delete_stream(&config.name).await.unwrap();
        self.jetstream.create_stream(config).await.unwrap();
    }

    /// Deletes a stream and creates it as `migrate` would: it counts anew, and says so.
    pub(crate) async fn recreate_stream_anew(&self, partition: u8) {
        let mut config = self.stream(partition).await.config;
        self.jetstream.delete_stream(&config.name).await.unwrap();
        let before = StreamMetadata::from_map(&config.metadata).unwrap();
        let (installation, partitions) = (before.installation, before.partitions);
        let metadata = StreamMetadata::new(installation, Uuid::now_v7(), partitions);
        config.metadata = metadata.to_map();
        self.jetstream.create_stream(config).await.unwrap();
    }

    /// `(last_seq, committed_to)` of a partition.
    pub(crate) async fn progress(&self, partition: u8) -> (i64, SystemTime) {
        let row = self
            .sql()
            .await
            .query_one(
                "select last_seq, committed_to from progress where partition = $1",
                &[&i32::from(partition)],
            )
            .await
            .unwrap();
        (row.get(0), row.get(1))
    }

    /// Waits until a partition is committed to at least this sequence.
    pub(crate) async fn committed(&self, partition: u8, seq: i64) {
        let done = eventually(LIMIT, async || {
            (self.progress(partition).await.0 >= seq).then_some(())
        });
        done.await.expect("the partition is committed that far");
    }

    /// Waits until each of these is persisted, once.
    pub(crate) async fn persisted(&self, ids: &[TrackingId]) {
        self.counted(ids, "outcome = 1").await;
    }

    /// Waits until each of these has its outcome in the ledger, whichever, once.
    pub(crate) async fn settled(&self, ids: &[TrackingId]) {
        self.counted(ids, "true").await;
    }

    async fn counted(&self, ids: &[TrackingId], with: &str) {
        let client = self.sql().await;
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        let query = format!("select count(*) from requests where tracking_id = any($1) and {with}");
        let done = eventually(LIMIT, async || {
            let row = client.query_one(&query, &[&ids]).await.ok()?;
            (row.get::<_, i64>(0) == i64::try_from(ids.len()).unwrap()).then_some(())
        });
        done.await.expect("every record has its outcome");
    }

    pub(crate) async fn count(&self, query: &str) -> i64 {
        self.sql().await.query_one(query, &[]).await.unwrap().get(0)
    }

    /// Who has each partition, in order.
    pub(crate) async fn owners(&self) -> Vec<Option<String>> {
        let rows = self
            .sql()
            .await
            .query("select owner from leases order by partition", &[])
            .await
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

impl Running {
    /// Waits until one of its conditions says something that contains this.
    pub(crate) async fn says(&self, condition: &str, words: &str) -> String {
        let said = eventually(LIMIT, async || {
            let reasons = self.readiness.reasons();
            let found = reasons
                .into_iter()
                .find(|it| it.condition == condition && it.reason.contains(words));
            found.map(|it| it.reason)
        });
        let Some(reason) = said.await else {
            panic!(
                "{condition} does not say {words:?} but {:?}",
                self.readiness.reasons()
            );
        };
        reason
    }

    pub(crate) async fn ready(&self) {
        let ready = eventually(LIMIT, async || self.readiness.is_ready().then_some(()));
        if ready.await.is_none() {
            panic!("not ready: {:?}", self.readiness.reasons());
        }
    }

    /// SIGTERM.
    pub(crate) async fn drain(self) {
        self.shutdown.begin();
        let done = tokio::time::timeout(LIMIT, self.task).await;
        done.expect("it ends in time").unwrap().unwrap();
    }

    /// SIGKILL.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

fn new_ride(id: i64) -> (Operation, Record) {
    let record = Record::Ride(Ride {
        id,
        user_id: 1,
        vehicle_model_id: 12,
        travel_type_id: 2,
        ..Ride::default()
    });
    (Operation::Create, record)
}

pub(crate) fn header(partition: Partition) -> Header {
    Header {
        chunk_id: Uuid::now_v7(),
        partition,
        publish_by_us: i64::try_from(now_ms()).unwrap() * 1_000 + 5_000_000,
        origin: "test".to_owned(),
    }
}

fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since_epoch.unwrap().as_millis()).unwrap()
}
