//! The accept loop: bounded connections, bounded headers, and a drain that answers what was asked.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use chassis::shutdown::{Abandoned, GRACE, Shutdown, drain};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::observe::OpenConnection;

/// Most connections at once: each may hold a long poll and one body. More wait in the kernel.
const CONNECTIONS_MAX: usize = 8_192;

/// Longest time for a request's headers to arrive, and for an idle connection to stay open.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(30);

/// Most bytes of a request's headers.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// How long accepting pauses when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until shutdown begins, then answers what is under way.
///
/// # Errors
/// [`Abandoned`] when that takes longer than the grace.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: Shutdown,
) -> Result<(), Abandoned> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.begun() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => spawn(stream, place, &router, &graceful),
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
    let place = Arc::clone(places)
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

fn spawn(
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    router: &Router,
    graceful: &GracefulShutdown,
) {
    // Answers are small and wanted now.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let router = router.clone();
    let service = tower_service(router);
    let connection = http1::Builder::new()
        // Without a timer hyper's header timeout does nothing.
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        let _open = OpenConnection::new();
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended early");
        }
        drop(place);
    });
}

fn tower_service(
    router: Router,
) -> impl hyper::service::Service<
    Request<hyper::body::Incoming>,
    Response = axum::response::Response,
    Error = Infallible,
    Future: Send,
> + Send {
    TowerToHyperService::new(router)
}
