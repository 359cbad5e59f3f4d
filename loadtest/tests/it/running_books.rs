//! `loadtest run` against what loses, doubles, dies and stands still: the books.

use std::sync::Arc;
use std::time::Duration;

use crate::fake::{Fake, Faults, KEY};
use crate::running::{Harness, with};

/// The ids that a seed makes: learnt from a run that does nothing wrong.
async fn ids_of_seed(seed: &str) -> Vec<i64> {
    let fake = Fake::start(Faults::default()).await;
    let run = Harness::new().run(&fake, &with(&["--seed", seed])).await;
    assert!(run.is_met(), "{run:?}");
    let system = fake.system.lock().unwrap();
    let mut ids: Vec<_> = system
        .rides
        .iter()
        .map(|it| it["id"].as_i64().unwrap())
        .collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn what_does_not_add_up_fails_the_run_and_is_listed() {
    let ids = ids_of_seed("5").await;
    let (first, second) = (ids[3], ids[9]);
    let none = Faults::default;
    for (name, faults, reason) in [
        (
            "lost",
            Faults {
                lose: [first].into(),
                ..none()
            },
            "are gone",
        ),
        (
            "unsettled",
            Faults {
                stuck: [first].into(),
                ..none()
            },
            "no outcome when patience",
        ),
        (
            "doubled",
            Faults {
                same_id: Some((second, first)),
                ..none()
            },
            "became two",
        ),
        (
            "doubled",
            Faults {
                answer_twice: [first].into(),
                ..none()
            },
            "became two",
        ),
    ] {
        let fake = Fake::start(faults).await;
        let flags = with(&[
            "--seed",
            "5",
            "--settle-timeout",
            "700ms",
            "--slo",
            "errors<100%",
        ]);
        let run = Harness::new().run(&fake, &flags).await;
        assert_eq!(run.code, 2, "{name}: {run:?}");
        assert_eq!(run.counts(&[name]), [1], "{run:?}");
        assert!(run.reasons().contains(reason), "{run:?}");
        let listed = run.json["discrepancies"][name].as_array().unwrap();
        assert_eq!(listed.len(), 1, "{run:?}");
        if name != "doubled" {
            assert_eq!(
                (&listed[0]["id"], &listed[0]["index"]),
                (&first.into(), &3.into())
            );
        }
    }
}

#[tokio::test]
async fn a_duplicate_that_nobody_asked_for_fails_the_run() {
    let fake = Fake::start(Faults::default()).await;
    let first = Harness::new().run(&fake, &with(&["--seed", "6"])).await;
    assert!(first.is_met(), "{first:?}");
    // Only the first ride is forgotten: the run begins, and meets the others.
    fake.forget_first();
    let run = Harness::new().run(&fake, &with(&["--seed", "6"])).await;
    assert_eq!(run.code, 2, "{run:?}");
    assert_eq!(
        run.counts(&["persisted", "unexpected_duplicates"]),
        [1, 399],
        "{run:?}"
    );
    assert!(run.reasons().contains("ended as duplicates"), "{run:?}");
}

#[tokio::test]
async fn unanswered_records_that_are_stored_are_counted_apart() {
    let faults = Faults {
        freeze_requests: [50].into(),
        drop_requests: [60].into(),
        ..Faults::default()
    };
    let fake = Fake::start(faults).await;
    let run = Harness::new().run(&fake, &with(&["--timeout", "2s"])).await;
    assert!(run.is_met(), "{run:?}");
    let names = [
        "sent",
        "accepted",
        "persisted",
        "unanswered",
        "unanswered_persisted",
    ];
    let counts = run.counts(&names);
    // What stands behind the frozen request was stored, what stands behind the dropped was not.
    assert!(
        counts[3] >= 2 && counts[4] >= 1 && counts[4] < counts[3],
        "{run:?}"
    );
    assert_eq!((counts[0], counts[1]), (400, 400 - counts[3]), "{run:?}");
    assert_eq!(counts[1], counts[2]);
    assert_eq!(run.json["errors"]["exchange"]["closed"], 1, "{run:?}");
}

#[tokio::test]
async fn a_server_that_dies_midway_leaves_a_whole_report() {
    let faults = Faults {
        die_at: Some(100),
        ..Faults::default()
    };
    let status = Fake::start(Faults::default()).await;
    let dying = Fake::join(Arc::clone(&status.system), faults).await;
    let harness = Harness::new();
    let (url, status_url) = (dying.url(), status.url());
    let flags = with(&["--url", &url, "--status-url", &status_url, "--key", KEY]);
    let flags: Vec<_> = flags.into_iter().chain(["--json", "report.json"]).collect();
    let flags: Vec<_> = flags
        .into_iter()
        .chain(["--unanswered-wait", "0s"])
        .collect();
    let run = harness.bare(&flags).await;
    assert!(run.is_missed(), "{run:?}");
    let counts = run.counts(&["intended", "sent", "accepted", "persisted", "unanswered"]);
    assert_eq!(counts[0], 400);
    assert_eq!(counts[1], counts[2] + counts[4], "{run:?}");
    assert!(
        counts[2] == counts[3] && (80..100).contains(&counts[2]),
        "{run:?}"
    );
    let never = run.json["errors"]["exchange"]["connect"].as_u64().unwrap();
    assert_eq!(never, 400 - counts[1], "{run:?}");
    assert!(run.reasons().contains("errors<1%"), "{run:?}");
}

#[tokio::test]
async fn a_backlog_is_bounded() {
    let faults = Faults {
        stall: Some((50, Duration::from_secs(60))),
        ..Faults::default()
    };
    let fake = Fake::start(faults).await;
    let flags = [
        "--rate",
        "200",
        "--duration",
        "2s",
        "--connections",
        "4",
        "--timeout",
        "500ms",
    ];
    let run = Harness::new().run(&fake, &flags).await;
    assert!(run.is_missed(), "{run:?}");
    let counts = run.counts(&["intended", "sent", "unanswered"]);
    assert_eq!(counts[0], 400);
    assert!(counts[1] < 100 && counts[2] >= 4, "{run:?}");
    assert_eq!(
        run.json["errors"]["exchange"]["not-sent"],
        400 - counts[1],
        "{run:?}"
    );
    assert!(
        run.json["duration_seconds"].as_f64().unwrap() < 5.0,
        "{run:?}"
    );
}
