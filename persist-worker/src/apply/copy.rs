//! PostgreSQL's binary COPY format, written straight into the buffers that go to the socket.
//!
//! `BinaryCopyInWriter` takes each row as a slice of trait objects and asks each value what type it
//! accepts; for a quarter of a million rows of forty columns a second that is what the time goes to.
//! The format itself is small: <https://www.postgresql.org/docs/18/sql-copy.html#SQL-COPY-BINARY-FORMAT>

use std::pin::pin;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::SinkExt as _;
use tokio_postgres::{Error, Statement, Transaction};
use uuid::Uuid;

/// Bytes handed to the connection at a time: large enough that the hand-over costs nothing, small
/// enough that the server works on the first rows while the last are still being encoded.
const FRAME_BYTES: usize = 64 * 1024;

/// Room for the row that crosses the line: the largest `extra` or `attributes` and every other
/// column; an event's document grows the buffer once.
const ROW_BYTES_MAX: usize = 8 * 1024;

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// Microseconds from 1970 to 2000, where PostgreSQL counts from.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// An instant as `timestamptz` holds it, from microseconds since the Unix epoch. What lies out of
/// its range stays out of its range, so that the server refuses it.
pub(super) fn timestamptz(unix_us: i64) -> i64 {
    match unix_us.saturating_sub(POSTGRES_EPOCH_US) {
        // Means minus infinity, which nobody sent.
        i64::MIN => i64::MIN + 1,
        us => us,
    }
}

/// The other way round.
pub(super) fn unix_us(timestamptz: i64) -> i64 {
    timestamptz.saturating_add(POSTGRES_EPOCH_US)
}

/// Encoded rows that are not sent yet.
pub(super) struct Rows {
    buf: BytesMut,
}

impl Rows {
    pub(super) fn begin() -> Self {
        let mut buf = BytesMut::with_capacity(FRAME_BYTES + ROW_BYTES_MAX);
        buf.put_slice(SIGNATURE);
        // No flags, no header extension.
        buf.put_u64(0);
        Self { buf }
    }

    pub(super) fn take_frame(&mut self) -> Option<Bytes> {
        if self.buf.len() < FRAME_BYTES {
            return None;
        }
        let full = std::mem::replace(
            &mut self.buf,
            BytesMut::with_capacity(FRAME_BYTES + ROW_BYTES_MAX),
        );
        Some(full.freeze())
    }

    pub(super) fn end(mut self) -> Bytes {
        self.buf.put_i16(-1);
        self.buf.freeze()
    }

    /// Starts a row; exactly this many values follow.
    pub(super) fn row(&mut self, columns: i16) {
        self.buf.put_i16(columns);
    }

    pub(super) fn null(&mut self) {
        self.buf.put_i32(-1);
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.buf.put_i32(1);
        self.buf.put_u8(u8::from(value));
    }

    pub(super) fn int2(&mut self, value: i16) {
        self.buf.put_i32(2);
        self.buf.put_i16(value);
    }

    pub(super) fn int4(&mut self, value: i32) {
        self.buf.put_i32(4);
        self.buf.put_i32(value);
    }

    pub(super) fn int8(&mut self, value: i64) {
        self.buf.put_i32(8);
        self.buf.put_i64(value);
    }

    pub(super) fn float8(&mut self, value: f64) {
        self.buf.put_i32(8);
        self.buf.put_f64(value);
    }

    /// From microseconds since the Unix epoch.
    pub(super) fn timestamptz(&mut self, unix_us: i64) {
        self.int8(timestamptz(unix_us));
    }

    pub(super) fn uuid(&mut self, value: Uuid) {
        self.buf.put_i32(16);
        self.buf.put_slice(value.as_bytes());
    }

    pub(super) fn text(&mut self, value: &str) {
        self.len(value.len());
        self.buf.put_slice(value.as_bytes());
    }

    pub(super) fn jsonb(&mut self, json: &str) {
        self.len(json.len() + 1);
        self.buf.put_u8(1);
        self.buf.put_slice(json.as_bytes());
    }

    pub(super) fn or_null<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) {
        match value {
            Some(value) => put(self, value),
            None => self.null(),
        }
    }

    fn len(&mut self, bytes: usize) {
        let bytes = i32::try_from(bytes).expect("a value is bounded by the chunk that held it");
        self.buf.put_i32(bytes);
    }
}

/// Runs one COPY. Rows are encoded while the server takes in those before them.
///
/// # Errors
/// As the server or the connection has it. The transaction is aborted then; if the server refused
/// the statement before it took any row, the connection is closed as well.
///
/// # Cancel safety
/// Dropped halfway, the COPY fails and the transaction with it: no half of it can be committed.
pub(super) async fn copy<T>(
    transaction: &Transaction<'_>,
    statement: &Statement,
    rows: impl IntoIterator<Item = T>,
    encode: impl Fn(T, &mut Rows),
) -> Result<u64, Error> {
    let sink = match transaction.copy_in::<_, Bytes>(statement).await {
        Ok(sink) => sink,
        Err(error) => {
            hang_up(transaction).await;
            return Err(error);
        }
    };
    let mut sink = pin!(sink);
    let mut buffer = Rows::begin();
    for row in rows {
        encode(row, &mut buffer);
        if let Some(frame) = buffer.take_frame() {
            sink.feed(frame).await?;
        }
    }
    sink.feed(buffer.end()).await?;
    sink.finish().await
}

/// Prepares a statement that is not always needed.
pub(super) async fn prepare_if(
    needed: bool,
    transaction: &Transaction<'_>,
    statement: &str,
) -> Result<Option<Statement>, Error> {
    if !needed {
        return Ok(None);
    }
    transaction.prepare(statement).await.map(Some)
}

/// Attempts at closing a connection: the first is enough for a server that listens.
const HANG_UP_ATTEMPTS: u32 = 8;

/// Closes the connection of a COPY that never began.
///
/// tokio-postgres sends a Sync with the statement and another with the end of the data. A server
/// that takes data ignores the first; one that refused the statement answers both, and from then
/// on every answer belongs to the question before (rust-postgres issue 789). Such a connection
/// must not be asked anything that matters.
async fn hang_up(transaction: &Transaction<'_>) {
    for _ in 0..HANG_UP_ATTEMPTS {
        if transaction.client().is_closed() {
            return;
        }
        // Its answer may be any question's; what counts is that the server reads it.
        let goodbye = "rollback; select pg_terminate_backend(pg_backend_pid())";
        let _ = transaction.batch_execute(goodbye).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_as_the_manual_has_them() {
        let mut rows = Rows::begin();
        rows.row(3);
        rows.int4(7);
        rows.or_null(None, Rows::int8);
        rows.jsonb("{}");
        let expected: &[&[u8]] = &[
            b"PGCOPY\n\xff\r\n\0",
            &[0; 8],
            &[0, 3],
            &[0, 0, 0, 4, 0, 0, 0, 7],
            &[255, 255, 255, 255],
            &[0, 0, 0, 3, 1, b'{', b'}'],
            &[255, 255],
        ];
        assert_eq!(rows.end(), expected.concat());
    }

    #[test]
    fn instants_keep_their_microsecond_and_never_become_infinite() {
        assert_eq!(timestamptz(POSTGRES_EPOCH_US + 1), 1);
        assert_eq!(unix_us(timestamptz(-1)), -1);
        for unix_us in [i64::MIN, i64::MIN + POSTGRES_EPOCH_US] {
            assert_ne!(timestamptz(unix_us), i64::MIN);
        }
        assert_ne!(timestamptz(i64::MAX), i64::MAX);
    }
}
