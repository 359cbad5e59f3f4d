//! What becomes of an accepted record, in words and in the numbers the tables hold.

/// How a record ended. Exactly one per accepted record; until then it is `queued`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(i16)]
pub enum Outcome {
    /// It is in the state table, or was until something replaced it.
    Persisted = 1,
    /// Same resource, same content: nothing was changed, and the first tracking id is named.
    Duplicate = 2,
    /// Nothing was changed, for the reason its [`FailureCode`] names. Never retried by itself.
    Failed = 3,
}

impl Outcome {
    /// The word in JSON and in views: `persisted`, `duplicate` or `failed`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Persisted => "persisted",
            Self::Duplicate => "duplicate",
            Self::Failed => "failed",
        }
    }

    /// The outcome that a table's `outcome` column holds.
    #[must_use]
    pub fn from_number(number: i16) -> Option<Self> {
        [Self::Persisted, Self::Duplicate, Self::Failed]
            .into_iter()
            .find(|it| *it as i16 == number)
    }
}

/// What a persisted record did to its resource.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(i16)]
pub enum Action {
    /// The resource is new.
    Created = 1,
    /// The resource existed and has the record's content now.
    Replaced = 2,
    /// The resource existed and was changed in part.
    Updated = 3,
    /// The resource is gone; its id is not used again.
    Deleted = 4,
}

impl Action {
    /// The word in JSON and in views.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Replaced => "replaced",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
        }
    }

    /// The action that a table's `action` column holds.
    #[must_use]
    pub fn from_number(number: i16) -> Option<Self> {
        [Self::Created, Self::Replaced, Self::Updated, Self::Deleted]
            .into_iter()
            .find(|it| *it as i16 == number)
    }
}

/// Why a record failed: the `code` of a `failed` outcome.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FailureCode {
    /// A create met the same resource with other content, or a movement the same reference with
    /// another capacity.
    Conflict,
    /// The log stored the record's chunk too long after its publish deadline.
    Expired,
    /// The database refuses the record's values.
    Unstorable,
    /// A change to what does not exist.
    NotFound,
    /// A change to, or a new creation of, what was deleted.
    Deleted,
    /// The resource does not have the version that the record expected.
    StaleVersion,
    /// The largest capacity would fall below what is in use.
    CapacityInUse,
    /// The available capacity would exceed the largest.
    OverCapacity,
    /// A pickup of more than is available.
    InsufficientCapacity,
    /// A dropoff of more than is out.
    ExcessDropoff,
    /// A patch would make the attributes larger than they may be.
    AttributesTooLarge,
}

impl FailureCode {
    /// Every code there is, for documents and tests.
    pub const ALL: [Self; 11] = [
        Self::Conflict,
        Self::Expired,
        Self::Unstorable,
        Self::NotFound,
        Self::Deleted,
        Self::StaleVersion,
        Self::CapacityInUse,
        Self::OverCapacity,
        Self::InsufficientCapacity,
        Self::ExcessDropoff,
        Self::AttributesTooLarge,
    ];

    /// The word in JSON and in the ledger.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Expired => "expired",
            Self::Unstorable => "unstorable",
            Self::NotFound => "not-found",
            Self::Deleted => "deleted",
            Self::StaleVersion => "stale-version",
            Self::CapacityInUse => "capacity-in-use",
            Self::OverCapacity => "over-capacity",
            Self::InsufficientCapacity => "insufficient-capacity",
            Self::ExcessDropoff => "excess-dropoff",
            Self::AttributesTooLarge => "attributes-too-large",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_words_go_both_ways() {
        for outcome in [Outcome::Persisted, Outcome::Duplicate, Outcome::Failed] {
            assert_eq!(Outcome::from_number(outcome as i16), Some(outcome));
        }
        for action in [
            Action::Created,
            Action::Replaced,
            Action::Updated,
            Action::Deleted,
        ] {
            assert_eq!(Action::from_number(action as i16), Some(action));
        }
        assert_eq!(Outcome::from_number(0), None);
        assert_eq!(Action::from_number(5), None);
    }
}
