//! `.weir/endpoints.json`: where everything listens, under which keys and process ids.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The file as other programs read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Base URLs of the gateways.
    pub gateway: Vec<String>,
    /// Base URLs of the status APIs.
    pub status: Vec<String>,
    /// Base URLs of the admin listeners.
    pub admin: AdminEndpoints,
    /// The log; of a cluster its first node, which tells a client of the others.
    pub nats_url: String,
    /// The database as its owner, over TCP.
    pub database_url: String,
    /// The development partners; they have no limits.
    pub partners: Vec<DevelopmentPartner>,
    /// Process ids, in the order of the URLs.
    pub pids: Pids,
}

/// Base URLs of the admin listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminEndpoints {
    /// Of the gateways.
    pub gateway: Vec<String>,
    /// Of the workers.
    pub worker: Vec<String>,
    /// Of the status APIs.
    pub status: Vec<String>,
}

/// A partner with its key in the clear: for development only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevelopmentPartner {
    /// The partner's id.
    pub id: i32,
    /// Its name.
    pub name: String,
    /// What goes into `Authorization: Bearer`.
    pub api_key: String,
}

/// Process ids. A process that has just died keeps its old id until its successor has one. Empty
/// for servers that somebody else runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pids {
    /// The gateways.
    pub gateway: Vec<u32>,
    /// The workers.
    pub worker: Vec<u32>,
    /// The status APIs.
    pub status: Vec<u32>,
    /// The nats-servers.
    pub nats: Vec<u32>,
    /// The postmaster.
    pub postgres: Vec<u32>,
}

impl Endpoints {
    /// Replaces the file by rename, so that no reader sees half of it.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        let beside = path.with_extension("json.new");
        write_private(&beside, &format!("{text}\n"))?;
        fs::rename(&beside, path)
    }

    /// Reads the file.
    ///
    /// # Errors
    /// When it is missing or something else.
    pub fn read(path: &Path) -> io::Result<Self> {
        serde_json::from_slice(&fs::read(path)?).map_err(io::Error::other)
    }
}

/// Writes a file that holds secrets: for its owner only.
pub(crate) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path)?;
    // It may have been there before, for everybody.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_members_are_those_that_others_read() {
        let text = r#"{"gateway":["http://127.0.0.1:8080"],"status":["http://127.0.0.1:8081"],
            "admin":{"gateway":["a"],"worker":["b"],"status":["c"]},
            "nats_url":"nats://127.0.0.1:4222","database_url":"postgres://u:p@127.0.0.1:5432/weir",
            "partners":[{"id":1,"name":"xrides","api_key":"k"}],
            "pids":{"gateway":[1],"worker":[2],"status":[3],"nats":[4],"postgres":[5]}}"#;
        let endpoints: Endpoints = serde_json::from_str(text).unwrap();
        let as_value: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_value(&endpoints).unwrap(), as_value);

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("endpoints.json");
        endpoints.write(&path).unwrap();
        assert_eq!(Endpoints::read(&path).unwrap(), endpoints);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
