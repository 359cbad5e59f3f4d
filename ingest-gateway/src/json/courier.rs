//! One command to a courier from the tape: every fault it has, or none.

use contract::courier::{
    Command, CourierCapacity, CourierCreate, CourierDelete, CourierMovement, CourierUpdate,
    TextPatch,
};
use contract::limits::{
    CAPACITY_LITRES_MAX, COURIER_ID_CHARS_MAX, COURIER_NAME_CHARS_MAX, PHONE_CHARS_MAX,
    REFERENCE_CHARS_MAX, VEHICLE_TYPE_CHARS_MAX,
};
use contract::problem::Fault;
use contract::{CourierCommand, Operation, Record};
use simd_json::Node;

use super::extra;
use super::members::{self, Wrong, is_null};
use super::{Parsed, Refusal, integer, kind_of};
use crate::item::Item;

/// Which route the commands are sent to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// To the couriers themselves: each item creates one.
    Create,
    /// Each item names its command.
    Commands,
    /// To one courier, by the id in the path.
    Of {
        courier_id: String,
        action: Action,
        /// The version in `If-Match`.
        if_match: Option<i32>,
    },
}

/// What is done to a courier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    Create,
    Update,
    SetCapacity,
    Pickup,
    Dropoff,
    Delete,
}

impl Form {
    pub(super) fn if_match(&mut self) -> Option<&mut Option<i32>> {
        match self {
            Self::Of { if_match, .. } => Some(if_match),
            Self::Create | Self::Commands => None,
        }
    }

    pub(super) fn is_merge_patch(&self) -> bool {
        self.path_action() == Some(Action::Update)
    }

    pub(super) fn may_be_empty(&self) -> bool {
        self.path_action() == Some(Action::Delete)
    }

    fn path_action(&self) -> Option<Action> {
        match self {
            Self::Of { action, .. } => Some(*action),
            Self::Create | Self::Commands => None,
        }
    }
}

impl Action {
    const ALL: [Self; 6] = [
        Self::Create,
        Self::Update,
        Self::SetCapacity,
        Self::Pickup,
        Self::Dropoff,
        Self::Delete,
    ];

    /// As a burst names it.
    fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::SetCapacity => "set_capacity",
            Self::Pickup => "pickup",
            Self::Dropoff => "dropoff",
            Self::Delete => "delete",
        }
    }

    fn takes(self, field: Field) -> bool {
        match field {
            Field::Command | Field::CourierId => true,
            Field::Name
            | Field::MaxCapacity
            | Field::VehicleType
            | Field::Phone
            | Field::Attributes => matches!(self, Self::Create | Self::Update),
            Field::AvailableCapacity => {
                matches!(self, Self::Create | Self::Update | Self::SetCapacity)
            }
            Field::Capacity | Field::Reference => matches!(self, Self::Pickup | Self::Dropoff),
            Field::ExpectedVersion => self != Self::Create,
        }
    }
}

/// A member of some command; the discriminant is its place in [`FIELDS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
enum Field {
    Command,
    CourierId,
    Name,
    MaxCapacity,
    AvailableCapacity,
    VehicleType,
    Phone,
    Attributes,
    Capacity,
    Reference,
    ExpectedVersion,
}

/// Every member, with its snake_case name: what a missing member is called.
const FIELDS: [(Field, &str); 11] = [
    (Field::Command, "command"),
    (Field::CourierId, "courier_id"),
    (Field::Name, "name"),
    (Field::MaxCapacity, "max_capacity"),
    (Field::AvailableCapacity, "available_capacity"),
    (Field::VehicleType, "vehicle_type"),
    (Field::Phone, "phone"),
    (Field::Attributes, "attributes"),
    (Field::Capacity, "capacity"),
    (Field::Reference, "reference"),
    (Field::ExpectedVersion, "expected_version"),
];

impl Field {
    /// In snake_case, or in camelCase with `Id` or `ID`.
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "command" => Self::Command,
            "courier_id" | "courierId" | "courierID" => Self::CourierId,
            "name" => Self::Name,
            "max_capacity" | "maxCapacity" => Self::MaxCapacity,
            "available_capacity" | "availableCapacity" => Self::AvailableCapacity,
            "vehicle_type" | "vehicleType" => Self::VehicleType,
            "phone" => Self::Phone,
            "attributes" => Self::Attributes,
            "capacity" => Self::Capacity,
            "reference" => Self::Reference,
            "expected_version" | "expectedVersion" => Self::ExpectedVersion,
            _ => return None,
        })
    }
}

impl members::Field for Field {
    fn name(self) -> &'static str {
        FIELDS[self as usize].1
    }

    fn index(self) -> usize {
        self as usize
    }
}

type Members<'t, 'a> = members::Members<'t, 'a, { FIELDS.len() }>;

/// Builds the command that a tape holds. The members in `unreadable` were left out of the tape.
pub(super) fn from_nodes(
    nodes: &[Node<'_>],
    form: &Form,
    unreadable: Vec<(String, Fault)>,
) -> Parsed {
    let mut members = Members::sort_out(nodes, unreadable, |name| match Field::of(name) {
        // Elsewhere the route says it.
        Some(Field::Command) if *form != Form::Commands => None,
        field => field,
    })?;
    let (action, path_id, if_match) = match form {
        Form::Create => (Some(Action::Create), None, None),
        Form::Commands => (action(&mut members), None, None),
        Form::Of {
            courier_id,
            action,
            if_match,
        } => (Some(*action), Some(&courier_id[..]), *if_match),
    };
    let courier_id = id(&mut members, path_id);
    let mut expected_version = None;
    // Of an unknown command nobody can say what else is wrong with it.
    let command = action.map(|action| {
        if action.takes(Field::ExpectedVersion) {
            expected_version = members.expected_version(Field::ExpectedVersion, if_match);
        }
        let command = command(&mut members, action);
        refuse_members_of_others(&mut members, action);
        command
    });
    for (name, _) in std::mem::take(&mut members.unknown) {
        let detail = "is no member of a command; a sender's own go into the courier's attributes";
        members.faults.push_member(name, detail);
    }
    match command {
        Some(command) if members.faults.found.is_empty() => Ok(Item {
            operation: Operation::Command,
            expected_version,
            record: Record::Courier(CourierCommand {
                courier_id,
                command,
            }),
        }),
        _ => Err(Box::new(Refusal::invalid(members.faults.found, None))),
    }
}

fn action(members: &mut Members<'_, '_>) -> Option<Action> {
    members.required(Field::Command, |node| match node {
        Node::String(word) => Action::ALL
            .into_iter()
            .find(|action| action.word() == *word)
            .map(Some)
            .ok_or_else(|| Wrong::Told(format!("must be one of {}", words()))),
        other => Err(Wrong::Told(format!(
            "must be one of {}; it is {}",
            words(),
            kind_of(other)
        ))),
    })
}

fn words() -> String {
    Action::ALL
        .map(|action| format!("{:?}", action.word()))
        .join(", ")
}

/// Empty where it has a fault.
fn id(members: &mut Members<'_, '_>, path_id: Option<&str>) -> String {
    let Some(path_id) = path_id else {
        return members.required(Field::CourierId, courier_id);
    };
    if let Some((name, value)) = members.sent(Field::CourierId)
        && !courier_id(&value[0]).is_ok_and(|sent| sent == path_id)
    {
        let detail = format!("must be absent or {path_id:?}, the id in the path");
        members.faults.push(name, detail);
    }
    path_id.to_owned()
}

fn command(members: &mut Members<'_, '_>, action: Action) -> Command {
    match action {
        Action::Create => Command::Create(create(members)),
        Action::Update => Command::Update(update(members)),
        Action::SetCapacity => Command::SetCapacity(CourierCapacity {
            available_capacity: members.required(Field::AvailableCapacity, litres),
        }),
        Action::Pickup => Command::Pickup(movement(members)),
        Action::Dropoff => Command::Dropoff(movement(members)),
        Action::Delete => Command::Delete(CourierDelete {}),
    }
}

fn create(members: &mut Members<'_, '_>) -> CourierCreate {
    let name = members.required(Field::Name, text(COURIER_NAME_CHARS_MAX));
    let max_capacity = members.required(Field::MaxCapacity, litres);
    let max_is_known = members
        .sent(Field::MaxCapacity)
        .is_some_and(|(_, value)| litres(&value[0]).is_ok());
    let available_capacity = members.optional(Field::AvailableCapacity, litres);
    check_available(
        members,
        available_capacity,
        max_is_known.then_some(max_capacity),
    );
    CourierCreate {
        name,
        max_capacity,
        available_capacity,
        vehicle_type: members.optional(Field::VehicleType, text(VEHICLE_TYPE_CHARS_MAX)),
        phone: members.optional(Field::Phone, text(PHONE_CHARS_MAX)),
        attributes: attributes(members).filter(|it| it != NULL),
    }
}

fn update(members: &mut Members<'_, '_>) -> CourierUpdate {
    let name = members.given(Field::Name, text(COURIER_NAME_CHARS_MAX));
    let max_capacity = members.given(Field::MaxCapacity, litres);
    let available_capacity = members.given(Field::AvailableCapacity, litres);
    check_available(members, available_capacity, max_capacity);
    CourierUpdate {
        name,
        max_capacity,
        available_capacity,
        vehicle_type: members.given(Field::VehicleType, text_patch(VEHICLE_TYPE_CHARS_MAX)),
        phone: members.given(Field::Phone, text_patch(PHONE_CHARS_MAX)),
        attributes: attributes(members),
    }
}

fn movement(members: &mut Members<'_, '_>) -> CourierMovement {
    CourierMovement {
        capacity: members.required(Field::Capacity, moved_litres),
        reference: members.required(Field::Reference, text(REFERENCE_CHARS_MAX)),
    }
}

fn check_available(members: &mut Members<'_, '_>, available: Option<i32>, max: Option<i32>) {
    if let (Some(available), Some(max)) = (available, max)
        && available > max
        && let Some((name, _)) = members.sent(Field::AvailableCapacity)
    {
        let detail = format!("is {available}, more than the max_capacity of {max} beside it");
        members.faults.push(name, detail);
    }
}

const NULL: &str = "null";

/// Canonical; null as such.
fn attributes(members: &mut Members<'_, '_>) -> Option<String> {
    let (name, value) = members.sent(Field::Attributes)?;
    match value[0] {
        Node::Object { len, .. } => {
            let own = extra::members_of(value, len);
            extra::canonical_attributes(own, name, &mut members.faults)
        }
        ref node if is_null(node) => Some(NULL.to_owned()),
        ref other => {
            let detail = format!("must be an object, or null; it is {}", kind_of(other));
            members.faults.push(name, detail);
            None
        }
    }
}

/// Members that another command has, and this one has not.
fn refuse_members_of_others(members: &mut Members<'_, '_>, action: Action) {
    for (field, _) in FIELDS {
        if action.takes(field) {
            continue;
        }
        if let Some((name, _)) = members.sent(field) {
            let detail = match (action, field) {
                (Action::Create, Field::ExpectedVersion) => {
                    "is no member of a create: what does not exist has no version".to_owned()
                }
                _ => format!("is no member of the command {}", action.word()),
            };
            members.faults.push(name, detail);
        }
    }
}

fn litres(node: &Node<'_>) -> Result<i32, &'static str> {
    litres_from(0, node).ok_or("must be an integer from 0 to 2147483647, in litres")
}

fn moved_litres(node: &Node<'_>) -> Result<i32, &'static str> {
    litres_from(1, node).ok_or("must be an integer from 1 to 2147483647, in litres")
}

fn litres_from(min: i32, node: &Node<'_>) -> Option<i32> {
    integer(node)
        .and_then(|number| i32::try_from(number).ok())
        .filter(|number| (min..=CAPACITY_LITRES_MAX).contains(number))
}

fn courier_id(node: &Node<'_>) -> Result<String, Wrong> {
    match node {
        Node::String(text) => checked_text(text, COURIER_ID_CHARS_MAX).map_err(Wrong::Told),
        _ => integer(node).map(|id| id.to_string()).ok_or_else(|| {
            Wrong::Told(format!(
                "must be a string of 1 to {COURIER_ID_CHARS_MAX} characters or an integer of 64 \
                 bits; it is {}",
                kind_of(node)
            ))
        }),
    }
}

fn text(chars_max: usize) -> impl Fn(&Node<'_>) -> Result<String, Wrong> {
    move |node| match node {
        Node::String(text) => checked_text(text, chars_max).map_err(Wrong::Told),
        other => Err(Wrong::Told(format!(
            "must be a string of 1 to {chars_max} characters; it is {}",
            kind_of(other)
        ))),
    }
}

/// Null removes the text.
fn text_patch(chars_max: usize) -> impl Fn(&Node<'_>) -> Result<TextPatch, Wrong> {
    let text = text(chars_max);
    move |node| {
        let value = if is_null(node) {
            None
        } else {
            Some(text(node)?)
        };
        Ok(TextPatch { value })
    }
}

/// The id of a courier as a path spells it: percent-encoded UTF-8.
///
/// # Errors
/// What is wrong with it, for the sender.
pub(crate) fn id_from_path(segment: &str) -> Result<String, String> {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).expect("two hexadecimal digits"));
            }
            _ => return Err("in the path has a % without two hexadecimal digits".to_owned()),
        }
    }
    let text = String::from_utf8(decoded)
        .map_err(|_| "in the path is not UTF-8, percent-encoded".to_owned())?;
    checked_text(&text, COURIER_ID_CHARS_MAX)
}

/// # Errors
/// What is wrong, for the sender.
fn checked_text(text: &str, chars_max: usize) -> Result<String, String> {
    // A character has up to four bytes: what is longer need not be counted.
    let too_long = text.len() > 4 * chars_max || text.chars().count() > chars_max;
    if text.is_empty() || too_long {
        return Err(format!("must have 1 to {chars_max} characters"));
    }
    if text.chars().any(char::is_control) {
        return Err("has a control character, which is not allowed".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests;
