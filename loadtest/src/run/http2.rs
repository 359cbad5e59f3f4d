//! One stream's worth of a connection of HTTP/2 that several share, with prior knowledge (h2c).

use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Request, Uri, Version};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use super::transport::{ANSWER_BYTES_MAX, Answer, CONNECT_WAIT, Failure, Head};
use crate::base_url::BaseUrl;

type Sender = SendRequest<Full<Bytes>>;

/// What the streams of one connection share: the connection, opened by whoever needs it first.
#[derive(Debug)]
pub(crate) struct Shared {
    base: Arc<BaseUrl>,
    open: Mutex<Option<Sender>>,
}

/// One stream at a time.
#[derive(Debug)]
pub(crate) struct Http2 {
    shared: Arc<Shared>,
    sender: Option<Sender>,
    body: Bytes,
}

impl Shared {
    pub(crate) fn new(base: Arc<BaseUrl>) -> Self {
        Self {
            base,
            open: Mutex::new(None),
        }
    }

    async fn sender(&self) -> Result<Sender, Failure> {
        let mut open = self.open.lock().await;
        if let Some(sender) = open.as_ref().filter(|it| !it.is_closed()) {
            return Ok(sender.clone());
        }
        let sender = timeout(CONNECT_WAIT, connect(&self.base))
            .await
            .map_err(|_| Failure::Connect)??;
        *open = Some(sender.clone());
        Ok(sender)
    }
}

async fn connect(base: &BaseUrl) -> Result<Sender, Failure> {
    let stream = TcpStream::connect(base.address())
        .await
        .map_err(|_| Failure::Connect)?;
    stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|_| Failure::Connect)?;
    // It ends with its last sender, or with an error that reaches the exchanges it breaks.
    tokio::spawn(connection);
    Ok(sender)
}

impl Http2 {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            sender: None,
            body: Bytes::new(),
        }
    }

    pub(crate) async fn open(&mut self) -> Result<(), Failure> {
        if self.sender.as_ref().is_none_or(SendRequest::is_closed) {
            self.sender = None;
            self.sender = Some(self.shared.sender().await?);
        }
        let sender = self.sender.as_mut().expect("was just made");
        sender.ready().await.map_err(|_| Failure::Connect)
    }

    pub(crate) async fn exchange(
        &mut self,
        head: &Head,
        fill: impl FnOnce(&mut Vec<u8>),
        deadline: Instant,
    ) -> Result<Answer<'_>, Failure> {
        let mut body = Vec::with_capacity(512);
        fill(&mut body);
        let uri: Uri = format!("http://{}{}", head.base.authority(), head.target)
            .parse()
            .expect("a base URL and a route make a URL");
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = head.method.clone();
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, head.authorization.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(head.content_type));
        let sender = self.sender.as_mut().ok_or(Failure::Connect)?;
        let within = timeout_at(deadline, async {
            let response = sender
                .send_request(request)
                .await
                .map_err(|_| Failure::Closed)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(|_| Failure::Closed)?;
            Ok((status, body.to_bytes()))
        });
        let (status, body) = within.await.map_err(|_| Failure::Timeout)??;
        self.body = body;
        Ok(Answer {
            status,
            body: &self.body,
        })
    }
}
