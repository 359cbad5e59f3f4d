//! Whether every courier is what the file's commands come to, one after the other.
//!
//! That can be said of a courier which the file creates and which was not there before, if all
//! commands to it were answered once and went out one request at a time: then the log has them in
//! the file's order. Of any other it is said why not.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::answer::ItemAnswer;
use super::file::RowId;
use super::follow::Following;
use super::push::Plan;
use super::reconcile::{Outcome, Status};
use crate::couriers::model::{Courier, Model};
use crate::report::schema::CourierDifference;
use crate::run::source::{self, CourierState, Miss};

/// Pause when the status API is away.
const PAUSE: Duration = Duration::from_millis(200);
/// Couriers listed in the text; the JSON has all.
const LISTED: usize = 10;
/// The failure that is the log's delay and no judgement on the command.
const EXPIRED: &str = "expired";

/// The couriers of a file, in the end.
#[derive(Debug, Default, Serialize)]
pub struct CourierCheck {
    /// Couriers held against the accepted commands, in the file's order.
    pub checked: u64,
    /// Those that are something else.
    pub differing: Vec<CourierDifference>,
    /// Those that nothing can be said of.
    pub unchecked: Vec<Unchecked>,
    /// Why the check could not be made to its end.
    pub refused: Option<String>,
}

/// A courier that nothing can be said of.
#[derive(Debug, Serialize)]
pub struct Unchecked {
    /// Its id.
    pub courier_id: String,
    /// Why not.
    pub why: String,
}

impl CourierCheck {
    /// Whether none is known to be something else.
    pub(crate) fn agrees(&self) -> bool {
        self.differing.is_empty() && self.refused.is_none()
    }
}

/// Checks what can be checked; `None` of a file of rides.
pub(crate) async fn check(
    plan: &Plan,
    following: &Following,
    answers: &[(usize, ItemAnswer)],
    outcomes: &[Outcome],
) -> Option<CourierCheck> {
    if !plan.rows.are_commands() {
        return None;
    }
    let mut check = CourierCheck::default();
    let folded = fold(plan, answers, outcomes);
    let mut status = source::Status::new(
        &following.status,
        following.authorization.clone(),
        following.timeout,
    );
    let until = Instant::now() + following.settle_timeout;
    for (courier_id, unsure) in folded.couriers {
        if let Some(why) = unsure {
            let why = why.to_owned();
            check.unchecked.push(Unchecked { courier_id, why });
            continue;
        }
        match read(&mut status, &courier_id, until).await {
            Ok(state) => {
                check.checked += 1;
                let expected = folded.model.courier(&courier_id);
                check
                    .differing
                    .extend(compare(&courier_id, expected, state));
            }
            Err(why) => {
                check.refused = Some(why);
                break;
            }
        }
    }
    Some(check)
}

/// What the accepted commands come to, and of which couriers that is not sure, and why.
#[derive(Default)]
struct Folded {
    model: Model,
    couriers: BTreeMap<String, Option<&'static str>>,
}

fn fold(plan: &Plan, answers: &[(usize, ItemAnswer)], outcomes: &[Outcome]) -> Folded {
    let mut of_row: BTreeMap<usize, Vec<&ItemAnswer>> = BTreeMap::new();
    for (row, answer) in answers {
        of_row.entry(*row).or_default().push(answer);
    }
    let outcomes: HashMap<Uuid, &Outcome> =
        outcomes.iter().map(|it| (it.tracking_id, it)).collect();
    let mut folded = Folded::default();
    for (row, answers) in of_row {
        let Some(RowId::Courier(id)) = plan.rows.id(row) else {
            continue;
        };
        let item = serde_json::from_slice(&plan.rows.object(row)).unwrap_or(Value::Null);
        let outcome = match answers.as_slice() {
            [ItemAnswer::Accepted(id)] => Ok(outcomes.get(id).copied()),
            [ItemAnswer::Rejected { .. }] => continue,
            [ItemAnswer::Unanswered { .. }] => Err("a command to it was not answered"),
            _ => Err("a command to it was sent again"),
        };
        let outcome = outcome.and_then(|outcome| {
            outcome
                .filter(|it| it.status != Status::Unknown)
                .ok_or("a command to it has no outcome")
        });
        folded.row(id, &item, outcome);
        if plan.concurrency > 1 {
            let why = "several requests were under way at a time, in no order";
            folded.unsure(id, why);
        }
    }
    folded
}

impl Folded {
    fn unsure(&mut self, id: &str, why: &'static str) {
        let first = self.couriers.entry(id.to_owned()).or_default();
        first.get_or_insert(why);
    }

    fn row(&mut self, id: &str, item: &Value, outcome: Result<&Outcome, &'static str>) {
        let known = self.couriers.contains_key(id);
        self.couriers.entry(id.to_owned()).or_default();
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(why) => return self.unsure(id, why),
        };
        if outcome.code.as_deref() == Some(EXPIRED) {
            return;
        }
        if self.model.courier(id).is_none() {
            if item["command"] != "create" {
                if !known {
                    self.unsure(id, "the file does not create it first");
                }
                return;
            }
            if outcome.status != Status::Persisted {
                self.unsure(id, "it was there before");
            }
        }
        self.model.apply(item);
    }
}

async fn read(
    status: &mut source::Status,
    id: &str,
    until: Instant,
) -> Result<Option<CourierState>, String> {
    loop {
        match status.courier(id).await {
            Ok(state) => return Ok(state),
            Err(Miss::Refused(why)) => return Err(why),
            Err(Miss::Again(_)) if Instant::now() + PAUSE > until => {
                return Err("the status API does not answer about couriers".to_owned());
            }
            Err(Miss::Again(_)) => tokio::time::sleep(PAUSE).await,
        }
    }
}

fn compare(
    id: &str,
    expected: Option<&Courier>,
    state: Option<CourierState>,
) -> Option<CourierDifference> {
    let expected = expected.filter(|it| !it.deleted);
    let same = match (expected, state) {
        (Some(expected), Some(state)) => {
            let found = (state.max_capacity, state.available_capacity, state.version);
            found == (expected.max, expected.available, expected.version)
        }
        (None, None) => true,
        _ => false,
    };
    (!same).then(|| CourierDifference {
        courier_id: id.to_owned(),
        expected_available: expected.map(|it| it.available),
        available: state.map(|it| it.available_capacity),
        expected_version: expected.map(|it| it.version),
        version: state.map(|it| it.version),
    })
}

impl fmt::Display for CourierCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "couriers    {} held against the file's commands in order, {} differ; {} not checked",
            self.checked,
            self.differing.len(),
            self.unchecked.len()
        )?;
        for it in self.differing.iter().take(LISTED) {
            writeln!(f, "  differs: {}", it.describe())?;
        }
        for it in self.unchecked.iter().take(LISTED) {
            writeln!(f, "  not checked: courier {}: {}", it.courier_id, it.why)?;
        }
        let more = self.differing.len().saturating_sub(LISTED)
            + self.unchecked.len().saturating_sub(LISTED);
        if more > 0 {
            writeln!(f, "  and {more} more: --json FILE has all")?;
        }
        if let Some(why) = &self.refused {
            writeln!(f, "  the couriers could not be checked: {why}")?;
        }
        Ok(())
    }
}
