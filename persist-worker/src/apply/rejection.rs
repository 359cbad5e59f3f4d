//! Why a record changes nothing: reasons that lie in the resource, not in the database.

use contract::limits::ATTRIBUTES_BYTES_MAX;
use contract::outcome::FailureCode;
use contract::{Entry, Kind, Record};
use uuid::Uuid;

use contract::courier::Command;

/// A record that does not fit what its resource is. Capacities are litres.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Rejection {
    /// The resource was created by this record, with other content.
    Conflict {
        created_by: Uuid,
    },
    /// The movement's reference took effect with another capacity.
    ReferenceUsed {
        asked: i32,
        before: i32,
        by: Uuid,
    },
    NotFound,
    Deleted {
        by: Uuid,
    },
    /// The present version was made by this record.
    StaleVersion {
        expected: i32,
        present: i32,
        by: Uuid,
    },
    CapacityInUse {
        max: i32,
        in_use: i32,
    },
    OverCapacity {
        available: i32,
        max: i32,
    },
    InsufficientCapacity {
        asked: i32,
        available: i32,
    },
    ExcessDropoff {
        asked: i32,
        in_use: i32,
    },
    AttributesTooLarge {
        bytes: usize,
    },
}

impl Rejection {
    pub(crate) fn code(&self) -> FailureCode {
        match self {
            Self::Conflict { .. } | Self::ReferenceUsed { .. } => FailureCode::Conflict,
            Self::NotFound => FailureCode::NotFound,
            Self::Deleted { .. } => FailureCode::Deleted,
            Self::StaleVersion { .. } => FailureCode::StaleVersion,
            Self::CapacityInUse { .. } => FailureCode::CapacityInUse,
            Self::OverCapacity { .. } => FailureCode::OverCapacity,
            Self::InsufficientCapacity { .. } => FailureCode::InsufficientCapacity,
            Self::ExcessDropoff { .. } => FailureCode::ExcessDropoff,
            Self::AttributesTooLarge { .. } => FailureCode::AttributesTooLarge,
        }
    }

    /// A sentence for the partner, with both numbers: what was asked and what is there.
    pub(crate) fn sentence(&self, entry: &Entry) -> String {
        let kind = entry.record.kind();
        let it = format!("{} {}", kind.word(), entry.record.resource_id());
        match self {
            Self::Conflict { created_by } => {
                let instead = match kind {
                    Kind::Ride => "a PUT would replace it",
                    Kind::Courier => "a PATCH would change it",
                };
                format!(
                    "{it} exists already and was created with other content, by request \
                     {created_by}; {instead}"
                )
            }
            Self::ReferenceUsed { asked, before, by } => {
                let (movement, reference) = movement(&entry.record);
                format!(
                    "reference {reference} of {it} stands for a {movement} of {before} litres \
                     already, by request {by}; a {movement} of {asked} litres needs a reference \
                     of its own"
                )
            }
            Self::NotFound => match kind {
                Kind::Ride => format!("{it} does not exist, so it has no version to expect"),
                Kind::Courier => format!("{it} does not exist; create it first"),
            },
            Self::Deleted { by } => {
                format!("{it} was deleted by request {by}, and its id is not used again")
            }
            // Whoever lost an answer finds their own change here.
            Self::StaleVersion {
                expected,
                present,
                by,
            } => format!(
                "{it} was expected to have version {expected} and has version {present}, made by \
                 request {by}; unless that is yours, read it again before deciding anew"
            ),
            Self::CapacityInUse { max, in_use } => format!(
                "the max_capacity of {it} cannot become {max} litres while {in_use} litres are in \
                 use; drop something off first, or set available_capacity with it"
            ),
            Self::OverCapacity { available, max } => format!(
                "the available_capacity of {it} cannot become {available} litres, its \
                 max_capacity is {max} litres"
            ),
            Self::InsufficientCapacity { asked, available } => format!(
                "a pickup of {asked} litres does not fit {it}, which has {available} litres \
                 available"
            ),
            Self::ExcessDropoff { asked, in_use } => format!(
                "a dropoff of {asked} litres is more than {it} has in use, which is {in_use} \
                 litres"
            ),
            Self::AttributesTooLarge { bytes } => format!(
                "the attributes of {it} would take {bytes} bytes as compact JSON, and at most \
                 {ATTRIBUTES_BYTES_MAX} are kept; remove some with null"
            ),
        }
    }
}

fn movement(record: &Record) -> (&'static str, &str) {
    match record {
        Record::Courier(courier) => match &courier.command {
            Command::Pickup(movement) => ("pickup", &movement.reference),
            Command::Dropoff(movement) => ("dropoff", &movement.reference),
            _ => ("movement", ""),
        },
        Record::Ride(_) => ("movement", ""),
    }
}
