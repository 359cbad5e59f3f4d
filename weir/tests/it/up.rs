//! `weir up` from start to end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use devstack::deps::{self, Deps};
use devstack::process::Signal;
use devstack::stack::Endpoints;
use tempfile::TempDir;

/// Building the services on a busy machine takes longest.
const START_LIMIT: Duration = Duration::from_secs(600);
/// What `weir up` promises of its end.
const END_LIMIT: Duration = Duration::from_secs(45);
/// A restart takes a second, crash recovery a few more.
const SOON: Duration = Duration::from_secs(45);

/// A running `weir up`.
struct Up {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    state: PathBuf,
}

fn weir(directory: &Path, deps: &Deps) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.current_dir(directory).stdin(Stdio::null());
    command.env("WEIR_NATS_SERVER", &deps.nats_server);
    command.env("WEIR_POSTGRES_BIN", &deps.postgres_bin);
    command
}

fn servers() -> Deps {
    deps::ensure(&|_| {}).unwrap()
}

impl Up {
    fn start(directory: &Path, deps: &Deps, flags: &[&str]) -> Self {
        let mut command = weir(directory, deps);
        command.arg("up").args(flags).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
            state: directory.join(".weir"),
        }
    }

    /// Reads on until a line fulfils the condition, and gives it.
    fn until(&mut self, limit: Duration, condition: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if condition(&line) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("it never came:\n{}", self.seen.join("\n"))
                }
            }
        }
    }

    fn until_ready(&mut self) {
        self.until(START_LIMIT, |line| line == "ready");
    }

    fn endpoints(&self) -> Endpoints {
        Endpoints::read(&self.state.join("endpoints.json")).unwrap()
    }

    fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end, which empties and closes its output.
    fn end(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + END_LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("it does not end:\n{}", self.seen.join("\n"))
                }
            }
        }
        (self.child.wait().unwrap(), self.seen.join("\n"))
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn pids(endpoints: &Endpoints) -> Vec<u32> {
    let pids = &endpoints.pids;
    [
        &pids.gateway,
        &pids.worker,
        &pids.status,
        &pids.nats,
        &pids.postgres,
    ]
    .into_iter()
    .flatten()
    .copied()
    .collect()
}

/// Zombies of a killed parent belong to init, which may take a moment.
fn is_alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    status.is_ok_and(|status| !status.contains("State:\tZ"))
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come true");
        std::thread::yield_now();
    }
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

#[test]
fn bad_usage_exits_64() {
    let deps = Deps {
        nats_server: PathBuf::new(),
        postgres_bin: PathBuf::new(),
    };
    let directory = TempDir::new().unwrap();
    let bad: [&[&str]; 6] = [
        &[],
        &["down"],
        &["up", "--nats-nodes", "2"],
        &["up", "--gateways", "0"],
        &["up", "--partitions", "257"],
        &["up", "--workers", "many"],
    ];
    for flags in bad {
        let output = run(weir(directory.path(), &deps).args(flags));
        assert_eq!(output.status.code(), Some(64), "{flags:?}");
    }
    let help = run(weir(directory.path(), &deps).args(["up", "--help"]));
    assert!(help.status.success());
    let version = run(weir(directory.path(), &deps).arg("--version"));
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("weir "));
}

#[test]
fn a_server_that_is_not_there_is_named_and_exits_1() {
    let directory = TempDir::new().unwrap();
    let deps = Deps {
        nats_server: directory.path().join("no-nats-server"),
        postgres_bin: PathBuf::new(),
    };
    let output = run(weir(directory.path(), &deps).arg("up"));
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(complaint.contains("WEIR_NATS_SERVER"), "{complaint}");
}

#[test]
fn without_pip_it_says_what_to_do() {
    let directory = TempDir::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.current_dir(directory.path()).arg("up");
    command
        .env_remove("WEIR_NATS_SERVER")
        .env("PATH", directory.path());
    let output = run(&mut command);
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(complaint.contains("Python 3 with pip"), "{complaint}");
    assert!(complaint.contains("WEIR_NATS_SERVER"), "{complaint}");
}

/// One story, since each start takes its time: a first run with everything it shows, a second one
/// refused beside it, a child killed, an orderly end, a second run on the same data, and a SIGKILL.
#[test]
fn up_shows_restarts_drains_and_leaves_nothing() {
    let (directory, deps) = (TempDir::new().unwrap(), servers());
    let mut up = Up::start(directory.path(), &deps, &["--workers", "2"]);
    up.until_ready();
    let shown = up.seen.join("\n");
    assert_eq!(shown.matches("  persisted after ").count(), 5, "{shown}");
    let endpoints = up.endpoints();
    assert!(shown.contains(&endpoints.gateway[0]), "{shown}");
    assert!(shown.contains(&endpoints.partners[0].api_key), "{shown}");

    let curl = up
        .seen
        .iter()
        .find(|line| line.starts_with("curl -i"))
        .unwrap();
    let answer = as_curl_does(curl);
    assert!(answer.starts_with("HTTP/1.1 202"), "{curl}\n{answer}");
    up.until(SOON, |line| {
        line.starts_with("6 accepted · 6 persisted · 0 failed · delay")
    });

    let second = run(weir(directory.path(), &deps).arg("up"));
    assert_eq!(second.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(complaint.contains("another stack runs"), "{complaint}");

    let old = endpoints.pids.gateway[0];
    let pid = rustix::process::Pid::from_raw(i32::try_from(old).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    up.until(SOON, |line| line.starts_with("gateway 0 (pid"));
    up.until(SOON, |line| line.starts_with("gateway 0 runs again"));
    let endpoints = up.endpoints();
    assert_ne!(endpoints.pids.gateway[0], old);

    up.signal(Signal::INT);
    let (status, shown) = up.end();
    assert!(status.success(), "{status}\n{shown}");
    assert!(pids(&endpoints).into_iter().all(|pid| !is_alive(pid)));

    let mut up = Up::start(directory.path(), &deps, &["--no-sample"]);
    up.until_ready();
    assert!(!up.seen.join("\n").contains("sample"));
    let again = up.endpoints();
    assert_eq!(again.partners, endpoints.partners);
    assert_eq!(rides(&again), 6);
    up.signal(Signal::KILL);
    wait_until("everything dies with weir", || {
        pids(&again).into_iter().all(|pid| !is_alive(pid))
    });
    drop(up);
}

/// Does what the line tells curl to do, which not every machine has.
fn as_curl_does(line: &str) -> String {
    let quoted: Vec<&str> = line.split('\'').collect();
    let [start, authorization, _, content_type, _, body, ""] = quoted[..] else {
        panic!("{line}");
    };
    let url = start.split(' ').nth(2).unwrap();
    let (authority, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let mut stream = TcpStream::connect(authority).unwrap();
    let length = body.len();
    write!(
        stream,
        "POST /{path} HTTP/1.1\r\nHost: {authority}\r\n{authorization}\r\n{content_type}\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn rides(endpoints: &Endpoints) -> i64 {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let url = &endpoints.database_url;
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        let row = client.query_one("select count(*) from rides", &[]).await;
        row.unwrap().get(0)
    })
}
