//! The members of one item, sorted out by their names and read: what all kinds share.

use contract::problem::Fault;
use simd_json::{Node, StaticNode};

use super::extra::{self, Member};
use super::{Faults, MEMBERS_MAX, Refusal, TOO_MANY_MEMBERS, integer, kind_of};

/// A member that a kind of record knows.
pub(super) trait Field: Copy {
    /// Its snake_case name: what a missing member is called.
    fn name(self) -> &'static str;

    /// Its place among the kind's fields.
    fn index(self) -> usize;
}

/// The members of one item by what they are, with the names as sent.
pub(super) struct Members<'t, 'a, const FIELDS: usize> {
    /// From the name's node to the value's last.
    known: [Option<&'t [Node<'a>]>; FIELDS],
    pub(super) unknown: Vec<Member<'t, 'a>>,
    unreadable: [bool; FIELDS],
    pub(super) faults: Faults,
}

/// A value that cannot be what its member is.
pub(super) enum Wrong {
    /// What was expected; what it is instead is added.
    Expected(&'static str),
    /// A whole sentence.
    Told(String),
}

impl From<&'static str> for Wrong {
    fn from(expected: &'static str) -> Self {
        Self::Expected(expected)
    }
}

impl From<String> for Wrong {
    fn from(told: String) -> Self {
        Self::Told(told)
    }
}

impl<'t, 'a, const FIELDS: usize> Members<'t, 'a, FIELDS> {
    /// The members of the object that a tape holds. Some may have been found `unreadable` and left
    /// out of the tape: they count as sent, and their faults come first.
    ///
    /// # Errors
    /// 422 if it is no object, or has more than [`MEMBERS_MAX`] members.
    pub(super) fn sort_out<F: Field>(
        nodes: &'t [Node<'a>],
        unreadable: Vec<(String, Fault)>,
        field_of: impl Fn(&str) -> Option<F>,
    ) -> Result<Self, Box<Refusal>> {
        let Node::Object { len, .. } = nodes[0] else {
            let detail = format!("must be a JSON object, not {}", kind_of(&nodes[0]));
            return Err(Faults::only(detail));
        };
        if len > MEMBERS_MAX {
            return Err(Faults::only(TOO_MANY_MEMBERS));
        }
        let mut members = Self {
            known: [None; FIELDS],
            unknown: Vec::new(),
            unreadable: [false; FIELDS],
            faults: Faults::default(),
        };
        for (name, fault) in unreadable {
            members.faults.push_at(fault.pointer, fault.detail);
            if let Some(field) = field_of(&name) {
                members.unreadable[field.index()] = true;
            }
        }
        let mut rest = &nodes[1..];
        for _ in 0..len {
            let (name, value, after) = extra::split_member(rest);
            match field_of(name) {
                Some(field) => members.put(field, name, &rest[..1 + value.len()]),
                None => members.unknown.push((name, value)),
            }
            rest = after;
        }
        Ok(members)
    }

    fn put<F: Field>(&mut self, field: F, name: &str, nodes: &'t [Node<'a>]) {
        let slot = &mut self.known[field.index()];
        if self.unreadable[field.index()] {
            self.faults.push(name, "stands twice");
        } else if let Some(first) = slot {
            let (first, _, _) = extra::split_member(first);
            let detail = if first == name {
                "stands twice".to_owned()
            } else {
                format!("is the same member as {first:?}")
            };
            self.faults.push(name, detail);
        } else {
            *slot = Some(nodes);
        }
    }

    /// A member that can be read: its name as sent, and its value.
    pub(super) fn sent<F: Field>(&self, field: F) -> Option<Member<'t, 'a>> {
        let (name, value, _) = extra::split_member(self.known[field.index()]?);
        Some((name, value))
    }

    /// Whether the item has the member, but nobody can hold its value.
    pub(super) fn is_unreadable<F: Field>(&self, field: F) -> bool {
        self.unreadable[field.index()]
    }

    /// A member that must be there.
    pub(super) fn required<F: Field, T: Default, E: Into<Wrong>>(
        &mut self,
        field: F,
        read: impl FnOnce(&Node<'a>) -> Result<T, E>,
    ) -> T {
        match self.sent(field) {
            Some((name, value)) => self.read(name, &value[0], read).unwrap_or_default(),
            None => {
                if !self.is_unreadable(field) {
                    self.faults.push(field.name(), "is missing");
                }
                T::default()
            }
        }
    }

    /// A member of which null is the same as its absence.
    pub(super) fn optional<F: Field, T, E: Into<Wrong>>(
        &mut self,
        field: F,
        read: impl FnOnce(&Node<'a>) -> Result<T, E>,
    ) -> Option<T> {
        let (name, value) = self.sent(field)?;
        if is_null(&value[0]) {
            return None;
        }
        self.read(name, &value[0], read)
    }

    /// A member that may be absent and cannot be null.
    pub(super) fn given<F: Field, T, E: Into<Wrong>>(
        &mut self,
        field: F,
        read: impl FnOnce(&Node<'a>) -> Result<T, E>,
    ) -> Option<T> {
        let (name, value) = self.sent(field)?;
        self.read(name, &value[0], read)
    }

    pub(super) fn read<T, E: Into<Wrong>>(
        &mut self,
        name: &str,
        node: &Node<'a>,
        read: impl FnOnce(&Node<'a>) -> Result<T, E>,
    ) -> Option<T> {
        read(node)
            .map_err(|wrong| {
                let detail = match (wrong.into(), node) {
                    (Wrong::Told(detail), _) => detail,
                    (
                        Wrong::Expected(expected),
                        Node::Static(StaticNode::I64(_) | StaticNode::U64(_)),
                    ) => expected.to_owned(),
                    (Wrong::Expected(expected), other) => {
                        format!("{expected}; it is {}", kind_of(other))
                    }
                };
                self.faults.push(name, detail);
            })
            .ok()
    }

    /// The version that the sender says the resource has, in the item or in `If-Match`.
    pub(super) fn expected_version<F: Field>(
        &mut self,
        field: F,
        if_match: Option<i32>,
    ) -> Option<i32> {
        let Some((name, value)) = self.sent(field) else {
            return if_match;
        };
        // Null as well: whoever forgot to set it must not get an unconditional change.
        let member = self.read(name, &value[0], version)?;
        match if_match {
            Some(header) if header != member => {
                self.faults
                    .push(name, format!("is {member}, but If-Match is \"{header}\""));
                None
            }
            _ => Some(member),
        }
    }
}

pub(super) fn is_null(node: &Node<'_>) -> bool {
    matches!(node, Node::Static(StaticNode::Null))
}

fn version(node: &Node<'_>) -> Result<i32, &'static str> {
    integer(node)
        .and_then(|number| i32::try_from(number).ok())
        .filter(|number| *number >= 1)
        .ok_or("must be an integer from 1 to 2147483647")
}
