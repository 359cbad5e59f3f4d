//! A stack to run `weir partner` against, and what its services make of a key.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use devstack::eventually::eventually;
use devstack::fixture::{Fixture, StackFixture};
use devstack::stack::StackConfig;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

/// Longer than anything takes on a busy machine.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// How both services answer, by status and the problem's code.
pub(super) const POSTED: (u16, &str) = (202, "");
pub(super) const NOT_THERE: (u16, &str) = (404, "not-found");
pub(super) const UNAUTHORIZED: (u16, &str) = (401, "unauthorized");
pub(super) const FORBIDDEN: (u16, &str) = (403, "forbidden");

/// A stack, a directory that knows of it, and a client.
pub(super) struct Installation {
    pub(super) stack: StackFixture,
    directory: TempDir,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// An answer with all that could show a key.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) whole: String,
    pub(super) json: Value,
}

/// `weir partner` in a directory, with nothing of the tester's environment.
pub(super) async fn partner(directory: &Path, words: &[&str]) -> Output {
    partner_with(directory, &[], words).await
}

/// The same with an environment.
pub(super) async fn partner_with(
    directory: &Path,
    environment: &[(&str, &str)],
    words: &[&str],
) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.current_dir(directory).stdin(Stdio::null());
    let known = std::env::vars_os().map(|(name, _)| name);
    for name in known.filter(|name| name.to_string_lossy().starts_with("WEIR_")) {
        command.env_remove(name);
    }
    command.envs(environment.iter().copied()).kill_on_drop(true);
    command.arg("partner").args(words);
    let output = tokio::time::timeout(LIMIT, command.output()).await;
    output.expect("it ends").expect("it runs")
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

impl Installation {
    pub(super) async fn start(change: impl FnOnce(&mut StackConfig)) -> Self {
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

    pub(super) async fn partner(&self, words: &[&str]) -> Output {
        partner(self.directory.path(), words).await
    }

    /// Of a command that succeeds.
    pub(super) async fn json(&self, words: &[&str]) -> Value {
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
    pub(super) async fn refused(&self, words: &[&str], code: i32, reason: &str) {
        let output = self.partner(words).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(reason), "{words:?}: {said}");
        assert!(output.stdout.is_empty(), "{words:?}");
    }

    pub(super) async fn add(&self, words: &[&str]) -> (String, String) {
        let added = self.json(&[&["add"], words].concat()).await;
        let word = |name: &str| added[name].as_str().expect("a string").to_owned();
        (word("api_key"), word("key_id"))
    }

    pub(super) async fn send(&self, request: http::request::Builder, body: &str) -> Answer {
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

    pub(super) fn gateway(&self, path: &str) -> String {
        format!("{}{path}", self.stack.endpoints().gateway[0])
    }

    pub(super) fn status(&self, path: &str) -> String {
        format!("{}{path}", self.stack.endpoints().status[0])
    }

    /// How the gateway answers a ride of this key's: its status, and its code if it is a problem.
    pub(super) async fn post(&self, key: &str) -> (u16, String) {
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
    pub(super) async fn until(
        &self,
        limit: Duration,
        key: &str,
        post: (u16, &str),
        get: (u16, &str),
    ) {
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

pub(super) fn ride() -> Value {
    json!({
        "id": 1, "user_id": 2, "vehicle_model_id": 12, "travel_type_id": 2,
        "from_date": "2026-01-01T09:30:00+05:30", "booking_created": 1_767_234_060,
    })
}
