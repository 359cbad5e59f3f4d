//! The pusher of measurements.

use std::collections::HashSet;
use std::time::Duration;

use loadtest::pusher::Pusher;
use loadtest::rides::Bodies;

use crate::fake::{Fake, Faults, KEY};

async fn push(fake: &Fake, bodies: Bodies, content_type: &str) -> loadtest::pusher::PushReport {
    Pusher::new(&fake.url(), KEY, content_type)
        .unwrap()
        .connections(8)
        .duration(Duration::from_millis(300))
        .run(move |number| bodies.body(number))
        .await
}

#[tokio::test]
async fn what_is_reported_is_what_arrived_and_no_ride_twice() {
    for (bodies, content_type) in [
        (Bodies::single(Bodies::FIRST_ID_MIN), "application/json"),
        (
            Bodies::ndjson(Bodies::FIRST_ID_MIN, 20),
            "application/x-ndjson",
        ),
    ] {
        let records = bodies.records();
        let fake = Fake::start(Faults::default()).await;
        let report = push(&fake, bodies, content_type).await;
        assert!(report.requests > 0);
        assert_eq!(report.errors, 0, "{report:?}");
        assert_eq!(report.not_accepted(), 0);
        assert_eq!(report.records_accepted, report.requests * records);
        assert_eq!(report.latency.count(), report.requests);
        let system = fake.system.lock().unwrap();
        let ids: HashSet<_> = system.rides.iter().map(|it| it["id"].as_i64()).collect();
        assert_eq!(ids.len() as u64, report.records_accepted);
        assert_eq!(system.rides.len(), ids.len());
    }
}

#[tokio::test]
async fn refusals_and_broken_connections_are_counted_apart() {
    let faults = Faults {
        overloaded: 3,
        drop_requests: [5].into(),
        ..Faults::default()
    };
    let fake = Fake::start(faults).await;
    let report = push(
        &fake,
        Bodies::single(Bodies::FIRST_ID_MIN),
        "application/json",
    )
    .await;
    assert_eq!(report.statuses[&503], 3);
    assert_eq!(report.errors, 1);
    assert_eq!(report.not_accepted(), 4);
    assert_eq!(report.records_accepted, report.requests - 3);
}

#[tokio::test]
async fn nobody_there_is_only_errors() {
    let fake = Fake::start(Faults::default()).await;
    let url = fake.url();
    drop(fake);
    let report = Pusher::new(&url, KEY, "application/json")
        .unwrap()
        .connections(2)
        .duration(Duration::from_millis(120))
        .run(|_| "{}".into())
        .await;
    assert_eq!((report.requests, report.records_accepted), (0, 0));
    assert!(report.errors > 0);
}
