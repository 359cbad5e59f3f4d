//! One place in the stack: what runs there, how it is started, and the process that does at the
//! moment.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Role, StackError};
use crate::nats::{self, Node};
use crate::ports::Port;
use crate::postgres::Instance;
use crate::process::{Launch, Process, Signal};

/// How long a service may take to bind its sockets, or a migration to finish.
const START_LIMIT: Duration = Duration::from_secs(30);
/// A migration may have to move rows.
const MIGRATE_LIMIT: Duration = Duration::from_secs(300);
/// How much of a log an error shows.
const TAIL_LINES: usize = 12;

/// A place in the stack.
pub(super) struct Slot {
    pub(super) role: Role,
    pub(super) index: usize,
    pub(super) unit: Unit,
    state: Mutex<State>,
    /// Held while starting: a supervisor and a caller never start two.
    starting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    process: Option<Arc<Process>>,
    /// Of the last process, 0 before the first.
    pid: u32,
    held_down: bool,
}

/// What runs in a place.
pub(super) enum Unit {
    Nats(Node),
    Postgres(Box<Instance>),
    Service(Service),
}

/// One of Weir's own programs.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) command: CommandLine,
    /// The listener for users; a worker has none.
    pub(super) listen: Option<Port>,
    pub(super) admin: Port,
    /// What is to run once before the first service starts.
    pub(super) migration: Option<CommandLine>,
}

/// A program with its arguments, where it runs and where it logs.
#[derive(Clone, Debug)]
pub(super) struct CommandLine {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    /// URLs with passwords go here: arguments are for everybody to see.
    pub(super) environment: Vec<(&'static str, String)>,
    pub(super) directory: PathBuf,
    pub(super) log: PathBuf,
}

impl CommandLine {
    fn launch(&self, name: &str) -> Launch {
        let mut launch = Launch::new(name, &self.program, &self.log);
        launch.command.args(&self.arguments);
        launch
            .command
            .envs(self.environment.iter().map(|(key, value)| (key, value)));
        launch.command.current_dir(&self.directory);
        launch
    }

    /// Runs it and waits until it has ended well.
    pub(super) async fn run_to_end(&self) -> Result<(), StackError> {
        let name = "persist-worker migrate";
        let process = self.launch(name).spawn()?;
        let Ok(status) = tokio::time::timeout(MIGRATE_LIMIT, process.exited()).await else {
            return Err(StackError::Silent {
                name: name.to_owned(),
                limit: MIGRATE_LIMIT,
                log: self.log.clone(),
            });
        };
        if status.success() {
            return Ok(());
        }
        Err(ended(name, &status.to_string(), &self.log))
    }
}

impl Slot {
    pub(super) fn new(role: Role, index: usize, unit: Unit) -> Arc<Self> {
        Arc::new(Self {
            role,
            index,
            unit,
            state: Mutex::default(),
            starting: tokio::sync::Mutex::new(()),
        })
    }

    /// `gateway 0`; PostgreSQL is one of its kind.
    pub(super) fn title(&self) -> String {
        match self.role {
            Role::Postgres => "postgres".to_owned(),
            role => format!("{} {}", role.name(), self.index),
        }
    }

    /// Starts it unless it runs; for a service until it has bound its sockets, for PostgreSQL until
    /// it accepts connections.
    pub(super) async fn start(&self) -> Result<(), StackError> {
        let _starting = self.starting.lock().await;
        if self.process().is_some_and(|process| process.is_running()) {
            return Ok(());
        }
        let process = match &self.unit {
            Unit::Nats(node) => node.launch()?,
            Unit::Postgres(instance) => instance.launch().await?,
            Unit::Service(service) => service.launch().await?,
        };
        let mut state = self.state();
        state.pid = process.pid();
        state.process = Some(Arc::new(process));
        Ok(())
    }

    /// The present or last process.
    pub(super) fn process(&self) -> Option<Arc<Process>> {
        self.state().process.clone()
    }

    pub(super) fn pid(&self) -> u32 {
        self.state().pid
    }

    pub(super) fn is_held_down(&self) -> bool {
        self.state().held_down
    }

    pub(super) fn hold_down(&self, held_down: bool) {
        self.state().held_down = held_down;
    }

    pub(super) async fn kill(&self) {
        if let Some(process) = self.process() {
            process.kill().await;
        }
    }

    /// Ends it as an administrator would; says whether it ended by itself within `grace`.
    pub(super) async fn end(&self, grace: Duration) -> bool {
        let Some(process) = self.process() else {
            return true;
        };
        match &self.unit {
            Unit::Postgres(instance) => {
                instance.signal_all(&process, Signal::CONT);
                instance.stop(&process, grace).await
            }
            Unit::Nats(_) | Unit::Service(_) => process.end(Signal::TERM, grace).await,
        }
    }

    /// Ends it at once.
    pub(super) fn end_blocking(&self) {
        if let Some(process) = self.process() {
            process.end_blocking();
        }
        if let Unit::Postgres(instance) = &self.unit {
            instance.clear();
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        let Some(process) = self.process() else {
            return;
        };
        match &self.unit {
            Unit::Postgres(instance) => instance.signal_all(&process, signal),
            Unit::Nats(_) | Unit::Service(_) => process.signal(signal),
        }
    }

    /// What is to run before the first service.
    pub(super) fn migration(&self) -> Option<&CommandLine> {
        match &self.unit {
            Unit::Service(service) => service.migration.as_ref(),
            Unit::Nats(_) | Unit::Postgres(_) => None,
        }
    }

    /// Its log file.
    pub(super) fn log(&self) -> &Path {
        match &self.unit {
            Unit::Nats(node) => node.log(),
            Unit::Postgres(instance) => instance.log(),
            Unit::Service(service) => &service.command.log,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service {
    async fn launch(&self) -> Result<Process, StackError> {
        let mut launch = self.command.launch(&self.name);
        launch.captures_first_line = true;
        let process = launch.spawn()?;
        let announced = tokio::time::timeout(START_LIMIT, process.first_line()).await;
        match announced {
            Ok(Some(_line)) => Ok(process),
            Ok(None) => {
                let status = process.exited().await.to_string();
                Err(ended(&self.name, &status, &self.command.log))
            }
            Err(_elapsed) => Err(StackError::Silent {
                name: self.name.clone(),
                limit: START_LIMIT,
                log: self.command.log.clone(),
            }),
        }
    }
}

/// Waits until the nodes among `slots` are ready.
pub(super) async fn wait_for_log(slots: &[Arc<Slot>]) -> Result<(), StackError> {
    let processes: Vec<_> = slots.iter().map(|slot| (slot, slot.process())).collect();
    let mut nodes = Vec::new();
    for (slot, process) in &processes {
        if let (Unit::Nats(node), Some(process)) = (&slot.unit, process) {
            nodes.push((node, process.as_ref()));
        }
    }
    if !nodes.is_empty() {
        nats::wait_ready(&nodes).await?;
    }
    Ok(())
}

fn ended(name: &str, status: &str, log: &Path) -> StackError {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    let tail = match lines[from..].join("\n") {
        tail if tail.is_empty() => "(it is empty)".to_owned(),
        tail => tail,
    };
    StackError::Ended {
        name: name.to_owned(),
        status: status.to_owned(),
        log: log.to_path_buf(),
        tail,
    }
}
