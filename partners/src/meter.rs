//! The metrics, listed for people in `docs/metrics.md`.

use std::time::Duration;

use metrics::{describe_gauge, gauge};

const KNOWN: &str = "weir_partners";
const STALE_SECONDS: &str = "weir_partners_stale_seconds";
const UNREADABLE: &str = "weir_partners_unreadable";

/// Says what each is, and shows them before anything is known.
pub(crate) fn describe() {
    describe_gauge!(KNOWN, "Partners known to this process");
    describe_gauge!(
        STALE_SECONDS,
        "Since what is known of partners was last compared with the bucket; 0 while it is followed"
    );
    describe_gauge!(
        UNREADABLE,
        "Partners whose document in the bucket cannot be used"
    );
    known(0);
    followed(Duration::ZERO, 0);
}

pub(crate) fn known(partners: usize) {
    gauge!(KNOWN).set(partners as f64);
}

pub(crate) fn followed(stale: Duration, unreadable: usize) {
    gauge!(STALE_SECONDS).set(stale.as_secs_f64());
    gauge!(UNREADABLE).set(unreadable as f64);
}
