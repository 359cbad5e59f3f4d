//! The careful path: look what is there, fold, merge. A constant number of round trips, unless a
//! record cannot be stored.

use std::collections::BTreeMap;

use contract::ContentHash;
use futures_util::future::{join4, join5};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Row, Transaction};

use super::copy::{Rows, prepare_if};
use super::fault::{Fault, classify, reason};
use super::fold::{Folded, Id, Item, Items, fold};
use super::kinds::{Known, Tables};
use super::narrow::{Tried, narrow};
use super::session::{Session, advance, count, incomparable};
use super::staging::Staging;
use super::{couriers, outbox, requests, rides};
use crate::batch::{Applied, ApplyError, Batch, Cursor, InstallationFault, Path};

/// What the batch asks the database for.
pub(super) const CREATE_INCOMING: &str = "create temporary table if not exists incoming \
    (at int4 not null, tracking_id uuid not null, partner_id int4 not null, ride_id int8) \
    on commit delete rows";
const COPY_INCOMING: &str = "copy incoming from stdin (format binary)";
const INCOMING_COLUMNS: i16 = 4;

/// Without it the planner takes a temporary table for a thousand rows whatever it holds.
const ANALYZE_INCOMING: &str = "analyze incoming";

/// The bounds keep every day out that the batch has no record of.
const LOOK_UP_LEDGER: &str = "select i.at, r.partner_id, r.kind, r.resource_id, r.content_hash \
    from incoming i join requests r on r.tracking_id = i.tracking_id \
    where r.tracking_id between $1 and $2";

/// Nothing staged stays when it is rolled back to.
pub(super) const SAVEPOINT: &str = "savepoint staging";
pub(super) const BACK_TO_SAVEPOINT: &str = "rollback to savepoint staging";

/// Applies a batch that may hold anything. `bad_in_a_row` counts the records, right before this
/// batch, that could not be stored; it is updated when the batch commits.
pub(super) async fn apply(
    client: &mut Client,
    expected: Cursor,
    batch: &Batch,
    items: &Items<'_>,
    ride_events: bool,
    staging: &mut Staging,
    bad_in_a_row: &mut u32,
) -> Result<Applied, ApplyError> {
    let mut session = Session::begin(client).await?;
    let transaction = &session.transaction;
    let told = items.couriers || ride_events;
    let (committed_to, tables, copy_incoming, copy_outbox, copy_requests) = join5(
        advance(transaction, expected, batch),
        Tables::prepare(transaction, Path::Careful, items, staging),
        transaction.prepare(COPY_INCOMING),
        prepare_if(told, transaction, outbox::COPY),
        transaction.prepare(requests::COPY),
    )
    .await;
    let committed_to = committed_to?;
    let (tables, copy_incoming) = (tables?, copy_incoming?);
    let (copy_outbox, copy_requests) = (copy_outbox?, copy_requests?);
    session.waited();

    let incoming = (0..).zip(&items.list);
    session
        .copy(&copy_incoming, incoming, encode_incoming)
        .await?;
    let known = look_up(&session.transaction, items).await?;
    session.waited();

    let (folded, tried) =
        fold_and_stage(&mut session, &tables, items, &known, *bad_in_a_row).await?;
    let merged = tables.merge(&mut session, &folded.writes).await;
    merged.map_err(|(table, error)| unexplained(table, error))?;
    if let Some(copy_outbox) = copy_outbox {
        let events = outbox::events(&items.list, &folded, ride_events);
        outbox::copy(&mut session, &copy_outbox, &events)
            .await
            .map_err(|error| unexplained("outbox", error))?;
    }
    let rows = requests::rows(&items.list, &folded);
    session
        .copy(&copy_requests, rows, requests::encode)
        .await
        .map_err(|error| unexplained("requests", error))?;
    let outcomes = count(&folded, items.repeated);
    let applied = session
        .commit(batch, committed_to, outcomes, Path::Careful)
        .await?;
    *bad_in_a_row = tried.trailing_bad(*bad_in_a_row, !folded.writes.is_empty());
    Ok(applied)
}

/// Folds the batch and stages what it writes, without the records that cannot be stored.
async fn fold_and_stage(
    session: &mut Session<'_>,
    tables: &Tables,
    items: &Items<'_>,
    known: &Known<'_>,
    bad_before: u32,
) -> Result<(Folded, Tried), ApplyError> {
    let folded = fold(&items.list, known, &BTreeMap::new())
        .map_err(|error| incomparable(&items.list, error))?;
    let Err(error) = stage(session, tables, items, &folded).await? else {
        return Ok((folded, Tried::default()));
    };
    if !matches!(classify(&error), Fault::Record | Fault::Taken) {
        return Err(error.into());
    }
    let found = narrow(session, tables, &items.list, known, folded, bad_before).await?;
    let staged = stage(session, tables, items, &found.0).await?;
    staged.map_err(|error| unexplained("a staging table", error))?;
    Ok(found)
}

/// Asks for everything that folding needs, in one wait.
async fn look_up<'b>(
    transaction: &Transaction<'_>,
    items: &Items<'b>,
) -> Result<Known<'b>, ApplyError> {
    let ids = || items.list.iter().map(Item::id);
    let (Some(least), Some(greatest)) = (ids().min(), ids().max()) else {
        return Ok(Known::default());
    };
    let bounds: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&least, Type::UUID), (&greatest, Type::UUID)];
    let (analyzed, ledger, rides, couriers) = join4(
        transaction.batch_execute(ANALYZE_INCOMING),
        transaction.query_typed(LOOK_UP_LEDGER, &bounds),
        rides::look_up(transaction),
        couriers::look_up(transaction, &items.list),
    )
    .await;
    analyzed?;
    let mut in_ledger = vec![false; items.list.len()];
    for row in ledger? {
        let at = known_already(&row, &items.list)?;
        in_ledger[at] = true;
    }
    let mut states = rides?;
    let (couriers, movements) = couriers?;
    states.extend(couriers);
    Ok(Known {
        in_ledger,
        states,
        movements,
    })
}

/// The place of the item whose ledger row this is.
fn known_already(row: &Row, items: &[Item<'_>]) -> Result<usize, ApplyError> {
    let at: i32 = row.try_get(0)?;
    let at = usize::try_from(at).expect("written by us, from 0");
    let item = &items[at];
    let hash = ContentHash::from_stored(row.try_get(4)?);
    if item.is(row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, hash) {
        Ok(at)
    } else {
        Err(ApplyError::Installation(item.reused()))
    }
}

/// Stages what is to be written, behind the savepoint. The inner error is the COPY's.
async fn stage(
    session: &mut Session<'_>,
    tables: &Tables,
    items: &Items<'_>,
    folded: &Folded,
) -> Result<Result<(), Error>, ApplyError> {
    if folded.writes.is_empty() {
        return Ok(Ok(()));
    }
    session.transaction.batch_execute(SAVEPOINT).await?;
    session.waited();
    let writes: Vec<_> = folded.writes.iter().collect();
    Ok(tables.copy(session, &items.list, &writes).await)
}

/// Each record was fine alone, but together they are not: something is in the way that no record
/// explains, an index or a trigger that is not ours, say.
fn unexplained(table: &'static str, source: Error) -> ApplyError {
    match classify(&source) {
        Fault::Record | Fault::Taken => ApplyError::Installation(InstallationFault::Rows {
            table,
            message: reason(&source),
            source,
        }),
        Fault::Transient | Fault::Installation => source.into(),
    }
}

fn encode_incoming((at, item): (i32, &Item<'_>), rows: &mut Rows) {
    rows.row(INCOMING_COLUMNS);
    rows.int4(at);
    rows.uuid(item.id());
    rows.int4(item.key.partner_id);
    let ride_id = match item.key.id {
        Id::Ride(id) => Some(id),
        Id::Courier(_) => None,
    };
    rows.or_null(ride_id, Rows::int8);
}
