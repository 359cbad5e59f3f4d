//! What a run says: JSON for programs, text and HTML for people, a live view on the way, and the
//! comparison of two runs.

pub mod schema;
pub mod terminal;

pub use schema::RunReport;
