//! Shutdown is a value that gets passed: whoever holds it can learn that it has begun.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long a process drains before it leaves and says what it abandons. Longer than any request
/// may take; shorter than the 45 s within which `weir up` ends everything.
pub const GRACE: Duration = Duration::from_secs(20);

/// Whether the process is going away. Clones share one state; it never goes back.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

/// Something was still under way when the grace was over.
#[derive(Debug, thiserror::Error)]
#[error("{what} did not finish within {grace:?} and was abandoned")]
pub struct Abandoned {
    what: &'static str,
    grace: Duration,
}

impl Shutdown {
    /// One that begins only when [`Shutdown::begin`] is called.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that begins on SIGTERM or SIGINT. A further signal is logged and changes nothing:
    /// whoever cannot wait has SIGKILL.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn on_signals() -> Self {
        let shutdown = Self::new();
        let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be handled");
        let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be handled");
        let begun = shutdown.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if begun.is_begun() {
                    tracing::warn!(signal = name, "already shutting down");
                } else {
                    tracing::info!(signal = name, "shutting down");
                    begun.begin();
                }
            }
        });
        shutdown
    }

    /// Begins it; again does nothing.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Whether it has begun.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns once it has begun; at once if it has already.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost by dropping the future.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }
}

/// Waits for what is still under way, at most `grace` (usually [`GRACE`]).
///
/// # Errors
/// [`Abandoned`], naming `what`, when the grace is over first; the future has then been dropped.
pub async fn drain<T>(
    what: &'static str,
    grace: Duration,
    work: impl Future<Output = T>,
) -> Result<T, Abandoned> {
    tokio::time::timeout(grace, work)
        .await
        .map_err(|_| Abandoned { what, grace })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_learns_of_it() {
        let shutdown = Shutdown::new();
        let other = shutdown.clone();
        let waiter = tokio::spawn(async move { other.begun().await });
        assert!(!shutdown.is_begun());
        shutdown.begin();
        shutdown.begin();
        waiter.await.expect("the waiter returns");
        assert!(shutdown.is_begun());
        shutdown.begun().await;
    }

    #[tokio::test]
    async fn a_drain_is_bounded() {
        assert_eq!(drain("work", GRACE, async { 7 }).await.expect("in time"), 7);
        let grace = Duration::from_millis(10);
        let error = drain("the flood", grace, std::future::pending::<()>())
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the flood did not finish within 10ms and was abandoned"
        );
    }
}
