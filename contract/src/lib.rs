//! What every part of Weir agrees on: record types and limits, the chunk encoding, tracking ids,
//! stream names, partitioning, and the words for outcomes and problems.
//!
//! Pure: no I/O, no clock, no runtime. Whatever needs the time is given it.

pub mod chunk;
pub mod content_hash;
pub mod courier;
pub mod event;
pub mod limits;
pub mod log;
pub mod outcome;
pub mod partition;
pub mod problem;
pub mod record;
pub mod timing;
pub mod tracking_id;

pub use content_hash::ContentHash;
pub use courier::CourierCommand;
pub use partition::{Partition, Partitions};
pub use problem::Problem;
pub use record::{Entry, Kind, Operation, Record, Ride};
pub use tracking_id::TrackingId;
