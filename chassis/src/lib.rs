//! What every process needs, whatever it does: flags with units, logs and metrics, the admin
//! listener, readiness, and shutdown as a value that gets passed.
//!
//! Knows nothing of records, the log or the database.

pub mod admin;
pub mod announce;
pub mod cli;
pub mod http;
pub mod listen;
mod process;
pub mod readiness;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
pub mod units;
pub mod write_bound;
