use std::num::NonZeroU32;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("an instant")
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3_600)
}

fn with_keys(keys: &[(&[Scope], Option<Timestamp>)]) -> Document {
    let mut document = Document::new(7, "acme", Limits::default());
    for (scopes, expires_at) in keys {
        let key = ApiKey::generate();
        document
            .add_key(&key, scopes, *expires_at, now())
            .expect("room");
    }
    document
}

#[test]
fn the_form_is_the_one_that_is_documented() {
    let text = json!({
        "version": 1, "id": 7, "name": "acme", "disabled": false,
        "limits": {"records_per_second": 100, "records_burst": 500},
        "keys": [{
            "id": "k3x9a7bq", "sha256": "ab".repeat(32), "scopes": ["ingest", "read"],
            "created_at": "2026-01-01T00:00:00Z", "expires_at": null, "revoked_at": null
        }]
    });
    let document = Document::parse(7, text.to_string().as_bytes()).expect("readable");
    assert_eq!(document.limits().records_burst, NonZeroU32::new(500));
    assert_eq!(document.limits().bytes_per_second, None);
    let written: Value = serde_json::from_slice(&document.to_json()).expect("JSON");
    assert_eq!(written, text);
}

#[test]
fn what_a_newer_build_has_added_is_kept() {
    let text = json!({
        "version": 1, "id": 7, "name": "acme", "colour": "red",
        "limits": {"records_per_second": 1, "couriers_per_second": 3},
        "keys": [{
            "id": "a", "sha256": "ab".repeat(32), "scopes": ["ingest", "erase"], "owner": "ops",
            "created_at": "2026-01-01T00:00:00Z", "expires_at": null, "revoked_at": null
        }]
    });
    let mut document = Document::parse(7, text.to_string().as_bytes()).expect("readable");
    document.disabled = true;
    document.set_limits(Limits::default()).expect("no burst");
    assert!(document.revoke_key("a", now()).expect("there"));
    let written: Value = serde_json::from_slice(&document.to_json()).expect("JSON");
    assert_eq!(written["colour"], "red");
    assert_eq!(written["limits"], json!({"couriers_per_second": 3}));
    assert_eq!(written["keys"][0]["owner"], "ops");
    assert_eq!(written["keys"][0]["scopes"], json!(["ingest", "erase"]));
    assert_eq!(written["keys"][0]["revoked_at"], "2026-01-01T00:00:00Z");
}

#[test]
fn documents_that_cannot_be_trusted_are_refused_without_their_words() {
    let good = with_keys(&[(&Scope::ALL, None)]);
    let change = |pointer: &str, value: Value| {
        let mut text: Value = serde_json::from_slice(&good.to_json()).expect("JSON");
        *text.pointer_mut(pointer).expect("there") = value;
        Document::parse(7, text.to_string().as_bytes())
    };
    assert!(change("/disabled", json!(true)).is_ok());
    for (pointer, value) in [
        ("/version", json!(2)),
        ("/version", json!("weir_live_secret")),
        ("/id", json!(8)),
        ("/id", json!(-7)),
        ("/name", json!(" ")),
        ("/limits", json!({"records_per_second": 0})),
        ("/limits", json!({"bytes_per_second": 4_294_967_296_u64})),
        ("/keys/0/sha256", json!("weir_live_secret")),
        ("/keys/0/expires_at", json!("tomorrow")),
    ] {
        let error = change(pointer, value.clone()).expect_err(pointer);
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    assert!(Document::parse(7, b"").is_err());
    let keys = vec![serde_json::to_value(&good.keys[0]).expect("JSON"); KEYS_MAX + 1];
    assert!(matches!(
        change("/keys", json!(keys)),
        Err(DocumentError::Keys(_))
    ));
}

#[test]
fn names() {
    for good in ["a", "acme-2", "x_y.z", ".", &"a".repeat(64)] {
        assert!(check_name(good).is_ok(), "{good}");
    }
    for bad in ["", "A", "a b", "ä", "a/b", "a*", &"a".repeat(65)] {
        assert!(check_name(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_burst_needs_its_rate() {
    let one = NonZeroU32::new(1);
    let mut document = with_keys(&[]);
    for limits in [
        Limits {
            records_burst: one,
            ..Limits::default()
        },
        Limits {
            bytes_burst: one,
            ..Limits::default()
        },
    ] {
        assert!(document.set_limits(limits).is_err(), "{limits:?}");
        assert!(document.limits().is_unlimited());
    }
}

#[test]
fn rotating_lets_covered_keys_expire_and_no_others() {
    let soon = later(now(), hours(1));
    let mut document = with_keys(&[
        (&[Scope::Ingest], None),
        (&[Scope::Read], None),
        (&[Scope::Ingest], Some(soon)),
        (&Scope::ALL, None),
    ]);
    let ids: Vec<String> = document.keys.iter().map(|key| key.id.clone()).collect();
    document.revoke_key(&ids[3], now()).expect("there");
    let grace = later(now(), hours(24));
    assert_eq!(document.expire_keys(&[Scope::Ingest], grace, now()), 1);
    let expiries: Vec<_> = document.keys.iter().map(|key| key.expires_at).collect();
    // The third ends earlier anyway, the fourth has ended.
    assert_eq!(expiries, [Some(grace), None, Some(soon), None]);
    assert_eq!(document.live_scopes(now()), Scope::ALL);
    assert_eq!(document.live_scopes(grace), [Scope::Read]);
}

#[test]
fn a_key_too_many_takes_the_place_of_the_one_that_ended_first() {
    let mut document = with_keys(&vec![(&Scope::ALL[..], None); KEYS_MAX]);
    let another = ApiKey::generate();
    let add = |document: &mut Document, at| document.add_key(&another, &Scope::ALL, None, at);
    assert_eq!(add(&mut document, now()), Err(Conflict::KeysFull));
    let (first, second) = (document.keys[5].id.clone(), document.keys[2].id.clone());
    document.revoke_key(&first, now()).expect("there");
    document
        .revoke_key(&second, later(now(), hours(1)))
        .expect("there");
    add(&mut document, later(now(), hours(2))).expect("room");
    let ids: Vec<&str> = document.keys.iter().map(|key| &*key.id).collect();
    assert!(!ids.contains(&&*first) && ids.contains(&&*second) && ids.contains(&another.id()));
    assert_eq!(ids.len(), KEYS_MAX);
    assert!(matches!(
        document.revoke_key("nobody", now()),
        Err(Conflict::NoSuchKey(_))
    ));
    // The first moment stays.
    assert!(
        !document
            .revoke_key(&second, later(now(), hours(9)))
            .expect("there")
    );
    let key = document
        .keys
        .iter()
        .find(|key| key.id == second)
        .expect("there");
    assert_eq!(key.revoked_at, Some(later(now(), hours(1))));
}

fn any_limits() -> impl Strategy<Value = Limits> {
    let number =
        || proptest::option::of((1..=u32::MAX).prop_map(|it| NonZeroU32::new(it).expect("not 0")));
    (number(), number(), number(), number()).prop_map(|(a, b, c, d)| Limits {
        records_per_second: a,
        records_burst: b,
        bytes_per_second: c,
        bytes_burst: d,
    })
}

proptest! {
    #[test]
    fn every_document_reads_back(
        id in 1..=i32::MAX,
        name in "[a-z0-9._-]{1,64}",
        limits in any_limits(),
        disabled: bool,
        keys in proptest::collection::vec((any::<bool>(), any::<bool>(), proptest::option::of(0_u64..10_000)), 0..KEYS_MAX),
    ) {
        let mut document = Document::new(id, name, limits);
        document.disabled = disabled;
        for (ingest, read, expires) in keys {
            let wanted = [(ingest, Scope::Ingest), (read, Scope::Read)];
            let scopes: Vec<Scope> = wanted.iter().filter(|(is, _)| *is).map(|(_, scope)| *scope).collect();
            let expires_at = expires.map(|it| later(now(), hours(it)));
            document.add_key(&ApiKey::generate(), &scopes, expires_at, now()).expect("room");
        }
        let read = Document::parse(id, &document.to_json()).expect("readable");
        prop_assert_eq!(read, document);
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Document::parse(1, &bytes);
    }
}
