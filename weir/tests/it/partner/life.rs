//! Partners come, get limits and keys, and go; the services know within a second.

use std::time::Duration;

use devstack::stack::Role;
use serde_json::json;

use super::installation::{FORBIDDEN, Installation, LIMIT, NOT_THERE, POSTED, UNAUTHORIZED, text};

/// What a change may take to be known everywhere.
const SOON: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_partners_life() {
    let weir = Installation::start(|_| {}).await;
    let listed = weir.json(&["list"]).await;
    let names: Vec<_> = listed["partners"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["name"])
        .collect();
    assert_eq!(names, ["xrides", "acme"], "the development partners");

    let (first, _) = weir
        .add(&[
            "demo",
            "--records-per-second",
            "1000",
            "--bytes-per-second",
            "8MiB",
        ])
        .await;
    weir.until(SOON, &first, POSTED, NOT_THERE).await;
    let (reader, _) = weir
        .add(&["reader", "--scope", "read", "--expires", "90d"])
        .await;
    weir.until(SOON, &reader, FORBIDDEN, NOT_THERE).await;
    let (sender, sender_id) = weir
        .add(&["sender", "--id", "70", "--scope", "ingest"])
        .await;
    weir.until(SOON, &sender, POSTED, FORBIDDEN).await;

    let limited = weir
        .json(&[
            "limit",
            "demo",
            "--records-burst",
            "5000",
            "--bytes-per-second",
            "none",
        ])
        .await;
    let limits = json!({
        "records_per_second": 1000, "records_burst": 5000,
        "bytes_per_second": null, "bytes_burst": null
    });
    assert_eq!(limited["partner"]["limits"], limits);

    let rotated = weir.json(&["rotate-key", "demo", "--grace", "3s"]).await;
    let second = rotated["api_key"].as_str().unwrap();
    let second_id = rotated["key_id"].as_str().unwrap();
    weir.until(SOON, second, POSTED, NOT_THERE).await;
    weir.until(LIMIT, &first, UNAUTHORIZED, UNAUTHORIZED).await;
    weir.until(SOON, second, POSTED, NOT_THERE).await;
    let shown = weir.json(&["show", "demo"]).await;
    let states: Vec<_> = shown["partner"]["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["state"])
        .collect();
    assert_eq!(states, ["expired", "live"]);

    weir.json(&["disable", "demo"]).await;
    weir.until(SOON, second, FORBIDDEN, FORBIDDEN).await;
    weir.json(&["enable", "demo"]).await;
    weir.until(SOON, second, POSTED, NOT_THERE).await;
    for key_id in [second_id, &sender_id] {
        weir.json(&["revoke-key", key_id]).await;
    }
    weir.until(SOON, second, UNAUTHORIZED, UNAUTHORIZED).await;
    weir.until(SOON, &sender, UNAUTHORIZED, UNAUTHORIZED).await;

    for words in [&["list"][..], &["show", "demo"], &["show", "70"]] {
        let output = weir.partner(words).await;
        assert!(output.status.success());
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(
            said.contains(words.last().unwrap().trim_end_matches("list")),
            "{said}"
        );
        for key in [&*first, second, &reader, &sender] {
            assert!(!said.contains(key), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_known_while_the_log_is_away_and_after_a_restart_then() {
    let weir = Installation::start(|_| {}).await;
    let (key, _) = weir.add(&["demo"]).await;
    weir.until(LIMIT, &key, POSTED, NOT_THERE).await;

    weir.stack.kill(Role::Nats, 0).await;
    let away = (503, "log-unavailable");
    weir.until(LIMIT, &key, away, NOT_THERE).await;
    weir.until(LIMIT, "weir_live_x", UNAUTHORIZED, UNAUTHORIZED)
        .await;
    for role in [Role::Gateway, Role::Status] {
        weir.stack.kill(role, 0).await;
        weir.stack.start_again(role, 0).await.unwrap();
    }
    // `xrides` would be known from partners.toml; `demo` is from the cache alone.
    weir.until(LIMIT, &key, away, NOT_THERE).await;
    weir.until(LIMIT, "weir_live_x", UNAUTHORIZED, UNAUTHORIZED)
        .await;

    weir.stack.start_again(Role::Nats, 0).await.unwrap();
    weir.until(LIMIT, &key, POSTED, NOT_THERE).await;
    let shown = weir.json(&["show", "demo"]).await;
    let key_id = shown["partner"]["keys"][0]["id"].as_str().unwrap();
    weir.json(&["revoke-key", key_id]).await;
    weir.until(LIMIT, &key, UNAUTHORIZED, UNAUTHORIZED).await;
}
