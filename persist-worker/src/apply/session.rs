//! The transaction of one batch, and what it has cost so far.

use contract::Partition;
use contract::content_hash::UnknownVersion;
use contract::outcome::Action;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};
use tokio_postgres::{Client, Statement, Transaction};

use super::copy::{self, Rows};
use super::fold::{Folded, Incomparable, Item, Verdict};
use crate::batch::{Applied, ApplyError, Batch, Cursor, Outcomes, Path};

/// First statement of every transaction: whoever finds another cursor changes nothing.
const ADVANCE: &str = "update progress \
    set last_seq = $4, last_message_id = $5, committed_to = greatest(committed_to, $6) \
    where partition = $1 and incarnation = $2 and last_seq = $3 \
    returning committed_to";

/// A transaction that counts.
pub(super) struct Session<'c> {
    pub(super) transaction: Transaction<'c>,
    copies: u32,
    round_trips: u32,
}

impl<'c> Session<'c> {
    pub(super) async fn begin(client: &'c mut Client) -> Result<Self, ApplyError> {
        Ok(Self {
            transaction: client.transaction().await?,
            copies: 0,
            round_trips: 1,
        })
    }

    /// Counts a wait for the database: several statements sent at once are one.
    pub(super) fn waited(&mut self) {
        self.round_trips += 1;
    }

    /// One COPY of a statement that is prepared.
    pub(super) async fn copy<T>(
        &mut self,
        statement: &Statement,
        rows: impl IntoIterator<Item = T>,
        encode: impl Fn(T, &mut Rows),
    ) -> Result<u64, tokio_postgres::Error> {
        self.copies += 1;
        // One for the server's word that it listens, one for its verdict.
        self.round_trips += 2;
        copy::copy(&self.transaction, statement, rows, encode).await
    }

    /// Commits. `committed_to` is what [`advance`] returned.
    pub(super) async fn commit(
        self,
        batch: &Batch,
        committed_to: Instant,
        outcomes: Outcomes,
        path: Path,
    ) -> Result<Applied, ApplyError> {
        let last = batch.chunks.last().expect("a batch has a chunk");
        let applied = Applied {
            last_seq: last.seq.cast_signed(),
            last_message_id: last.chunk.header.chunk_id,
            committed_to_us: committed_to.0,
            outcomes,
            path,
            copies: self.copies,
            round_trips: self.round_trips + 1,
        };
        self.transaction.commit().await?;
        Ok(applied)
    }

    /// Undoes everything, so that the connection can be used again.
    pub(super) async fn rollback(self) -> Result<(), ApplyError> {
        Ok(self.transaction.rollback().await?)
    }
}

/// Moves the cursor from `expected` to the end of the batch, if it is there.
///
/// `committed_to` becomes the smaller of the last chunk's store time by the log and its
/// `publish_by`, and never runs backwards.
pub(super) async fn advance(
    transaction: &Transaction<'_>,
    expected: Cursor,
    batch: &Batch,
) -> Result<Instant, ApplyError> {
    let last = batch.chunks.last().expect("a batch has a chunk");
    let header = &last.chunk.header;
    let committed_to = Instant(last.stored_at_us.min(header.publish_by_us));
    let row = transaction
        .query_typed_opt(
            ADVANCE,
            &[
                (&i32::from(batch.partition.0), Type::INT4),
                (&batch.incarnation, Type::UUID),
                (&expected.last_seq, Type::INT8),
                (&last.seq.cast_signed(), Type::INT8),
                (&header.chunk_id, Type::UUID),
                (&committed_to, Type::TIMESTAMPTZ),
            ],
        )
        .await?;
    match row {
        Some(row) => Ok(row.try_get(0)?),
        None => Err(cursor_moved(batch.partition, expected)),
    }
}

fn cursor_moved(partition: Partition, expected: Cursor) -> ApplyError {
    ApplyError::CursorMoved {
        partition,
        expected: expected.last_seq,
    }
}

/// Microseconds since the Unix epoch, as a `timestamptz` parameter or column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instant(pub(super) i64);

type Unconvertible = Box<dyn std::error::Error + Sync + Send>;

impl ToSql for Instant {
    fn to_sql(&self, ty: &Type, out: &mut bytes::BytesMut) -> Result<IsNull, Unconvertible> {
        copy::timestamptz(self.0).to_sql(ty, out)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Instant {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Unconvertible> {
        i64::from_sql(ty, raw).map(|us| Self(copy::unix_us(us)))
    }

    accepts!(TIMESTAMPTZ);
}

/// Says which record it was that could not be compared.
pub(super) fn incomparable(items: &[Item<'_>], error: Incomparable) -> ApplyError {
    let Incomparable { item, version } = error;
    let source: UnknownVersion = version;
    ApplyError::UnknownHashVersion {
        log_seq: items[item].log_seq,
        log_index: items[item].log_index,
        source,
    }
}

/// Counts a folded batch. `repeated` entries stood twice in the batch itself.
pub(super) fn count(folded: &Folded, repeated: u64) -> Outcomes {
    let mut outcomes = Outcomes {
        repeated,
        ..Outcomes::default()
    };
    for verdict in &folded.verdicts {
        let Some(verdict) = verdict else {
            outcomes.repeated += 1;
            continue;
        };
        match (verdict, verdict.code()) {
            (_, Some(code)) => outcomes.failed.count(code),
            (Verdict::Persisted(Action::Created), _) => outcomes.created += 1,
            (Verdict::Persisted(Action::Replaced), _) => outcomes.replaced += 1,
            (Verdict::Persisted(Action::Updated), _) => outcomes.updated += 1,
            (Verdict::Persisted(Action::Deleted), _) => outcomes.deleted += 1,
            (Verdict::Duplicate(_), _) => outcomes.duplicate += 1,
            (Verdict::Rejected(_) | Verdict::Expired { .. } | Verdict::Unstorable(_), None) => {
                unreachable!("what failed has a code")
            }
        }
    }
    outcomes
}
