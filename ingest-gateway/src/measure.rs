//! The gateway's metrics, listed with their units in `docs/metrics.md`. Handles are made once: the
//! hot path neither looks up nor allocates labels.

use std::collections::HashMap;
use std::time::Duration;

use contract::{Partition, Problem};
use metrics::{Counter, Gauge, Histogram, Unit};

/// A route, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Route {
    Rides,
    Ride,
    Save,
    Couriers,
    Courier,
    Capacity,
    Pickups,
    Dropoffs,
    CourierCommands,
    OpenApi,
    Other,
}

const ROUTES: [&str; 11] = [
    "/v1/rides",
    "/v1/rides/{id}",
    "/save/booking/detail",
    "/v1/couriers",
    "/v1/couriers/{id}",
    "/v1/couriers/{id}/capacity",
    "/v1/couriers/{id}/pickups",
    "/v1/couriers/{id}/dropoffs",
    "/v1/courier-commands",
    "/openapi.json",
    "other",
];

/// Every status the gateway answers with.
const STATUSES: [u16; 13] = [
    200, 202, 400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 503,
];

pub(crate) struct Measures {
    pub(crate) accepted: Counter,
    rejected: HashMap<&'static str, Counter>,
    pub(crate) unanswered: Counter,
    requests: [[Counter; STATUSES.len()]; ROUTES.len()],
    latency: [Histogram; ROUTES.len()],
    pub(crate) requests_in_flight: Gauge,
    pub(crate) body_bytes_in_flight: Gauge,
    pub(crate) skew_seconds: Gauge,
    pub(crate) request_bytes: Counter,
}

impl Measures {
    pub(crate) fn new() -> Self {
        describe();
        let rejected = Problem::ALL.map(|problem| {
            let code = problem.code();
            let counter = metrics::counter!("weir_gateway_records_rejected_total", "code" => code);
            (code, counter)
        });
        Self {
            accepted: metrics::counter!("weir_gateway_records_accepted_total"),
            rejected: rejected.into(),
            unanswered: metrics::counter!("weir_gateway_records_unanswered_total"),
            requests: ROUTES.map(|route| {
                STATUSES.map(|status| {
                    metrics::counter!("weir_gateway_requests_total", "route" => route, "status" => status.to_string())
                })
            }),
            latency: ROUTES.map(
                |route| metrics::histogram!("weir_gateway_request_seconds", "route" => route),
            ),
            requests_in_flight: metrics::gauge!("weir_gateway_requests_in_flight"),
            body_bytes_in_flight: metrics::gauge!("weir_gateway_body_in_flight_bytes"),
            skew_seconds: metrics::gauge!("weir_gateway_clock_skew_seconds"),
            request_bytes: metrics::counter!("weir_gateway_request_body_bytes_total"),
        }
    }

    pub(crate) fn rejected(&self, problem: Problem, records: u64) {
        self.rejected[problem.code()].increment(records);
    }

    pub(crate) fn request(&self, route: Route, status: u16, took: Duration) {
        if let Some(index) = STATUSES.iter().position(|known| *known == status) {
            self.requests[route as usize][index].increment(1);
        }
        self.latency[route as usize].record(took.as_secs_f64());
    }
}

/// What a partition's publishers count.
pub(crate) struct PartitionMeasures {
    pub(crate) chunks: Counter,
    pub(crate) chunk_records: Histogram,
    pub(crate) chunk_bytes: Histogram,
    pub(crate) publish_seconds: Histogram,
    pub(crate) retries: Counter,
    pub(crate) refused: Counter,
    pub(crate) records_in_flight: Gauge,
    pub(crate) available: Gauge,
}

impl PartitionMeasures {
    pub(crate) fn new(partition: Partition) -> Self {
        let partition = partition.to_string();
        let available =
            metrics::gauge!("weir_gateway_partition_available", "partition" => partition.clone());
        // Until its first chunk tells otherwise.
        available.set(1.0);
        Self {
            available,
            chunks: metrics::counter!("weir_gateway_chunks_published_total", "partition" => partition.clone()),
            chunk_records: metrics::histogram!("weir_gateway_chunk_records"),
            chunk_bytes: metrics::histogram!("weir_gateway_chunk_bytes"),
            publish_seconds: metrics::histogram!("weir_gateway_publish_seconds"),
            retries: metrics::counter!("weir_gateway_publish_retries_total", "partition" => partition.clone()),
            refused: metrics::counter!("weir_gateway_chunks_failed_total", "partition" => partition.clone()),
            records_in_flight: metrics::gauge!("weir_gateway_records_in_flight", "partition" => partition.clone()),
        }
    }
}

fn describe() {
    use metrics::{
        describe_counter as counter, describe_gauge as gauge, describe_histogram as histogram,
    };
    counter!(
        "weir_gateway_records_accepted_total",
        "Records that the log acknowledged in time"
    );
    counter!(
        "weir_gateway_records_rejected_total",
        "Records refused, by problem code; none of them is in the log"
    );
    counter!(
        "weir_gateway_records_unanswered_total",
        "Records whose chunk was not acknowledged in time; they may be in the log"
    );
    counter!(
        "weir_gateway_chunks_published_total",
        "Chunks that the log acknowledged in time"
    );
    counter!(
        "weir_gateway_chunks_failed_total",
        "Chunks that ended refused or unanswered"
    );
    counter!(
        "weir_gateway_publish_retries_total",
        "Publishes of a chunk after its first"
    );
    counter!(
        "weir_gateway_requests_total",
        "Requests answered, by route and status"
    );
    counter!(
        "weir_gateway_request_body_bytes_total",
        Unit::Bytes,
        "Bytes of request bodies, after decompression"
    );
    counter!(
        "weir_gateway_quota_refused_total",
        "Requests refused by their partner's limits"
    );
    histogram!("weir_gateway_chunk_records", "Records per published chunk");
    histogram!(
        "weir_gateway_chunk_bytes",
        Unit::Bytes,
        "Bytes per published chunk"
    );
    histogram!(
        "weir_gateway_publish_seconds",
        Unit::Seconds,
        "From a chunk's first publish to its ack"
    );
    histogram!(
        "weir_gateway_request_seconds",
        Unit::Seconds,
        "From a request's head to its answer's head"
    );
    gauge!(
        "weir_gateway_requests_in_flight",
        "Requests begun and not yet answered"
    );
    gauge!(
        "weir_gateway_records_in_flight",
        "Records gathered or being published"
    );
    gauge!(
        "weir_gateway_body_in_flight_bytes",
        Unit::Bytes,
        "Bytes reserved for request bodies"
    );
    gauge!(
        "weir_gateway_clock_skew_seconds",
        Unit::Seconds,
        "The log's clock minus this process's"
    );
    gauge!(
        "weir_gateway_partition_available",
        "Whether the last chunk was acknowledged; 1 before the first"
    );
}
