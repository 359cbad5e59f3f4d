//! Why a stack, or one process of it, does not run.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::nats::NatsError;
use crate::ports::NoFreePort;
use crate::postgres::PostgresError;
use crate::process::SpawnError;

/// The stack, or one process of it, could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// Somebody runs a stack in this directory.
    #[error(
        "another stack runs in {} already; end it first (Ctrl-C where it runs)",
        .directory.display()
    )]
    Running {
        /// The directory.
        directory: PathBuf,
    },
    /// The directory was made with another number of nodes.
    #[error(
        "the data in {} was made with {flag} {kept}; use that, or start over with --fresh",
        .directory.display()
    )]
    Shape {
        /// The directory.
        directory: PathBuf,
        /// The flag that disagrees.
        flag: &'static str,
        /// What the data was made with.
        kept: usize,
    },
    /// A file could not be read or written.
    #[error("cannot use {}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// No port was free.
    #[error("cannot give every process a port")]
    Port(#[from] NoFreePort),
    /// The log did not start.
    #[error("the log did not start")]
    Nats(#[from] NatsError),
    /// The database did not start.
    #[error("the database did not start")]
    Postgres(#[from] PostgresError),
    /// There can be no such number of partitions.
    #[error("--partitions {asked}: 1 to 256")]
    Partitions {
        /// What was asked for.
        asked: u32,
    },
    /// Users or partners could not be written.
    #[error("{what} could not be made: {reason}")]
    Access {
        /// Which of them.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// A program could not be run.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// A program ended before it had done its work.
    #[error("{name} ended with {status}; the end of {}:\n{tail}", .log.display())]
    Ended {
        /// The process.
        name: String,
        /// How it ended.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The end of it.
        tail: String,
    },
    /// A service did not say where it listens.
    #[error("{name} did not start within {limit:?}; see {}", .log.display())]
    Silent {
        /// The process.
        name: String,
        /// How long was waited.
        limit: Duration,
        /// Its log.
        log: PathBuf,
    },
    /// Something was not ready in time.
    #[error("not ready within {limit:?}: {reasons}\nthe logs are in {}", .logs.display())]
    NotReady {
        /// How long was waited.
        limit: Duration,
        /// Who, and why.
        reasons: String,
        /// The directory of all logs.
        logs: PathBuf,
    },
}
