//! `weir partner` against a running installation: what it says, and what the services make of it.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use devstack::eventually::eventually;
use devstack::fixture::{Fixture, StackFixture};
use devstack::stack::{Role, StackConfig};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// What a change may take to be known everywhere.
const SOON: Duration = Duration::from_secs(1);

/// A stack, a directory that knows of it, and a client.
struct Installation {
    stack: StackFixture,
    directory: TempDir,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// An answer with all that could show a key.
struct Answer {
    status: u16,
    whole: String,
    json: Value,
}

/// `weir partner` in a directory.
async fn partner(directory: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.current_dir(directory).stdin(Stdio::null());
    command.env_remove("WEIR_NATS_URL").kill_on_drop(true);
    command.arg("partner").args(words);
    let output = tokio::time::timeout(LIMIT, command.output()).await;
    output.expect("it ends").expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

impl Installation {
    async fn start(change: impl FnOnce(&mut StackConfig)) -> Self {
        let stack = Fixture::stack(change).await;
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join(".weir");
        std::fs::create_dir(&state).unwrap();
        stack
            .endpoints()
            .write(&state.join("endpoints.json"))
            .unwrap();
        Self {
            stack,
            directory,
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    async fn partner(&self, words: &[&str]) -> Output {
        partner(self.directory.path(), words).await
    }

    /// Of a command that succeeds.
    async fn json(&self, words: &[&str]) -> Value {
        let output = self.partner(&[words, &["--json"]].concat()).await;
        assert_eq!(
            output.status.code(),
            Some(0),
            "{words:?}: {}",
            text(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Of a command that does not.
    async fn refused(&self, words: &[&str], code: i32, reason: &str) {
        let output = self.partner(words).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(reason), "{words:?}: {said}");
        assert!(output.stdout.is_empty(), "{words:?}");
    }

    async fn add(&self, words: &[&str]) -> (String, String) {
        let added = self.json(&[&["add"], words].concat()).await;
        let word = |name: &str| added[name].as_str().expect("a string").to_owned();
        (word("api_key"), word("key_id"))
    }

    async fn send(&self, request: http::request::Builder, body: &str) -> Answer {
        let request = request
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        let answer = self.client.request(request).await.expect("an answer");
        let (head, body) = answer.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Answer {
            status: head.status.as_u16(),
            whole: format!("{:?}\n{}", head.headers, String::from_utf8_lossy(&body)),
            json: serde_json::from_slice(&body).unwrap_or_default(),
        }
    }

    fn gateway(&self, path: &str) -> String {
        format!("{}{path}", self.stack.endpoints().gateway[0])
    }

    fn status(&self, path: &str) -> String {
        format!("{}{path}", self.stack.endpoints().status[0])
    }

    /// How the gateway answers a ride of this key's: its status, and its code if it is a problem.
    async fn post(&self, key: &str) -> (u16, String) {
        let request = http::Request::post(self.gateway("/v1/rides"));
        let request = request.header("authorization", format!("Bearer {key}"));
        let answer = self.send(request, &ride().to_string()).await;
        (
            answer.status,
            answer.json["code"].as_str().unwrap_or_default().to_owned(),
        )
    }

    /// How the status API answers a question of this key's.
    async fn get(&self, key: &str) -> (u16, String) {
        let request = http::Request::get(self.status("/v1/rides/99"));
        let request = request.header("authorization", format!("Bearer {key}"));
        let answer = self.send(request, "").await;
        (
            answer.status,
            answer.json["code"].as_str().unwrap_or_default().to_owned(),
        )
    }

    /// Waits until both services answer a key so.
    async fn until(&self, limit: Duration, key: &str, post: (u16, &str), get: (u16, &str)) {
        let is = |found: (u16, String), wanted: (u16, &str)| (found.0, found.1.as_str()) == wanted;
        let found = eventually(limit, || async {
            (is(self.post(key).await, post) && is(self.get(key).await, get)).then_some(())
        });
        if found.await.is_none() {
            let found = (self.post(key).await, self.get(key).await);
            panic!("{found:?} instead of {:?} after {limit:?}", (post, get));
        }
    }
}

fn ride() -> Value {
    json!({
        "id": 1, "user_id": 2, "vehicle_model_id": 12, "travel_type_id": 2,
        "from_date": "2026-01-01T09:30:00+05:30", "booking_created": 1_767_234_060,
    })
}

const POSTED: (u16, &str) = (202, "");
const NOT_THERE: (u16, &str) = (404, "not-found");
const UNAUTHORIZED: (u16, &str) = (401, "unauthorized");
const FORBIDDEN: (u16, &str) = (403, "forbidden");

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
async fn what_cannot_be_done_is_said_with_what_to_do() {
    let weir = Installation::start(|_| {}).await;
    weir.refused(&["add", "acme"], 1, "rotate-key").await;
    weir.refused(&["add", "fresh", "--id", "1"], 1, "Leave --id out")
        .await;
    weir.refused(&["show", "acne"], 1, "did you mean acme?")
        .await;
    weir.refused(&["disable", "somebody"], 1, "weir partner list")
        .await;
    weir.refused(&["revoke-key", "k1"], 1, "weir partner show")
        .await;
    weir.refused(&["limit", "acme", "--records-burst", "5"], 1, "rate")
        .await;
    weir.refused(&["add", "Not A Name"], 64, "a-z 0-9").await;
    weir.refused(&["add", "fresh", "--scope", "write"], 64, "ingest or read")
        .await;
    weir.refused(&["add", "fresh", "--records-burst", "5"], 64, "rate")
        .await;
    weir.refused(&["limit", "acme"], 64, "--records-per-second")
        .await;
    weir.refused(
        &["list", "--nats-url", "http://me:secret@h"],
        64,
        "nats://host",
    )
    .await;
    weir.refused(
        &["list", "--nats-url", "nats://127.0.0.1:1"],
        1,
        "cannot connect",
    )
    .await;

    let elsewhere = tempfile::tempdir().unwrap();
    let output = partner(elsewhere.path(), &["list"]).await;
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("--nats-url"));

    let empty = Fixture::nats().await;
    let output = partner(elsewhere.path(), &["list", "--nats-url", &empty.url()]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("weir partner add"),
        "{}",
        text(&output.stderr)
    );
    let output = partner(
        elsewhere.path(),
        &["add", "first", "--nats-url", &empty.url()],
    )
    .await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("weir_live_"));
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

/// Every route of both services, with a good key and one that nobody has, where they belong and
/// where they do not: neither answers nor logs, in every detail, may hold one.
#[tokio::test(flavor = "multi_thread")]
async fn keys_appear_in_no_answer_and_no_log() {
    let weir = Installation::start(|config| {
        config.gateway_flags = vec!["--log-level=trace".into()];
        config.status_flags = vec!["--log-level=trace".into()];
    })
    .await;
    let (good, _) = weir.add(&["demo"]).await;
    weir.until(LIMIT, &good, POSTED, NOT_THERE).await;
    let nobodys = good.replace("weir_live_", "weir_live_0");
    let routes = [
        ("POST", weir.gateway("/v1/rides")),
        ("PUT", weir.gateway("/v1/rides/1")),
        ("POST", weir.gateway("/save/booking/detail")),
        ("GET", weir.gateway("/openapi.json")),
        ("DELETE", weir.gateway("/v1/rides")),
        ("GET", weir.gateway("/v1/nowhere")),
        ("GET", weir.status("/v1/requests/x")),
        ("POST", weir.status("/v1/requests/lookup")),
        ("GET", weir.status("/v1/requests")),
        ("GET", weir.status("/v1/rides/1")),
        ("GET", weir.status("/openapi.json")),
        ("DELETE", weir.status("/v1/rides/1")),
    ];
    let mut asked = 0;
    for key in [&good, &nobodys] {
        let secret = key.rsplit('_').next().unwrap();
        for (method, url) in &routes {
            for (name, request, body) in with_key_everywhere(method, url, &good, key) {
                let answer = weir.send(request, &body).await;
                asked += 1;
                assert!(
                    !answer.whole.contains(secret),
                    "{method} {url}, key in {name}: {}",
                    answer.whole
                );
            }
        }
    }
    assert!(asked > 200, "{asked}");
    let logs = weir.stack.logs().to_path_buf();
    let (_, files) = weir.stack.shutdown().await;
    let mut read = 0;
    for entry in std::fs::read_dir(logs).unwrap() {
        let path = entry.unwrap().path();
        let log = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        read += log.len();
        for key in [&good, &nobodys] {
            let secret = key.rsplit('_').next().unwrap();
            let found = log.lines().find(|line| line.contains(secret));
            assert_eq!(found, None, "{}", path.display());
        }
    }
    assert!(read > 0, "there are logs");
    drop(files);
}

/// (Where the key is, the request, its body); the good key where another place is tried, so that the
/// request gets as far as that place.
fn with_key_everywhere(
    method: &str,
    url: &str,
    good: &str,
    key: &str,
) -> Vec<(&'static str, http::request::Builder, String)> {
    let bare = |url: &str| http::Request::builder().method(method).uri(url);
    let known = |url: &str| bare(url).header("authorization", format!("Bearer {good}"));
    let basic = |plain: String| format!("Basic {}", base64(plain.as_bytes()));
    let of = |value: String| bare(url).header("authorization", value);
    let with_id = ride()
        .to_string()
        .replace("\"id\":1", &format!("\"id\":\"{key}\""));
    vec![
        ("bearer", of(format!("Bearer {key}")), ride().to_string()),
        ("no scheme", of(key.to_owned()), String::new()),
        ("another scheme", of(format!("Digest {key}")), String::new()),
        (
            "bearer twice",
            of(format!("Bearer {key} {key}")),
            String::new(),
        ),
        (
            "user name",
            of(basic(format!("{key}:"))),
            ride().to_string(),
        ),
        ("password", of(basic(format!("weir:{key}"))), String::new()),
        (
            "query",
            known(&format!(
                "{url}?api_key={key}&cursor={key}&since={key}&wait={key}&status={key}&limit={key}"
            )),
            ride().to_string(),
        ),
        ("path", known(&format!("{url}/{key}")), ride().to_string()),
        (
            "another header",
            known(url).header("x-api-key", key),
            ride().to_string(),
        ),
        (
            "content type",
            known(url).header("content-type", key),
            ride().to_string(),
        ),
        (
            "encoding",
            known(url).header("content-encoding", key),
            ride().to_string(),
        ),
        ("member", known(url), with_id),
        (
            "member name",
            known(url),
            json!({ key: 1, "tracking_ids": key }).to_string(),
        ),
        ("body", known(url), key.to_owned()),
        (
            "lookup",
            known(url),
            json!({ "tracking_ids": [1, { key: key }] }).to_string(),
        ),
    ]
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut bits = 0_u32;
        for index in 0..3 {
            bits = bits << 8 | u32::from(group.get(index).copied().unwrap_or(0));
        }
        for digit in 0..=group.len() {
            let index = bits >> (18 - 6 * digit) & 63;
            text.push(char::from(DIGITS[index as usize]));
        }
    }
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

/// Sends a record and waits until it is settled; its tracking id and its outcome.
async fn settled(weir: &Installation, key: &str, path: &str, body: &Value) -> (String, Value) {
    let request = http::Request::post(weir.gateway(path));
    let request = request.header("authorization", format!("Bearer {key}"));
    let answer = weir.send(request, &body.to_string()).await;
    assert_eq!(answer.status, 202, "{}", answer.whole);
    let id = answer.json["tracking_id"].as_str().unwrap().to_owned();
    let outcome = outcome(weir, key, &id).await;
    (id, outcome)
}

async fn outcome(weir: &Installation, key: &str, id: &str) -> Value {
    let asked = eventually(LIMIT, || async {
        let request = http::Request::get(weir.status(&format!("/v1/requests/{id}?wait=5s")));
        let request = request.header("authorization", format!("Bearer {key}"));
        let answer = weir.send(request, "").await;
        (answer.status == 200 && answer.json["status"] != "queued").then_some(answer.json)
    });
    asked.await.expect("an outcome")
}

async fn found(weir: &Installation, key: &str, path: &str) -> u16 {
    let request = http::Request::get(weir.status(path));
    let request = request.header("authorization", format!("Bearer {key}"));
    weir.send(request, "").await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_erased_is_gone_and_the_ledger_still_says_what_became_of_it() {
    let weir = Installation::start(|_| {}).await;
    let key = weir.stack.endpoints().partners[0].api_key.clone();
    let other = weir.stack.endpoints().partners[1].api_key.clone();
    let (created, _) = settled(&weir, &key, "/v1/rides", &ride()).await;
    settled(&weir, &other, "/v1/rides", &ride()).await;
    let mut second = ride();
    second["vehicle_model_id"] = 13.into();
    let (refused, conflict) = settled(&weir, &key, "/v1/rides", &second).await;
    assert_eq!(conflict["code"], "conflict");
    second["id"] = 2.into();
    second["user_id"] = 3.into();
    settled(&weir, &key, "/v1/rides", &second).await;

    let tried = weir
        .json(&["erase", "xrides", "--user-id", "2", "--dry-run"])
        .await;
    assert_eq!(
        (&tried["rides"], &tried["dry_run"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(
        found(&weir, &key, "/v1/rides/1").await,
        200,
        "it was only tried"
    );

    let erased = weir.json(&["erase", "xrides", "--user-id", "2"]).await;
    assert_eq!(
        (&erased["rides"], &erased["ledger_details"]),
        (&json!(1), &json!(1)),
        "{erased}"
    );
    assert!(erased["log_until"].is_string());
    assert_eq!(found(&weir, &key, "/v1/rides/1").await, 404);
    assert_eq!(
        found(&weir, &key, "/v1/rides/2").await,
        200,
        "another user's"
    );
    assert_eq!(
        found(&weir, &other, "/v1/rides/1").await,
        200,
        "another partner's"
    );
    assert_eq!(outcome(&weir, &key, &created).await["status"], "persisted");
    assert_eq!(outcome(&weir, &key, &refused).await["detail"], Value::Null);

    let erased = weir.json(&["erase", "xrides", "--ride-id", "2"]).await;
    assert_eq!(erased["rides"], 1);
    assert_eq!(found(&weir, &key, "/v1/rides/2").await, 404);
    let again = weir.json(&["erase", "xrides", "--ride-id", "2"]).await;
    assert_eq!(again["rides"], 0, "there is nothing left");

    let (_, anew) = settled(&weir, &key, "/v1/rides", &ride()).await;
    assert_eq!(anew["action"], "created", "the worker goes on: {anew}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_courier_is_erased_once_it_is_deleted() {
    let weir = Installation::start(|_| {}).await;
    let key = weir.stack.endpoints().partners[0].api_key.clone();
    let create = json!({
        "command": "create", "courier_id": "c-1", "name": "Ada Lovelace", "max_capacity": 60,
        "phone": "+44 20 7946 0000", "attributes": {"note": "left handed"},
    });
    settled(&weir, &key, "/v1/courier-commands", &create).await;
    let erase = ["erase", "xrides", "--courier-id", "c-1"];
    weir.refused(&erase, 1, "is not deleted").await;
    weir.refused(
        &["erase", "xrides", "--courier-id", "c-2"],
        1,
        "no such courier",
    )
    .await;
    weir.refused(&["erase", "xrides"], 64, "--user-id").await;
    let delete = json!({"command": "delete", "courier_id": "c-1"});
    settled(&weir, &key, "/v1/courier-commands", &delete).await;
    let erased = weir.json(&erase).await;
    assert_eq!(erased["couriers"], 1);
    let url = weir.stack.endpoints().database_url;
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let query = "select name, phone is null, attributes is null from couriers";
    let row = client.query_one(query, &[]).await.unwrap();
    let row: (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(row, ("erased".to_owned(), true, true));
}
