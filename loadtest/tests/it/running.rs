//! `loadtest run`: schedules, books, objectives, exit codes.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use crate::fake::{Fake, Faults, KEY, OTHER_KEY};

/// Few generators at a time: each wants a processor when it wants one.
static TURNS: Semaphore = Semaphore::const_new(2);

pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) json: Value,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n{}\n{}", self.code, self.stdout, self.stderr)
    }
}

pub(crate) struct Harness {
    pub(crate) directory: TempDir,
}

impl Harness {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A command in a directory of its own, with nothing of WEIR_* inherited.
    pub(crate) fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
        command
            .arg("run")
            .args(flags)
            .env_clear()
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub(crate) async fn bare(&self, flags: &[&str]) -> Run {
        let _turn = TURNS.acquire().await.unwrap();
        self.finish(self.command(flags).spawn().unwrap()).await
    }

    pub(crate) async fn finish(&self, child: Child) -> Run {
        let output = child.wait_with_output().await.unwrap();
        let json = std::fs::read(self.path("report.json")).unwrap_or_default();
        Run {
            code: output.status.code().expect("not ended by a signal"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            json: serde_json::from_slice(&json).unwrap_or_default(),
        }
    }

    pub(crate) fn start(&self, fake: &Fake, flags: &[&str]) -> Child {
        let url = fake.url();
        let mut all = vec!["--url", &url, "--status-url", &url, "--json", "report.json"];
        if !flags.contains(&"--key") {
            all.extend(["--key", KEY]);
        }
        if !flags.contains(&"--unanswered-wait") {
            all.extend(["--unanswered-wait", "0s"]);
        }
        all.extend(flags);
        self.command(&all).spawn().unwrap()
    }

    pub(crate) async fn run(&self, fake: &Fake, flags: &[&str]) -> Run {
        let _turn = TURNS.acquire().await.unwrap();
        self.finish(self.start(fake, flags)).await
    }
}

impl Run {
    /// Everything was met. A machine busy with other tests may starve the generator, which then
    /// rightly says so: what was sent, and what became of it, is as good.
    pub(crate) fn is_met(&self) -> bool {
        self.code == 0 || (self.code == 3 && !self.misses_an_objective())
    }

    /// An objective was missed, on a machine as busy as above.
    pub(crate) fn is_missed(&self) -> bool {
        self.code == 2 || (self.code == 3 && self.misses_an_objective())
    }

    fn misses_an_objective(&self) -> bool {
        let objectives = self.json["objectives"].as_array();
        objectives.is_some_and(|all| all.iter().any(|it| it["met"] == false))
    }

    pub(crate) fn counts(&self, names: &[&str]) -> Vec<u64> {
        let count = |name: &&str| self.json["counts"][*name].as_u64();
        names
            .iter()
            .map(|name| count(name).unwrap_or_else(|| panic!("{name}: {self:?}")))
            .collect()
    }

    pub(crate) fn ms(&self, latency: &str, point: &str) -> f64 {
        let value = &self.json["latency"][latency]["summary"][point];
        value
            .as_f64()
            .unwrap_or_else(|| panic!("{latency}.{point}: {self:?}"))
    }

    pub(crate) fn reasons(&self) -> String {
        self.json["verdict"]["reasons"].to_string()
    }
}

const SHORT: [&str; 4] = ["--rate", "400", "--duration", "1s"];

pub(crate) fn with<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    SHORT.into_iter().chain(flags.iter().copied()).collect()
}

pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    let mut look = tokio::time::interval(Duration::from_millis(5));
    let seen = async {
        while !condition() {
            look.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), seen)
        .await
        .expect("it happens");
}

#[tokio::test]
async fn every_record_is_sent_on_time_and_followed_to_its_outcome() {
    for (flags, requests) in [
        (vec![], 400),
        (vec!["--body", "array", "--batch", "20"], 20),
        (vec!["--batch", "10"], 40),
        (vec!["--http", "2"], 400),
        (
            vec!["--http", "2", "--batch", "20", "--connections", "1"],
            20,
        ),
    ] {
        let fake = Fake::start(Faults::default()).await;
        let slos = [
            "--slo",
            "accept.p99<900ms",
            "--slo",
            "visible.p99<5s",
            "--slo",
            "lost=0",
        ];
        let flags: Vec<_> = flags
            .into_iter()
            .chain(slos)
            .chain(["--slo", "rate>=0.9"])
            .collect();
        let run = Harness::new().run(&fake, &with(&flags)).await;
        assert!(run.is_met(), "{run:?}");
        let names = [
            "intended",
            "sent",
            "accepted",
            "persisted",
            "lost",
            "unsettled",
            "doubled",
        ];
        assert_eq!(run.counts(&names), [400, 400, 400, 400, 0, 0, 0], "{run:?}");
        assert_eq!(fake.writes(), requests);
        assert_eq!(run.json["schema"], "weir.loadtest.run");
        assert_eq!(run.json["http_statuses"]["202"], requests);
        assert_eq!(run.json["latency"]["visible"]["summary"]["count"], 400);
        let series = run.json["series"].as_array().unwrap();
        for name in ["intended", "sent", "accepted", "persisted"] {
            let sum: u64 = series.iter().map(|it| it[name].as_u64().unwrap()).sum();
            assert_eq!(sum, 400, "{name}: {series:?}");
        }
        let system = fake.system.lock().unwrap();
        let mut ids: Vec<_> = system
            .rides
            .iter()
            .map(|it| it["id"].as_i64().unwrap())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 400, "ids are fresh");
    }
}

#[tokio::test]
async fn a_stall_shows_from_the_intended_time_and_hides_from_the_other() {
    let faults = Faults {
        stall: Some((500, Duration::from_millis(1_200))),
        ..Faults::default()
    };
    let fake = Fake::start(faults).await;
    // What is under way when it stalls is less than 1% of all.
    let flags = ["--rate", "500", "--duration", "4s", "--connections", "8"];
    let run = Harness::new().run(&fake, &flags).await;
    assert!(run.is_met(), "{run:?}");
    assert_eq!(
        run.counts(&["intended", "sent", "persisted"]),
        [2_000; 3],
        "{run:?}"
    );
    assert!(run.ms("accept_corrected", "p99_ms") > 1_000.0, "{run:?}");
    assert!(run.ms("accept_uncorrected", "p99_ms") < 500.0, "{run:?}");
    assert!(run.ms("accept_uncorrected", "max_ms") > 1_000.0, "{run:?}");
    // The schedule went on.
    let series = run.json["series"].as_array().unwrap();
    for second in &series[..4] {
        let intended = second["intended"].as_u64().unwrap();
        assert!((499..=501).contains(&intended), "{second}");
    }
    assert_eq!(
        run.json["generator"]["valid"], true,
        "waiting for a server is not its fault"
    );
}

#[tokio::test]
async fn one_seed_sends_the_same_bytes_but_not_twice_to_one_system() {
    let mut sent = Vec::new();
    for seed in ["77", "77", "78"] {
        let fake = Fake::start(Faults::default()).await;
        let harness = Harness::new();
        let flags = with(&["--seed", seed, "--duplicates", "3%", "--bad", "1%"]);
        let run = harness.run(&fake, &flags).await;
        assert!(run.is_met(), "{run:?}");
        let again = harness.run(&fake, &flags).await;
        assert_eq!(again.code, 1, "{again:?}");
        assert!(
            again.stderr.contains(&format!("seed {seed} was used")),
            "{again:?}"
        );
        let mut rides: Vec<_> = fake
            .system
            .lock()
            .unwrap()
            .rides
            .iter()
            .map(Value::to_string)
            .collect();
        rides.sort();
        sent.push(rides);
    }
    assert_eq!(sent[0], sent[1]);
    assert_ne!(sent[0], sent[2]);
}

#[tokio::test]
async fn what_was_asked_for_is_no_error() {
    let fake = Fake::start(Faults::default()).await;
    let flags = [
        "--rate",
        "2000",
        "--duration",
        "1s",
        "--batch",
        "10",
        "--duplicates",
        "2%",
    ];
    let flags: Vec<_> = flags
        .into_iter()
        .chain(["--bad", "1%", "--slo", "errors=0"])
        .collect();
    let run = Harness::new().run(&fake, &flags).await;
    assert!(run.is_met(), "{run:?}");
    let names = [
        "rejected",
        "bad_sent",
        "duplicate",
        "duplicates_sent",
        "unexpected_duplicates",
    ];
    let counts = run.counts(&names);
    assert!(
        counts[0] == counts[1] && (5..50).contains(&counts[0]),
        "{run:?}"
    );
    assert!(
        counts[2] == counts[3] && (10..80).contains(&counts[2]),
        "{run:?}"
    );
    assert_eq!(counts[4], 0);
}

#[tokio::test]
async fn partners_take_turns() {
    let fake = Fake::start(Faults::default()).await;
    let run = Harness::new()
        .run(&fake, &with(&["--key", KEY, "--key", OTHER_KEY]))
        .await;
    assert!(run.is_met(), "{run:?}");
    assert_eq!(run.json["load"]["partners"], 2);
    let system = fake.system.lock().unwrap();
    for key in [KEY, OTHER_KEY] {
        assert_eq!(system.keys[&format!("Bearer {key}")], 200);
    }
}

#[tokio::test]
async fn objectives_decide_the_exit_code() {
    let fake = Fake::start(Faults::default()).await;
    let flags = with(&["--slo", "accept.p50<1us", "--slo", "errors<0.01%"]);
    let run = Harness::new().run(&fake, &flags).await;
    assert!(run.is_missed(), "{run:?}");
    let met: Vec<_> = run.json["objectives"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["met"])
        .collect();
    assert_eq!(met, [&Value::Bool(false), &Value::Bool(true)]);
    assert!(run.reasons().contains("accept.p50<1us"), "{run:?}");
}

#[tokio::test]
async fn the_closed_model_sends_as_fast_as_it_is_answered() {
    let fake = Fake::start(Faults::default()).await;
    let run = Harness::new()
        .run(&fake, &["--closed", "4", "--duration", "500ms"])
        .await;
    assert!(run.is_met(), "{run:?}");
    let counts = run.counts(&["intended", "sent", "persisted"]);
    assert!(
        counts[0] == counts[1] && counts[1] == counts[2] && counts[0] > 20,
        "{run:?}"
    );
    assert_eq!(run.json["load"]["closed"], 4);
    assert_eq!(run.json["load"]["target_rate"], Value::Null);
}

#[tokio::test]
async fn ctrl_c_still_gives_a_whole_report() {
    let fake = Fake::start(Faults::default()).await;
    let harness = Harness::new();
    let child = harness.start(&fake, &["--profile", "soak", "--rate", "200"]);
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
    until(|| fake.writes() > 20).await;
    kill(pid, Signal::SIGINT).unwrap();
    let run = harness.finish(child).await;
    assert_eq!(run.code, 1, "{run:?}");
    assert_eq!(run.json["interrupted"], true);
    let counts = run.counts(&["intended", "sent", "persisted"]);
    assert!(
        counts[0] == counts[1] && counts[1] == counts[2] && counts[0] > 20,
        "{run:?}"
    );
}

#[tokio::test]
async fn the_knee_is_where_the_server_ends() {
    let faults = Faults {
        per_second: Some(500),
        ..Faults::default()
    };
    let fake = Fake::start(faults).await;
    let flags = [
        "--profile",
        "find-capacity",
        "--rate",
        "120",
        "--duration",
        "800ms",
    ];
    let flags: Vec<_> = flags
        .into_iter()
        .chain(["--settle-timeout", "5s"])
        .collect();
    let run = Harness::new().run(&fake, &flags).await;
    assert!(run.is_met(), "{run:?}");
    let found = &run.json["find_capacity"];
    let knee = found["knee_rate"].as_f64().unwrap();
    assert!(knee <= 620.0, "{knee}: {run:?}");
    // A generator that was starved itself, and says so, may have stopped short of it.
    assert!(knee >= 350.0 || run.code == 3, "{knee}: {run:?}");
    assert!(found["steps"].as_array().unwrap().len() >= 4, "{run:?}");
    assert_eq!(run.counts(&["lost", "unsettled"]), [0, 0]);
}

#[tokio::test]
async fn actions_reach_the_processes_of_the_stack() {
    let fake = Fake::start(Faults::default()).await;
    let harness = Harness::new();
    let mut worker = Command::new("sleep")
        .arg("60")
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let endpoints = serde_json::json!({"gateway": [fake.url()], "status": [fake.url()],
        "admin": {}, "partners": [{"id": 1, "name": "xrides", "api_key": KEY}],
        "pids": {"worker": [worker.id()]}});
    std::fs::create_dir(harness.path(".weir")).unwrap();
    std::fs::write(harness.path(".weir/endpoints.json"), endpoints.to_string()).unwrap();
    let flags = with(&[
        "--at",
        "200ms",
        "kill worker",
        "--at",
        "100ms",
        "freeze worker 50ms",
    ]);
    let flags: Vec<_> = flags.into_iter().chain(["--json", "report.json"]).collect();
    let run = harness.bare(&flags).await;
    assert!(run.is_met(), "{run:?}");
    let actions = run.json["actions"].as_array().unwrap();
    assert_eq!(actions.len(), 2);
    for action in actions {
        assert!(
            action["error"].is_null() && !action["done_at_seconds"].is_null(),
            "{run:?}"
        );
    }
    assert!(!worker.wait().await.unwrap().success());

    let flags = with(&["--at", "1s", "kill gateway"]);
    let run = harness.bare(&flags).await;
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.contains("lists no gateway number 0"), "{run:?}");
}
