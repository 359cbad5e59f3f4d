//! What the end-to-end tests share: a whole installation, and a partner's view of it.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser as _;
use devstack::eventually::eventually;
use devstack::fixture::{Fixture, StackFixture};
use devstack::stack::StackConfig;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use loadtest::replay::{ReplayArgs, ReplayError, Report};
use loadtest::run::RunArgs;
use serde_json::{Value, json};

/// Longest that anything here may take before the test gives up and says so.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running installation.
pub(crate) struct System {
    pub(crate) stack: StackFixture,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// An HTTP answer; `json` is null when the body is not JSON.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) json: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("ASCII"))
    }
}

impl System {
    /// Starts everything and waits until it is ready.
    pub(crate) async fn start(change: impl FnOnce(&mut StackConfig)) -> Self {
        let stack = Fixture::stack(change).await;
        Self {
            stack,
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// `index` 0 is XRides, 1 another partner.
    pub(crate) fn key(&self, index: usize) -> String {
        self.stack.endpoints().partners[index].api_key.clone()
    }

    pub(crate) fn gateway(&self, path: &str) -> String {
        format!("{}{path}", self.stack.endpoints().gateway[0])
    }

    pub(crate) fn status(&self, path: &str) -> String {
        format!("{}{path}", self.stack.endpoints().status[0])
    }

    /// One request; `None` when there is no whole answer.
    pub(crate) async fn try_send(
        &self,
        method: &str,
        url: &str,
        key: Option<&str>,
        content_type: &str,
        body: Bytes,
    ) -> Option<Answer> {
        let mut request = http::Request::builder().method(method).uri(url);
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        let request = request.body(Full::new(body)).expect("a valid request");
        let response = self.client.request(request).await.ok()?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        Some(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            json: serde_json::from_slice(&body).unwrap_or(Value::Null),
        })
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        url: &str,
        key: Option<&str>,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> Answer {
        self.try_send(method, url, key, content_type, body.into())
            .await
            .expect("an answer")
    }

    /// As XRides, to the gateway.
    pub(crate) async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(
            "POST",
            &self.gateway(path),
            Some(&self.key(0)),
            "application/json",
            body,
        )
        .await
    }

    /// As XRides, from the status API.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", &self.status(path), Some(&self.key(0)), "", "")
            .await
    }

    /// Waits for a tracking id's outcome.
    pub(crate) async fn settled(&self, tracking_id: &str) -> Value {
        eventually(PATIENCE, || async {
            let answer = self
                .get(&format!("/v1/requests/{tracking_id}?wait=5s"))
                .await;
            (answer.status == 200 && answer.json["status"] != "queued").then_some(answer.json)
        })
        .await
        .unwrap_or_else(|| panic!("{tracking_id} never settled"))
    }

    /// The owner's connection to the database.
    pub(crate) async fn database(&self) -> tokio_postgres::Client {
        let url = self.stack.endpoints().database_url;
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
            .await
            .expect("the database answers");
        tokio::spawn(connection);
        client
    }

    /// One number from the database; `None` while it is away.
    pub(crate) async fn count(&self, query: &str) -> Option<i64> {
        let url = self.stack.endpoints().database_url;
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
            .await
            .ok()?;
        tokio::spawn(connection);
        client
            .query_one(query, &[])
            .await
            .ok()
            .map(|row| row.get(0))
    }

    /// Waits until a query's number is at least `at_least`.
    pub(crate) async fn reached(&self, query: &str, at_least: i64) {
        eventually(PATIENCE, || async {
            self.count(query).await.filter(|count| *count >= at_least)
        })
        .await
        .unwrap_or_else(|| panic!("{query} never reached {at_least}"));
    }

    /// Starts `loadtest replay` of a file as XRides.
    pub(crate) fn replay(&self, file: &Path, arguments: &[&str]) -> Replay {
        #[derive(clap::Parser)]
        struct Arguments {
            #[command(flatten)]
            replay: ReplayArgs,
        }
        let endpoints = self.stack.endpoints();
        let mut line = vec!["replay".into(), file.display().to_string()];
        line.extend(arguments.iter().map(|it| (*it).to_owned()));
        line.extend(["--url".into(), endpoints.gateway.join(",")]);
        line.extend(["--status-url".into(), endpoints.status.join(",")]);
        line.extend([
            "--key".into(),
            self.key(0),
            "--time-zone".into(),
            "Asia/Kolkata".into(),
        ]);
        let arguments = Arguments::try_parse_from(line).expect("valid arguments");
        Replay(tokio::spawn(loadtest::replay::run(arguments.replay)))
    }

    /// `loadtest run` as XRides; its report.
    pub(crate) async fn load(&self, arguments: &[&str]) -> Value {
        #[derive(clap::Parser)]
        struct Arguments {
            #[command(flatten)]
            run: RunArgs,
        }
        let endpoints = self.stack.endpoints();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let report = directory.path().join("report.json");
        let mut line = vec!["run".to_owned()];
        line.extend(arguments.iter().map(|it| (*it).to_owned()));
        line.extend(["--url".into(), endpoints.gateway.join(",")]);
        line.extend(["--status-url".into(), endpoints.status.join(",")]);
        line.extend(["--key".into(), self.key(0)]);
        line.extend(["--json".into(), report.display().to_string()]);
        let arguments = Arguments::try_parse_from(line).expect("valid arguments");
        loadtest::run::main(arguments.run).await;
        let json = std::fs::read(report).expect("a report");
        serde_json::from_slice(&json).expect("JSON")
    }

    /// The value of a metric, summed over its labels; 0 when there is none.
    pub(crate) async fn metric(&self, admin: &str, name: &str) -> f64 {
        let page = self.metrics(admin).await;
        page.lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter(|rest| rest.starts_with([' ', '{']))
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// The names of all metrics that a process serves, as its TYPE lines have them.
    pub(crate) async fn metric_names(&self, admin: &str) -> Vec<String> {
        let page = self.metrics(admin).await;
        page.lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .map(str::to_owned)
            .collect()
    }

    async fn metrics(&self, admin: &str) -> String {
        let request = http::Request::get(format!("{admin}/metrics")).body(Full::default());
        let response = self
            .client
            .request(request.expect("a request"))
            .await
            .expect("an answer");
        let body = response.into_body().collect().await.expect("a body");
        String::from_utf8_lossy(&body.to_bytes()).into_owned()
    }
}

/// A replay under way.
pub(crate) struct Replay(tokio::task::JoinHandle<Result<Report, ReplayError>>);

impl Replay {
    /// The JSON report, of a replay whose books balance.
    pub(crate) async fn finish(self) -> Value {
        let report = self.0.await.expect("no panic").expect("it ran");
        let json = serde_json::to_value(&report).expect("JSON");
        assert!(report.adds_up, "{json:#}");
        json
    }
}

/// Waits for a condition.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    eventually(PATIENCE, || {
        let tried = condition();
        async { tried.await.then_some(()) }
    })
    .await
    .unwrap_or_else(|| panic!("waited in vain until {what}"));
}

/// A ride with every kind of member: the least, an unknown one, and a place.
pub(crate) fn ride(id: i64) -> Value {
    json!({
        "id": id, "user_id": 22_177, "vehicle_model_id": 12, "travel_type_id": 2,
        "from_area_id": 1096, "to_area_id": null, "from_lat": 12.96519, "from_long": 77.71932,
        "from_date": "2026-01-01T09:30:00+05:30", "booking_created": 1_767_234_060,
        "note": "gate 2"
    })
}

/// How many rides [`recorded`] has: enough for kills to fall into the middle of their replay.
pub(crate) const RIDES: i64 = 6_000;

/// A recording of generated rides.
pub(crate) fn recorded(rides: i64) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new()
        .suffix(".csv")
        .tempfile()
        .expect("a temporary file");
    let csv = loadtest::rides::sample_csv(rides.unsigned_abs(), 1);
    std::fs::write(file.path(), csv).expect("written");
    file
}

/// The shipped sample, and the real bookings where they are at hand beside the workspace.
pub(crate) fn sample_bookings() -> Vec<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace");
    let real = workspace.join("../shared/data/bookings.csv");
    let mut files = vec![workspace.join("loadtest/samples/bookings.csv")];
    files.extend(real.exists().then_some(real));
    files
}
