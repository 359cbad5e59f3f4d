//! API keys: how they are made, read and hashed.
//!
//! `weir_live_<id>_<secret>`: the id is public (8 symbols, it names the key in lists and commands),
//! the secret has 260 random bits (52 symbols of 5 bits). Since there is nothing to guess, a plain
//! SHA-256 of the whole text is kept: a slow hash would protect nothing more.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// Marks a key as Weir's, so that leak scanners can find it.
const PREFIX: &str = "weir_live_";

/// Marks a development key, as `partners.toml` knows them.
const DEVELOPMENT_PREFIX: &str = "weir_dev_";

/// 32 symbols without those that people mix up (i, l, o, u): safe in URLs, and selected by a
/// double click.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Symbols of a key's id.
const ID_SYMBOLS: usize = 8;

/// Symbols of a key's secret: 260 bits.
const SECRET_SYMBOLS: usize = 52;

/// A key in the clear. It exists from its making to its showing, and `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    text: String,
    id: String,
}

impl ApiKey {
    /// A new key.
    ///
    /// # Panics
    /// If the operating system has no randomness to give.
    #[must_use]
    pub fn generate() -> Self {
        let mut random = [0_u8; ID_SYMBOLS + SECRET_SYMBOLS];
        getrandom::fill(&mut random).expect("the operating system gives randomness");
        // 256 is a multiple of 32: every symbol is equally likely.
        let symbols = random.map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
        let id: String = symbols[..ID_SYMBOLS].iter().collect();
        let secret: String = symbols[ID_SYMBOLS..].iter().collect();
        Self {
            text: format!("{PREFIX}{id}_{secret}"),
            id,
        }
    }

    /// The key itself, to be shown once.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// Its public part.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What is kept of it.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.text)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({PREFIX}{}_...)", self.id)
    }
}

/// The SHA-256 of a key's bytes: all that is kept of it. Shown as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub(crate) [u8; 32]);

impl KeyHash {
    /// Of a presented key.
    #[must_use]
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// Reads 64 hex digits, of either case; none if it is anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        hex::decode_to_slice(text, &mut hash).ok()?;
        Some(Self(hash))
    }

    /// What a key of `partners.toml`, which has no id of its own, is called.
    pub(crate) fn seed_key_id(&self) -> String {
        format!("dev{}", hex::encode(&self.0[..4]))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyHash {
    /// Without the hash: logs are read by more people than the bucket.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(...)")
    }
}

impl serde::Serialize for KeyHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for KeyHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The text is not repeated: someone may have put the key itself there.
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("sha256 is not 64 hex digits"))
    }
}

/// A text in which keys are made unreadable: a parser's complaint may quote what it read, and someone
/// may have written a key there.
pub(crate) fn redacted(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    loop {
        let found = [PREFIX, DEVELOPMENT_PREFIX]
            .into_iter()
            .filter_map(|prefix| Some((rest.find(prefix)?, prefix)))
            .min();
        let Some((at, prefix)) = found else {
            shown.push_str(rest);
            return shown;
        };
        let (before, after) = rest.split_at(at + prefix.len());
        shown.push_str(before);
        shown.push_str("...");
        rest = after.trim_start_matches(|symbol: char| {
            symbol.is_ascii_alphanumeric() || symbol == '_' || symbol == '-'
        });
    }
}

/// A new development key: 256 random bits in hex behind `weir_dev_`, 73 characters.
///
/// # Panics
/// If the operating system has no randomness to give.
#[must_use]
pub fn generate_key() -> String {
    let mut random = [0; 32];
    getrandom::fill(&mut random).expect("the operating system gives randomness");
    format!("{DEVELOPMENT_PREFIX}{}", hex::encode(random))
}

/// What `partners.toml` holds of a key: the SHA-256 of its bytes, 64 hex digits.
#[must_use]
pub fn sha256_hex(key: &str) -> String {
    KeyHash::of(key).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn development_keys_are_long_and_never_the_same() {
        let (one, other) = (generate_key(), generate_key());
        assert_eq!(one.len(), 73);
        assert_ne!(one, other);
    }

    #[test]
    fn live_keys_have_their_form_and_are_never_the_same() {
        let keys: Vec<ApiKey> = (0..1_000).map(|_| ApiKey::generate()).collect();
        let texts: HashSet<&str> = keys.iter().map(ApiKey::reveal).collect();
        assert_eq!(texts.len(), keys.len());
        let mut seen = HashSet::new();
        for key in &keys {
            let rest = key.reveal().strip_prefix("weir_live_").expect("the prefix");
            let (id, secret) = rest.split_once('_').expect("an id and a secret");
            assert_eq!((id, id.len(), secret.len()), (key.id(), 8, 52));
            let symbols = id.bytes().chain(secret.bytes());
            for symbol in symbols {
                assert!(ALPHABET.contains(&symbol), "{symbol}");
                seen.insert(symbol);
            }
        }
        assert_eq!(seen.len(), 32, "every symbol is used");
        // 52 symbols of 5 bits.
        const { assert!(SECRET_SYMBOLS * 5 >= 256) };
    }

    #[test]
    fn the_hash_is_plain_sha_256() {
        // FIPS 180-4's example.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_hex("abc"), expected);
        assert_eq!(
            KeyHash::parse(&expected.to_uppercase()),
            Some(KeyHash::of("abc"))
        );
        for bad in ["", "ba78", &expected[1..], "weir_live_x"] {
            assert_eq!(KeyHash::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn keys_in_a_text_are_made_unreadable() {
        for (text, expected) in [
            ("", ""),
            ("weir_other", "weir_other"),
            ("a \"weir_live_ab_cd\", b", "a \"weir_live_...\", b"),
            ("weir_dev_1 weir_live_2", "weir_dev_... weir_live_..."),
        ] {
            assert_eq!(redacted(text), expected);
        }
    }

    #[test]
    fn debug_shows_neither_key_nor_hash() {
        let key = ApiKey::generate();
        let secret = key.reveal().rsplit('_').next().expect("a secret");
        assert!(!format!("{key:?}").contains(secret));
        assert!(!format!("{:?}", key.hash()).contains(&key.hash().to_string()));
    }
}
