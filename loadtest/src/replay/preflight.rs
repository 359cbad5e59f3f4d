//! Before the first row is sent: is anybody there, and is the key known?

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Method, Request};
use http_body_util::Full;

use super::follow::Following;
use super::push::Plan;
use crate::base_url::BaseUrl;
use crate::connection::{Connection, ExchangeError};

/// How long a service may take to answer the first question.
const WAIT: Duration = Duration::from_secs(5);

/// The services are not as they must be; nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// Nobody listens at any of the URLs.
    #[error("no {service} can be reached, nothing was sent:\n{}", .tried.join("\n"))]
    Unreachable {
        /// Which kind of service.
        service: &'static str,
        /// Each URL with what happened.
        tried: Vec<String>,
    },
    /// The key is not accepted.
    #[error("{url} answers {status} to this key, nothing was sent")]
    KeyRefused {
        /// Who refuses it.
        url: String,
        /// 401 or 403.
        status: u16,
    },
}

/// One gateway and one status API that can be reached are enough: the others may come back.
pub(crate) async fn check(plan: &Plan, following: &Following) -> Result<(), PreflightError> {
    // The list of failures is the cheapest question that needs the key and counts no unknown id.
    let route = "/v1/requests?status=failed&limit=1";
    let key = &following.authorization;
    reachable("status API", &following.status, route, key).await?;
    reachable("gateway", &plan.gateways, "/openapi.json", key).await
}

pub(crate) async fn reachable(
    service: &'static str,
    urls: &[Arc<BaseUrl>],
    route: &str,
    key: &HeaderValue,
) -> Result<(), PreflightError> {
    let mut tried = Vec::new();
    for url in urls {
        let request = Request::builder()
            .method(Method::GET)
            .uri(url.target(route))
            .header(AUTHORIZATION, key.clone())
            .body(Full::new(Bytes::new()))
            .expect("a base URL and a route make a request");
        match Connection::new(Arc::clone(url))
            .exchange(request, WAIT)
            .await
        {
            Ok(answer) if matches!(answer.status.as_u16(), 401 | 403) => {
                return Err(PreflightError::KeyRefused {
                    url: url.to_string(),
                    status: answer.status.as_u16(),
                });
            }
            // Slow or at odds with its database is for the replay to find out.
            Ok(_) | Err(ExchangeError::Timeout(_)) => return Ok(()),
            Err(error) => tried.push(explain(url, &error)),
        }
    }
    Err(PreflightError::Unreachable { service, tried })
}

fn explain(url: &BaseUrl, error: &ExchangeError) -> String {
    let mut text = format!("  {url}: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    text
}
