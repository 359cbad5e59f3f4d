//! As whom a child runs. PostgreSQL refuses to run as root, so a root user's PostgreSQL runs as
//! somebody else.

use std::ffi::{CStr, CString};
use std::io;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid, UnshareFlags};

/// "nobody" on every Linux.
const NOBODY: u32 = 65_534;

/// As whom a child runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// As the parent.
    Own,
    /// In a user namespace in which the parent's user is called 65534. Files belong to the parent's
    /// user outside, so nothing is chowned and directories that only that user may enter stay
    /// reachable.
    Namespace(NamespaceMaps),
    /// As uid 65534, where namespaces are forbidden (most containers). Its files are chowned. It
    /// keeps the one capability of passing through directories, since the checkout of a root user
    /// usually lies in one that nobody else may enter.
    Nobody,
}

/// What is written to `/proc/self/{uid,gid}_map`; made before the fork, after which nothing may
/// allocate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceMaps {
    uid: CString,
    gid: CString,
}

impl Identity {
    /// The identity that a user namespace gives.
    #[must_use]
    pub fn namespace() -> Self {
        let line = |id: u32| CString::new(format!("{NOBODY} {id} 1\n")).expect("no NUL in it");
        Self::Namespace(NamespaceMaps {
            uid: line(rustix::process::geteuid().as_raw()),
            gid: line(rustix::process::getegid().as_raw()),
        })
    }

    /// A word for file names: data made as one identity cannot be used as another.
    #[must_use]
    pub fn label(&self) -> String {
        let uid = rustix::process::geteuid().as_raw();
        match self {
            Self::Own => format!("user-{uid}"),
            Self::Namespace(_) => format!("namespace-{uid}"),
            Self::Nobody => format!("user-{NOBODY}"),
        }
    }

    /// The owner that the child's files must have; `None` when they are right as they are made.
    #[must_use]
    pub fn owner(&self) -> Option<(u32, u32)> {
        match self {
            Self::Own | Self::Namespace(_) => None,
            Self::Nobody => Some((NOBODY, NOBODY)),
        }
    }

    /// Takes the identity on. Called between fork and exec: only system calls, no allocation.
    pub(crate) fn assume(&self) -> io::Result<()> {
        match self {
            Self::Own => Ok(()),
            Self::Namespace(maps) => enter_namespace(maps),
            Self::Nobody => become_nobody(),
        }
    }
}

#[allow(
    unsafe_code,
    reason = "rustix marks unshare unsafe for the flag that splits file descriptor tables"
)]
fn enter_namespace(maps: &NamespaceMaps) -> io::Result<()> {
    // SAFETY: only a new user namespace is asked for; file descriptors stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }?;
    // Without CAP_SETGID outside, the kernel accepts a gid map only once setgroups is given up.
    write_file(c"/proc/self/setgroups", c"deny")?;
    write_file(c"/proc/self/uid_map", &maps.uid)?;
    write_file(c"/proc/self/gid_map", &maps.gid)
}

fn write_file(path: &CStr, content: &CStr) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, content.to_bytes())?;
    Ok(())
}

fn become_nobody() -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_keep_capabilities(true)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    let kept = CapabilitySet::DAC_OVERRIDE;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: kept,
    };
    // Where the container has dropped the capability there is nothing to keep, and directories
    // that everybody may enter still work.
    if rustix::thread::set_capabilities(None, sets).is_ok() {
        rustix::thread::configure_capability_in_ambient_set(kept, true).ok();
    }
    Ok(())
}
