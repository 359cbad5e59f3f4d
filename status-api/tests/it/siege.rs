//! An attack beside an honest client: memory bounded, the honest one served, the process alive.
//! The gateway's tests have a siege of the same kind; the two rooms know nothing of each other.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior};

use crate::stage::{LIMIT, Stage, XRIDES};

/// What an attack may make the process take beside its connections, in bytes: what the allocator
/// keeps for each thread, and answers under way.
const BESIDE_BYTES_MAX: u64 = 48 << 20;

/// What one connection may take that has sent little, in bytes.
const CONNECTION_BYTES_MAX: u64 = 64 * 1024;

/// Longest that an honest client waits on a machine that is attacked by all tests at once.
const HONEST_WAIT: Duration = Duration::from_secs(10);

/// How often the honest client asks.
const HONEST_INTERVAL: Duration = Duration::from_millis(5);

/// Addresses of attackers: honest clients have another, and the bound per address is not theirs.
const ATTACKERS: [&str; 4] = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"];

/// How large an attack is.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) sockets: usize,
    /// How long attackers come back for more.
    lasts: Duration,
}

pub(crate) const SHORT: Size = Size {
    sockets: 64,
    lasts: Duration::from_millis(500),
};
pub(crate) const LONG: Size = Size {
    sockets: 2_000,
    lasts: Duration::from_secs(60),
};

impl Size {
    /// At least once.
    pub(crate) async fn again_and_again(self, mut attack: impl AsyncFnMut()) {
        let until = Instant::now() + self.lasts;
        loop {
            attack().await;
            if Instant::now() > until {
                return;
            }
        }
    }
}

/// A process's memory, in bytes.
struct Memory {
    /// At its largest, as the kernel noted it: between two looks it could hide.
    peak: u64,
    now: u64,
    /// Of it, pages of files: the program itself, read as it is first run. Nobody takes those.
    files: u64,
}

fn memory(pid: u32) -> Memory {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|it| it.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.expect(name) * 1024
    };
    Memory {
        peak: bytes("VmHWM:"),
        now: bytes("VmRSS:"),
        files: bytes("RssFile:"),
    }
}

/// Asks for a ride that is not there: a whole answer, by way of the database.
pub(crate) async fn ask(stage: &Stage) {
    let asked = stage.get(XRIDES, "/v1/rides/1");
    let answer = tokio::time::timeout(HONEST_WAIT, asked).await;
    let answer = answer.expect("an honest client is served in time");
    answer.is_problem(404, "not-found");
}

/// Runs an attack beside an honest client.
pub(crate) async fn besieged(stage: &Stage, size: Size, attack: impl AsyncFnOnce()) {
    for _ in 0..20 {
        ask(stage).await;
    }
    let before = memory(stage.pid());
    let over = AtomicBool::new(false);
    let served = async {
        let mut pace = tokio::time::interval(HONEST_INTERVAL);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !over.load(Ordering::Relaxed) {
            pace.tick().await;
            ask(stage).await;
        }
    };
    let attack = async {
        attack().await;
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(attack, served);
    ask(stage).await;
    let after = memory(stage.pid());
    let files = after.files.saturating_sub(before.files);
    let grown = after.peak.saturating_sub(before.now + files);
    let may = BESIDE_BYTES_MAX + size.sockets as u64 * CONNECTION_BYTES_MAX;
    assert!(
        grown < may,
        "{} MiB more, of {} that there may be",
        grown >> 20,
        may >> 20
    );
    assert!(stage.is_running(), "it lives");
    assert_eq!(stage.readyz().await.status, 200);
}

/// A connection from one of the attackers' addresses.
pub(crate) async fn attacker(stage: &Stage, number: usize) -> TcpStream {
    stage
        .connect_from(ATTACKERS[number % ATTACKERS.len()])
        .await
}

/// What a client that would not end was answered, and how long it was until then, or else until
/// the end.
pub(crate) struct Ended {
    pub(crate) answer: String,
    pub(crate) after: Duration,
}

/// Sends `head` and then a little at a time, until the service has had enough.
pub(crate) async fn trickle(mut stream: TcpStream, head: &[u8], little: &[u8]) -> Ended {
    let begun = Instant::now();
    let mut answered = None;
    let ended = async {
        let mut answer = Vec::new();
        let mut sent = stream.write_all(head).await;
        loop {
            let mut buffer = [0; 1024];
            let pause = Duration::from_millis(50);
            match tokio::time::timeout(pause, stream.read(&mut buffer)).await {
                Ok(Ok(read @ 1..)) => {
                    answered.get_or_insert_with(|| begun.elapsed());
                    answer.extend_from_slice(&buffer[..read]);
                }
                Ok(_) => return answer,
                Err(_) if sent.is_ok() && !little.is_empty() => {
                    sent = stream.write_all(little).await;
                }
                Err(_) => {}
            }
        }
    };
    let answer = tokio::time::timeout(LIMIT * 2, ended)
        .await
        .expect("the service ends it in time");
    Ended {
        answer: String::from_utf8_lossy(&answer).into_owned(),
        after: answered.unwrap_or_else(|| begun.elapsed()),
    }
}

/// After how long each of many was closed on.
#[derive(Default)]
pub(crate) struct Waits(Mutex<Vec<Duration>>);

impl Waits {
    pub(crate) fn add(&self, wait: Duration) {
        self.0.lock().unwrap().push(wait);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// None long before the bound (the service's clock begins with the connection, this one when
    /// the test comes to look), and the first of them before `latest`: a busy machine may be late
    /// with the others.
    pub(crate) fn check(&self, bound: Duration, latest: Duration, what: &str) {
        let waits = self.0.lock().unwrap();
        let first = *waits.iter().min().expect(what);
        assert!(first >= bound / 2, "{what}: {first:?} is early");
        assert!(first < latest, "{what}: {first:?} is late");
    }
}
