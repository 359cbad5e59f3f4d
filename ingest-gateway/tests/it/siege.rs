//! An attack beside an honest client: memory bounded, the honest one served, the process alive.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use crate::harness::{Gateway, LIMIT, ride};

/// Room for bodies in these tests, in bytes, and the flag that says so.
pub(crate) const ROOM_BYTES: u64 = 64 << 20;
pub(crate) const ROOM_FLAG: &str = "--body-bytes-max=64MiB";

/// What an attack may make the process take beside rooms, in bytes: connections' buffers, and what
/// the allocator keeps for each thread.
pub(crate) const BESIDE_BYTES_MAX: u64 = 48 << 20;

/// What attacks by bodies may make it take, in bytes. A body that outgrows its buffer is moved into
/// one of twice the size; all that it was moved out of is together as large as where it is now, and
/// the allocator may keep that for a while: twice the room, when all grow at once.
pub(crate) const BODIES_BYTES_MAX: u64 = 2 * ROOM_BYTES + BESIDE_BYTES_MAX;

/// What one connection may take that has sent little, in bytes, TLS included.
const CONNECTION_BYTES_MAX: u64 = 64 * 1024;

/// Longest that an honest client waits on a machine that is attacked by all tests at once.
const HONEST_WAIT: Duration = Duration::from_secs(10);

/// Honest clients on loopback.
const HONEST: &str = "127.0.0.1";

/// Attackers: addresses of their own, so that the bound per address is theirs.
pub(crate) const ATTACKERS: [&str; 4] = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"];

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
    /// What may be taken beside `bytes`: so much for each connection.
    pub(crate) fn beside(self, bytes: u64) -> u64 {
        bytes + self.sockets as u64 * CONNECTION_BYTES_MAX
    }

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

/// Runs an attack beside an honest client.
pub(crate) async fn besieged<T>(
    gateway: &mut Gateway,
    bytes_max: u64,
    attack: impl AsyncFnOnce(&Gateway) -> T,
) -> T {
    let honest = async |gateway: &Gateway, id: i64| gateway.post(&ride(id)).await.status;
    Box::pin(besieged_beside(gateway, bytes_max, honest, attack)).await
}

/// Runs an attack beside an honest client that posts a ride as it likes, and gives the status.
pub(crate) async fn besieged_beside<T>(
    gateway: &mut Gateway,
    bytes_max: u64,
    honest: impl AsyncFn(&Gateway, i64) -> u16,
    attack: impl AsyncFnOnce(&Gateway) -> T,
) -> T {
    for id in 1..=20 {
        assert_eq!(honest(&*gateway, id).await, 202);
    }
    let pid = gateway.child.id().expect("running");
    let before = memory(pid);
    let over = AtomicBool::new(false);
    let besieged: &Gateway = gateway;
    let served = async {
        let mut id = 100;
        while !over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let status = tokio::time::timeout(HONEST_WAIT, honest(besieged, id)).await;
            assert_eq!(status, Ok(202), "an honest client");
            assert!(begun.elapsed() < HONEST_WAIT, "{:?}", begun.elapsed());
            id += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        id
    };
    let attack = async {
        let done = attack(besieged).await;
        over.store(true, Ordering::Relaxed);
        done
    };
    let (done, id) = tokio::join!(attack, served);
    assert_eq!(honest(&*gateway, id).await, 202, "afterwards");
    let after = memory(pid);
    let files = after.files.saturating_sub(before.files);
    let grown = after.peak.saturating_sub(before.now + files);
    assert!(
        grown < bytes_max,
        "{} MiB more, of {} that there may be",
        grown >> 20,
        bytes_max >> 20
    );
    assert!(gateway.child.try_wait().unwrap().is_none(), "it lives");
    done
}

/// A connection from one of the attackers' addresses.
pub(crate) async fn attacker(gateway: &Gateway, number: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let source = ATTACKERS[number % ATTACKERS.len()];
    assert_ne!(source, HONEST);
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    socket
        .connect(gateway.address.parse().unwrap())
        .await
        .unwrap()
}

/// What a client that would not end was answered, and how long it was until then, or else until
/// the end: what comes after an answer is discarded for a while.
pub(crate) struct Ended {
    pub(crate) answer: String,
    pub(crate) after: Duration,
}

/// Sends `head` and then a little at a time, until the gateway has had enough.
pub(crate) async fn trickle(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    head: &[u8],
    little: &[u8],
) -> Ended {
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
        .expect("the gateway ends it in time");
    Ended {
        answer: String::from_utf8_lossy(&answer).into_owned(),
        after: answered.unwrap_or_else(|| begun.elapsed()),
    }
}

/// Sends `head` and then `piece` again and again, as fast as it is taken, until it is closed on;
/// the answer, which a reset may have swallowed.
pub(crate) async fn pour(stream: TcpStream, head: &[u8], piece: &[u8], bytes_max: usize) -> String {
    let (mut reader, mut writer) = stream.into_split();
    let writing = async {
        let mut sent = 0;
        if writer.write_all(head).await.is_err() {
            return;
        }
        while writer.write_all(piece).await.is_ok() {
            sent += piece.len();
            assert!(sent < bytes_max, "it is taken for ever");
            // The answer is to be read as soon as it is there.
            tokio::task::yield_now().await;
        }
    };
    let reading = async {
        let mut answer = Vec::new();
        let _ = reader.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let both = async { tokio::join!(writing, reading) };
    let ended = tokio::time::timeout(LIMIT, both).await;
    ended.expect("it is closed in time").1
}
