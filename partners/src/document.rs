//! A partner as the bucket keeps it: one JSON document.
//!
//! ```json
//! {"version":1,"id":7,"name":"acme","disabled":false,
//!  "limits":{"records_per_second":100,"records_burst":500},
//!  "keys":[{"id":"k3x9a7bq","sha256":"<64 hex digits>","scopes":["ingest","read"],
//!           "created_at":"2026-01-01T00:00:00Z","expires_at":null,"revoked_at":null}]}
//! ```
//!
//! Members that this build does not know are kept when it writes a document again: an older
//! `weir partner` does not undo what a newer one has said. What an older build must not ignore gets
//! another version, which it refuses.

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::key::{ApiKey, KeyHash, redacted};
use crate::model::{Limits, Scope};

/// Of the document's form.
const VERSION: u32 = 1;

/// Most keys of one partner, ended ones included: a document stays a few kilobytes.
pub const KEYS_MAX: usize = 32;

/// Longest name of a partner, in characters.
pub const NAME_CHARACTERS_MAX: usize = 64;

/// A partner: what it is called, what it may do, and what is kept of its keys.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Document {
    version: u32,
    /// Greater than 0, and never given to another.
    pub id: i32,
    /// Nobody else's.
    pub name: String,
    /// All keys are refused while this is true.
    #[serde(default)]
    pub disabled: bool,
    #[serde(default)]
    limits: KeptLimits,
    /// At most [`KEYS_MAX`], the oldest first.
    pub keys: Vec<Key>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// Limits, and what a newer build has added to them.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
struct KeptLimits {
    #[serde(flatten)]
    known: Limits,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// What is kept of one key.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Key {
    /// Public: part of the key's text, and what commands call it by.
    pub id: String,
    /// Of the whole key.
    pub sha256: KeyHash,
    /// Words of [`Scope`], and perhaps some of the future.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused; never without.
    pub expires_at: Option<Timestamp>,
    /// When it was taken back.
    pub revoked_at: Option<Timestamp>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// How a key stands at some moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyState {
    /// It opens doors.
    Live,
    /// Its time has passed.
    Expired,
    /// It was taken back.
    Revoked,
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        })
    }
}

/// A document that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON, or not this document.
    #[error("not a partner's document: {0}")]
    Unreadable(String),
    /// Of a form that this build does not know.
    #[error("version {0} of a partner's document; this build reads {VERSION}")]
    Version(u64),
    /// It says it is another's.
    #[error("the document says it is partner {0}'s")]
    Id(i32),
    /// A name that cannot be.
    #[error(transparent)]
    Name(#[from] NameError),
    /// More keys than a partner may have.
    #[error("{0} keys: at most {KEYS_MAX}")]
    Keys(usize),
}

impl DocumentError {
    #[allow(clippy::needless_pass_by_value, reason = "for map_err")]
    pub(crate) fn unreadable(error: serde_json::Error) -> Self {
        Self::Unreadable(redacted(&error.to_string()))
    }
}

/// A name that a partner cannot have.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a partner's name has 1 to {NAME_CHARACTERS_MAX} characters of a-z 0-9 - _ . (not {0:?})")]
pub struct NameError(String);

/// A change that does not go with what the partner is.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Conflict {
    /// Every key is live and there is no room.
    #[error("the partner has {KEYS_MAX} live keys: revoke one first")]
    KeysFull,
    /// No key of that id.
    #[error("the partner has no key {0}: `weir partner show` lists its keys")]
    NoSuchKey(String),
    /// A burst without the rate it belongs to.
    #[error("a burst of {0} needs a rate of {0} a second")]
    BurstWithoutRate(&'static str),
}

/// Checks a partner's name.
///
/// # Errors
/// [`NameError`].
pub fn check_name(name: &str) -> Result<(), NameError> {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > NAME_CHARACTERS_MAX || !name.bytes().all(allowed) {
        let shown: String = name.chars().take(NAME_CHARACTERS_MAX + 1).collect();
        return Err(NameError(redacted(&shown)));
    }
    Ok(())
}

/// To the millisecond: nobody reads more.
pub(crate) fn rounded(instant: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(instant.as_millisecond()).unwrap_or(instant)
}

/// `instant + duration`, or the end of time.
#[must_use]
pub fn later(instant: Timestamp, duration: Duration) -> Timestamp {
    let duration = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    let sum = instant.checked_add(duration).unwrap_or(Timestamp::MAX);
    rounded(sum)
}

impl Document {
    /// A partner without keys.
    #[must_use]
    pub fn new(id: i32, name: impl Into<String>, limits: Limits) -> Self {
        Self {
            version: VERSION,
            id,
            name: name.into(),
            disabled: false,
            limits: KeptLimits {
                known: limits,
                other: Map::new(),
            },
            keys: Vec::new(),
            other: Map::new(),
        }
    }

    /// Reads the document kept for partner `id`.
    ///
    /// # Errors
    /// [`DocumentError`]. It never repeats a key.
    pub fn parse(id: i32, json: &[u8]) -> Result<Self, DocumentError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        let Versioned { version } =
            serde_json::from_slice(json).map_err(DocumentError::unreadable)?;
        if version != u64::from(VERSION) {
            return Err(DocumentError::Version(version));
        }
        let document: Self = serde_json::from_slice(json).map_err(DocumentError::unreadable)?;
        if document.id != id || id <= 0 {
            return Err(DocumentError::Id(document.id));
        }
        if document.name.trim().is_empty() {
            return Err(NameError(document.name).into());
        }
        if document.keys.len() > KEYS_MAX {
            return Err(DocumentError::Keys(document.keys.len()));
        }
        Ok(document)
    }

    /// As it is kept.
    ///
    /// # Panics
    /// Never: strings, numbers and lists can be written.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers and lists can be written")
    }

    /// How much it may send.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits.known
    }

    /// Replaces the limits.
    ///
    /// # Errors
    /// [`Conflict::BurstWithoutRate`]; nothing is changed then.
    pub fn set_limits(&mut self, limits: Limits) -> Result<(), Conflict> {
        check_limits(&limits)?;
        self.limits.known = limits;
        Ok(())
    }

    /// Adds a new key. Where there is no room, the one that ended first goes.
    ///
    /// # Errors
    /// [`Conflict::KeysFull`].
    pub fn add_key(
        &mut self,
        key: &ApiKey,
        scopes: &[Scope],
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), Conflict> {
        if self.keys.len() >= KEYS_MAX {
            let ended = (0..self.keys.len())
                .filter_map(|index| Some((self.keys[index].ended_at(now)?, index)))
                .min();
            let (_, index) = ended.ok_or(Conflict::KeysFull)?;
            self.keys.remove(index);
        }
        self.keys.push(Key {
            id: key.id().to_owned(),
            sha256: key.hash(),
            scopes: scopes.iter().map(|scope| scope.word().to_owned()).collect(),
            created_at: rounded(now),
            expires_at: expires_at.map(rounded),
            revoked_at: None,
            other: Map::new(),
        });
        Ok(())
    }

    /// A key of `partners.toml`: good for everything, for ever.
    pub(crate) fn add_seed_key(&mut self, hash: KeyHash, now: Timestamp) {
        self.keys.push(Key {
            id: hash.seed_key_id(),
            sha256: hash,
            scopes: Scope::ALL.map(|scope| scope.word().to_owned()).into(),
            created_at: rounded(now),
            expires_at: None,
            revoked_at: None,
            other: Map::new(),
        });
    }

    /// Takes a key back, at once. Whether it was live until then.
    ///
    /// # Errors
    /// [`Conflict::NoSuchKey`].
    pub fn revoke_key(&mut self, key_id: &str, now: Timestamp) -> Result<bool, Conflict> {
        let key = self.keys.iter_mut().find(|key| key.id == key_id);
        let key = key.ok_or_else(|| Conflict::NoSuchKey(key_id.to_owned()))?;
        let was_live = key.state(now) == KeyState::Live;
        key.revoked_at.get_or_insert(rounded(now));
        Ok(was_live)
    }

    /// Lets live keys expire at `at`, unless they do so earlier: those that can do nothing that
    /// `scopes` cannot. How many.
    pub fn expire_keys(&mut self, scopes: &[Scope], at: Timestamp, now: Timestamp) -> usize {
        let covered = |key: &Key| {
            let words = key.scopes.iter();
            words
                .into_iter()
                .all(|word| Scope::of_word(word).is_some_and(|scope| scopes.contains(&scope)))
        };
        let mut expiring = 0;
        for key in &mut self.keys {
            if key.state(now) != KeyState::Live || !covered(key) {
                continue;
            }
            if key.expires_at.is_none_or(|earlier| at < earlier) {
                key.expires_at = Some(rounded(at));
                expiring += 1;
            }
        }
        expiring
    }

    /// What its live keys can do together, in the order of [`Scope::ALL`].
    #[must_use]
    pub fn live_scopes(&self, now: Timestamp) -> Vec<Scope> {
        let live = |scope: &Scope| {
            self.keys
                .iter()
                .any(|key| key.state(now) == KeyState::Live && key.has(*scope))
        };
        Scope::ALL.into_iter().filter(live).collect()
    }
}

/// Checks that limits make sense.
///
/// # Errors
/// [`Conflict::BurstWithoutRate`].
pub fn check_limits(limits: &Limits) -> Result<(), Conflict> {
    if limits.records_burst.is_some() && limits.records_per_second.is_none() {
        return Err(Conflict::BurstWithoutRate("records"));
    }
    if limits.bytes_burst.is_some() && limits.bytes_per_second.is_none() {
        return Err(Conflict::BurstWithoutRate("bytes"));
    }
    Ok(())
}

impl Key {
    /// Whether it is good for that.
    #[must_use]
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.iter().any(|word| word == scope.word())
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> KeyState {
        if self.revoked_at.is_some() {
            KeyState::Revoked
        } else if self.expires_at.is_some_and(|at| at <= now) {
            KeyState::Expired
        } else {
            KeyState::Live
        }
    }

    /// When it ended, if it has.
    fn ended_at(&self, now: Timestamp) -> Option<Timestamp> {
        match self.state(now) {
            KeyState::Live => None,
            KeyState::Revoked => self.revoked_at,
            KeyState::Expired => self.expires_at,
        }
    }
}

#[cfg(test)]
mod tests;
