//! What happens to the services on the way: `--at 20s 'kill worker'`, `--at 30s 'freeze nats 5s'`.
//!
//! Signals go only to process ids that stand in `.weir/endpoints.json` at that moment (it is read
//! again each time, since what was killed has been started anew), and, to freeze PostgreSQL, to
//! the children of its postmaster. What was frozen is thawed when the run ends, however it ends.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use chassis::shutdown::Shutdown;
use chassis::units::parse_duration;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::endpoints::{self, Endpoints, EndpointsError};
use crate::report::schema::Action as Done;

/// What is to be done, to whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Action {
    text: String,
    deed: Deed,
    role: String,
    /// Which of them, from 0.
    index: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Deed {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Stop,
    /// SIGSTOP; SIGCONT after a while, or by `thaw`, or when the run ends.
    Freeze(Option<Duration>),
    /// SIGCONT.
    Thaw,
}

const FORM: &str = "write it like 'kill worker', 'kill worker 1', 'stop gateway', \
                    'freeze nats 5s' or 'thaw nats'";

impl FromStr for Action {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut words = text.split_whitespace();
        let (Some(verb), Some(role)) = (words.next(), words.next()) else {
            return Err(FORM.to_owned());
        };
        let (mut index, mut duration) = (0, None);
        for (place, word) in words.enumerate() {
            if let (0, Ok(number)) = (place, word.parse()) {
                index = number;
            } else if duration.is_none() && verb == "freeze" {
                duration = Some(parse_duration(word)?);
            } else {
                return Err(format!("{word:?} is too much; {FORM}"));
            }
        }
        let deed = match verb {
            "kill" => Deed::Kill,
            "stop" => Deed::Stop,
            "freeze" => Deed::Freeze(duration),
            "thaw" => Deed::Thaw,
            other => return Err(format!("no action {other:?}; {FORM}")),
        };
        Ok(Self {
            text: text.to_owned(),
            deed,
            role: role.to_owned(),
            index,
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why an action could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActionError {
    #[error(transparent)]
    Endpoints(#[from] EndpointsError),
    #[error("{} lists no {role} number {index}", .path.display())]
    Nobody {
        path: PathBuf,
        role: String,
        index: usize,
    },
    #[error("cannot send {signal} to process {pid}: {source}")]
    Signal {
        signal: Signal,
        pid: u32,
        #[source]
        source: Errno,
    },
}

impl Action {
    /// The process that is meant now.
    fn pid(&self, path: &Path, endpoints: &Endpoints) -> Result<u32, ActionError> {
        let pids = endpoints
            .pids
            .get(&self.role)
            .map_or(&[][..], Vec::as_slice);
        // 0 and 1 are no services, whatever the file says: they mean groups and everybody.
        let pid = pids.get(self.index).copied().filter(|pid| *pid > 1);
        pid.ok_or_else(|| ActionError::Nobody {
            path: path.to_owned(),
            role: self.role.clone(),
            index: self.index,
        })
    }
}

/// Makes sure before a run that every action has somebody to be done to.
pub(crate) fn check(planned: &[(Duration, Action)], path: &Path) -> Result<(), ActionError> {
    let endpoints = endpoints::read(path)?;
    for (_, action) in planned {
        action.pid(path, &endpoints)?;
    }
    Ok(())
}

/// Processes that are frozen; thawed when dropped.
#[derive(Debug, Default)]
struct Frozen(Vec<u32>);

impl Frozen {
    fn thaw(&mut self, pids: &[u32]) {
        for pid in pids {
            // It may be gone: then there is nothing to thaw.
            let _ = send(*pid, Signal::SIGCONT);
        }
        self.0.retain(|pid| !pids.contains(pid));
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let all = std::mem::take(&mut self.0);
        self.thaw(&all);
    }
}

/// Does everything at its time, counted from `started`, until `stop` begins; what was frozen is
/// thawed by then. Returns what was planned with what came of it.
pub(crate) async fn perform(
    planned: Vec<(Duration, Action)>,
    path: PathBuf,
    started: Instant,
    stop: Shutdown,
) -> Vec<Done> {
    let mut done: Vec<Done> = planned
        .iter()
        .map(|(at, action)| Done {
            at_seconds: at.as_secs_f64(),
            text: action.text.clone(),
            ..Done::default()
        })
        .collect();
    let mut frozen = Frozen::default();
    // What is to be thawed, when, and for which entry.
    let mut thaws: Vec<(Instant, Vec<u32>, usize)> = Vec::new();
    let mut order: Vec<usize> = (0..planned.len()).collect();
    order.sort_by_key(|index| planned[*index].0);
    let mut order = order.into_iter().peekable();
    loop {
        let next_action = order.peek().map(|index| started + planned[*index].0);
        let next_thaw = thaws.iter().map(|(at, ..)| *at).min();
        let Some(next) = [next_action, next_thaw].into_iter().flatten().min() else {
            break;
        };
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            () = stop.begun() => break,
        }
        if next_thaw == Some(next) {
            let (due, later) = thaws.into_iter().partition(|(at, ..)| *at <= next);
            thaws = later;
            for (_, pids, index) in due {
                frozen.thaw(&pids);
                done[index].done_at_seconds = Some(started.elapsed().as_secs_f64());
            }
            continue;
        }
        let index = order.next().expect("there is a next action");
        let action = &planned[index].1;
        match act(action, &path, &mut frozen) {
            Ok(pids) => match action.deed {
                Deed::Freeze(Some(length)) => thaws.push((Instant::now() + length, pids, index)),
                _ => done[index].done_at_seconds = Some(started.elapsed().as_secs_f64()),
            },
            Err(error) => done[index].error = Some(error.to_string()),
        }
    }
    drop(frozen);
    for (_, _, index) in thaws {
        done[index].done_at_seconds = Some(started.elapsed().as_secs_f64());
    }
    done
}

/// Does one thing; returns whom it was done to.
fn act(action: &Action, path: &Path, frozen: &mut Frozen) -> Result<Vec<u32>, ActionError> {
    let endpoints = endpoints::read(path)?;
    let pid = action.pid(path, &endpoints)?;
    let signal = match action.deed {
        Deed::Kill => Signal::SIGKILL,
        Deed::Stop => Signal::SIGTERM,
        Deed::Freeze(_) => Signal::SIGSTOP,
        Deed::Thaw => Signal::SIGCONT,
    };
    let mut pids = vec![pid];
    if matches!(action.deed, Deed::Freeze(_) | Deed::Thaw) && action.role == "postgres" {
        // A stopped postmaster alone stops nothing: its children answer.
        pids.extend(children(pid));
    }
    let signalled = |pid: u32| {
        send(pid, signal).map_err(|source| ActionError::Signal {
            signal,
            pid,
            source,
        })
    };
    match action.deed {
        Deed::Thaw => {
            signalled(pid)?;
            frozen.thaw(&pids);
        }
        Deed::Freeze(_) => {
            signalled(pid)?;
            frozen.0.push(pid);
            for child in &pids[1..] {
                // A backend may have ended meanwhile.
                if send(*child, signal).is_ok() {
                    frozen.0.push(*child);
                }
            }
        }
        Deed::Kill | Deed::Stop => signalled(pid)?,
    }
    Ok(pids)
}

fn send(pid: u32, signal: Signal) -> Result<(), Errno> {
    let pid = i32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    kill(Pid::from_raw(pid), signal)
}

/// Processes whose parent is `pid`.
fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let text = tasks.unwrap_or_default();
    text.split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    #[test]
    fn actions_are_read() {
        let action: Action = "kill worker".parse().unwrap();
        assert_eq!((action.deed, action.index), (Deed::Kill, 0));
        let action: Action = "freeze gateway 1 250ms".parse().unwrap();
        let length = Duration::from_millis(250);
        assert_eq!((action.deed, action.index), (Deed::Freeze(Some(length)), 1));
        let action: Action = "freeze nats 5s".parse().unwrap();
        assert_eq!(action.deed, Deed::Freeze(Some(Duration::from_secs(5))));
        let action: Action = "thaw nats".parse().unwrap();
        assert_eq!((action.deed, action.role.as_str()), (Deed::Thaw, "nats"));
        for text in [
            "",
            "kill",
            "maim worker",
            "kill worker 5s",
            "freeze nats x",
            "stop a 1 2",
        ] {
            assert!(text.parse::<Action>().is_err(), "{text:?} was accepted");
        }
    }

    struct Sleeper(Child);

    impl Sleeper {
        fn new() -> Self {
            let child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn();
            Self(child.unwrap())
        }

        /// `T` when stopped, `S` when asleep, `Z` when dead.
        fn state(&self) -> char {
            let path = format!("/proc/{}/stat", self.0.id());
            let text = std::fs::read_to_string(path).unwrap();
            text.rsplit(") ").next().unwrap().chars().next().unwrap()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    async fn until(state: char, sleeper: &Sleeper) {
        let mut look = tokio::time::interval(Duration::from_millis(2));
        let seen = async {
            while sleeper.state() != state {
                look.tick().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), seen)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn processes_of_the_file_are_frozen_thawed_and_killed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("endpoints.json");
        let (nats, worker) = (Sleeper::new(), Sleeper::new());
        let text = serde_json::json!({"gateway": [], "status": [],
            "pids": {"nats": [nats.0.id()], "worker": [0, worker.0.id()]}});
        std::fs::write(&path, text.to_string()).unwrap();
        let ms = Duration::from_millis;
        let planned: Vec<(Duration, Action)> = [
            (80, "kill worker 1"),
            (0, "freeze nats 60ms"),
            (0, "kill gateway"),
            (0, "kill worker"),
            (3_600_000, "kill nats"),
        ]
        .into_iter()
        .map(|(at, text)| (ms(at), text.parse().unwrap()))
        .collect();
        assert!(matches!(
            check(&planned, &path),
            Err(ActionError::Nobody { .. })
        ));
        let stop = Shutdown::new();
        let started = Instant::now();
        let task = tokio::spawn(perform(planned, path.clone(), started, stop.clone()));
        until('T', &nats).await;
        until('S', &nats).await;
        until('Z', &worker).await;
        stop.begin();
        let done = task.await.unwrap();
        assert!(done[0].error.is_none() && done[0].done_at_seconds.unwrap() >= 0.08);
        assert!(done[1].done_at_seconds.unwrap() >= 0.06, "{:?}", done[1]);
        assert!(
            done[2]
                .error
                .as_ref()
                .unwrap()
                .contains("no gateway number 0")
        );
        assert!(
            done[3].error.is_some(),
            "process 0 is no worker: {:?}",
            done[3]
        );
        assert_eq!((&done[4].error, done[4].done_at_seconds), (&None, None));
        assert_eq!(nats.state(), 'S');
    }

    #[tokio::test]
    async fn what_is_frozen_is_thawed_when_the_run_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("endpoints.json");
        let nats = Sleeper::new();
        let text =
            serde_json::json!({"gateway": [], "status": [], "pids": {"nats": [nats.0.id()]}});
        std::fs::write(&path, text.to_string()).unwrap();
        let planned = vec![(Duration::ZERO, "freeze nats".parse().unwrap())];
        assert!(check(&planned, &path).is_ok());
        let stop = Shutdown::new();
        let later = (Duration::from_secs(3_600), "thaw nats".parse().unwrap());
        let planned = planned.into_iter().chain([later]).collect();
        let task = tokio::spawn(perform(planned, path, Instant::now(), stop.clone()));
        until('T', &nats).await;
        stop.begin();
        task.await.unwrap();
        until('S', &nats).await;
    }
}
