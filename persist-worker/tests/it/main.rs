//! The worker against the servers it works with.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod apply;
mod running;
