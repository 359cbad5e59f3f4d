//! What outlived its parent for a moment: children that have not noticed yet, and a few bytes of
//! System V shared memory by which PostgreSQL knows that they have not.
//!
//! Every child runs in a directory of the stack or test that it belongs to, and that is how it is
//! found: a process id from a file could be somebody else's by now.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::eventually::eventually;

/// How long children may take to notice that their parent is gone. PostgreSQL's immediate shutdown
/// allows its own children 5 s.
const NOTICE_GRACE: Duration = Duration::from_secs(7);
/// How long SIGKILL may take to show.
const KILL_GRACE: Duration = Duration::from_secs(5);
/// The programs that run here. A person's shell may stand in one of our directories, too.
const PROGRAMS: [&str; 5] = [
    "nats-server",
    "postgres",
    "ingest-gateway",
    "persist-worker",
    "status-api",
];

/// Our programs that run in `directory` or below it.
fn processes(directory: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| pid_if_ours(&entry.path(), &entry.file_name(), directory))
        .collect()
}

fn pid_if_ours(proc_entry: &Path, name: &OsStr, directory: &Path) -> Option<Pid> {
    let raw = name.to_str()?.parse().ok()?;
    let runs_in = fs::read_link(proc_entry.join("cwd")).ok()?;
    if !runs_in.starts_with(directory) {
        return None;
    }
    let program = fs::read_to_string(proc_entry.join("comm")).ok()?;
    PROGRAMS
        .contains(&program.trim_end())
        .then(|| Pid::from_raw(raw))
        .flatten()
}

/// Sends a signal to each.
pub(crate) fn signal(directory: &Path, signal: Signal) {
    for pid in processes(directory) {
        rustix::process::kill_process(pid, signal).ok();
    }
}

/// Waits until none is left, with SIGKILL for those that do not notice. To be called only when
/// their parent is gone.
pub(crate) async fn end(directory: &Path) {
    let gone = || async { processes(directory).is_empty().then_some(()) };
    if eventually(NOTICE_GRACE, gone).await.is_none() {
        signal(directory, Signal::KILL);
        eventually(KILL_GRACE, gone).await;
    }
}

/// SIGKILL to each, until none is left.
pub(crate) fn end_blocking(directory: &Path) {
    let deadline = Instant::now() + KILL_GRACE;
    while !processes(directory).is_empty() && Instant::now() < deadline {
        signal(directory, Signal::KILL);
        std::thread::yield_now();
    }
}

/// Removes the shared memory that `postmaster.pid` in `data` names. To be called only when no
/// process of that PostgreSQL is left.
pub(crate) fn remove_shared_memory(data: &Path) {
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else {
        return; // It ended in order.
    };
    // Line 7: the segment's key and id.
    let line = text.lines().nth(6);
    if let Some(id) = line.and_then(|line| line.split_whitespace().nth(1)) {
        let mut command = Command::new("ipcrm");
        command.args(["-m", id]).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().ok();
    }
}
