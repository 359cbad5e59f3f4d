//! The connection that a partition is written through: its own, never pooled.
//!
//! A writer that froze or was cut off may still hold row locks through a backend that lives on, and
//! could still commit. So whoever starts writing ends the backend that the lease names, waits until
//! it is gone, and puts its own name there before its first transaction.

use std::time::{Duration, SystemTime};

use contract::Partition;
use tokio::time::Instant;
use tokio_postgres::{Client, GenericClient};
use uuid::Uuid;

use crate::database::{Connection, Database, DatabaseError, check_settings};

/// How long the backend before ours may take to end. One that takes longer is tried again.
const END_BACKEND_MAX: Duration = Duration::from_secs(5);

/// A partition's row of `progress`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Progress {
    /// The stream that the cursor counts in.
    pub(crate) incarnation: Uuid,
    last_seq: i64,
    last_message_id: Option<Uuid>,
}

impl Progress {
    /// The last committed sequence, 0 before the first.
    pub(crate) fn last_seq(&self) -> u64 {
        u64::try_from(self.last_seq).expect("the table's check keeps it from being negative")
    }

    /// The last committed sequence in the table's type.
    pub(crate) fn last_seq_stored(&self) -> i64 {
        self.last_seq
    }

    /// The message id that the last committed sequence must have.
    pub(crate) fn last_message_id(&self) -> String {
        self.last_message_id.unwrap_or_default().to_string()
    }
}

/// Writing could not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriterError {
    /// Somebody else has the partition now.
    #[error("the lease of partition {0} is somebody else's")]
    LeaseLost(Partition),
    /// The writer before us is still there.
    #[error(
        "backend {pid} of the writer before us does not end within {END_BACKEND_MAX:?} of being terminated"
    )]
    BackendStays {
        /// Its process id.
        pid: i32,
    },
    /// The database is away, or not fit for use.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// A server process, which its id alone does not name for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Backend {
    pid: i32,
    started: SystemTime,
}

/// A connection that may write one partition.
pub(crate) struct Writer {
    connection: Connection,
    partition: Partition,
}

impl Writer {
    /// Connects, ends the recorded backend, records the own one. `owner` must have the lease.
    pub(crate) async fn open(
        database: &Database,
        partition: Partition,
        owner: &str,
    ) -> Result<Self, WriterError> {
        let application = format!("weir persist-worker partition {partition}");
        let mut connection = database.connect(&application).await?;
        check_settings(&connection.client).await?;
        take_over(&mut connection.client, partition, owner).await?;
        Ok(Self {
            connection,
            partition,
        })
    }

    /// The cursor; `None` if the partition has none.
    pub(crate) async fn progress(&self) -> Result<Option<Progress>, DatabaseError> {
        let row = self
            .connection
            .client
            .query_opt(
                "select incarnation, last_seq, last_message_id from progress where partition = $1",
                &[&i32::from(self.partition.0)],
            )
            .await
            .map_err(DatabaseError::doing("reading the cursor"))?;
        Ok(row.map(|row| Progress {
            incarnation: row.get(0),
            last_seq: row.get(1),
            last_message_id: row.get(2),
        }))
    }

    pub(crate) fn client(&mut self) -> &mut Client {
        &mut self.connection.client
    }
}

async fn take_over(
    client: &mut Client,
    partition: Partition,
    owner: &str,
) -> Result<(), WriterError> {
    let postgres = DatabaseError::doing("taking over from the writer before");
    let number = i32::from(partition.0);
    let own = client
        .query_one(
            "select pid, backend_start from pg_stat_activity where pid = pg_backend_pid()",
            &[],
        )
        .await
        .map_err(&postgres)?;
    let own = Backend {
        pid: own.get(0),
        started: own.get(1),
    };
    let lease = client
        .query_opt(
            "select backend_pid, backend_start from leases where partition = $1 and owner = $2",
            &[&number, &owner],
        )
        .await
        .map_err(&postgres)?
        .ok_or(WriterError::LeaseLost(partition))?;
    if let (Some(pid), Some(started)) = (lease.get(0), lease.get(1)) {
        end_backend(client, Backend { pid, started }).await?;
    }
    // The owner is in the condition: a successor that took the lease since has read the recorded
    // backend, and it was not this one.
    let recorded = client
        .execute(
            "update leases set backend_pid = $3, backend_start = $4 where partition = $1 and owner = $2",
            &[&number, &owner, &own.pid, &own.started],
        )
        .await
        .map_err(&postgres)?;
    if recorded == 0 {
        return Err(WriterError::LeaseLost(partition));
    }
    Ok(())
}

/// Terminates a backend if it still lives, and waits until it does not.
async fn end_backend(client: &impl GenericClient, backend: Backend) -> Result<(), WriterError> {
    let postgres = DatabaseError::doing("ending the backend of the writer before");
    let asked_at = Instant::now();
    loop {
        let left = END_BACKEND_MAX.saturating_sub(asked_at.elapsed());
        let wait_ms = i64::try_from(left.as_millis()).expect("a few seconds");
        // With a time-out the function itself waits until the backend is gone; no row, no backend.
        let ended = client
            .query_opt(
                "select pg_terminate_backend(pid, $3) from pg_stat_activity \
                 where pid = $1 and backend_start = $2",
                &[&backend.pid, &backend.started, &wait_ms.max(1)],
            )
            .await
            .map_err(&postgres)?;
        match ended {
            None => return Ok(()),
            Some(_) if asked_at.elapsed() >= END_BACKEND_MAX => {
                return Err(WriterError::BackendStays { pid: backend.pid });
            }
            // Looked at once more: true may also mean that a signal was sent to nobody.
            Some(_) => tracing::info!(pid = backend.pid, "ended the writer before"),
        }
    }
}
