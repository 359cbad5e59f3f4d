//! devstack's own promises, and the pipeline from end to end.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod orphans;
mod servers;
