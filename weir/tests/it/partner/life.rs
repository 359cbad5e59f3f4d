//! Partners come, get limits and keys, and go; the services know within a second.

use std::time::Duration;

use devstack::eventually::eventually;
use devstack::stack::Role;
use serde_json::{Value, json};

use super::installation::{
    FORBIDDEN, Installation, LIMIT, NOT_THERE, POSTED, UNAUTHORIZED, ride, text,
};

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

/// As the README walks through it: named to a batch that is larger, met one by one, and raised.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_named_and_met_and_raised() {
    let weir = Installation::start(|_| {}).await;
    let limits = ["--records-per-second", "1", "--records-burst", "5"];
    let (key, _) = weir.add(&[&["demo"][..], &limits].concat()).await;
    let post = async |rides: Value| {
        let request = http::Request::post(weir.gateway("/v1/rides"));
        let request = request.header("authorization", format!("Bearer {key}"));
        weir.send(request, &rides.to_string()).await
    };
    let batch = |rides| Value::from_iter(std::iter::repeat_n(ride(), rides));
    let too_large = async |rides: usize, largest: usize| {
        let refused = post(batch(rides)).await;
        let named = format!("send at most {largest} records in one request");
        assert_eq!(refused.status, 413, "{}", refused.whole);
        assert_eq!(refused.json["code"], "too-large");
        let detail = refused.json["detail"].as_str().expect("a sentence");
        assert!(detail.ends_with(&named), "{detail}");
    };
    let known = eventually(SOON, || async {
        (post(ride()).await.status == 202).then_some(())
    });
    known.await.expect("a new partner is known soon");
    too_large(6, 5).await;
    // One a second comes back meanwhile, however slow the machine is.
    let mut refused = None;
    for sent in 1..100 {
        let answer = post(ride()).await;
        if answer.status != 202 {
            assert!(sent >= 5, "after {sent}: {}", answer.whole);
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("the limit is met");
    assert_eq!(refused.status, 429, "{}", refused.whole);
    assert_eq!(refused.json["code"], "quota-exceeded");
    assert!(
        refused.whole.contains("\"retry-after\": "),
        "{}",
        refused.whole
    );

    let raised = ["--records-per-second", "500", "--records-burst", "1000"];
    weir.json(&[&["limit", "demo"][..], &raised].concat()).await;
    let fits = eventually(LIMIT, || async {
        let answer = post(batch(6)).await;
        (answer.status == 202).then_some(answer)
    });
    let fits = fits.await.expect("a larger burst lets it through");
    assert_eq!(fits.json["accepted"], 6, "{}", fits.whole);
    too_large(1_001, 1_000).await;
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
