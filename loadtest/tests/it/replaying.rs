//! `loadtest replay`: exit codes, books, lists.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::fake::{Fake, Faults, KEY};

/// The sample's first ids, and the lines they stand on.
const FIRST: i64 = 500_001;
const SECOND: i64 = 500_011;

pub(crate) fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/bookings.csv")
}

pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) json: Value,
    pub(crate) outcomes: Vec<Value>,
}

pub(crate) struct Harness {
    directory: TempDir,
}

impl Harness {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A command in a directory of its own, with nothing of WEIR_* inherited.
    fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
        command
            .arg("replay")
            .args(flags)
            .env_clear()
            .current_dir(self.directory.path())
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub(crate) async fn bare(&self, flags: &[&str]) -> Run {
        let child = self.command(flags).spawn().unwrap();
        self.finish(child).await
    }

    async fn finish(&self, child: tokio::process::Child) -> Run {
        let output = child.wait_with_output().await.unwrap();
        let json = std::fs::read(self.path("report.json")).unwrap_or_default();
        let outcomes = std::fs::read_to_string(self.path("outcomes.ndjson")).unwrap_or_default();
        Run {
            code: output.status.code().expect("not ended by a signal"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            json: serde_json::from_slice(&json).unwrap_or_default(),
            outcomes: outcomes
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect(),
        }
    }

    pub(crate) async fn replay(&self, gateways: &[&Fake], flags: &[&str]) -> Run {
        let urls: Vec<_> = gateways.iter().map(|fake| fake.url()).collect();
        let sample = sample();
        let status = urls.last().unwrap().clone();
        let urls = urls.join(",");
        let mut all = vec!["--url", &urls, "--status-url", &status, "--key", KEY];
        all.extend(["--json", "report.json", "--outcomes", "outcomes.ndjson"]);
        all.extend(["--time-zone", "Asia/Kolkata"]);
        all.push(sample.to_str().unwrap());
        all.extend(flags);
        self.bare(&all).await
    }
}

impl Run {
    pub(crate) fn counts(&self, names: &[&str]) -> Vec<u64> {
        names
            .iter()
            .map(|name| match &self.json[*name] {
                Value::Array(list) => list.len() as u64,
                number => number
                    .as_u64()
                    .unwrap_or_else(|| panic!("{name}: {self:?}")),
            })
            .collect()
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n{}\n{}", self.code, self.stdout, self.stderr)
    }
}

#[tokio::test]
async fn every_row_arrives_once_and_the_books_balance() {
    for (flags, requests) in [
        (vec![], 5),
        (vec!["--body", "array", "--batch", "150"], 4),
        (vec!["--batch", "1", "--concurrency", "4"], 500),
        (vec!["--method", "put"], 500),
    ] {
        let fake = Fake::start(Faults::default()).await;
        let run = Harness::new().replay(&[&fake], &flags).await;
        assert_eq!(run.code, 0, "{run:?}");
        let names = [
            "sent",
            "accepted",
            "persisted",
            "lost",
            "unsettled",
            "doubled",
        ];
        assert_eq!(run.counts(&names), [500, 500, 500, 0, 0, 0], "{run:?}");
        assert_eq!(run.json["schema"], "weir.loadtest.replay");
        assert_eq!(run.json["schema_version"], 1);
        assert_eq!(run.json["adds_up"], true);
        assert_eq!(run.json["http_statuses"]["202"], requests);
        assert_eq!(run.json["time_to_settle"]["count"], 500);
        assert!(
            run.stdout.contains("sent        500 = 500 accepted"),
            "{run:?}"
        );
        assert!(run.stdout.contains("ADDS UP"), "{run:?}");
        assert_eq!(fake.writes(), requests);

        let system = fake.system.lock().unwrap();
        let text = std::fs::read_to_string(sample()).unwrap();
        let mut ids: Vec<_> = system.rides.iter().map(|it| it["id"].to_string()).collect();
        ids.sort();
        let want: Vec<_> = text
            .lines()
            .skip(1)
            .map(|it| it.split(',').next().unwrap())
            .collect();
        assert_eq!(ids, want);
        let put = flags.contains(&"put");
        for (method, path, _) in &system.bodies {
            assert_eq!(path.starts_with("/v1/rides/5"), put);
            assert_eq!(*method == http::Method::PUT, put);
        }
    }
}

#[tokio::test]
async fn refused_and_failed_rows_are_named_but_add_up() {
    let faults = Faults {
        invalid: [FIRST].into(),
        conflict: [SECOND].into(),
        ..Faults::default()
    };
    let fake = Fake::start(faults).await;
    let harness = Harness::new();
    let run = harness.replay(&[&fake], &[]).await;
    assert_eq!(run.code, 0, "{run:?}");
    let names = ["sent", "accepted", "rejected", "persisted", "failed"];
    assert_eq!(run.counts(&names), [500, 499, 1, 498, 1]);
    assert_eq!(run.json["rejected_by_code"]["invalid"], 1);
    assert_eq!(run.json["failed_by_code"]["conflict"], 1);
    assert!(
        run.stdout.contains("BUT 1 rejected; BUT 1 failed"),
        "{run:?}"
    );
    assert_eq!(run.outcomes.len(), 500);
    assert_eq!(run.outcomes[0]["line"], 2);
    assert_eq!(run.outcomes[0]["status"], "rejected");
    assert_eq!(run.outcomes[0]["tracking_id"], Value::Null);
    assert_eq!(run.outcomes[1]["id"], SECOND);
    assert_eq!(run.outcomes[1]["code"], "conflict");
    assert_eq!(run.outcomes[2]["status"], "persisted");

    let again = harness.replay(&[&fake], &[]).await;
    assert_eq!(
        again.counts(&["persisted", "duplicate", "failed"]),
        [0, 498, 1],
        "{again:?}"
    );
}

#[tokio::test]
async fn a_lost_id_is_listed_by_line() {
    let faults = Faults {
        lose: [SECOND].into(),
        ..Faults::default()
    };
    let fake = Fake::start(faults).await;
    let run = Harness::new()
        .replay(&[&fake], &["--settle-timeout", "1s"])
        .await;
    assert_eq!(run.code, 2, "{run:?}");
    assert_eq!(
        run.counts(&["accepted", "persisted", "lost"]),
        [500, 499, 1]
    );
    let lost = &run.json["lost_ids"][0];
    assert_eq!(
        (&lost["line"], &lost["id"]),
        (&Value::from(3), &Value::from(SECOND))
    );
    let listed = format!(
        "lost: line 3 (ride {SECOND}) {}",
        lost["tracking_id"].as_str().unwrap()
    );
    assert!(run.stdout.contains(&listed), "{run:?}");
    assert!(run.stdout.contains("DOES NOT ADD UP"), "{run:?}");
    assert_eq!(run.outcomes[1]["status"], "lost");
}

#[tokio::test]
async fn ids_that_never_settle_are_listed() {
    let faults = Faults {
        stuck: (FIRST..FIRST + 400).collect(),
        ..Faults::default()
    };
    let stuck = std::fs::read_to_string(sample())
        .unwrap()
        .lines()
        .skip(1)
        .filter(|line| line.split(',').next().unwrap().parse::<i64>().unwrap() < FIRST + 400)
        .count();
    assert!(stuck > 10);
    let fake = Fake::start(faults).await;
    let run = Harness::new()
        .replay(&[&fake], &["--settle-timeout", "500ms"])
        .await;
    assert_eq!(run.code, 2, "{run:?}");
    assert_eq!(run.counts(&["unsettled", "lost"]), [stuck as u64, 0]);
    assert_eq!(run.stdout.matches("unsettled: line").count(), 10, "{run:?}");
    assert!(
        run.stdout
            .contains(&format!("and {} more unsettled", stuck - 10)),
        "{run:?}"
    );
}

#[tokio::test]
async fn one_id_for_two_rows_is_doubled() {
    let faults = Faults {
        same_id: Some((SECOND, FIRST)),
        ..Faults::default()
    };
    let fake = Fake::start(faults).await;
    let run = Harness::new().replay(&[&fake], &[]).await;
    assert_eq!(run.code, 2, "{run:?}");
    assert_eq!(
        run.counts(&["accepted", "persisted", "doubled"]),
        [500, 499, 1]
    );
    assert_eq!(run.json["doubled_ids"][0]["kind"], "id-given-twice");
    assert!(
        run.stdout.contains("doubled: id-given-twice lines [2, 3]"),
        "{run:?}"
    );
}

#[tokio::test]
async fn an_id_answered_twice_is_doubled() {
    let faults = Faults {
        answer_twice: [FIRST].into(),
        ..Faults::default()
    };
    let fake = Fake::start(faults).await;
    let run = Harness::new().replay(&[&fake], &[]).await;
    assert_eq!(run.code, 2, "{run:?}");
    assert_eq!(run.json["doubled_ids"][0]["kind"], "id-answered-twice");
    assert_eq!(run.json["doubled_ids"][0]["lines"][0], 2);
}

#[tokio::test]
async fn a_gateway_that_dies_leaves_unanswered_rows_and_the_run_goes_on() {
    let living = Fake::start(Faults::default()).await;
    let faults = Faults {
        die_at: Some(5),
        ..Faults::default()
    };
    let dying = Fake::join(Arc::clone(&living.system), faults).await;
    let flags = ["--batch", "10", "--concurrency", "2"];
    let run = Harness::new().replay(&[&dying, &living], &flags).await;
    assert_eq!(run.code, 0, "{run:?}");
    let counts = run.counts(&["sent", "accepted", "persisted", "unanswered"]);
    assert_eq!(counts[0], 500);
    assert_eq!(
        (counts[1], counts[1] + counts[3]),
        (counts[2], 500),
        "{run:?}"
    );
    assert!(
        (10..=20).contains(&counts[3]),
        "what was under way when it died: {run:?}"
    );
    assert_eq!(run.json["unanswered_by_code"]["connection-lost"], counts[3]);
}

#[tokio::test]
async fn refused_and_unanswered_rows_are_sent_again_when_asked_to() {
    let faults = Faults {
        overloaded: 2,
        drop_requests: [7].into(),
        ..Faults::default()
    };
    let fake = Fake::start(faults.clone()).await;
    let flags = ["--batch", "10", "--retry", "5", "--concurrency", "1"];
    let run = Harness::new().replay(&[&fake], &flags).await;
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(
        run.counts(&["accepted", "persisted", "resent"]),
        [500, 500, 30],
        "{run:?}"
    );
    assert_eq!(run.json["http_statuses"]["503"], 2);

    let fake = Fake::start(faults).await;
    let run = Harness::new().replay(&[&fake], &flags[..2]).await;
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(
        run.counts(&["accepted", "rejected", "unanswered"]),
        [470, 20, 10]
    );
    assert_eq!(run.json["rejected_by_code"]["overloaded"], 20);
}

#[tokio::test]
async fn a_frozen_gateway_costs_a_timeout_and_a_resend_is_not_doubled() {
    let faults = Faults {
        freeze_requests: [3].into(),
        ..Faults::default()
    };
    let flags = ["--timeout", "300ms", "--concurrency", "1", "--retry", "1"];
    let fake = Fake::start(faults.clone()).await;
    let run = Harness::new().replay(&[&fake], &flags[..4]).await;
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(
        run.counts(&["accepted", "persisted", "unanswered"]),
        [400, 400, 100]
    );
    assert_eq!(run.json["unanswered_by_code"]["timeout"], 100);

    let fake = Fake::start(faults).await;
    let run = Harness::new().replay(&[&fake], &flags).await;
    assert_eq!(run.code, 0, "{run:?}");
    let names = ["accepted", "persisted", "duplicate", "resent"];
    assert_eq!(run.counts(&names), [500, 400, 100, 100], "{run:?}");
}

#[tokio::test]
async fn a_database_that_is_away_is_waited_for() {
    let faults = Faults {
        lookups_away: 3,
        lookups_queued: 3,
        ..Faults::default()
    };
    let fake = Fake::start(faults).await;
    let run = Harness::new().replay(&[&fake], &[]).await;
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.counts(&["persisted", "lookups_repeated"]), [500, 3]);
}

#[tokio::test]
async fn servers_and_key_come_from_the_endpoints_file_above() {
    let one = Fake::start(Faults::default()).await;
    let two = Fake::join(Arc::clone(&one.system), Faults::default()).await;
    let harness = Harness::new();
    std::fs::create_dir_all(harness.path(".weir")).unwrap();
    std::fs::create_dir_all(harness.path("a/b")).unwrap();
    let endpoints = serde_json::json!({"gateway": [one.url(), two.url()], "status": [two.url()],
        "admin": {}, "nats_url": "", "database_url": "", "pids": {},
        "partners": [{"id": 1, "name": "xrides", "api_key": KEY}]});
    harness.file(".weir/endpoints.json", &endpoints.to_string());
    let sample = sample();
    let mut command = harness.command(&[sample.to_str().unwrap(), "--batch", "50"]);
    let run = harness
        .finish(command.current_dir(harness.path("a/b")).spawn().unwrap())
        .await;
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(one.writes(), 10);
}

#[tokio::test]
async fn the_pace_is_global() {
    let fake = Fake::start(Faults::default()).await;
    let flags = ["--batch", "10", "--rate", "1000", "--limit", "300"];
    let run = Harness::new().replay(&[&fake], &flags).await;
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.counts(&["rows", "sent", "persisted"]), [300, 300, 300]);
    let seconds = run.json["push_seconds"].as_f64().unwrap();
    assert!(
        seconds >= 0.29,
        "the last ten were due after 0.29 s: {seconds}"
    );
}

#[tokio::test]
async fn ctrl_c_stops_sending_and_still_closes_the_books() {
    let fake = Fake::start(Faults::default()).await;
    let harness = Harness::new();
    let (url, sample) = (fake.url(), sample());
    let mut flags = vec![
        sample.to_str().unwrap(),
        "--url",
        &url,
        "--status-url",
        &url,
    ];
    flags.extend([
        "--key",
        KEY,
        "--batch",
        "5",
        "--rate",
        "50",
        "--json",
        "report.json",
    ]);
    let child = harness.command(&flags).spawn().unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
    let arrived = async {
        let mut look = tokio::time::interval(Duration::from_millis(5));
        while fake.writes() < 2 {
            look.tick().await;
        }
    };
    let within = Duration::from_secs(20);
    tokio::time::timeout(within, arrived)
        .await
        .expect("rows arrive");
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let run = harness.finish(child).await;
    assert_eq!(run.code, 1, "{run:?}");
    assert_eq!(run.json["interrupted"], true);
    assert_eq!(run.json["adds_up"], true);
    let counts = run.counts(&["sent", "persisted"]);
    assert!(
        counts[0] == counts[1] && (10..500).contains(&counts[0]),
        "{run:?}"
    );
    assert!(run.stdout.contains("rows not sent"), "{run:?}");
}
