//! Serves HTTP with a bound for everything that a client may do: connections, in all and of one
//! address; handshakes, heads and idleness in time; heads in bytes; answers that nobody reads;
//! frames that carry nothing; and a drain that answers what was asked.
//!
//! All of it happens when a connection begins or ends, or costs a look at bytes that were just
//! read: requests share no lock here and allocate nothing.

mod address;
mod connection;
mod eager;
mod edge;
mod frames;
mod framing;
mod unread;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use clap::Args;
use hyper::body::{Body, Incoming};
use hyper::service::Service as _;
use hyper::{Request, Response};
use hyper_util::service::TowerToHyperService;
use ipnet::IpNet;
use metrics::{Counter, Gauge};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::shutdown::{Abandoned, GRACE, Shutdown, drain};
use crate::tls::Tls;
use crate::units::parse_duration;

pub use address::{TrustedProxies, parse_network};

use address::{Addresses, Place};
use connection::Common;

/// Between a failed accept (no file descriptors left) and the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections over a bound that are told so at a time; more are closed without a word.
const TURNED_AWAY_MAX: usize = 64;

/// How long a client that is turned away may take to read that.
const TURNED_AWAY_WAIT: Duration = Duration::from_secs(1);

/// Bytes of input of one who is turned away that are discarded meanwhile.
const TURNED_AWAY_BYTES_MAX: usize = 1024 * 1024;

/// File descriptors that are not clients' connections: log, database, admin listener, files.
const OTHER_FILES: usize = 64;

/// Flags about who may connect, for `#[command(flatten)]`.
#[derive(Args, Clone, Debug)]
pub struct PeerArgs {
    /// Most connections at once from one IPv4 address or IPv6 /64; one more is answered 503 and
    /// closed. Trusted proxies are exempt
    #[arg(long, env = "WEIR_CONNECTIONS_PER_ADDRESS_MAX", default_value_t = 1024, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections_per_address_max: u32,

    /// Networks of proxies whose X-Forwarded-For names the client; from anyone else it is ignored
    #[arg(long, env = "WEIR_TRUSTED_PROXIES", value_delimiter = ',', value_parser = parse_network, value_name = "CIDR,..")]
    pub trusted_proxies: Vec<IpNet>,

    /// How long a client may take nothing of an answer; over HTTP/2 nothing of 16KiB of any answer
    #[arg(long, env = "WEIR_ANSWER_READ_LIMIT", default_value = "10s", value_parser = parse_duration, value_name = "DURATION")]
    pub answer_read_limit: Duration,
}

/// Writes the body of a refusal: a problem document (RFC 9457) for a status and a sentence that is
/// safe for the client.
pub type Refusal = fn(status: u16, detail: &str) -> String;

/// Answers requests.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Of its answers.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Unpin
        + Send
        + 'static;

    /// Answers one request, whatever it is.
    fn handle(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

impl Handler for Router {
    type Body = axum::body::Body;

    async fn handle(&self, request: Request<Incoming>) -> Response<Self::Body> {
        match TowerToHyperService::new(self.clone()).call(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        }
    }
}

/// Bounds of a listener.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most connections at once; see `when_full`.
    pub connections_max: usize,
    /// Most connections at once from one IPv4 address or IPv6 /64.
    pub connections_per_address_max: u32,
    /// Exempt from the bound per address, and believed about whom they speak for.
    pub trusted_proxies: TrustedProxies,
    /// What becomes of a connection over `connections_max`.
    pub when_full: WhenFull,
    /// Longest time for a request's head to arrive, from the first byte on and from the answer
    /// before it: so it is also how long an idle connection stays open.
    pub headers_timeout: Duration,
    /// How long a client may take nothing of an answer.
    pub write_wait: Duration,
    /// Most bytes of a request's head; more is 431 (or, over HTTP/2, a closed connection).
    pub head_bytes_max: usize,
    /// Most bytes that an HTTP/1.1 connection reads at once; at least a head and 8 KiB.
    pub read_buffer_bytes_max: usize,
    /// Whether HTTP/2 is served without TLS too, by prior knowledge.
    pub cleartext_http2: bool,
    /// Writes the refusals that no handler sees.
    pub refusal: Refusal,
    /// What the metrics' names begin with, for example `weir_gateway`.
    pub metrics_prefix: &'static str,
}

/// What becomes of a connection over the bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenFull {
    /// It waits in the kernel's queue.
    Wait,
    /// It is answered 503 (over TLS: not at all) and closed.
    TurnAway,
}

/// What ended connections: counters made once.
struct Endings {
    open: Gauge,
    refused_full: Counter,
    refused_address: Counter,
    handshake: Counter,
    silent: Counter,
    idle: Counter,
    unread: Counter,
    flood: Counter,
    malformed: Counter,
}

impl fmt::Debug for Endings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endings").finish_non_exhaustive()
    }
}

impl Endings {
    fn new(prefix: &str) -> Self {
        let connections = format!("{prefix}_connections");
        let refused = format!("{prefix}_connections_refused_total");
        let cut_off = format!("{prefix}_connections_cut_off_total");
        metrics::describe_gauge!(connections.clone(), "Open connections");
        metrics::describe_counter!(refused.clone(), "Connections over a bound, by bound");
        metrics::describe_counter!(
            cut_off.clone(),
            "Connections closed over what the client did or did not do"
        );
        let refused = |bound: &'static str| metrics::counter!(refused.clone(), "bound" => bound);
        let cut_off = |reason: &'static str| metrics::counter!(cut_off.clone(), "reason" => reason);
        let open = metrics::gauge!(connections);
        open.set(0.0);
        Self {
            open,
            refused_full: refused("all"),
            refused_address: refused("address"),
            handshake: cut_off("handshake"),
            silent: cut_off("silent"),
            idle: cut_off("idle"),
            unread: cut_off("unread"),
            flood: cut_off("flood"),
            malformed: cut_off("malformed"),
        }
    }
}

/// The bound on connections, lowered to what the system lets this process open: a bound that
/// cannot be reached would end in connections that nobody accepts instead of an answer.
#[must_use]
pub fn reachable(connections_max: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let Some(open_files) = open_files_max(&limits) else {
        return connections_max;
    };
    let reachable = open_files.saturating_sub(OTHER_FILES).max(1);
    if reachable < connections_max {
        tracing::warn!(
            connections_max,
            open_files,
            reachable,
            "fewer connections than configured: raise the limit of open files"
        );
    }
    reachable.min(connections_max)
}

/// The soft limit of open files; `None` if there is none, or it cannot be told.
fn open_files_max(limits: &str) -> Option<usize> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Accepts until shutdown begins, then answers what is under way.
///
/// # Errors
/// [`Abandoned`] when that takes longer than [`GRACE`].
///
/// # Cancel safety
/// Dropping the future closes the listener; connections that are open live on until they are idle.
pub async fn serve(
    listener: TcpListener,
    handler: impl Handler,
    limits: Limits,
    tls: Option<Arc<Tls>>,
    shutdown: Shutdown,
) -> Result<(), Abandoned> {
    let served = serve_to_the_end(listener, handler, limits, tls, shutdown.clone());
    let mut served = std::pin::pin!(served);
    tokio::select! {
        () = served.as_mut() => return Ok(()),
        () = shutdown.begun() => {}
    }
    drain("requests under way", GRACE, served).await
}

/// Like [`serve`], for callers with a grace of their own: returns when the last connection is
/// closed.
pub async fn serve_to_the_end(
    listener: TcpListener,
    handler: impl Handler,
    limits: Limits,
    tls: Option<Arc<Tls>>,
    shutdown: Shutdown,
) {
    let endings = Arc::new(Endings::new(limits.metrics_prefix));
    let proxies = limits.trusted_proxies.clone();
    let door = Door {
        places: Arc::new(Semaphore::new(limits.connections_max)),
        addresses: Arc::new(Addresses::new(limits.connections_per_address_max, proxies)),
        turned_away: Arc::new(Semaphore::new(TURNED_AWAY_MAX)),
        common: Arc::new(Common {
            one: connection::one(&limits),
            two: connection::two(&limits),
            limits,
            tls,
            endings,
            shutdown: shutdown.clone(),
        }),
    };
    let tracker = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.begun() => break,
            accepted = door.accept(&listener) => accepted,
        };
        match accepted {
            Ok(Some(guest)) => {
                let (common, handler) = (Arc::clone(&door.common), handler.clone());
                tracker.spawn(async move {
                    let _open = Open::new(&common.endings.open);
                    common.serve(handler, guest.stream, guest.peer).await;
                    drop((guest.permit, guest.place));
                });
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // A connection that comes now is refused at once, and can be tried elsewhere.
    drop(listener);
    tracker.close();
    tracing::debug!(
        connections = tracker.len(),
        "no longer accepting; finishing what has begun"
    );
    tracker.wait().await;
}

/// One open connection, counted until it ends, however it does.
struct Open<'g>(&'g Gauge);

impl<'g> Open<'g> {
    fn new(open: &'g Gauge) -> Self {
        open.increment(1.0);
        Self(open)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Who is let in.
struct Door {
    places: Arc<Semaphore>,
    addresses: Arc<Addresses>,
    turned_away: Arc<Semaphore>,
    common: Arc<Common>,
}

/// A connection with its places in both counts.
struct Guest {
    stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
    place: Place,
}

impl Door {
    /// The next connection; `None` when it was turned away.
    async fn accept(&self, listener: &TcpListener) -> std::io::Result<Option<Guest>> {
        let places = Arc::clone(&self.places);
        let waited = match self.common.limits.when_full {
            WhenFull::TurnAway => None,
            WhenFull::Wait => {
                let permit = Arc::clone(&places).acquire_owned().await;
                Some(permit.expect("the semaphore is never closed"))
            }
        };
        let (stream, peer) = listener.accept().await?;
        let Some(permit) = waited.or_else(|| places.try_acquire_owned().ok()) else {
            self.common.endings.refused_full.increment(1);
            self.turn_away(stream, "there are as many connections as there may be");
            return Ok(None);
        };
        let Some(place) = self.addresses.admit(peer.ip()) else {
            self.common.endings.refused_address.increment(1);
            tracing::debug!(%peer, "too many connections from one address");
            self.turn_away(stream, "this address has as many connections as it may");
            return Ok(None);
        };
        Ok(Some(Guest {
            stream,
            peer,
            permit,
            place,
        }))
    }

    /// Says so before the client has said anything; over TLS that would take a handshake.
    fn turn_away(&self, stream: TcpStream, detail: &'static str) {
        if self.common.tls.is_some() {
            return;
        }
        let Ok(permit) = Arc::clone(&self.turned_away).try_acquire_owned() else {
            return;
        };
        let body = (self.common.limits.refusal)(503, detail);
        tokio::spawn(async move {
            let _ = tokio::time::timeout(TURNED_AWAY_WAIT, turn_away(stream, &body)).await;
            drop(permit);
        });
    }
}

async fn turn_away(mut stream: TcpStream, body: &str) {
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
         retry-after: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    if stream.write_all(answer.as_bytes()).await.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    // Unread input would reset the connection before the client has read the answer.
    let mut discarded = [0; 4096];
    let mut bytes = 0;
    while let Ok(read @ 1..) = stream.read(&mut discarded).await {
        bytes += read;
        if bytes > TURNED_AWAY_BYTES_MAX {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_of_open_files_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max processes             10                   10                   processes\n\
                      Max open files            1024                 1048576              files\n";
        assert_eq!(open_files_max(limits), Some(1024));
        assert_eq!(
            open_files_max("Max open files  unlimited  unlimited  files"),
            None
        );
        assert_eq!(open_files_max(""), None);
        assert!(reachable(1) == 1);
    }
}
