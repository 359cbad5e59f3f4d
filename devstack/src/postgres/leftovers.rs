//! What a killed postmaster leaves: backends that have not noticed yet, and a few bytes of System V
//! shared memory by which PostgreSQL knows that they have not.
//!
//! Every process of PostgreSQL has its data directory as current directory; that is how they are
//! found.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::eventually::eventually;

/// How long backends may take to notice that their postmaster is gone.
const NOTICE_GRACE: Duration = Duration::from_secs(3);
/// How long SIGKILL may take to show.
const KILL_GRACE: Duration = Duration::from_secs(5);

/// The processes whose current directory is `data`.
fn processes(data: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let raw = entry.file_name().to_str()?.parse().ok()?;
            let directory = fs::read_link(entry.path().join("cwd")).ok()?;
            (directory == data).then(|| Pid::from_raw(raw)).flatten()
        })
        .collect()
}

/// Sends a signal to each.
pub(super) fn signal(data: &Path, signal: Signal) {
    for pid in processes(data) {
        rustix::process::kill_process(pid, signal).ok();
    }
}

/// Waits until none is left, with SIGKILL for those that do not notice. To be called only when no
/// postmaster runs.
pub(super) async fn end(data: &Path) {
    let gone = || async { processes(data).is_empty().then_some(()) };
    if eventually(NOTICE_GRACE, gone).await.is_none() {
        signal(data, Signal::KILL);
        eventually(KILL_GRACE, gone).await;
    }
}

/// SIGKILL to each, until none is left. To be called only when no postmaster runs.
pub(super) fn end_blocking(data: &Path) {
    let deadline = std::time::Instant::now() + KILL_GRACE;
    while !processes(data).is_empty() && std::time::Instant::now() < deadline {
        signal(data, Signal::KILL);
        std::thread::yield_now();
    }
}

/// Removes the shared memory that `postmaster.pid` names. To be called only when no process is
/// left and the data is about to be deleted: PostgreSQL's own restart takes care of it otherwise.
pub(super) fn remove_shared_memory(data: &Path) {
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else {
        return; // It ended in order.
    };
    // Line 7: the segment's key and id.
    let id = text
        .lines()
        .nth(6)
        .and_then(|line| line.split_whitespace().nth(1));
    if let Some(id) = id {
        let mut command = Command::new("ipcrm");
        command.args(["-m", id]).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().ok();
    }
}
