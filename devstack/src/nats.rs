//! nats-server with JetStream: one node, or a cluster of three.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use contract::Partitions;

use crate::deps::Deps;
use crate::eventually::eventually;
use crate::http;
use crate::ports::{NoFreePort, Port};
use crate::process::{Launch, Process, Signal, SpawnError};
use crate::stack::write_private;

mod users;

pub(crate) use users::password;
pub use users::{Passwords, User, accounts};

/// How long a node, or a cluster's election, may take. A large store is checked at start.
pub const READY_LIMIT: Duration = Duration::from_secs(60);
/// How often a node is started anew on other ports when one was taken in the meantime.
const START_TRIES: usize = 5;
/// What JetStream may store. A stream's own `max_bytes` is the real bound; this only has to be
/// larger than all of them together.
const FILE_STORE_MAX: &str = "256GB";

/// Nodes that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// Configuration or store could not be written.
    #[error("cannot write {}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// No port was free.
    #[error("cannot give nats-server a port")]
    Port(#[from] NoFreePort),
    /// The program could not be run.
    #[error("cannot start nats-server")]
    Spawn(#[from] SpawnError),
    /// It ended before it was ready.
    #[error("{name} ended at once ({status}); see {}", .log.display())]
    Ended {
        /// The node.
        name: String,
        /// How it ended.
        status: String,
        /// Its log.
        log: PathBuf,
    },
    /// JetStream did not come up in time.
    #[error("JetStream was not ready within {limit:?}; see {}", .log.display())]
    NotReady {
        /// How long was waited.
        limit: Duration,
        /// The log of the first node.
        log: PathBuf,
    },
}

/// Who may enter, and how the way there is encrypted. By default everybody may, and it is not.
#[derive(Clone, Debug, Default)]
pub struct Door {
    /// The users' passwords, and for how many partitions the users are to be good.
    pub users: Option<(Passwords, Partitions)>,
    /// Encryption.
    pub tls: Option<ServerTls>,
}

/// What a server needs to encrypt, each file PEM.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// Its certificate.
    pub certificate: PathBuf,
    /// The key of it.
    pub key: PathBuf,
    /// Who vouches for clients, which then have to show a certificate, too.
    pub client_ca: Option<PathBuf>,
}

/// One node: its ports and its files. Starting it again finds its store.
#[derive(Debug)]
pub struct Node {
    name: String,
    program: PathBuf,
    configuration: PathBuf,
    log: PathBuf,
    client: Port,
    monitor: Port,
    route: Port,
    door: Door,
}

impl Node {
    /// Lays out `count` nodes (1, or 3 for a cluster) below `directory`, with log files in `logs`.
    /// The first node's client port is `preferred` or the next free one; any without. The
    /// configuration holds the users' passwords, and only its owner may read it.
    ///
    /// # Errors
    /// When files cannot be written or no port is free.
    pub fn lay_out(
        deps: &Deps,
        directory: &Path,
        logs: &Path,
        count: usize,
        preferred: Option<u16>,
        door: &Door,
    ) -> Result<Vec<Self>, NatsError> {
        let mut nodes = Vec::with_capacity(count);
        for index in 0..count {
            let name = format!("nats-{index}");
            let home = directory.join(&name);
            fs::create_dir_all(home.join("store")).map_err(at(&home))?;
            // A cluster's streams belong to the account that its own log of changes names.
            if door.users.is_some() && count == 1 {
                users::adopt(&home.join("store")).map_err(at(&home))?;
            }
            fs::create_dir_all(logs).map_err(at(logs))?;
            let client = match preferred {
                Some(port) => Port::prefer(port)?,
                None => Port::any()?,
            };
            nodes.push(Self {
                program: deps.nats_server.clone(),
                configuration: home.join("nats-server.conf"),
                log: logs.join(format!("{name}.log")),
                name,
                client,
                monitor: Port::any()?,
                route: Port::any()?,
                door: door.clone(),
            });
        }
        let routes: Vec<u16> = nodes.iter().map(|node| node.route.number()).collect();
        for node in &nodes {
            let text = node.configuration_text(&routes);
            write_private(&node.configuration, &text).map_err(at(&node.configuration))?;
        }
        Ok(nodes)
    }

    /// `nats://127.0.0.1:<port>`, as nobody.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme(), self.client.number())
    }

    /// `nats://<user>:<password>@127.0.0.1:<port>`; as nobody where everybody may enter.
    #[must_use]
    pub fn url_as(&self, user: User) -> String {
        let Some((passwords, _)) = &self.door.users else {
            return self.url();
        };
        let (name, password) = (user.name(), passwords.of(user));
        let (scheme, port) = (self.scheme(), self.client.number());
        format!("{scheme}://{name}:{password}@127.0.0.1:{port}")
    }

    fn scheme(&self) -> &'static str {
        match self.door.tls {
            Some(_) => "tls",
            None => "nats",
        }
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its log file.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Starts it; it is not ready yet.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn launch(&self) -> Result<Process, NatsError> {
        let mut launch = Launch::new(&self.name, &self.program, &self.log);
        launch.command.arg("--config").arg(&self.configuration);
        if let Some(home) = self.configuration.parent() {
            launch.command.current_dir(home);
        }
        Ok(launch.spawn()?)
    }

    /// Whether JetStream answers on this node.
    async fn is_healthy(&self) -> bool {
        let answer = http::get(self.monitor.number(), "/healthz").await;
        answer.is_some_and(|answer| answer.status == 200)
    }

    /// Whether this node is the cluster's meta leader and sees every other node up to date.
    async fn leads(&self, nodes: usize) -> bool {
        let Some(answer) = http::get(self.monitor.number(), "/jsz").await else {
            return false;
        };
        let Ok(page) = serde_json::from_str::<serde_json::Value>(&answer.body) else {
            return false;
        };
        let meta = &page["meta_cluster"];
        let leads = meta["leader"].as_str() == Some(self.name.as_str());
        let current = meta["replicas"].as_array().map(|replicas| {
            let up = |replica: &&serde_json::Value| {
                replica["current"].as_bool() == Some(true)
                    && replica["offline"].as_bool() != Some(true)
            };
            replicas.iter().filter(up).count()
        });
        leads && current == Some(nodes - 1)
    }

    fn configuration_text(&self, routes: &[u16]) -> String {
        let store = self.configuration.with_file_name("store");
        let mut text = format!(
            "server_name: {name}\nlisten: \"127.0.0.1:{client}\"\nhttp: \"127.0.0.1:{monitor}\"\n\
             jetstream {{\n  store_dir: {store:?}\n  max_file_store: {FILE_STORE_MAX}\n  \
             # an acknowledgement means: on disk\n  sync_interval: always\n}}\n",
            name = self.name,
            client = self.client.number(),
            monitor = self.monitor.number(),
            store = store.display().to_string(),
        );
        if let Some((passwords, partitions)) = &self.door.users {
            let quoted = |user| format!("\"{}\"", passwords.of(user));
            text.push_str(&accounts(*partitions, quoted));
        }
        if let Some(tls) = &self.door.tls {
            text.push_str(&format!(
                "tls {{\n  cert_file: {:?}\n  key_file: {:?}\n",
                tls.certificate.display().to_string(),
                tls.key.display().to_string(),
            ));
            if let Some(ca) = &tls.client_ca {
                let ca = ca.display().to_string();
                text.push_str(&format!("  ca_file: {ca:?}\n  verify: true\n"));
            }
            text.push_str("}\n");
        }
        if routes.len() > 1 {
            let routes: Vec<String> = routes
                .iter()
                .map(|port| format!("\"nats://127.0.0.1:{port}\""))
                .collect();
            text.push_str(&format!(
                "cluster {{\n  name: weir\n  listen: \"127.0.0.1:{}\"\n  routes: [{}]\n}}\n",
                self.route.number(),
                routes.join(", "),
            ));
        }
        text
    }
}

/// Waits until JetStream answers on every node and, in a cluster, a meta leader sees all of them.
/// Ends early when a node's process has ended.
///
/// # Errors
/// When a node has ended or [`READY_LIMIT`] has passed.
pub async fn wait_ready(nodes: &[(&Node, &Process)]) -> Result<(), NatsError> {
    let outcome = eventually(READY_LIMIT, || async {
        for (node, process) in nodes {
            if let Some(status) = process.exit_status() {
                return Some(Err(NatsError::Ended {
                    name: node.name.clone(),
                    status: status.to_string(),
                    log: node.log.clone(),
                }));
            }
        }
        all_ready(nodes).await.then_some(Ok(()))
    });
    outcome.await.unwrap_or_else(|| {
        let log = nodes.first().map(|(node, _)| node.log.clone());
        Err(NatsError::NotReady {
            limit: READY_LIMIT,
            log: log.unwrap_or_default(),
        })
    })
}

async fn all_ready(nodes: &[(&Node, &Process)]) -> bool {
    for (node, _) in nodes {
        if !node.is_healthy().await {
            return false;
        }
    }
    if nodes.len() == 1 {
        return true;
    }
    for (node, _) in nodes {
        if node.leads(nodes.len()).await {
            return true;
        }
    }
    false
}

/// Running nodes, for tests: one, or a cluster of three, in a directory of the caller's.
#[derive(Debug)]
pub struct Nats {
    nodes: Vec<Node>,
    processes: Vec<Process>,
}

impl Nats {
    /// Starts `count` nodes (1 or 3) with their files below `directory` and waits until JetStream
    /// takes streams with that many replicas.
    ///
    /// # Errors
    /// When they cannot be started or are not ready within [`READY_LIMIT`].
    pub async fn start(deps: &Deps, directory: &Path, count: usize) -> Result<Self, NatsError> {
        Self::start_with(deps, directory, count, &Door::default()).await
    }

    /// As [`Nats::start`], with users or encryption.
    ///
    /// # Errors
    /// As [`Nats::start`].
    pub async fn start_with(
        deps: &Deps,
        directory: &Path,
        count: usize,
        door: &Door,
    ) -> Result<Self, NatsError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let nodes = Node::lay_out(deps, directory, directory, count, None, door)?;
            let processes: Result<Vec<_>, _> = nodes.iter().map(Node::launch).collect();
            let processes = processes?;
            let started = Self { nodes, processes };
            match started.ready().await {
                Ok(()) => return Ok(started),
                // A port may have been taken between choosing and binding it.
                Err(NatsError::Ended { .. }) if tries < START_TRIES => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The nodes' URLs, comma-separated.
    #[must_use]
    pub fn url(&self) -> String {
        let urls: Vec<String> = self.nodes.iter().map(Node::url).collect();
        urls.join(",")
    }

    /// The nodes' URLs with a user's name and password, comma-separated.
    #[must_use]
    pub fn url_as(&self, user: User) -> String {
        let urls: Vec<String> = self.nodes.iter().map(|node| node.url_as(user)).collect();
        urls.join(",")
    }

    /// The log file of a node. Panics if there is no such node.
    #[must_use]
    pub fn log(&self, index: usize) -> &Path {
        self.nodes[index].log()
    }

    /// The process ids, in the nodes' order.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }

    /// SIGKILL to a node, waiting until it is gone. Panics if there is no such node.
    pub async fn kill(&self, index: usize) {
        self.processes[index].kill().await;
    }

    /// Starts a killed node again, same store and port, and waits until all that run are ready.
    ///
    /// # Errors
    /// As [`Nats::start`].
    pub async fn restart(&mut self, index: usize) -> Result<(), NatsError> {
        self.processes[index].kill().await;
        self.processes[index] = self.nodes[index].launch()?;
        self.ready().await
    }

    async fn ready(&self) -> Result<(), NatsError> {
        let pairs: Vec<_> = self.nodes.iter().zip(&self.processes).collect();
        wait_ready(&pairs).await
    }

    /// SIGSTOP to a node.
    pub fn freeze(&self, index: usize) {
        self.processes[index].signal(Signal::STOP);
    }

    /// SIGCONT to a node.
    pub fn thaw(&self, index: usize) {
        self.processes[index].signal(Signal::CONT);
    }
}

/// A client of the log at `urls`, one or several with commas between, as the user they name.
///
/// # Errors
/// When nobody answers there, or will not have that user.
pub async fn connect(urls: &str) -> Result<async_nats::Client, partners::ConnectError> {
    let urls: Vec<String> = urls.split(',').map(str::to_owned).collect();
    partners::connect(&urls, "devstack").await
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> NatsError {
    let path = path.to_path_buf();
    move |source| NatsError::Io { path, source }
}
