//! A database of the test's own, and a log that is made up on the spot.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use contract::chunk::{Chunk, Header};
use contract::courier::{
    Command, CourierCapacity, CourierCreate, CourierDelete, CourierMovement, CourierUpdate,
};
use contract::event::{Event, SCHEMA_VERSION, schema};
use contract::tracking_id::{KeyRing, Minter};
use contract::{CourierCommand, Entry, Operation, Partition, Record, Ride, TrackingId};
use devstack::fixture::{Fixture, PostgresFixture};
use jsonschema::Validator;
use persist_worker::apply::Applier;
use persist_worker::batch::{Applied, ApplyError, Batch, Cursor, LoggedChunk};
use persist_worker::ledger;
use serde_json::Value;
use sqlx::Connection as _;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// 2026-11-20 08:00:00 UTC: the day that [`World`] has a ledger partition for.
pub(super) const NOW_MS: u64 = 1_795_161_600_000;
pub(super) const PARTITION: Partition = Partition(3);
pub(super) const PARTNER: i32 = 1;

const TRACKING_KEY: &str = "test 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// Everything that applying batches needs.
pub(super) struct World {
    pub(super) postgres: PostgresFixture,
    pub(super) client: Client,
    pub(super) applier: Applier,
    pub(super) cursor: Cursor,
    pub(super) incarnation: Uuid,
    /// As the appliers are told; [`World::restart`] tells the next one.
    pub(super) ride_events: bool,
    minter: Minter,
}

/// A row of the outbox.
#[derive(Debug)]
pub(super) struct Told {
    /// Its chunk and its place among the chunk's events.
    pub(super) at: (i64, i32),
    pub(super) event: String,
    pub(super) event_id: String,
    /// The whole document.
    pub(super) body: Value,
}

static SCHEMAS: LazyLock<HashMap<&str, Validator>> = LazyLock::new(|| {
    let named = Event::NAMES.into_iter().chain(["envelope"]);
    let compiled = named.map(|name| {
        let schema = schema(name, SCHEMA_VERSION).unwrap();
        let options = jsonschema::options().should_validate_formats(true);
        let schema = serde_json::from_str(schema).unwrap();
        (name, options.build(&schema).unwrap())
    });
    compiled.collect()
});

/// What the ledger says of a record: outcome, action, code, duplicate_of.
pub(super) type LedgerRow = (i16, Option<i16>, Option<String>, Option<Uuid>);

pub(super) const CREATED: (i16, Option<i16>) = (1, Some(1));
pub(super) const REPLACED: (i16, Option<i16>) = (1, Some(2));
pub(super) const UPDATED: (i16, Option<i16>) = (1, Some(3));
pub(super) const DELETED: (i16, Option<i16>) = (1, Some(4));

impl World {
    /// A migrated database whose progress stands at 0.
    pub(super) async fn new() -> Self {
        let postgres = Fixture::postgres().await;
        migrate(&postgres.database_url()).await;
        let client = connect(&postgres.database_url()).await;
        let day = jiff::Timestamp::from_millisecond(NOW_MS.cast_signed()).unwrap();
        let day = jiff::tz::TimeZone::UTC.to_datetime(day).date();
        ledger::ensure_day_partitions(&client, day, 1)
            .await
            .unwrap();
        let mut world = Self {
            postgres,
            client,
            applier: Applier::new(PARTITION, false),
            cursor: Cursor { last_seq: 0 },
            incarnation: Uuid::nil(),
            ride_events: false,
            minter: minter(),
        };
        world.start_over().await;
        world
    }

    /// Another worker, which knows nothing of the one before.
    pub(super) fn restart(&mut self) {
        self.applier = Applier::new(PARTITION, self.ride_events);
    }

    /// Another incarnation of the log, from sequence 1; the tables keep their rows, but for events,
    /// which are on their way by then.
    pub(super) async fn start_over(&mut self) {
        self.incarnation = Uuid::now_v7();
        self.cursor = Cursor { last_seq: 0 };
        self.restart();
        self.client
            .execute("delete from outbox", &[])
            .await
            .unwrap();
        let sql = "insert into progress (partition, incarnation, last_seq, committed_to) \
                   values ($1, $2, 0, 'epoch') \
                   on conflict (partition) do update set incarnation = $2, last_seq = 0, \
                   last_message_id = null, committed_to = 'epoch'";
        let partition = i32::from(PARTITION.0);
        self.client
            .execute(sql, &[&partition, &self.incarnation])
            .await
            .unwrap();
    }

    /// A second connection, to be another worker with.
    pub(super) async fn connect(&self) -> Client {
        connect(&self.postgres.database_url()).await
    }

    pub(super) fn mint(&self, now_ms: u64) -> TrackingId {
        self.minter.mint(PARTNER, PARTITION, now_ms)
    }

    pub(super) fn entry(&self, operation: Operation, ride: Ride) -> Entry {
        self.entry_of(PARTNER, operation, ride)
    }

    pub(super) fn entry_of(&self, partner_id: i32, operation: Operation, ride: Ride) -> Entry {
        Entry {
            tracking_id: self.mint(NOW_MS),
            partner_id,
            operation,
            expected_version: None,
            record: Record::Ride(ride),
        }
    }

    pub(super) fn create(&self, ride: Ride) -> Entry {
        self.entry(Operation::Create, ride)
    }

    pub(super) fn replace(&self, ride: Ride) -> Entry {
        self.entry(Operation::Replace, ride)
    }

    pub(super) fn command(&self, courier_id: &str, command: Command) -> Entry {
        self.command_of(PARTNER, courier_id, command)
    }

    pub(super) fn command_of(&self, partner_id: i32, courier_id: &str, command: Command) -> Entry {
        Entry {
            tracking_id: self.mint(NOW_MS),
            partner_id,
            operation: Operation::Command,
            expected_version: None,
            record: Record::Courier(CourierCommand {
                courier_id: courier_id.to_owned(),
                command,
            }),
        }
    }

    /// One chunk per list of entries, right after the cursor, stored in time.
    pub(super) fn batch(&self, chunks: Vec<Vec<Entry>>) -> Batch {
        let first = self.cursor.last_seq.unsigned_abs() + 1;
        let chunks = (first..)
            .zip(chunks)
            .map(|(seq, entries)| logged(seq, 0, entries));
        self.batch_of(chunks.collect())
    }

    pub(super) fn batch_of(&self, chunks: Vec<LoggedChunk>) -> Batch {
        Batch {
            partition: PARTITION,
            incarnation: self.incarnation,
            chunks,
        }
    }

    /// Applies what [`World::batch`] makes, and moves the cursor.
    pub(super) async fn apply(&mut self, chunks: Vec<Vec<Entry>>) -> Result<Applied, ApplyError> {
        let batch = self.batch(chunks);
        self.apply_batch(&batch).await
    }

    pub(super) async fn apply_batch(&mut self, batch: &Batch) -> Result<Applied, ApplyError> {
        let applied = self
            .applier
            .apply(&mut self.client, self.cursor, batch)
            .await?;
        self.cursor.last_seq = applied.last_seq;
        Ok(applied)
    }

    /// The ledger of a partner.
    pub(super) async fn ledger(&self, partner_id: i32) -> BTreeMap<Uuid, LedgerRow> {
        let sql = "select tracking_id, outcome, action, code, duplicate_of from requests \
                   where partner_id = $1";
        let rows = self.client.query(sql, &[&partner_id]).await.unwrap();
        rows.iter()
            .map(|row| (row.get(0), (row.get(1), row.get(2), row.get(3), row.get(4))))
            .collect()
    }

    /// Code and detail of a failed record.
    pub(super) async fn failure(&self, entry: &Entry) -> (String, String) {
        let sql = "select code, detail from requests where tracking_id = $1 and outcome = 3";
        let id = entry.tracking_id.uuid();
        let row = self.client.query_one(sql, &[&id]).await.unwrap();
        (row.get(0), row.get(1))
    }

    /// The events in the order in which they will be relayed; each follows its schema, and those of
    /// a chunk are counted from 0.
    pub(super) async fn outbox(&self) -> Vec<Told> {
        let sql = "select log_seq, event_index, partner_id, event, event_id, body from outbox \
                   where partition = $1 order by log_seq, event_index";
        let partition = i32::from(PARTITION.0);
        let rows = self.client.query(sql, &[&partition]).await.unwrap();
        let mut before = (0, 0);
        let told = rows.iter().map(|row| {
            let at: (i64, i32) = (row.get(0), row.get(1));
            let expected = if before.0 == at.0 { before.1 + 1 } else { 0 };
            assert_eq!(at.1, expected, "{row:?}");
            before = at;
            let partner_id: i32 = row.get(2);
            let body: Value = serde_json::from_str(row.get(5)).unwrap();
            let told = Told {
                at,
                event: row.get(3),
                event_id: row.get(4),
                body,
            };
            assert_eq!(told.body["id"], *told.event_id);
            assert_eq!(told.body["type"], format!("weir.{}", told.event));
            let source = format!("urn:weir:partner:{partner_id}");
            assert_eq!(told.body["source"], source);
            let parts = [("envelope", &told.body), (&told.event, &told.body["data"])];
            for (name, part) in parts {
                let found: Vec<_> = SCHEMAS[name].iter_errors(part).collect();
                assert!(found.is_empty(), "{name}: {found:?} in {part}");
            }
            told
        });
        told.collect()
    }

    /// Outcome and action of one record.
    pub(super) async fn outcome(&self, entry: &Entry) -> (i16, Option<i16>) {
        let row = &self.ledger(entry.partner_id).await[&entry.tracking_id.uuid()];
        (row.0, row.1)
    }

    pub(super) async fn count(&self, table: &str) -> i64 {
        let sql = format!("select count(*) from {table}");
        self.client.query_one(&sql, &[]).await.unwrap().get(0)
    }

    /// Where the database says the cursor is.
    pub(super) async fn progress(&self) -> i64 {
        let sql = "select last_seq from progress where partition = $1";
        let partition = i32::from(PARTITION.0);
        self.client
            .query_one(sql, &[&partition])
            .await
            .unwrap()
            .get(0)
    }
}

/// A source of ids that knows no earlier time than the one it is asked for first.
pub(super) fn minter() -> Minter {
    Minter::new(KeyRing::parse(TRACKING_KEY).unwrap())
}

/// A chunk that the log stored so late after its publish deadline.
pub(super) fn logged(seq: u64, late_us: i64, entries: Vec<Entry>) -> LoggedChunk {
    let publish_by_us = NOW_MS.cast_signed() * 1_000 + 5_000_000;
    LoggedChunk {
        seq,
        stored_at_us: publish_by_us + late_us,
        chunk: Chunk {
            header: Header {
                chunk_id: Uuid::from_u128(u128::from(seq)),
                partition: PARTITION,
                publish_by_us,
                origin: "test".to_owned(),
            },
            entries,
        },
    }
}

/// A ride that has nothing but what it must have.
pub(super) fn ride(id: i64) -> Ride {
    Ride {
        id,
        user_id: 17,
        vehicle_model_id: 12,
        travel_type_id: 2,
        from_date_us: 1_356_979_500_000_000,
        booking_created_us: 1_356_978_000_000_000,
        ..Ride::default()
    }
}

/// A ride that no gateway would let through: jsonb has no NUL.
pub(super) fn unstorable(id: i64) -> Ride {
    Ride {
        extra: Some(r#"{"note":"\u0000"}"#.to_owned()),
        ..ride(id)
    }
}

pub(super) fn create(max_capacity: i32) -> Command {
    Command::Create(CourierCreate {
        name: "Ada".to_owned(),
        max_capacity,
        ..CourierCreate::default()
    })
}

/// A patch of capacities.
pub(super) fn resize(max_capacity: Option<i32>, available_capacity: Option<i32>) -> Command {
    Command::Update(CourierUpdate {
        max_capacity,
        available_capacity,
        ..CourierUpdate::default()
    })
}

pub(super) fn rename(name: &str) -> Command {
    Command::Update(CourierUpdate {
        name: Some(name.to_owned()),
        ..CourierUpdate::default()
    })
}

pub(super) fn set(available_capacity: i32) -> Command {
    Command::SetCapacity(CourierCapacity { available_capacity })
}

fn movement(capacity: i32, reference: &str) -> CourierMovement {
    CourierMovement {
        capacity,
        reference: reference.to_owned(),
    }
}

pub(super) fn pickup(capacity: i32, reference: &str) -> Command {
    Command::Pickup(movement(capacity, reference))
}

pub(super) fn dropoff(capacity: i32, reference: &str) -> Command {
    Command::Dropoff(movement(capacity, reference))
}

pub(super) fn delete() -> Command {
    Command::Delete(CourierDelete {})
}

/// The entry, if its resource has this version.
pub(super) fn expecting(version: i32, entry: Entry) -> Entry {
    Entry {
        expected_version: Some(version),
        ..entry
    }
}

async fn migrate(url: &str) {
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    sqlx::migrate!("../migrations")
        .run(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
}

pub(super) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
