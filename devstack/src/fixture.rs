//! What a test needs, in one line: a server of its own that is gone when the handle is dropped.
//!
//! Handles panic instead of returning errors: a test that cannot have its server fails, saying
//! why.

use std::path::Path;

use tempfile::TempDir;

use crate::binaries::{self, Binaries, Progress};
use crate::chain;
use crate::deps::{self, Deps};
use crate::nats::{Door, Nats};
use crate::postgres::{Postgres, Setup};
use crate::stack::{Stack, StackConfig};
use crate::workspace;

/// Starts servers for tests.
#[derive(Debug)]
pub struct Fixture;

/// A test's own nats-server or cluster.
#[derive(Debug)]
pub struct NatsFixture {
    // Dropped in this order: first the processes, then their files.
    nats: Nats,
    directory: TempDir,
}

/// A test's own PostgreSQL.
#[derive(Debug)]
pub struct PostgresFixture {
    postgres: Postgres,
    directory: TempDir,
}

/// A test's own stack.
pub struct StackFixture {
    // Dropped in this order.
    stack: Stack,
    directory: TempDir,
}

/// How much of each log a failure to start shows.
const LOG_LINES: usize = 15;

impl Fixture {
    /// The servers' programs, fetched by the first test that asks.
    ///
    /// # Panics
    /// When they cannot be had.
    pub async fn deps() -> Deps {
        let fetched =
            tokio::task::spawn_blocking(|| deps::ensure(&|sentence| tracing::info!("{sentence}")));
        match fetched.await.expect("fetching does not panic") {
            Ok(deps) => deps,
            Err(error) => panic!("the test's servers cannot be had: {}", chain(&error)),
        }
    }

    /// One nats-server with an empty store.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn nats() -> NatsFixture {
        Self::nats_nodes(1).await
    }

    /// A cluster of three, taking streams with three replicas.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn nats_cluster() -> NatsFixture {
        Self::nats_nodes(3).await
    }

    async fn nats_nodes(count: usize) -> NatsFixture {
        Self::nats_behind(count, &Door::default()).await
    }

    /// So many nodes (1 or 3), with users or encryption.
    ///
    /// # Panics
    /// When they do not start.
    pub async fn nats_behind(count: usize, door: &Door) -> NatsFixture {
        let deps = Self::deps().await;
        let directory = scratch();
        match Nats::start_with(&deps, directory.path(), count, door).await {
            Ok(nats) => NatsFixture { nats, directory },
            Err(error) => panic!("nats-server for a test: {}", chain(&error)),
        }
    }

    /// PostgreSQL with an empty database.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn postgres() -> PostgresFixture {
        let cache = workspace::state_directory()
            .expect("the current directory can be read")
            .join("cache");
        Self::postgres_with(Setup::small(cache)).await
    }

    /// PostgreSQL with an empty database, set up as told.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn postgres_with(setup: Setup) -> PostgresFixture {
        let deps = Self::deps().await;
        let directory = scratch();
        match Postgres::start(&deps, directory.path(), setup).await {
            Ok(postgres) => PostgresFixture {
                postgres,
                directory,
            },
            Err(error) => panic!("PostgreSQL for a test: {}", chain(&error)),
        }
    }
}

impl Fixture {
    /// The services' programs, built by the first test that asks.
    ///
    /// # Panics
    /// When they cannot be built.
    pub async fn binaries() -> Binaries {
        let built = tokio::task::spawn_blocking(|| binaries::ensure(Progress::Quiet));
        match built.await.expect("building does not panic") {
            Ok(binaries) => binaries,
            Err(error) => panic!("the services cannot be had: {}", chain(&error)),
        }
    }

    /// The whole stack, ready: one of each service, no supervision, unless `change` says otherwise.
    ///
    /// # Panics
    /// When it does not start or is not ready in time; the end of each log is shown.
    pub async fn stack(change: impl FnOnce(&mut StackConfig)) -> StackFixture {
        let (deps, binaries) = (Self::deps().await, Self::binaries().await);
        let directory = scratch();
        let cache = workspace::state_directory()
            .expect("the current directory can be read")
            .join("cache");
        let mut config = StackConfig::for_test(&directory.path().join("stack"), &cache);
        change(&mut config);
        let stack = match Stack::start(config, &deps, &binaries).await {
            Ok(stack) => stack,
            Err(error) => panic!("a stack for a test: {}", chain(&error)),
        };
        if let Err(error) = stack.wait_ready().await {
            panic!(
                "a stack for a test: {}{}",
                chain(&error),
                ends_of(stack.logs())
            );
        }
        StackFixture { stack, directory }
    }
}

/// The last lines of every log.
fn ends_of(logs: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(logs).into_iter().flatten().flatten() {
        let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(LOG_LINES);
        let name = entry.file_name();
        text.push_str(&format!(
            "\n--- {}\n{}",
            name.display(),
            lines[from..].join("\n")
        ));
    }
    text
}

impl StackFixture {
    /// Where its files are: the stack's own directory is `stack` below it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Drains it, and gives what did not end by itself. The files stay until the returned handle
    /// is dropped.
    pub async fn shutdown(self) -> (Vec<String>, TempDir) {
        (self.stack.shutdown().await, self.directory)
    }
}

impl std::ops::Deref for StackFixture {
    type Target = Stack;
    fn deref(&self) -> &Stack {
        &self.stack
    }
}

impl NatsFixture {
    /// Where its files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl std::ops::Deref for NatsFixture {
    type Target = Nats;
    fn deref(&self) -> &Nats {
        &self.nats
    }
}

impl std::ops::DerefMut for NatsFixture {
    fn deref_mut(&mut self) -> &mut Nats {
        &mut self.nats
    }
}

impl PostgresFixture {
    /// Where its files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl std::ops::Deref for PostgresFixture {
    type Target = Postgres;
    fn deref(&self) -> &Postgres {
        &self.postgres
    }
}

impl std::ops::DerefMut for PostgresFixture {
    fn deref_mut(&mut self) -> &mut Postgres {
        &mut self.postgres
    }
}

/// A directory of the test's own, removed with the handle.
fn scratch() -> TempDir {
    tempfile::Builder::new()
        .prefix("weir-test-")
        .tempdir()
        .expect("the temporary directory can be written")
}
