//! Batches against a real PostgreSQL.

mod bad_records;
mod benchmark;
mod columns;
mod conditions;
mod couriers;
mod couriers_model;
mod days;
mod events;
mod interleavings;
mod outcomes;
mod statements;
mod temporary;
mod world;
mod writers;
