//! Why a request, or an item of one, was turned away.

use contract::Problem;
use contract::problem::Fault;
use http::HeaderName;

use crate::quota::RateLimitFields;

/// A refusal, in terms that are safe for the sender to read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    pub(crate) problem: Problem,
    pub(crate) detail: String,
    pub(crate) faults: Vec<Fault>,
    /// The ride's id where it could be read.
    pub(crate) id: Option<i64>,
    /// A header that the status asks for: which methods there are, or which patches.
    pub(crate) header: Option<Box<(HeaderName, &'static str)>>,
    /// After how many seconds it is worth trying again, where that is known.
    pub(crate) retry_after: Option<u32>,
    /// Of a partner that has limits, where they are why.
    pub(crate) rate_limit: Option<Box<RateLimitFields>>,
}

impl Refusal {
    pub(crate) fn new(problem: Problem, detail: impl Into<String>) -> Self {
        Self {
            problem,
            detail: detail.into(),
            faults: Vec::new(),
            id: None,
            header: None,
            retry_after: None,
            rate_limit: None,
        }
    }

    /// 422 naming what is wrong with a record.
    pub(crate) fn invalid(faults: Vec<Fault>, id: Option<i64>) -> Self {
        let detail = match &faults[..] {
            [fault] if fault.pointer.is_empty() => format!("the item {}", fault.detail),
            [fault] => format!("{} {}", fault.pointer, fault.detail),
            faults => format!("the record has {} faults", faults.len()),
        };
        Self {
            faults,
            id,
            ..Self::new(Problem::Invalid, detail)
        }
    }

    /// 400 for what is not JSON.
    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(Problem::Malformed, detail)
    }

    /// The same, of the ride with that id.
    pub(crate) fn about(self, id: Option<i64>) -> Self {
        Self { id, ..self }
    }
}
