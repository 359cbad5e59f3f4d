//! The books: every acknowledged id ends in exactly one outcome, or it is named.
//!
//! One byte for each record, one map entry for each tracking id: a run of an hour at 10,000 a
//! second takes about 2 GB, one of five minutes 150 MB.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use uuid::Uuid;

use super::accounts::Accounts;
use super::engine::{Contradictions, Given};
use super::generate::{Generator, Nature};
use super::tally::count;
use crate::report::schema::{DISCREPANCIES_LISTED_MAX, Discrepancies, Doubled, Record};

/// What a look-up says about a tracking id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Persisted,
    Duplicate,
    Failed(String),
    /// The ledger does not know it, and should.
    Lost,
}

/// Where a record stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    #[default]
    NotAccepted,
    Accepted,
    Persisted,
    Duplicate,
    Failed,
    Lost,
}

#[derive(Debug)]
pub(crate) struct Books {
    started: Instant,
    states: Vec<State>,
    given: HashMap<Uuid, u64>,
    persisted: u64,
    duplicate: u64,
    failed: u64,
    failed_by: BTreeMap<String, u64>,
    lost: Listed,
    doubled: u64,
    doubled_listed: Vec<Doubled>,
    /// Fresh records that ended `duplicate`, and repeated ones that were `persisted`: seldom.
    duplicate_fresh: Vec<(u64, Uuid, f64)>,
    persisted_again: HashMap<u64, (u64, Uuid)>,
    pub(crate) accounts: Accounts,
    pub(crate) contradictions: Contradictions,
}

/// A count, and the first of what is counted.
#[derive(Clone, Default, Debug)]
struct Listed {
    count: u64,
    records: Vec<Record>,
}

impl Listed {
    fn add(&mut self, record: impl FnOnce() -> Record) {
        self.count += 1;
        if self.records.len() < DISCREPANCIES_LISTED_MAX {
            self.records.push(record());
        }
    }
}

/// The books when everything that could be learnt has been.
#[derive(Clone, Default, Debug)]
pub(crate) struct Closed {
    pub(crate) persisted: u64,
    pub(crate) duplicate: u64,
    pub(crate) failed: u64,
    pub(crate) lost: u64,
    pub(crate) unsettled: u64,
    pub(crate) doubled: u64,
    pub(crate) unexpected_duplicates: u64,
    pub(crate) failed_by: BTreeMap<String, u64>,
    pub(crate) discrepancies: Discrepancies,
}

impl Closed {
    /// Whether every acknowledged id is accounted for.
    pub(crate) fn balance(&self) -> bool {
        self.lost + self.unsettled + self.doubled + self.unexpected_duplicates == 0
    }
}

impl Books {
    /// `started`: when sending began.
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            started,
            states: Vec::new(),
            given: HashMap::new(),
            persisted: 0,
            duplicate: 0,
            failed: 0,
            failed_by: BTreeMap::new(),
            lost: Listed::default(),
            doubled: 0,
            doubled_listed: Vec::new(),
            duplicate_fresh: Vec::new(),
            persisted_again: HashMap::new(),
            accounts: Accounts::default(),
            contradictions: Contradictions::default(),
        }
    }

    /// A record got a tracking id; `false` if that id is another's, and need not be followed twice.
    pub(crate) fn accept(&mut self, given: &Given) -> bool {
        let at = index(given.record);
        if self.states.len() <= at {
            self.states.resize(at + 1, State::NotAccepted);
        }
        self.states[at] = State::Accepted;
        if let Some(other) = self.given.insert(given.tracking_id, given.record) {
            self.double(
                "id-given-twice",
                vec![other, given.record],
                vec![given.tracking_id],
            );
            return false;
        }
        true
    }

    /// A tracking id has its outcome.
    pub(crate) fn settle(&mut self, given: &Given, outcome: &Outcome, generator: &Generator) {
        let again = match generator.nature(given.record) {
            Nature::Again(original) => Some(original),
            Nature::Fresh | Nature::Bad => None,
        };
        self.accounts.settle(given, outcome, generator);
        let state = &mut self.states[index(given.record)];
        let entry = self.started;
        let sent_at_seconds = given.due.saturating_duration_since(entry).as_secs_f64();
        match outcome {
            Outcome::Persisted => {
                *state = State::Persisted;
                self.persisted += 1;
                if let Some(original) = again {
                    let first = self
                        .persisted_again
                        .insert(original, (given.record, given.tracking_id));
                    if let Some((other, id)) = first {
                        let ids = vec![id, given.tracking_id];
                        self.double("created-twice", vec![other, given.record], ids);
                    }
                }
            }
            Outcome::Duplicate => {
                *state = State::Duplicate;
                self.duplicate += 1;
                if again.is_none() {
                    self.duplicate_fresh
                        .push((given.record, given.tracking_id, sent_at_seconds));
                }
            }
            Outcome::Failed(code) => {
                *state = State::Failed;
                self.failed += 1;
                count(&mut self.failed_by, code, 1);
            }
            Outcome::Lost => {
                *state = State::Lost;
                self.lost.add(|| record(given, entry, generator));
            }
        }
    }

    /// A look-up answered about one id twice.
    pub(crate) fn answered_twice(&mut self, given: &Given) {
        let ids = vec![given.tracking_id];
        self.double("id-answered-twice", vec![given.record], ids);
    }

    fn double(&mut self, kind: &str, indexes: Vec<u64>, tracking_ids: Vec<Uuid>) {
        self.doubled += 1;
        if self.doubled_listed.len() < DISCREPANCIES_LISTED_MAX {
            self.doubled_listed.push(Doubled {
                kind: kind.to_owned(),
                indexes,
                tracking_ids,
            });
        }
    }

    /// Ends it: `unsettled` are the ids without an outcome, `unanswered` the records of which
    /// nobody knows whether they were stored.
    pub(crate) fn close(
        mut self,
        unsettled: &[Given],
        unanswered: &HashSet<u64>,
        generator: &Generator,
    ) -> (Closed, Contradictions) {
        self.compare_repeated();
        let unexpected = self.unexpected_duplicates(unanswered, generator);
        let mut open = Listed::default();
        for given in unsettled {
            open.add(|| record(given, self.started, generator));
        }
        let closed = Closed {
            persisted: self.persisted,
            duplicate: self.duplicate,
            failed: self.failed,
            lost: self.lost.count,
            unsettled: open.count,
            doubled: self.doubled,
            unexpected_duplicates: unexpected.count,
            failed_by: self.failed_by,
            discrepancies: Discrepancies {
                lost: self.lost.records,
                unsettled: open.records,
                doubled: self.doubled_listed,
                unexpected_duplicates: unexpected.records,
            },
        };
        (closed, self.contradictions)
    }

    /// A repeated record may only be persisted if its original was not.
    fn compare_repeated(&mut self) {
        let both: Vec<_> = self
            .persisted_again
            .iter()
            .filter(|(original, _)| self.state(**original) == State::Persisted)
            .map(|(original, (record, id))| (*original, *record, *id))
            .collect();
        for (original, record, id) in both {
            self.double("created-twice", vec![original, record], vec![id]);
        }
    }

    /// Of the records that have no outcome and of those that are lost, the ones that may have taken
    /// effect: originals, each once.
    pub(crate) fn open(
        &self,
        without_outcome: impl Iterator<Item = u64>,
        generator: &Generator,
    ) -> HashSet<u64> {
        let lost = self.lost.records.iter().map(|it| it.index);
        without_outcome
            .chain(lost)
            .filter_map(|record| match generator.nature(record) {
                Nature::Fresh => Some(record),
                Nature::Again(original) => Some(original),
                Nature::Bad => None,
            })
            .filter(|original| {
                self.state(*original) != State::Persisted
                    && !self.persisted_again.contains_key(original)
            })
            .collect()
    }

    fn state(&self, record: u64) -> State {
        self.states.get(index(record)).copied().unwrap_or_default()
    }

    /// A fresh record may only be a duplicate if its repetition overtook it: was persisted, or may
    /// have been.
    fn unexpected_duplicates(&self, unanswered: &HashSet<u64>, generator: &Generator) -> Listed {
        let overtaken: HashSet<u64> = unanswered
            .iter()
            .filter_map(|record| match generator.nature(*record) {
                Nature::Again(original) => Some(original),
                Nature::Fresh | Nature::Bad => None,
            })
            .chain(self.persisted_again.keys().copied())
            .collect();
        let mut unexpected = Listed::default();
        for (index, tracking_id, sent_at_seconds) in &self.duplicate_fresh {
            if !overtaken.contains(index) {
                unexpected.add(|| Record {
                    index: *index,
                    id: generator.ride_id(*index),
                    courier_id: generator.courier_id(*index),
                    tracking_id: *tracking_id,
                    sent_at_seconds: *sent_at_seconds,
                });
            }
        }
        unexpected
    }
}

fn record(given: &Given, started: Instant, generator: &Generator) -> Record {
    Record {
        index: given.record,
        id: generator.ride_id(given.record),
        courier_id: generator.courier_id(given.record),
        tracking_id: given.tracking_id,
        sent_at_seconds: given.due.saturating_duration_since(started).as_secs_f64(),
    }
}

fn index(record: u64) -> usize {
    usize::try_from(record).expect("records are counted in memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::generate::{Body, Recipe};
    use crate::run::mix::Kinds;

    fn generator(duplicates: f64) -> Generator {
        let recipe = Recipe {
            seed: 1,
            body: Body::Single,
            batch: 1,
            partners: 1,
            duplicates,
            bad: 0.0,
            kinds: Kinds::default(),
            couriers: 1,
        };
        Generator::new(recipe, Some(1))
    }

    fn given(record: u64, id: u128) -> Given {
        let now = Instant::now();
        Given {
            tracking_id: Uuid::from_u128(id),
            record,
            due: now,
            accepted: now,
        }
    }

    #[test]
    fn every_id_ends_once() {
        let generator = generator(0.0);
        let mut books = Books::new(Instant::now());
        let outcomes = [
            Outcome::Persisted,
            Outcome::Failed("conflict".into()),
            Outcome::Lost,
            Outcome::Duplicate,
        ];
        for (record, outcome) in (0..).zip(&outcomes) {
            let given = given(record, u128::from(record) + 1);
            assert!(books.accept(&given));
            books.settle(&given, outcome, &generator);
        }
        let open = given(4, 5);
        assert!(books.accept(&open));
        let (closed, _) = books.close(&[open], &HashSet::new(), &generator);
        assert!(!closed.balance());
        let counts = [
            closed.persisted,
            closed.failed,
            closed.lost,
            closed.duplicate,
        ];
        assert_eq!(counts, [1; 4]);
        assert_eq!((closed.unsettled, closed.unexpected_duplicates), (1, 1));
        assert_eq!(closed.failed_by["conflict"], 1);
        assert_eq!(closed.discrepancies.lost[0].index, 2);
        assert_eq!(closed.discrepancies.unexpected_duplicates[0].index, 3);
        assert_eq!(closed.discrepancies.unsettled[0].id, Some(generator.id(4)));
    }

    #[test]
    fn one_id_for_two_records_is_doubled() {
        let generator = generator(0.0);
        let mut books = Books::new(Instant::now());
        assert!(books.accept(&given(0, 9)));
        assert!(!books.accept(&given(1, 9)));
        let (closed, _) = books.close(&[], &HashSet::new(), &generator);
        assert_eq!(closed.discrepancies.doubled[0].indexes, [0, 1]);
        assert!(!closed.balance());
    }

    #[test]
    fn a_repetition_may_overtake_its_original_but_not_be_a_second_one() {
        let generator = generator(0.05);
        let pair = (0..10_000).find_map(|record| match generator.nature(record) {
            Nature::Again(original) => Some((original, record)),
            _ => None,
        });
        let (original, again) = pair.unwrap();
        for (first, second, doubled, unexpected) in [
            (Some(Outcome::Persisted), Some(Outcome::Duplicate), 0, 0),
            (Some(Outcome::Duplicate), Some(Outcome::Persisted), 0, 0),
            (Some(Outcome::Persisted), Some(Outcome::Persisted), 1, 0),
            (Some(Outcome::Duplicate), Some(Outcome::Duplicate), 0, 1),
            // The original was refused, or never answered.
            (None, Some(Outcome::Persisted), 0, 0),
            (None, Some(Outcome::Duplicate), 0, 0),
            // The repetition was never answered, and may have been stored.
            (Some(Outcome::Duplicate), None, 0, 0),
        ] {
            let mut books = Books::new(Instant::now());
            let mut unanswered = HashSet::new();
            for (record, id, outcome) in [(original, 1, &first), (again, 2, &second)] {
                let Some(outcome) = outcome else {
                    unanswered.insert(record);
                    continue;
                };
                let given = given(record, id);
                assert!(books.accept(&given));
                books.settle(&given, outcome, &generator);
            }
            let (closed, _) = books.close(&[], &unanswered, &generator);
            let got = (closed.doubled, closed.unexpected_duplicates);
            assert_eq!(got, (doubled, unexpected), "{first:?} {second:?}");
        }
    }
}
