//! Runs nats-server, PostgreSQL and the services on one machine, for `weir up`, for `weir bench`
//! and for every test.
//!
//! The rules that all of it keeps: a child never outlives its parent, however the parent dies
//! ([`process`]); every server listens on 127.0.0.1 only, on a port of its own ([`ports`]);
//! nats-server fsyncs before it acknowledges and PostgreSQL before it commits; a handle that is
//! dropped ends what it started and removes what it wrote.
//!
//! Linux only: it rests on `PR_SET_PDEATHSIG` and `/proc`.

pub mod binaries;
pub mod deps;
pub mod eventually;
pub mod fixture;
pub mod http;
pub mod identity;
pub mod nats;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod siege;
pub mod stack;
pub mod workspace;

mod leftovers;

/// An error and everything beneath it, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
