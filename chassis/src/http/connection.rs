//! One connection, from its first byte to its last: handshake, requests, and everything that a
//! client may do too slowly.

use std::convert::Infallible;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::eager::Eager;
use super::edge::Edge;
use super::unread::{Unread, Watched};
use super::{Endings, Handler, Limits};
use crate::shutdown::Shutdown;
use crate::tls::Tls;
use crate::write_bound::WriteBound;

/// Most requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;

/// Streams that a client may reset before the service has seen them, and that we may reset over
/// faults of the client, before an HTTP/2 connection is closed (rapid reset, CVE-2023-44487 and
/// CVE-2025-8671). A client that gives up on requests does it after they were seen.
const RESETS_PENDING_MAX: usize = 32;
const RESETS_OWN_MAX: usize = 256;

/// Bytes of one answer that h2 buffers beyond what the client has room for.
const SEND_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// How often a silent HTTP/2 connection is asked whether it is still there, and how long it may
/// take to answer.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_WAIT: Duration = Duration::from_secs(10);

/// What all connections of a listener have in common.
#[derive(Debug)]
pub(super) struct Common {
    /// How HTTP/1.1 and HTTP/2 are spoken.
    pub(super) one: auto::Builder<Eager>,
    pub(super) two: auto::Builder<Eager>,
    pub(super) limits: Limits,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) endings: Arc<Endings>,
    pub(super) shutdown: Shutdown,
}

/// How HTTP/1.1 is spoken.
pub(super) fn one(limits: &Limits) -> auto::Builder<Eager> {
    let mut builder = auto::Builder::new(Eager).http1_only();
    builder
        .http1()
        // Without a timer hyper's header timeout does nothing.
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers_timeout)
        .max_buf_size(limits.read_buffer_bytes_max)
        .keep_alive(true);
    builder
}

/// How HTTP/2 is spoken.
pub(super) fn two(limits: &Limits) -> auto::Builder<Eager> {
    let mut builder = auto::Builder::new(Eager).http2_only();
    let head_bytes_max = u32::try_from(limits.head_bytes_max).unwrap_or(u32::MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        // From it follows how many CONTINUATION frames there may be.
        .max_header_list_size(head_bytes_max)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(RESETS_OWN_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_WAIT);
    builder
}

/// What a connection's requests leave behind.
#[derive(Debug, Default)]
struct Life {
    /// A first request came.
    begun: AtomicBool,
    /// It came over HTTP/2.
    is_http2: AtomicBool,
    /// Requests so far, over HTTP/2; wraps.
    requests: AtomicU32,
    /// Requests that have no answer yet.
    handling: AtomicU32,
    unread: Arc<Unread>,
}

/// One request without its answer.
struct Handling(Arc<Life>);

impl Handling {
    fn new(life: &Arc<Life>, is_http2: bool) -> Self {
        life.begun.store(true, Ordering::Relaxed);
        if is_http2 {
            life.is_http2.store(true, Ordering::Relaxed);
            life.requests.fetch_add(1, Ordering::Relaxed);
        }
        life.handling.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(life))
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        self.0.handling.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Life {
    fn is_http2(&self) -> bool {
        self.is_http2.load(Ordering::Relaxed)
    }

    fn is_handling(&self) -> bool {
        self.handling.load(Ordering::Relaxed) > 0
    }
}

impl Common {
    /// Serves a connection until it ends.
    pub(super) async fn serve<H: Handler>(&self, handler: H, stream: TcpStream, peer: SocketAddr) {
        // Answers are small and waited for: never hold one back for the next.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        // Below TLS, so that its records are bounded as well.
        let stream = WriteBound::new(stream, self.limits.write_wait);
        let Some(tls) = &self.tls else {
            return self.http(handler, stream, peer.ip()).await;
        };
        let handshake = TlsAcceptor::from(tls.current()).accept(stream);
        let handshake = tokio::time::timeout(tls.handshake_wait(), handshake);
        let shaken = tokio::select! {
            shaken = handshake => shaken,
            () = self.shutdown.begun() => return,
        };
        match shaken {
            Ok(Ok(stream)) => Box::pin(self.http(handler, stream, peer.ip())).await,
            Ok(Err(error)) => {
                self.endings.handshake.increment(1);
                tracing::debug!(%peer, %error, "no TLS handshake");
            }
            Err(_) => {
                self.endings.handshake.increment(1);
                tracing::debug!(%peer, "no TLS handshake in time");
            }
        }
    }

    async fn http<H: Handler, S>(&self, handler: H, stream: S, peer: IpAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = &self.limits;
        // hyper bounds a head once it reads one; until then nothing does.
        let until = Instant::now() + limits.headers_timeout;
        let endings = Arc::clone(&self.endings);
        let mut stream = Edge::new(stream, limits.head_bytes_max, limits.refusal, endings);
        let may_be_http2 = limits.cleartext_http2 || self.tls.is_some();
        let told = match may_be_http2 {
            true => self.is_http2(&mut stream, until, peer).await,
            false => Some(false),
        };
        match told {
            None => {}
            Some(false) => {
                let requests = self.requests(&self.one, handler, stream, peer, until);
                requests.await;
            }
            Some(true) => {
                let requests = self.requests(&self.two, Boxed(handler), stream, peer, until);
                Box::pin(requests).await;
            }
        }
    }

    /// Which protocol a client speaks; `None` when it does not say in time, or not at all.
    async fn is_http2<S>(&self, stream: &mut Edge<S>, until: Instant, peer: IpAddr) -> Option<bool>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let told = tokio::time::timeout_at(until, stream.speaks_http2());
        let told = tokio::select! {
            told = told => told,
            () = self.shutdown.begun() => return None,
        };
        match told {
            Ok(told) => told.ok(),
            Err(_) => {
                self.endings.silent.increment(1);
                tracing::debug!(%peer, "no request in time");
                None
            }
        }
    }

    /// Answers a connection's requests; the first must come by `until`.
    async fn requests<H: Handler, S>(
        &self,
        builder: &auto::Builder<Eager>,
        handler: H,
        stream: Edge<S>,
        peer: IpAddr,
        until: Instant,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = &self.limits;
        let life = Arc::new(Life::default());
        let service = service(handler, Arc::clone(&life), peer, limits);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let mut first_request = std::pin::pin!(tokio::time::sleep_until(until));
        let mut begun_shutdown = std::pin::pin!(self.shutdown.begun());
        // Both bound what the socket does not: an HTTP/2 client can stop an answer by its windows,
        // and keep a connection by answering pings.
        let mut unread = std::pin::pin!(tokio::time::sleep(limits.write_wait));
        let mut idle = std::pin::pin!(tokio::time::sleep(limits.headers_timeout));
        let mut requests = 0;
        let mut is_idle = false;
        let mut draining = false;
        loop {
            tokio::select! {
                biased;
                served = connection.as_mut() => {
                    if let Err(error) = served {
                        self.ended(&*error, &life, peer);
                    }
                    return;
                }
                () = &mut begun_shutdown, if !draining => {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                    unread.as_mut().reset(Instant::now() + limits.write_wait);
                }
                () = &mut unread, if draining || life.is_http2() => {
                    let stuck = life.unread.tick() || (draining && !life.is_handling());
                    if stuck {
                        self.endings.unread.increment(1);
                        tracing::debug!(%peer, "an answer was not read in time");
                        return;
                    }
                    unread.as_mut().reset(Instant::now() + limits.write_wait);
                }
                () = &mut idle, if life.is_http2() => {
                    let now = life.requests.load(Ordering::Relaxed);
                    let quiet = now == std::mem::replace(&mut requests, now)
                        && !life.is_handling()
                        && life.unread.is_empty();
                    if quiet && is_idle {
                        // It was told to go, and did not.
                        return;
                    }
                    is_idle = quiet;
                    if quiet {
                        self.endings.idle.increment(1);
                        connection.as_mut().graceful_shutdown();
                    }
                    idle.as_mut().reset(Instant::now() + limits.headers_timeout);
                }
                () = &mut first_request, if !life.begun.load(Ordering::Relaxed) => {
                    if !life.begun.load(Ordering::Relaxed) {
                        self.endings.silent.increment(1);
                        tracing::debug!(%peer, "no request in time");
                        return;
                    }
                }
            }
        }
    }

    /// A connection that hyper ended over a fault.
    fn ended(&self, error: &(dyn Error + Send + Sync + 'static), life: &Life, peer: IpAddr) {
        let hyper = error.downcast_ref::<hyper::Error>();
        // Its bound on a head is as long as ours on the first request, and may be noticed first.
        let is_late = hyper.is_some_and(hyper::Error::is_timeout);
        if is_late && !life.begun.load(Ordering::Relaxed) {
            self.endings.silent.increment(1);
        }
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// A handler of many requests at once, each of which is as small as can be while it is not worked
/// on: before its handler has begun, and while its answer waits to be read. Of HTTP/1.1 there is one
/// at a time, for which its connection keeps room.
#[derive(Clone)]
struct Boxed<H>(H);

impl<H: Handler> Handler for Boxed<H> {
    type Body = H::Body;

    async fn handle(&self, request: Request<Incoming>) -> hyper::Response<Self::Body> {
        Box::pin(self.0.handle(request)).await
    }
}

type Served<H> = hyper::Response<Watched<<H as Handler>::Body>>;

/// Calls the handler for each request of a connection.
fn service<H: Handler>(
    handler: H,
    life: Arc<Life>,
    peer: IpAddr,
    limits: &Limits,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = Served<H>,
    Error = Infallible,
    Future: Future<Output = Result<Served<H>, Infallible>> + Send + 'static,
> + use<H> {
    let proxies = limits.trusted_proxies.clone();
    service_fn(move |request: Request<Incoming>| {
        let is_http2 = request.version() == hyper::Version::HTTP_2;
        let handling = Handling::new(&life, is_http2);
        let handler = handler.clone();
        // Only for the log: nothing is looked up when nobody reads it.
        let client = tracing::enabled!(tracing::Level::DEBUG)
            .then(|| proxies.client(peer, request.headers()));
        async move {
            let answer = handler.handle(request).await;
            if let (Some(client), 400..) = (client, answer.status().as_u16()) {
                tracing::debug!(%client, status = answer.status().as_u16(), "refused");
            }
            let unread = is_http2.then_some(&handling.0.unread);
            Ok(answer.map(|body| Watched::new(body, unread)))
        }
    })
}
