//! `loadtest run` that cannot run, and what it is told wrongly.

use crate::fake::{Fake, Faults, KEY};
use crate::running::{Harness, with};

#[tokio::test]
async fn what_cannot_run_says_why_and_sends_nothing() {
    let fake = Fake::start(Faults::default()).await;
    let url = fake.url();
    let harness = Harness::new();
    let nobody = "http://127.0.0.1:1";
    for (gateway, status, key, extra, part) in [
        (
            nobody,
            url.as_str(),
            KEY,
            vec![],
            "no gateway can be reached",
        ),
        (&url, nobody, KEY, vec![], "no status API can be reached"),
        (nobody, &url, KEY, vec!["--http", "2"], "cannot connect"),
        (&url, &url, "wrong", vec![], "401 to this key"),
        (
            &url,
            &url,
            KEY,
            vec!["--json", "missing/x.json"],
            "cannot write missing/x.json",
        ),
        (
            &url,
            &url,
            KEY,
            vec!["--html", "missing/x.html"],
            "cannot write missing/x.html",
        ),
        (
            &url,
            &url,
            KEY,
            vec!["--database-url", "postgres://x@127.0.0.1:1/x"],
            "cannot follow ids in the database",
        ),
    ] {
        let mut flags = vec!["--url", gateway, "--status-url", status, "--key", key];
        flags.extend(extra);
        let run = harness.bare(&with(&flags)).await;
        assert_eq!(run.code, 1, "{run:?}");
        assert!(run.stderr.contains(part), "{part}: {run:?}");
        assert_eq!(
            std::fs::read_dir(harness.directory.path()).unwrap().count(),
            0
        );
    }
    assert_eq!(fake.writes(), 0);
}

#[tokio::test]
async fn wrong_usage_is_64() {
    let harness = Harness::new();
    let known = [
        "--url",
        "http://a",
        "--status-url",
        "http://a",
        "--key",
        "k",
    ];
    for (flags, part) in [
        (vec!["--rate", "0"], "--rate"),
        (vec!["--profile", "ramp"], "like ramp 100:5000"),
        (vec!["--profile", "ramp", "1:x"], "like ramp 100:5000"),
        (vec!["--profile", "mountain"], "no profile \"mountain\""),
        (vec!["--profile", "steady", "5"], "nothing behind it"),
        (
            vec!["--profile", "xrides-day", "--rate", "5"],
            "leave --rate out",
        ),
        (vec!["--speedup", "5"], "belongs to --profile xrides-day"),
        (vec!["--spike-rate", "5"], "belong to --profile burst"),
        (vec!["--closed", "4", "--rate", "5"], "no schedule"),
        (
            vec!["--body", "single", "--batch", "5"],
            "leave --batch out",
        ),
        (vec!["--bad", "1"], "write it like 1%"),
        (vec!["--mix", "drivers=5"], "no kind \"drivers\""),
        (vec!["--couriers", "5"], "belong to --mix with couriers"),
        (
            vec![
                "--mix",
                "couriers=1",
                "--couriers",
                "1",
                "--rate",
                "100000",
                "--duration",
                "1h",
            ],
            "take more --couriers",
        ),
        (
            vec!["--slo", "accept.p99<5"],
            "write it like accept.p99<10ms",
        ),
        (vec!["--no-follow", "--slo", "lost=0"], "--no-follow"),
        (vec!["--at", "1s", "maim worker"], "no action \"maim\""),
        (
            vec!["--at", "1s", "kill worker"],
            "acts on the local stack only",
        ),
        (vec!["--http", "3"], "--http"),
        (vec!["--partners", "2"], "--partners"),
    ] {
        let all: Vec<_> = known.into_iter().chain(flags).collect();
        let run = harness.bare(&all).await;
        assert_eq!(run.code, 64, "{part}: {run:?}");
        assert!(run.stderr.contains(part), "{part}: {run:?}");
    }
    let run = harness.bare(&[]).await;
    assert_eq!(run.code, 64, "{run:?}");
    assert!(
        run.stderr.contains("--url, --status-url, --key not given"),
        "{run:?}"
    );
}
