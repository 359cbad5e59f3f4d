//! The bucket on a real log: following it, changing it, and what it does while the log is away.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod changing;
mod following;
mod support;
