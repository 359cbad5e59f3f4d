//! The ledger's day partitions: made ahead of time, and put right when a row came before its day.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, SimpleQueryMessage};
use uuid::Uuid;

/// Most days that one call of [`move_default_rows`] puts right; the next call goes on.
const DAYS_MAX: i64 = 32;

/// A day could not be made or its rows not be moved; nothing of that day was changed.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another worker is at it, or a lock could not be had in time. Come again later.
    #[error("the ledger's partitions are busy")]
    Busy(#[source] tokio_postgres::Error),
    /// The database is away or refuses.
    #[error("cannot arrange the ledger's partitions: {doing}")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// As the driver has it.
        #[source]
        source: tokio_postgres::Error,
    },
}

impl LedgerError {
    fn of(doing: &'static str, source: tokio_postgres::Error) -> Self {
        match source.code() {
            Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE => Self::Busy(source),
            _ => Self::Database { doing, source },
        }
    }
}

/// Makes the partitions of `today` (UTC) and of the `days_ahead` that follow, where they are
/// missing. Returns how many it made. Rows of those days that wait in the default partition move
/// with it.
///
/// # Errors
/// [`LedgerError`]; days made before stay.
pub async fn ensure_day_partitions(
    client: &Client,
    today: Date,
    days_ahead: u16,
) -> Result<u32, LedgerError> {
    let mut made = 0;
    let mut day = today;
    for _ in 0..=days_ahead {
        if !exists(client, day).await? {
            place(client, day).await?;
            made += 1;
        }
        let Ok(next) = day.tomorrow() else { break };
        day = next;
    }
    Ok(made)
}

/// Moves the rows of the default partition to partitions of their own days, each day in one
/// transaction, and returns how many rows moved. Whoever reads or writes the ledger meanwhile waits
/// for that one transaction, and every reader finds every row, whenever it began.
///
/// # Errors
/// [`LedgerError`]; days moved before stay moved.
pub async fn move_default_rows(client: &mut Client) -> Result<u64, LedgerError> {
    let mut moved = 0;
    let mut after = Uuid::nil();
    for _ in 0..DAYS_MAX {
        // One index look-up per day, however many rows a day has.
        let row = client
            .query_opt(
                "select tracking_id from requests_default where tracking_id >= $1 \
                 order by tracking_id limit 1",
                &[&after],
            )
            .await
            .map_err(|source| LedgerError::of("reading the default partition", source))?;
        let Some(row) = row else { break };
        let id = row
            .try_get(0)
            .map_err(|source| LedgerError::of("reading the default partition", source))?;
        // A day beyond the calendar stays where it is: the default partition serves it well.
        let Some(day) = day_of(id) else { break };
        moved += place(client, day).await?;
        after = first_id(day.tomorrow().unwrap_or(Date::MAX));
    }
    Ok(moved)
}

async fn exists(client: &Client, day: Date) -> Result<bool, LedgerError> {
    let found = client
        .query_opt(
            "select from pg_inherits \
             where inhparent = 'requests'::regclass and inhrelid = to_regclass($1::text)",
            &[&name(day)],
        )
        .await
        .map_err(|source| LedgerError::of("looking for a day's partition", source))?;
    Ok(found.is_some())
}

/// Makes a day's partition and moves the day's rows into it, in one transaction. Returns the
/// number of rows.
///
/// By functions of the owner's (migration 0004): the worker's own role may not make tables. When
/// one fails, nothing of it has happened and the connection is free again.
async fn place(client: &Client, day: Date) -> Result<u64, LedgerError> {
    if !has_rows_in_default(client, day).await? {
        let attach = format!("select public.weir_attach_day('{day}')");
        match client.simple_query(&attach).await {
            Ok(_) => return Ok(0),
            // A row of that day came since: attaching scans the default partition for them.
            Err(error) if error.code() == Some(&SqlState::CHECK_VIOLATION) => {}
            Err(error) => return already_there(client, day, error).await,
        }
    }
    let move_there = format!("select public.weir_move_day('{day}')");
    match client.simple_query(&move_there).await {
        Ok(done) => Ok(done.iter().find_map(number).unwrap_or(0)),
        Err(error) => already_there(client, day, error).await,
    }
}

async fn has_rows_in_default(client: &Client, day: Date) -> Result<bool, LedgerError> {
    let (from, to) = bounds(day);
    let found = client
        .query_opt(
            "select from requests_default where tracking_id >= $1 and tracking_id < $2 limit 1",
            &[&from, &to],
        )
        .await
        .map_err(|source| LedgerError::of("reading the default partition", source))?;
    Ok(found.is_some())
}

/// What an error means: no rows moved if another worker was first, which held the advisory lock
/// while this one waited.
async fn already_there(client: &Client, day: Date, error: Error) -> Result<u64, LedgerError> {
    if error.code() != Some(&SqlState::DUPLICATE_TABLE) {
        return Err(LedgerError::of("making a day's partition", error));
    }
    if exists(client, day).await? {
        return Ok(0);
    }
    Err(LedgerError::of(
        "making a day's partition over a table of its name",
        error,
    ))
}

/// The only value of a row.
fn number(message: &SimpleQueryMessage) -> Option<u64> {
    match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    }
}

/// `requests_20261120`.
fn name(day: Date) -> String {
    format!(
        "requests_{:04}{:02}{:02}",
        day.year(),
        day.month(),
        day.day()
    )
}

/// The smallest tracking id of a day: its first millisecond and zeros.
fn first_id(day: Date) -> Uuid {
    let midnight = day
        .to_zoned(TimeZone::UTC)
        .map_or(i64::MAX, |midnight| midnight.timestamp().as_millisecond());
    let unix_ms = u128::from(midnight.max(0).unsigned_abs());
    Uuid::from_u128(unix_ms << 80)
}

/// The smallest tracking id of a day, and of the day after.
fn bounds(day: Date) -> (Uuid, Uuid) {
    (first_id(day), first_id(day.tomorrow().unwrap_or(Date::MAX)))
}

/// The UTC day on which an id was minted; `None` beyond the year 9999.
fn day_of(id: Uuid) -> Option<Date> {
    let unix_ms = i64::try_from(id.as_u128() >> 80).ok()?;
    let instant = Timestamp::from_millisecond(unix_ms).ok()?;
    let day = TimeZone::UTC.to_datetime(instant).date();
    day.tomorrow().is_ok().then_some(day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    #[test]
    fn a_day_holds_its_first_and_its_last_millisecond() {
        let day = date(2026, 11, 20);
        let first = first_id(day);
        let last = Uuid::from_u128(first_id(date(2026, 11, 21)).as_u128() - 1);
        assert_eq!(first.to_string(), "01a1f640-bc00-0000-0000-000000000000");
        assert_eq!((day_of(first), day_of(last)), (Some(day), Some(day)));
        assert_eq!(name(date(2026, 1, 2)), "requests_20260102");
    }

    #[test]
    fn an_id_beyond_the_calendar_has_no_day() {
        assert_eq!(day_of(Uuid::max()), None);
        assert_eq!(day_of(first_id(Date::MAX)), None);
        assert_eq!(day_of(Uuid::nil()), Some(date(1970, 1, 1)));
    }
}
