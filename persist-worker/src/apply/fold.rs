//! What the records of a batch amount to: pure, in log order.

use std::collections::{BTreeMap, HashMap};

use contract::content_hash::UnknownVersion;
use contract::event::Event;
use contract::outcome::{Action, FailureCode, Outcome};
use contract::timing::EXPIRY_SLACK;
use contract::{ContentHash, Entry, Kind, Record};
use uuid::Uuid;

use super::fault::Refusal;
use super::kinds::{Known, Now, State, Step};
use super::rejection::Rejection;
use super::requests;
use crate::batch::{Batch, InstallationFault};

/// A resource: what operations are folded by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Key<'b> {
    pub(crate) partner_id: i32,
    pub(crate) id: Id<'b>,
}

/// What a resource is called within its partner.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Id<'b> {
    Ride(i64),
    Courier(&'b str),
}

impl<'b> Key<'b> {
    pub(crate) fn of(entry: &'b Entry) -> Self {
        Self {
            partner_id: entry.partner_id,
            id: match &entry.record {
                Record::Ride(ride) => Id::Ride(ride.id),
                Record::Courier(command) => Id::Courier(&command.courier_id),
            },
        }
    }
}

/// An entry, where the log has it, and what is needed of it again and again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item<'b> {
    pub(crate) entry: &'b Entry,
    pub(crate) key: Key<'b>,
    pub(crate) hash: ContentHash,
    pub(crate) log_seq: i64,
    pub(crate) log_index: i32,
    /// By how much the log stored its chunk after the publish deadline, in microseconds, if that
    /// is more than the expiry slack.
    pub(crate) late_us: Option<i64>,
}

impl Item<'_> {
    pub(crate) fn id(&self) -> Uuid {
        self.entry.tracking_id.uuid()
    }

    fn repeats(&self, other: &Item<'_>) -> bool {
        self.key == other.key
            && self.hash == other.hash
            && self.entry.operation == other.entry.operation
            && self.entry.expected_version == other.entry.expected_version
    }

    /// Whether the record has the content that a stored hash was taken of.
    pub(crate) fn has(&self, stored: ContentHash) -> Result<bool, UnknownVersion> {
        if stored.version() == self.hash.version() {
            return Ok(stored == self.hash);
        }
        stored.matches(&self.entry.record)
    }

    /// Whether a ledger row is this very record's.
    pub(crate) fn is(
        &self,
        partner_id: i32,
        kind: i16,
        resource_id: &str,
        hash: ContentHash,
    ) -> bool {
        let same_resource = self.key.partner_id == partner_id
            && self.entry.record.kind() as i16 == kind
            && requests::resource_id(&self.entry.record) == resource_id;
        // An unknown hash version cannot tell them apart; the id and the resource are the same.
        same_resource && hash.matches(&self.entry.record).unwrap_or(true)
    }

    pub(crate) fn reused(&self) -> InstallationFault {
        InstallationFault::TrackingIdReused {
            tracking_id: self.entry.tracking_id,
            log_seq: self.log_seq,
            log_index: self.log_index,
        }
    }
}

/// The records of a batch in log order; a tracking id that the log holds twice is taken once.
#[derive(Debug)]
pub(crate) struct Items<'b> {
    pub(crate) list: Vec<Item<'b>>,
    /// How many entries stood earlier in the batch already.
    pub(crate) repeated: u64,
    /// Whether some record can be judged only against what the database has.
    pub(crate) conditional_rides: bool,
    /// Whether there are commands to couriers.
    pub(crate) couriers: bool,
}

impl<'b> Items<'b> {
    /// # Errors
    /// [`InstallationFault::TrackingIdReused`] if one id stands for two records.
    pub(crate) fn of(batch: &'b Batch) -> Result<Self, InstallationFault> {
        let entries = batch.chunks.iter().map(|it| it.chunk.entries.len()).sum();
        let mut first = HashMap::with_capacity(entries);
        let mut list: Vec<Item<'b>> = Vec::with_capacity(entries);
        let mut repeated = 0;
        let mut conditional_rides = false;
        let mut couriers = false;
        for logged in &batch.chunks {
            let late_us = late_us(logged.stored_at_us, logged.chunk.header.publish_by_us);
            for (log_index, entry) in (0..).zip(&logged.chunk.entries) {
                match entry.record.kind() {
                    Kind::Ride => conditional_rides |= entry.expected_version.is_some(),
                    Kind::Courier => couriers = true,
                }
                let item = Item {
                    entry,
                    key: Key::of(entry),
                    hash: ContentHash::of(&entry.record),
                    log_seq: logged.seq.cast_signed(),
                    log_index,
                    late_us,
                };
                let earlier = *first.entry(entry.tracking_id).or_insert(list.len());
                match list.get(earlier) {
                    None => list.push(item),
                    Some(same) if same.repeats(&item) => repeated += 1,
                    Some(_) => return Err(item.reused()),
                }
            }
        }
        Ok(Self {
            list,
            repeated,
            conditional_rides,
            couriers,
        })
    }
}

fn late_us(stored_at_us: i64, publish_by_us: i64) -> Option<i64> {
    let slack_us = i64::try_from(EXPIRY_SLACK.as_micros()).expect("seconds");
    let late_us = stored_at_us.saturating_sub(publish_by_us);
    (late_us > slack_us).then_some(late_us)
}

/// How a record ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Persisted(Action),
    /// Of the record with this id.
    Duplicate(Uuid),
    Rejected(Rejection),
    Expired {
        late_us: i64,
    },
    Unstorable(Refusal),
}

impl Verdict {
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Persisted(_) => Outcome::Persisted,
            Self::Duplicate(_) => Outcome::Duplicate,
            Self::Rejected(_) | Self::Expired { .. } | Self::Unstorable(_) => Outcome::Failed,
        }
    }

    pub(crate) fn action(&self) -> Option<Action> {
        match self {
            Self::Persisted(action) => Some(*action),
            _ => None,
        }
    }

    pub(crate) fn code(&self) -> Option<FailureCode> {
        match self {
            Self::Rejected(rejection) => Some(rejection.code()),
            Self::Expired { .. } => Some(FailureCode::Expired),
            Self::Unstorable(_) => Some(FailureCode::Unstorable),
            Self::Persisted(_) | Self::Duplicate(_) => None,
        }
    }

    pub(crate) fn duplicate_of(&self) -> Option<Uuid> {
        match self {
            Self::Duplicate(first) => Some(*first),
            _ => None,
        }
    }

    /// A sentence for the partner, of failures only.
    pub(crate) fn detail(&self, item: &Item<'_>) -> Option<String> {
        match self {
            Self::Rejected(rejection) => Some(rejection.sentence(item.entry)),
            Self::Expired { late_us } => Some(format!(
                "the log stored this request {} s after its publish deadline, so it was not \
                 applied; send it again if it still holds",
                late_us / 1_000_000
            )),
            Self::Unstorable(refusal) => Some(format!(
                "{} {} cannot be stored: {}",
                item.entry.record.kind().word(),
                item.entry.record.resource_id(),
                refusal.sentence()
            )),
            Self::Persisted(_) | Self::Duplicate(_) => None,
        }
    }
}

/// A record that changes its resource.
#[derive(Debug)]
pub(crate) struct Write {
    /// Its place in the batch's items.
    pub(crate) item: usize,
    /// The resource afterwards.
    pub(crate) after: State,
    /// What others are told of it.
    pub(crate) events: Vec<Event>,
    /// Whether no later record of the batch changes the resource again.
    pub(crate) last: bool,
}

/// A folded batch.
#[derive(Debug, Default)]
pub(crate) struct Folded {
    /// One per item, `None` where the ledger has its outcome already.
    pub(crate) verdicts: Vec<Option<Verdict>>,
    /// In log order.
    pub(crate) writes: Vec<Write>,
}

/// A stored hash that an item cannot be compared with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Incomparable {
    /// The item's place in the batch.
    pub(crate) item: usize,
    pub(crate) version: UnknownVersion,
}

/// What a record amounts to, were it stored.
#[derive(Debug)]
pub(crate) enum Judgement {
    /// Its resource stays as it is.
    Settled(Verdict),
    /// Its resource becomes another.
    Change {
        after: State,
        events: Vec<Event>,
        action: Action,
    },
}

/// Applies every record to its resource in log order.
///
/// # Errors
/// [`Incomparable`] names the first record whose stored counterpart this build cannot judge.
pub(crate) fn fold<'b>(
    items: &[Item<'b>],
    known: &Known<'b>,
    unstorable: &BTreeMap<usize, Refusal>,
) -> Result<Folded, Incomparable> {
    let mut now = Now::new(known, items.len());
    let mut folded = Folded {
        verdicts: Vec::with_capacity(items.len()),
        writes: Vec::with_capacity(items.len()),
    };
    for (at, item) in items.iter().enumerate() {
        if known.in_ledger.get(at).copied().unwrap_or(false) {
            folded.verdicts.push(None);
            continue;
        }
        if let Some(late_us) = item.late_us {
            folded.verdicts.push(Some(Verdict::Expired { late_us }));
            continue;
        }
        let step = now
            .step(item, unstorable.get(&at), folded.writes.len())
            .map_err(|version| Incomparable { item: at, version })?;
        let verdict = match step {
            Step::Settled(verdict) => verdict,
            Step::Written {
                verdict,
                after,
                events,
                overwritten,
            } => {
                if let Some(earlier) = overwritten {
                    folded.writes[earlier].last = false;
                }
                folded.writes.push(Write {
                    item: at,
                    after,
                    events,
                    last: true,
                });
                verdict
            }
        };
        folded.verdicts.push(Some(verdict));
    }
    Ok(folded)
}

#[cfg(test)]
mod tests;
