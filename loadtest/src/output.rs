//! A file that appears whole or not at all, and whose place is proved writable before the run.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// A file that will replace `path`.
#[derive(Debug)]
pub struct Replacement {
    path: PathBuf,
    temporary: PathBuf,
    writer: Option<BufWriter<File>>,
}

/// A result could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", .path.display())]
pub struct OutputError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

impl Replacement {
    /// Creates a temporary file beside `path`.
    ///
    /// # Errors
    /// When `path` is a directory, or its directory is missing or not writable.
    pub fn create(path: &Path) -> Result<Self, OutputError> {
        let failed = |source| OutputError {
            path: path.to_owned(),
            source,
        };
        let name = path
            .file_name()
            .filter(|_| !path.is_dir())
            .ok_or_else(|| failed(std::io::ErrorKind::IsADirectory.into()))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(hidden);
        let file = File::create(&temporary).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            temporary,
            writer: Some(BufWriter::new(file)),
        })
    }

    /// Lets `write` fill the file, then puts it in place.
    ///
    /// # Errors
    /// When the disk says no; what stood at the path before is then still there.
    pub fn finish(
        mut self,
        write: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>,
    ) -> Result<(), OutputError> {
        let mut writer = self.writer.take().expect("taken only here");
        write(&mut writer)
            .and_then(|()| writer.flush())
            .and_then(|()| std::fs::rename(&self.temporary, &self.path))
            .map_err(|source| OutputError {
                path: self.path.clone(),
                source,
            })
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // After a successful rename there is nothing by that name, which is as good.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_appears_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        std::fs::write(&path, "old").unwrap();
        drop(Replacement::create(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        let broken = Replacement::create(&path).unwrap();
        assert!(
            broken
                .finish(|_| Err(std::io::Error::other("disk")))
                .is_err()
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        let file = Replacement::create(&path).unwrap();
        file.finish(|writer| writer.write_all(b"new")).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_found_out_at_once() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Replacement::create(directory.path()).is_err());
        assert!(Replacement::create(&directory.path().join("missing/report.json")).is_err());
        assert!(Replacement::create(Path::new("/")).is_err());
    }
}
