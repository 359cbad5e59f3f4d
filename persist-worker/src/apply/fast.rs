//! The fast path: every record is new and so is every ride, so that ledger and rides take their rows
//! by one COPY each, and the tables' keys tell when that is not so. Couriers are looked up and
//! merged here as well: what changes one is never new.

use std::collections::BTreeMap;

use futures_util::future::join5;
use tokio_postgres::Client;

use super::copy::prepare_if;
use super::fault::{Fault, classify};
use super::fold::{Folded, Items, fold};
use super::kinds::{Known, Tables, must_look_first};
use super::session::{Instant, Session, advance, count};
use super::staging::Staging;
use super::{couriers, outbox, requests};
use crate::batch::{Applied, ApplyError, Batch, Cursor, Path};

/// What became of the attempt.
pub(super) enum Attempt {
    /// It is committed.
    Applied(Applied),
    /// Not everything is new, or not everything can be stored. Rolled back; the word is for
    /// metrics.
    Refused(&'static str),
    /// The batch must look first: nothing in it says that others will have to.
    Unsuited,
}

/// Tries to apply a batch in the belief that the database knows none of its records and rides.
pub(super) async fn apply(
    client: &mut Client,
    expected: Cursor,
    batch: &Batch,
    items: &Items<'_>,
    ride_events: bool,
    staging: &mut Staging,
) -> Result<Attempt, ApplyError> {
    if items.conditional_rides {
        return Ok(Attempt::Unsuited);
    }
    let mut believed = None;
    if !items.couriers {
        // Nothing is looked up, so what must look first need not even begin.
        believed = believe(items, &Known::default());
        if believed.is_none() {
            return Ok(Attempt::Unsuited);
        }
    }
    let mut session = Session::begin(client).await?;
    let (prepared, found) =
        begin(&mut session, expected, batch, items, ride_events, staging).await?;
    let Some(folded) = believed.or_else(|| believe(items, &found)) else {
        session.rollback().await?;
        return Ok(Attempt::Unsuited);
    };
    if let Err(error) = write(&mut session, &prepared, items, &folded, ride_events).await {
        return refused(session, error).await;
    }
    let outcomes = count(&folded, items.repeated);
    let applied = session
        .commit(batch, prepared.committed_to, outcomes, Path::Fast)
        .await?;
    Ok(Attempt::Applied(applied))
}

/// Folds in the belief that every ride is new; `None` if the batch must look first all the same.
fn believe<'b>(items: &Items<'b>, found: &Known<'b>) -> Option<Folded> {
    // Incomparable is a courier of a newer build. Unless the record was applied before, which only
    // the careful path can know, that one will say so.
    let folded = fold(&items.list, found, &BTreeMap::new()).ok()?;
    (!must_look_first(&folded.writes)).then_some(folded)
}

struct Prepared {
    committed_to: Instant,
    tables: Tables,
    copy_outbox: Option<tokio_postgres::Statement>,
    copy_requests: tokio_postgres::Statement,
}

/// Everything before the first row, in one wait, and in this order on the wire: couriers are read
/// under the lock that moving the cursor takes.
async fn begin<'b>(
    session: &mut Session<'_>,
    expected: Cursor,
    batch: &Batch,
    items: &Items<'b>,
    ride_events: bool,
    staging: &mut Staging,
) -> Result<(Prepared, Known<'b>), ApplyError> {
    let transaction = &session.transaction;
    let told = items.couriers || ride_events && !items.list.is_empty();
    let (committed_to, tables, copy_outbox, copy_requests, found) = join5(
        advance(transaction, expected, batch),
        Tables::prepare(transaction, Path::Fast, items, staging),
        prepare_if(told, transaction, outbox::COPY),
        transaction.prepare(requests::COPY),
        couriers::look_up(transaction, &items.list),
    )
    .await;
    session.waited();
    let prepared = Prepared {
        committed_to: committed_to?,
        tables: tables?,
        copy_outbox: copy_outbox?,
        copy_requests: copy_requests?,
    };
    let (states, movements) = found?;
    let known = Known {
        in_ledger: Vec::new(),
        states,
        movements,
    };
    Ok((prepared, known))
}

async fn write(
    session: &mut Session<'_>,
    prepared: &Prepared,
    items: &Items<'_>,
    folded: &Folded,
    ride_events: bool,
) -> Result<(), tokio_postgres::Error> {
    // Resends and replacements of rides meet their key here, so this comes first.
    let writes: Vec<_> = folded.writes.iter().collect();
    let tables = &prepared.tables;
    tables.copy(session, &items.list, &writes).await?;
    let merged = tables.merge(session, &folded.writes).await;
    merged.map_err(|(_table, error)| error)?;
    if let Some(copy_outbox) = &prepared.copy_outbox {
        let events = outbox::events(&items.list, folded, ride_events);
        outbox::copy(session, copy_outbox, &events).await?;
    }
    if !items.list.is_empty() {
        let rows = requests::rows(&items.list, folded);
        session
            .copy(&prepared.copy_requests, rows, requests::encode)
            .await?;
    }
    Ok(())
}

async fn refused(
    session: Session<'_>,
    error: tokio_postgres::Error,
) -> Result<Attempt, ApplyError> {
    let word = match classify(&error) {
        Fault::Taken => "taken",
        Fault::Record => "record",
        Fault::Transient | Fault::Installation => return Err(error.into()),
    };
    session.rollback().await?;
    Ok(Attempt::Refused(word))
}
