//! Everyone who may call at one moment, arranged for looking keys up.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use subtle::ConstantTimeEq as _;

use crate::document::Document;
use crate::key::KeyHash;
use crate::model::{Denied, Partner, Scope};

/// How much of a hash finds its key, in bytes. The rest is compared in constant time.
const PREFIX_BYTES: usize = 8;

/// Never changes; a change makes another.
pub(crate) struct Snapshot {
    /// By the beginning of the hash. Two keys of one beginning are all but impossible, but nothing
    /// goes wrong with them.
    keys: HashMap<[u8; PREFIX_BYTES], Vec<Key>>,
    partners: usize,
    is_loaded: bool,
}

struct Key {
    hash: KeyHash,
    ingest: bool,
    read: bool,
    expires_at: Option<SystemTime>,
    is_revoked: bool,
    is_disabled: bool,
    partner: Arc<Partner>,
}

impl Snapshot {
    /// Nobody is known, and that it is so is not known either.
    pub(crate) fn not_loaded() -> Self {
        Self {
            keys: HashMap::new(),
            partners: 0,
            is_loaded: false,
        }
    }

    /// Should a hash stand twice, the smaller id has it.
    pub(crate) fn of(documents: &BTreeMap<i32, Document>) -> Self {
        let mut snapshot = Self {
            partners: documents.len(),
            is_loaded: true,
            ..Self::not_loaded()
        };
        for document in documents.values() {
            snapshot.add(document);
        }
        snapshot
    }

    fn add(&mut self, document: &Document) {
        let partner = Arc::new(Partner {
            id: document.id,
            name: document.name.clone(),
            limits: document.limits(),
        });
        for key in &document.keys {
            let held = self.keys.entry(prefix(&key.sha256)).or_default();
            if held.iter().any(|other| other.hash == key.sha256) {
                tracing::warn!(
                    partner = document.id,
                    key = key.id,
                    "another partner has this key too: ignored here"
                );
                continue;
            }
            held.push(Key {
                hash: key.sha256,
                ingest: key.has(Scope::Ingest),
                read: key.has(Scope::Read),
                expires_at: key.expires_at.map(SystemTime::from),
                is_revoked: key.revoked_at.is_some(),
                is_disabled: document.disabled,
                partner: Arc::clone(&partner),
            });
        }
    }

    pub(crate) fn partners(&self) -> usize {
        self.partners
    }

    pub(crate) fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    /// The time taken tells at most whether the hash of any key begins as this one's does, from
    /// which no key can be derived.
    pub(crate) fn authenticate(
        &self,
        key: &str,
        scope: Scope,
        now: SystemTime,
    ) -> Result<Arc<Partner>, Denied> {
        if !self.is_loaded {
            return Err(Denied::NotLoaded);
        }
        let presented = KeyHash::of(key);
        let candidates = self.keys.get(&prefix(&presented)).ok_or(Denied::Unknown)?;
        let key = candidates
            .iter()
            .find(|held| bool::from(held.hash.0.ct_eq(&presented.0)))
            .ok_or(Denied::Unknown)?;
        key.admits(scope, now)?;
        Ok(Arc::clone(&key.partner))
    }
}

impl Key {
    fn admits(&self, scope: Scope, now: SystemTime) -> Result<(), Denied> {
        if self.is_revoked {
            return Err(Denied::Revoked);
        }
        if self.expires_at.is_some_and(|at| at <= now) {
            return Err(Denied::Expired);
        }
        if self.is_disabled {
            return Err(Denied::Disabled);
        }
        let has = match scope {
            Scope::Ingest => self.ingest,
            Scope::Read => self.read,
        };
        if has {
            Ok(())
        } else {
            Err(Denied::Scope(scope))
        }
    }
}

fn prefix(hash: &KeyHash) -> [u8; PREFIX_BYTES] {
    let mut prefix = [0; PREFIX_BYTES];
    prefix.copy_from_slice(&hash.0[..PREFIX_BYTES]);
    prefix
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::key::ApiKey;
    use crate::model::Limits;

    fn of(documents: Vec<Document>) -> Snapshot {
        let documents = documents.into_iter();
        Snapshot::of(&documents.map(|document| (document.id, document)).collect())
    }

    #[test]
    fn each_reason_has_its_own_word() {
        let now = Timestamp::now();
        let keys: Vec<ApiKey> = (0..4).map(|_| ApiKey::generate()).collect();
        let mut document = Document::new(7, "acme", Limits::default());
        let in_an_hour = crate::later(now, Duration::from_secs(3_600));
        for (key, scopes, expires_at) in [
            (&keys[0], &Scope::ALL[..], None),
            (&keys[1], &[Scope::Read], None),
            (&keys[2], &Scope::ALL, Some(in_an_hour)),
            (&keys[3], &Scope::ALL, None),
        ] {
            document
                .add_key(key, scopes, expires_at, now)
                .expect("room");
        }
        document.revoke_key(keys[3].id(), now).expect("there");
        let snapshot = of(vec![document.clone()]);
        let ask = |snapshot: &Snapshot, key: &ApiKey, at: Timestamp| {
            let found = snapshot.authenticate(key.reveal(), Scope::Ingest, at.into());
            found.map(|partner| partner.id)
        };
        assert_eq!(ask(&snapshot, &keys[0], now), Ok(7));
        assert_eq!(
            ask(&snapshot, &keys[1], now),
            Err(Denied::Scope(Scope::Ingest))
        );
        // No event says that an hour has passed.
        assert_eq!(ask(&snapshot, &keys[2], now), Ok(7));
        assert_eq!(ask(&snapshot, &keys[2], in_an_hour), Err(Denied::Expired));
        assert_eq!(ask(&snapshot, &keys[3], now), Err(Denied::Revoked));
        assert_eq!(
            ask(&snapshot, &ApiKey::generate(), now),
            Err(Denied::Unknown)
        );
        assert_eq!(
            ask(&Snapshot::not_loaded(), &keys[0], now),
            Err(Denied::NotLoaded)
        );
        document.disabled = true;
        let disabled = of(vec![document]);
        assert_eq!(ask(&disabled, &keys[0], now), Err(Denied::Disabled));
        // A revoked key learns nothing of its partner.
        assert_eq!(ask(&disabled, &keys[3], now), Err(Denied::Revoked));
    }

    proptest! {
        #[test]
        fn no_other_text_opens_a_door(
            position in 0_usize..71, byte in 0x21_u8..0x7f, cut in 0_usize..71,
        ) {
            let key = ApiKey::generate();
            let mut document = Document::new(1, "a", Limits::default());
            document.add_key(&key, &Scope::ALL, None, Timestamp::now()).expect("room");
            let snapshot = of(vec![document]);
            let is_in = |text: &str| {
                snapshot.authenticate(text, Scope::Read, SystemTime::now()).is_ok()
            };
            prop_assert!(is_in(key.reveal()));
            prop_assert!(!is_in(&key.reveal()[..cut]));
            let longer = format!("{} ", key.reveal());
            prop_assert!(!is_in(&longer));
            let mut changed = key.reveal().to_owned().into_bytes();
            changed[position] = byte;
            let changed = String::from_utf8(changed).expect("ASCII");
            prop_assert_eq!(is_in(&changed), changed == key.reveal());
        }
    }

    #[test]
    fn a_hash_that_stands_twice_belongs_to_the_smaller_id() {
        let key = ApiKey::generate();
        let documents = [3, 2].map(|id| {
            let mut document = Document::new(id, format!("p{id}"), Limits::default());
            document
                .add_key(&key, &Scope::ALL, None, Timestamp::now())
                .expect("room");
            document
        });
        let snapshot = of(documents.into());
        let found = snapshot.authenticate(key.reveal(), Scope::Read, SystemTime::now());
        assert_eq!(found.map(|partner| partner.id), Ok(2));
    }
}
