//! A child process that cannot outlive its parent.
//!
//! Each child leads a process group of its own, so the terminal's Ctrl-C reaches only the parent,
//! which then ends its children in the right order. Each is sent a signal by the kernel when its
//! parent dies (`PR_SET_PDEATHSIG`). That signal is sent when the *thread* that forked ends, so all
//! forks happen on one thread that lives as long as the process.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, WaitId, WaitIdOptions};
use tokio::sync::watch;

use crate::identity::Identity;

/// Forks waiting for the spawner thread; a caller waits when they are that many.
const SPAWN_QUEUE: usize = 64;
/// How long a dropped child is given after its gentle signal before SIGKILL.
const DROP_GRACE: Duration = Duration::from_secs(6);
/// How long SIGKILL may take to show: only a hung disk makes it long.
const KILL_GRACE: Duration = Duration::from_secs(10);

/// What to run and how.
#[derive(Debug)]
pub struct Launch {
    /// The program, its arguments, environment and directory.
    pub command: Command,
    /// For messages: `gateway-0`, `postgres`.
    pub name: String,
    /// Standard error goes to the end of this file, standard output too unless it is captured.
    pub log: PathBuf,
    /// As whom it runs.
    pub identity: Identity,
    /// What it is sent when its parent dies, and when its handle is dropped. SIGKILL for anything
    /// without children of its own.
    pub death_signal: Signal,
    /// Whether the first line of standard output is handed to [`Process::first_line`].
    pub captures_first_line: bool,
}

/// A child could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// Its log file could not be opened.
    #[error("cannot open the log file {} of {name}", .path.display())]
    Log {
        /// The child's name.
        name: String,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The program could not be run.
    #[error("cannot run {} as {name}", .program.display())]
    Run {
        /// The child's name.
        name: String,
        /// The program.
        program: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// A running child. Dropping it ends it and waits until it is gone.
#[derive(Debug)]
pub struct Process {
    name: String,
    death_signal: Signal,
    shared: Arc<Shared>,
    first_line: Option<watch::Receiver<Option<String>>>,
}

#[derive(Debug)]
struct Shared {
    pid: Pid,
    exit: Mutex<Option<ExitStatus>>,
    exited: Condvar,
    watch: watch::Sender<Option<ExitStatus>>,
}

impl Launch {
    /// A launch of `program` that logs to `log`, runs as the parent and dies by SIGKILL with it.
    #[must_use]
    pub fn new(name: impl Into<String>, program: &Path, log: &Path) -> Self {
        Self {
            command: Command::new(program),
            name: name.into(),
            log: log.to_path_buf(),
            identity: Identity::Own,
            death_signal: Signal::KILL,
            captures_first_line: false,
        }
    }

    /// Starts it.
    ///
    /// # Errors
    /// When the log file cannot be opened or the program cannot be run.
    pub fn spawn(mut self) -> Result<Process, SpawnError> {
        let log = append_to(&self.log).map_err(|source| SpawnError::Log {
            name: self.name.clone(),
            path: self.log.clone(),
            source,
        })?;
        let stdout = match (self.captures_first_line, log.try_clone()) {
            (false, Ok(copy)) => Stdio::from(copy),
            _ => Stdio::piped(),
        };
        let stdout_log = log.try_clone().ok();
        self.command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(log)
            .process_group(0);
        prepare_child(&mut self.command, self.identity.clone(), self.death_signal);
        let program = PathBuf::from(self.command.get_program());
        let mut child = spawn_on_lasting_thread(self.command).map_err(|source| {
            let name = self.name.clone();
            SpawnError::Run {
                name,
                program,
                source,
            }
        })?;
        let first_line = child
            .stdout
            .take()
            .map(|stdout| follow_stdout(&self.name, stdout, stdout_log));
        Ok(Process {
            shared: reap(&self.name, child),
            name: self.name,
            death_signal: self.death_signal,
            first_line,
        })
    }
}

impl Process {
    /// The name given at launch.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id; also the id of its process group.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.shared.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sends a signal; nothing happens if it has ended already.
    pub fn signal(&self, signal: Signal) {
        // The lock is held while signalling and while reaping, so the pid cannot be anyone else's.
        let exit = lock(&self.shared.exit);
        if exit.is_none() {
            rustix::process::kill_process(self.shared.pid, signal).ok();
        }
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *lock(&self.shared.exit)
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.exit_status().is_none()
    }

    /// A receiver that turns to the exit status when it ends.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<ExitStatus>> {
        self.shared.watch.subscribe()
    }

    /// Waits until it has ended. Cancel safe.
    pub async fn exited(&self) -> ExitStatus {
        let mut receiver = self.watch();
        let status = receiver.wait_for(Option::is_some).await;
        status
            .ok()
            .and_then(|status| *status)
            .expect("the sender lives in self and the value is present")
    }

    /// The first line of its standard output; `None` if it ended without one or was not captured.
    /// Cancel safe.
    pub async fn first_line(&self) -> Option<String> {
        let mut receiver = self.first_line.clone()?;
        let line = receiver.wait_for(Option::is_some).await.ok()?;
        line.clone()
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&self) {
        self.signal(Signal::KILL);
        self.exited().await;
    }

    /// Sends `signal` (after SIGCONT, since a stopped process answers none), waits `grace`, then
    /// sends SIGKILL. Says whether it ended by itself.
    pub async fn end(&self, signal: Signal, grace: Duration) -> bool {
        self.signal(Signal::CONT);
        self.signal(signal);
        if tokio::time::timeout(grace, self.exited()).await.is_ok() {
            return true;
        }
        self.kill().await;
        false
    }

    /// As [`Process::exited`] with a limit, for code without a runtime. Says whether it has ended.
    pub fn wait_blocking(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut exit = lock(&self.shared.exit);
        while exit.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            exit = self
                .shared
                .exited
                .wait_timeout(exit, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }
}

impl Process {
    /// Ends it as dropping it does, and waits until it is gone. Blocks.
    pub fn end_blocking(&self) {
        if !self.is_running() {
            return;
        }
        self.signal(self.death_signal);
        self.signal(Signal::CONT);
        if !self.wait_blocking(DROP_GRACE) {
            self.signal(Signal::KILL);
            self.wait_blocking(KILL_GRACE);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end_blocking();
    }
}

/// Sets up what the child does between fork and exec.
#[allow(
    unsafe_code,
    reason = "pre_exec is the only way to act in the child before exec; the closure makes system calls only"
)]
fn prepare_child(command: &mut Command, identity: Identity, death_signal: Signal) {
    let parent = rustix::process::getpid();
    let prepare = move || {
        listen_to_signals();
        identity.assume()?;
        // After the identity: changing the uid clears the setting.
        rustix::process::set_parent_process_death_signal(Some(death_signal))?;
        if rustix::process::getppid() != Some(parent) {
            // The parent died before the setting took hold.
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    };
    // SAFETY: the closure neither allocates nor locks; it makes system calls with data that was
    // prepared before the fork.
    unsafe {
        command.pre_exec(prepare);
    }
}

/// A shell starts what it runs in the background with SIGINT and SIGQUIT ignored, and a program
/// inherits that until it installs handlers: the kernel's signal at a parent's death would be lost.
#[allow(
    unsafe_code,
    reason = "the standard library offers no way to set a signal's disposition"
)]
fn listen_to_signals() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        // SAFETY: a system call with constant arguments, in a child that has one thread and no
        // handlers of its own yet.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

/// The groups of the tools (pip, cargo) that run at the moment.
static TOOLS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Runs a tool to its end, in a process group of its own and bound to this process's life. Standard
/// output and error are as the command says. Blocks.
///
/// # Errors
/// When it cannot be run.
pub fn run_tool(mut command: Command) -> io::Result<Output> {
    command.stdin(Stdio::null()).process_group(0);
    prepare_child(&mut command, Identity::Own, Signal::KILL);
    let child = spawn_on_lasting_thread(command)?;
    let group = Pid::from_child(&child);
    lock(&TOOLS).push(group);
    let output = child.wait_with_output();
    lock(&TOOLS).retain(|other| *other != group);
    output
}

/// SIGKILL to every tool that runs and to what it has started: for a program that is told to stop
/// while it is building.
pub fn end_tools() {
    for group in lock(&TOOLS).iter() {
        rustix::process::kill_process_group(*group, Signal::KILL).ok();
    }
}

type SpawnRequest = (Command, SyncSender<io::Result<Child>>);

fn spawn_on_lasting_thread(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<SyncSender<SpawnRequest>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, receiver) = sync_channel::<SpawnRequest>(SPAWN_QUEUE);
        std::thread::Builder::new()
            .name("devstack-spawner".to_owned())
            .spawn(move || {
                // The sender is in a static: this loop ends with the process.
                for (mut command, reply) in receiver {
                    reply.send(command.spawn()).ok();
                }
            })
            .expect("a thread can be started");
        sender
    });
    let (reply, answer) = sync_channel(1);
    spawner
        .send((command, reply))
        .expect("the spawner lives as long as the process");
    answer.recv().expect("the spawner answers every request")
}

/// Waits for the child on a thread of its own and tells everybody how it ended.
fn reap(name: &str, mut child: Child) -> Arc<Shared> {
    let shared = Arc::new(Shared {
        pid: Pid::from_child(&child),
        exit: Mutex::new(None),
        exited: Condvar::new(),
        watch: watch::Sender::new(None),
    });
    let told = Arc::clone(&shared);
    std::thread::Builder::new()
        .name(format!("reap-{name}"))
        .spawn(move || {
            // First without reaping, which happens under the lock: see Process::signal.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while let Err(rustix::io::Errno::INTR) =
                rustix::process::waitid(WaitId::Pid(told.pid), options)
            {}
            let mut exit = lock(&told.exit);
            let status = child.wait().expect("a child is waited for once");
            *exit = Some(status);
            drop(exit);
            told.exited.notify_all();
            told.watch.send_replace(Some(status));
        })
        .expect("a thread can be started");
    shared
}

/// Hands out the first line and appends whatever follows to the log, so the pipe never fills.
fn follow_stdout(
    name: &str,
    stdout: ChildStdout,
    log: Option<File>,
) -> watch::Receiver<Option<String>> {
    let (sender, receiver) = watch::channel(None);
    std::thread::Builder::new()
        .name(format!("stdout-{name}"))
        .spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut line = String::new();
            if reader.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                sender.send_replace(Some(line.trim_end().to_owned()));
            }
            // A child that prints nothing else keeps this thread waiting until it ends.
            let rest = match log {
                Some(mut log) => io::copy(&mut reader, &mut log),
                None => io::copy(&mut reader, &mut io::sink()),
            };
            rest.ok();
        })
        .expect("a thread can be started");
    receiver
}

fn append_to(path: &Path) -> io::Result<File> {
    let mut log = OpenOptions::new().create(true).append(true).open(path)?;
    log.flush()?;
    Ok(log)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
