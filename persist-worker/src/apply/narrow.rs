//! Finds the records that cannot be stored, by halves, inside the batch's own transaction.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::careful::BACK_TO_SAVEPOINT;
use super::fault::{Fault, Refusal, classify};
use super::fold::{Folded, Item, Key, Write, fold};
use super::kinds::{Known, Tables};
use super::session::{Session, incomparable};
use crate::batch::ApplyError;

/// So many records in a row are hardly all bad: the partition is held for somebody to look.
pub(super) const BAD_IN_A_ROW_MAX: u32 = 100;

/// The records that were tried, by their place in the batch, and why not if not.
#[derive(Debug, Default)]
pub(super) struct Tried(BTreeMap<usize, Option<Refusal>>);

impl Tried {
    fn unstorable(&self) -> BTreeMap<usize, Refusal> {
        let bad = |(at, refusal): (&usize, &Option<Refusal>)| Some((*at, refusal.clone()?));
        self.0.iter().filter_map(bad).collect()
    }

    /// The longest run of bad records in log order, as its length and its last record. A record
    /// whose turn has yet to come may be a good one.
    fn longest_run(
        &self,
        before: u32,
        untried: &BTreeSet<usize>,
    ) -> (u32, Option<(usize, &Refusal)>) {
        let mut longest = (0, None);
        let mut run = before;
        let mut from = 0;
        for (at, refusal) in &self.0 {
            let ends = untried.range(from..*at).next().is_some();
            from = *at;
            if ends {
                run = 0;
            }
            let Some(refusal) = refusal else {
                run = 0;
                continue;
            };
            run += 1;
            if run > longest.0 {
                longest = (run, Some((*at, refusal)));
            }
        }
        longest
    }

    /// The run of bad records that the batch ends with, which the next one may continue. When
    /// nothing had to be tried, all that was `written` was good.
    pub(super) fn trailing_bad(&self, before: u32, written: bool) -> u32 {
        if self.0.is_empty() {
            return if written { 0 } else { before };
        }
        self.0.values().fold(before, |run, refusal| match refusal {
            Some(_) => run + 1,
            None => 0,
        })
    }
}

/// Tries the writes of `folded`, of which at least one was refused, until every bad record stands
/// alone; then folds without them. What that lets come into effect is tried in turn, and so is
/// what a bad record was a part of.
///
/// Leaves nothing staged.
pub(super) async fn narrow<'b>(
    session: &mut Session<'_>,
    tables: &Tables,
    items: &[Item<'b>],
    known: &Known<'b>,
    mut folded: Folded,
    bad_before: u32,
) -> Result<(Folded, Tried), ApplyError> {
    let mut tried = Tried::default();
    back(session).await?;
    loop {
        let is_new = |write: &&Write| !tried.0.contains_key(&write.item);
        let untried: Vec<&Write> = folded.writes.iter().filter(is_new).collect();
        if untried.is_empty() {
            return Ok((folded, tried));
        }
        try_all(session, tables, items, &untried, &mut tried, bad_before).await?;
        folded =
            fold(items, known, &tried.unstorable()).map_err(|error| incomparable(items, error))?;
    }
}

/// Tries writes of one fold by halves, but for those that a bad one among them is a part of. At
/// least one is tried.
async fn try_all(
    session: &mut Session<'_>,
    tables: &Tables,
    items: &[Item<'_>],
    untried: &[&Write],
    tried: &mut Tried,
    bad_before: u32,
) -> Result<(), ApplyError> {
    let mut left: BTreeSet<usize> = untried.iter().map(|write| write.item).collect();
    let mut spoiled: HashSet<Key<'_>> = HashSet::new();
    let everything = 0..untried.len();
    let mut ranges = vec![everything];
    while let Some(range) = ranges.pop() {
        let is_sound = |write: &&&Write| !spoiled.contains(&items[write.item].key);
        let part = untried[range.clone()].iter().filter(is_sound).copied();
        let part: Vec<&Write> = part.collect();
        if part.is_empty() {
            continue;
        }
        match (probe(session, tables, items, &part).await?, &part[..]) {
            (None, _) => {
                for write in part {
                    left.remove(&write.item);
                    tried.0.insert(write.item, None);
                }
            }
            (Some(refusal), [one]) => {
                left.remove(&one.item);
                tried.0.insert(one.item, Some(refusal));
                if one.after.builds_on_others() {
                    spoiled.insert(items[one.item].key);
                }
                hold_if_too_many(tried, bad_before, &left, items)?;
            }
            (Some(_), _) => {
                let middle = range.start + range.len() / 2;
                ranges.push(middle..range.end);
                // In log order, so that a run of bad records is seen as one, and a bad record
                // before those that build on it.
                ranges.push(range.start..middle);
            }
        }
    }
    Ok(())
}

/// Whether the database takes these rows; nothing of them stays.
async fn probe(
    session: &mut Session<'_>,
    tables: &Tables,
    items: &[Item<'_>],
    part: &[&Write],
) -> Result<Option<Refusal>, ApplyError> {
    let refusal = match tables.copy(session, items, part).await {
        Ok(()) => None,
        Err(error) => match (classify(&error), error.as_db_error()) {
            (Fault::Record | Fault::Taken, Some(refusal)) => Some(Refusal::of(refusal)),
            _ => return Err(error.into()),
        },
    };
    back(session).await?;
    Ok(refusal)
}

async fn back(session: &mut Session<'_>) -> Result<(), ApplyError> {
    session.transaction.batch_execute(BACK_TO_SAVEPOINT).await?;
    session.waited();
    Ok(())
}

fn hold_if_too_many(
    tried: &Tried,
    bad_before: u32,
    untried: &BTreeSet<usize>,
    items: &[Item<'_>],
) -> Result<(), ApplyError> {
    let (in_a_row, last) = tried.longest_run(bad_before, untried);
    match last {
        Some((at, refusal)) if in_a_row >= BAD_IN_A_ROW_MAX => Err(ApplyError::TooManyBad {
            in_a_row,
            log_seq: items[at].log_seq,
            log_index: items[at].log_index,
            sqlstate: refusal.sqlstate.clone(),
            message: refusal.message.clone(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(bad: &[bool]) -> Tried {
        let refusal = || Refusal {
            sqlstate: "22P05".to_owned(),
            message: String::new(),
        };
        Tried(
            bad.iter()
                .map(|bad| bad.then(refusal))
                .enumerate()
                .collect(),
        )
    }

    #[test]
    fn a_run_goes_on_across_batches_and_ends_with_a_good_record() {
        assert_eq!(tried(&[]).trailing_bad(7, false), 7);
        assert_eq!(tried(&[]).trailing_bad(7, true), 0);
        assert_eq!(tried(&[true, true]).trailing_bad(7, false), 9);
        assert_eq!(tried(&[true, false, true]).trailing_bad(7, true), 1);
        let none = BTreeSet::new();
        assert_eq!(tried(&[true, false, true, true]).longest_run(7, &none).0, 8);
        assert_eq!(tried(&[true, false, true, true]).longest_run(0, &none).0, 2);
        assert_eq!(tried(&[false]).longest_run(99, &none).0, 0);
    }

    #[test]
    fn what_is_not_tried_yet_may_end_a_run() {
        let mut tried = tried(&[true, true, true]);
        tried.0.remove(&1);
        assert_eq!(tried.longest_run(7, &BTreeSet::from([1])).0, 8);
        assert_eq!(tried.longest_run(7, &BTreeSet::from([0, 1])).0, 8);
        assert_eq!(tried.longest_run(7, &BTreeSet::from([3])).0, 9);
    }
}
