//! The table of events that are committed and not yet on the log.

use std::time::Duration;

use contract::Partition;
use tokio::time::timeout;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use super::publisher::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX};
use crate::database::{Connection, Database, DatabaseError};

/// How long a statement may take before its connection is given up.
const STATEMENT_MAX: Duration = Duration::from_secs(10);
/// Most events that are counted: whoever has an alarm knows enough by then.
const COUNTED_MAX: i64 = 100_000;

/// Where an event stands among its partition's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    log_seq: i64,
    event_index: i32,
}

impl Key {
    /// Before every other.
    pub(super) const FIRST: Self = Self {
        log_seq: i64::MIN,
        event_index: 0,
    };

    /// No other lies between.
    pub(super) fn next(self) -> Self {
        Self {
            event_index: self.event_index + 1,
            ..self
        }
    }
}

/// An event that waits.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) key: Key,
    pub(super) partner_id: i32,
    /// The last token of its subject.
    pub(super) event: String,
    pub(super) event_id: String,
    pub(super) body: String,
}

/// One partition's events, over a connection of their own: what hangs here must not keep leases
/// or batches from theirs.
pub(super) struct Outbox {
    connection: Connection,
    partition: i32,
    read: Statement,
    remove: Statement,
    count: Statement,
}

impl Outbox {
    pub(super) async fn open(
        database: &Database,
        partition: Partition,
    ) -> Result<Self, DatabaseError> {
        let application = format!("weir persist-worker events {partition}");
        let opening = async {
            let connection = database.connect(&application).await?;
            let client = &connection.client;
            // A removal that a crash takes back is an event that is sent again, with its id; the
            // plan never depends on how much of a table that is mostly empty was dead when it was
            // last analysed.
            client
                .batch_execute(
                    "set synchronous_commit = off; set enable_seqscan = off; set enable_sort = off",
                )
                .await
                .map_err(DatabaseError::doing("preparing to relay events"))?;
            let read = client.prepare(
                "select log_seq, event_index, partner_id, event, event_id, body from outbox \
                 where partition = $1 and (log_seq, event_index) >= ($2, $3) \
                 order by partition, log_seq, event_index limit $4",
            );
            let remove = client.prepare(
                "delete from outbox where partition = $1 \
                 and (log_seq, event_index) >= ($2, $3) and (log_seq, event_index) < ($4, $5)",
            );
            let count = client.prepare(
                "select count(*) from (select from outbox where partition = $1 limit $2) waiting",
            );
            let (read, remove, count) = tokio::try_join!(read, remove, count)
                .map_err(DatabaseError::doing("preparing to relay events"))?;
            Ok(Self {
                connection,
                partition: i32::from(partition.0),
                read,
                remove,
                count,
            })
        };
        within("preparing to relay events", opening).await
    }

    /// Whether this process has the partition's lease.
    pub(super) async fn belongs_to(&self, owner: &str) -> Result<bool, DatabaseError> {
        const DOING: &str = "reading the lease";
        let looking = async {
            self.connection
                .client
                .query_opt(
                    "select from leases where partition = $1 and owner = $2",
                    &[&self.partition, &owner],
                )
                .await
                .map_err(DatabaseError::doing(DOING))
        };
        within(DOING, looking).await.map(|row| row.is_some())
    }

    /// The oldest events from there on, as many as one batch may hold.
    pub(super) async fn read(&self, from: Key) -> Result<Vec<Row>, DatabaseError> {
        const DOING: &str = "reading the outbox";
        let reading = async {
            self.read_now(from)
                .await
                .map_err(DatabaseError::doing(DOING))
        };
        within(DOING, reading).await
    }

    /// How many wait, at most [`COUNTED_MAX`].
    pub(super) async fn count(&self) -> Result<i64, DatabaseError> {
        const DOING: &str = "counting the outbox";
        let counting = async {
            self.connection
                .client
                .query_one(&self.count, &[&self.partition, &COUNTED_MAX])
                .await
                .map_err(DatabaseError::doing(DOING))
        };
        within(DOING, counting).await.map(|row| row.get(0))
    }

    /// Removes what lies from `first` up to `next`, and reads what follows, in one round trip.
    pub(super) async fn remove_and_read(
        &self,
        first: Key,
        next: Key,
    ) -> Result<Vec<Row>, DatabaseError> {
        const DOING: &str = "removing events from the outbox";
        let both = async {
            let bounds: [&(dyn ToSql + Sync); 5] = [
                &self.partition,
                &first.log_seq,
                &first.event_index,
                &next.log_seq,
                &next.event_index,
            ];
            let removing = self.connection.client.execute(&self.remove, &bounds);
            let (_, rows) = tokio::try_join!(removing, self.read_now(next))
                .map_err(DatabaseError::doing(DOING))?;
            Ok(rows)
        };
        within(DOING, both).await
    }

    async fn read_now(&self, from: Key) -> Result<Vec<Row>, tokio_postgres::Error> {
        let limit = i64::try_from(BATCH_EVENTS_MAX).expect("a few hundred");
        let rows = self
            .connection
            .client
            .query(
                &self.read,
                &[&self.partition, &from.log_seq, &from.event_index, &limit],
            )
            .await?;
        let mut bytes = 0;
        let rows = rows.iter().map(|row| Row {
            key: Key {
                log_seq: row.get(0),
                event_index: row.get(1),
            },
            partner_id: row.get(2),
            event: row.get(3),
            event_id: row.get(4),
            body: row.get(5),
        });
        let fitting = rows.enumerate().take_while(|(index, row)| {
            bytes += row.body.len();
            *index == 0 || bytes <= BATCH_BYTES_MAX
        });
        Ok(fitting.map(|(_, row)| row).collect())
    }
}

async fn within<T>(
    doing: &'static str,
    work: impl Future<Output = Result<T, DatabaseError>>,
) -> Result<T, DatabaseError> {
    match timeout(STATEMENT_MAX, work).await {
        Ok(done) => done,
        Err(_) => Err(DatabaseError::Silent {
            doing,
            limit: STATEMENT_MAX,
        }),
    }
}
