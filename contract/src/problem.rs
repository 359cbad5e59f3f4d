//! The problems that Weir answers with (RFC 9457): code, status, title and whether to try again.

use serde::Serialize;

/// Every problem there is, for both services.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Problem {
    /// The body is empty, or an empty array.
    Empty,
    /// The body is not JSON by RFC 8259's grammar, or nests past the parser's bound.
    Malformed,
    /// A parameter of the request line cannot be read.
    BadParameter,
    /// No key, or one that nobody has.
    Unauthorized,
    /// The key is somebody's, but not for this: it lacks the scope, or its partner is disabled.
    Forbidden,
    /// No such route, resource, or tracking id of this partner's.
    NotFound,
    /// The route exists with other methods; `Allow` names them.
    MethodNotAllowed,
    /// The request did not arrive in time.
    RequestTimeout,
    /// The tracking id is older than the ledger keeps.
    Gone,
    /// More bytes or items than one request may have.
    TooLarge,
    /// A content type or encoding that Weir does not read.
    UnsupportedMediaType,
    /// JSON that is not a record; `errors` names each fault.
    Invalid,
    /// The partner's rate limit.
    QuotaExceeded,
    /// The process, or the record's partition, is at its bound of what may be in flight.
    Overloaded,
    /// The log cannot be reached or is full.
    LogUnavailable,
    /// The gateway's clock and the log's disagree.
    ClockSkew,
    /// The log did not acknowledge in time. The record may yet be stored: a create or a movement
    /// sent again is not doubled; what sets a value is better sent on a condition.
    Unanswered,
    /// The process is going away.
    ShuttingDown,
    /// The database cannot be reached.
    DatabaseUnavailable,
    /// The request that a read was to wait for has no outcome yet.
    NotSettled,
    /// The process has not learnt yet who may call.
    PartnersUnavailable,
    /// A fault of Weir's own.
    Internal,
}

impl Problem {
    /// Every problem, for documents and tests.
    pub const ALL: [Self; 22] = [
        Self::Empty,
        Self::Malformed,
        Self::BadParameter,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::Gone,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::Invalid,
        Self::QuotaExceeded,
        Self::Overloaded,
        Self::LogUnavailable,
        Self::ClockSkew,
        Self::Unanswered,
        Self::ShuttingDown,
        Self::DatabaseUnavailable,
        Self::NotSettled,
        Self::PartnersUnavailable,
        Self::Internal,
    ];

    /// (code, HTTP status, title, retryable), in one table so that they cannot drift apart.
    const fn row(self) -> (&'static str, u16, &'static str, bool) {
        match self {
            Self::Empty => ("empty", 400, "Nothing was sent", false),
            Self::Malformed => ("malformed", 400, "Not JSON", false),
            Self::BadParameter => ("bad-parameter", 400, "Unreadable parameter", false),
            Self::Unauthorized => ("unauthorized", 401, "A valid API key is needed", false),
            Self::Forbidden => ("forbidden", 403, "Not allowed to this key", false),
            Self::NotFound => ("not-found", 404, "Not found", false),
            Self::MethodNotAllowed => ("method-not-allowed", 405, "Method not allowed", false),
            Self::RequestTimeout => (
                "request-timeout",
                408,
                "The request took too long to arrive",
                true,
            ),
            Self::Gone => ("gone", 410, "No longer kept", false),
            Self::TooLarge => ("too-large", 413, "Too large", false),
            Self::UnsupportedMediaType => (
                "unsupported-media-type",
                415,
                "Unsupported media type",
                false,
            ),
            Self::Invalid => ("invalid", 422, "Not a valid record", false),
            Self::QuotaExceeded => ("quota-exceeded", 429, "Rate limit reached", true),
            Self::Overloaded => ("overloaded", 503, "Too much in flight", true),
            Self::LogUnavailable => ("log-unavailable", 503, "The log is unavailable", true),
            Self::ClockSkew => ("clock-skew", 503, "Clocks disagree", true),
            Self::Unanswered => ("unanswered", 503, "Not acknowledged in time", true),
            Self::ShuttingDown => ("shutting-down", 503, "Shutting down", true),
            Self::DatabaseUnavailable => (
                "database-unavailable",
                503,
                "The database is unavailable",
                true,
            ),
            Self::NotSettled => ("not-settled", 503, "Not settled yet", true),
            Self::PartnersUnavailable => (
                "partners-unavailable",
                503,
                "Keys cannot be checked yet",
                true,
            ),
            Self::Internal => ("internal", 500, "Internal error", true),
        }
    }

    /// The stable word for programs, kebab-case.
    #[must_use]
    pub const fn code(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status, 400 to 599.
    #[must_use]
    pub const fn status(self) -> u16 {
        self.row().1
    }

    /// The same sentence for every occurrence (RFC 9457, section 3.1.3).
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.row().2
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn retryable(self) -> bool {
        self.row().3
    }

    /// The document to answer with; `detail` is safe for the client to read.
    #[must_use]
    pub fn document(self, detail: impl Into<String>) -> ProblemDocument {
        ProblemDocument {
            r#type: format!("urn:weir:problem:{}", self.code()),
            title: self.title(),
            status: self.status(),
            detail: detail.into(),
            code: self.code(),
            retryable: self.retryable(),
            errors: Vec::new(),
        }
    }
}

/// An RFC 9457 problem, ready to be written as `application/problem+json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ProblemDocument {
    /// `urn:weir:problem:<code>`.
    pub r#type: String,
    /// See [`Problem::title`].
    pub title: &'static str,
    /// See [`Problem::status`].
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// See [`Problem::code`].
    pub code: &'static str,
    /// See [`Problem::retryable`].
    pub retryable: bool,
    /// One per fault of the input; left out when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Fault>,
}

impl ProblemDocument {
    /// The same problem with the input's faults.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<Fault>) -> Self {
        self.errors = errors;
        self
    }
}

/// One fault of the input.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Fault {
    /// RFC 6901, relative to the item: a member as it was sent, a missing one by its snake_case
    /// name, the item itself by `""`.
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_unique_and_only_server_side_or_temporary_problems_are_retryable() {
        let codes: HashSet<_> = Problem::ALL.iter().map(|problem| problem.code()).collect();
        assert_eq!(codes.len(), Problem::ALL.len());
        for problem in Problem::ALL {
            let temporary = problem.status() >= 500 || matches!(problem.status(), 408 | 429);
            assert_eq!(problem.retryable(), temporary, "{problem:?}");
        }
    }

    #[test]
    fn a_document_has_the_members_of_rfc_9457() {
        let document = Problem::Invalid
            .document("1 fault")
            .with_errors(vec![Fault {
                pointer: "/id".into(),
                detail: "must be positive".into(),
            }]);
        let json = serde_json::to_value(&document).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "type": "urn:weir:problem:invalid", "title": "Not a valid record", "status": 422,
                "detail": "1 fault", "code": "invalid", "retryable": false,
                "errors": [{"pointer": "/id", "detail": "must be positive"}],
            })
        );
    }
}
