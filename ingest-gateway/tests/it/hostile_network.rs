//! What a hostile network sends. Each attack is asserted to leave the gateway's memory bounded, an
//! honest client served meanwhile, and the process alive (`siege`).
//!
//! Every attack has a long form (thousands of sockets, a minute), and so have those of
//! `hostile_json`; all of them run, one by one, by
//! `cargo test -p ingest-gateway --test it -- --ignored hostile --test-threads=1`.

mod bodies;
mod crowds;
mod floods;
mod slow;
mod smuggling;
