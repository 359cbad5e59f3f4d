//! The binary against a real PostgreSQL, with rows that the tests write.
//!
//! Each test has a PostgreSQL and a process of its own, so that counters can be compared exactly.

// All of it is test code, the helpers too.
#![allow(clippy::unwrap_used)]

mod after;
mod couriers;
mod database;
mod failures;
mod hostile;
mod http;
mod long_poll;
mod lookup;
mod plans;
mod requests;
mod rides;
mod siege;
mod stage;
mod tls;
