//! An attack beside an honest client: memory bounded, the honest one served, the process alive.
//!
//! For tests of whatever listens: it knows a process by its pid and address, and panics where
//! something is not as it must be.

pub mod http2;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, MissedTickBehavior};

/// What an attack may make a process take beside its connections, and rooms if it has some, in
/// bytes: what the allocator keeps for each thread, and answers under way.
pub const BESIDE_BYTES_MAX: u64 = 48 << 20;

/// What one connection may take that has sent little, in bytes, TLS included.
const CONNECTION_BYTES_MAX: u64 = 64 * 1024;

/// How often the honest client asks before the attack, so that what is made once is made.
const WARMING: usize = 20;

/// Longest that an honest client waits on a machine that is attacked by all tests at once.
const HONEST_WAIT: Duration = Duration::from_secs(10);

/// How often the honest client asks.
const HONEST_INTERVAL: Duration = Duration::from_millis(5);

/// How often a client that takes its time sends a little.
const TRICKLE_INTERVAL: Duration = Duration::from_millis(50);

/// Longest until an attacker has been closed on, on a busy machine and with thousands of others.
const ENDED_WAIT: Duration = Duration::from_secs(120);

/// Honest clients on loopback.
const HONEST: &str = "127.0.0.1";

/// Attackers: addresses of their own, so that the bound per address is theirs.
pub const ATTACKERS: [&str; 4] = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"];

/// How large an attack is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Connections at once.
    pub sockets: usize,
    /// How long attackers come back for more.
    lasts: Duration,
}

/// With every test run.
pub const SHORT: Size = Size {
    sockets: 64,
    lasts: Duration::from_millis(500),
};

/// By itself, when it is asked for.
pub const LONG: Size = Size {
    sockets: 2_000,
    lasts: Duration::from_secs(60),
};

impl Size {
    /// What may be taken beside `bytes`: so much for each connection.
    #[must_use]
    pub fn beside(self, bytes: u64) -> u64 {
        bytes + self.sockets as u64 * CONNECTION_BYTES_MAX
    }

    /// At least once.
    pub async fn again_and_again(self, mut attack: impl AsyncFnMut()) {
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
        kib.unwrap_or_else(|| panic!("{name} of a process that lives")) * 1024
    };
    Memory {
        peak: bytes("VmHWM:"),
        now: bytes("VmRSS:"),
        files: bytes("RssFile:"),
    }
}

/// Runs an attack on the process `pid` beside an honest client; what the attack came to.
///
/// # Panics
/// When the honest client (which panics itself when it is not answered as it should be) waits too
/// long, before, meanwhile or afterwards; when the process takes more than `bytes_max` meanwhile;
/// when it does not live afterwards.
pub async fn besieged<T>(
    pid: u32,
    bytes_max: u64,
    honest: impl AsyncFn(),
    attack: impl AsyncFnOnce() -> T,
) -> T {
    let asked = async || {
        let served = tokio::time::timeout(HONEST_WAIT, honest()).await;
        served.expect("an honest client is served in time");
    };
    for _ in 0..WARMING {
        asked().await;
    }
    let before = memory(pid);
    let over = AtomicBool::new(false);
    let asking = async {
        let mut pace = tokio::time::interval(HONEST_INTERVAL);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !over.load(Ordering::Relaxed) {
            pace.tick().await;
            asked().await;
        }
    };
    let attack = async {
        let done = attack().await;
        over.store(true, Ordering::Relaxed);
        done
    };
    let (done, ()) = tokio::join!(attack, asking);
    asked().await;
    let after = memory(pid);
    let files = after.files.saturating_sub(before.files);
    let grown = after.peak.saturating_sub(before.now + files);
    assert!(
        grown < bytes_max,
        "{} MiB more, of {} that there may be",
        grown >> 20,
        bytes_max >> 20
    );
    done
}

/// A connection to `address` from one of the attackers' addresses.
///
/// # Panics
/// When nobody listens there.
pub async fn attacker(address: &str, number: usize) -> TcpStream {
    let source = ATTACKERS[number % ATTACKERS.len()];
    assert_ne!(source, HONEST);
    let connecting = async {
        let socket = TcpSocket::new_v4()?;
        let source = format!("{source}:0").parse();
        socket.bind(source.expect("an address"))?;
        let address = address.parse().expect("an address with a port");
        socket.connect(address).await
    };
    connecting.await.expect("a connection")
}

/// What a client that would not end was answered, and how long it was until then, or else until
/// the end: what comes after an answer is discarded for a while.
#[derive(Debug)]
pub struct Ended {
    /// Everything that came.
    pub answer: String,
    /// Since it began to send.
    pub after: Duration,
}

/// Sends `head` and then a little at a time, until the other side has had enough.
///
/// # Panics
/// When it never has.
pub async fn trickle(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    head: &[u8],
    little: &[u8],
) -> Ended {
    let begun = Instant::now();
    let mut answered = None;
    let ended = async {
        let mut answer = Vec::new();
        let mut sent = send(&mut stream, head).await;
        loop {
            let mut buffer = [0; 1024];
            match tokio::time::timeout(TRICKLE_INTERVAL, stream.read(&mut buffer)).await {
                Ok(Ok(read @ 1..)) => {
                    answered.get_or_insert_with(|| begun.elapsed());
                    answer.extend_from_slice(&buffer[..read]);
                }
                Ok(_) => return answer,
                Err(_) if sent.is_ok() && !little.is_empty() => {
                    sent = send(&mut stream, little).await;
                }
                Err(_) => {}
            }
        }
    };
    let answer = tokio::time::timeout(ENDED_WAIT, ended)
        .await
        .expect("it is ended in time");
    Ended {
        answer: String::from_utf8_lossy(&answer).into_owned(),
        after: answered.unwrap_or_else(|| begun.elapsed()),
    }
}

/// To a task that has had its turn no socket is writable, so TLS keeps what it took, and reading
/// does not send that: hence the flush.
async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Without reading: what is closed on cannot be written to.
#[must_use]
pub fn is_closed(stream: &TcpStream) -> bool {
    let tried = stream.try_write(b"\r\n");
    tried.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
}

/// After how long each of many was closed on.
#[derive(Debug, Default)]
pub struct Waits(Mutex<Vec<Duration>>);

impl Waits {
    /// One more.
    pub fn add(&self, wait: Duration) {
        self.0.lock().expect("nobody panicked").push(wait);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().expect("nobody panicked").len()
    }

    /// None long before the bound (the other side's clock begins with the connection, this one when
    /// the test comes to look), and the first of them before `latest`: a busy machine may be late
    /// with the others.
    ///
    /// # Panics
    /// When it is not so, or there are none.
    pub fn check(&self, bound: Duration, latest: Duration, what: &str) {
        let waits = self.0.lock().expect("nobody panicked");
        let first = *waits.iter().min().expect(what);
        assert!(first >= bound / 2, "{what}: {first:?} is early");
        assert!(first < latest, "{what}: {first:?} is late");
    }
}
