//! `partners.toml`, parsed once, and the look-up of a presented key in it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs, io};

use serde::Deserialize;
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use crate::{Limits, Partner};

/// Most keys of all partners together: each look-up compares against every one of them.
const KEYS_MAX: usize = 10_000;

/// All partners and the hashes of their keys.
pub struct Directory {
    /// (SHA-256 of a key, index into `partners`).
    keys: Vec<([u8; 32], u32)>,
    partners: Vec<Arc<Partner>>,
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
        source: InvalidDirectory,
    },
}

/// Every fault of a partners file, one sentence each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct InvalidDirectory(pub Vec<String>);

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

impl Directory {
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
    /// [`InvalidDirectory`] with all of its faults: none at all, an id that is not a positive
    /// 32-bit integer or is used twice, an empty or repeated name, a partner without a key, a hash
    /// that is not 64 hex digits or stands twice.
    pub fn parse(text: &str) -> Result<Self, InvalidDirectory> {
        let file: File =
            toml::from_str(text).map_err(|error| InvalidDirectory(vec![error.to_string()]))?;
        let mut directory = Self {
            keys: Vec::new(),
            partners: Vec::new(),
        };
        let mut faults = Vec::new();
        let mut owners: HashMap<[u8; 32], String> = HashMap::new();
        if file.partner.is_empty() {
            faults.push("no [[partner]] at all".to_owned());
        }
        for (position, entry) in file.partner.iter().enumerate() {
            directory.add(position, entry, &mut owners, &mut faults);
        }
        if directory.keys.len() > KEYS_MAX {
            faults.push(format!("{} keys: at most {KEYS_MAX}", directory.keys.len()));
        }
        if faults.is_empty() {
            Ok(directory)
        } else {
            Err(InvalidDirectory(faults))
        }
    }

    fn add(
        &mut self,
        position: usize,
        entry: &Entry,
        owners: &mut HashMap<[u8; 32], String>,
        faults: &mut Vec<String>,
    ) {
        let what = format!("partner {} ({:?})", position + 1, entry.name);
        let id = i32::try_from(entry.id)
            .ok()
            .filter(|id| *id > 0)
            .unwrap_or_else(|| {
                faults.push(format!("{what}: id {} is not 1 to {}", entry.id, i32::MAX));
                0
            });
        if id > 0 && self.partners.iter().any(|other| other.id == id) {
            faults.push(format!("{what}: id {id} is used twice"));
        }
        if entry.name.trim().is_empty() {
            faults.push(format!("{what}: the name is empty"));
        } else if self.partners.iter().any(|other| other.name == entry.name) {
            faults.push(format!("{what}: the name is used twice"));
        }
        if entry.key_sha256.is_empty() {
            faults.push(format!("{what}: key_sha256 is empty"));
        }
        let index =
            u32::try_from(self.partners.len()).expect("a file holds fewer than 2^32 partners");
        for (key, text) in entry.key_sha256.iter().enumerate() {
            let mut hash = [0; 32];
            // The text is not repeated: someone may have put the key itself there.
            if hex::decode_to_slice(text, &mut hash).is_err() {
                faults.push(format!("{what}: key_sha256[{key}] is not 64 hex digits"));
            } else if let Some(owner) = owners.insert(hash, what.clone()) {
                faults.push(format!("{what}: key_sha256[{key}] is that of {owner} too"));
            } else {
                self.keys.push((hash, index));
            }
        }
        self.partners.push(Arc::new(Partner {
            id,
            name: entry.name.clone(),
            limits: Limits::default(),
        }));
    }

    /// Whose key this is; none if nobody's.
    ///
    /// Hashes the key and compares it with every known hash, each in constant time and none left
    /// out, so that the time taken tells nothing about where or how far it matched.
    #[must_use]
    pub fn authenticate(&self, key: &str) -> Option<Arc<Partner>> {
        let presented = crate::sha256(key.as_bytes());
        let mut found = Choice::from(0);
        let mut owner = 0_u32;
        for (hash, index) in &self.keys {
            let same = hash.ct_eq(&presented);
            owner.conditional_assign(index, same);
            found |= same;
        }
        bool::from(found).then(|| Arc::clone(&self.partners[owner as usize]))
    }

    /// Every partner, in the file's order.
    #[must_use]
    pub fn partners(&self) -> &[Arc<Partner>] {
        &self.partners
    }
}

impl fmt::Debug for Directory {
    /// Without the hashes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("partners", &self.partners)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{generate_key, sha256_hex, toml_entry};

    #[test]
    fn each_key_is_its_partners() {
        let keys: Vec<String> = (0..3).map(|_| generate_key()).collect();
        let text = toml_entry(1, "xrides", &[sha256_hex(&keys[0]), sha256_hex(&keys[1])])
            + &toml_entry(2, "acme", &[sha256_hex(&keys[2]).to_uppercase()]);
        let directory = Directory::parse(&text).expect("valid");
        let owner = |key: &str| directory.authenticate(key).map(|partner| partner.id);
        assert_eq!(owner(&keys[0]), Some(1));
        assert_eq!(owner(&keys[1]), Some(1));
        assert_eq!(owner(&keys[2]), Some(2));
        assert_eq!(owner(""), None);
        assert_eq!(owner(&keys[0][..72]), None);
        assert_eq!(
            owner(&sha256_hex(&keys[0])),
            None,
            "the stored hash is not a key"
        );
        assert_eq!(directory.partners().len(), 2);
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let hash = sha256_hex("k");
        let text = format!(
            "[[partner]]\nid = 0\nname = \"a\"\nkey_sha256 = [\"{hash}\"]\n\
             [[partner]]\nid = 7\nname = \" \"\nkey_sha256 = []\n\
             [[partner]]\nid = 7\nname = \"a\"\nkey_sha256 = [\"zz\", \"{hash}\"]\n"
        );
        let error = Directory::parse(&text).expect_err("faulty");
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
        assert!(Directory::parse("").is_err());
        assert!(Directory::parse("[[partner]]\nid = 1\nname = \"a\"\nkey = \"plain\"\n").is_err());
        assert!(Directory::parse("not toml").is_err());
    }

    #[test]
    fn a_file_is_named_in_its_errors() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("partners.toml");
        assert!(
            Directory::load(&path)
                .unwrap_err()
                .to_string()
                .contains("partners.toml")
        );
        fs::write(&path, "").expect("written");
        let error = Directory::load(&path).unwrap_err().to_string();
        assert!(
            error.contains("partners.toml") && error.contains("no [[partner]]"),
            "{error}"
        );
        fs::write(&path, toml_entry(1, "a", &[sha256_hex("k")])).expect("written");
        assert!(Directory::load(&path).is_ok());
    }
}
