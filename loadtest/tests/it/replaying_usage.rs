//! `loadtest replay` that cannot run, and what it is told wrongly.

use crate::fake::{Fake, Faults, KEY};
use crate::replaying::{Harness, sample};

#[tokio::test]
async fn what_cannot_run_says_why_and_sends_nothing() {
    let fake = Fake::start(Faults::default()).await;
    let harness = Harness::new();
    let bad = harness.file("bad.csv", "id,from_date\n1,1/1/2013\n2,never\nx,1/1/2013\n");
    for (flags, parts) in [
        (
            vec![bad.as_str()],
            vec!["line 3: from_date \"never\"", "line 4: id \"x\""],
        ),
        (vec!["missing.csv"], vec!["cannot read missing.csv"]),
        (
            vec!["--outcomes", "missing/x"],
            vec!["cannot write missing/x"],
        ),
    ] {
        let flags: Vec<_> = flags.into_iter().collect();
        let mut command = vec![
            "--url",
            "http://127.0.0.1:1",
            "--status-url",
            "http://127.0.0.1:1",
        ];
        let sample = sample();
        command.extend(["--key", KEY]);
        if flags[0].starts_with("--") {
            command.push(sample.to_str().unwrap());
        }
        command.extend(&flags);
        let run = harness.bare(&command).await;
        assert_eq!(run.code, 1, "{run:?}");
        for part in parts {
            assert!(run.stderr.contains(part), "{run:?}");
        }
    }
    let (url, sample) = (fake.url(), sample());
    let sample = sample.to_str().unwrap();
    for (gateway, key, part) in [
        (url.as_str(), "wrong", "401 to this key"),
        ("http://127.0.0.1:1", KEY, "no gateway can be reached"),
    ] {
        let flags = [sample, "--url", gateway, "--status-url", &url, "--key", key];
        let run = harness.bare(&flags).await;
        assert_eq!(run.code, 1, "{run:?}");
        assert!(run.stderr.contains(part), "{run:?}");
    }
    assert_eq!(fake.writes(), 0);
}

#[tokio::test]
async fn wrong_usage_is_64() {
    let harness = Harness::new();
    for (flags, part) in [
        (vec![], "FILE"),
        (vec!["x.csv"], "--url, --status-url, --key not given"),
        (vec!["x.csv", "--batch", "0"], "--batch"),
        (
            vec!["x.csv", "--time-zone", "Mars/Olympus"],
            "no such time zone",
        ),
        (vec!["x.csv", "--url", "https://x"], "only http"),
        (vec!["x.csv", "--timeout", "5"], "250ms"),
        (
            vec![
                "x.csv",
                "--url",
                "http://a",
                "--status-url",
                "http://a",
                "--key",
                "k",
                "--method",
                "put",
                "--batch",
                "7",
            ],
            "leave --batch out",
        ),
    ] {
        let run = harness.bare(&flags).await;
        assert_eq!(run.code, 64, "{run:?}");
        assert!(run.stderr.contains(part), "{part}: {run:?}");
    }
}
