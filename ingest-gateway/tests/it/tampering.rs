//! Something between a gateway and its log that loses answers, or says another time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

#[derive(Default)]
struct Faults {
    swallow_answers: AtomicBool,
    shift_clock: AtomicBool,
}

/// Forwards one port to the log.
pub(crate) struct Tampering {
    address: String,
    faults: Arc<Faults>,
    // Ends what it forwards when dropped.
    _tasks: JoinSet<()>,
}

impl Tampering {
    pub(crate) async fn start(nats_url: &str) -> Self {
        let target = nats_url.trim_start_matches("nats://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let faults = Arc::new(Faults::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, target, Arc::clone(&faults)));
        Self {
            address,
            faults,
            _tasks: tasks,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Whether what the log says is lost on its way.
    pub(crate) fn swallow_answers(&self, swallow: bool) {
        self.faults.swallow_answers.store(swallow, Ordering::SeqCst);
    }

    /// Whether the log's clock shows another year.
    pub(crate) fn shift_clock(&self, shift: bool) {
        self.faults.shift_clock.store(shift, Ordering::SeqCst);
    }
}

async fn accept(listener: TcpListener, target: String, faults: Arc<Faults>) {
    let mut connections = JoinSet::new();
    while let Ok((gateway, _)) = listener.accept().await {
        let Ok(log) = TcpStream::connect(&target).await else {
            continue;
        };
        let (gateway_reads, gateway_writes) = gateway.into_split();
        let (log_reads, log_writes) = log.into_split();
        connections.spawn(forward(gateway_reads, log_writes, None));
        connections.spawn(forward(
            log_reads,
            gateway_writes,
            Some(Arc::clone(&faults)),
        ));
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, faults: Option<Arc<Faults>>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let bytes = &mut buffer[..read];
        if let Some(faults) = &faults {
            if faults.swallow_answers.load(Ordering::SeqCst) {
                continue;
            }
            if faults.shift_clock.load(Ordering::SeqCst) {
                shift(bytes);
            }
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

/// Changes the century of every `"ts":"20..` in place: as many bytes as before.
fn shift(bytes: &mut [u8]) {
    const MARK: &[u8] = b"\"ts\":\"20";
    let starts: Vec<_> = bytes
        .windows(MARK.len())
        .enumerate()
        .filter_map(|(start, window)| (window == MARK).then_some(start))
        .collect();
    for start in starts {
        bytes[start + MARK.len() - 1] = b'1';
    }
}
