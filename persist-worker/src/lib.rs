//! Chunks out of the log, one transaction per batch into PostgreSQL.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod apply;
pub mod batch;
pub mod ledger;

mod args;
mod backoff;
mod caretaker;
mod database;
mod feed;
mod gather;
mod held;
mod keeper;
mod lease;
mod log;
mod meter;
mod migrate;
mod pulse;
mod relay;
mod run;
mod upkeep;
mod worker;
mod writer;

pub use args::{Cli, Command, MigrateArgs, Places, RunArgs};
pub use database::DatabaseError;
pub use held::HeldReason;
pub use log::LogError;
pub use migrate::{MigrateError, migrate};
pub use run::{RunError, run};
