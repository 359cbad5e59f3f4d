//! Who may call: partners, their limits, the hashes of their keys, and where all that is kept.
//!
//! The truth is the NATS KV bucket [`BUCKET`]: one [`Document`] per partner. [`Bucket`] changes it
//! (`weir partner`), [`Partners`] follows it (gateways and status APIs) and answers from memory.

mod access;
pub mod authorization;
mod bucket;
mod cache;
mod connection;
mod document;
mod key;
mod meter;
mod model;
mod seed;
mod snapshot;
mod watch;

pub use access::{Access, AccessError, TlsFiles};
pub use async_nats::Client;
pub use bucket::{AddError, BUCKET, Bucket, BucketError, ChangeError, NewPartner};
pub use connection::{ConnectError, connect, parse_urls, stay_connected};
pub use document::{
    Conflict, Document, DocumentError, KEYS_MAX, Key, KeyState, NAME_CHARACTERS_MAX, NameError,
    check_limits, check_name, later,
};
pub use key::{ApiKey, KeyHash, generate_key, sha256_hex};
pub use model::{Denied, Limits, Partner, Scope};
pub use seed::{InvalidSeed, LoadError, Seed, toml_entry};
pub use watch::{Partners, Sources, Watcher};
