//! What applying says of itself in metrics.

use contract::outcome::FailureCode;
use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};

use crate::batch::{Applied, Outcomes};

const RECORDS: &str = "weir_worker_records_total";
const REPEATED: &str = "weir_worker_repeated_entries_total";
const BATCHES: &str = "weir_worker_batches_total";
const BATCH_RECORDS: &str = "weir_worker_batch_records";
const COPIES: &str = "weir_worker_copies_total";
const REFUSED: &str = "weir_worker_fast_path_refused_total";

/// Says what each metric means; saying it again changes nothing.
pub(super) fn describe() {
    describe_counter!(
        RECORDS,
        Unit::Count,
        "Records that got their outcome, by outcome and reason (created, replaced, updated, \
         deleted, resent, or the failure's code)"
    );
    describe_counter!(
        REPEATED,
        Unit::Count,
        "Entries whose chunk the log held twice: dropped, their outcome stands"
    );
    describe_counter!(BATCHES, Unit::Count, "Committed batches, by path");
    describe_histogram!(
        BATCH_RECORDS,
        Unit::Count,
        "Records in a committed batch that had any"
    );
    describe_counter!(COPIES, Unit::Count, "COPY statements of committed batches");
    describe_counter!(
        REFUSED,
        Unit::Count,
        "Batches that were tried on the fast path in vain: a key was taken, or a record refused"
    );
}

/// A batch of so many records is committed.
pub(super) fn applied(applied: &Applied, records: usize) {
    counter!(BATCHES, "path" => applied.path.word()).increment(1);
    counter!(COPIES).increment(u64::from(applied.copies));
    if records > 0 {
        // Empty chunks only move the watermark; they would drown the distribution.
        histogram!(BATCH_RECORDS).record(u32::try_from(records).unwrap_or(u32::MAX));
    }
    let Outcomes {
        created,
        replaced,
        updated,
        deleted,
        duplicate,
        failed,
        repeated,
    } = applied.outcomes;
    for (outcome, reason, count) in [
        ("persisted", "created", created),
        ("persisted", "replaced", replaced),
        ("persisted", "updated", updated),
        ("persisted", "deleted", deleted),
        ("duplicate", "resent", duplicate),
    ] {
        counter!(RECORDS, "outcome" => outcome, "reason" => reason).increment(count);
    }
    for code in FailureCode::ALL {
        let (outcome, count) = ("failed", failed.of(code));
        counter!(RECORDS, "outcome" => outcome, "reason" => code.code()).increment(count);
    }
    counter!(REPEATED).increment(repeated);
}

/// The fast path was tried in vain.
pub(super) fn refused(why: &'static str) {
    counter!(REFUSED, "reason" => why).increment(1);
}
