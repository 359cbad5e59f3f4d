//! Commands to couriers: the second kind of record.
//!
//! A courier is not sent as a whole, as a ride is: several senders change one at a time, so what
//! travels is the command, and what it amounts to is decided where the log's order is known.

use crate::chunk::wire;

/// What to do, exactly as the chunk carries it.
///
/// The gateway alone makes these from untrusted bytes, and has checked: capacities from 0 (a
/// movement's from 1), texts non-empty and within the bounds of [`crate::limits`], without control
/// characters, `attributes` canonical (compact, keys sorted at every level, no duplicates, no NUL)
/// and within its bounds, `available_capacity` not above `max_capacity` where both are given.
pub use crate::chunk::wire::courier_command::Command;
pub use crate::chunk::wire::{
    CourierCapacity, CourierCreate, CourierDelete, CourierMovement, CourierUpdate, TextPatch,
};

/// A command to one courier.
#[derive(Clone, PartialEq, Debug)]
pub struct CourierCommand {
    /// 1 to 64 characters, no control characters; an integer is its decimal digits.
    pub courier_id: String,
    /// What to do with it.
    pub command: Command,
}

impl CourierCommand {
    /// The command's name in `POST /v1/courier-commands`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self.command {
            Command::Create(_) => "create",
            Command::Update(_) => "update",
            Command::SetCapacity(_) => "set_capacity",
            Command::Pickup(_) => "pickup",
            Command::Dropoff(_) => "dropoff",
            Command::Delete(_) => "delete",
        }
    }

    pub(crate) fn to_wire(&self) -> wire::CourierCommand {
        wire::CourierCommand {
            courier_id: self.courier_id.clone(),
            command: Some(self.command.clone()),
        }
    }

    pub(crate) fn from_wire(message: wire::CourierCommand) -> Result<Self, &'static str> {
        Ok(Self {
            courier_id: message.courier_id,
            command: message
                .command
                .ok_or("a courier command this build does not know")?,
        })
    }
}
