//! What a test needs, in one line: a server of its own that is gone when the handle is dropped.
//!
//! Handles panic instead of returning errors: a test that cannot have its server fails, saying
//! why.

use std::path::Path;

use tempfile::TempDir;

use crate::chain;
use crate::deps::{self, Deps};
use crate::nats::Nats;
use crate::postgres::{Postgres, Setup};
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
        let deps = Self::deps().await;
        let directory = scratch();
        match Nats::start(&deps, directory.path(), count).await {
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
