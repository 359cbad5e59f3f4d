//! Which partner, and which key, somebody means.

use std::collections::BTreeMap;

use partners::Document;

/// Names at most so many slips of the finger apart are offered instead.
const SLIPS_MAX: usize = 3;

/// What is meant is not there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FindError {
    #[error("there is no partner {0}; `weir partner list` shows all of them")]
    NoPartner(String),
    #[error("there is no partner {0}; did you mean {1}?")]
    Similar(String, String),
    #[error("no partner has a key {0}; `weir partner show PARTNER` lists a partner's keys")]
    NoKey(String),
    #[error("the partners {0} and {1} both have a key {2}: it cannot be told which is meant")]
    Ambiguous(String, String, String),
}

/// The partner of that name, else of that id.
pub(super) fn find<'a>(
    known: &'a BTreeMap<i32, Document>,
    wanted: &str,
) -> Result<&'a Document, FindError> {
    let named = known.values().find(|document| document.name == wanted);
    let numbered = || known.get(&wanted.parse::<i32>().ok()?);
    if let Some(document) = named.or_else(numbered) {
        return Ok(document);
    }
    // Someone may have put a key here; it is not repeated.
    let shown: String = wanted.chars().take(partners::NAME_CHARACTERS_MAX).collect();
    let shown = if shown.starts_with("weir_") {
        "of that name".to_owned()
    } else {
        shown
    };
    let names = known.values().map(|document| &document.name);
    let similar = names.min_by_key(|name| slips(name, wanted));
    match similar.filter(|name| slips(name, wanted) <= SLIPS_MAX.min(name.len() / 2)) {
        Some(similar) => Err(FindError::Similar(shown, similar.clone())),
        None => Err(FindError::NoPartner(shown)),
    }
}

/// The partner that has a key of that id, and the id. The whole key may stand there as well: who
/// finds one lying about has nothing else.
pub(super) fn find_key<'a>(
    known: &'a BTreeMap<i32, Document>,
    wanted: &str,
) -> Result<(&'a Document, String), FindError> {
    let hash = partners::KeyHash::of(wanted);
    let mut found = known.values().flat_map(|document| {
        let keys = document.keys.iter();
        let meant = keys.filter(|key| key.id == wanted || key.sha256 == hash);
        meant.map(move |key| (document, key.id.clone()))
    });
    let Some((document, key_id)) = found.next() else {
        // An id is short; anything longer may be a key, and is not repeated.
        let shown = if wanted.len() > 16 {
            "like that"
        } else {
            wanted
        };
        return Err(FindError::NoKey(shown.to_owned()));
    };
    match found.next() {
        None => Ok((document, key_id)),
        Some((other, _)) => Err(FindError::Ambiguous(
            document.name.clone(),
            other.name.clone(),
            key_id,
        )),
    }
}

/// How many characters have to be put in, taken out or replaced to turn one into the other
/// (Levenshtein).
fn slips(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, symbol) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (column, another) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(symbol != *another);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use partners::{ApiKey, Limits, Scope};

    use super::*;

    fn known() -> (BTreeMap<i32, Document>, ApiKey) {
        let key = ApiKey::generate();
        let names = ["xrides", "acme", "2"];
        let documents = (1..).zip(names).map(|(id, name)| {
            let mut document = Document::new(id, name, Limits::default());
            if id == 2 {
                let added = document.add_key(&key, &Scope::ALL, None, Timestamp::now());
                added.expect("room");
            }
            (id, document)
        });
        (documents.collect(), key)
    }

    #[test]
    fn a_name_comes_before_an_id() {
        let (known, _) = known();
        let found = |wanted| find(&known, wanted).map(|document| document.id);
        assert_eq!(found("acme"), Ok(2));
        assert_eq!(found("2"), Ok(3));
        assert_eq!(found("1"), Ok(1));
        assert_eq!(
            found("acne"),
            Err(FindError::Similar("acne".into(), "acme".into()))
        );
        assert_eq!(found("zebra"), Err(FindError::NoPartner("zebra".into())));
    }

    #[test]
    fn a_key_is_found_by_its_id_or_itself_and_never_repeated() {
        let (known, key) = known();
        for wanted in [key.id(), key.reveal()] {
            let (document, id) = find_key(&known, wanted).expect("there");
            assert_eq!((document.id, &*id), (2, key.id()));
        }
        let another = ApiKey::generate();
        for error in [
            find_key(&known, another.reveal())
                .map(|_| ())
                .expect_err("nobody's"),
            find(&known, another.reveal())
                .map(|_| ())
                .expect_err("no name"),
        ] {
            assert!(!error.to_string().contains(another.id()), "{error}");
        }
        let error = find_key(&known, "k1").map(|_| ()).expect_err("nobody's");
        assert_eq!(error, FindError::NoKey("k1".into()));
    }

    #[test]
    fn slips_of_the_finger() {
        for (one, other, expected) in [("", "ab", 2), ("ab", "ab", 0), ("kitten", "sitting", 3)] {
            assert_eq!(slips(one, other), expected);
            assert_eq!(slips(other, one), expected);
        }
    }
}
