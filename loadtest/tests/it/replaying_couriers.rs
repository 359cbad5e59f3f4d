//! `loadtest replay` of commands to couriers: their order, and what they come to.

use crate::couriers::CourierFaults;
use crate::fake::{Fake, Faults, KEY};
use crate::replaying::{Harness, Run};

const SAMPLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/samples/courier-commands.ndjson"
);

async fn replay(harness: &Harness, fake: &Fake, file: &str, flags: &[&str]) -> Run {
    let url = fake.url();
    let mut all = vec![file, "--url", &url, "--status-url", &url, "--key", KEY];
    all.extend(["--json", "report.json", "--outcomes", "outcomes.ndjson"]);
    all.extend(flags);
    harness.bare(&all).await
}

fn with(couriers: CourierFaults) -> Faults {
    Faults {
        couriers,
        ..Faults::default()
    }
}

impl Run {
    /// Couriers checked, differing, not checked.
    fn checks(&self) -> [u64; 3] {
        let couriers = &self.json["couriers"];
        let length = |name: &str| couriers[name].as_array().map_or(0, Vec::len) as u64;
        [
            couriers["checked"].as_u64().unwrap_or_default(),
            length("differing"),
            length("unchecked"),
        ]
    }
}

#[tokio::test]
async fn the_samples_commands_arrive_in_order_and_two_of_them_fail() {
    for flags in [
        vec![],
        vec!["--batch", "1"],
        vec!["--body", "array", "--batch", "7"],
    ] {
        let fake = Fake::start(Faults::default()).await;
        let harness = Harness::new();
        let run = replay(&harness, &fake, SAMPLE, &flags).await;
        assert_eq!(run.code, 0, "{run:?}");
        let names = [
            "sent",
            "accepted",
            "persisted",
            "duplicate",
            "failed",
            "lost",
        ];
        assert_eq!(run.counts(&names), [300, 300, 298, 0, 2, 0], "{run:?}");
        assert_eq!(run.json["failed_by_code"]["insufficient-capacity"], 1);
        assert_eq!(run.json["failed_by_code"]["stale-version"], 1);
        for (line, code) in loadtest::couriers::SAMPLE_FAILURES {
            let outcome = &run.outcomes[line - 1];
            assert_eq!(outcome["code"], code, "{outcome}");
            assert!(outcome["id"].as_str().unwrap().starts_with("blr-"));
        }
        assert_eq!(run.checks(), [20, 0, 0], "{run:?}");
        assert!(
            run.stdout
                .contains("20 held against the file's commands in order, 0 differ")
        );
        let system = fake.system.lock().unwrap();
        let text = std::fs::read_to_string(SAMPLE).unwrap();
        let sent: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(system.couriers.commands, sent);
        let mut paths = system.bodies.iter().map(|(_, path, _)| path);
        assert!(paths.all(|path| path == "/v1/courier-commands"));
    }
}

#[tokio::test]
async fn a_courier_that_is_not_what_its_commands_come_to_fails_the_replay() {
    let none = CourierFaults::default;
    for faults in [
        CourierFaults {
            twice: Some(9),
            ..none()
        },
        CourierFaults {
            swallow: Some(9),
            ..none()
        },
        CourierFaults {
            fail: Some(9),
            ..none()
        },
    ] {
        let fake = Fake::start(with(faults)).await;
        let run = replay(&Harness::new(), &fake, SAMPLE, &[]).await;
        assert_eq!(run.code, 2, "{run:?}");
        let [checked, differing, unchecked] = run.checks();
        // What comes after may fail for want of it, on the same courier.
        assert_eq!((checked, differing, unchecked), (20, 1, 0), "{run:?}");
        assert!(run.stdout.contains("  differs: courier blr-"), "{run:?}");
        assert!(run.stdout.contains("DOES NOT ADD UP"), "{run:?}");
    }
}

#[tokio::test]
async fn what_was_refused_at_the_door_is_not_part_of_the_sum() {
    let faults = CourierFaults {
        reject: Some(9),
        ..CourierFaults::default()
    };
    let fake = Fake::start(with(faults)).await;
    let run = replay(&Harness::new(), &fake, SAMPLE, &[]).await;
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.counts(&["rejected"]), [1], "{run:?}");
    assert_eq!(run.checks(), [20, 0, 0], "{run:?}");
}

#[tokio::test]
async fn what_cannot_be_said_is_said_to_be_so() {
    let harness = Harness::new();
    let fake = Fake::start(Faults::default()).await;
    let run = replay(&harness, &fake, SAMPLE, &["--concurrency", "4"]).await;
    assert_eq!(run.checks(), [0, 0, 20], "{run:?}");
    assert!(
        run.stdout.contains("several requests were under way"),
        "{run:?}"
    );

    let again = replay(&harness, &fake, SAMPLE, &[]).await;
    assert_eq!(again.checks(), [0, 0, 20], "{again:?}");
    assert!(again.stdout.contains("it was there before"), "{again:?}");

    let stranger = r#"{"command":"pickup","courier_id":"x","capacity":1,"reference":"a"}"#;
    let file = harness.file("stranger.ndjson", stranger);
    let run = replay(&harness, &fake, &file, &[]).await;
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.json["failed_by_code"]["not-found"], 1, "{run:?}");
    assert!(run.stdout.contains("does not create it first"), "{run:?}");

    // The second of three requests is stored and not answered: of whom it spoke is open.
    let faults = Faults {
        freeze_requests: [2].into(),
        ..Faults::default()
    };
    for (flags, why) in [
        (vec!["--timeout", "300ms"], "was not answered"),
        (vec!["--timeout", "300ms", "--retry", "1"], "was sent again"),
    ] {
        let fake = Fake::start(faults.clone()).await;
        let run = replay(&harness, &fake, SAMPLE, &flags).await;
        let [checked, differing, unchecked] = run.checks();
        assert_eq!((checked + unchecked, differing), (20, 0), "{run:?}");
        assert!(unchecked > 10, "{run:?}");
        assert!(run.stdout.contains(why), "{run:?}");
    }
}

#[tokio::test]
async fn a_lost_command_is_listed_with_its_courier() {
    let faults = CourierFaults {
        lose: Some(9),
        ..CourierFaults::default()
    };
    let fake = Fake::start(with(faults)).await;
    let run = replay(
        &Harness::new(),
        &fake,
        SAMPLE,
        &["--settle-timeout", "700ms"],
    )
    .await;
    assert_eq!(run.code, 2, "{run:?}");
    assert_eq!(run.counts(&["lost"]), [1], "{run:?}");
    assert!(run.stdout.contains("(courier blr-"), "{run:?}");
    assert_eq!(run.checks(), [19, 0, 1], "{run:?}");
}

#[tokio::test]
async fn a_file_is_of_rides_or_of_commands() {
    let harness = Harness::new();
    let fake = Fake::start(Faults::default()).await;
    let both = "{\"id\":1}\n{\"command\":\"delete\",\"courier_id\":\"x\"}\n";
    let file = harness.file("both.ndjson", both);
    let run = replay(&harness, &fake, &file, &[]).await;
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.contains("line 2: rides and commands"), "{run:?}");
    let run = replay(&harness, &fake, SAMPLE, &["--method", "put"]).await;
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.contains("--method post"), "{run:?}");
    assert_eq!(fake.writes(), 0);
}
