//! What was last known, in a file: for a start while the log is away. It holds hashes, no keys, and
//! is for its owner only all the same.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::document::Document;

/// Of the file's form.
const VERSION: u32 = 1;

/// Others may not write it: who can, can let anyone in.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The file.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    path: PathBuf,
}

/// The file could not be read. The watch goes on without.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheError {
    #[error("cannot read it: {0}")]
    Read(#[source] io::Error),
    #[error("others than its owner may write it (mode {0:o}): not trusted")]
    Mode(u32),
    #[error("it is not a partners cache: {0}")]
    Unreadable(#[source] serde_json::Error),
    #[error("version {0} of a partners cache; this build reads {VERSION}")]
    Version(u32),
}

#[derive(Deserialize)]
struct Kept {
    version: u32,
    partners: Vec<Box<RawValue>>,
}

#[derive(Serialize)]
struct Keeping<'a> {
    version: u32,
    partners: Vec<&'a Document>,
}

impl Cache {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What it holds; none when there is no such file yet.
    pub(crate) fn read(&self) -> Result<Option<BTreeMap<i32, Document>>, CacheError> {
        let mut file = match fs::File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CacheError::Read(error)),
        };
        let mode = file.metadata().map_err(CacheError::Read)?.mode() & 0o777;
        if mode & WRITABLE_BY_OTHERS != 0 {
            return Err(CacheError::Mode(mode));
        }
        let mut text = String::new();
        io::Read::read_to_string(&mut file, &mut text).map_err(CacheError::Read)?;
        let kept: Kept = serde_json::from_str(&text).map_err(CacheError::Unreadable)?;
        if kept.version != VERSION {
            return Err(CacheError::Version(kept.version));
        }
        let mut documents = BTreeMap::new();
        for raw in kept.partners {
            match read_document(&raw) {
                Ok(document) => {
                    documents.insert(document.id, document);
                }
                // One that a newer build wrote does not take the others with it.
                Err(error) => tracing::warn!(%error, "a partner in the cache is left out"),
            }
        }
        Ok(Some(documents))
    }

    /// What the file is to hold.
    pub(crate) fn text(documents: &BTreeMap<i32, Document>) -> Vec<u8> {
        let keeping = Keeping {
            version: VERSION,
            partners: documents.values().collect(),
        };
        serde_json::to_vec(&keeping).expect("strings, numbers and lists can be written")
    }

    /// Replaces the file by rename, so that nobody reads half of it, ever.
    pub(crate) fn write(&self, text: &[u8]) -> io::Result<()> {
        let mut beside = self.path.clone().into_os_string();
        // Two processes that were given one file do not write into each other's.
        beside.push(format!(".{}.new", std::process::id()));
        let beside = PathBuf::from(beside);
        let written = write_private(&beside, text).and_then(|()| fs::rename(&beside, &self.path));
        if written.is_err() {
            // It may not even exist.
            let _ = fs::remove_file(&beside);
        }
        written
    }
}

fn read_document(raw: &RawValue) -> Result<Document, crate::document::DocumentError> {
    #[derive(Deserialize)]
    struct WithId {
        id: i32,
    }
    let WithId { id } =
        serde_json::from_str(raw.get()).map_err(crate::document::DocumentError::unreadable)?;
    Document::parse(id, raw.get().as_bytes())
}

fn write_private(path: &Path, text: &[u8]) -> io::Result<()> {
    // One left by a process that died would keep its own mode.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path)?;
    file.write_all(text)?;
    // Renamed before it is on disk, it could be empty after a power cut.
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::model::Limits;

    fn documents() -> BTreeMap<i32, Document> {
        let names = [(3, "c"), (1, "a")];
        let documents = names.map(|(id, name)| (id, Document::new(id, name, Limits::default())));
        documents.into()
    }

    #[test]
    fn what_is_written_is_read_and_for_its_owner_only() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let cache = Cache::new(directory.path().join("partners.json"));
        assert!(cache.read().expect("no file is no fault").is_none());
        for _ in 0..2 {
            cache.write(&Cache::text(&documents())).expect("written");
        }
        assert_eq!(cache.read().expect("readable"), Some(documents()));
        let mode = fs::metadata(cache.path()).expect("there").mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).expect("a list").count(), 1);
    }

    #[test]
    fn a_file_that_others_may_write_is_not_believed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let cache = Cache::new(directory.path().join("partners.json"));
        cache.write(&Cache::text(&documents())).expect("written");
        for mode in [0o620, 0o602, 0o666] {
            let permissions = fs::Permissions::from_mode(mode);
            fs::set_permissions(cache.path(), permissions).expect("set");
            assert!(matches!(cache.read(), Err(CacheError::Mode(found)) if found == mode));
        }
    }

    #[test]
    fn other_files_are_refused_and_other_partners_left_out() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let cache = Cache::new(directory.path().join("partners.json"));
        for (text, is_refused) in [
            ("", true),
            ("{}", true),
            (r#"{"version":2,"partners":[]}"#, true),
            (r#"{"version":1,"partners":[{"version":9,"id":1}]}"#, false),
        ] {
            cache.write(text.as_bytes()).expect("written");
            assert_eq!(cache.read().is_err(), is_refused, "{text}");
        }
        assert_eq!(cache.read().expect("readable"), Some(BTreeMap::new()));
    }
}
