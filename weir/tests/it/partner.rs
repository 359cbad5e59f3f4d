//! `weir partner` against a running installation: what it says, and what the services make of it.

mod encryption;
mod erasing;
mod installation;
mod life;
mod refusals;
mod secrets;
