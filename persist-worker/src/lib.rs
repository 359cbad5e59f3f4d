//! Chunks out of the log, one transaction per batch into PostgreSQL.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod apply;
pub mod batch;
pub mod ledger;
