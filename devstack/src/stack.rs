//! The whole system as processes on this machine: log, database, workers, gateways, status APIs.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::binaries::Binaries;
use crate::deps::Deps;
use crate::http;
use crate::leftovers;
use crate::process::Signal;

mod access;
mod config;
mod drain;
mod endpoints;
mod error;
mod layout;
mod secrets;
mod slot;
mod supervise;

pub use config::{Notices, PortChoice, StackConfig};
pub(crate) use endpoints::write_private;
pub use endpoints::{AdminEndpoints, DevelopmentPartner, Endpoints, Pids};
pub use error::StackError;
use slot::{Slot, Unit};

/// How long everything may take to be ready once it runs.
pub const READY_LIMIT: Duration = Duration::from_secs(60);

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// `ingest-gateway`.
    Gateway,
    /// `persist-worker run`.
    Worker,
    /// `status-api`.
    Status,
    /// nats-server.
    Nats,
    /// PostgreSQL's postmaster.
    Postgres,
}

impl Role {
    /// The role's name in messages and file names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Worker => "worker",
            Self::Status => "status",
            Self::Nats => "nats",
            Self::Postgres => "postgres",
        }
    }
}

/// A running stack. [`Stack::shutdown`] drains it; dropping it ends everything at once.
pub struct Stack {
    shared: Arc<Shared>,
    supervisors: Vec<JoinHandle<()>>,
    // Last: held until every process is gone.
    _lock: File,
}

struct Shared {
    slots: Vec<Arc<Slot>>,
    /// Everything but the pids, which change.
    endpoints: Endpoints,
    /// Every node of the log as its admin, separated by commas.
    log_urls: String,
    /// What the services need before they start, beside tables and streams.
    access: access::Access,
    endpoints_file: Option<PathBuf>,
    /// Held while the file is written, so that an older state never replaces a newer one.
    publishing: Mutex<()>,
    logs: PathBuf,
    supervises: AtomicBool,
    /// Set once; the endpoints file tells of a stack that was ready.
    is_ready: AtomicBool,
    stopping: CancellationToken,
    notices: Notices,
}

impl Stack {
    /// Starts everything and migrates; the services run but need not be ready yet, see
    /// [`Stack::wait_ready`].
    ///
    /// # Errors
    /// When another stack runs in the directory, or something cannot be started. What was started
    /// has ended by then.
    pub async fn start(
        config: StackConfig,
        deps: &Deps,
        binaries: &Binaries,
    ) -> Result<Self, StackError> {
        let lock = lock(&config.directory)?;
        let directory = prepare(&config).await?;
        let (config, deps, binaries) = (config, deps.clone(), binaries.clone());
        let plan = tokio::task::spawn_blocking(move || {
            layout::Plan::make(config, &directory, &deps, &binaries)
        });
        let plan = plan.await.expect("planning does not panic")?;

        // From here on an early return drops the stack, which ends what runs.
        let mut stack = Self {
            shared: Arc::new(plan.into_shared()),
            supervisors: Vec::new(),
            _lock: lock,
        };
        stack.start_backends().await?;
        let migration = stack.shared.slots.iter().find_map(|slot| slot.migration());
        if let Some(migrate) = migration {
            stack.notice("migrating");
            migrate.run_to_end().await?;
        }
        stack.shared.access.grant(&stack.shared).await?;
        stack.notice("starting the services");
        for slot in &stack.shared.slots {
            if matches!(slot.unit, Unit::Service(_)) {
                slot.start().await?;
            }
        }
        stack.supervisors = supervise::all(&stack.shared);
        Ok(stack)
    }

    /// Log and database. nats-server gets ready while PostgreSQL is waited for.
    async fn start_backends(&self) -> Result<(), StackError> {
        let slots = &self.shared.slots;
        let is_backend = |slot: &&Arc<Slot>| !matches!(slot.unit, Unit::Service(_));
        if slots.iter().any(|slot| is_backend(&slot)) {
            self.notice("starting nats-server and PostgreSQL");
        }
        for slot in slots.iter().filter(is_backend) {
            slot.start().await?;
        }
        slot::wait_for_log(slots).await
    }

    /// Waits until every service says it is ready, then writes the endpoints file.
    ///
    /// # Errors
    /// When [`READY_LIMIT`] passes first (the error names who is not ready and why), or the file
    /// cannot be written.
    pub async fn wait_ready(&self) -> Result<(), StackError> {
        let deadline = tokio::time::Instant::now() + READY_LIMIT;
        loop {
            let reasons = self.reasons_not_ready().await;
            if reasons.is_empty() {
                self.shared.is_ready.store(true, Ordering::SeqCst);
                return self.shared.publish();
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(StackError::NotReady {
                    limit: READY_LIMIT,
                    reasons: reasons.join("; "),
                    logs: self.shared.logs.clone(),
                });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Where everything is now.
    #[must_use]
    pub fn endpoints(&self) -> Endpoints {
        self.shared.endpoints()
    }

    /// The directory of all logs, one file per process.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.shared.logs
    }

    /// Whether children that die from now on are started again.
    pub fn set_supervised(&self, supervises: bool) {
        self.shared.supervises.store(supervises, Ordering::SeqCst);
    }

    /// SIGKILL, and waits until it is gone. Supervision brings it back. Panics if there is no such
    /// process.
    pub async fn kill(&self, role: Role, index: usize) {
        self.slot(role, index).kill().await;
    }

    /// Ends it in order (PostgreSQL: a fast shutdown) and keeps it down, supervised or not, until
    /// [`Stack::start_again`]. Panics if there is no such process.
    pub async fn stop(&self, role: Role, index: usize) {
        let slot = self.slot(role, index);
        slot.hold_down(true);
        slot.end(drain::grace(role)).await;
    }

    /// Starts what was stopped or killed: same port, same data.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_again(&self, role: Role, index: usize) -> Result<(), StackError> {
        let slot = self.slot(role, index);
        slot.hold_down(false);
        slot.start().await?;
        self.shared.publish()
    }

    /// SIGSTOP; for PostgreSQL to all of its processes.
    pub fn freeze(&self, role: Role, index: usize) {
        self.slot(role, index).signal(Signal::STOP);
    }

    /// SIGCONT to what was frozen.
    pub fn thaw(&self, role: Role, index: usize) {
        self.slot(role, index).signal(Signal::CONT);
    }

    /// Drains in order: gateways, the queue, workers, status APIs, log, database. Whatever does
    /// not end in its share of the 45 s is killed and named in the result.
    pub async fn shutdown(mut self) -> Vec<String> {
        self.shared.stopping.cancel();
        for supervisor in std::mem::take(&mut self.supervisors) {
            supervisor.await.ok();
        }
        drain::all(&self.shared).await
    }

    fn slot(&self, role: Role, index: usize) -> &Slot {
        let mut slots = self.shared.slots.iter();
        let slot = slots.find(|slot| slot.role == role && slot.index == index);
        slot.unwrap_or_else(|| panic!("there is no {} {index}", role.name()))
    }

    fn notice(&self, sentence: &str) {
        (self.shared.notices)(sentence);
    }

    async fn reasons_not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for slot in &self.shared.slots {
            let Unit::Service(service) = &slot.unit else {
                continue;
            };
            match http::get(service.admin.number(), "/readyz").await {
                Some(answer) if answer.status == 200 => {}
                Some(answer) => reasons.push(format!("{}: {}", service.name, answer.body.trim())),
                None => reasons.push(format!("{} does not answer", service.name)),
            }
        }
        reasons
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.shared.stopping.cancel();
        for supervisor in &self.supervisors {
            supervisor.abort();
        }
        let services = |slot: &&Arc<Slot>| matches!(slot.unit, Unit::Service(_));
        for slot in self.shared.slots.iter().filter(services) {
            slot.end_blocking();
        }
        for slot in &self.shared.slots {
            slot.end_blocking();
        }
    }
}

impl Shared {
    fn endpoints(&self) -> Endpoints {
        let pids = |role: Role| {
            let slots = self.slots.iter().filter(|slot| slot.role == role);
            slots.map(|slot| slot.pid()).collect()
        };
        Endpoints {
            pids: Pids {
                gateway: pids(Role::Gateway),
                worker: pids(Role::Worker),
                status: pids(Role::Status),
                nats: pids(Role::Nats),
                postgres: pids(Role::Postgres),
            },
            ..self.endpoints.clone()
        }
    }

    fn publish(&self) -> Result<(), StackError> {
        let Some(path) = &self.endpoints_file else {
            return Ok(());
        };
        if !self.is_ready.load(Ordering::SeqCst) {
            return Ok(());
        }
        let _publishing = self
            .publishing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.endpoints().write(path).map_err(at(path))
    }
}

/// The lock lies beside the directory, which `--fresh` removes.
fn lock(directory: &Path) -> Result<File, StackError> {
    let path = directory.with_extension("lock");
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(at(parent))?;
    }
    let file = File::create(&path).map_err(at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StackError::Running {
            directory: directory.to_path_buf(),
        }),
        Err(TryLockError::Error(source)) => Err(StackError::Io { path, source }),
    }
}

/// The directory, without links in its path, with nobody in it.
async fn prepare(config: &StackConfig) -> Result<PathBuf, StackError> {
    fs::create_dir_all(&config.directory).map_err(at(&config.directory))?;
    let directory = config
        .directory
        .canonicalize()
        .map_err(at(&config.directory))?;
    if let Some(path) = &config.endpoints_file {
        // Of an earlier run: whoever waits for the file must not take it for this one's.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(path)(error)),
            _ => {}
        }
    }
    // The children of a stack that was killed may still be dying.
    leftovers::end(&directory).await;
    if config.fresh {
        fs::remove_dir_all(&directory).map_err(at(&directory))?;
        fs::create_dir_all(&directory).map_err(at(&directory))?;
    }
    Ok(directory)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StackError {
    let path = path.to_path_buf();
    move |source| StackError::Io { path, source }
}
