//! `.weir/endpoints.json`: what `weir up` leaves behind so that nobody has to type URLs and keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The file's place below a directory at or above the current one.
pub const ENDPOINTS_FILE: &str = ".weir/endpoints.json";

/// What the harness needs of it; further members are ignored.
#[derive(Clone, Debug, Deserialize)]
pub struct Endpoints {
    /// Base URLs of the gateways.
    pub gateway: Vec<String>,
    /// Base URLs of the status APIs.
    pub status: Vec<String>,
    /// The development partners; the first is the default.
    #[serde(default)]
    pub partners: Vec<EndpointsPartner>,
    /// Base URLs of the admin listeners, by role.
    #[serde(default)]
    pub admin: BTreeMap<String, Vec<String>>,
    /// Process ids, by role; they change when a process is started again.
    #[serde(default)]
    pub pids: BTreeMap<String, Vec<u32>>,
}

/// One partner and its key.
#[derive(Clone, Debug, Deserialize)]
pub struct EndpointsPartner {
    /// For people.
    pub name: String,
    /// What goes into `Authorization`.
    pub api_key: String,
}

/// Why there is nothing to take defaults from.
#[derive(Debug, thiserror::Error)]
pub enum EndpointsError {
    /// No such file in the directory or above it.
    #[error("no {ENDPOINTS_FILE} in {} or above it", .0.display())]
    Missing(PathBuf),
    /// It is there but cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is there but is something else.
    #[error("{} is not what `weir up` writes: {source}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
}

/// Reads the nearest file at or above `start`.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn find(start: &Path) -> Result<Endpoints, EndpointsError> {
    read(&locate(start)?)
}

/// The nearest file at or above `start`.
///
/// # Errors
/// When there is none.
pub fn locate(start: &Path) -> Result<PathBuf, EndpointsError> {
    start
        .ancestors()
        .map(|directory| directory.join(ENDPOINTS_FILE))
        .find(|path| path.is_file())
        .ok_or_else(|| EndpointsError::Missing(start.to_owned()))
}

/// Reads one file.
///
/// # Errors
/// When it cannot be read, or is something else.
pub fn read(path: &Path) -> Result<Endpoints, EndpointsError> {
    let text = std::fs::read(path).map_err(|source| EndpointsError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|source| EndpointsError::Malformed {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_file_above_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        assert!(matches!(find(&below), Err(EndpointsError::Missing(_))));
        std::fs::create_dir(root.path().join(".weir")).unwrap();
        let file = root.path().join(ENDPOINTS_FILE);
        std::fs::write(&file, "{").unwrap();
        assert!(matches!(
            find(&below),
            Err(EndpointsError::Malformed { .. })
        ));
        let text = r#"{"gateway":["http://a"],"status":["http://b"],"nats_url":"nats://c",
            "partners":[{"id":1,"name":"xrides","api_key":"k"}],"pids":{}}"#;
        std::fs::write(&file, text).unwrap();
        let found = find(&below).unwrap();
        assert_eq!(found.gateway, ["http://a"]);
        assert_eq!(found.partners[0].api_key, "k");
    }
}
