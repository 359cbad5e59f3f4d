//! `loadtest compare` as CI runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples/run-v1.json");

fn compare(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .arg("compare")
        .args(arguments)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

/// The sample, changed.
fn changed(directory: &Path, change: impl FnOnce(&mut serde_json::Value)) -> PathBuf {
    let mut report = serde_json::from_str(&std::fs::read_to_string(SAMPLE).unwrap()).unwrap();
    change(&mut report);
    let path = directory.join("changed.json");
    std::fs::write(&path, report.to_string()).unwrap();
    path
}

#[test]
fn the_exit_code_is_the_verdict() {
    let directory = tempfile::tempdir().unwrap();
    let slower = changed(directory.path(), |report| {
        let p50 = &mut report["latency"]["accept_corrected"]["summary"]["p50_ms"];
        *p50 = (p50.as_f64().unwrap() * 1.5).into();
    });
    let slower = slower.to_str().unwrap();
    for (base, candidate, threshold, code, words) in [
        (SAMPLE, SAMPLE, "10%", 0, "verdict: the same"),
        (SAMPLE, slower, "10%", 2, "verdict: WORSE"),
        (slower, SAMPLE, "10%", 0, "verdict: better"),
        (SAMPLE, slower, "60%", 0, "verdict: the same"),
    ] {
        let output = compare(&[base, candidate, "--threshold", threshold]);
        assert_eq!(output.status.code(), Some(code), "{}", stdout(&output));
        assert!(stdout(&output).contains(words), "{}", stdout(&output));
    }
}

#[test]
fn an_invalid_run_has_its_own_code() {
    let directory = tempfile::tempdir().unwrap();
    let invalid = changed(directory.path(), |report| {
        report["verdict"]["outcome"] = "invalid".into();
    });
    let output = compare(&[SAMPLE, invalid.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn what_cannot_be_read_and_wrong_usage_are_told_apart() {
    let unreadable = compare(&[SAMPLE, "/nowhere/b.json"]);
    assert_eq!(unreadable.status.code(), Some(1));
    let message = String::from_utf8(unreadable.stderr).unwrap();
    assert!(message.contains("/nowhere/b.json"), "{message}");
    let other = concat!(env!("CARGO_MANIFEST_DIR"), "/samples/bookings.csv");
    assert_eq!(compare(&[SAMPLE, other]).status.code(), Some(1));
    assert_eq!(compare(&[SAMPLE]).status.code(), Some(64));
    let no_unit = compare(&[SAMPLE, SAMPLE, "--threshold", "10"]);
    assert_eq!(no_unit.status.code(), Some(64));
}
