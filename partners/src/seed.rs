//! `partners.toml`: the partners that a development installation begins with.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use jiff::Timestamp;
use serde::Deserialize;

use crate::document::{Document, KEYS_MAX};
use crate::key::{KeyHash, redacted};
use crate::model::Limits;

/// The partners of a file. They have no limits, and their keys all scopes, for ever.
#[derive(Clone, Default, Debug)]
pub struct Seed {
    documents: Vec<Document>,
}

/// `partners.toml` could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file has faults.
    #[error("{path}: {source}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All of them.
        source: InvalidSeed,
    },
}

/// Every fault of a partners file, one sentence each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct InvalidSeed(pub Vec<String>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    partner: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: i64,
    name: String,
    key_sha256: Vec<String>,
}

/// What has been used already.
#[derive(Default)]
struct Taken {
    ids: HashSet<i32>,
    names: HashSet<String>,
    /// Whose hash it is.
    hashes: HashMap<KeyHash, String>,
}

impl Seed {
    /// Reads a partners file.
    ///
    /// # Errors
    /// [`LoadError`] when it cannot be read, or naming all of its faults.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        let path = path.as_ref();
        let text = fs::read_to_string(path).map_err(|source| LoadError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|source| LoadError::Invalid {
            path: path.to_owned(),
            source,
        })
    }

    /// Reads the text of a partners file.
    ///
    /// # Errors
    /// [`InvalidSeed`] with all of its faults: none at all, an id that is not a positive 32-bit
    /// integer or is used twice, an empty or repeated name, a partner without a key or with too
    /// many, a hash that is not 64 hex digits or stands twice.
    pub fn parse(text: &str) -> Result<Self, InvalidSeed> {
        let file: File = toml::from_str(text)
            .map_err(|error| InvalidSeed(vec![redacted(&error.to_string())]))?;
        let mut seed = Self::default();
        let mut faults = Vec::new();
        let mut taken = Taken::default();
        if file.partner.is_empty() {
            faults.push("no [[partner]] at all".to_owned());
        }
        for (position, entry) in file.partner.iter().enumerate() {
            let what = format!("partner {} ({:?})", position + 1, entry.name);
            let document = taken.take(&what, entry, &mut faults);
            seed.documents.push(document);
        }
        if faults.is_empty() {
            Ok(seed)
        } else {
            Err(InvalidSeed(faults))
        }
    }

    /// The partners, in the file's order.
    #[must_use]
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }
}

impl Taken {
    fn take(&mut self, what: &str, entry: &Entry, faults: &mut Vec<String>) -> Document {
        let id = i32::try_from(entry.id).ok().filter(|id| *id > 0);
        match id {
            None => faults.push(format!("{what}: id {} is not 1 to {}", entry.id, i32::MAX)),
            Some(id) if !self.ids.insert(id) => {
                faults.push(format!("{what}: id {id} is used twice"));
            }
            Some(_) => {}
        }
        if entry.name.trim().is_empty() {
            faults.push(format!("{what}: the name is empty"));
        } else if !self.names.insert(entry.name.clone()) {
            faults.push(format!("{what}: the name is used twice"));
        }
        if entry.key_sha256.is_empty() {
            faults.push(format!("{what}: key_sha256 is empty"));
        } else if entry.key_sha256.len() > KEYS_MAX {
            faults.push(format!("{what}: more than {KEYS_MAX} keys"));
        }
        let mut document = Document::new(id.unwrap_or(0), &entry.name, Limits::default());
        for (key, text) in entry.key_sha256.iter().enumerate() {
            // The text is not repeated: someone may have put the key itself there.
            let Some(hash) = KeyHash::parse(text) else {
                faults.push(format!("{what}: key_sha256[{key}] is not 64 hex digits"));
                continue;
            };
            if let Some(owner) = self.hashes.insert(hash, what.to_owned()) {
                faults.push(format!("{what}: key_sha256[{key}] is that of {owner} too"));
            } else {
                document.add_seed_key(hash, Timestamp::now());
            }
        }
        document
    }
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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{Partners, Scope, generate_key, sha256_hex};

    #[test]
    fn each_key_is_its_partners_and_good_for_everything() {
        let keys: Vec<String> = (0..3).map(|_| generate_key()).collect();
        let text = toml_entry(1, "xrides", &[sha256_hex(&keys[0]), sha256_hex(&keys[1])])
            + &toml_entry(2, "quoted \"name\"", &[sha256_hex(&keys[2]).to_uppercase()]);
        let partners = Partners::fixed(&Seed::parse(&text).expect("valid"));
        let owner = |key: &str, scope| {
            let partner = partners.authenticate(key, scope, SystemTime::now());
            partner
                .ok()
                .map(|partner| (partner.id, partner.name.clone()))
        };
        for scope in Scope::ALL {
            assert_eq!(owner(&keys[0], scope), Some((1, "xrides".into())));
            assert_eq!(owner(&keys[1], scope), Some((1, "xrides".into())));
            assert_eq!(owner(&keys[2], scope), Some((2, "quoted \"name\"".into())));
            assert_eq!(owner("", scope), None);
            assert_eq!(owner(&keys[0][..72], scope), None);
            // The stored hash is not a key.
            assert_eq!(owner(&sha256_hex(&keys[0]), scope), None);
        }
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let hash = sha256_hex("k");
        let text = format!(
            "[[partner]]\nid = 0\nname = \"a\"\nkey_sha256 = [\"{hash}\"]\n\
             [[partner]]\nid = 7\nname = \" \"\nkey_sha256 = []\n\
             [[partner]]\nid = 7\nname = \"a\"\nkey_sha256 = [\"zz\", \"{hash}\"]\n"
        );
        let error = Seed::parse(&text).expect_err("faulty");
        let expected = [
            "partner 1 (\"a\"): id 0 is not 1 to 2147483647",
            "partner 2 (\" \"): the name is empty",
            "partner 2 (\" \"): key_sha256 is empty",
            "partner 3 (\"a\"): id 7 is used twice",
            "partner 3 (\"a\"): the name is used twice",
            "partner 3 (\"a\"): key_sha256[0] is not 64 hex digits",
            "partner 3 (\"a\"): key_sha256[1] is that of partner 1 (\"a\") too",
        ];
        assert_eq!(error.0, expected);
    }

    #[test]
    fn unknown_members_and_empty_files_are_faults() {
        assert!(Seed::parse("").is_err());
        assert!(Seed::parse("[[partner]]\nid = 1\nname = \"a\"\nkey = \"plain\"\n").is_err());
        assert!(Seed::parse("not toml").is_err());
        // The parser quotes the line.
        let key = generate_key();
        let error = Seed::parse(&format!("[[partner]]\nkey = \"{key}\"\n")).unwrap_err();
        assert!(!error.to_string().contains(&key), "{error}");
    }

    #[test]
    fn a_file_is_named_in_its_errors() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("partners.toml");
        let error = Seed::load(&path).unwrap_err().to_string();
        assert!(error.contains("partners.toml"), "{error}");
        fs::write(&path, "").expect("written");
        let error = Seed::load(&path).unwrap_err().to_string();
        assert!(
            error.contains("partners.toml") && error.contains("no [[partner]]"),
            "{error}"
        );
        fs::write(&path, toml_entry(1, "a", &[sha256_hex("k")])).expect("written");
        assert!(Seed::load(&path).is_ok());
    }
}
