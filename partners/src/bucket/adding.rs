//! Adding a partner: first its name is reserved, then its id taken, so that of many who add one
//! name or meet on one id, each gets something of its own or a refusal.

use std::time::Duration;

use async_nats::jetstream::kv::Entry;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{AddError, Bucket, NewPartner};
use crate::document::{Document, check_limits, check_name};
use crate::key::ApiKey;

/// How often another id is tried when another took it first: as many may be added at once.
const ID_TRIES: usize = 200;

/// How often, and how far apart, a name is looked at that another is just taking.
const RESERVED_TRIES: usize = 40;
const RESERVED_PAUSE: Duration = Duration::from_millis(50);

/// How long a name may stay reserved without its partner: by then who reserved it has died.
const RESERVED_FOR: Duration = Duration::from_secs(30);

/// The keys of names.
const NAME_PREFIX: &str = "name.";

/// A name's entry.
#[derive(PartialEq, Serialize, Deserialize)]
struct NameEntry {
    id: i32,
    /// Of two that reserve one name for one id, each knows its own entry.
    by: String,
}

impl Bucket {
    /// Adds a partner with its first key, which is given here and nowhere else ever again.
    ///
    /// # Errors
    /// [`AddError`].
    pub async fn add(
        &self,
        new: &NewPartner,
        now: Timestamp,
    ) -> Result<(Document, ApiKey), AddError> {
        check_name(&new.name)?;
        check_limits(&new.limits)?;
        let key = ApiKey::generate();
        let known = self.list().await?;
        if let Some(named) = known.values().find(|document| document.name == new.name) {
            return Err(AddError::NameTaken {
                name: new.name.clone(),
                id: named.id,
            });
        }
        let last = known.keys().next_back();
        let mut id = new
            .id
            .unwrap_or(last.map_or(1, |last| last.saturating_add(1)));
        if known.contains_key(&id) {
            return Err(AddError::IdTaken(id));
        }
        self.reserve(&new.name, id, key.id(), now).await?;
        for _ in 0..ID_TRIES {
            let mut document = Document::new(id, &new.name, new.limits);
            document.add_key(&key, &new.scopes, new.expires_at, now)?;
            if self.create(&id.to_string(), document.to_json()).await? {
                return self.confirm(document, key).await;
            }
            if new.id.is_some() {
                self.release(&new.name, key.id()).await?;
                return Err(AddError::IdTaken(id));
            }
            id = id.checked_add(1).ok_or(AddError::Contended)?;
            self.move_reservation(&new.name, id, key.id()).await?;
        }
        self.release(&new.name, key.id()).await?;
        Err(AddError::Contended)
    }

    /// Takes a new partner back if its name was given to another, which happens to an adder that
    /// stood still for longer than a reservation lasts.
    async fn confirm(
        &self,
        document: Document,
        key: ApiKey,
    ) -> Result<(Document, ApiKey), AddError> {
        let named = self.entry(&name_key(&document.name)).await?;
        let named = named.as_ref().and_then(name_entry);
        if named.is_some_and(|named| named.by == key.id()) {
            return Ok((document, key));
        }
        self.delete(&document.id.to_string(), None).await?;
        Err(AddError::NameReserved(document.name))
    }

    /// Makes the name's entry point to `id`.
    pub(super) async fn reserve(
        &self,
        name: &str,
        id: i32,
        by: &str,
        now: Timestamp,
    ) -> Result<(), AddError> {
        let key = name_key(name);
        for _ in 0..RESERVED_TRIES {
            if self.create(&key, name_json(id, by)).await? {
                return Ok(());
            }
            let Some(entry) = self.entry(&key).await? else {
                continue;
            };
            if let Some(named) = name_entry(&entry) {
                let owning = self.read(named.id).await?;
                if owning.is_some_and(|(document, _)| document.name == name) {
                    return Err(AddError::NameTaken {
                        name: name.to_owned(),
                        id: named.id,
                    });
                }
            }
            // Without a partner: it is being added, or never was because its adder died.
            let age = now.as_second() - entry.created.unix_timestamp();
            if age < RESERVED_FOR.as_secs().cast_signed() {
                tokio::time::sleep(RESERVED_PAUSE).await;
            } else if self.update(&key, name_json(id, by), entry.revision).await? {
                return Ok(());
            }
        }
        Err(AddError::NameReserved(name.to_owned()))
    }

    /// Lets a name that is reserved here point to another id.
    async fn move_reservation(&self, name: &str, id: i32, by: &str) -> Result<(), AddError> {
        let key = name_key(name);
        if let Some(entry) = self.entry(&key).await?
            && name_entry(&entry).is_some_and(|named| named.by == by)
            && self.update(&key, name_json(id, by), entry.revision).await?
        {
            return Ok(());
        }
        Err(AddError::NameReserved(name.to_owned()))
    }

    /// Gives a reserved name back.
    async fn release(&self, name: &str, by: &str) -> Result<(), AddError> {
        let key = name_key(name);
        if let Some(entry) = self.entry(&key).await?
            && name_entry(&entry).is_some_and(|named| named.by == by)
        {
            self.delete(&key, Some(entry.revision)).await?;
        }
        Ok(())
    }
}

/// Any name, also one of `partners.toml`, as one token that the server takes.
fn name_key(name: &str) -> String {
    let mut key = NAME_PREFIX.to_owned();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => key.push(char::from(byte)),
            _ => key.push_str(&format!("={byte:02X}")),
        }
    }
    key
}

fn name_json(id: i32, by: &str) -> Vec<u8> {
    let entry = NameEntry {
        id,
        by: by.to_owned(),
    };
    serde_json::to_vec(&entry).expect("a number and a string can be written")
}

fn name_entry(entry: &Entry) -> Option<NameEntry> {
    serde_json::from_slice(&entry.value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_is_one_token_and_no_two_are_the_same() {
        assert_eq!(name_key("acme-2_x"), "name.acme-2_x");
        assert_eq!(name_key(".a..b."), "name.=2Ea=2E=2Eb=2E");
        assert_eq!(name_key("A b"), "name.=41=20b");
        assert_ne!(name_key("a=2E"), name_key("a."));
    }
}
