//! The few GET requests devstack makes to local servers' own health pages.
//!
//! Written by hand: a client library would be a dependency for three fixed, tiny, local requests.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A health page that takes longer is as good as none.
const DEADLINE: Duration = Duration::from_secs(3);
/// More than any health page; `/metrics` is read by others.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A status code and a body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body, with anything that is not UTF-8 replaced.
    pub body: String,
}

/// `GET path` on a port of 127.0.0.1; `None` when there is no whole answer in time. Cancel safe.
pub async fn get(port: u16, path: &str) -> Option<Answer> {
    tokio::time::timeout(DEADLINE, exchange(port, path))
        .await
        .ok()?
        .ok()?
}

async fn exchange(port: u16, path: &str) -> std::io::Result<Option<Answer>> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    // HTTP/1.0: the answer is neither chunked nor kept alive, so it ends with the connection.
    let request = format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut bytes)
        .await?;
    Ok(parse(&bytes))
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some(Answer {
        status,
        body: body.to_owned(),
    })
}
