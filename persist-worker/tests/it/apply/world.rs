//! A database of the test's own, and a log that is made up on the spot.

use std::collections::BTreeMap;

use contract::chunk::{Chunk, Header};
use contract::tracking_id::{KeyRing, Minter};
use contract::{Entry, Operation, Partition, Record, Ride, TrackingId};
use devstack::fixture::{Fixture, PostgresFixture};
use persist_worker::apply::Applier;
use persist_worker::batch::{Applied, ApplyError, Batch, Cursor, LoggedChunk};
use persist_worker::ledger;
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
    minter: Minter,
}

/// What the ledger says of a record: outcome, action, code, duplicate_of.
pub(super) type LedgerRow = (i16, Option<i16>, Option<String>, Option<Uuid>);

pub(super) const CREATED: (i16, Option<i16>) = (1, Some(1));
pub(super) const REPLACED: (i16, Option<i16>) = (1, Some(2));

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
            minter: minter(),
        };
        world.start_over().await;
        world
    }

    /// Another incarnation of the log, from sequence 1; the tables keep their rows.
    pub(super) async fn start_over(&mut self) {
        self.incarnation = Uuid::now_v7();
        self.cursor = Cursor { last_seq: 0 };
        self.applier = Applier::new(PARTITION, false);
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
