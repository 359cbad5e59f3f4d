//! The gateway's process against a real log.

// The exception for tests does not reach their helpers.
#![allow(clippy::unwrap_used)]

mod certificate;
mod harness;
mod siege;

mod couriers;
mod damage;
mod drain;
mod fairness;
mod hostile;
mod hostile_json;
mod hostile_network;
mod protocol;
mod quota;
mod storing;
mod tampering;
