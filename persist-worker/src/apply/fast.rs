//! The fast path: everything is new, so both tables take their rows by one COPY each.

use futures_util::future::join3;
use tokio_postgres::Client;

use super::fault::{Fault, classify};
use super::fold::{Folded, Items};
use super::session::{Session, advance, count};
use super::{requests, rides};
use crate::batch::{Applied, ApplyError, Batch, Cursor, Path};

/// What became of the attempt.
pub(super) enum Attempt {
    /// It is committed.
    Applied(Applied),
    /// Not everything is new, or not everything can be stored. Rolled back; the word is for
    /// metrics.
    Refused(&'static str),
}

/// Tries to apply a batch that is folded on the belief that the database knows none of it.
pub(super) async fn apply(
    client: &mut Client,
    expected: Cursor,
    batch: &Batch,
    items: &Items<'_>,
    folded: &Folded,
) -> Result<Attempt, ApplyError> {
    let mut session = Session::begin(client).await?;
    let transaction = &session.transaction;
    let (committed_to, copy_rides, copy_requests) = join3(
        advance(transaction, expected, batch),
        transaction.prepare(rides::COPY),
        transaction.prepare(requests::COPY),
    )
    .await;
    let (committed_to, copy_rides, copy_requests) = (committed_to?, copy_rides?, copy_requests?);
    session.waited();

    // Resends and replacements meet their key here, so this one goes first.
    if !folded.writes.is_empty() {
        let rows = rides::rows(&items.list, &folded.writes);
        if let Err(error) = session.copy(&copy_rides, rows, rides::encode).await {
            return refused(session, error).await;
        }
    }
    if !items.list.is_empty() {
        let rows = requests::rows(&items.list, folded);
        if let Err(error) = session.copy(&copy_requests, rows, requests::encode).await {
            return refused(session, error).await;
        }
    }
    let outcomes = count(folded, items.repeated);
    let applied = session
        .commit(batch, committed_to, outcomes, Path::Fast)
        .await?;
    Ok(Attempt::Applied(applied))
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
