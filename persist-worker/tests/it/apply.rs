//! Batches against a real PostgreSQL.

mod bad_records;
mod benchmark;
mod columns;
mod days;
mod interleavings;
mod outcomes;
mod statements;
mod world;
mod writers;
