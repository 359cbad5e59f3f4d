//! The harness: generates load or replays recorded load, follows every tracking id to its outcome
//! and says whether the books balance; and a light closed-loop pusher for measurements.
//!
//! It sees the services as URLs, processes and tables, and shares no code with them, so that it
//! cannot share their mistakes.

pub mod base_url;
mod connection;
pub mod couriers;
pub mod endpoints;
pub mod latency;
pub mod output;
pub mod pusher;
pub mod replay;
pub mod report;
pub mod rides;
pub mod run;
mod signals;
