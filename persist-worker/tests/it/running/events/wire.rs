//! A wire between a worker and a server that can be made to stand still.

use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Nothing is lost on it: what is held back is delivered when it is released.
pub(crate) struct Wire {
    url: String,
    shared: Arc<Shared>,
    _listening: AbortOnDropHandle<()>,
}

struct Shared {
    held: watch::Sender<Held>,
    /// What the worker sent and the server has not got.
    waiting: Mutex<Vec<u8>>,
    /// What the server said.
    heard: Mutex<Vec<u8>>,
}

#[derive(Clone, Copy, Default)]
struct Held {
    sent: bool,
    answers: bool,
}

impl Wire {
    /// A wire to the server of this URL.
    pub(crate) async fn to(url: &str) -> Self {
        let authority = url.split("://").nth(1).unwrap().split('/').next().unwrap();
        let server = authority.rsplit('@').next().unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            held: watch::Sender::new(Held::default()),
            waiting: Mutex::default(),
            heard: Mutex::default(),
        });
        let listening = tokio::spawn(listen(listener, server.clone(), Arc::clone(&shared)));
        Self {
            url: url.replace(&server, &own),
            shared,
            _listening: AbortOnDropHandle::new(listening),
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// What the worker sends stays on the wire.
    pub(crate) fn hold_what_is_sent(&self) {
        self.shared.held.send_modify(|held| held.sent = true);
    }

    /// So does what the server answers.
    pub(crate) fn hold(&self) {
        self.shared.held.send_replace(Held {
            sent: true,
            answers: true,
        });
    }

    pub(crate) fn release(&self) {
        self.shared.held.send_replace(Held::default());
    }

    /// Whether this is part of what the worker sent and the server has not got.
    pub(crate) fn holds(&self, words: &str) -> bool {
        contains(&self.shared.waiting.lock().unwrap(), words)
    }

    /// Whether the server has said this.
    pub(crate) fn heard(&self, words: &str) -> bool {
        contains(&self.shared.heard.lock().unwrap(), words)
    }
}

fn contains(bytes: &[u8], words: &str) -> bool {
    bytes
        .windows(words.len())
        .any(|window| window == words.as_bytes())
}

async fn listen(listener: TcpListener, server: String, shared: Arc<Shared>) {
    let mut wires = tokio::task::JoinSet::new();
    loop {
        let (worker, _) = listener.accept().await.unwrap();
        let Ok(server) = TcpStream::connect(&server).await else {
            continue;
        };
        let (from_worker, to_worker) = worker.into_split();
        let (from_server, to_server) = server.into_split();
        let sending = send(from_worker, to_server, Arc::clone(&shared));
        wires.spawn(async move { match sending.await {} });
        wires.spawn(answer(from_server, to_worker, Arc::clone(&shared)));
    }
}

/// What was sent before the worker hung up is delivered all the same, and the server not told
/// that it has: it answers.
async fn send(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: Arc<Shared>) -> Infallible {
    let mut held = shared.held.subscribe();
    let mut waiting = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut open = true;
    while open || !waiting.is_empty() {
        tokio::select! {
            read = from.read(&mut buffer), if open => {
                let count = read.unwrap_or(0);
                open = count > 0;
                waiting.extend(&buffer[..count]);
                shared.waiting.lock().unwrap().extend(&buffer[..count]);
            }
            () = until(&mut held, |held| !held.sent), if !waiting.is_empty() => {
                let _ = to.write_all(&waiting).await;
                waiting.clear();
                shared.waiting.lock().unwrap().clear();
            }
        }
    }
    pending().await
}

/// What the server says is heard even when the worker has hung up.
async fn answer(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: Arc<Shared>) {
    let mut held = shared.held.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count) = from.read(&mut buffer).await
        && count > 0
    {
        shared.heard.lock().unwrap().extend(&buffer[..count]);
        until(&mut held, |held| !held.answers).await;
        let _ = to.write_all(&buffer[..count]).await;
    }
}

async fn until(held: &mut watch::Receiver<Held>, is_free: fn(&Held) -> bool) {
    // Its sender lives as long as the wire.
    let _ = held.wait_for(is_free).await;
}
