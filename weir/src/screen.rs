//! Lines for people on standard output, and one live line below them on a terminal.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

/// Standard output. Lines scroll; the live line stays last and is replaced in place.
#[derive(Debug)]
pub(crate) struct Screen {
    is_terminal: bool,
    live: Mutex<String>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self {
            is_terminal: io::stdout().is_terminal(),
            live: Mutex::default(),
        }
    }

    /// Whether the live line can be replaced in place.
    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// One or more lines that stay.
    pub(crate) fn line(&self, text: &str) {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever reads may have gone away; the stack goes on regardless.
        if self.is_terminal && !live.is_empty() {
            print(&format!("\r\x1b[2K{text}\n{live}"));
        } else {
            print(&format!("{text}\n"));
        }
    }

    /// Replaces the live line; a line that stays where there is no terminal.
    pub(crate) fn live(&self, text: &str) {
        if !self.is_terminal {
            print(&format!("{text}\n"));
            return;
        }
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        text.clone_into(&mut live);
        print(&format!("\r\x1b[2K{live}"));
    }

    /// Leaves the live line as it is and goes on below it.
    pub(crate) fn end_live(&self) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::take(&mut *live).is_empty() {
            print("\n");
        }
    }
}

fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    written.and_then(|()| stdout.flush()).ok();
}
