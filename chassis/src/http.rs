//! Serves an axum router with the bounds that `axum::serve` lacks: connections, headers in bytes
//! and time, answers that nobody reads, and a drain that answers what was asked.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::shutdown::{Abandoned, GRACE, Shutdown, drain};
use crate::write_bound::{WRITE_WAIT, WriteBound};

/// Most bytes of a request's headers; a longer head is 431.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// How long accepting pauses when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bounds of a listener.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most connections at once; more wait in the kernel's queue.
    pub connections_max: usize,
    /// Longest time for a request's headers to arrive, which is also how long an idle connection
    /// stays open.
    pub headers_timeout: Duration,
    /// Name of the gauge that counts open connections.
    pub connections_metric: &'static str,
}

/// Accepts HTTP/1.1 until shutdown begins, then answers what is under way.
///
/// # Errors
/// [`Abandoned`] when that takes longer than [`GRACE`].
///
/// # Cancel safety
/// Dropping the future closes the listener; connections that are open live on until they are idle.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: Shutdown,
) -> Result<(), Abandoned> {
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.begun() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => spawn(stream, place, router.clone(), &limits, &graceful),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // A connection that comes now is refused at once, and can be tried elsewhere.
    drop(listener);
    drain("requests under way", GRACE, graceful.shutdown()).await
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places);
    let place = place
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

fn spawn(
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    router: Router,
    limits: &Limits,
    graceful: &GracefulShutdown,
) {
    // Answers are small and wanted now.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let stream = WriteBound::new(stream, WRITE_WAIT);
    let connection = http1::Builder::new()
        // Without a timer hyper's header timeout does nothing.
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers_timeout)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let connection = graceful.watch(connection);
    let open = OpenConnection::new(limits.connections_metric);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended early");
        }
        drop((place, open));
    });
}

/// Counts one connection for as long as it lives.
struct OpenConnection(metrics::Gauge);

impl OpenConnection {
    fn new(name: &'static str) -> Self {
        let gauge = metrics::gauge!(name);
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
