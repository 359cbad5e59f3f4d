//! The record types: what a sender's JSON becomes once, at the edge.

use crate::tracking_id::TrackingId;

/// A booking, exactly as the chunk carries it. Instants are microseconds since the Unix epoch.
///
/// The gateway alone makes these from untrusted bytes, and has checked: `id > 0`, `travel_type_id`
/// 1 to 3, `package_id` 1 to 7, coordinates in pairs, finite and in range, `extra` canonical
/// (compact, keys sorted at every level, no duplicates, no NUL) and within its bounds.
pub use crate::chunk::wire::Ride;
pub use crate::courier::CourierCommand;

/// What kind of resource a record is about; the number is the tables' `kind`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(i16)]
pub enum Kind {
    /// A booking.
    Ride = 1,
    /// Somebody who carries things, and how much more fits.
    Courier = 2,
}

impl Kind {
    /// Every kind there is.
    pub const ALL: [Self; 2] = [Self::Ride, Self::Courier];

    /// The word in JSON and in views: `ride` or `courier`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ride => "ride",
            Self::Courier => "courier",
        }
    }

    /// The kind that a table's `kind` column holds.
    #[must_use]
    pub fn from_number(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as i16 == number)
    }
}

/// A validated record.
#[derive(Clone, PartialEq, Debug)]
pub enum Record {
    /// A booking.
    Ride(Ride),
    /// A change to a courier.
    Courier(CourierCommand),
}

impl Record {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Ride(_) => Kind::Ride,
            Self::Courier(_) => Kind::Courier,
        }
    }

    /// The resource's id as the ledger's `resource_id` holds it.
    #[must_use]
    pub fn resource_id(&self) -> String {
        match self {
            Self::Ride(ride) => ride.id.to_string(),
            Self::Courier(command) => command.courier_id.clone(),
        }
    }
}

/// What the sender asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    /// Fails if the resource exists with other content than it was created with.
    Create,
    /// Creates or replaces.
    Replace,
    /// What the record, a [`CourierCommand`], says itself.
    Command,
}

/// An accepted record: what a chunk holds.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// Unique; the sender asks for the outcome by it.
    pub tracking_id: TrackingId,
    /// Whose record it is; greater than 0.
    pub partner_id: i32,
    /// What to do with it: [`Operation::Command`] for a courier, another for a ride.
    pub operation: Operation,
    /// The record applies only while its resource has this version; at least 1.
    pub expected_version: Option<i32>,
    /// The record.
    pub record: Record,
}
