//! Finds the records that cannot be stored, by halves, inside the batch's own transaction.

use std::collections::BTreeMap;

use tokio_postgres::Statement;

use super::careful::BACK_TO_SAVEPOINT;
use super::fault::{Fault, Refusal, classify};
use super::fold::{Folded, Item, Known, Write, fold};
use super::rides;
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

    /// The longest run of bad records in log order, as its length and its last record.
    fn longest_run(&self, before: u32) -> (u32, Option<(usize, &Refusal)>) {
        let mut longest = (0, None);
        let mut run = before;
        for (at, refusal) in &self.0 {
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
/// alone; then folds without them. What that lets come into effect is tried in turn.
///
/// Leaves nothing staged.
pub(super) async fn narrow(
    session: &mut Session<'_>,
    copy_staged: &Statement,
    items: &[Item<'_>],
    known: &Known,
    mut folded: Folded,
    bad_before: u32,
) -> Result<(Folded, Tried), ApplyError> {
    let mut tried = Tried::default();
    back(session).await?;
    loop {
        let is_new = |write: &&Write| !tried.0.contains_key(&write.item);
        let untried: Vec<Write> = folded.writes.iter().filter(is_new).copied().collect();
        if untried.is_empty() {
            return Ok((folded, tried));
        }
        let everything = 0..untried.len();
        let mut ranges = vec![everything];
        while let Some(range) = ranges.pop() {
            let part = &untried[range.clone()];
            match (probe(session, copy_staged, items, part).await?, part) {
                (None, _) => tried.0.extend(part.iter().map(|it| (it.item, None))),
                (Some(refusal), [one]) => {
                    tried.0.insert(one.item, Some(refusal));
                    hold_if_too_many(&tried, bad_before, items)?;
                }
                (Some(_), _) => {
                    let middle = range.start + range.len() / 2;
                    ranges.push(middle..range.end);
                    // In log order, so that a run of bad records is seen as one.
                    ranges.push(range.start..middle);
                }
            }
        }
        folded =
            fold(items, known, &tried.unstorable()).map_err(|error| incomparable(items, error))?;
    }
}

/// Whether the database takes these rows; nothing of them stays.
async fn probe(
    session: &mut Session<'_>,
    copy_staged: &Statement,
    items: &[Item<'_>],
    part: &[Write],
) -> Result<Option<Refusal>, ApplyError> {
    let rows = rides::rows(items, part);
    let result = session.copy(copy_staged, rows, rides::encode_staged).await;
    let refusal = match result {
        Ok(_) => None,
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

fn hold_if_too_many(tried: &Tried, bad_before: u32, items: &[Item<'_>]) -> Result<(), ApplyError> {
    let (in_a_row, last) = tried.longest_run(bad_before);
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
        assert_eq!(tried(&[true, false, true, true]).longest_run(7).0, 8);
        assert_eq!(tried(&[true, false, true, true]).longest_run(0).0, 2);
        assert_eq!(tried(&[false]).longest_run(99).0, 0);
    }
}
