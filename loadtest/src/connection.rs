//! One keep-alive HTTP/1.1 connection that says, when an exchange fails, whether the request may
//! have arrived: the whole difference between "send it again" and "unanswered".

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::base_url::BaseUrl;

/// Largest answer read, in bytes: 10,000 results with a page of faults each.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long a connection may take to open; on one network anything longer is a dead host.
const CONNECT_WAIT: Duration = Duration::from_secs(3);

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// The seconds of `Retry-After`, if it was given as seconds.
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Bytes,
}

/// Why nothing (whole) came back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// Nothing was sent.
    #[error("cannot connect to {address}")]
    Connect {
        address: String,
        #[source]
        source: std::io::Error,
    },
    /// Nothing was sent: the connection opened and closed again.
    #[error("{address} closes connections at once")]
    ClosedAtOnce { address: String },
    /// Some or all of it was sent.
    #[error("the connection was lost before the answer")]
    Lost(#[source] hyper::Error),
    /// It was sent, and some of the answer came.
    #[error("the answer broke off")]
    BrokenAnswer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Some or all of it was sent.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

impl ExchangeError {
    /// Whether the service cannot have seen the request.
    pub(crate) fn nothing_was_sent(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::ClosedAtOnce { .. })
    }

    /// A word for tables.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Connect { .. } | Self::ClosedAtOnce { .. } => "unreachable",
            Self::Lost(_) | Self::BrokenAnswer(_) => "connection-lost",
            Self::Timeout(_) => "timeout",
        }
    }
}

#[derive(Debug)]
struct Open {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A connection that opens when it is needed and again when it was lost.
#[derive(Debug)]
pub(crate) struct Connection {
    base: Arc<BaseUrl>,
    open: Option<Open>,
}

impl Connection {
    pub(crate) fn new(base: Arc<BaseUrl>) -> Self {
        Self { base, open: None }
    }

    /// Sends one request and reads the whole answer, all within `timeout`.
    pub(crate) async fn exchange(
        &mut self,
        mut request: Request<Full<Bytes>>,
        timeout: Duration,
    ) -> Result<Answer, ExchangeError> {
        let host = header::HeaderValue::from_str(self.base.authority())
            .expect("an authority is a valid header value");
        request.headers_mut().insert(header::HOST, host);
        // Taken, not borrowed: whatever breaks off below also closes the connection.
        let mut open = self.open.take().filter(|open| open.sender.is_ready());
        let answer = tokio::time::timeout(timeout, exchange(&self.base, &mut open, request))
            .await
            .map_err(|_| ExchangeError::Timeout(timeout))??;
        self.open = open;
        Ok(answer)
    }
}

async fn exchange(
    base: &BaseUrl,
    open: &mut Option<Open>,
    mut request: Request<Full<Bytes>>,
) -> Result<Answer, ExchangeError> {
    // Twice: a kept-alive connection may turn out to be closed, with the request handed back.
    for _ in 0..2 {
        if open.is_none() {
            *open = Some(connect(base).await?);
        }
        let sender = &mut open.as_mut().expect("was just opened").sender;
        match sender.try_send_request(request).await {
            Ok(response) => return read(response).await,
            Err(mut error) => {
                *open = None;
                match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(ExchangeError::Lost(error.into_error())),
                }
            }
        }
    }
    Err(ExchangeError::ClosedAtOnce {
        address: base.address().to_owned(),
    })
}

async fn connect(base: &BaseUrl) -> Result<Open, ExchangeError> {
    let failed = |source| ExchangeError::Connect {
        address: base.address().to_owned(),
        source,
    };
    let stream = tokio::time::timeout(CONNECT_WAIT, TcpStream::connect(base.address()))
        .await
        .map_err(|_| failed(std::io::ErrorKind::TimedOut.into()))?
        .map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(std::io::Error::other(error)))?;
    let driver = tokio::spawn(async move {
        // Its error reaches the exchange that it breaks.
        let _ = connection.await;
    });
    let opened = sender.ready().await;
    let open = Open { sender, driver };
    opened.map_err(|error| failed(std::io::Error::other(error)))?;
    Ok(open)
}

async fn read(response: http::Response<hyper::body::Incoming>) -> Result<Answer, ExchangeError> {
    let (head, body) = response.into_parts();
    let retry_after = head
        .headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    let body = Limited::new(body, ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(ExchangeError::BrokenAnswer)?
        .to_bytes();
    Ok(Answer {
        status: head.status,
        retry_after,
        body,
    })
}
