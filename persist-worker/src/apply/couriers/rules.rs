//! What a command does to a courier: pure, and the only place that knows.
//!
//! What is in use is `max_capacity` minus `available_capacity`. The courier's log decides the
//! order; by the time a command comes here it is next.

use std::sync::Arc;

use contract::ContentHash;
use contract::courier::{Command, CourierCreate, CourierMovement, CourierUpdate, TextPatch};
use contract::event::{CapacityCause, CapacityChange, CourierState, Event};
use contract::limits::ATTRIBUTES_BYTES_MAX;
use contract::outcome::Action;
use uuid::Uuid;

use super::merge_patch::merge_patch;
use crate::apply::rejection::Rejection;

/// What a courier is, a deleted one included.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct State {
    /// Shared: most commands leave it as it is.
    pub(crate) profile: Arc<Profile>,
    pub(crate) max_capacity: i32,
    /// 0 to `max_capacity`.
    pub(crate) available_capacity: i32,
    /// The command that made it what it is.
    pub(crate) tracking_id: Uuid,
    pub(crate) created_by: Uuid,
    pub(crate) created_hash: ContentHash,
    pub(crate) version: i32,
    pub(crate) deleted: bool,
}

/// Everything about a courier but its capacities.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Profile {
    pub(crate) name: String,
    pub(crate) vehicle_type: Option<String>,
    pub(crate) phone: Option<String>,
    /// Canonical JSON.
    pub(crate) attributes: Option<String>,
}

/// A pickup or dropoff that took effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Movement {
    pub(crate) capacity: i32,
    pub(crate) tracking_id: Uuid,
}

/// A command, and what has to be known besides the courier's state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given<'b> {
    pub(crate) courier_id: &'b str,
    pub(crate) command: &'b Command,
    pub(crate) tracking_id: Uuid,
    /// Of the command.
    pub(crate) hash: ContentHash,
    pub(crate) expected_version: Option<i32>,
    /// Whether the courier exists and was created with this command's content.
    pub(crate) repeats_creation: bool,
    /// Of a movement: the one of this courier, direction and reference that took effect before.
    pub(crate) earlier: Option<Movement>,
}

/// What a command that is not rejected amounts to.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Effect {
    /// The courier is another now.
    Changed {
        after: State,
        /// At least one, in order.
        events: Vec<Event>,
        action: Action,
    },
    /// The command of this id did it already.
    Duplicate(Uuid),
}

/// Applies a command to a courier.
///
/// # Errors
/// [`Rejection`]: the courier stays as it is, and a movement's reference stays unused.
pub(crate) fn apply(state: Option<&State>, given: &Given<'_>) -> Result<Effect, Rejection> {
    match given.command {
        Command::Create(create) => return self::create(state, create, given),
        Command::Pickup(movement) | Command::Dropoff(movement) => {
            // Before anything else: a resend learns the truth whatever became of the courier.
            if let Some(earlier) = given.earlier {
                return repeated(movement, earlier);
            }
        }
        Command::Update(_) | Command::SetCapacity(_) | Command::Delete(_) => {}
    }
    let state = state.ok_or(Rejection::NotFound)?;
    if state.deleted {
        return Err(deleted(state));
    }
    if let Some(expected) = given.expected_version
        && expected != state.version
    {
        return Err(Rejection::StaleVersion {
            expected,
            present: state.version,
            by: state.tracking_id,
        });
    }
    let after = match given.command {
        Command::Create(_) => unreachable!("returned above"),
        Command::Update(update) => updated(state, update)?,
        Command::SetCapacity(capacity) => {
            let available = within(capacity.available_capacity, state.max_capacity)?;
            with_available(state, available)
        }
        Command::Pickup(movement) => picked_up(state, movement)?,
        Command::Dropoff(movement) => dropped_off(state, movement)?,
        Command::Delete(_) => State {
            deleted: true,
            ..state.clone()
        },
    };
    Ok(settled(state, after, given))
}

/// A courier is compared with what it was created with, as long as its id is remembered: for ever.
fn create(
    state: Option<&State>,
    create: &CourierCreate,
    given: &Given<'_>,
) -> Result<Effect, Rejection> {
    match state {
        Some(state) if given.repeats_creation => return Ok(Effect::Duplicate(state.created_by)),
        Some(state) if state.deleted => return Err(deleted(state)),
        Some(state) => {
            return Err(Rejection::Conflict {
                created_by: state.created_by,
            });
        }
        None => {}
    }
    let available = create.available_capacity.unwrap_or(create.max_capacity);
    let after = State {
        profile: Arc::new(Profile {
            name: create.name.clone(),
            vehicle_type: create.vehicle_type.clone(),
            phone: create.phone.clone(),
            attributes: create.attributes.clone(),
        }),
        max_capacity: create.max_capacity,
        available_capacity: within(available, create.max_capacity)?,
        tracking_id: given.tracking_id,
        created_by: given.tracking_id,
        created_hash: given.hash,
        version: 1,
        deleted: false,
    };
    Ok(Effect::Changed {
        events: vec![Event::CourierCreated(as_told(&after, given))],
        after,
        action: Action::Created,
    })
}

/// Nothing changes a courier after its deletion.
fn deleted(state: &State) -> Rejection {
    Rejection::Deleted {
        by: state.tracking_id,
    }
}

fn repeated(movement: &CourierMovement, earlier: Movement) -> Result<Effect, Rejection> {
    if movement.capacity == earlier.capacity {
        return Ok(Effect::Duplicate(earlier.tracking_id));
    }
    Err(Rejection::ReferenceUsed {
        asked: movement.capacity,
        before: earlier.capacity,
        by: earlier.tracking_id,
    })
}

fn updated(state: &State, update: &CourierUpdate) -> Result<State, Rejection> {
    let max = update.max_capacity.unwrap_or(state.max_capacity);
    let available = match update.available_capacity {
        Some(available) => within(available, max)?,
        // What is out stays out.
        None => {
            let in_use = in_use(state);
            if max < in_use {
                return Err(Rejection::CapacityInUse { max, in_use });
            }
            max - in_use
        }
    };
    let before = &*state.profile;
    let attributes = match &update.attributes {
        Some(patch) => merge_patch(before.attributes.as_deref(), patch),
        None => before.attributes.clone(),
    };
    // What the courier has already was within bounds when it came.
    let bytes = attributes.as_ref().map_or(0, String::len);
    if update.attributes.is_some() && bytes > ATTRIBUTES_BYTES_MAX {
        return Err(Rejection::AttributesTooLarge { bytes });
    }
    let profile = Profile {
        name: update.name.as_ref().unwrap_or(&before.name).clone(),
        vehicle_type: patched(&update.vehicle_type, &before.vehicle_type),
        phone: patched(&update.phone, &before.phone),
        attributes,
    };
    Ok(State {
        max_capacity: max,
        profile: if profile == *before {
            Arc::clone(&state.profile)
        } else {
            Arc::new(profile)
        },
        ..with_available(state, available)
    })
}

fn patched(patch: &Option<TextPatch>, before: &Option<String>) -> Option<String> {
    match patch {
        Some(patch) => patch.value.clone(),
        None => before.clone(),
    }
}

fn picked_up(state: &State, movement: &CourierMovement) -> Result<State, Rejection> {
    let available = state.available_capacity;
    if movement.capacity > available {
        return Err(Rejection::InsufficientCapacity {
            asked: movement.capacity,
            available,
        });
    }
    Ok(with_available(state, available - movement.capacity))
}

fn dropped_off(state: &State, movement: &CourierMovement) -> Result<State, Rejection> {
    let in_use = in_use(state);
    if movement.capacity > in_use {
        return Err(Rejection::ExcessDropoff {
            asked: movement.capacity,
            in_use,
        });
    }
    Ok(with_available(
        state,
        state.available_capacity + movement.capacity,
    ))
}

fn in_use(state: &State) -> i32 {
    state.max_capacity - state.available_capacity
}

fn within(available: i32, max: i32) -> Result<i32, Rejection> {
    if available > max {
        return Err(Rejection::OverCapacity { available, max });
    }
    Ok(available)
}

fn with_available(state: &State, available_capacity: i32) -> State {
    State {
        available_capacity,
        ..state.clone()
    }
}

/// Gives what changed its version, and says what changed.
fn settled(before: &State, after: State, given: &Given<'_>) -> Effect {
    if after == *before {
        return Effect::Duplicate(before.tracking_id);
    }
    let after = State {
        tracking_id: given.tracking_id,
        version: before.version.saturating_add(1),
        ..after
    };
    if after.deleted {
        return Effect::Changed {
            events: vec![Event::CourierDeleted(as_told(&after, given))],
            after,
            action: Action::Deleted,
        };
    }
    let mut events = Vec::with_capacity(2);
    if after.max_capacity != before.max_capacity || after.profile != before.profile {
        events.push(Event::CourierUpdated(as_told(&after, given)));
    }
    if after.available_capacity != before.available_capacity {
        events.push(Event::CourierCapacityUpdated(capacity_change(
            before, &after, given,
        )));
    }
    Effect::Changed {
        after,
        events,
        action: Action::Updated,
    }
}

fn as_told(after: &State, given: &Given<'_>) -> CourierState {
    let Profile {
        name,
        vehicle_type,
        phone,
        attributes,
    } = (*after.profile).clone();
    CourierState {
        courier_id: given.courier_id.to_owned(),
        version: after.version,
        name,
        max_capacity: after.max_capacity,
        available_capacity: after.available_capacity,
        vehicle_type,
        phone,
        attributes,
    }
}

fn capacity_change(before: &State, after: &State, given: &Given<'_>) -> CapacityChange {
    let (cause, reference) = match given.command {
        Command::Create(_) | Command::Delete(_) | Command::Update(_) => {
            (CapacityCause::Update, None)
        }
        Command::SetCapacity(_) => (CapacityCause::SetCapacity, None),
        Command::Pickup(movement) => (CapacityCause::Pickup, Some(&movement.reference)),
        Command::Dropoff(movement) => (CapacityCause::Dropoff, Some(&movement.reference)),
    };
    CapacityChange {
        courier_id: given.courier_id.to_owned(),
        version: after.version,
        max_capacity: after.max_capacity,
        previous: before.available_capacity,
        new: after.available_capacity,
        cause,
        reference: reference.cloned(),
    }
}

#[cfg(test)]
mod tests;
