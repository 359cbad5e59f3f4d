//! The data directory that `initdb` made once, and its copies.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use super::{OWNER, PostgresError, Setup, at, run_as};
use crate::chain;
use crate::deps::{self, Deps};
use crate::identity::Identity;

/// The data below an instance's or a template's directory.
pub(super) const DATA: &str = "data";
/// The owner's password beside it.
const PASSWORD: &str = "password";
/// Part of a template's name: to be raised when what is done to a template changes.
const RECIPE: u32 = 1;

/// As whom PostgreSQL's programs run here: as this user, or, for root, the first way of being
/// somebody else that works.
///
/// # Errors
/// When none works.
pub fn identity_for(programs: &Path) -> Result<Identity, PostgresError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Identity::Own);
    }
    // The answer is the kernel's and does not change while the process runs.
    static FOUND: Mutex<Option<Identity>> = Mutex::new(None);
    let mut found = FOUND
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(identity) = &*found {
        return Ok(identity.clone());
    }
    let mut complaints = Vec::new();
    for identity in [Identity::namespace(), Identity::Nobody] {
        match version(programs, &identity) {
            Ok(_) => {
                *found = Some(identity.clone());
                return Ok(identity);
            }
            Err(error) => complaints.push(format!("as {}: {}", identity.label(), chain(&error))),
        }
    }
    Err(PostgresError::NoIdentity {
        detail: complaints.join("; "),
    })
}

/// `postgres --version`, such as `18.1`.
fn version(programs: &Path, identity: &Identity) -> Result<String, PostgresError> {
    let scratch = tempfile::tempdir().map_err(at(&std::env::temp_dir()))?;
    let mut command = Command::new(programs.join("postgres"));
    command.arg("--version");
    let (succeeded, output) = run_as(identity, &scratch.path().join("version"), command)?;
    let word = output
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    match word {
        Some(word) if succeeded => Ok(word.to_owned()),
        _ => Err(PostgresError::Template {
            program: "postgres --version",
            detail: output,
        }),
    }
}

/// Makes `directory` an instance if it is not one yet, and gives the owner's password.
pub(super) fn instance(
    deps: &Deps,
    identity: &Identity,
    setup: &Setup,
    directory: &Path,
) -> Result<String, PostgresError> {
    let data = directory.join(DATA);
    if !data.is_dir() {
        let template = ensure(deps, identity, &setup.cache)?;
        fs::create_dir_all(directory).map_err(at(directory))?;
        // Copied under another name first: an interrupted copy is never taken for data.
        let copying = directory.join("copying");
        if copying.exists() {
            fs::remove_dir_all(&copying).map_err(at(&copying))?;
        }
        copy_tree(&template.join(DATA), &copying).map_err(at(&copying))?;
        give_tree_to(identity, &copying).map_err(at(&copying))?;
        let password = directory.join(PASSWORD);
        fs::copy(template.join(PASSWORD), &password).map_err(at(&password))?;
        if setup.syncs_copy {
            // One call for a thousand files; PostgreSQL syncs only what it writes itself.
            let opened = fs::File::open(&copying).map_err(at(&copying))?;
            rustix::fs::syncfs(&opened).map_err(|errno| at(&copying)(errno.into()))?;
        }
        fs::rename(&copying, &data).map_err(at(&data))?;
    } else if !is_owned_by(identity, &data).map_err(at(&data))? {
        // Made where namespaces were allowed and used where they are not, or the reverse.
        own_tree_as(identity, &data).map_err(at(&data))?;
    }
    let password = directory.join(PASSWORD);
    fs::read_to_string(&password).map_err(at(&password))
}

/// The template's directory, made if need be.
fn ensure(deps: &Deps, identity: &Identity, cache: &Path) -> Result<PathBuf, PostgresError> {
    let version = version(&deps.postgres_bin, identity)?;
    let architecture = std::env::consts::ARCH;
    let label = identity.label();
    let home = cache.join(format!(
        "postgres-{version}-{architecture}-{label}-{RECIPE}"
    ));
    let _lock = deps::locked(cache).map_err(|error| match error {
        deps::DepsError::Io { path, source } => PostgresError::Io { path, source },
        other => PostgresError::Template {
            program: "the cache's lock",
            detail: other.to_string(),
        },
    })?;
    if home.is_dir() {
        return Ok(home);
    }
    let scratch = tempfile::Builder::new()
        .prefix("making-template-")
        .tempdir_in(cache)
        .map_err(at(cache))?;
    let template = scratch.path().join("template");
    make(deps, identity, &template)?;
    fs::rename(&template, &home).map_err(at(&home))?;
    Ok(home)
}

fn make(deps: &Deps, identity: &Identity, template: &Path) -> Result<(), PostgresError> {
    let data = template.join(DATA);
    let private = |path: &Path| {
        fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(path)
    };
    private(&data).map_err(at(&data))?;
    give_to(identity, &data).map_err(at(&data))?;
    let password = template.join(PASSWORD);
    write_password(&password).map_err(at(&password))?;
    let password_for_initdb = data.with_file_name("password-for-initdb");
    fs::copy(&password, &password_for_initdb).map_err(at(&password_for_initdb))?;
    give_to(identity, &password_for_initdb).map_err(at(&password_for_initdb))?;

    let log = template.join("making.log");
    let mut initdb = Command::new(deps.postgres_bin.join("initdb"));
    initdb.arg("-D").arg(&data).args(["--username", OWNER]);
    initdb.arg("--pwfile").arg(&password_for_initdb);
    initdb.args([
        "--auth",
        "scram-sha-256",
        "--encoding",
        "UTF8",
        "--no-locale",
    ]);
    // Nothing is lost with a template; instances sync what they write.
    initdb.args(["--no-sync", "--no-instructions"]);
    run(identity, &log, initdb, "initdb")?;
    fs::remove_file(&password_for_initdb).map_err(at(&password_for_initdb))?;

    // A single-user backend runs a command without a server, a port or a password.
    let mut create = Command::new("/bin/sh");
    create.args([
        "-c",
        "echo \"create database $2\" | \"$0\" --single -D \"$1\" postgres",
    ]);
    create
        .arg(deps.postgres_bin.join("postgres"))
        .arg(&data)
        .arg(OWNER);
    run(identity, &log, create, "postgres --single")
}

fn run(
    identity: &Identity,
    log: &Path,
    command: Command,
    program: &'static str,
) -> Result<(), PostgresError> {
    let (succeeded, detail) = run_as(identity, log, command)?;
    if succeeded {
        Ok(())
    } else {
        Err(PostgresError::Template { program, detail })
    }
}

fn write_password(path: &Path) -> io::Result<()> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(hex::encode(bytes).as_bytes())
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Gives one file to the user that `identity` runs as.
pub(super) fn give_to(identity: &Identity, path: &Path) -> io::Result<()> {
    match identity.owner() {
        Some((uid, gid)) => std::os::unix::fs::chown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

fn give_tree_to(identity: &Identity, path: &Path) -> io::Result<()> {
    match identity.owner() {
        Some(_) => own_tree_as(identity, path),
        None => Ok(()),
    }
}

/// The uid and gid that the files of `identity` have.
fn owner_of(identity: &Identity) -> (u32, u32) {
    identity.owner().unwrap_or_else(|| {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        (uid.as_raw(), gid.as_raw())
    })
}

fn is_owned_by(identity: &Identity, path: &Path) -> io::Result<bool> {
    Ok(fs::metadata(path)?.uid() == owner_of(identity).0)
}

fn own_tree_as(identity: &Identity, path: &Path) -> io::Result<()> {
    let (uid, gid) = owner_of(identity);
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            own_tree_as(identity, &entry?.path())?;
        }
    }
    Ok(())
}
