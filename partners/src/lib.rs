//! Who may call: partners, the hashes of their keys, and constant-time key look-up.
//!
//! Keys are random 256-bit values, so a plain SHA-256 of each is kept: there is nothing to guess
//! that a slow hash would protect.

pub mod authorization;
mod directory;
mod model;

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

pub use directory::{Directory, InvalidDirectory, LoadError};
pub use model::{Limits, Partner};

/// Marks a key as Weir's and as a development key, so that leak scanners can find it.
const KEY_PREFIX: &str = "weir_dev_";

/// A new development key: 256 random bits in hex behind `weir_dev_`, 73 characters.
///
/// # Panics
/// If the operating system has no randomness to give.
#[must_use]
pub fn generate_key() -> String {
    let mut random = [0; 32];
    getrandom::fill(&mut random).expect("the operating system gives randomness");
    format!("{KEY_PREFIX}{}", hex::encode(random))
}

/// What `partners.toml` holds of a key: the SHA-256 of its bytes, 64 hex digits.
#[must_use]
pub fn sha256_hex(key: &str) -> String {
    hex::encode(sha256(key.as_bytes()))
}

/// One entry for `partners.toml`, as text.
#[must_use]
pub fn toml_entry(id: i32, name: &str, keys_sha256: &[String]) -> String {
    let mut entry = format!(
        "[[partner]]\nid = {id}\nname = {}\nkey_sha256 = [",
        toml::Value::from(name)
    );
    for hash in keys_sha256 {
        write!(entry, "\n  \"{hash}\",").expect("a String grows");
    }
    entry.push_str("\n]\n");
    entry
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_long_and_never_the_same() {
        let (one, other) = (generate_key(), generate_key());
        assert_eq!(one.len(), 73);
        assert_ne!(one, other);
    }

    #[test]
    fn the_hash_is_plain_sha_256() {
        // FIPS 180-4's example.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_hex("abc"), expected);
    }

    #[test]
    fn an_entry_reads_back() {
        let key = generate_key();
        let text = toml_entry(3, "quoted \"name\"", &[sha256_hex(&key)]);
        let directory = Directory::parse(&text).expect("valid");
        let partner = directory.authenticate(&key).expect("known");
        assert_eq!((partner.id, partner.name.as_str()), (3, "quoted \"name\""));
    }
}
