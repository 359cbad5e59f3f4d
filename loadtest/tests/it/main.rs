//! The command as a user runs it, against a gateway and a status API that do wrong on purpose.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod comparing;
mod couriers;
mod fake;
mod pushing;
mod replaying;
mod replaying_couriers;
mod replaying_usage;
mod running;
mod running_books;
mod running_couriers;
mod running_honesty;
mod running_usage;
