//! One batch, one transaction: progress, ledger and state move together or not at all.
//!
//! The fast path believes that every record and every ride is new and lets the tables' keys say
//! otherwise; the careful path looks first. Both end in the same rows: cursor, ledger, state, and the
//! events that say what changed.

use contract::Partition;
use contract::outcome::FailureCode;
use tokio_postgres::Client;
use tracing::{debug, warn};

use crate::batch::{Applied, ApplyError, Batch, Cursor, Path};
use fast::Attempt;
use fold::Items;
use staging::Staging;

mod careful;
mod copy;
mod couriers;
mod fast;
mod fault;
mod fold;
mod kinds;
mod meter;
mod narrow;
mod outbox;
mod rejection;
mod requests;
mod rides;
mod session;
mod staging;

/// After the fast path failed, so many batches with records take the careful one: resends and
/// replacements come in storms, and a failed attempt is paid for with dead rows.
const CAREFUL_BATCHES: u32 = 16;

/// Applies the batches of one partition, one after the other.
#[derive(Debug)]
pub struct Applier {
    partition: Partition,
    ride_events: bool,
    staging: Staging,
    careful_left: u32,
    bad_in_a_row: u32,
}

impl Applier {
    /// For a partition whose lease was just taken: begins on the fast path. Changes of rides become
    /// events only with `ride_events`; those of couriers always do.
    #[must_use]
    pub fn new(partition: Partition, ride_events: bool) -> Self {
        meter::describe();
        Self {
            partition,
            ride_events,
            staging: Staging::default(),
            careful_left: 0,
            bad_in_a_row: 0,
        }
    }

    /// Applies a batch in one transaction, whose first statement moves the cursor from `expected`
    /// to the batch's end.
    ///
    /// # Errors
    /// [`ApplyError`] says who has to act. Nothing of the batch is in the database then, except
    /// when the connection broke during the commit: the next attempt finds out, by
    /// [`ApplyError::CursorMoved`].
    ///
    /// # Cancel safety
    /// Dropped halfway, the transaction is rolled back before the client's next statement. A COPY
    /// dropped before the server took to it may leave the driver out of step (see `copy`), so a
    /// caller that can had better go on with another connection.
    pub async fn apply(
        &mut self,
        client: &mut Client,
        expected: Cursor,
        batch: &Batch,
    ) -> Result<Applied, ApplyError> {
        debug_assert_eq!(self.partition, batch.partition);
        let items = Items::of(batch).map_err(ApplyError::Installation)?;
        let applied = self.apply_items(client, expected, batch, &items).await?;
        self.staging.committed();
        if applied.path == Path::Careful && !items.list.is_empty() {
            self.careful_left = self.careful_left.saturating_sub(1);
        }
        meter::applied(&applied, items.list.len());
        let unstorable = applied.outcomes.failed.of(FailureCode::Unstorable);
        if unstorable > 0 {
            warn!(
                partition = %self.partition,
                last_seq = applied.last_seq,
                records = unstorable,
                "records could not be stored and ended failed/unstorable"
            );
        }
        Ok(applied)
    }

    async fn apply_items(
        &mut self,
        client: &mut Client,
        expected: Cursor,
        batch: &Batch,
        items: &Items<'_>,
    ) -> Result<Applied, ApplyError> {
        let told = self.ride_events;
        if self.careful_left == 0 || items.list.is_empty() {
            let staging = &mut self.staging;
            match fast::apply(client, expected, batch, items, told, staging).await? {
                Attempt::Applied(applied) => {
                    if applied.outcomes.persisted() > 0 {
                        self.bad_in_a_row = 0;
                    }
                    return Ok(applied);
                }
                Attempt::Refused(why) => self.turn_careful(why),
                Attempt::Unsuited => {}
            }
        }
        let (staging, bad) = (&mut self.staging, &mut self.bad_in_a_row);
        careful::apply(client, expected, batch, items, told, staging, bad).await
    }

    fn turn_careful(&mut self, why: &'static str) {
        self.careful_left = CAREFUL_BATCHES;
        meter::refused(why);
        debug!(partition = %self.partition, why, "fast path refused, looking first from now on");
    }
}
