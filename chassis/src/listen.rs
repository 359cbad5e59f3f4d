//! Binding a TCP listener, with an error that says where.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// Most connections that wait to be accepted, as far as `net.core.somaxconn` allows. When more come
/// at once than wait here, the kernel drops them and their clients try again after a second: so as
/// many as a burst of clients that all connect anew.
const BACKLOG: u32 = 4096;

/// A socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

/// Binds `address`; port 0 takes a free one.
///
/// # Errors
/// [`BindError`] naming the address: in use, not allowed, or not this machine's.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    listen(address).map_err(|source| BindError { address, source })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A restarted process takes its port although connections of the last one linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_burst_of_clients_waits_to_be_accepted() {
        // Both ends are this process's; where it may not open so many files it cannot be shown.
        if crate::http::reachable(3_100) < 3_100 {
            return;
        }
        let listener = bind("127.0.0.1:0".parse().expect("an address"))
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut clients = Vec::new();
        for _ in 0..1_500 {
            clients.push(tokio::net::TcpStream::connect(address).await.expect("room"));
        }
        for _ in &clients {
            listener.accept().await.expect("each is there");
        }
    }

    #[tokio::test]
    async fn a_busy_port_is_named() {
        let first = bind("127.0.0.1:0".parse().expect("an address"))
            .await
            .expect("a free port");
        let address = first.local_addr().expect("bound");
        let error = bind(address).await.unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
