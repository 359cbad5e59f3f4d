//! The little HTTP that `weir` itself speaks to its services.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// Longer than any of these requests may take, long polls included.
const DEADLINE: Duration = Duration::from_secs(15);
/// More than any answer that is asked for here, in bytes.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A partner's client.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    client: Client<HttpConnector, Full<Bytes>>,
    key: String,
}

/// A request without an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("{0} is not a URL")]
    Url(String, #[source] http::Error),
    #[error("{0} does not answer")]
    Send(String, #[source] hyper_util::client::legacy::Error),
    #[error("the answer of {0} broke off")]
    Body(
        String,
        #[source] Box<dyn std::error::Error + Send + Sync + 'static>,
    ),
    #[error("{0} did not answer within {DEADLINE:?}")]
    Deadline(String),
}

impl Api {
    pub(crate) fn new(key: &str) -> Self {
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            key: key.to_owned(),
        }
    }

    pub(crate) async fn get(&self, url: &str) -> Result<(StatusCode, Bytes), RequestError> {
        self.send(Method::GET, url, "application/json", Bytes::new())
            .await
    }

    pub(crate) async fn post(
        &self,
        url: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), RequestError> {
        self.send(Method::POST, url, content_type, body).await
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), RequestError> {
        let request = Request::builder()
            .method(method)
            .uri(url)
            .header(http::header::AUTHORIZATION, format!("Bearer {}", self.key))
            .header(http::header::CONTENT_TYPE, content_type)
            .body(Full::new(body))
            .map_err(|error| RequestError::Url(url.to_owned(), error))?;
        let exchange = async {
            let sent = self.client.request(request).await;
            let answer = sent.map_err(|error| RequestError::Send(url.to_owned(), error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
            let body = body.collect().await;
            let body = body.map_err(|error| RequestError::Body(url.to_owned(), error))?;
            Ok((status, body.to_bytes()))
        };
        let answered = tokio::time::timeout(DEADLINE, exchange).await;
        answered.map_err(|_elapsed| RequestError::Deadline(url.to_owned()))?
    }
}
