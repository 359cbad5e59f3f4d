//! The command as a user runs it, against a gateway and a status API that do wrong on purpose.

mod fake;
mod pushing;
mod replaying;
