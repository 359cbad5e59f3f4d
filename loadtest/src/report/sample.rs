//! The runs that the tests render: a steady one with a frozen gateway and a killed worker on the
//! way, and a search for the knee.

use super::schema::{
    CapacityStep, CommandCounts, CourierDifference, CourierRefusal, Couriers, FindCapacity,
    Outcome, RunReport,
};

/// The golden sample of version 1.
pub(crate) fn run() -> RunReport {
    serde_json::from_str(include_str!("../../tests/samples/run-v1.json")).unwrap()
}

/// A search for the knee, found near 61,000 records/s.
pub(crate) fn find_capacity() -> RunReport {
    let step = |rate: f64, from_seconds: f64, p99_ms: f64, kept: bool| CapacityStep {
        rate,
        accepted_rate: rate.min(62_000.0),
        from_seconds,
        to_seconds: from_seconds + 8.0,
        accept_p50_ms: Some(p99_ms / 3.0),
        accept_p99_ms: Some(p99_ms),
        error_share: 0.0,
        kept,
        why: (!kept).then(|| "accept.p99<50ms was missed".to_owned()),
    };
    let mut report = run();
    report.load.profile = "find-capacity".into();
    report.load.target_rate = None;
    report.actions.clear();
    report.verdict.outcome = Outcome::Met;
    report.verdict.reasons.clear();
    report.exit_code = 0;
    report.objectives.truncate(1);
    report.objectives[0].met = true;
    report.find_capacity = Some(FindCapacity {
        steps: vec![
            step(10_000.0, 0.0, 3.1, true),
            step(20_000.0, 8.0, 4.4, true),
            step(40_000.0, 16.0, 8.9, true),
            step(80_000.0, 24.0, 2400.0, false),
            step(60_000.0, 32.0, 38.0, true),
            step(70_000.0, 40.0, 900.0, false),
            step(65_000.0, 48.0, 210.0, false),
            step(62_500.0, 56.0, 71.0, false),
            step(61_250.0, 64.0, 46.0, true),
        ],
        knee_rate: Some(61_250.0),
        limited_by_generator: false,
    });
    report
}

/// The steady run with couriers in its mix: one refused, one that differs, one not checked.
pub(crate) fn mixed() -> RunReport {
    let mut report = run();
    report.load.mix = [("rides".to_owned(), 0.8), ("couriers".to_owned(), 0.2)].into();
    let pickups = CommandCounts {
        accepted: 18_001,
        persisted: 18_000,
        duplicate: 0,
        failed: 1,
    };
    report.couriers = Some(Couriers {
        fleet: 600,
        commands: [("pickup".to_owned(), pickups)].into(),
        litres_picked_up: 900_000,
        litres_dropped_off: 870_000,
        checked: 599,
        differing: 1,
        unchecked: 1,
        unchecked_why: Some("too much was unanswered".to_owned()),
        refused: 1,
        differences: vec![CourierDifference {
            courier_id: "lt1-0-7".to_owned(),
            expected_available: Some(990),
            available: Some(1_000),
            expected_version: Some(3),
            version: Some(2),
        }],
        refusals: vec![CourierRefusal {
            index: 41,
            command: "pickup".to_owned(),
            courier_id: "lt1-0-8".to_owned(),
            code: "insufficient-capacity".to_owned(),
            tracking_id: None,
        }],
        ..Couriers::default()
    });
    report
}
