//! Nothing outlives its parent, not even one that dies by SIGKILL.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use devstack::eventually::eventually;
use devstack::fixture::Fixture;
use devstack::process::Launch;

/// PostgreSQL's immediate shutdown may take 5 s, and the machine may be busy.
const SOON: Duration = Duration::from_secs(20);

/// SIGINT is signal 2, SIGQUIT 3; the mask starts with signal 1.
const INT_AND_QUIT: u64 = 0b110;

/// Every process whose current directory is below `directory`.
fn processes_in(directory: &Path) -> Vec<u32> {
    super::servers::processes_in(directory)
}

fn shared_memory_of(data: &Path) -> Option<String> {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let line = text.lines().nth(6)?.to_owned();
    line.split_whitespace().nth(1).map(str::to_owned)
}

fn shared_memory_exists(id: &str) -> bool {
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    let mut lines = table.lines();
    lines.any(|line| line.split_whitespace().nth(1) == Some(id))
}

/// The mask of the signals that a process ignores.
fn ignored_signals(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("SigIgn:"));
    let mask = line.unwrap().split_whitespace().nth(1).unwrap();
    u64::from_str_radix(mask, 16).unwrap()
}

/// The parent that gets killed: starts both servers, says where, and lives until its standard
/// input ends.
#[tokio::test]
#[ignore = "run by the tests below as a process of its own"]
async fn parent() {
    let nats = Fixture::nats().await;
    let postgres = Fixture::postgres().await;
    let url = postgres.database_url();
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    // A backend in the middle of something.
    tokio::spawn(async move { client.batch_execute("select pg_sleep(600)").await });
    let log = nats.directory().join("sleep.log");
    let mut sleep = Launch::new("sleep", Path::new("sleep"), &log);
    sleep.command.arg("600");
    let sleep = sleep.spawn().unwrap();
    println!(
        "\nstarted {} {} {}",
        nats.directory().display(),
        postgres.directory().display(),
        sleep.pid()
    );
    let wait = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    wait.await.unwrap().unwrap();
}

/// Runs `parent`, does `damage` to it with the postmaster's id at hand, kills it, and looks.
async fn nothing_is_left_after(damage: impl FnOnce(u32)) {
    // As a shell starts what it runs in the background: without SIGINT and SIGQUIT.
    let mut parent = Command::new("sh")
        .args(["-c", "trap '' INT QUIT; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "orphans::parent", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(parent.stdout.take().unwrap());
    let line = tokio::task::spawn_blocking(move || {
        let mut lines = stdout.lines().map(Result::unwrap);
        lines.find(|line| line.starts_with("started "))
    });
    let line = line
        .await
        .unwrap()
        .expect("the parent says where its servers are");
    let words: Vec<&str> = line.split(' ').collect();
    let [_, nats, postgres, sleep] = words[..] else {
        panic!("{line}");
    };
    assert_eq!(ignored_signals(sleep) & INT_AND_QUIT, 0);
    let directories = [Path::new(nats), Path::new(postgres)];
    let [nats, postgres] = directories;
    let sleep = Path::new("/proc").join(sleep);
    let alive = || {
        let servers = processes_in(nats).len() + processes_in(postgres).len();
        servers + usize::from(sleep.exists())
    };
    assert!(alive() > 3, "nats-server, postmaster, backends");
    let segment = shared_memory_of(&postgres.join("data")).unwrap();
    assert!(shared_memory_exists(&segment));

    let text = std::fs::read_to_string(postgres.join("data/postmaster.pid")).unwrap();
    damage(text.lines().next().unwrap().parse().unwrap());
    parent.kill().unwrap();
    parent.wait().unwrap();
    let gone = eventually(SOON, || async { (alive() == 0).then_some(()) }).await;
    let left = [processes_in(nats), processes_in(postgres)];
    assert!(gone.is_some(), "still there: {left:?}");
    assert!(!shared_memory_exists(&segment), "shared memory {segment}");
    for directory in directories {
        std::fs::remove_dir_all(directory).unwrap();
    }
}

#[tokio::test]
async fn nothing_survives_a_killed_parent() {
    nothing_is_left_after(|_| {}).await;
}

/// A stopped process answers no signal but SIGKILL; the kernel continues it when its process group
/// loses its parent.
#[tokio::test]
async fn not_even_a_frozen_postmaster_survives() {
    nothing_is_left_after(|postmaster| {
        let pid = i32::try_from(postmaster).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    })
    .await;
}
