//! What the rest of Weir learns about one who may call.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

/// One who may call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Partner {
    /// Greater than 0; the owner in every table.
    pub id: i32,
    /// For people: logs and metrics.
    pub name: String,
    /// How much at most, over all gateways together.
    pub limits: Limits,
}

/// How much a partner may send at most, over all gateways together. What is absent is unlimited;
/// the default is no limit at all.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Records a second, in the long run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub records_per_second: Option<NonZeroU32>,
    /// Records at once after a pause, so also the largest batch; without it as many as a second
    /// allows. Means nothing without `records_per_second`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub records_burst: Option<NonZeroU32>,
    /// Bytes of request bodies a second, in the long run; at most 4 GiB.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes_per_second: Option<NonZeroU32>,
    /// Bytes at once after a pause, so also the largest body; without it as many as a second
    /// allows. Means nothing without `bytes_per_second`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes_burst: Option<NonZeroU32>,
}

impl Limits {
    /// Nothing is limited.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        self.records_per_second.is_none() && self.bytes_per_second.is_none()
    }
}
