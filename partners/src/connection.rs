//! Reaching the log: once, for a command, and for good, for a service.

use std::time::Duration;

use async_nats::{Client, ServerAddr};

use crate::access::Access;

/// Longest time for one attempt to connect.
const CONNECT_WAIT: Duration = Duration::from_secs(2);

/// How often a quiet connection is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// Longest wait for an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// Longest pause between two attempts: a log that comes back is found at once.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The log cannot be reached, or not by such an address. Never repeats an address: it may hold a
/// password.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It is no address.
    #[error("not the URL of a NATS server ({0}); write it like nats://host:4222")]
    Address(#[source] std::io::Error),
    /// Nobody answers there, or will not have us.
    #[error("cannot connect to the log: {0}")]
    Connect(#[source] async_nats::ConnectError),
}

/// Reads addresses, several of one cluster.
///
/// # Errors
/// [`ConnectError::Address`].
pub fn parse_urls(urls: &[String]) -> Result<Vec<ServerAddr>, ConnectError> {
    Access::by(urls).addresses()
}

/// Connects now or not at all.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(urls: &[String], name: &str) -> Result<Client, ConnectError> {
    Access::by(urls).connect(name).await
}

/// Connects in the background, now and whenever the connection breaks, for ever.
///
/// # Errors
/// [`ConnectError::Address`].
pub async fn stay_connected(urls: &[String], name: &str) -> Result<Client, ConnectError> {
    Access::by(urls).stay_connected(name).await
}

impl Access {
    /// Connects now or not at all.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(&self, name: &str) -> Result<Client, ConnectError> {
        let options = self
            .options()
            .name(name)
            .connection_timeout(CONNECT_WAIT)
            .request_timeout(Some(ANSWER_WAIT));
        let connecting = options.connect(self.addresses()?);
        connecting.await.map_err(ConnectError::Connect)
    }

    /// Connects in the background, now and whenever the connection breaks, for ever.
    ///
    /// # Errors
    /// [`ConnectError::Address`].
    pub async fn stay_connected(&self, name: &str) -> Result<Client, ConnectError> {
        let options = self
            .options()
            .name(name)
            .retry_on_initial_connect()
            .max_reconnects(None)
            .connection_timeout(CONNECT_WAIT)
            .ping_interval(PING_INTERVAL)
            .request_timeout(Some(ANSWER_WAIT))
            .reconnect_delay_callback(|attempts| {
                let doublings = u32::try_from(attempts.min(6)).unwrap_or(6);
                Duration::from_millis(10 << doublings).min(PAUSE_MAX)
            });
        let connecting = options.connect(self.addresses()?);
        connecting.await.map_err(ConnectError::Connect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_and_never_repeated() {
        let urls = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            parse_urls(&urls("nats://u:p@h:1,h2")).expect("two").len(),
            2
        );
        for bad in [
            "http://me:secret@h",
            "nats://me:secret@h:x",
            "nats://me:secret@",
        ] {
            let error = parse_urls(&urls(bad)).expect_err(bad).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
