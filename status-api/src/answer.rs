//! Answers that are no success: each failure becomes a problem document exactly once, here.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use contract::Problem;
use contract::problem::{Fault, ProblemDocument};
use partners::Denied;

use crate::ledger::LedgerError;
use crate::query::BadParameter;

/// When to ask again while the database is away: about what a failover takes.
const DATABASE_RETRY_AFTER: Duration = Duration::from_secs(2);

/// When to ask again while too many are waiting.
const OVERLOADED_RETRY_AFTER: Duration = Duration::from_secs(1);

/// When to ask again while it is not known who may call: what a start takes.
const PARTNERS_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A refusal, ready to be sent.
#[derive(Debug)]
pub(crate) struct Refusal {
    document: Box<ProblemDocument>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(crate) fn new(problem: Problem, detail: impl Into<String>) -> Self {
        Self {
            document: Box::new(problem.document(detail)),
            header: None,
        }
    }

    pub(crate) fn invalid(errors: Vec<Fault>) -> Self {
        let detail = format!(
            "{} fault{} in the body",
            errors.len(),
            if errors.len() == 1 { "" } else { "s" }
        );
        Self {
            document: Box::new(Problem::Invalid.document(detail).with_errors(errors)),
            header: None,
        }
    }

    #[cfg(test)]
    pub(crate) fn document(&self) -> &ProblemDocument {
        &self.document
    }

    pub(crate) fn unauthorized(detail: &str) -> Self {
        let challenge = HeaderValue::from_static(
            "Bearer realm=\"weir\", Basic realm=\"weir\", charset=\"UTF-8\"",
        );
        let header = Some((header::WWW_AUTHENTICATE, challenge));
        Self {
            header,
            ..Self::new(Problem::Unauthorized, detail)
        }
    }

    /// A key that does not open this door. The answer never repeats it.
    pub(crate) fn denied(denied: Denied) -> Self {
        let detail = denied.to_string();
        match denied {
            Denied::Unknown | Denied::Expired | Denied::Revoked => Self::unauthorized(&detail),
            Denied::Scope(_) | Denied::Disabled => Self::new(Problem::Forbidden, detail),
            Denied::NotLoaded => {
                Self::temporary(Problem::PartnersUnavailable, detail, PARTNERS_RETRY_AFTER)
            }
        }
    }

    /// No request of this partner's: the same words whether the id is malformed, made up or
    /// another partner's, so that they tell nothing.
    pub(crate) fn no_such_request() -> Self {
        Self::new(
            Problem::NotFound,
            "no request of yours has this tracking id",
        )
    }

    pub(crate) fn overloaded(detail: &str) -> Self {
        Self::temporary(Problem::Overloaded, detail, OVERLOADED_RETRY_AFTER)
    }

    /// What the same request may not meet again after `retry_after`, in whole seconds.
    pub(crate) fn temporary(
        problem: Problem,
        detail: impl Into<String>,
        retry_after: Duration,
    ) -> Self {
        let header = Some((header::RETRY_AFTER, retry_after.as_secs().into()));
        Self {
            header,
            ..Self::new(problem, detail)
        }
    }

    /// Never 404: what cannot be read is not known to be absent.
    pub(crate) fn database_away(error: &LedgerError) -> Self {
        tracing::warn!(%error, "answered 503");
        let detail = "this cannot be looked up right now; nothing is lost";
        Self::temporary(Problem::DatabaseUnavailable, detail, DATABASE_RETRY_AFTER)
    }
}

impl From<LedgerError> for Refusal {
    fn from(error: LedgerError) -> Self {
        Self::database_away(&error)
    }
}

impl From<BadParameter> for Refusal {
    fn from(error: BadParameter) -> Self {
        Self::new(Problem::BadParameter, error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = axum::http::StatusCode::from_u16(self.document.status)
            .expect("problems have HTTP statuses");
        let mut response = (status, Json(self.document)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some((name, value)) = self.header {
            headers.insert(name, value);
        }
        response
    }
}
