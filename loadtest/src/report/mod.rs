//! What a run says: JSON for programs, text and HTML for people, a live view on the way, and the
//! comparison of two runs.

pub mod compare;
mod distribution;
mod figures;
pub mod html;
mod json;
#[cfg(test)]
mod sample;
pub mod schema;
pub mod terminal;
mod text;
mod totals;

pub use json::ReadError;
pub use schema::RunReport;
