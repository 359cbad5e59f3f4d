//! The services' programs: built where there is a checkout and cargo, else those installed beside
//! the running program.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use crate::process;
use crate::workspace;

/// The packages, each with a program of the same name.
const SERVICES: [&str; 3] = ["ingest-gateway", "persist-worker", "status-api"];
/// How much of the compiler's complaint is repeated when it was not shown.
const COMPLAINT_LINES: usize = 40;

/// Where the services' programs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    /// `ingest-gateway`.
    pub gateway: PathBuf,
    /// `persist-worker`.
    pub worker: PathBuf,
    /// `status-api`.
    pub status: PathBuf,
}

/// Where cargo's progress goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// To this process's standard error.
    Shown,
    /// Nowhere, unless the build fails.
    Quiet,
}

/// The services' programs could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BinariesError {
    /// The running program's own place is unknown.
    #[error("cannot find out where this program lies")]
    Exe(#[source] std::io::Error),
    /// The build failed.
    #[error("cargo could not build the services{complaint}")]
    Build {
        /// What the compiler said, unless it was shown already.
        complaint: String,
    },
    /// There is neither a checkout to build nor a program to run.
    #[error(
        "there is no {program} in {}: install it beside this program, or run from a checkout with \
         cargo at hand",
        .directory.display()
    )]
    Missing {
        /// The program.
        program: &'static str,
        /// Where it was looked for.
        directory: PathBuf,
    },
}

/// The services' programs, built in the profile of the running program. Builds once per process;
/// cargo's own lock keeps processes apart. Blocks.
///
/// # Errors
/// When the build fails, or there is nothing to build and nothing installed.
pub fn ensure(progress: Progress) -> Result<Binaries, BinariesError> {
    static FOUND: Mutex<Option<Binaries>> = Mutex::new(None);
    let mut found = FOUND
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(binaries) = &*found {
        return Ok(binaries.clone());
    }
    let exe = std::env::current_exe().map_err(BinariesError::Exe)?;
    let directory = profile_directory(&exe);
    if let Some(root) = checkout_of(&directory) {
        build(&root, &directory, progress)?;
    }
    let program = |program: &'static str| {
        let path = directory.join(program);
        if path.is_file() {
            Ok(path)
        } else {
            let directory = directory.clone();
            Err(BinariesError::Missing { program, directory })
        }
    };
    let binaries = Binaries {
        gateway: program(SERVICES[0])?,
        worker: program(SERVICES[1])?,
        status: program(SERVICES[2])?,
    };
    *found = Some(binaries.clone());
    Ok(binaries)
}

/// Whether [`ensure`] would run cargo, which may take minutes.
#[must_use]
pub fn are_built_here() -> bool {
    std::env::current_exe().is_ok_and(|exe| checkout_of(&profile_directory(&exe)).is_some())
}

/// The directory of the program, `target/<profile>` for a test below `deps` too.
fn profile_directory(exe: &Path) -> PathBuf {
    let directory = exe.parent().unwrap_or(Path::new("/"));
    match directory.file_name().and_then(|name| name.to_str()) {
        Some("deps" | "examples") => directory.parent().unwrap_or(directory).to_path_buf(),
        _ => directory.to_path_buf(),
    }
}

/// The checkout to build, if cargo made the running program and can be run again. An installed
/// program is never rebuilt, even if started from inside a checkout.
fn checkout_of(directory: &Path) -> Option<PathBuf> {
    if !directory.join(".fingerprint").is_dir() {
        return None;
    }
    let root = workspace::root_above(directory)
        .or_else(|| workspace::root_above(&std::env::current_dir().ok()?))?;
    let mut command = Command::new(cargo());
    command.arg("--version").stdin(Stdio::null());
    command.output().ok()?.status.success().then_some(root)
}

fn build(root: &Path, directory: &Path, progress: Progress) -> Result<(), BinariesError> {
    let mut command = Command::new(cargo());
    command.arg("build").current_dir(root);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_about_this_package) {
            command.env_remove(name);
        }
    }
    for service in SERVICES {
        command.args(["--package", service]);
    }
    command.arg("--bins");
    let profile = directory.file_name().and_then(|name| name.to_str());
    command.args([
        "--profile",
        profile.filter(|it| *it != "debug").unwrap_or("dev"),
    ]);
    if let Some(target) = directory.parent() {
        command.arg("--target-dir").arg(target);
    }
    match progress {
        // Standard output is for the result of whoever asked.
        Progress::Shown => command.stdout(Stdio::null()).stderr(Stdio::inherit()),
        Progress::Quiet => command.stdout(Stdio::null()).stderr(Stdio::piped()),
    };
    let failed = |complaint: String| BinariesError::Build { complaint };
    let output = process::run_tool(command).map_err(|error| failed(format!(": {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(COMPLAINT_LINES);
    let complaint = match progress {
        Progress::Shown => String::new(),
        Progress::Quiet => format!("\n{}", lines[from..].join("\n")),
    };
    Err(failed(complaint))
}

/// Whether cargo sets the variable for the program that it runs. Build scripts (ring's) look at
/// some of them, so a build inside a build would compile much anew, and the next one outside again.
fn is_about_this_package(name: &str) -> bool {
    let prefixes = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];
    let names = [
        "CARGO_CRATE_NAME",
        "CARGO_PRIMARY_PACKAGE",
        "CARGO_TARGET_TMPDIR",
        "OUT_DIR",
    ];
    names.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// The cargo that runs us, else the one on the path.
fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
