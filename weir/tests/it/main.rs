//! `weir` as an operator runs it: the binary, its output, its exit codes.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod partner;
mod up;
