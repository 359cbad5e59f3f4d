//! One module per route.

pub(crate) mod courier;
pub(crate) mod failures;
pub(crate) mod lookup;
mod page;
pub(crate) mod request;
pub(crate) mod ride;

use contract::TrackingId;

use crate::observe;

/// Counts and alarms an id that a 202 should have carried and that the ledger does not have.
pub(crate) fn alarm_unknown(id: TrackingId, partner_id: i32) {
    observe::unknown();
    tracing::error!(tracking_id = %id, partner_id, partition = id.partition().0, "an authentic id is unknown");
}
