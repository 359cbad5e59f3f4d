//! Starts children that die again, and keeps logs from growing without bound.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::{Shared, Slot};
use crate::chain;
use crate::process::Process;

/// Between a death and the new start, and between two tries.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// How often logs are measured.
const LOG_CHECK_EVERY: Duration = Duration::from_secs(30);
/// A log that has grown past this becomes `<name>.log.1`.
const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// One supervisor per place, and one for all logs.
pub(super) fn all(shared: &Arc<Shared>) -> Vec<JoinHandle<()>> {
    let mut tasks: Vec<_> = shared
        .slots
        .iter()
        .map(|slot| tokio::spawn(keep_running(Arc::clone(shared), Arc::clone(slot))))
        .collect();
    tasks.push(tokio::spawn(bound_logs(Arc::clone(shared))));
    tasks
}

async fn keep_running(shared: Arc<Shared>, slot: Arc<Slot>) {
    loop {
        let Some(process) = slot.process() else {
            return; // Never started, so there is nothing to keep.
        };
        let ended = tokio::select! {
            () = shared.stopping.cancelled() => return,
            ended = process.exited() => ended,
        };
        if may_restart(&shared, &slot) {
            let (title, pid) = (slot.title(), process.pid());
            (shared.notices)(&format!(
                "{title} (pid {pid}) died ({ended}); starting it again in a second"
            ));
        }
        if !bring_back(&shared, &slot, &process).await {
            return;
        }
    }
}

/// Tries until something runs in the place again; false when the stack is stopping.
async fn bring_back(shared: &Shared, slot: &Slot, dead: &Arc<Process>) -> bool {
    loop {
        tokio::select! {
            () = shared.stopping.cancelled() => return false,
            () = tokio::time::sleep(RESTART_AFTER) => {}
        }
        let replaced = slot.process().is_some_and(|now| !Arc::ptr_eq(&now, dead));
        if replaced {
            return true;
        }
        if !may_restart(shared, slot) {
            continue;
        }
        let started = tokio::select! {
            () = shared.stopping.cancelled() => return false,
            started = slot.start() => started,
        };
        match started.and_then(|()| shared.publish()) {
            Ok(()) => {
                let (title, pid) = (slot.title(), slot.pid());
                (shared.notices)(&format!("{title} runs again (pid {pid})"));
                return true;
            }
            Err(error) => (shared.notices)(&format!(
                "{} did not start again, trying on: {}",
                slot.title(),
                chain(&error)
            )),
        }
    }
}

fn may_restart(shared: &Shared, slot: &Slot) -> bool {
    shared.supervises.load(Ordering::SeqCst) && !slot.is_held_down()
}

async fn bound_logs(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            () = tokio::time::sleep(LOG_CHECK_EVERY) => {}
        }
        for slot in &shared.slots {
            if let Err(error) = roll(slot.log(), LOG_BYTES_MAX) {
                tracing::warn!(log = %slot.log().display(), %error, "cannot roll a log");
            }
        }
    }
}

/// Copies and empties a log that is too long. Its writer appends, so it goes on at the beginning;
/// the few lines that it writes between the two steps are lost.
fn roll(log: &Path, bytes_max: u64) -> io::Result<()> {
    if fs::metadata(log)?.len() <= bytes_max {
        return Ok(());
    }
    fs::copy(log, log.with_extension("log.1"))?;
    fs::OpenOptions::new().write(true).open(log)?.set_len(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_starts_over_and_keeps_its_last_part_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("worker-0.log");
        fs::write(&log, "0123456789").unwrap();
        roll(&log, 10).unwrap();
        assert_eq!(fs::read(&log).unwrap().len(), 10);
        roll(&log, 9).unwrap();
        assert_eq!(fs::read(&log).unwrap().len(), 0);
        let rolled = directory.path().join("worker-0.log.1");
        assert_eq!(fs::read(rolled).unwrap(), b"0123456789");
    }
}
