//! Decides which processes there are, on which ports and with which flags.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use contract::Partitions;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::access::{self, Access};
use super::endpoints::{AdminEndpoints, Endpoints, Pids};
use super::secrets::Secrets;
use super::slot::{CommandLine, Service, Slot, Unit};
use super::{Notices, PortChoice, Role, Shared, StackConfig, StackError, at};
use crate::binaries::Binaries;
use crate::deps::Deps;
use crate::nats::{Door, Node, User};
use crate::ports::{NoFreePort, Port};
use crate::postgres::{Instance, Setup};

/// The best on two cores.
const PARTITIONS_DEFAULT: u32 = 2;
const NATS_PORT: u16 = 4222;
const POSTGRES_PORT: u16 = 5432;
/// WAL between two checkpoints, in MiB.
const WAL_MIB: u32 = 2048;

/// What cannot be changed once there is data.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Shape {
    nats_nodes: usize,
    partitions: u32,
}

/// Everything decided, nothing started.
pub(super) struct Plan {
    notices: Notices,
    /// Log and database, those that are ours.
    backends: Vec<Arc<Slot>>,
    services: Vec<Arc<Slot>>,
    endpoints: Endpoints,
    log_urls: String,
    access: Access,
    endpoints_file: Option<PathBuf>,
    logs: PathBuf,
    supervises: bool,
}

/// What the command lines are made of.
struct Parts<'a> {
    config: &'a StackConfig,
    binaries: &'a Binaries,
    secrets: &'a Secrets,
    shape: Shape,
    directory: &'a Path,
    logs: &'a Path,
    log: &'a LogAddress,
    database: &'a DatabaseAddress,
}

/// Where the log is.
enum LogAddress {
    /// Somebody else's: everybody is whom its URL names.
    Theirs(String),
    Ours(Vec<Node>),
}

impl LogAddress {
    /// Every node's URL, separated by commas.
    fn url_as(&self, user: User) -> String {
        match self {
            Self::Theirs(url) => url.clone(),
            Self::Ours(nodes) => {
                let urls: Vec<String> = nodes.iter().map(|node| node.url_as(user)).collect();
                urls.join(",")
            }
        }
    }
}

/// Where the database is.
enum DatabaseAddress {
    /// Somebody else's: everybody is whom its URL names.
    Theirs(String),
    Ours(Box<Instance>),
}

impl DatabaseAddress {
    fn owners_url(&self) -> String {
        match self {
            Self::Theirs(url) => url.clone(),
            Self::Ours(instance) => instance.database_url(),
        }
    }

    fn url_as(&self, user: &str, password: &str) -> String {
        match self {
            Self::Theirs(url) => url.clone(),
            Self::Ours(instance) => instance.database_url_as(user, password),
        }
    }
}

impl Plan {
    pub(super) fn make(
        config: StackConfig,
        directory: &Path,
        deps: &Deps,
        binaries: &Binaries,
    ) -> Result<Self, StackError> {
        let shape = shape(&config, directory)?;
        let secrets = Secrets::ensure(directory).map_err(at(directory))?;
        let logs = directory.join("logs");
        empty_logs(&logs)?;
        let log = log(&config, shape, &secrets, directory, &logs, deps)?;
        let database = database(&config, directory, &logs, deps)?;
        let parts = Parts {
            config: &config,
            binaries,
            secrets: &secrets,
            shape,
            directory,
            logs: &logs,
            log: &log,
            database: &database,
        };
        let services = services(&parts)?;
        let endpoints = endpoints(&parts, &services);
        let log_urls = log.url_as(User::Admin);
        let nodes = match log {
            LogAddress::Theirs(_) => Vec::new(),
            LogAddress::Ours(nodes) => nodes,
        };
        let nodes = nodes.into_iter().enumerate();
        let nodes = nodes.map(|(index, node)| Slot::new(Role::Nats, index, Unit::Nats(node)));
        let (postgres, passwords) = match database {
            DatabaseAddress::Theirs(_) => (None, None),
            DatabaseAddress::Ours(it) => (Some(it), Some(secrets.passwords.database)),
        };
        let postgres = postgres.map(|it| Slot::new(Role::Postgres, 0, Unit::Postgres(it)));
        Ok(Self {
            backends: nodes.chain(postgres).collect(),
            services,
            endpoints,
            log_urls,
            access: Access {
                database: passwords,
                partners_file: secrets.partners_file,
            },
            logs,
            notices: config.notices,
            endpoints_file: config.endpoints_file,
            supervises: config.supervises,
        })
    }

    pub(super) fn into_shared(self) -> Shared {
        Shared {
            slots: self.backends.into_iter().chain(self.services).collect(),
            endpoints: self.endpoints,
            log_urls: self.log_urls,
            access: self.access,
            endpoints_file: self.endpoints_file,
            publishing: Mutex::new(()),
            logs: self.logs,
            supervises: AtomicBool::new(self.supervises),
            is_ready: AtomicBool::new(false),
            stopping: CancellationToken::new(),
            notices: self.notices,
        }
    }
}

/// The shape that the directory has, or is given now.
fn shape(config: &StackConfig, directory: &Path) -> Result<Shape, StackError> {
    let path = directory.join("shape.json");
    let kept: Option<Shape> = fs::read(&path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    let disagrees = |flag, kept: usize| StackError::Shape {
        directory: directory.to_path_buf(),
        flag,
        kept,
    };
    if let Some(kept) = kept {
        if config
            .nats_nodes
            .is_some_and(|wanted| wanted != kept.nats_nodes)
        {
            return Err(disagrees("--nats-nodes", kept.nats_nodes));
        }
        if config
            .partitions
            .is_some_and(|wanted| wanted != kept.partitions)
        {
            let partitions = usize::try_from(kept.partitions).unwrap_or(usize::MAX);
            return Err(disagrees("--partitions", partitions));
        }
        return Ok(kept);
    }
    let shape = Shape {
        nats_nodes: config.nats_nodes.unwrap_or(1),
        partitions: config.partitions.unwrap_or(PARTITIONS_DEFAULT),
    };
    let text = serde_json::to_vec(&shape).expect("numbers become JSON");
    fs::write(&path, text).map_err(at(&path))?;
    Ok(shape)
}

/// Each start begins its logs anew.
fn empty_logs(logs: &Path) -> Result<(), StackError> {
    if logs.exists() {
        fs::remove_dir_all(logs).map_err(at(logs))?;
    }
    fs::create_dir_all(logs).map_err(at(logs))
}

fn log(
    config: &StackConfig,
    shape: Shape,
    secrets: &Secrets,
    directory: &Path,
    logs: &Path,
    deps: &Deps,
) -> Result<LogAddress, StackError> {
    if let Some(url) = &config.nats_url {
        return Ok(LogAddress::Theirs(url.clone()));
    }
    let port = (config.ports == PortChoice::Usual).then_some(NATS_PORT);
    let partitions = Partitions::new(shape.partitions).map_err(|_| StackError::Partitions {
        asked: shape.partitions,
    })?;
    let door = Door {
        users: Some((secrets.passwords.nats.clone(), partitions)),
        tls: None,
    };
    let nodes = Node::lay_out(deps, directory, logs, shape.nats_nodes, port, &door)?;
    Ok(LogAddress::Ours(nodes))
}

fn database(
    config: &StackConfig,
    directory: &Path,
    logs: &Path,
    deps: &Deps,
) -> Result<DatabaseAddress, StackError> {
    if let Some(url) = &config.database_url {
        return Ok(DatabaseAddress::Theirs(url.clone()));
    }
    let setup = Setup {
        cache: config.cache.clone(),
        port: (config.ports == PortChoice::Usual).then_some(POSTGRES_PORT),
        identity: None,
        shared_buffers_mib: config.shared_buffers_mib,
        max_wal_mib: WAL_MIB,
        syncs_copy: config.ports == PortChoice::Usual,
    };
    let instance = Instance::lay_out(deps, &directory.join("postgres"), logs, setup)?;
    Ok(DatabaseAddress::Ours(Box::new(instance)))
}

/// The services in starting order, so that nothing waits for what comes later.
fn services(parts: &Parts<'_>) -> Result<Vec<Arc<Slot>>, StackError> {
    let config = parts.config;
    let places: Vec<(Role, usize)> = [
        (Role::Worker, config.workers),
        (Role::Status, config.statuses),
        (Role::Gateway, config.gateways),
    ]
    .into_iter()
    .flat_map(|(role, count)| (0..count).map(move |index| (role, index)))
    .collect();

    let admin = ports(
        config,
        &places,
        |role, index| match (role, index) {
            (Role::Gateway, 0) => Some(9080),
            (Role::Worker, 0) => Some(9081),
            (Role::Status, 0) => Some(9082),
            _ => None,
        },
        9083,
    )?;
    let users = |(role, _): &&(Role, usize)| *role != Role::Worker;
    let public: Vec<(Role, usize)> = places.iter().filter(users).copied().collect();
    let listen = ports(
        config,
        &public,
        |role, index| match (role, index) {
            (Role::Gateway, 0) => Some(8080),
            (Role::Status, 0) => Some(8081),
            _ => None,
        },
        8082,
    )?;
    let first_status = public.iter().position(|place| *place == (Role::Status, 0));
    let status_url = first_status.map_or_else(String::new, |at| url(&listen[at]));

    let mut listen = listen.into_iter();
    let mut slots = Vec::with_capacity(places.len());
    for ((role, index), admin) in places.into_iter().zip(admin) {
        let listen = if role == Role::Worker {
            None
        } else {
            listen.next()
        };
        let service = Service {
            name: format!("{}-{index}", role.name()),
            command: command_line(parts, role, index, listen.as_ref(), &admin, &status_url),
            listen,
            admin,
            migration: (slots.is_empty()).then(|| migration(parts)),
        };
        slots.push(Slot::new(role, index, Unit::Service(service)));
    }
    Ok(slots)
}

/// A port for each place: first those that are wanted exactly, so that a busy neighbour does not
/// push one service onto another's, then the next free ones.
fn ports(
    config: &StackConfig,
    places: &[(Role, usize)],
    usual: impl Fn(Role, usize) -> Option<u16>,
    further: u16,
) -> Result<Vec<Port>, NoFreePort> {
    if config.ports == PortChoice::Any {
        return places.iter().map(|_| Port::any()).collect();
    }
    let exact: Vec<Option<Port>> = places
        .iter()
        .map(|(role, index)| usual(*role, *index).and_then(Port::exactly))
        .collect();
    let mut ports = Vec::with_capacity(places.len());
    for ((role, index), exact) in places.iter().zip(exact) {
        if let Some(port) = exact {
            ports.push(port);
            continue;
        }
        let port = Port::prefer(further)?;
        if let Some(wanted) = usual(*role, *index) {
            let (name, got) = (role.name(), port.number());
            (config.notices)(&format!(
                "port {wanted} is busy: {name} {index} takes {got}"
            ));
        }
        ports.push(port);
    }
    Ok(ports)
}

fn command_line(
    parts: &Parts<'_>,
    role: Role,
    index: usize,
    listen: Option<&Port>,
    admin: &Port,
    status_url: &str,
) -> CommandLine {
    let address = |port: &Port| format!("127.0.0.1:{}", port.number());
    let mut words: Vec<OsString> = Vec::new();
    if role == Role::Worker {
        words.push("run".into());
    }
    if let Some(listen) = listen {
        words.extend(["--listen".into(), address(listen).into()]);
        words.extend([
            "--partners".into(),
            parts.secrets.partners_file.clone().into(),
        ]);
        let cache = format!("partners-{}-{index}.json", role.name());
        let cache = parts.directory.join(cache);
        words.extend(["--partners-cache".into(), cache.into()]);
        let keys = parts.secrets.tracking_keys_file.clone();
        words.extend(["--tracking-keys".into(), keys.into()]);
    }
    words.extend(["--admin-listen".into(), address(admin).into()]);
    if role == Role::Gateway {
        words.extend(["--status-base-url".into(), status_url.into()]);
    }
    let (program, flags) = match role {
        Role::Gateway => (&parts.binaries.gateway, &parts.config.gateway_flags),
        Role::Worker => (&parts.binaries.worker, &parts.config.worker_flags),
        Role::Status => (&parts.binaries.status, &parts.config.status_flags),
        Role::Nats | Role::Postgres => unreachable!("not a service"),
    };
    words.extend(flags.iter().map(OsString::from));
    let passwords = &parts.secrets.passwords.database;
    let (user, database) = match role {
        Role::Gateway => (User::Gateway, None),
        Role::Worker => (User::Worker, Some((access::WORKER, &passwords.worker))),
        Role::Status => (User::Status, Some((access::READER, &passwords.reader))),
        Role::Nats | Role::Postgres => unreachable!("not a service"),
    };
    let mut environment = vec![("WEIR_NATS_URL", parts.log.url_as(user))];
    if let Some((user, password)) = database {
        environment.push(("WEIR_DATABASE_URL", parts.database.url_as(user, password)));
    }
    CommandLine {
        program: program.clone(),
        arguments: words,
        environment,
        directory: parts.directory.to_path_buf(),
        log: parts.logs.join(format!("{}-{index}.log", role.name())),
    }
}

fn migration(parts: &Parts<'_>) -> CommandLine {
    let mut words: Vec<OsString> = vec!["migrate".into()];
    // A log of somebody else's has its own idea of both, unless they are said.
    let ours = parts.config.nats_url.is_none();
    if ours || parts.config.partitions.is_some() {
        words.push("--partitions".into());
        words.push(parts.shape.partitions.to_string().into());
    }
    if ours || parts.config.nats_nodes.is_some() {
        words.push("--replicas".into());
        words.push(parts.shape.nats_nodes.to_string().into());
    }
    words.extend(parts.config.migrate_flags.iter().map(OsString::from));
    CommandLine {
        program: parts.binaries.worker.clone(),
        arguments: words,
        environment: vec![
            ("WEIR_NATS_URL", parts.log.url_as(User::Admin)),
            ("WEIR_DATABASE_URL", parts.database.owners_url()),
        ],
        directory: parts.directory.to_path_buf(),
        log: parts.logs.join("migrate.log"),
    }
}

fn endpoints(parts: &Parts<'_>, services: &[Arc<Slot>]) -> Endpoints {
    let urls = |role: Role, port: fn(&Service) -> Option<&Port>| {
        let mut found = Vec::new();
        for slot in services.iter().filter(|slot| slot.role == role) {
            if let Unit::Service(service) = &slot.unit {
                found.extend(port(service).map(url));
            }
        }
        found
    };
    fn admin(service: &Service) -> Option<&Port> {
        Some(&service.admin)
    }
    Endpoints {
        gateway: urls(Role::Gateway, |service| service.listen.as_ref()),
        status: urls(Role::Status, |service| service.listen.as_ref()),
        admin: AdminEndpoints {
            gateway: urls(Role::Gateway, admin),
            worker: urls(Role::Worker, admin),
            status: urls(Role::Status, admin),
        },
        // One server is enough to find the others, and one URL is what every client can read.
        nats_url: first(&parts.log.url_as(User::Admin)).to_owned(),
        database_url: parts.database.owners_url(),
        partners: parts.secrets.partners.clone(),
        pids: Pids::default(),
    }
}

/// The first of several URLs separated by commas.
fn first(urls: &str) -> &str {
    urls.split(',').next().unwrap_or(urls).trim()
}

fn url(port: &Port) -> String {
    format!("http://127.0.0.1:{}", port.number())
}
