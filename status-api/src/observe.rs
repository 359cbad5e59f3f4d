//! What is counted. `docs/metrics.md` lists it all, with units.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

const REQUESTS: &str = "weir_status_requests_total";
const REQUEST_SECONDS: &str = "weir_status_request_duration_seconds";
const LEDGER_QUERIES: &str = "weir_status_ledger_queries_total";
const LEDGER_QUERY_SECONDS: &str = "weir_status_ledger_query_duration_seconds";
const DATABASE_ERRORS: &str = "weir_status_database_errors_total";
const UNKNOWN: &str = "weir_status_unknown_total";
const UNVERIFIED: &str = "weir_status_unverified_total";
const WATERMARK_LAG: &str = "weir_status_watermark_lag_seconds";
const LONG_POLLS: &str = "weir_status_long_polls";
const LONG_POLLS_REFUSED: &str = "weir_status_long_polls_refused_total";

/// What a statement was for: the `query` label.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Query {
    Lookup,
    Poll,
    Failures,
    Ride,
    Rides,
    Courier,
    Couriers,
}

impl Query {
    const ALL: [Self; 7] = [
        Self::Lookup,
        Self::Poll,
        Self::Failures,
        Self::Ride,
        Self::Rides,
        Self::Courier,
        Self::Couriers,
    ];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Poll => "poll",
            Self::Failures => "failures",
            Self::Ride => "ride",
            Self::Rides => "rides",
            Self::Courier => "courier",
            Self::Couriers => "couriers",
        }
    }
}

/// Says what each metric is, and shows the counters at 0 before they first count: an alarm on a
/// counter that does not exist yet never rings.
pub(crate) fn describe() {
    describe_counter!(REQUESTS, "Requests answered, by route, method and status");
    describe_histogram!(
        REQUEST_SECONDS,
        "From a request's headers to its answer, by route"
    );
    describe_counter!(
        LEDGER_QUERIES,
        "Statements that read the ledger or a state table, by purpose"
    );
    describe_histogram!(
        LEDGER_QUERY_SECONDS,
        "Duration of those, waiting for a connection included"
    );
    describe_counter!(DATABASE_ERRORS, "Statements that failed or took too long");
    describe_counter!(
        UNKNOWN,
        "Authentic ids, older than the watermark, that the ledger does not have"
    );
    describe_counter!(
        UNVERIFIED,
        "Ids refused by their form or tag, without a query"
    );
    describe_gauge!(
        WATERMARK_LAG,
        "How far each partition's watermark trails the database's clock"
    );
    describe_gauge!(LONG_POLLS, "Requests waiting for an outcome");
    describe_counter!(
        LONG_POLLS_REFUSED,
        "Long polls refused because too many were waiting"
    );
    for query in Query::ALL {
        counter!(LEDGER_QUERIES, "query" => query.word()).increment(0);
    }
    for name in [DATABASE_ERRORS, UNKNOWN, UNVERIFIED, LONG_POLLS_REFUSED] {
        counter!(name).increment(0);
    }
    gauge!(LONG_POLLS).set(0.0);
}

pub(crate) fn request(route: &str, method: &'static str, status: u16, took: Duration) {
    let labels = [
        ("route", route.to_owned()),
        ("method", method.to_owned()),
        ("status", status.to_string()),
    ];
    counter!(REQUESTS, &labels).increment(1);
    histogram!(REQUEST_SECONDS, "route" => route.to_owned()).record(took);
}

pub(crate) fn ledger_query(query: Query) {
    counter!(LEDGER_QUERIES, "query" => query.word()).increment(1);
}

pub(crate) fn ledger_query_took(query: Query, took: Duration) {
    histogram!(LEDGER_QUERY_SECONDS, "query" => query.word()).record(took);
}

pub(crate) fn database_error() {
    counter!(DATABASE_ERRORS).increment(1);
}

pub(crate) fn unknown() {
    counter!(UNKNOWN).increment(1);
}

pub(crate) fn unverified() {
    counter!(UNVERIFIED).increment(1);
}

pub(crate) fn watermark_lag(partition: i32, lag: Duration) {
    gauge!(WATERMARK_LAG, "partition" => partition.to_string()).set(lag.as_secs_f64());
}

pub(crate) fn long_polls(waiting: usize) {
    gauge!(LONG_POLLS).set(waiting as f64);
}

pub(crate) fn long_poll_refused() {
    counter!(LONG_POLLS_REFUSED).increment(1);
}
