//! A generator that cannot keep its own schedule says so.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;

use crate::fake::{Fake, Faults, KEY};
use crate::running::{Harness, until};

#[tokio::test]
async fn a_generator_that_stood_still_is_invalid() {
    let fake = Fake::start(Faults::default()).await;
    let harness = Harness::new();
    let child = harness.start(&fake, &["--rate", "300", "--duration", "3s"]);
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
    until(|| fake.writes() > 100).await;
    kill(pid, Signal::SIGSTOP).unwrap();
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    kill(pid, Signal::SIGCONT).unwrap();
    let run = harness.finish(child).await;
    assert_eq!(run.code, 3, "{run:?}");
    assert_eq!(run.json["generator"]["valid"], false);
    assert!(
        run.json["generator"]["behind_max_ms"].as_f64().unwrap() > 1_000.0,
        "{run:?}"
    );
    // Late, but all of it, and from the intended moment.
    assert_eq!(
        run.counts(&["intended", "sent", "persisted"]),
        [900; 3],
        "{run:?}"
    );
    assert!(run.ms("accept_corrected", "max_ms") > 1_000.0, "{run:?}");
}

/// As an SRE would meet it: a generator that gets next to nothing of a busy processor. Ignored
/// since it makes the machine busy; run by name.
#[tokio::test]
#[ignore = "keeps a processor busy"]
async fn a_starved_generator_is_invalid() {
    let fake = Fake::start(Faults::default()).await;
    let hogs: Vec<_> = (0..4)
        .map(|_| {
            let spin = "while :; do :; done";
            let mut hog = Command::new("taskset");
            hog.args(["-c", "0", "sh", "-c", spin])
                .kill_on_drop(true)
                .spawn()
                .unwrap()
        })
        .collect();
    let harness = Harness::new();
    let url = fake.url();
    let output = Command::new("taskset")
        .args([
            "-c",
            "0",
            "nice",
            "-n",
            "19",
            env!("CARGO_BIN_EXE_loadtest"),
            "run",
        ])
        .args([
            "--url",
            &url,
            "--status-url",
            &url,
            "--key",
            KEY,
            "--json",
            "report.json",
        ])
        .args(["--rate", "3000", "--duration", "5s", "--timeout", "5s"])
        .current_dir(harness.directory.path())
        .output()
        .await
        .unwrap();
    drop(hogs);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{stdout}\n{stderr}");
}
