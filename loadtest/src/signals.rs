//! Ctrl-C stops sending, a second one stops following: the books are closed either way.

use chassis::shutdown::Shutdown;
use tokio::signal::unix::{SignalKind, signal};

/// What the signals have asked for so far.
#[derive(Debug)]
pub(crate) struct Signals {
    pub(crate) stop_sending: Shutdown,
    pub(crate) stop_following: Shutdown,
}

impl Signals {
    /// Listens to SIGINT and SIGTERM from now on.
    pub(crate) fn listen() -> Self {
        let signals = Self {
            stop_sending: Shutdown::new(),
            stop_following: Shutdown::new(),
        };
        let stops = [signals.stop_sending.clone(), signals.stop_following.clone()];
        // Where signals cannot be had, they simply end the process.
        let (Ok(mut interrupt), Ok(mut terminate)) = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        ) else {
            return signals;
        };
        tokio::spawn(async move {
            for stop in stops {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                stop.begin();
            }
        });
        signals
    }
}
