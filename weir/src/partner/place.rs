//! Which installation is meant, and the ways to its log and its database. The flags are those of the
//! services. Faults never repeat a URL: it may hold a password.

use std::path::PathBuf;

use chassis::cli::exit_usage;
use devstack::stack::Endpoints;
use devstack::workspace;
use partners::{Access, Client, TlsFiles};

use super::PartnerError;

pub(super) use database::{Database, Way};

mod database;

/// How `weir partner` calls itself to log and database.
const CLIENT_NAME: &str = "weir partner";
/// The file that says where the installation of this directory is.
const ENDPOINTS_FILE: &str = "endpoints.json";
/// In `--help`, apart from what a command is about.
const HEADING: &str = "Which installation";

/// The way to the log.
#[derive(clap::Args, Debug)]
pub(super) struct Log {
    /// The installation's log, as its user admin: one NATS URL, or several of one cluster with commas
    /// between [default: the one that `weir up` runs here]
    #[arg(
        long,
        global = true,
        env = "WEIR_NATS_URL",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "URL",
        help_heading = HEADING
    )]
    nats_url: Vec<String>,

    /// Who vouches for the log's servers, certificates in PEM [default: for tls:// URLs the system's]
    #[arg(
        long,
        global = true,
        env = "WEIR_NATS_TLS_CA",
        value_name = "FILE",
        help_heading = HEADING
    )]
    nats_tls_ca: Option<PathBuf>,

    /// This command's certificate towards the log, in PEM
    #[arg(
        long,
        global = true,
        env = "WEIR_NATS_TLS_CERT",
        value_name = "FILE",
        help_heading = HEADING
    )]
    nats_tls_cert: Option<PathBuf>,

    /// The key of that certificate, in PEM
    #[arg(
        long,
        global = true,
        env = "WEIR_NATS_TLS_KEY",
        value_name = "FILE",
        help_heading = HEADING
    )]
    nats_tls_key: Option<PathBuf>,
}

impl Log {
    /// To the log that was named, or else to the one of this directory. Exits 64 when neither can be
    /// used as it is written.
    pub(super) async fn connect(&self) -> Result<Client, PartnerError> {
        if !self.nats_url.is_empty() {
            let access = self.access(&self.nats_url);
            return Ok(access.connect(CLIENT_NAME).await?);
        }
        let (file, endpoints) = endpoints("log", "--nats-url or WEIR_NATS_URL");
        let access = self.access(&[endpoints.nats_url]);
        let client = access.connect(CLIENT_NAME).await;
        client.map_err(|error| PartnerError::NotUp(error, file.display().to_string()))
    }

    fn access(&self, urls: &[String]) -> Access {
        let access = Access {
            urls: urls.to_vec(),
            inbox: None,
            tls: TlsFiles {
                ca: self.nats_tls_ca.clone(),
                certificate: self.nats_tls_cert.clone(),
                key: self.nats_tls_key.clone(),
            },
        };
        if let Err(error) = access.check() {
            exit_usage(format_args!("--nats-url: {error}"));
        }
        access
    }
}

/// The installation that `weir up` runs here.
fn endpoints(what: &str, flag: &str) -> (PathBuf, Endpoints) {
    let directory = workspace::state_directory().unwrap_or_default();
    let file = directory.join(ENDPOINTS_FILE);
    match Endpoints::read(&file) {
        Ok(endpoints) => (file, endpoints),
        Err(_) => exit_usage(format_args!(
            "which installation? Name its {what} by {flag}; `weir up` has left no {}",
            file.display()
        )),
    }
}
