//! `loadtest run --mix rides=...,couriers=...`: the fleet, the commands, and their conservation.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use crate::couriers::CourierFaults;
use crate::fake::{Fake, Faults, KEY, OTHER_KEY};
use crate::running::{Harness, Run};

const MIXED: [&str; 8] = [
    "--rate",
    "500",
    "--duration",
    "1s",
    "--mix",
    "rides=60,couriers=40",
    "--couriers",
    "20",
];
/// Couriers of a fleet of 20: two to be set and two to be deleted besides.
const FLEET: u64 = 24;

fn with<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    MIXED.into_iter().chain(flags.iter().copied()).collect()
}

impl Run {
    fn couriers(&self, name: &str) -> u64 {
        let count = self.json["couriers"][name].as_u64();
        count.unwrap_or_else(|| panic!("{name}: {self:?}"))
    }
}

#[tokio::test]
async fn commands_reach_their_routes_and_the_couriers_are_what_they_add_up_to() {
    for flags in [
        vec![],
        vec!["--body", "array", "--batch", "20"],
        vec!["--batch", "10", "--key", KEY, "--key", OTHER_KEY],
        vec!["--http", "2"],
        vec!["--http", "2", "--batch", "20", "--connections", "1"],
    ] {
        let fake = Fake::start(Faults::default()).await;
        let run = Harness::new().run(&fake, &with(&flags)).await;
        assert!(run.is_met(), "{run:?}");
        let names = ["sent", "accepted", "persisted", "failed", "lost"];
        assert_eq!(run.counts(&names), [500, 500, 500, 0, 0], "{run:?}");
        let partners = run.json["load"]["partners"].as_u64().unwrap();
        for (name, want) in [
            ("fleet", FLEET * partners),
            ("checked", FLEET * partners),
            ("differing", 0),
            ("unchecked", 0),
            ("refused", 0),
        ] {
            assert_eq!(run.couriers(name), want, "{name}: {run:?}");
        }
        assert_eq!(run.json["load"]["mix"]["couriers"], 0.4);
        let commands = run.json["couriers"]["commands"].as_object().unwrap();
        let accepted = commands.values().map(|it| it["accepted"].as_u64().unwrap());
        assert_eq!(accepted.sum::<u64>(), 200, "{run:?}");
        assert!(run.couriers("litres_picked_up") > 1_000, "{run:?}");
        let section = &run.json["couriers"];
        assert_eq!(section["litres_available"], section["litres_expected"]);
        assert!(
            run.stdout
                .contains("checked against their persisted commands, 0 differ")
        );

        let system = fake.system.lock().unwrap();
        assert_eq!(system.rides.len(), 300);
        let mut routes: BTreeMap<String, u64> = BTreeMap::new();
        for (method, path, content_type) in &system.bodies {
            let path = path.split("/lt").next().unwrap();
            let route = format!("{method} {path} {content_type}");
            *routes.entry(route).or_default() += 1;
        }
        let single = flags.is_empty() || flags == ["--http", "2"];
        let bursts = routes.keys().any(|it| it.contains("/v1/courier-commands"));
        assert_eq!(bursts, !single, "{routes:?}");
        let patched = routes.contains_key("PATCH /v1/couriers application/merge-patch+json");
        assert_eq!(patched, single, "{routes:?}");
    }
}

#[tokio::test]
async fn repeated_and_spoiled_commands_are_what_was_asked_for() {
    let fake = Fake::start(Faults::default()).await;
    let flags = [
        "--rate",
        "3000",
        "--duration",
        "1s",
        "--batch",
        "10",
        "--mix",
        "couriers=100",
        "--couriers",
        "10",
        "--duplicates",
        "3%",
        "--bad",
        "2%",
        "--slo",
        "errors=0",
    ];
    let run = Harness::new().run(&fake, &flags).await;
    assert!(run.is_met(), "{run:?}");
    let names = ["rejected", "bad_sent", "duplicate", "duplicates_sent"];
    let counts = run.counts(&names);
    assert!(counts[0] == counts[1] && counts[0] > 20, "{run:?}");
    assert!(counts[2] == counts[3] && counts[2] > 30, "{run:?}");
    let ended = ["bad_accepted", "unexpected_duplicates", "failed"];
    assert_eq!(run.counts(&ended), [0; 3], "{run:?}");
    assert_eq!(run.couriers("differing"), 0, "{run:?}");
    assert!(fake.system.lock().unwrap().rides.is_empty());
}

#[tokio::test]
async fn a_command_that_was_valid_and_not_taken_fails_the_run() {
    for (faults, code, tracked) in [
        (
            CourierFaults {
                fail: Some(30),
                ..CourierFaults::default()
            },
            "insufficient-capacity",
            true,
        ),
        (
            CourierFaults {
                reject: Some(30),
                ..CourierFaults::default()
            },
            "invalid",
            false,
        ),
    ] {
        let fake = Fake::start(Faults {
            couriers: faults,
            ..Faults::default()
        })
        .await;
        let flags = with(&["--slo", "errors<50%"]);
        let run = Harness::new().run(&fake, &flags).await;
        assert_eq!(run.code, 2, "{run:?}");
        assert_eq!(run.couriers("refused"), 1, "{run:?}");
        assert_eq!(run.couriers("differing"), 0, "it had no effect: {run:?}");
        assert!(
            run.reasons().contains("though valid in any order"),
            "{run:?}"
        );
        let refusal = &run.json["couriers"]["refusals"][0];
        assert_eq!(refusal["code"], code);
        assert_eq!(refusal["tracking_id"].is_string(), tracked, "{run:?}");
        let id = refusal["courier_id"].as_str().unwrap();
        assert!(
            run.stdout.contains(&format!("of courier {id}: {code}")),
            "{run:?}"
        );
    }
}

#[tokio::test]
async fn a_courier_that_differs_fails_the_run_and_is_named() {
    let none = CourierFaults::default;
    for faults in [
        CourierFaults {
            twice: Some(30),
            ..none()
        },
        CourierFaults {
            swallow: Some(30),
            ..none()
        },
    ] {
        let fake = Fake::start(Faults {
            couriers: faults,
            ..Faults::default()
        })
        .await;
        let run = Harness::new().run(&fake, &with(&["--batch", "10"])).await;
        assert_eq!(run.code, 2, "{run:?}");
        assert_eq!(run.couriers("differing"), 1, "{run:?}");
        assert!(
            run.reasons().contains("are not what their persisted"),
            "{run:?}"
        );
        let named = run.json["couriers"]["differences"][0]["courier_id"].as_str();
        let line = format!("differs: courier {} is", named.unwrap());
        assert!(run.stdout.contains(&line), "{run:?}");
    }
}

#[tokio::test]
async fn a_lost_command_is_named_and_its_courier_may_be_either_way() {
    let fake = Fake::start(Faults {
        couriers: CourierFaults {
            lose: Some(30),
            ..CourierFaults::default()
        },
        ..Faults::default()
    })
    .await;
    let run = Harness::new()
        .run(&fake, &with(&["--settle-timeout", "700ms"]))
        .await;
    assert_eq!(run.code, 2, "{run:?}");
    assert_eq!(run.counts(&["lost"]), [1], "{run:?}");
    assert_eq!(run.couriers("differing"), 0, "{run:?}");
    let lost = &run.json["discrepancies"]["lost"][0];
    assert_eq!(lost["id"], Value::Null);
    assert!(
        lost["courier_id"].as_str().unwrap().starts_with("lt"),
        "{run:?}"
    );
}

#[tokio::test]
async fn unanswered_commands_are_found_in_the_couriers_versions() {
    let fake = Fake::start(Faults {
        // The first writing request creates the fleet.
        freeze_requests: [20].into(),
        drop_requests: [25].into(),
        ..Faults::default()
    })
    .await;
    let flags = [
        "--rate",
        "400",
        "--duration",
        "1s",
        "--mix",
        "couriers=1",
        "--couriers",
        "20",
        "--timeout",
        "2s",
        "--connections",
        "4",
        "--slo",
        "errors<50%",
    ];
    let run = Harness::new().run(&fake, &flags).await;
    assert!(run.is_met(), "{run:?}");
    let counts = run.counts(&["unanswered", "unanswered_persisted", "lost"]);
    assert!(
        counts[0] >= 2 && counts[1] >= 1 && counts[1] < counts[0],
        "{run:?}"
    );
    assert_eq!((counts[2], run.couriers("differing")), (0, 0), "{run:?}");
}

#[tokio::test]
async fn a_fleet_that_was_not_used_will_do_and_one_that_was_will_not() {
    // The fleet's creation is refused for now at first.
    let faults = Faults {
        overloaded: 1,
        ..Faults::default()
    };
    let fake = Fake::start(faults).await;
    let harness = Harness::new();
    let flags = [
        "--rate",
        "400",
        "--duration",
        "500ms",
        "--mix",
        "couriers=1",
        "--couriers",
        "10",
        "--seed",
        "12",
        "--batch",
        "10",
    ];
    let first = harness.run(&fake, &flags).await;
    assert!(first.is_met(), "{first:?}");
    let again = harness.run(&fake, &flags).await;
    assert_eq!(again.code, 1, "{again:?}");
    assert!(again.stderr.contains("seed 12 was used"), "{again:?}");

    // As an earlier run left them that broke off before its first command.
    let fresh = Fake::start(Faults::default()).await;
    {
        let (mut from, mut to) = (fake.system.lock().unwrap(), fresh.system.lock().unwrap());
        let creations: HashSet<_> = (0..12).map(|number| format!("lt12-0-{number}")).collect();
        for command in std::mem::take(&mut from.couriers.commands) {
            let id = command["courier_id"].as_str().unwrap();
            if command["command"] == "create" && creations.contains(id) {
                to.couriers
                    .take(&CourierFaults::default(), &command)
                    .unwrap();
            }
        }
        assert_eq!(to.couriers.couriers.len(), 12);
    }
    let run = harness.run(&fresh, &flags).await;
    assert!(run.is_met(), "{run:?}");
    assert_eq!(run.counts(&["persisted"]), [200], "{run:?}");
    assert_eq!(run.couriers("differing"), 0, "{run:?}");
}

#[tokio::test]
async fn without_following_commands_are_sent_and_nothing_is_checked() {
    let fake = Fake::start(Faults::default()).await;
    let flags = with(&["--no-follow", "--batch", "10"]);
    let run = Harness::new().run(&fake, &flags).await;
    assert!(run.is_met(), "{run:?}");
    assert_eq!(run.couriers("checked"), 0, "{run:?}");
    assert_eq!(
        run.json["couriers"]["unchecked_why"],
        "ids were not followed"
    );
}

#[tokio::test]
async fn a_fleet_that_cannot_be_created_stops_the_run() {
    let faults = Faults {
        overloaded: 1_000,
        ..Faults::default()
    };
    let fake = Fake::start(faults).await;
    let flags = with(&["--settle-timeout", "300ms"]);
    let run = Harness::new().run(&fake, &flags).await;
    assert_eq!(run.code, 1, "{run:?}");
    assert!(
        run.stderr.contains("cannot prepare the couriers"),
        "{run:?}"
    );
    assert!(run.stderr.contains("overloaded"), "{run:?}");
}
