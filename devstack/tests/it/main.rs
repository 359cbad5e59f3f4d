//! devstack's own promises, and the pipeline from end to end.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod couriers;
mod door;
mod durability;
mod encryption;
mod kills;
mod orphans;
mod outages;
mod pipeline;
mod privileges;
mod quota;
mod schema_fuzz;
mod servers;
mod stack;
mod support;
mod transport;
