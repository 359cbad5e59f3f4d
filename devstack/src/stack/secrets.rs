//! The development keys. They are made once and kept with the data, so that a key noted yesterday
//! works today.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::endpoints::{DevelopmentPartner, write_private};
use crate::nats::{self, password};

/// The development partners.
const PARTNERS: [(i32, &str); 2] = [(1, "xrides"), (2, "acme")];
/// A tracking key, in bytes.
const TRACKING_KEY_BYTES: usize = 32;

/// The files that services are given, and the keys in the clear.
#[derive(Debug)]
pub(super) struct Secrets {
    pub(super) partners_file: PathBuf,
    pub(super) tracking_keys_file: PathBuf,
    pub(super) partners: Vec<DevelopmentPartner>,
    pub(super) passwords: Passwords,
}

/// Of the users that the services are at servers of the stack's own.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Passwords {
    pub(super) nats: nats::Passwords,
    pub(super) database: DatabasePasswords,
}

/// Of the database's users beside its owner, who has a file of its own.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct DatabasePasswords {
    pub(super) worker: String,
    pub(super) reader: String,
}

impl std::fmt::Debug for DatabasePasswords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DatabasePasswords(..)")
    }
}

impl Secrets {
    /// Reads the keys in `directory`, or makes them.
    pub(super) fn ensure(directory: &Path) -> io::Result<Self> {
        let clear = directory.join("development-keys.json");
        let partners_file = directory.join("partners.toml");
        let tracking_keys_file = directory.join("tracking-keys");
        if !tracking_keys_file.is_file() {
            let mut key = [0_u8; TRACKING_KEY_BYTES];
            getrandom::fill(&mut key).map_err(io::Error::other)?;
            write_private(&tracking_keys_file, &format!("dev {}\n", hex::encode(key)))?;
        }
        if !clear.is_file() {
            let made = PARTNERS.map(|(id, name)| DevelopmentPartner {
                id,
                name: name.to_owned(),
                api_key: partners::generate_key(),
            });
            let text = serde_json::to_string_pretty(&made).map_err(io::Error::other)?;
            write_private(&clear, &text)?;
        }
        let partners: Vec<DevelopmentPartner> =
            serde_json::from_slice(&fs::read(&clear)?).map_err(io::Error::other)?;
        let entries = partners.iter().map(|partner| {
            let hashes = [partners::sha256_hex(&partner.api_key)];
            partners::toml_entry(partner.id, &partner.name, &hashes)
        });
        write_private(&partners_file, &entries.collect::<Vec<_>>().join("\n"))?;
        Ok(Self {
            partners_file,
            tracking_keys_file,
            partners,
            passwords: Passwords::ensure(directory)?,
        })
    }
}

impl Passwords {
    fn ensure(directory: &Path) -> io::Result<Self> {
        let path = directory.join("passwords.json");
        if !path.is_file() {
            let made = Self {
                nats: nats::Passwords::generate()?,
                database: DatabasePasswords {
                    worker: password()?,
                    reader: password()?,
                },
            };
            let text = serde_json::to_string_pretty(&made).map_err(io::Error::other)?;
            write_private(&path, &text)?;
        }
        serde_json::from_slice(&fs::read(&path)?).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_a_restart_and_are_known_to_the_services() {
        let directory = tempfile::tempdir().unwrap();
        let first = Secrets::ensure(directory.path()).unwrap();
        let second = Secrets::ensure(directory.path()).unwrap();
        assert_eq!(first.partners, second.partners);
        assert_eq!(first.passwords.nats, second.passwords.nats);
        let path = directory.path().join("passwords.json");
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o077, 0);
        let seed = partners::Seed::load(&second.partners_file).unwrap();
        let known = partners::Partners::fixed(&seed);
        for partner in &second.partners {
            let now = std::time::SystemTime::now();
            let found = known.authenticate(&partner.api_key, partners::Scope::Read, now);
            assert_eq!(found.unwrap().id, partner.id);
        }
        let ring = fs::read_to_string(&second.tracking_keys_file).unwrap();
        assert!(contract::tracking_id::KeyRing::parse(&ring).is_ok());
    }
}
