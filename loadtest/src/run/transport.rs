//! One place a request can go out from: a connection of HTTP/1.1, or a stream's worth of a shared
//! one of HTTP/2.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode, header::HeaderValue};
use tokio::time::Instant;

use super::http1::Http1;
use super::http2::Http2;
use crate::base_url::BaseUrl;

/// Largest answer read, in bytes: 10,000 results with a page of faults each.
pub(super) const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a connection may take to open; on one network anything longer is a dead host.
pub(super) const CONNECT_WAIT: Duration = Duration::from_secs(3);

/// Why no whole answer came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// No connection; nothing was sent.
    Connect,
    /// Some or all was sent, and the connection ended before an answer was whole.
    Closed,
    /// Some or all was sent, and no whole answer came in time.
    Timeout,
    /// What came is not HTTP, or too large.
    Garbled,
}

impl Failure {
    /// A word for tables.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Garbled => "garbled-answer",
        }
    }
}

/// A whole answer; its body stays with the transport until the next exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) status: StatusCode,
    pub(crate) body: &'a [u8],
}

/// What every request to one target with one key begins with.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(super) base: Arc<BaseUrl>,
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) authorization: HeaderValue,
    pub(super) content_type: &'static str,
}

/// One request under way at a time.
pub(crate) enum Transport {
    One(Box<Http1>),
    Two(Http2),
}

impl Transport {
    /// Makes sure there is a connection.
    pub(crate) async fn open(&mut self) -> Result<(), Failure> {
        match self {
            Self::One(it) => it.open().await,
            Self::Two(it) => it.open().await,
        }
    }

    /// Sends a request whose body `fill` appends, and reads the whole answer until `deadline`.
    pub(crate) async fn exchange(
        &mut self,
        head: &Head,
        fill: impl FnOnce(&mut Vec<u8>),
        deadline: Instant,
    ) -> Result<Answer<'_>, Failure> {
        match self {
            Self::One(it) => it.exchange(head, fill, deadline).await,
            Self::Two(it) => it.exchange(head, fill, deadline).await,
        }
    }
}
