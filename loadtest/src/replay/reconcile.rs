//! The books: what was sent, what was answered and what became of it, compared as sets of ids.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;
use uuid::Uuid;

use super::answer::ItemAnswer;

/// Where an accepted record ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Stored.
    Persisted,
    /// The same resource with the same content was there already.
    Duplicate,
    /// Not stored, for the reason given by its code.
    Failed,
    /// The system says that it knows no such id.
    Unknown,
}

/// One answer of a look-up about one id; `queued` is no outcome.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Whose it is.
    pub tracking_id: Uuid,
    /// Where it ended.
    pub status: Status,
    /// Why, if it failed.
    pub code: Option<String>,
    /// The resource it created, if it created one.
    pub created: Option<String>,
}

/// An accepted id that is not accounted for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Missing {
    /// The item that got it.
    pub item: usize,
    /// The id.
    pub tracking_id: Uuid,
}

/// Something that exists twice, or that nobody sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Doubled {
    /// What is wrong.
    pub kind: DoubledKind,
    /// The ids concerned.
    pub tracking_ids: Vec<Uuid>,
    /// The items concerned.
    pub items: Vec<usize>,
}

/// The ways in which one can become two.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DoubledKind {
    /// One tracking id was given out more than once.
    IdGivenTwice,
    /// One item got more than one tracking id.
    ItemAcceptedTwice,
    /// A tracking id has more than one outcome.
    IdAnsweredTwice,
    /// More than one record created the same resource.
    CreatedTwice,
    /// An outcome of an id that was given to nobody.
    Stray,
}

/// The books, closed. Counts of items: `sent = accepted + rejected + unanswered`. Counts of ids:
/// `ids = persisted + duplicate + failed + lost + unsettled`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reconciliation {
    /// Items that were sent.
    pub sent: u64,
    /// Items that got a tracking id.
    pub accepted: u64,
    /// Items that were refused for good.
    pub rejected: u64,
    /// Items of which nobody knows.
    pub unanswered: u64,
    /// Different tracking ids given out; equals `accepted` unless something is doubled.
    pub ids: u64,
    /// Ids that ended stored.
    pub persisted: u64,
    /// Ids that ended as duplicates.
    pub duplicate: u64,
    /// Ids that ended failed.
    pub failed: u64,
    /// Ids that the system no longer knows.
    pub lost: Vec<Missing>,
    /// Ids without an outcome when patience ended.
    pub unsettled: Vec<Missing>,
    /// What became two.
    pub doubled: Vec<Doubled>,
    /// Refused items by the problem's code.
    pub rejected_by_code: BTreeMap<String, u64>,
    /// Unanswered items by reason.
    pub unanswered_by_code: BTreeMap<String, u64>,
    /// Failed ids by the outcome's code.
    pub failed_by_code: BTreeMap<String, u64>,
}

impl Reconciliation {
    /// Whether every accepted record is accounted for exactly once.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.sent == self.accepted + self.rejected + self.unanswered
            && self.accepted == self.ids
            && self.ids == self.persisted + self.duplicate + self.failed
            && self.lost.is_empty()
            && self.unsettled.is_empty()
            && self.doubled.is_empty()
    }
}

/// Closes the books over the items in `sent`, each named once: `answers` holds every answer to
/// every item in the order it came, resends included; `outcomes` every look-up answer that was not
/// `queued`.
#[must_use]
pub fn reconcile(
    sent: &[usize],
    answers: &[(usize, ItemAnswer)],
    outcomes: &[Outcome],
) -> Reconciliation {
    let mut books = Reconciliation {
        sent: sent.len() as u64,
        ..Reconciliation::default()
    };
    let given = count_answers(sent, answers, &mut books);
    let ended = count_outcomes(&given, outcomes, &mut books);
    books.ids = given.len() as u64;
    for (id, items) in &given {
        let missing = || Missing {
            item: items[0],
            tracking_id: *id,
        };
        match ended.get(id).map(|outcome| outcome.status) {
            Some(Status::Persisted) => books.persisted += 1,
            Some(Status::Duplicate) => books.duplicate += 1,
            Some(Status::Failed) => {
                books.failed += 1;
                let code = ended[id].code.clone().unwrap_or_else(|| "no-code".into());
                *books.failed_by_code.entry(code).or_default() += 1;
            }
            Some(Status::Unknown) => books.lost.push(missing()),
            None => books.unsettled.push(missing()),
        }
    }
    find_created_twice(&given, outcomes, &mut books);
    books.lost.sort_by_key(|it| (it.item, it.tracking_id));
    books.unsettled.sort_by_key(|it| (it.item, it.tracking_id));
    books
        .doubled
        .sort_by_key(|it| (it.items.first().copied(), it.tracking_ids.first().copied()));
    books
}

/// Which items got which id.
type Given = HashMap<Uuid, Vec<usize>>;

fn count_answers(
    sent: &[usize],
    answers: &[(usize, ItemAnswer)],
    books: &mut Reconciliation,
) -> Given {
    let mut given = Given::new();
    let mut ids_of: HashMap<usize, Vec<Uuid>> = HashMap::new();
    let mut last: HashMap<usize, &ItemAnswer> = HashMap::new();
    for (item, answer) in answers {
        last.insert(*item, answer);
        if let ItemAnswer::Accepted(id) = answer {
            given.entry(*id).or_default().push(*item);
            let ids = ids_of.entry(*item).or_default();
            if !ids.contains(id) {
                ids.push(*id);
            }
        }
    }
    for item in sent.iter().copied() {
        let ids = ids_of.remove(&item).unwrap_or_default();
        match (ids.len(), last.get(&item).copied()) {
            (0, Some(ItemAnswer::Rejected { code, .. })) => {
                books.rejected += 1;
                *books.rejected_by_code.entry(code.clone()).or_default() += 1;
            }
            (0, answer) => {
                let code = match answer {
                    Some(ItemAnswer::Unanswered { code }) => code.as_str(),
                    _ => "no-result",
                };
                books.unanswered += 1;
                *books.unanswered_by_code.entry(code.to_owned()).or_default() += 1;
            }
            (1, _) => books.accepted += 1,
            (_, _) => {
                books.accepted += 1;
                books.doubled.push(Doubled {
                    kind: DoubledKind::ItemAcceptedTwice,
                    tracking_ids: ids,
                    items: vec![item],
                });
            }
        }
    }
    for (id, items) in given.iter().filter(|(_, items)| items.len() > 1) {
        books.doubled.push(Doubled {
            kind: DoubledKind::IdGivenTwice,
            tracking_ids: vec![*id],
            items: items.clone(),
        });
    }
    given
}

fn count_outcomes<'a>(
    given: &Given,
    outcomes: &'a [Outcome],
    books: &mut Reconciliation,
) -> HashMap<Uuid, &'a Outcome> {
    let mut ended: HashMap<Uuid, &Outcome> = HashMap::new();
    let mut answered_twice = HashSet::new();
    for outcome in outcomes {
        let id = outcome.tracking_id;
        let doubled = match given.get(&id) {
            None => Some((DoubledKind::Stray, Vec::new())),
            Some(items) => match ended.insert(id, outcome) {
                // `unknown` and then an outcome is late, not two.
                Some(before) if before.status != Status::Unknown && answered_twice.insert(id) => {
                    Some((DoubledKind::IdAnsweredTwice, items.clone()))
                }
                _ => None,
            },
        };
        if let Some((kind, items)) = doubled {
            books.doubled.push(Doubled {
                kind,
                tracking_ids: vec![id],
                items,
            });
        }
    }
    ended
}

fn find_created_twice(given: &Given, outcomes: &[Outcome], books: &mut Reconciliation) {
    let mut creators: HashMap<&str, Vec<Uuid>> = HashMap::new();
    for outcome in outcomes {
        if let (Status::Persisted, Some(resource)) = (outcome.status, &outcome.created) {
            let ids = creators.entry(resource).or_default();
            if !ids.contains(&outcome.tracking_id) {
                ids.push(outcome.tracking_id);
            }
        }
    }
    for ids in creators.into_values().filter(|ids| ids.len() > 1) {
        let items = ids
            .iter()
            .filter_map(|id| given.get(id)?.first().copied())
            .collect();
        books.doubled.push(Doubled {
            kind: DoubledKind::CreatedTwice,
            tracking_ids: ids,
            items,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    fn outcome(number: u128, status: Status) -> Outcome {
        Outcome {
            tracking_id: id(number),
            status,
            code: (status == Status::Failed).then(|| "conflict".to_owned()),
            created: (status == Status::Persisted).then(|| number.to_string()),
        }
    }

    fn accepted(number: u128) -> ItemAnswer {
        ItemAnswer::Accepted(id(number))
    }

    fn rejected(code: &str) -> ItemAnswer {
        ItemAnswer::Rejected {
            code: code.into(),
            retryable: false,
        }
    }

    fn unanswered() -> ItemAnswer {
        ItemAnswer::Unanswered {
            code: "connection-lost".into(),
        }
    }

    #[test]
    fn books_that_balance() {
        let answers = [
            (0, accepted(10)),
            (1, rejected("invalid")),
            (2, unanswered()),
            (3, unanswered()),
            (3, accepted(13)),
            (4, accepted(14)),
        ];
        let outcomes = [
            outcome(10, Status::Persisted),
            outcome(13, Status::Duplicate),
            outcome(14, Status::Failed),
        ];
        let books = reconcile(&[0, 1, 2, 3, 4], &answers, &outcomes);
        assert!(books.adds_up(), "{books:?}");
        let counts = (books.sent, books.accepted, books.rejected, books.unanswered);
        assert_eq!(counts, (5, 3, 1, 1));
        assert_eq!((books.persisted, books.duplicate, books.failed), (1, 1, 1));
        assert_eq!(books.failed_by_code["conflict"], 1);
        assert_eq!(books.rejected_by_code["invalid"], 1);
    }

    #[test]
    fn lost_and_unsettled_ids_are_named() {
        let answers = [(0, accepted(1)), (1, accepted(2)), (2, accepted(3))];
        let outcomes = [outcome(2, Status::Unknown), outcome(3, Status::Persisted)];
        let books = reconcile(&[0, 1, 2], &answers, &outcomes);
        assert!(!books.adds_up());
        let missing = |item, number| Missing {
            item,
            tracking_id: id(number),
        };
        assert_eq!(books.lost, [missing(1, 2)]);
        assert_eq!(books.unsettled, [missing(0, 1)]);
        let late = [outcome(1, Status::Unknown), outcome(1, Status::Persisted)];
        assert!(reconcile(&[0], &answers[..1], &late).adds_up());
    }

    #[test]
    fn each_way_of_doubling_is_found() {
        let kinds = |answers: &[(usize, ItemAnswer)], outcomes: &[Outcome]| {
            let books = reconcile(&[0, 1], answers, outcomes);
            assert!(!books.adds_up());
            books.doubled.iter().map(|it| it.kind).collect::<Vec<_>>()
        };
        let stored = outcome(1, Status::Persisted);
        let other = outcome(2, Status::Persisted);
        assert_eq!(
            kinds(
                &[(0, accepted(1)), (1, accepted(1))],
                std::slice::from_ref(&stored)
            ),
            [DoubledKind::IdGivenTwice]
        );
        assert_eq!(
            kinds(
                &[(0, accepted(1)), (0, accepted(2)), (1, rejected("x"))],
                &[stored.clone(), other.clone()]
            ),
            [DoubledKind::ItemAcceptedTwice]
        );
        assert_eq!(
            kinds(
                &[(0, accepted(1))],
                &[stored.clone(), outcome(1, Status::Failed)]
            ),
            [DoubledKind::IdAnsweredTwice]
        );
        assert_eq!(
            kinds(&[(0, accepted(1))], &[stored.clone(), other]),
            [DoubledKind::Stray]
        );
        let again = Outcome {
            tracking_id: id(2),
            ..stored.clone()
        };
        assert_eq!(
            kinds(&[(0, accepted(1)), (1, accepted(2))], &[stored, again]),
            [DoubledKind::CreatedTwice]
        );
    }

    fn any_answer() -> impl Strategy<Value = ItemAnswer> {
        prop_oneof![
            4 => (0_u128..30).prop_map(accepted),
            1 => Just(rejected("invalid")),
            1 => Just(unanswered()),
        ]
    }

    fn any_status() -> impl Strategy<Value = Status> {
        prop_oneof![
            Just(Status::Persisted),
            Just(Status::Duplicate),
            Just(Status::Failed),
            Just(Status::Unknown),
        ]
    }

    proptest! {
        /// Whatever a broken system answers: every item and every id is counted exactly once, and
        /// what keeps the books from balancing is named.
        #[test]
        fn any_mix_adds_up_or_is_named(
            sent in 1_usize..25,
            answers in prop::collection::vec((0_usize..25, any_answer()), 0..60),
            outcomes in prop::collection::vec((0_u128..32, any_status()), 0..60),
        ) {
            let answers: Vec<_> = answers.into_iter().map(|(item, it)| (item % sent, it)).collect();
            let outcomes: Vec<_> = outcomes.into_iter().map(|(id, it)| outcome(id, it)).collect();
            let items: Vec<_> = (0..sent).rev().collect();
            let books = reconcile(&items, &answers, &outcomes);
            prop_assert_eq!(books.sent, books.accepted + books.rejected + books.unanswered);
            let open = (books.lost.len() + books.unsettled.len()) as u64;
            prop_assert_eq!(books.ids, books.persisted + books.duplicate + books.failed + open);
            let named = open > 0 || !books.doubled.is_empty();
            prop_assert_eq!(books.adds_up(), !named, "{:?}", books);
            prop_assert_eq!(books.rejected, books.rejected_by_code.values().sum::<u64>());
            prop_assert_eq!(books.unanswered, books.unanswered_by_code.values().sum::<u64>());
            prop_assert_eq!(books.failed, books.failed_by_code.values().sum::<u64>());
        }

        /// A correct system never fails the test, in whatever order its answers come.
        #[test]
        fn honest_books_balance(
            items in prop::collection::vec((0_u8..3, any_status(), 0_u8..3), 1..60),
            turn in 0_usize..60,
        ) {
            let mut answers = Vec::new();
            let mut outcomes = Vec::new();
            for (item, (kind, status, resends)) in items.iter().enumerate() {
                answers.extend((0..*resends).map(|_| (item, unanswered())));
                let last = match kind {
                    0 => rejected("invalid"),
                    1 => unanswered(),
                    _ => {
                        let status = if *status == Status::Unknown { Status::Failed } else { *status };
                        outcomes.push(outcome(item as u128, status));
                        accepted(item as u128)
                    }
                };
                answers.push((item, last));
            }
            let turn = turn % outcomes.len().max(1);
            outcomes.rotate_left(turn);
            let sent: Vec<_> = (0..items.len()).collect();
            let books = reconcile(&sent, &answers, &outcomes);
            prop_assert!(books.adds_up(), "{:?}", books);
            prop_assert_eq!(books.accepted as usize, outcomes.len());
        }
    }
}
