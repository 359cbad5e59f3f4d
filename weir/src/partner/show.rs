//! Partners in words and tables, and as JSON.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use chassis::units::Bytes;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use partners::{ApiKey, Document, Key, KeyState};
use serde_json::{Value, json};

/// All of them.
pub(super) fn list(known: &BTreeMap<i32, Document>, as_json: bool, now: Timestamp) -> String {
    if as_json {
        let partners: Vec<Value> = known.values().map(|it| partner_json(it, now)).collect();
        return json!({ "partners": partners }).to_string();
    }
    if known.is_empty() {
        return "no partners yet: weir partner add NAME".to_owned();
    }
    let head = [
        "ID",
        "NAME",
        "STATE",
        "KEYS",
        "SCOPES",
        "RECORDS/S",
        "BYTES/S",
    ];
    let rows = known.values().map(|document| {
        let keys = document.keys.iter();
        let live = keys.filter(|key| key.state(now) == KeyState::Live).count();
        let scopes = document.live_scopes(now);
        let scopes: Vec<&str> = scopes.iter().map(|scope| scope.word()).collect();
        [
            document.id.to_string(),
            document.name.clone(),
            state(document).to_owned(),
            live.to_string(),
            words(&scopes),
            records(document),
            bytes(document),
        ]
    });
    table(head, rows)
}

/// One, with its keys.
pub(super) fn one(document: &Document, as_json: bool, now: Timestamp) -> String {
    if as_json {
        return json!({ "partner": partner_json(document, now) }).to_string();
    }
    let mut text = format!(
        "partner    {} ({})\nstate      {}\nrecords/s  {}\nbytes/s    {}\n",
        document.name,
        document.id,
        state(document),
        records(document),
        bytes(document)
    );
    if document.keys.is_empty() {
        text.push_str("keys       none");
        return text;
    }
    let head = ["KEY", "STATE", "SCOPES", "CREATED", "ENDS"];
    let rows = document.keys.iter().map(|key| {
        let ends = key.revoked_at.or(key.expires_at);
        [
            key.id.clone(),
            key.state(now).to_string(),
            words(&key.scopes),
            instant(key.created_at),
            ends.map_or_else(|| "never".to_owned(), instant),
        ]
    });
    text.push('\n');
    text.push_str(&table(head, rows));
    text
}

/// A key in the clear: the only place where one is put into words.
pub(super) fn new_key(document: &Document, key: &ApiKey, as_json: bool, now: Timestamp) -> String {
    if as_json {
        let partner = partner_json(document, now);
        return json!({
            "partner": partner, "key_id": key.id(), "api_key": key.reveal()
        })
        .to_string();
    }
    format!(
        "{}\n\nkey        {}\n           It is shown this once: only its hash is kept.",
        one(document, false, now),
        key.reveal()
    )
}

fn partner_json(document: &Document, now: Timestamp) -> Value {
    let limits = document.limits();
    let keys: Vec<Value> = document.keys.iter().map(|key| key_json(key, now)).collect();
    json!({
        "id": document.id, "name": document.name, "disabled": document.disabled,
        "limits": {
            "records_per_second": limits.records_per_second, "records_burst": limits.records_burst,
            "bytes_per_second": limits.bytes_per_second, "bytes_burst": limits.bytes_burst,
        },
        "keys": keys,
    })
}

fn key_json(key: &Key, now: Timestamp) -> Value {
    json!({
        "id": key.id, "state": key.state(now).to_string(), "scopes": key.scopes,
        "created_at": key.created_at, "expires_at": key.expires_at, "revoked_at": key.revoked_at,
    })
}

fn state(document: &Document) -> &'static str {
    if document.disabled {
        "disabled"
    } else {
        "enabled"
    }
}

fn records(document: &Document) -> String {
    let limits = document.limits();
    let word = |count: NonZeroU32| count.to_string();
    limit(
        limits.records_per_second.map(word),
        limits.records_burst.map(word),
    )
}

fn bytes(document: &Document) -> String {
    let limits = document.limits();
    let word = |count: NonZeroU32| Bytes(u64::from(count.get())).to_string();
    limit(
        limits.bytes_per_second.map(word),
        limits.bytes_burst.map(word),
    )
}

fn limit(rate: Option<String>, burst: Option<String>) -> String {
    match (rate, burst) {
        (None, _) => "unlimited".to_owned(),
        (Some(rate), None) => rate,
        (Some(rate), Some(burst)) => format!("{rate} (burst {burst})"),
    }
}

fn words(words: &[impl AsRef<str>]) -> String {
    if words.is_empty() {
        return "-".to_owned();
    }
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    words.join(",")
}

/// To the second, in UTC.
fn instant(instant: Timestamp) -> String {
    let utc = instant.to_zoned(TimeZone::UTC);
    utc.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Columns two spaces apart, without trailing spaces.
fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut all = vec![head.map(str::to_owned)];
    all.extend(rows);
    let mut widths = [0; N];
    for row in &all {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let lines: Vec<String> = all
        .iter()
        .map(|row| {
            let cells = row.iter().zip(widths);
            let line: String = cells
                .map(|(cell, width)| format!("{cell:<width$}  "))
                .collect();
            line.trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use partners::{Limits, Scope, later};

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00.5Z".parse().expect("an instant")
    }

    fn acme() -> (Document, ApiKey) {
        let limits = Limits {
            records_per_second: NonZeroU32::new(100),
            records_burst: NonZeroU32::new(500),
            bytes_per_second: NonZeroU32::new(1 << 20),
            bytes_burst: None,
        };
        let mut document = Document::new(12, "acme", limits);
        let key = ApiKey::generate();
        let expires_at = later(now(), Duration::from_secs(86_400));
        let added = document.add_key(&key, &[Scope::Read], Some(expires_at), now());
        added.expect("room");
        (document, key)
    }

    #[test]
    fn lists_are_aligned() {
        let (acme, key) = acme();
        let xrides = Document::new(1, "xrides", Limits::default());
        let known = [(1, xrides), (12, acme.clone())].into();
        assert_eq!(
            list(&known, false, now()),
            "ID  NAME    STATE    KEYS  SCOPES  RECORDS/S        BYTES/S\n\
             1   xrides  enabled  0     -       unlimited        unlimited\n\
             12  acme    enabled  1     read    100 (burst 500)  1MiB"
        );
        assert_eq!(
            one(&acme, false, now()),
            format!(
                "partner    acme (12)\nstate      enabled\nrecords/s  100 (burst 500)\n\
                 bytes/s    1MiB\n\n\
                 KEY       STATE  SCOPES  CREATED               ENDS\n\
                 {}  live   read    2026-01-01T00:00:00Z  2026-01-02T00:00:00Z",
                key.id()
            )
        );
    }

    #[test]
    fn a_key_is_shown_where_it_is_new_and_nowhere_else() {
        let (acme, key) = acme();
        let known = [(12, acme.clone())].into();
        for as_json in [false, true] {
            assert!(new_key(&acme, &key, as_json, now()).contains(key.reveal()));
            for text in [list(&known, as_json, now()), one(&acme, as_json, now())] {
                assert!(!text.contains(key.reveal()), "{text}");
                assert!(!text.contains(&key.hash().to_string()), "{text}");
            }
        }
    }

    #[test]
    fn json_shows_nulls() {
        let (acme, key) = acme();
        let shown: Value = serde_json::from_str(&one(&acme, true, now())).expect("JSON");
        assert_eq!(
            shown["partner"],
            json!({
                "id": 12, "name": "acme", "disabled": false,
                "limits": {
                    "records_per_second": 100, "records_burst": 500,
                    "bytes_per_second": 1_048_576, "bytes_burst": null
                },
                "keys": [{
                    "id": key.id(), "state": "live", "scopes": ["read"],
                    "created_at": "2026-01-01T00:00:00.5Z",
                    "expires_at": "2026-01-02T00:00:00.5Z", "revoked_at": null
                }]
            })
        );
    }
}
