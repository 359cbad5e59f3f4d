//! A log with partition streams, a gateway process in front of it, and clients.

use std::process::Stdio;
use std::time::Duration;

use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use contract::chunk::Chunk;
use contract::log::StreamMetadata;
use contract::{Entry, Partition, Partitions};
use devstack::eventually::eventually;
use devstack::fixture::{Fixture, NatsFixture};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use uuid::Uuid;

/// Longer than anything a test waits for on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

const TRACKING_KEYS: &str =
    "test 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";

/// A log of its own, with streams.
pub(crate) struct Log {
    pub(crate) nats: NatsFixture,
    pub(crate) context: jetstream::Context,
    pub(crate) partitions: Partitions,
}

impl Log {
    pub(crate) async fn start(partitions: u32) -> Self {
        Self::on(Fixture::nats().await, partitions).await
    }

    /// Three nodes, three replicas.
    pub(crate) async fn cluster(partitions: u32) -> Self {
        Self::on(Fixture::nats_cluster().await, partitions).await
    }

    async fn on(nats: NatsFixture, partitions: u32) -> Self {
        let client = async_nats::ConnectOptions::new()
            .max_reconnects(None)
            .connect(nats.url().split(',').collect::<Vec<_>>())
            .await
            .unwrap();
        let context = jetstream::new(client);
        let partitions = Partitions::new(partitions).unwrap();
        let log = Self {
            nats,
            context,
            partitions,
        };
        let installation = Uuid::now_v7();
        for partition in partitions.iter() {
            log.create(partition, installation).await;
        }
        log
    }

    pub(crate) async fn create(&self, partition: Partition, installation: Uuid) {
        let metadata = StreamMetadata::new(installation, Uuid::now_v7(), self.partitions);
        let config = stream::Config {
            name: contract::log::stream_name(partition),
            subjects: vec![contract::log::subject(partition)],
            discard: stream::DiscardPolicy::New,
            max_bytes: 1 << 30,
            num_replicas: self.nats.pids().len(),
            duplicate_window: Duration::from_secs(120),
            metadata: metadata.to_map(),
            ..stream::Config::default()
        };
        self.context.create_stream(config).await.unwrap();
    }

    /// Everything a partition holds, decoded, in log order.
    pub(crate) async fn chunks(&self, partition: Partition) -> Vec<Chunk> {
        let name = contract::log::stream_name(partition);
        let mut stream = self.context.get_stream(&name).await.unwrap();
        let last = stream.info().await.unwrap().state.last_sequence;
        let mut chunks = Vec::new();
        for sequence in 1..=last {
            let message = stream.get_raw_message(sequence).await.unwrap();
            let chunk = contract::chunk::decode(&message.payload).unwrap();
            let id = message
                .headers
                .get(contract::log::MESSAGE_ID_HEADER)
                .unwrap();
            assert_eq!(id.as_str(), chunk.header.chunk_id.to_string());
            assert_eq!(chunk.header.partition, partition);
            chunks.push(chunk);
        }
        chunks
    }

    /// Every record of every partition.
    pub(crate) async fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for partition in self.partitions.iter() {
            for chunk in self.chunks(partition).await {
                entries.extend(chunk.entries);
            }
        }
        entries
    }

    /// How many publishes the log has stored.
    pub(crate) async fn messages(&self) -> u64 {
        let mut messages = 0;
        for partition in self.partitions.iter() {
            let name = contract::log::stream_name(partition);
            let mut stream = self.context.get_stream(&name).await.unwrap();
            messages += stream.info().await.unwrap().state.messages;
        }
        messages
    }

    /// Whether a tracking id is stored, as the 202 that carried it promised.
    pub(crate) async fn holds(&self, tracking_id: &Value) -> bool {
        let entries = self.entries().await;
        entries
            .iter()
            .any(|entry| json!(entry.tracking_id) == *tracking_id)
    }
}

/// What an HTTP exchange ended with.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

/// A gateway process.
pub(crate) struct Gateway {
    pub(crate) child: Child,
    pub(crate) address: String,
    pub(crate) admin: String,
    pub(crate) key: String,
    client: Client<HttpConnector, Full<Bytes>>,
    directory: TempDir,
}

impl Gateway {
    /// Starts one and waits until it is ready.
    pub(crate) async fn ready(log: &Log, flags: &[&str]) -> Self {
        let gateway = Self::start(&log.nats.url(), flags).await;
        gateway.wait_ready().await;
        gateway
    }

    /// Starts one and waits until its sockets are bound.
    pub(crate) async fn start(nats_url: &str, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::start_in(directory, nats_url, flags, Stdio::inherit()).await
    }

    /// Like [`Self::ready`], and what it logs is kept for [`Self::logged`].
    pub(crate) async fn ready_and_logged(log: &Log, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let stderr = std::fs::File::create(directory.path().join("log")).unwrap();
        let gateway = Self::start_in(directory, &log.nats.url(), flags, stderr.into()).await;
        gateway.wait_ready().await;
        gateway
    }

    /// Like [`Self::start`], and whoever read its log has gone.
    pub(crate) async fn start_unread(nats_url: &str, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut gateway = Self::start_in(directory, nats_url, flags, Stdio::piped()).await;
        drop(gateway.child.stderr.take());
        gateway
    }

    pub(crate) fn logged(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    async fn start_in(directory: TempDir, nats_url: &str, flags: &[&str], stderr: Stdio) -> Self {
        let key = partners::generate_key();
        let partners = directory.path().join("partners.toml");
        let entry = partners::toml_entry(1, "xrides", &[partners::sha256_hex(&key)]);
        std::fs::write(&partners, entry).unwrap();
        let keys = directory.path().join("tracking.keys");
        std::fs::write(&keys, TRACKING_KEYS).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_ingest-gateway"))
            .args(["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"])
            .arg(format!("--nats-url={nats_url}"))
            .arg(format!("--partners={}", partners.display()))
            .arg(format!("--tracking-keys={}", keys.display()))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        tokio::time::timeout(LIMIT, stdout.read_line(&mut line))
            .await
            .unwrap()
            .unwrap();
        let announced: Value = serde_json::from_str(&line).expect("one line of JSON");
        Self {
            child,
            address: announced["listening"].as_str().unwrap().to_owned(),
            admin: announced["admin"].as_str().unwrap().to_owned(),
            key,
            client: Client::builder(TokioExecutor::new()).build_http(),
            directory,
        }
    }

    pub(crate) async fn wait_ready(&self) {
        let ready = eventually(LIMIT, || async {
            (self.readyz().await.status == 200).then_some(())
        });
        ready.await.expect("the gateway becomes ready");
    }

    pub(crate) async fn readyz(&self) -> Answer {
        self.exchange(
            Method::GET,
            &format!("http://{}/readyz", self.admin),
            &[],
            "",
        )
        .await
    }

    /// The value of a metric line that begins with `name`.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let url = format!("http://{}/metrics", self.admin);
        let request = Request::get(url).body(Full::default()).unwrap();
        let answer = self.client.request(request).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.into()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim().parse().ok())
            .unwrap_or(0.0)
    }

    /// With the partner's key.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> Answer {
        let authorization = format!("Bearer {}", self.key);
        let headers = [
            ("authorization", authorization.as_str()),
            ("content-type", content_type),
        ];
        let url = format!("http://{}{path}", self.address);
        self.exchange(method, &url, &headers, body).await
    }

    pub(crate) async fn post(&self, body: &Value) -> Answer {
        self.send(
            Method::POST,
            "/v1/rides",
            "application/json",
            body.to_string(),
        )
        .await
    }

    pub(crate) async fn exchange(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let answer = self.client.request(request).await.expect("an answer");
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        }
    }

    /// A connection of one's own, for what a proper client would not send.
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }

    /// The head of a POST, by hand.
    pub(crate) fn head(&self, more: &str) -> String {
        format!(
            "POST /v1/rides HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\n{more}\r\n",
            self.key
        )
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = i32::try_from(self.child.id().expect("running")).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGTERM).unwrap();
    }
}

/// Sends all of it and only then reads, as a plain client does; the answer until the connection
/// is closed.
pub(crate) async fn send_then_read(mut stream: TcpStream, bytes: &[u8]) -> String {
    stream.write_all(bytes).await.expect("all can be sent");
    let mut answer = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer))
        .await
        .expect("the connection is closed in time")
        .expect("the answer can be read");
    String::from_utf8(answer).unwrap()
}

pub(crate) fn ride(id: i64) -> Value {
    json!({
        "id": id, "user_id": 22_177, "vehicle_model_id": 12, "travel_type_id": 2,
        "from_date": "2013-01-01T09:30:00+05:30", "booking_created": 1_357_006_860,
    })
}

/// Ids of rides that belong to a partition, for partner 1.
pub(crate) fn ids_of(partitions: Partitions, partition: Partition) -> impl Iterator<Item = i64> {
    (1..).filter(move |id| {
        let ride = contract::Ride {
            id: *id,
            ..contract::Ride::default()
        };
        partitions.of(1, &contract::Record::Ride(ride)) == partition
    })
}

pub(crate) fn lines(items: &[Value]) -> String {
    items.iter().map(|item| format!("{item}\n")).collect()
}
