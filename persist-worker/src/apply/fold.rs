//! What the records of a batch amount to: pure, in log order.

use std::collections::{BTreeMap, HashMap};

use contract::content_hash::UnknownVersion;
use contract::outcome::{Action, FailureCode, Outcome};
use contract::timing::EXPIRY_SLACK;
use contract::{ContentHash, Entry, Kind, Operation, Record};
use uuid::Uuid;

use super::fault::Refusal;
use crate::batch::{Batch, InstallationFault};

/// A resource: what operations are folded by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) partner_id: i32,
    pub(crate) id: i64,
}

impl Key {
    pub(crate) fn of(entry: &Entry) -> Self {
        let Record::Ride(ride) = &entry.record else {
            unreachable!("held where it was decoded")
        };
        Self {
            kind: Kind::Ride,
            partner_id: entry.partner_id,
            id: ride.id,
        }
    }
}

/// What a resource's row says besides its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct State {
    /// Record that wrote the present content.
    pub(crate) tracking_id: Uuid,
    pub(crate) content_hash: ContentHash,
    /// Record that created the resource.
    pub(crate) created_by: Uuid,
    pub(crate) created_hash: ContentHash,
    pub(crate) version: i32,
}

/// An entry, where the log has it, and what is needed of it again and again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item<'b> {
    pub(crate) entry: &'b Entry,
    pub(crate) key: Key,
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
            && self.key.kind as i16 == kind
            && self.entry.record.resource_id() == resource_id;
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
}

impl<'b> Items<'b> {
    /// # Errors
    /// [`InstallationFault::TrackingIdReused`] if one id stands for two records.
    pub(crate) fn of(batch: &'b Batch) -> Result<Self, InstallationFault> {
        let entries = batch.chunks.iter().map(|it| it.chunk.entries.len()).sum();
        let mut first = HashMap::with_capacity(entries);
        let mut list: Vec<Item<'b>> = Vec::with_capacity(entries);
        let mut repeated = 0;
        for logged in &batch.chunks {
            let late_us = late_us(logged.stored_at_us, logged.chunk.header.publish_by_us);
            for (log_index, entry) in (0..).zip(&logged.chunk.entries) {
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
        Ok(Self { list, repeated })
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
    Created,
    Replaced,
    /// Of the record with this id.
    Duplicate(Uuid),
    /// The resource was created by this record, with other content.
    Conflict(Uuid),
    Expired {
        late_us: i64,
    },
    Unstorable(Refusal),
}

impl Verdict {
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Created | Self::Replaced => Outcome::Persisted,
            Self::Duplicate(_) => Outcome::Duplicate,
            Self::Conflict(_) | Self::Expired { .. } | Self::Unstorable(_) => Outcome::Failed,
        }
    }

    pub(crate) fn action(&self) -> Option<Action> {
        match self {
            Self::Created => Some(Action::Created),
            Self::Replaced => Some(Action::Replaced),
            _ => None,
        }
    }

    pub(crate) fn code(&self) -> Option<FailureCode> {
        match self {
            Self::Conflict(_) => Some(FailureCode::Conflict),
            Self::Expired { .. } => Some(FailureCode::Expired),
            Self::Unstorable(_) => Some(FailureCode::Unstorable),
            Self::Created | Self::Replaced | Self::Duplicate(_) => None,
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
        let word = item.entry.record.kind().word();
        let id = item.key.id;
        match self {
            Self::Conflict(created_by) => Some(format!(
                "{word} {id} exists already and was created with other content, by request \
                 {created_by}; a PUT would replace it"
            )),
            Self::Expired { late_us } => Some(format!(
                "the log stored this request {} s after its publish deadline, so it was not \
                 applied; send it again if it still holds",
                late_us / 1_000_000
            )),
            Self::Unstorable(refusal) => Some(format!(
                "{word} {id} cannot be stored: {}",
                refusal.sentence()
            )),
            Self::Created | Self::Replaced | Self::Duplicate(_) => None,
        }
    }
}

/// A record that changes its resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Write {
    /// Its place in the batch's items.
    pub(crate) item: usize,
    /// The resource afterwards.
    pub(crate) after: State,
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

impl Folded {
    /// Whether a resource is written more than once: a fast path would never show the database
    /// the content in between, and so never learn whether that could be stored.
    pub(crate) fn overwrites(&self) -> bool {
        self.writes.iter().any(|write| !write.last)
    }
}

/// A stored hash that an item cannot be compared with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Incomparable {
    /// The item's place in the batch.
    pub(crate) item: usize,
    pub(crate) version: UnknownVersion,
}

/// What is known from the database before folding; empty on the fast path.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Per item: whether the ledger has its tracking id. Empty means none.
    pub(crate) in_ledger: Vec<bool>,
    /// The resources that exist, of those that the batch is about.
    pub(crate) states: HashMap<Key, State>,
}

/// Applies every record to its resource in log order.
///
/// # Errors
/// [`Incomparable`] names the first record whose stored counterpart this build cannot judge.
pub(crate) fn fold(
    items: &[Item<'_>],
    known: &Known,
    unstorable: &BTreeMap<usize, Refusal>,
) -> Result<Folded, Incomparable> {
    let mut now: HashMap<Key, Slot> = HashMap::with_capacity(items.len());
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
        let slot = now.entry(item.key).or_insert_with(|| Slot {
            state: known.states.get(&item.key).copied(),
            write: None,
        });
        let verdict = decide(slot.state.as_ref(), item)
            .map_err(|version| Incomparable { item: at, version })?;
        let Some(after) = after(slot.state.as_ref(), item, &verdict) else {
            folded.verdicts.push(Some(verdict));
            continue;
        };
        if let Some(refusal) = unstorable.get(&at) {
            let verdict = Verdict::Unstorable(refusal.clone());
            folded.verdicts.push(Some(verdict));
            continue;
        }
        if let Some(earlier) = slot.write {
            folded.writes[earlier].last = false;
        }
        *slot = Slot {
            state: Some(after),
            write: Some(folded.writes.len()),
        };
        folded.writes.push(Write {
            item: at,
            after,
            last: true,
        });
        folded.verdicts.push(Some(verdict));
    }
    Ok(folded)
}

struct Slot {
    state: Option<State>,
    /// The resource's latest place in `writes`.
    write: Option<usize>,
}

fn decide(current: Option<&State>, item: &Item<'_>) -> Result<Verdict, UnknownVersion> {
    let Some(state) = current else {
        return Ok(Verdict::Created);
    };
    Ok(match item.entry.operation {
        Operation::Create if same(state.created_hash, item)? => {
            Verdict::Duplicate(state.created_by)
        }
        Operation::Create => Verdict::Conflict(state.created_by),
        Operation::Replace if same(state.content_hash, item)? => {
            Verdict::Duplicate(state.tracking_id)
        }
        Operation::Replace => Verdict::Replaced,
        Operation::Command => unreachable!("held where it was decoded"),
    })
}

fn same(stored: ContentHash, item: &Item<'_>) -> Result<bool, UnknownVersion> {
    if stored.version() == item.hash.version() {
        return Ok(stored == item.hash);
    }
    stored.matches(&item.entry.record)
}

/// The resource after a record that changes it; `None` for one that does not.
fn after(current: Option<&State>, item: &Item<'_>, verdict: &Verdict) -> Option<State> {
    match (verdict, current) {
        (Verdict::Created, _) => Some(State {
            tracking_id: item.id(),
            content_hash: item.hash,
            created_by: item.id(),
            created_hash: item.hash,
            version: 1,
        }),
        (Verdict::Replaced, Some(before)) => Some(State {
            tracking_id: item.id(),
            content_hash: item.hash,
            version: before.version.saturating_add(1),
            ..*before
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
