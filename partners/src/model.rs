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

/// What a key is good for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scope {
    /// Sending records.
    Ingest,
    /// Asking what became of them.
    Read,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 2] = [Self::Ingest, Self::Read];

    /// The word in documents and commands.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Read => "read",
        }
    }

    /// The scope of that word; none for words of the future.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.word() == word)
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// Why a key does not open a door. The words are safe for whoever presents it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Denied {
    /// Nobody has that key.
    #[error("this key is nobody's")]
    Unknown,
    /// It was good until some moment.
    #[error("this key has expired")]
    Expired,
    /// It was taken back.
    #[error("this key was revoked")]
    Revoked,
    /// The key is good, but not for this.
    #[error("this key lacks the scope `{0}`")]
    Scope(Scope),
    /// The key is good, but its partner is shut out.
    #[error("this partner is disabled")]
    Disabled,
    /// Who may call has not been learnt yet: the same key may be good in a moment.
    #[error("keys cannot be checked yet")]
    NotLoaded,
}
