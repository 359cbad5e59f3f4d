//! The worker's metrics. `docs/metrics.md` lists them for people.

use std::time::Duration;

use contract::Partition;
use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::batch::Batch;
use crate::feed::ReopenCause;

const CHUNKS: &str = "weir_worker_chunks_total";
const TRANSACTION_SECONDS: &str = "weir_worker_transaction_seconds";
const DELAY_SECONDS: &str = "weir_worker_delay_seconds";
const BACKLOG_CHUNKS: &str = "weir_worker_backlog_chunks";
const LEASE_HELD: &str = "weir_worker_lease_held";
const HELD: &str = "weir_worker_held";
const TAKEOVERS: &str = "weir_worker_takeovers_total";
const REOPENS: &str = "weir_worker_reopens_total";
const RETRIES: &str = "weir_worker_retries_total";
const PURGED: &str = "weir_worker_purged_chunks_total";
const IDLE_CHUNKS: &str = "weir_worker_idle_chunks_total";
const EVENTS_RELAYED: &str = "weir_worker_events_relayed_total";
const EVENTS_DELAY_SECONDS: &str = "weir_worker_events_delay_seconds";
const EVENTS_WAITING: &str = "weir_worker_events_waiting";
const EVENTS_PURGED: &str = "weir_worker_events_purged_total";
const EVENTS_STREAM_BYTES: &str = "weir_worker_events_stream_bytes";
const EVENTS_STREAM_MAX_BYTES: &str = "weir_worker_events_stream_max_bytes";
const EVENTS_KEPT_SECONDS: &str = "weir_worker_events_kept_seconds";
const LEDGER_MOVED: &str = "weir_worker_ledger_moved_rows_total";

/// Says what each metric means; once, after the recorder is installed.
pub(crate) fn describe() {
    describe_counter!(CHUNKS, Unit::Count, "Chunks applied");
    describe_histogram!(
        TRANSACTION_SECONDS,
        Unit::Seconds,
        "A batch's transaction, failed ones included"
    );
    describe_gauge!(
        DELAY_SECONDS,
        Unit::Seconds,
        "Age of the last applied chunk; 0 when the log holds nothing beyond it"
    );
    describe_gauge!(
        BACKLOG_CHUNKS,
        Unit::Count,
        "Chunks in the log beyond the last applied batch"
    );
    describe_gauge!(LEASE_HELD, "1 while this worker has the partition's lease");
    describe_gauge!(
        HELD,
        "1 while the partition is held: /readyz names the reason"
    );
    describe_counter!(
        TAKEOVERS,
        Unit::Count,
        "Leases taken from an owner who stopped beating"
    );
    describe_counter!(
        REOPENS,
        Unit::Count,
        "Consumers given up and opened anew, by cause"
    );
    describe_counter!(
        RETRIES,
        Unit::Count,
        "Attempts that failed and are repeated, by what failed"
    );
    describe_counter!(PURGED, Unit::Count, "Committed chunks purged from the log");
    describe_counter!(
        IDLE_CHUNKS,
        Unit::Count,
        "Empty chunks sent to move the watermark of an idle partition"
    );
    describe_events();
    describe_counter!(
        LEDGER_MOVED,
        Unit::Count,
        "Ledger rows moved out of the default partition"
    );
}

fn describe_events() {
    describe_counter!(
        EVENTS_RELAYED,
        Unit::Count,
        "Events brought from the outbox to the stream of events"
    );
    describe_gauge!(
        EVENTS_DELAY_SECONDS,
        Unit::Seconds,
        "Age of the oldest event in the outbox; 0 when it is empty"
    );
    describe_gauge!(
        EVENTS_WAITING,
        Unit::Count,
        "Events in the outbox; 100000 stands for more, too"
    );
    describe_counter!(
        EVENTS_PURGED,
        Unit::Count,
        "Events purged from their stream by this worker to make room for new ones"
    );
    describe_gauge!(
        EVENTS_STREAM_BYTES,
        Unit::Bytes,
        "What the stream of events holds"
    );
    describe_gauge!(
        EVENTS_STREAM_MAX_BYTES,
        Unit::Bytes,
        "What the stream of events may hold; 0 when there is no limit"
    );
    describe_gauge!(
        EVENTS_KEPT_SECONDS,
        Unit::Seconds,
        "Age of the oldest message in the stream of events: how long a subscriber may be away"
    );
}

fn label(partition: Partition) -> String {
    format!("{:03}", partition.0)
}

/// A batch is committed; `pending` is what the log holds beyond it.
pub(crate) fn applied(batch: &Batch, pending: u64) {
    counter!(CHUNKS).increment(batch.chunks.len() as u64);
    gauge!(BACKLOG_CHUNKS, "partition" => label(batch.partition)).set(pending as f64);
}

pub(crate) fn transaction(took: Duration) {
    histogram!(TRANSACTION_SECONDS).record(took.as_secs_f64());
}

pub(crate) fn delay(partition: Partition, delay: Option<Duration>) {
    if let Some(delay) = delay {
        gauge!(DELAY_SECONDS, "partition" => label(partition)).set(delay.as_secs_f64());
    }
}

pub(crate) fn events_delay(partition: Partition, delay: Option<Duration>) {
    if let Some(delay) = delay {
        gauge!(EVENTS_DELAY_SECONDS, "partition" => label(partition)).set(delay.as_secs_f64());
    }
}

pub(crate) fn events_waiting(partition: Partition, events: i64) {
    gauge!(EVENTS_WAITING, "partition" => label(partition)).set(events as f64);
}

/// How full the stream of events is, and for how long it keeps them at present.
pub(crate) fn events_stream(bytes: u64, bytes_max: u64, kept: Duration) {
    gauge!(EVENTS_STREAM_BYTES).set(bytes as f64);
    gauge!(EVENTS_STREAM_MAX_BYTES).set(bytes_max as f64);
    gauge!(EVENTS_KEPT_SECONDS).set(kept.as_secs_f64());
}

pub(crate) fn events_purged(events: u64) {
    counter!(EVENTS_PURGED).increment(events);
}

pub(crate) fn events_relayed(events: usize) {
    counter!(EVENTS_RELAYED).increment(events as u64);
}

/// The lease came or went; what is only known with it goes with it.
pub(crate) fn lease_held(partition: Partition, is_held: bool) {
    let partition = label(partition);
    gauge!(LEASE_HELD, "partition" => partition.clone()).set(f64::from(u8::from(is_held)));
    if !is_held {
        gauge!(DELAY_SECONDS, "partition" => partition.clone()).set(0.0);
        gauge!(EVENTS_DELAY_SECONDS, "partition" => partition.clone()).set(0.0);
        gauge!(EVENTS_WAITING, "partition" => partition.clone()).set(0.0);
        gauge!(BACKLOG_CHUNKS, "partition" => partition.clone()).set(0.0);
        gauge!(HELD, "partition" => partition).set(0.0);
    }
}

pub(crate) fn held(partition: Partition, is_held: bool) {
    gauge!(HELD, "partition" => label(partition)).set(f64::from(u8::from(is_held)));
}

pub(crate) fn takeover() {
    counter!(TAKEOVERS).increment(1);
}

pub(crate) fn reopened(cause: &ReopenCause) {
    counter!(REOPENS, "cause" => cause.word()).increment(1);
}

pub(crate) fn retried(what: &'static str) {
    counter!(RETRIES, "what" => what).increment(1);
}

pub(crate) fn purged(chunks: u64) {
    counter!(PURGED).increment(chunks);
}

pub(crate) fn idle_chunk() {
    counter!(IDLE_CHUNKS).increment(1);
}

pub(crate) fn ledger_moved(rows: u64) {
    counter!(LEDGER_MOVED).increment(rows);
}
