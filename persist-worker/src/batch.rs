//! What goes into one transaction, and what comes out of it.

use contract::chunk::Chunk;
use contract::content_hash::UnknownVersion;
use contract::outcome::FailureCode;
use contract::{Partition, TrackingId};
use uuid::Uuid;

/// Some consecutive chunks of one partition, decoded, in log order.
#[derive(Debug)]
pub struct Batch {
    /// Whose log they are from.
    pub partition: Partition,
    /// The stream's incarnation, as its metadata has it.
    pub incarnation: Uuid,
    /// At least one; sequences without a gap, starting right after the cursor.
    pub chunks: Vec<LoggedChunk>,
}

/// A chunk and where the log has it.
#[derive(Debug)]
pub struct LoggedChunk {
    /// Its sequence in the stream.
    pub seq: u64,
    /// When the log stored it, by the log's clock, in microseconds since the Unix epoch.
    pub stored_at_us: i64,
    /// What it holds.
    pub chunk: Chunk,
}

/// Where a partition stands in the database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// `progress.last_seq`: the last applied sequence, 0 before the first.
    pub last_seq: i64,
}

/// A batch that is committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// The cursor now: the batch's last sequence.
    pub last_seq: i64,
    /// The batch's last chunk.
    pub last_message_id: Uuid,
    /// `progress.committed_to` now, in microseconds since the Unix epoch.
    pub committed_to_us: i64,
    /// How the records ended.
    pub outcomes: Outcomes,
    /// Which way the batch went in.
    pub path: Path,
    /// COPY statements of the transaction that committed.
    pub copies: u32,
    /// Waits for the database in the transaction that committed, its begin and its commit
    /// included: constant on either path, whatever the number of records.
    pub round_trips: u32,
}

/// Records of a batch by outcome.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Outcomes {
    /// `persisted`, the resource is new.
    pub created: u64,
    /// `persisted`, the resource has new content.
    pub replaced: u64,
    /// `persisted`, the resource was changed in part.
    pub updated: u64,
    /// `persisted`, the resource is gone.
    pub deleted: u64,
    /// `duplicate`.
    pub duplicate: u64,
    /// `failed`.
    pub failed: Failures,
    /// Entries that had their outcome already, because the log stored their chunk twice. Not an
    /// outcome: the first one stands.
    pub repeated: u64,
}

impl Outcomes {
    /// Records that changed their resource.
    #[must_use]
    pub fn persisted(&self) -> u64 {
        self.created + self.replaced + self.updated + self.deleted
    }

    /// Records that got their outcome in this batch.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.persisted() + self.duplicate + self.failed.0.iter().sum::<u64>()
    }
}

/// Failed records by their code.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Failures([u64; FailureCode::ALL.len()]);

impl Failures {
    /// How many failed with this code.
    #[must_use]
    pub fn of(&self, code: FailureCode) -> u64 {
        self.0[code as usize]
    }

    pub(crate) fn count(&mut self, code: FailureCode) {
        self.0[code as usize] += 1;
    }
}

impl FromIterator<(FailureCode, u64)> for Failures {
    fn from_iter<T: IntoIterator<Item = (FailureCode, u64)>>(codes: T) -> Self {
        let mut failures = Self::default();
        for (code, records) in codes {
            failures.0[code as usize] += records;
        }
        failures
    }
}

/// The two ways into the tables.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Path {
    /// COPY straight into the tables, in the belief that everything is new.
    Fast,
    /// Look first, then merge.
    Careful,
}

impl Path {
    /// The word in metrics: `fast` or `careful`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Careful => "careful",
        }
    }
}

/// A batch that was rolled back: nothing of it is in the database, the cursor included.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The compare-and-set found another cursor: somebody else writes this partition. Read the
    /// lease again.
    #[error("the cursor of partition {partition} is not at {expected} any more")]
    CursorMoved {
        /// The partition.
        partition: Partition,
        /// Where it was expected.
        expected: i64,
    },
    /// The database is away, busy, full or restarting. Try the same batch again, with backoff.
    #[error("the database cannot take the batch at the moment: {reason}")]
    Transient {
        /// For the operator.
        reason: String,
        /// As the driver has it.
        #[source]
        source: tokio_postgres::Error,
    },
    /// Something is wrong with this installation: a person has to look.
    #[error("this installation cannot take the batch")]
    Installation(#[source] InstallationFault),
    /// So many records in a row were refused that it is hardly the records. The partition is held.
    #[error(
        "{in_a_row} records in a row were refused by the database, the last one at sequence \
         {log_seq}, entry {log_index}, with SQLSTATE {sqlstate}: {message}"
    )]
    TooManyBad {
        /// How many.
        in_a_row: u32,
        /// Chunk of the last one.
        log_seq: i64,
        /// Its place there.
        log_index: i32,
        /// Why, as a code.
        sqlstate: String,
        /// Why, in the database's words.
        message: String,
    },
    /// A stored content hash is of a newer version: upgrade this worker. The partition is held.
    #[error("sequence {log_seq}, entry {log_index} cannot be compared with what is stored")]
    UnknownHashVersion {
        /// Chunk of the record.
        log_seq: i64,
        /// Its place there.
        log_index: i32,
        /// Which version.
        #[source]
        source: UnknownVersion,
    },
}

/// What a person has to put right before the partition moves on.
#[derive(Debug, thiserror::Error)]
pub enum InstallationFault {
    /// The database refuses a statement: a missing table, a missing permission, another schema.
    #[error("the database refuses a statement of ours: {message}")]
    Statement {
        /// SQLSTATE and message.
        message: String,
        /// As the driver has it.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The database refuses rows as a whole of which each was fine alone.
    #[error("the database refuses rows into {table} that no single record explains: {message}")]
    Rows {
        /// Where they should have gone.
        table: &'static str,
        /// SQLSTATE and message.
        message: String,
        /// As the driver has it.
        #[source]
        source: tokio_postgres::Error,
    },
    /// Two different records carry one tracking id. It cannot happen; dropping either would lose
    /// an acknowledged record in silence.
    #[error(
        "tracking id {tracking_id} at sequence {log_seq}, entry {log_index} belongs to another \
         record already"
    )]
    TrackingIdReused {
        /// The id.
        tracking_id: TrackingId,
        /// Chunk of the second record.
        log_seq: i64,
        /// Its place there.
        log_index: i32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_counted_by_itself() {
        for (at, code) in FailureCode::ALL.into_iter().enumerate() {
            let mut failures = Failures::default();
            failures.count(code);
            let expected = std::array::from_fn(|place| u64::from(place == at));
            assert_eq!(failures.0, expected, "{code:?}");
        }
    }
}
