//! Connections: accepting them within bounds, serving HTTP/1.1 and HTTP/2 on one port, draining.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chassis::shutdown::Shutdown;
use chassis::write_bound::{WRITE_WAIT, WriteBound};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::ingest::Gateway;

/// Most requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;

/// Largest request head of HTTP/2, in bytes: a key, a path and what clients add by themselves.
const HEAD_BYTES_MAX: u32 = 32 * 1024;

/// Read buffer of an HTTP/1.1 connection at most, in bytes; it bounds the head as well. A body of
/// a hundred rides fits.
const READ_BUFFER_BYTES_MAX: usize = 128 * 1024;

/// How often a silent HTTP/2 connection is asked whether it is still there, and how long it may
/// take to answer.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_WAIT: Duration = Duration::from_secs(10);

/// Between a failed accept (no file descriptors left) and the next.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Connections over the bound that are told so at a time; more are closed without a word.
const TURNED_AWAY_MAX: usize = 64;

/// How long a client that is turned away may take to read that.
const TURNED_AWAY_WAIT: Duration = Duration::from_secs(1);

/// Answered to a connection over the bound, before it has said anything.
const TURNED_AWAY: &str = "{\"type\":\"urn:weir:problem:overloaded\",\"title\":\"Too much in \
    flight\",\"status\":503,\"detail\":\"the gateway has as many connections as it takes\",\
    \"code\":\"overloaded\",\"retryable\":true}";

/// File descriptors that are not clients' connections: the log, the admin listener, files.
const OTHER_FILES: usize = 64;

/// The bound on connections, lowered to what the system lets this process open: a bound that
/// cannot be reached would end in connections that nobody accepts instead of an answer.
pub(crate) fn reachable(connections_max: usize) -> usize {
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

/// Accepts and serves connections until shutdown begins, then lets each finish what it has begun.
/// Returns when the last connection is closed.
pub(crate) async fn serve(
    listener: TcpListener,
    gateway: Arc<Gateway>,
    header_read_limit: Duration,
    connections_max: usize,
    shutdown: Shutdown,
) {
    let builder = Arc::new(builder(header_read_limit));
    let connections = Arc::new(Semaphore::new(connections_max));
    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY_MAX));
    let tracker = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.begun() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            gateway.measures.connections_refused.increment(1);
            if let Ok(permit) = Arc::clone(&turned_away).try_acquire_owned() {
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(TURNED_AWAY_WAIT, turn_away(stream)).await;
                    drop(permit);
                });
            }
            continue;
        };
        let connection = Connection {
            gateway: Arc::clone(&gateway),
            builder: Arc::clone(&builder),
            first_request_wait: header_read_limit,
            shutdown: shutdown.clone(),
        };
        tracker.spawn(async move {
            connection.gateway.measures.connections.increment(1.0);
            connection.serve(stream).await;
            connection.gateway.measures.connections.decrement(1.0);
            drop(permit);
        });
    }
    drop(listener);
    tracker.close();
    tracing::info!(
        connections = tracker.len(),
        "no longer accepting; finishing what has begun"
    );
    tracker.wait().await;
}

fn builder(header_read_limit: Duration) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_read_limit)
        .max_buf_size(READ_BUFFER_BYTES_MAX)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_WAIT);
    builder
}

struct Connection {
    gateway: Arc<Gateway>,
    builder: Arc<auto::Builder<TokioExecutor>>,
    /// hyper bounds a head once it knows the protocol; until then nothing does.
    first_request_wait: Duration,
    shutdown: Shutdown,
}

impl Connection {
    async fn serve(&self, stream: TcpStream) {
        // Answers are small and waited for: never hold one back for the next.
        let _ = stream.set_nodelay(true);
        let begun = AtomicBool::new(false);
        // One more for each request without its answer.
        let unanswered = Arc::new(());
        let service = service_fn(|request| {
            begun.store(true, Ordering::Relaxed);
            let handling = Arc::clone(&unanswered);
            let gateway = Arc::clone(&self.gateway);
            async move {
                let answer = gateway.handle(request).await;
                drop(handling);
                Ok::<_, Infallible>(answer)
            }
        });
        let stream = TokioIo::new(WriteBound::new(stream, WRITE_WAIT));
        let connection = self.builder.serve_connection(stream, service);
        let mut connection = std::pin::pin!(connection);
        let mut first_request = std::pin::pin!(tokio::time::sleep(self.first_request_wait));
        let mut begun_shutdown = std::pin::pin!(self.shutdown.begun());
        // Bounds what the socket does not: an HTTP/2 client can stop an answer by its windows.
        let mut unread = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        let mut draining = false;
        loop {
            tokio::select! {
                biased;
                served = connection.as_mut() => {
                    if let Err(error) = served {
                        tracing::debug!(error = %error, "connection ended");
                    }
                    return;
                }
                () = &mut begun_shutdown, if !draining => {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                    unread.as_mut().reset(Instant::now() + WRITE_WAIT);
                }
                () = &mut unread, if draining => {
                    if Arc::strong_count(&unanswered) == 1 {
                        tracing::debug!("an answer was not read in time");
                        return;
                    }
                    unread.as_mut().reset(Instant::now() + WRITE_WAIT);
                }
                () = &mut first_request, if !begun.load(Ordering::Relaxed) => {
                    if !begun.load(Ordering::Relaxed) {
                        tracing::debug!("no request in time");
                        return;
                    }
                }
            }
        }
    }
}

async fn turn_away(mut stream: TcpStream) {
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
         retry-after: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{TURNED_AWAY}",
        TURNED_AWAY.len()
    );
    if stream.write_all(answer.as_bytes()).await.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    // Unread input would reset the connection before the client has read the answer.
    let mut discarded = [0; 4096];
    while matches!(stream.read(&mut discarded).await, Ok(1..)) {}
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

    #[test]
    fn the_answer_to_a_connection_too_many_is_the_problem_it_names() {
        let answer: serde_json::Value = serde_json::from_str(TURNED_AWAY).expect("JSON");
        let detail = answer["detail"].as_str().expect("a sentence");
        let problem = contract::Problem::Overloaded.document(detail);
        assert_eq!(answer, serde_json::to_value(problem).expect("JSON"));
    }
}
