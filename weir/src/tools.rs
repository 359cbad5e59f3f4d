//! The programs that a stack is made of: fetched and built before anything starts.

use std::sync::Arc;

use devstack::binaries::{self, Binaries, BinariesError, Progress};
use devstack::deps::{self, Deps, DepsError};

use crate::screen::Screen;

/// They cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolsError {
    #[error(transparent)]
    Deps(#[from] DepsError),
    #[error(transparent)]
    Binaries(#[from] BinariesError),
}

/// Fetches the servers that are wanted and builds the services, with progress.
pub(crate) async fn tools(
    wanted: deps::Wanted,
    screen: &Arc<Screen>,
) -> Result<(Deps, Binaries), ToolsError> {
    let told = Arc::clone(screen);
    let found = tokio::task::spawn_blocking(move || {
        let deps = deps::ensure_wanted(wanted, &|sentence| told.line(sentence))?;
        if binaries::are_built_here() {
            told.line("building the services");
        }
        let binaries = binaries::ensure(Progress::Shown)?;
        Ok((deps, binaries))
    });
    found.await.expect("fetching and building do not panic")
}
