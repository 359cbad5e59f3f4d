//! A valid item of a request, whatever kind of record it is about: what the loops handle.

use contract::courier::{Command, TextPatch};
use contract::{CourierCommand, Operation, Record};

/// An encoded entry without its texts, in bytes: more than its every field at its longest.
pub(crate) const ENTRY_BYTES_MAX: usize = 300;

/// A record, what to do with it, and on what condition.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Item {
    pub(crate) operation: Operation,
    /// At least 1.
    pub(crate) expected_version: Option<i32>,
    pub(crate) record: Record,
}

impl Item {
    /// The bytes of room that its entry needs, at least.
    pub(crate) fn room_bytes(&self) -> usize {
        ENTRY_BYTES_MAX
            + match &self.record {
                Record::Ride(ride) => bytes(ride.extra.as_ref()),
                Record::Courier(command) => courier_text_bytes(command),
            }
    }

    /// What a sender may do whose record was not acknowledged.
    pub(crate) fn resend(&self) -> Resend {
        let knows_itself = match &self.record {
            Record::Ride(_) => self.operation == Operation::Create,
            Record::Courier(command) => matches!(
                command.command,
                Command::Create(_) | Command::Pickup(_) | Command::Dropoff(_)
            ),
        };
        if knows_itself {
            Resend::Safe
        } else {
            Resend::MayUndo
        }
    }

    /// What XRides' existing client calls its record, which is always a ride.
    pub(crate) fn ride_id(&self) -> Option<i64> {
        match &self.record {
            Record::Ride(ride) => Some(ride.id),
            Record::Courier(_) => None,
        }
    }
}

/// Whether a record may simply be sent again when nobody knows whether it was stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Resend {
    /// What was stored is known by its content or its reference: it ends as `duplicate`.
    Safe,
    /// It sets a value: sent again it may overwrite what others changed in between.
    MayUndo,
}

fn bytes(text: Option<&String>) -> usize {
    text.map_or(0, String::len)
}

fn courier_text_bytes(command: &CourierCommand) -> usize {
    let patch = |patch: &Option<TextPatch>| bytes(patch.as_ref().and_then(|it| it.value.as_ref()));
    command.courier_id.len()
        + match &command.command {
            Command::Create(create) => {
                create.name.len()
                    + bytes(create.vehicle_type.as_ref())
                    + bytes(create.phone.as_ref())
                    + bytes(create.attributes.as_ref())
            }
            Command::Update(update) => {
                bytes(update.name.as_ref())
                    + patch(&update.vehicle_type)
                    + patch(&update.phone)
                    + bytes(update.attributes.as_ref())
            }
            Command::Pickup(movement) | Command::Dropoff(movement) => movement.reference.len(),
            Command::SetCapacity(_) | Command::Delete(_) => 0,
        }
}

#[cfg(test)]
mod tests {
    use contract::courier::{
        CourierCapacity, CourierCreate, CourierDelete, CourierMovement, CourierUpdate,
    };
    use contract::limits::{
        ATTRIBUTES_BYTES_MAX, COURIER_ID_CHARS_MAX, COURIER_NAME_CHARS_MAX, EXTRA_BYTES_MAX,
        PHONE_CHARS_MAX, REFERENCE_CHARS_MAX, VEHICLE_TYPE_CHARS_MAX,
    };
    use contract::{Entry, Ride};

    use super::*;

    fn longest(characters: usize) -> String {
        "\u{10ffff}".repeat(characters)
    }

    fn commands() -> Vec<Command> {
        let movement = CourierMovement {
            capacity: i32::MAX,
            reference: longest(REFERENCE_CHARS_MAX),
        };
        let set = |characters| {
            Some(TextPatch {
                value: Some(longest(characters)),
            })
        };
        vec![
            Command::Create(CourierCreate {
                name: longest(COURIER_NAME_CHARS_MAX),
                max_capacity: i32::MAX,
                available_capacity: Some(i32::MAX),
                vehicle_type: Some(longest(VEHICLE_TYPE_CHARS_MAX)),
                phone: Some(longest(PHONE_CHARS_MAX)),
                attributes: Some("x".repeat(ATTRIBUTES_BYTES_MAX)),
            }),
            Command::Update(CourierUpdate {
                name: Some(longest(COURIER_NAME_CHARS_MAX)),
                max_capacity: Some(i32::MAX),
                available_capacity: Some(i32::MAX),
                vehicle_type: set(VEHICLE_TYPE_CHARS_MAX),
                phone: set(PHONE_CHARS_MAX),
                attributes: Some("x".repeat(ATTRIBUTES_BYTES_MAX)),
            }),
            Command::SetCapacity(CourierCapacity {
                available_capacity: i32::MAX,
            }),
            Command::Pickup(movement.clone()),
            Command::Dropoff(movement),
            Command::Delete(CourierDelete {}),
        ]
    }

    fn longest_ride() -> Ride {
        Ride {
            id: -1,
            user_id: -1,
            vehicle_model_id: -1,
            package_id: Some(-1),
            travel_type_id: -1,
            from_area_id: Some(-1),
            to_area_id: Some(-1),
            from_city_id: Some(-1),
            to_city_id: Some(-1),
            from_date_us: -1,
            to_date_us: Some(-1),
            online_booking: true,
            mobile_site_booking: true,
            booking_created_us: -1,
            from_lat: Some(1.0),
            from_long: Some(1.0),
            to_lat: Some(1.0),
            to_long: Some(1.0),
            car_cancellation: true,
            extra: Some("x".repeat(EXTRA_BYTES_MAX)),
        }
    }

    #[test]
    fn the_longest_entry_of_every_kind_is_within_its_room() {
        let couriers = commands().into_iter().map(|command| {
            let courier_id = longest(COURIER_ID_CHARS_MAX);
            Record::Courier(CourierCommand {
                courier_id,
                command,
            })
        });
        let tracking_id = "01234567-89ab-7aaa-aa55-550f0fc30000";
        for record in couriers.chain([Record::Ride(longest_ride())]) {
            let item = Item {
                operation: Operation::Replace,
                expected_version: Some(i32::MAX),
                record,
            };
            let room = item.room_bytes();
            let mut encoded = Vec::new();
            let entry = Entry {
                tracking_id: tracking_id.parse().expect("an id"),
                partner_id: i32::MAX,
                operation: item.operation,
                expected_version: item.expected_version,
                record: item.record,
            };
            contract::chunk::encode_entry(&entry, &mut encoded);
            assert!(
                encoded.len() <= room,
                "{} > {room}: {entry:?}",
                encoded.len()
            );
        }
    }

    #[test]
    fn only_what_is_known_by_itself_may_simply_be_sent_again() {
        let ride = |operation| Item {
            operation,
            expected_version: None,
            record: Record::Ride(contract::Ride::default()),
        };
        assert_eq!(ride(Operation::Create).resend(), Resend::Safe);
        assert_eq!(ride(Operation::Replace).resend(), Resend::MayUndo);
        let courier = |command| {
            let record = Record::Courier(CourierCommand {
                courier_id: "c-1".to_owned(),
                command,
            });
            Item {
                operation: Operation::Command,
                expected_version: None,
                record,
            }
        };
        for command in [
            Command::Create(CourierCreate::default()),
            Command::Pickup(CourierMovement::default()),
            Command::Dropoff(CourierMovement::default()),
        ] {
            assert_eq!(courier(command).resend(), Resend::Safe);
        }
        for command in [
            Command::Update(CourierUpdate::default()),
            Command::SetCapacity(CourierCapacity::default()),
            Command::Delete(CourierDelete {}),
        ] {
            assert_eq!(courier(command).resend(), Resend::MayUndo);
        }
    }
}
