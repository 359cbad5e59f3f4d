//! Workers against a real log and a real database.

mod events;
mod flow;
mod held;
mod leases;
mod migrating;
mod outages;
mod process;
mod rig;
