//! Where the repository is, and with it the `.weir` directory.

use std::path::{Path, PathBuf};

/// The directory that holds everything Weir writes on a developer's machine.
pub const STATE_DIRECTORY: &str = ".weir";

/// The workspace's root: the nearest directory at or above `start` that is Weir's checkout, `None`
/// outside of one (in production there is no checkout, nor cargo).
#[must_use]
pub fn root_above(start: &Path) -> Option<PathBuf> {
    start
        .ancestors()
        .find(|directory| is_checkout(directory))
        .map(Path::to_path_buf)
}

/// The root that commands work in: the checkout around the current directory, else the current
/// directory itself.
///
/// # Errors
/// When the current directory no longer exists or may not be read.
pub fn root() -> std::io::Result<PathBuf> {
    let here = std::env::current_dir()?;
    Ok(root_above(&here).unwrap_or(here))
}

/// `.weir` below [`root`].
///
/// # Errors
/// As [`root`].
pub fn state_directory() -> std::io::Result<PathBuf> {
    Ok(root()?.join(STATE_DIRECTORY))
}

fn is_checkout(directory: &Path) -> bool {
    // Both members are named, so that a foreign workspace around ours is not taken for it.
    directory.join("Cargo.toml").is_file()
        && directory.join("devstack/Cargo.toml").is_file()
        && directory.join("persist-worker/Cargo.toml").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkout_is_found_from_below_and_not_from_outside() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = root_above(&here.join("src/deeper")).unwrap();
        assert_eq!(root, here.parent().unwrap());
        assert_eq!(root_above(Path::new("/")), None);
    }
}
