//! A PostgreSQL with Weir's tables, a status-api, and a client for it.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use contract::TrackingId;
use contract::partition::Partition;
use contract::tracking_id::{KeyRing, Minter};
use devstack::eventually::eventually;
use devstack::fixture::{Fixture, PostgresFixture};
use devstack::process::{Launch, Process, Signal};

use serde_json::Value;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest that anything here may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) const XRIDES: i32 = 1;
pub(crate) const ACME: i32 = 2;
pub(crate) const HOUR_MS: u64 = 3_600_000;
pub(crate) const DAY_MS: u64 = 24 * HOUR_MS;

const KEY_RING: &str = "test 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";

pub(crate) struct Stage {
    // Dropped in this order: the service before its database.
    process: Process,
    pub(crate) postgres: PostgresFixture,
    directory: TempDir,
    listening: String,
    admin: String,
    keys: [String; 2],
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

/// A ledger row to be; every other column is filled in.
pub(crate) struct Ended<'a> {
    pub(crate) kind: i16,
    pub(crate) outcome: i16,
    pub(crate) action: Option<i16>,
    pub(crate) resource_id: &'a str,
    pub(crate) code: Option<&'a str>,
    pub(crate) detail: Option<&'a str>,
    pub(crate) duplicate_of: Option<TrackingId>,
}

impl Ended<'_> {
    pub(crate) const PERSISTED: Self = Self {
        kind: 1,
        outcome: 1,
        action: Some(1),
        resource_id: "132512",
        code: None,
        detail: None,
        duplicate_of: None,
    };
    pub(crate) const FAILED: Self = Self {
        outcome: 3,
        action: None,
        code: Some("conflict"),
        detail: Some("the ride exists with other content"),
        ..Self::PERSISTED
    };
}

impl Stage {
    /// Everything up, two partitions committed to this moment, ready.
    pub(crate) async fn new() -> Self {
        Self::with(&[]).await
    }

    pub(crate) async fn with(flags: &[&str]) -> Self {
        let postgres = Fixture::postgres().await;
        migrate(&postgres.database_url()).await;
        let stage = Self::on(postgres, flags).await;
        stage.until_ready().await;
        stage
    }

    /// Starts the service on a database that may be away.
    pub(crate) async fn on(postgres: PostgresFixture, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keys = [partners::generate_key(), partners::generate_key()];
        let partners = [(XRIDES, "xrides"), (ACME, "acme")].into_iter().zip(&keys);
        let entries = partners
            .map(|((id, name), key)| partners::toml_entry(id, name, &[partners::sha256_hex(key)]));
        let file = |name: &str| directory.path().join(name).display().to_string();
        std::fs::write(file("partners.toml"), entries.collect::<String>()).unwrap();
        std::fs::write(file("keys"), KEY_RING).unwrap();

        let program = Path::new(env!("CARGO_BIN_EXE_status-api"));
        let mut launch = Launch::new("status-api", program, &directory.path().join("log"));
        launch.captures_first_line = true;
        launch
            .command
            .args(["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"])
            .args(["--database-url", &postgres.database_url()])
            .args([
                "--partners",
                &file("partners.toml"),
                "--tracking-keys",
                &file("keys"),
            ])
            .args(flags);
        let process = launch.spawn().unwrap();
        let line = tokio::time::timeout(LIMIT, process.first_line())
            .await
            .expect("it announces in time");
        let line: Value = serde_json::from_str(&line.expect("it announces")).unwrap();
        let address = |name: &str| line[name].as_str().unwrap().to_owned();
        let (listening, admin) = (address("listening"), address("admin"));
        Self {
            process,
            postgres,
            directory,
            listening,
            admin,
            keys,
        }
    }

    /// A fresh id of `partner`'s in `partition`, `ms_ago` old.
    pub(crate) fn mint(&self, partner: i32, partition: u8, ms_ago: u64) -> TrackingId {
        mint(partner, partition, now_ms() - ms_ago)
    }

    /// Writes the ledger row of an id, completed a second after its acceptance.
    pub(crate) async fn end(&self, id: TrackingId, partner: i32, row: &Ended<'_>) {
        let pool = pool(&self.postgres.database_url()).await;
        sqlx::query(
            "insert into requests (tracking_id, partner_id, kind, outcome, action, resource_id, code, detail,
                 duplicate_of, log_seq, log_index, content_hash, completed_at)
             values ($1, $2, $9, $3, $4, $5, $6, $7, $8, 1, 0, 0, weir_accepted_at($1) + interval '1 second')",
        )
        .bind(id.uuid())
        .bind(partner)
        .bind(row.outcome)
        .bind(row.action)
        .bind(row.resource_id)
        .bind(row.code)
        .bind(row.detail)
        .bind(row.duplicate_of.map(TrackingId::uuid))
        .bind(row.kind)
        .execute(&pool)
        .await
        .unwrap();
    }

    /// Sets how far a partition is applied.
    pub(crate) async fn commit_to(&self, partition: i32, unix_ms: u64) {
        let sql =
            "update progress set committed_to = timestamptz 'epoch' + $2 * interval '1 millisecond'
                   where partition = $1";
        let pool = pool(&self.postgres.database_url()).await;
        let done = sqlx::query(sql)
            .bind(partition)
            .bind(unix_ms as i64)
            .execute(&pool)
            .await
            .unwrap();
        assert_eq!(done.rows_affected(), 1);
    }

    pub(crate) async fn execute(&self, sql: &'static str) {
        let pool = pool(&self.postgres.database_url()).await;
        sqlx::query(sql).execute(&pool).await.unwrap();
    }

    /// `GET` as a partner.
    pub(crate) async fn get(&self, partner: i32, path: &str) -> Answer {
        self.send(
            &format!("GET {path} HTTP/1.1\r\n{}", self.key_header(partner)),
            "",
        )
        .await
    }

    /// `GET` as a partner, with another header.
    pub(crate) async fn get_with(&self, partner: i32, path: &str, header: &str) -> Answer {
        self.send(
            &format!(
                "GET {path} HTTP/1.1\r\n{header}\r\n{}",
                self.key_header(partner)
            ),
            "",
        )
        .await
    }

    /// What became of an id, by itself.
    pub(crate) async fn request(&self, partner: i32, id: TrackingId) -> Answer {
        self.get(partner, &format!("/v1/requests/{id}")).await
    }

    pub(crate) async fn lookup(&self, partner: i32, body: &str) -> Answer {
        let head = format!(
            "POST /v1/requests/lookup HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{}",
            body.len(),
            self.key_header(partner)
        );
        self.send(&head, body).await
    }

    pub(crate) fn key(&self, partner: i32) -> &str {
        &self.keys[usize::try_from(partner).unwrap() - 1]
    }

    pub(crate) fn key_header(&self, partner: i32) -> String {
        format!("authorization: Bearer {}\r\n", self.key(partner))
    }

    /// Sends a request as it is; `head` ends with the last header's line end.
    pub(crate) async fn send(&self, head: &str, body: &str) -> Answer {
        exchange(&self.listening, head, body)
            .await
            .unwrap_or_else(|error| panic!("{head}: {error}"))
    }

    /// Opens a connection and sends the beginning of a request.
    pub(crate) async fn connect(&self, beginning: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.listening).await.unwrap();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        stream
    }

    /// Where it listens, as address:port.
    pub(crate) fn address(&self) -> &str {
        &self.listening
    }

    /// Sends a request, not tied to the stage: while it is under way the database can be stopped.
    pub(crate) fn detached(&self, head: String) -> impl Future<Output = Answer> + Send + 'static {
        let address = self.listening.clone();
        async move { exchange(&address, &head, "").await.unwrap() }
    }

    /// The value of a metric, named with its labels as `/metrics` shows them; 0 if it is not there.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let metrics = exchange(&self.admin, "GET /metrics HTTP/1.1\r\n", "")
            .await
            .unwrap()
            .body;
        let values = metrics
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        values.map(|value| value.parse::<f64>().unwrap()).sum()
    }

    /// Statements that read the ledger or a state table, for whatever purpose.
    pub(crate) async fn ledger_queries(&self) -> f64 {
        let mut sum = 0.0;
        for query in [
            "lookup", "poll", "failures", "ride", "rides", "courier", "couriers",
        ] {
            sum += self
                .metric(&format!(
                    "weir_status_ledger_queries_total{{query=\"{query}\"}}"
                ))
                .await;
        }
        sum
    }

    pub(crate) async fn readyz(&self) -> Answer {
        exchange(&self.admin, "GET /readyz HTTP/1.1\r\n", "")
            .await
            .unwrap()
    }

    pub(crate) async fn until_ready(&self) {
        self.until("ready", async || self.readyz().await.status == 200)
            .await;
    }

    pub(crate) async fn until_not_ready(&self) {
        self.until("not ready", async || self.readyz().await.status == 503)
            .await;
    }

    /// Waits for a condition, and shows the log when it does not come.
    pub(crate) async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let came = eventually(LIMIT, || async { condition().await.then_some(()) }).await;
        assert!(came.is_some(), "not {what} in time:\n{}", self.log());
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// SIGTERM, without waiting.
    pub(crate) fn terminate(&self) {
        self.process.signal(Signal::TERM);
    }

    /// How it ended.
    pub(crate) async fn exit_code(&self) -> Option<i32> {
        tokio::time::timeout(LIMIT, self.process.exited())
            .await
            .expect("it ends in time")
            .code()
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find_map(|(other, value)| other.eq_ignore_ascii_case(name).then_some(value))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts that it is the problem with this code and status.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let json = self.json();
        assert_eq!(json["type"], format!("urn:weir:problem:{code}"));
        assert_eq!(
            (&json["code"], &json["status"]),
            (&code.into(), &status.into())
        );
        for member in ["title", "detail", "retryable"] {
            assert!(!json[member].is_null(), "no {member}: {json}");
        }
    }
}

async fn exchange(address: &str, head: &str, body: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("{head}host: test\r\nconnection: close\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|it| it.parse().ok())
        .ok_or(std::io::ErrorKind::InvalidData)?;
    Ok(Answer {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

/// Weir's tables and two partitions.
pub(crate) async fn migrate(database_url: &str) {
    let pool = pool(database_url).await;
    let migrations = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations"));
    sqlx::migrate::Migrator::new(migrations)
        .await
        .unwrap()
        .run(&pool)
        .await
        .unwrap();
    let sql = "insert into progress select n, gen_random_uuid(), 0, null, now() from generate_series(0, 1) n";
    sqlx::query(sql).execute(&pool).await.unwrap();
}

pub(crate) async fn pool(database_url: &str) -> PgPool {
    PgPoolOptions::new()
        .max_connections(1)
        .connect(database_url)
        .await
        .unwrap()
}

pub(crate) fn mint(partner: i32, partition: u8, unix_ms: u64) -> TrackingId {
    // A minter's time never runs backwards, so each id has one of its own.
    Minter::new(KeyRing::parse(KEY_RING).unwrap()).mint(partner, Partition(partition), unix_ms)
}

/// An id whose tag verifies for both partners, as one in 65,536 does.
pub(crate) fn mint_for_both(partition: u8, unix_ms: u64) -> TrackingId {
    let ring = KeyRing::parse(KEY_RING).unwrap();
    let minter = Minter::new(ring.clone());
    let mut ids = std::iter::repeat_with(|| minter.mint(XRIDES, Partition(partition), unix_ms));
    ids.find(|id| ring.verify(*id, ACME)).unwrap()
}

pub(crate) fn now_ms() -> u64 {
    u64::try_from(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_millis(),
    )
    .unwrap()
}

/// RFC 3339, as answers show a millisecond.
pub(crate) fn shown(unix_ms: u64) -> String {
    jiff::Timestamp::from_millisecond(i64::try_from(unix_ms).unwrap())
        .unwrap()
        .to_string()
}
