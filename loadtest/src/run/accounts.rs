//! What the persisted commands amount to, courier by courier, and whether the couriers agree.
//!
//! A courier of the fleet begins alike and every command to it counts once, whatever the order
//! (see [`crate::couriers`]). Commands of which nobody knows whether they took effect may count or
//! not: then the courier has to be in one of the states that this leaves open.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::books::Outcome;
use super::engine::{Given, Refused};
use super::generate::{Generator, Nature};
use super::source::CourierState;
use crate::couriers::{AVAILABLE, Change, Courier, MAX_CAPACITY};
use crate::report::schema::{
    COURIERS_LISTED_MAX, CommandCounts, CourierDifference, CourierRefusal, Couriers,
};

/// Commands to one courier that nobody knows about, above which it is not checked: every one of
/// them multiplies the states it may be in.
const OPEN_MAX: usize = 16;
/// The failure that is the log's delay and no judgement on the command.
const EXPIRED: &str = "expired";

/// The persisted commands of each courier of the fleet, by partner and number.
#[derive(Default, Debug)]
pub(crate) struct Accounts {
    worlds: HashMap<(usize, u64), World>,
    commands: BTreeMap<&'static str, CommandCounts>,
    picked_up: u64,
    dropped_off: u64,
    refusals: Refusals,
}

/// What a courier is: available capacity and version, or gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum World {
    There { available: i64, version: i64 },
    Gone,
}

impl World {
    const START: Self = Self::There {
        available: AVAILABLE.cast_signed(),
        version: 1,
    };

    fn after(self, change: Change) -> Self {
        let Self::There { available, version } = self else {
            return Self::Gone;
        };
        let available = match change {
            Change::Pickup { capacity, .. } => available - capacity.cast_signed(),
            Change::Dropoff { capacity, .. } => available + capacity.cast_signed(),
            Change::SetCapacity { available } => available.cast_signed(),
            Change::Update { .. } => available,
            Change::Create | Change::Bad { .. } => return self,
            Change::Delete => return Self::Gone,
        };
        Self::There {
            available,
            version: version + 1,
        }
    }

    fn parts(self) -> (Option<i64>, Option<i64>) {
        match self {
            Self::There { available, version } => (Some(available), Some(version)),
            Self::Gone => (None, None),
        }
    }
}

#[derive(Default, Debug)]
struct Refusals {
    count: u64,
    listed: Vec<CourierRefusal>,
}

impl Refusals {
    fn add(&mut self, refusal: impl FnOnce() -> CourierRefusal) {
        self.count += 1;
        if self.listed.len() < COURIERS_LISTED_MAX {
            self.listed.push(refusal());
        }
    }
}

impl Accounts {
    /// A tracking id has its outcome; rides are somebody else's.
    pub(crate) fn settle(&mut self, given: &Given, outcome: &Outcome, generator: &Generator) {
        let record = given.record;
        let Some(command) = generator.command(record) else {
            return;
        };
        let counts = self.commands.entry(command.word()).or_default();
        counts.accepted += 1;
        match outcome {
            Outcome::Persisted => {
                counts.persisted += 1;
                match command.change {
                    Change::Pickup { capacity, .. } => self.picked_up += capacity,
                    Change::Dropoff { capacity, .. } => self.dropped_off += capacity,
                    _ => {}
                }
                if let Courier::Fleet(number) = command.courier {
                    let of = (generator.partner_of(record), number);
                    let world = self.worlds.entry(of).or_insert(World::START);
                    *world = world.after(command.change);
                }
            }
            Outcome::Duplicate => counts.duplicate += 1,
            Outcome::Failed(code) => {
                counts.failed += 1;
                if code != EXPIRED && generator.nature(record) != Nature::Bad {
                    self.refusals.add(|| CourierRefusal {
                        index: record,
                        command: command.word().to_owned(),
                        courier_id: generator.resource(record),
                        code: code.clone(),
                        tracking_id: Some(given.tracking_id),
                    });
                }
            }
            Outcome::Lost => {}
        }
    }

    /// Holds the couriers against what was persisted. `open`: records of which nobody knows
    /// whether they took effect, and of several that repeat each other one.
    pub(crate) fn close(
        mut self,
        generator: &Generator,
        refused: &Refused,
        open: &HashSet<u64>,
        states: Result<&[HashMap<String, CourierState>], &str>,
    ) -> Couriers {
        self.add_refused(generator, refused);
        let fleet = generator.fleet();
        let partners = generator.recipe().partners;
        let mut report = Couriers {
            fleet: fleet.all() * partners,
            commands: self
                .commands
                .iter()
                .map(|(word, counts)| ((*word).to_owned(), *counts))
                .collect(),
            litres_picked_up: self.picked_up,
            litres_dropped_off: self.dropped_off,
            refused: self.refusals.count,
            refusals: std::mem::take(&mut self.refusals.listed),
            ..Couriers::default()
        };
        match states {
            Ok(states) => self.compare(generator, open, states, &mut report),
            Err(why) => {
                report.unchecked = report.fleet;
                report.unchecked_why = Some(why.to_owned());
            }
        }
        report
    }

    fn add_refused(&mut self, generator: &Generator, refused: &Refused) {
        let listed = refused.first.len() as u64;
        for (record, code) in &refused.first {
            let command = generator.command(*record);
            self.refusals.add(|| CourierRefusal {
                index: *record,
                command: command.map_or("", |it| it.word()).to_owned(),
                courier_id: generator.resource(*record),
                code: code.clone(),
                tracking_id: None,
            });
        }
        self.refusals.count += refused.count - listed;
    }

    fn compare(
        &self,
        generator: &Generator,
        open: &HashSet<u64>,
        states: &[HashMap<String, CourierState>],
        report: &mut Couriers,
    ) {
        let mut open_of: HashMap<(usize, u64), Vec<Change>> = HashMap::new();
        for record in open {
            if let Some(command) = generator.command(*record)
                && let Courier::Fleet(number) = command.courier
            {
                let of = (generator.partner_of(*record), number);
                open_of.entry(of).or_default().push(command.change);
            }
        }
        for (partner, states) in states.iter().enumerate() {
            for number in 0..generator.fleet().all() {
                let of = (partner, number);
                let id = generator.fleet().id(partner, Courier::Fleet(number));
                let open = open_of.get(&of).map_or(&[][..], Vec::as_slice);
                if open.len() > OPEN_MAX {
                    report.unchecked += 1;
                    report.unchecked_why.get_or_insert_with(|| {
                        format!("more than {OPEN_MAX} commands to one courier were unanswered")
                    });
                    continue;
                }
                let expected = self.worlds.get(&of).copied().unwrap_or(World::START);
                compare_one(&id, expected, open, states.get(&id), report);
            }
        }
    }
}

fn compare_one(
    id: &str,
    expected: World,
    open: &[Change],
    state: Option<&CourierState>,
    report: &mut Couriers,
) {
    report.checked += 1;
    let found = state.map_or(World::Gone, |state| World::There {
        available: state.available_capacity,
        version: state.version,
    });
    let mut possible = HashSet::from([expected]);
    for change in open {
        let after: Vec<_> = possible.iter().map(|world| world.after(*change)).collect();
        possible.extend(after);
    }
    let (expected_available, expected_version) = expected.parts();
    let (available, version) = found.parts();
    report.litres_available += available.unwrap_or_default();
    report.litres_expected += expected_available.unwrap_or_default();
    let other_max = state.is_some_and(|it| it.max_capacity != MAX_CAPACITY.cast_signed());
    if possible.contains(&found) && !other_max {
        report.unanswered_persisted += match (expected_version, version) {
            (Some(before), Some(after)) => (after - before).cast_unsigned(),
            (Some(_), None) => 1,
            (None, _) => 0,
        };
        return;
    }
    report.differing += 1;
    if report.differences.len() < COURIERS_LISTED_MAX {
        report.differences.push(CourierDifference {
            courier_id: id.to_owned(),
            expected_available,
            available,
            expected_version,
            version,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PICKUP: Change = Change::Pickup {
        capacity: 5,
        reference: 1,
    };

    fn state(available: i64, version: i64) -> CourierState {
        CourierState {
            max_capacity: MAX_CAPACITY.cast_signed(),
            available_capacity: AVAILABLE.cast_signed() + available,
            version,
        }
    }

    fn judged(open: &[Change], state: Option<CourierState>) -> (u64, u64) {
        let mut report = Couriers::default();
        let expected = World::START.after(PICKUP);
        compare_one("c", expected, open, state.as_ref(), &mut report);
        (report.differing, report.unanswered_persisted)
    }

    #[test]
    fn a_courier_is_what_its_persisted_commands_make_it() {
        assert_eq!(judged(&[], Some(state(-5, 2))), (0, 0));
        for wrong in [state(-5, 1), state(-5, 3), state(-4, 2), state(0, 2)] {
            assert_eq!(judged(&[], Some(wrong)), (1, 0), "{wrong:?}");
        }
        let smaller = CourierState {
            max_capacity: 7,
            ..state(-5, 2)
        };
        assert_eq!(judged(&[], Some(smaller)), (1, 0));
        assert_eq!(judged(&[], None), (1, 0), "it may not be gone");
    }

    #[test]
    fn what_nobody_knows_may_have_happened_or_not_but_nothing_else() {
        let open = [
            Change::Dropoff {
                capacity: 3,
                reference: 2,
            },
            Change::Update { number: 4 },
        ];
        for (found, verdict) in [
            (state(-5, 2), (0, 0)),
            (state(-2, 3), (0, 1)),
            (state(-5, 3), (0, 1)),
            (state(-2, 4), (0, 2)),
            (state(-2, 2), (1, 0)),
            (state(1, 4), (1, 0)),
        ] {
            assert_eq!(judged(&open, Some(found)), verdict, "{found:?}");
        }
        assert_eq!(judged(&[Change::Delete], None), (0, 1));
    }
}
