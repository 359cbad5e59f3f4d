//! Synthetic commands to couriers. The same seed gives the same commands on every machine, and
//! every one of them is valid in whatever order requests of an open model arrive.
//!
//! # Why no order can make one invalid
//!
//! A courier of the fleet begins with a billion litres available and a billion in use. Pickups
//! draw on the first billion, dropoffs give back of the second, and neither ever depends on what
//! the other did: [`MOVEMENTS_MAX`] of each fit in, whatever their order. An update gives a name
//! that no other command gives, so it always changes something. What order would matter to, a
//! capacity that is set and a deletion, goes to spare couriers that nothing else touches, once
//! each. So the final state of a courier is its beginning and a sum, in which every persisted
//! command counts once, and that sum is what a run is held against.

use std::io::Write as _;

use http::Method;

use crate::rides::Dice;

pub(crate) mod model;
mod sample;

pub use sample::{SAMPLE_FAILURES, sample_ndjson};

/// Litres of every courier of a fleet; far from real, so that no order of movements meets an end.
pub(crate) const MAX_CAPACITY: u64 = 2_000_000_000;
/// Litres of these that are available to begin with: as many as are in use.
pub(crate) const AVAILABLE: u64 = MAX_CAPACITY / 2;
/// Most litres of one movement.
const MOVED_MAX: u64 = 100;
/// So many movements in one direction fit in between any of a courier's ends.
pub(crate) const MOVEMENTS_MAX: u64 = AVAILABLE / MOVED_MAX;
/// One spare courier for so many of the fleet, for each use of them.
const SPARE_EVERY: u64 = 10;
/// Of so many commands in a row each kind has its part.
const BLOCK: u64 = 100;
/// Steps through a block; shares no factor with it, so that every slot comes once.
const STRIDE: u64 = 73;

const FIRST_NAMES: [&str; 10] = [
    "Asha", "Bina", "Chetan", "Divya", "Eshan", "Farah", "Gopal", "Hema", "Irfan", "Jaya",
];
const VEHICLES: [&str; 4] = ["bicycle", "scooter", "van", "truck"];

/// The couriers of one seed, those of each partner apart.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    seed: u64,
    size: u64,
}

/// One command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Command {
    pub(crate) courier: Courier,
    pub(crate) change: Change,
}

/// Whom it is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Courier {
    /// Created before the run: below [`Fleet::all`].
    Fleet(u64),
    /// Created by the command with this number.
    New(u64),
}

/// What it does. `number` and `reference` are the command's own number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    Create,
    Update {
        number: u64,
    },
    SetCapacity {
        available: u64,
    },
    Pickup {
        capacity: u64,
        reference: u64,
    },
    Dropoff {
        capacity: u64,
        reference: u64,
    },
    Delete,
    /// A pickup with one fault, to be refused at the door.
    Bad {
        kind: u64,
    },
}

impl Command {
    /// Whether sending it twice leaves no trace: it carries a reference.
    pub(crate) fn is_movement(&self) -> bool {
        matches!(self.change, Change::Pickup { .. } | Change::Dropoff { .. })
    }

    /// Its name in `POST /v1/courier-commands`.
    pub(crate) fn word(&self) -> &'static str {
        match self.change {
            Change::Create => "create",
            Change::Update { .. } => "update",
            Change::SetCapacity { .. } => "set_capacity",
            Change::Pickup { .. } | Change::Bad { .. } => "pickup",
            Change::Dropoff { .. } => "dropoff",
            Change::Delete => "delete",
        }
    }
}

impl Fleet {
    pub(crate) fn new(seed: u64, size: u64) -> Self {
        Self { seed, size }
    }

    /// Couriers whose capacity moves.
    #[cfg(test)]
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    fn spares(&self) -> u64 {
        self.size.div_ceil(SPARE_EVERY)
    }

    /// Couriers of one partner that have to be there before the first command is sent.
    pub(crate) fn all(&self) -> u64 {
        self.size + 2 * self.spares()
    }

    /// The partner's command with this number, from 0.
    pub(crate) fn command(&self, partner: usize, number: u64) -> Command {
        let mut dice = self.dice(partner, number);
        let block = number / BLOCK;
        let spare = (block < self.spares()).then_some(block);
        let moving = Courier::Fleet(dice.below(self.size));
        let capacity = 1 + dice.below(MOVED_MAX);
        let slot = (number % BLOCK * STRIDE + self.seed % BLOCK) % BLOCK;
        let (courier, change) = match (slot, spare) {
            (0, _) => (Courier::New(number), Change::Create),
            (1, Some(spare)) => (
                Courier::Fleet(self.size + self.spares() + spare),
                Change::Delete,
            ),
            (2, Some(spare)) => (
                Courier::Fleet(self.size + spare),
                // Never what is there already: that would change nothing.
                Change::SetCapacity {
                    available: dice.below(AVAILABLE),
                },
            ),
            (3..=10, _) => (moving, Change::Update { number }),
            (11..=54, _) => (
                moving,
                Change::Dropoff {
                    capacity,
                    reference: number,
                },
            ),
            _ => (
                moving,
                Change::Pickup {
                    capacity,
                    reference: number,
                },
            ),
        };
        Command { courier, change }
    }

    /// A command that no gateway may accept.
    pub(crate) fn bad_command(&self, partner: usize, number: u64) -> Command {
        let mut dice = self.dice(partner, number);
        Command {
            courier: Courier::Fleet(dice.below(self.size)),
            change: Change::Bad { kind: number },
        }
    }

    /// The command that makes a courier of the fleet.
    pub(crate) fn creation(number: u64) -> Command {
        Command {
            courier: Courier::Fleet(number),
            change: Change::Create,
        }
    }

    /// The courier's id; no other seed, partner or courier has it.
    pub(crate) fn id(&self, partner: usize, courier: Courier) -> String {
        let seed = self.seed;
        match courier {
            Courier::Fleet(number) => format!("lt{seed}-{partner}-{number}"),
            Courier::New(number) => format!("lt{seed}-{partner}-new{number}"),
        }
    }

    /// Appends the command as an item of `POST /v1/courier-commands`.
    pub(crate) fn write_item(&self, partner: usize, command: &Command, to: &mut Vec<u8>) {
        let id = self.id(partner, command.courier);
        let word = command.word();
        put(
            to,
            format_args!(r#"{{"command":"{word}","courier_id":"{id}""#),
        );
        if command.change != Change::Delete {
            to.push(b',');
            self.write_members(command, to);
        }
        to.push(b'}');
    }

    /// Appends the command as the body of its own route, which [`Fleet::route`] names.
    pub(crate) fn write_body(&self, partner: usize, command: &Command, to: &mut Vec<u8>) {
        match command.change {
            Change::Delete => {}
            Change::Create => {
                let id = self.id(partner, command.courier);
                put(to, format_args!(r#"{{"courier_id":"{id}","#));
                self.write_members(command, to);
                to.push(b'}');
            }
            _ => {
                to.push(b'{');
                self.write_members(command, to);
                to.push(b'}');
            }
        }
    }

    /// Where one command goes alone, and as what.
    pub(crate) fn route(
        &self,
        partner: usize,
        command: &Command,
    ) -> (Method, String, &'static str) {
        const JSON: &str = "application/json";
        let id = self.id(partner, command.courier);
        match command.change {
            Change::Create => (Method::POST, "/v1/couriers".to_owned(), JSON),
            Change::Update { .. } => (
                Method::PATCH,
                format!("/v1/couriers/{id}"),
                "application/merge-patch+json",
            ),
            Change::SetCapacity { .. } => {
                (Method::PUT, format!("/v1/couriers/{id}/capacity"), JSON)
            }
            Change::Pickup { .. } | Change::Bad { .. } => {
                (Method::POST, format!("/v1/couriers/{id}/pickups"), JSON)
            }
            Change::Dropoff { .. } => (Method::POST, format!("/v1/couriers/{id}/dropoffs"), JSON),
            Change::Delete => (Method::DELETE, format!("/v1/couriers/{id}"), JSON),
        }
    }

    fn write_members(&self, command: &Command, to: &mut Vec<u8>) {
        match command.change {
            Change::Create => self.write_profile(command.courier, to),
            Change::Update { number } => {
                let name = FIRST_NAMES[index(number, FIRST_NAMES.len())];
                let phone = number % 10_000;
                put(
                    to,
                    format_args!(r#""name":"{name} {number}","phone":"+91 80 5550 {phone:04}""#),
                );
            }
            Change::SetCapacity { available } => {
                put(to, format_args!(r#""available_capacity":{available}"#));
            }
            Change::Pickup {
                capacity,
                reference,
            }
            | Change::Dropoff {
                capacity,
                reference,
            } => put(
                to,
                format_args!(r#""capacity":{capacity},"reference":"job-{reference}""#),
            ),
            Change::Bad { kind } => {
                let members = [
                    r#""capacity":0,"reference":"bad""#,
                    r#""capacity":-5,"reference":"bad""#,
                    r#""capacity":"a lot","reference":"bad""#,
                    r#""capacity":5"#,
                    r#""capacity":5,"reference":"""#,
                    r#""capacity":5,"reference":"bad","weight":3"#,
                ];
                to.extend_from_slice(members[index(kind, members.len())].as_bytes());
            }
            Change::Delete => {}
        }
    }

    fn write_profile(&self, courier: Courier, to: &mut Vec<u8>) {
        let (Courier::Fleet(number) | Courier::New(number)) = courier;
        let name = FIRST_NAMES[index(number, FIRST_NAMES.len())];
        let vehicle = VEHICLES[index(number, VEHICLES.len())];
        let zone = number % 7;
        put(
            to,
            format_args!(
                r#""name":"{name}","max_capacity":{MAX_CAPACITY},"available_capacity":{AVAILABLE},"vehicle_type":"{vehicle}","attributes":{{"loadtest":{},"zone":"z{zone}"}}"#,
                self.seed
            ),
        );
    }

    fn dice(&self, partner: usize, number: u64) -> Dice {
        let own = (partner as u64).rotate_left(40) ^ number;
        let mut dice = Dice::new(self.seed ^ 0x6c6f_6164_7465_7374);
        Dice::new(dice.next() ^ own.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }
}

fn put(to: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    to.write_fmt(text).expect("writing to memory cannot fail");
}

fn index(number: u64, length: usize) -> usize {
    usize::try_from(number % length as u64).expect("below a small length")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap, HashSet};

    use proptest::prelude::*;
    use serde_json::Value;

    use super::model::{Model, Verdict};
    use super::*;

    fn item(fleet: &Fleet, command: &Command) -> Value {
        let mut text = Vec::new();
        fleet.write_item(0, command, &mut text);
        serde_json::from_slice(&text).unwrap()
    }

    /// A model in which the fleet has been created.
    fn created(fleet: &Fleet) -> Model {
        let mut model = Model::default();
        for number in 0..fleet.all() {
            let verdict = model.apply(&item(fleet, &Fleet::creation(number)));
            assert_eq!(verdict, Verdict::Changed);
        }
        model
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Any order at all, so also every one that requests under way can come to, with
        /// movements sent twice.
        #[test]
        fn no_order_makes_a_command_invalid(
            seed in any::<u64>(), size in 1_u64..12, first in 0_u64..1_000, order in any::<u64>(),
        ) {
            let fleet = Fleet::new(seed, size);
            let mut model = created(&fleet);
            let mut commands: Vec<_> =
                (first..first + 600).map(|number| fleet.command(0, number)).collect();
            let again: Vec<_> =
                commands.iter().filter(|it| it.is_movement()).step_by(7).copied().collect();
            let repeated = again.len();
            commands.extend(again);
            let mut dice = Dice::new(order);
            for at in (1..commands.len()).rev() {
                commands.swap(at, index(dice.next(), at + 1));
            }
            let mut duplicates = 0;
            let mut sums: HashMap<Courier, (i64, i64)> = HashMap::new();
            for command in &commands {
                match model.apply(&item(&fleet, command)) {
                    Verdict::Changed => {}
                    Verdict::Duplicate => { duplicates += 1; continue; }
                    Verdict::Refused(why) => prop_assert!(false, "{command:?}: {why}"),
                }
                let sum = sums.entry(command.courier).or_insert((0, 0));
                sum.1 += 1;
                match command.change {
                    Change::Pickup { capacity, .. } => sum.0 -= i64::try_from(capacity).unwrap(),
                    Change::Dropoff { capacity, .. } => sum.0 += i64::try_from(capacity).unwrap(),
                    Change::SetCapacity { available } => {
                        sum.0 = i64::try_from(available).unwrap() - i64::try_from(AVAILABLE).unwrap();
                    }
                    _ => {}
                }
            }
            prop_assert_eq!(duplicates, repeated);
            for number in 0..fleet.all() {
                let courier = Courier::Fleet(number);
                let state = model.courier(&fleet.id(0, courier)).unwrap();
                let (moved, changes) = sums.get(&courier).copied().unwrap_or_default();
                prop_assert_eq!(state.available, i64::try_from(AVAILABLE).unwrap() + moved);
                prop_assert_eq!(state.version, 1 + changes);
            }
        }
    }

    #[test]
    fn every_kind_has_its_share_and_spares_are_touched_once() {
        let fleet = Fleet::new(9, 50);
        let mut kinds: BTreeMap<&str, u32> = BTreeMap::new();
        let mut touched = HashSet::new();
        for number in 0..10_000 {
            let command = fleet.command(0, number);
            *kinds.entry(command.word()).or_default() += 1;
            if let Courier::Fleet(spare) = command.courier
                && spare >= fleet.size()
            {
                assert!(touched.insert(spare), "{command:?}");
            }
        }
        let want = [
            ("create", 100),
            ("delete", 5),
            ("dropoff", 4_400),
            ("pickup", 4_690),
            ("set_capacity", 5),
            ("update", 800),
        ];
        assert_eq!(kinds, want.into());
        assert_eq!(touched.len(), 10);
    }

    #[test]
    fn single_bodies_and_items_say_the_same() {
        let fleet = Fleet::new(3, 20);
        let numbers = (0..300).map(|number| fleet.command(1, number));
        let bad = (0..6).map(|number| fleet.bad_command(1, number));
        for command in numbers.chain(bad) {
            let (mut item, mut body) = (Vec::new(), Vec::new());
            fleet.write_item(1, &command, &mut item);
            fleet.write_body(1, &command, &mut body);
            let mut item: Value = serde_json::from_slice(&item).unwrap();
            let item = item.as_object_mut().unwrap();
            assert_eq!(item.remove("command").unwrap(), command.word());
            let (method, route, _) = fleet.route(1, &command);
            assert!(route.starts_with("/v1/couriers"));
            if command.change == Change::Delete {
                assert!(body.is_empty() && method == Method::DELETE);
                continue;
            }
            if command.change != Change::Create {
                let id = item.remove("courier_id").unwrap();
                assert!(route.contains(id.as_str().unwrap()));
            }
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body.as_object().unwrap(), item);
        }
    }

    #[test]
    fn ids_fit_and_differ_by_seed_partner_and_courier() {
        let longest = Fleet::new(u64::MAX, 100_000).id(999, Courier::New(u64::from(u32::MAX)));
        assert!(longest.len() <= 64, "{longest}");
        let mut seen = HashSet::new();
        for seed in [1, 11] {
            for partner in [0, 1, 10] {
                for number in 0..20 {
                    for courier in [Courier::Fleet(number), Courier::New(number)] {
                        assert!(seen.insert(Fleet::new(seed, 5).id(partner, courier)));
                    }
                }
            }
        }
    }
}
