//! What a stack is to be.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Which ports are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortChoice {
    /// Those of the documentation (8080, 8081, 9080 ...), or the next free ones, said aloud.
    Usual,
    /// Any free ones.
    Any,
}

/// Is called with a sentence whenever something happens that a person should see.
pub type Notices = Arc<dyn Fn(&str) + Send + Sync>;

/// What to run.
#[derive(Clone)]
pub struct StackConfig {
    /// Data, logs and keys. What is there already is kept.
    pub directory: PathBuf,
    /// Where PostgreSQL's template is kept between stacks; usually `.weir/cache`.
    pub cache: PathBuf,
    /// Written once everything is ready and whenever process ids change after that.
    pub endpoints_file: Option<PathBuf>,
    /// Start over: remove what is in `directory` first.
    pub fresh: bool,
    /// How many gateways, at least 1.
    pub gateways: usize,
    /// How many workers, at least 1.
    pub workers: usize,
    /// How many status APIs, at least 1.
    pub statuses: usize,
    /// 1, or 3 for a cluster with replicas 3. What the directory has, else 1, when `None`.
    pub nats_nodes: Option<usize>,
    /// P, 1 to 256. What the directory has, else 2, when `None`.
    pub partitions: Option<u32>,
    /// Somebody else's log instead of an own one.
    pub nats_url: Option<String>,
    /// Somebody else's database instead of an own one.
    pub database_url: Option<String>,
    /// Which ports.
    pub ports: PortChoice,
    /// Whether a child that dies is started again after a second.
    pub supervises: bool,
    /// Memory for PostgreSQL's buffers, in MiB.
    pub shared_buffers_mib: u32,
    /// Further flags of every gateway.
    pub gateway_flags: Vec<String>,
    /// Further flags of every worker (of `run`).
    pub worker_flags: Vec<String>,
    /// Further flags of every status API.
    pub status_flags: Vec<String>,
    /// Further flags of `persist-worker migrate`.
    pub migrate_flags: Vec<String>,
    /// Who is told.
    pub notices: Notices,
}

impl StackConfig {
    /// What a test wants: one of each, any ports, no supervision, everything below `directory`.
    #[must_use]
    pub fn for_test(directory: &Path, cache: &Path) -> Self {
        Self {
            directory: directory.to_path_buf(),
            cache: cache.to_path_buf(),
            endpoints_file: None,
            fresh: false,
            gateways: 1,
            workers: 1,
            statuses: 1,
            nats_nodes: None,
            partitions: None,
            nats_url: None,
            database_url: None,
            ports: PortChoice::Any,
            supervises: false,
            shared_buffers_mib: 64,
            gateway_flags: Vec::new(),
            worker_flags: Vec::new(),
            status_flags: Vec::new(),
            migrate_flags: Vec::new(),
            notices: Arc::new(|sentence| tracing::info!("{sentence}")),
        }
    }
}
