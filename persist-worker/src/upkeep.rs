//! The ledger's upkeep: days made ahead of time, rows of the default partition moved where they
//! belong. Every worker does it; the database lets one at a time.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio_postgres::Client;

use crate::backoff::Backoff;
use crate::database::DatabaseError;
use crate::ledger::{self, LedgerError};
use crate::meter;
use crate::worker::Workplace;

/// Days made ahead: a week without workers still meets ready days.
pub(crate) const DAYS_AHEAD: u16 = 7;
/// How often it is looked whether something is to be done.
const EVERY: Duration = Duration::from_secs(3600);

/// One round failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpkeepError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Keeps the ledger in order for ever: at start, then hourly.
pub(crate) async fn run(place: Arc<Workplace>) {
    let mut backoff = Backoff::new();
    loop {
        let pause = match round(&place).await {
            Ok(()) => {
                backoff.reset();
                EVERY
            }
            Err(error) => {
                tracing::warn!(%error, "the ledger's upkeep is tried again");
                backoff.pause()
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn round(place: &Workplace) -> Result<(), UpkeepError> {
    // Its own connection: a lock that has to be waited for must not keep the leases from theirs.
    let mut connection = place.database.connect("weir persist-worker upkeep").await?;
    let moved = arrange(&mut connection.client).await?;
    if moved > 0 {
        tracing::info!(
            rows = moved,
            "moved ledger rows to the partitions of their days"
        );
        meter::ledger_moved(moved);
    }
    Ok(())
}

/// Makes the days ahead and moves what waits in the default partition; the number of rows moved.
pub(crate) async fn arrange(client: &mut Client) -> Result<u64, LedgerError> {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    ledger::ensure_day_partitions(client, today, DAYS_AHEAD).await?;
    ledger::move_default_rows(client).await
}
