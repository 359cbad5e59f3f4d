//! PostgreSQL: a database cluster per instance, copied from a template that `initdb` made once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::NoTls;

use crate::deps::Deps;
use crate::eventually::eventually;
use crate::identity::Identity;
use crate::leftovers;
use crate::ports::{NoFreePort, Port};
use crate::process::{Launch, Process, Signal, SpawnError};

mod template;

pub use template::identity_for;

/// The owner of the database and its name.
pub const OWNER: &str = "weir";
/// How long a start may take; it includes crash recovery.
pub const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long a fast shutdown may take before it becomes an immediate one.
pub const STOP_GRACE: Duration = Duration::from_secs(10);
/// How long an immediate shutdown may take; PostgreSQL itself allows its children 5 s.
const QUIT_GRACE: Duration = Duration::from_secs(7);
/// How often a new instance is started anew when its port was taken in the meantime.
const START_TRIES: usize = 5;
/// Between two tries to connect.
const CONNECT_EVERY: Duration = Duration::from_millis(50);
/// Between two tries while a predecessor's shared memory is still in use.
const RETRY_EVERY: Duration = Duration::from_millis(200);

/// PostgreSQL could not be started.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// A file could not be written.
    #[error("cannot write {}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// No port was free.
    #[error("cannot give PostgreSQL a port")]
    Port(#[from] NoFreePort),
    /// The program could not be run.
    #[error("cannot start PostgreSQL")]
    Spawn(#[from] SpawnError),
    /// PostgreSQL's programs run neither as this user nor as an unprivileged one.
    #[error("PostgreSQL refuses to run as root and cannot be run as another user: {detail}")]
    NoIdentity {
        /// What each attempt said.
        detail: String,
    },
    /// `initdb` failed, or the first commands after it.
    #[error("{program} failed: {detail}")]
    Template {
        /// The program.
        program: &'static str,
        /// The end of its output.
        detail: String,
    },
    /// It ended before it was ready.
    #[error("PostgreSQL ended at once ({status}): {detail}\nits log is {}", .log.display())]
    Ended {
        /// How it ended.
        status: String,
        /// The end of its log.
        detail: String,
        /// Its log.
        log: PathBuf,
    },
    /// It did not accept connections in time.
    #[error("PostgreSQL was not ready within {limit:?}; see {}", .log.display())]
    NotReady {
        /// How long was waited.
        limit: Duration,
        /// Its log.
        log: PathBuf,
    },
}

/// How an instance is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where templates are kept between instances; usually `.weir/cache`.
    pub cache: PathBuf,
    /// The port, or the next free one; any without.
    pub port: Option<u16>,
    /// As whom it runs; found out when `None`.
    pub identity: Option<Identity>,
    /// Memory for its buffers, in MiB.
    pub shared_buffers_mib: u32,
    /// WAL between two checkpoints, in MiB: less means more checkpoints, more means more disk.
    pub max_wal_mib: u32,
    /// Whether the copied template must survive a power cut. No test does.
    pub syncs_copy: bool,
}

impl Setup {
    /// What a test wants: any port, little memory.
    #[must_use]
    pub fn small(cache: PathBuf) -> Self {
        Self {
            cache,
            port: None,
            identity: None,
            shared_buffers_mib: 64,
            max_wal_mib: 512,
            syncs_copy: false,
        }
    }
}

/// An instance's files and port. Starting it again finds its data.
#[derive(Debug)]
pub struct Instance {
    programs: PathBuf,
    identity: Identity,
    data: PathBuf,
    log: PathBuf,
    password: String,
    port: Port,
    setup: Setup,
}

impl Instance {
    /// Lays out an instance with its data in `directory/data`, copied from the template unless
    /// there is data already, and its log in `logs`. Blocks while it copies; the first instance
    /// on a machine waits for `initdb`.
    ///
    /// # Errors
    /// When the template cannot be made or copied, or no port is free.
    pub fn lay_out(
        deps: &Deps,
        directory: &Path,
        logs: &Path,
        setup: Setup,
    ) -> Result<Self, PostgresError> {
        let identity = match &setup.identity {
            Some(identity) => identity.clone(),
            None => identity_for(&deps.postgres_bin)?,
        };
        fs::create_dir_all(logs).map_err(at(logs))?;
        let password = template::instance(deps, &identity, &setup, directory)?;
        let port = match setup.port {
            Some(port) => Port::prefer(port)?,
            None => Port::any()?,
        };
        let data = directory.join(template::DATA);
        Ok(Self {
            programs: deps.postgres_bin.clone(),
            identity,
            // PostgreSQL's processes are found by their current directory, which has no links.
            data: data.canonicalize().map_err(at(&data))?,
            log: logs.join("postgres.log"),
            password,
            port,
            setup,
        })
    }

    /// `postgres://weir:<password>@127.0.0.1:<port>/weir`.
    #[must_use]
    pub fn database_url(&self) -> String {
        self.database_url_as(OWNER, &self.password)
    }

    /// The same database as another user.
    #[must_use]
    pub fn database_url_as(&self, user: &str, password: &str) -> String {
        let port = self.port.number();
        format!("postgres://{user}:{password}@127.0.0.1:{port}/{OWNER}")
    }

    /// Its log file.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Starts it and waits until it accepts connections. While processes or shared memory of a
    /// killed predecessor are in the way, waits and tries again.
    ///
    /// # Errors
    /// When it ends for another reason or is not ready within [`READY_LIMIT`].
    pub async fn launch(&self) -> Result<Process, PostgresError> {
        let deadline = Instant::now() + READY_LIMIT;
        self.write_configuration()?;
        loop {
            leftovers::end(&self.data).await;
            let log_bytes_before = fs::metadata(&self.log).map_or(0, |meta| meta.len());
            let process = self.spawn()?;
            if self.accepts(&process, deadline).await {
                return Ok(process);
            }
            let Some(status) = process.exit_status() else {
                return Err(PostgresError::NotReady {
                    limit: READY_LIMIT,
                    log: self.log.clone(),
                });
            };
            let detail = log_since(&self.log, log_bytes_before);
            if !is_predecessors_fault(&detail) || Instant::now() >= deadline {
                return Err(PostgresError::Ended {
                    status: status.to_string(),
                    detail,
                    log: self.log.clone(),
                });
            }
            tracing::info!("a killed postgres is still in the way, trying again");
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// Ends a running PostgreSQL within `grace`: fast if it manages, immediately otherwise. Says
    /// whether it managed.
    pub async fn stop(&self, process: &Process, grace: Duration) -> bool {
        process.signal(Signal::CONT);
        process.signal(Signal::INT);
        let managed = tokio::time::timeout(grace, process.exited()).await.is_ok();
        if !managed {
            process.end(Signal::QUIT, QUIT_GRACE).await;
        }
        leftovers::end(&self.data).await;
        managed
    }

    /// Sends a signal to the postmaster and to each of its processes.
    pub fn signal_all(&self, process: &Process, signal: Signal) {
        process.signal(signal);
        leftovers::signal(&self.data, signal);
    }

    /// Ends whatever of it still runs and frees its memory. Blocks.
    pub fn clear(&self) {
        leftovers::end_blocking(&self.data);
        leftovers::remove_shared_memory(&self.data);
    }

    fn spawn(&self) -> Result<Process, PostgresError> {
        let mut launch = Launch::new("postgres", &self.programs.join("postgres"), &self.log);
        launch.command.arg("-D").arg(&self.data);
        launch.command.current_dir(&self.data);
        launch.identity = self.identity.clone();
        // An immediate shutdown: the postmaster takes its children and its shared memory along,
        // which SIGKILL would leave behind.
        launch.death_signal = Signal::QUIT;
        Ok(launch.spawn()?)
    }

    async fn accepts(&self, process: &Process, deadline: Instant) -> bool {
        let limit = deadline.saturating_duration_since(Instant::now());
        let url = self.database_url();
        let accepted = eventually(limit, || async {
            if !process.is_running() {
                return Some(false);
            }
            let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await else {
                // Each refusal during recovery is a line in the log.
                tokio::time::sleep(CONNECT_EVERY).await;
                return None;
            };
            let connection = tokio::spawn(connection);
            let answered = client.simple_query("select 1").await.is_ok();
            drop(client);
            connection.await.ok();
            answered.then_some(true)
        });
        accepted.await.unwrap_or(false)
    }

    fn write_configuration(&self) -> Result<(), PostgresError> {
        let path = self.data.join("postgresql.conf");
        let text = format!(
            "# written by devstack at every start\n\
             listen_addresses = '127.0.0.1'\n\
             port = {port}\n\
             unix_socket_directories = ''\n\
             max_connections = 100\n\
             fsync = on\n\
             synchronous_commit = on\n\
             full_page_writes = on\n\
             shared_buffers = {buffers}MB\n\
             max_wal_size = {wal}MB\n\
             # in the data directory, so that nothing stays in /dev/shm when it is killed\n\
             dynamic_shared_memory_type = mmap\n\
             password_encryption = 'scram-sha-256'\n\
             timezone = 'UTC'\n\
             log_timezone = 'UTC'\n\
             log_line_prefix = '%m [%p] '\n\
             lc_messages = 'C'\n\
             jit = off\n",
            port = self.port.number(),
            buffers = self.setup.shared_buffers_mib,
            wal = self.setup.max_wal_mib,
        );
        fs::write(&path, text).map_err(at(&path))?;
        template::give_to(&self.identity, &path).map_err(at(&path))
    }
}

/// Whether what PostgreSQL said at its end passes once its predecessor is gone altogether.
fn is_predecessors_fault(log: &str) -> bool {
    log.contains("shared memory block") || log.contains("lock file \"postmaster.pid\"")
}

/// What was appended to the log since it had `from` bytes.
fn log_since(path: &Path, from: u64) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
    String::from_utf8_lossy(&bytes[from..]).trim().to_owned()
}

/// A running PostgreSQL, for tests, in a directory of the caller's.
#[derive(Debug)]
pub struct Postgres {
    // Before the instance, so that it has ended when that lets go of the port.
    process: Option<Process>,
    instance: Instance,
}

impl Postgres {
    /// Starts an instance with its data and log below `directory` and waits until it accepts
    /// connections.
    ///
    /// # Errors
    /// When it cannot be set up or started.
    pub async fn start(deps: &Deps, directory: &Path, setup: Setup) -> Result<Self, PostgresError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let (deps, home, setup) = (deps.clone(), directory.to_path_buf(), setup.clone());
            let laid_out =
                tokio::task::spawn_blocking(move || Instance::lay_out(&deps, &home, &home, setup));
            let instance = laid_out.await.expect("laying out does not panic")?;
            match instance.launch().await {
                Ok(process) => {
                    let process = Some(process);
                    return Ok(Self { process, instance });
                }
                // A port may have been taken between choosing and binding it.
                Err(PostgresError::Ended { detail, .. })
                    if tries < START_TRIES && detail.contains("Address already in use") => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The owner's URL, over TCP.
    #[must_use]
    pub fn database_url(&self) -> String {
        self.instance.database_url()
    }

    /// The same database as another user.
    #[must_use]
    pub fn database_url_as(&self, user: &str, password: &str) -> String {
        self.instance.database_url_as(user, password)
    }

    /// The postmaster's process id; 0 when it is not running.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Process::pid)
    }

    /// SIGKILL to the postmaster; its backends notice by themselves.
    pub async fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill().await;
        }
    }

    /// A fast shutdown, as an administrator would.
    pub async fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            self.instance.stop(&process, STOP_GRACE).await;
        }
    }

    /// Starts it again after [`Postgres::kill`] or [`Postgres::stop`]: same data, same port.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub async fn restart(&mut self) -> Result<(), PostgresError> {
        self.kill().await;
        self.process = Some(self.instance.launch().await?);
        Ok(())
    }

    /// SIGSTOP to every process of it.
    pub fn freeze(&self) {
        if let Some(process) = &self.process {
            self.instance.signal_all(process, Signal::STOP);
        }
    }

    /// SIGCONT to every process of it.
    pub fn thaw(&self) {
        if let Some(process) = &self.process {
            self.instance.signal_all(process, Signal::CONT);
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.clear();
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PostgresError {
    let path = path.to_path_buf();
    move |source| PostgresError::Io { path, source }
}

/// Runs a program to its end as `identity` and gives its output.
fn run_as(identity: &Identity, log: &Path, command: Command) -> Result<(bool, String), SpawnError> {
    let program = PathBuf::from(command.get_program());
    let before = fs::metadata(log).map_or(0, |meta| meta.len());
    let mut launch = Launch::new("postgres-setup", &program, log);
    launch.command = command;
    launch.identity = identity.clone();
    let process = launch.spawn()?;
    let ended = process.wait_blocking(READY_LIMIT);
    let succeeded = ended && process.exit_status().is_some_and(|status| status.success());
    Ok((succeeded, log_since(log, before)))
}
