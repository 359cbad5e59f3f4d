//! Why a partition is held: nothing is skipped, `/readyz` is red, and an operator decides.

use contract::chunk::DecodeError;
use contract::log::MetadataError;
use uuid::Uuid;

use crate::log::LogError;

/// What does not fit between the cursor and the log, or what the log holds and nobody can read.
///
/// All of them are looked at again every few seconds, so a partition goes on by itself once the
/// cause is gone.
#[derive(Debug, thiserror::Error)]
pub enum HeldReason {
    /// The stream was deleted.
    #[error("{0}")]
    NoStream(LogError),
    /// The stream was not made by `migrate`, or for another build.
    #[error("the stream's metadata cannot be used: {0}")]
    Metadata(#[from] MetadataError),
    /// The stream was deleted and created again, or the database belongs to another log.
    #[error(
        "the stream is another than the cursor counts in: incarnation {log}, the cursor's is {cursor}; \
         `persist-worker migrate --adopt-new-log` starts over at the new stream's beginning"
    )]
    Incarnation {
        /// In `progress`.
        cursor: Uuid,
        /// In the stream's metadata.
        log: Uuid,
    },
    /// `migrate` has not been run for this partition.
    #[error("the database has no progress row for this partition: run `persist-worker migrate`")]
    NoProgress,
    /// The log lost its end.
    #[error(
        "the log is shorter than what was committed: it ends at {log_last}, the cursor is at {last_seq}"
    )]
    Shorter {
        /// The cursor.
        last_seq: u64,
        /// The stream's last sequence.
        log_last: u64,
    },
    /// The message that the cursor stands on is gone, so nothing proves that what follows does.
    #[error("message {last_seq}, the last one committed, is not in the log (it begins at {first})")]
    CursorMissing {
        /// The cursor.
        last_seq: u64,
        /// The stream's first sequence.
        first: u64,
    },
    /// Another message stands at the cursor: the log came back shorter and was written since.
    #[error(
        "message {last_seq} is not the one that was committed: its id is {found}, {expected} was committed"
    )]
    CursorAnother {
        /// The cursor.
        last_seq: u64,
        /// In `progress`.
        expected: String,
        /// In the log.
        found: String,
    },
    /// Messages that were never committed are gone.
    #[error("a gap in the log: message {expected} is missing, the next one there is {found}")]
    Gap {
        /// What must come next.
        expected: u64,
        /// What came, or where the stream begins or ends.
        found: u64,
    },
    /// A message that this build cannot read.
    #[error("message {seq} cannot be decoded: {source}")]
    Undecodable {
        /// Its sequence.
        seq: u64,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// A message that decodes but does not belong here.
    #[error("message {seq} does not belong here: {fault}")]
    Foreign {
        /// Its sequence.
        seq: u64,
        /// In words.
        fault: String,
    },
    /// The database refuses in a way that no retry mends.
    #[error("{0}")]
    Database(String),
}
