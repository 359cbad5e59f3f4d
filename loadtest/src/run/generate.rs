//! What is sent: every byte follows from the seed and the record's number, on every machine.
//!
//! Texts are rendered before the first is due; sending copies one and writes its id over the
//! placeholder, so that making rides never limits sending them. Texts take turns when there are
//! more records than texts, ids never do.

use super::mix::{Kind, Kinds};
use crate::couriers::{Command, Fleet};
use crate::rides::{Dice, Ride};

/// How rides are put into a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Body {
    /// One object.
    Single,
    /// A JSON array.
    Array,
    /// One object a line.
    Ndjson,
}

impl Body {
    /// The word of the flag.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Array => "array",
            Self::Ndjson => "ndjson",
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Single | Self::Array => "application/json",
            Self::Ndjson => "application/x-ndjson",
        }
    }
}

/// What is generated.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) seed: u64,
    pub(crate) body: Body,
    /// Records in one request.
    pub(crate) batch: u64,
    /// Requests take turns among so many.
    pub(crate) partners: u64,
    /// Share of records that repeat an earlier one.
    pub(crate) duplicates: f64,
    /// Share of records that no gateway may accept.
    pub(crate) bad: f64,
    pub(crate) kinds: Kinds,
    /// Couriers of each partner whose capacity moves.
    pub(crate) couriers: u64,
}

/// What one record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Nature {
    /// Seen nowhere before.
    Fresh,
    /// The same as an earlier record of the same partner, by its number.
    Again(u64),
    /// To be refused.
    Bad,
}

/// Most texts kept: 25 MB, and enough for the rare ones to be there in their real shares.
const TEXTS_MAX: u64 = 65_536;
/// Spoiled texts, a few of each kind.
const BAD_TEXTS: u64 = 64;
/// A repeated record lies at least so many records back, so that its original has usually been
/// answered, and at most four times as many.
const AGAIN_RECORDS_MIN: u64 = 250;
/// How often an earlier movement is looked for: of ten commands nine are one.
const AGAIN_THROWS: u32 = 4;
/// Every id has 18 digits, so that one can be written over another.
const ID_DIGITS: usize = 18;
const ID_MIN: u64 = 100_000_000_000_000_000;
/// A seed's ids: a billion in a row.
const IDS_PER_SEED: u64 = 1_000_000_000;
const ID_RANGES: u64 = 800_000_000;
const ID_MEMBER: &[u8] = b"{\"id\":";

/// Where a record stands among those of its kind.
#[derive(Clone, Copy, Debug)]
struct Place {
    kind: Kind,
    /// Rounds of its kind before its own.
    rank: u64,
    /// Records of its kind and partner before it.
    number: u64,
}

/// Makes bodies.
#[derive(Debug)]
pub(crate) struct Generator {
    recipe: Recipe,
    fleet: Fleet,
    first_id: u64,
    texts: Vec<Box<[u8]>>,
    bad_texts: Vec<Box<[u8]>>,
}

impl Generator {
    /// Renders what `records` records need.
    pub(crate) fn new(recipe: Recipe, records: Option<u64>) -> Self {
        let texts = records.unwrap_or(TEXTS_MAX).clamp(1, TEXTS_MAX);
        let bad_texts = if recipe.bad > 0.0 { BAD_TEXTS } else { 0 };
        let mut dice = Dice::new(recipe.seed);
        Self {
            fleet: Fleet::new(recipe.seed, recipe.couriers.max(1)),
            first_id: ID_MIN + dice.below(ID_RANGES) * IDS_PER_SEED,
            texts: (0..texts).map(|at| text(recipe.seed, at)).collect(),
            bad_texts: (0..bad_texts)
                .map(|at| spoiled(&text(recipe.seed, at), at))
                .collect(),
            recipe,
        }
    }

    pub(crate) fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Whose key a request carries, from 0.
    pub(crate) fn partner(&self, request: u64) -> usize {
        usize::try_from(request % self.recipe.partners).expect("few partners")
    }

    /// Whose record it is, from 0.
    pub(crate) fn partner_of(&self, record: u64) -> usize {
        self.partner(record / self.recipe.batch)
    }

    pub(crate) fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// What all records of a request are.
    pub(crate) fn kind(&self, request: u64) -> Kind {
        self.recipe.kinds.at(request / self.recipe.partners).0
    }

    fn kind_of(&self, record: u64) -> Kind {
        self.kind(record / self.recipe.batch)
    }

    /// The command to a courier that a record is or repeats; `None` of a ride.
    pub(crate) fn command(&self, record: u64) -> Option<Command> {
        if self.kind_of(record) == Kind::Ride {
            return None;
        }
        let partner = self.partner_of(record);
        Some(match self.nature(record) {
            Nature::Fresh => self.fleet.command(partner, self.place(record).number),
            Nature::Again(original) => self.fleet.command(partner, self.place(original).number),
            Nature::Bad => self.fleet.bad_command(partner, self.place(record).number),
        })
    }

    fn place(&self, record: u64) -> Place {
        let Recipe {
            batch,
            partners,
            kinds,
            ..
        } = self.recipe;
        let (kind, rank) = kinds.at(record / batch / partners);
        Place {
            kind,
            rank,
            number: rank * batch + record % batch,
        }
    }

    /// The record of the same partner, kind and place in its request so many rounds of its kind
    /// back.
    fn earlier(&self, record: u64, rounds: u64) -> Option<u64> {
        let Recipe {
            batch,
            partners,
            kinds,
            ..
        } = self.recipe;
        let place = self.place(record);
        let round = kinds.round(place.kind, place.rank.checked_sub(rounds)?);
        Some((round * partners + self.partner_of(record) as u64) * batch + record % batch)
    }

    /// What a record is meant to be.
    pub(crate) fn nature(&self, record: u64) -> Nature {
        let Recipe {
            duplicates, bad, ..
        } = self.recipe;
        if duplicates <= 0.0 && bad <= 0.0 {
            return Nature::Fresh;
        }
        let mut dice = self.dice(record);
        let throw = dice.unit();
        if throw < bad {
            return Nature::Bad;
        }
        if throw < bad + duplicates {
            let round = self.recipe.batch * self.recipe.partners;
            let least = AGAIN_RECORDS_MIN.div_ceil(round);
            let throws = match self.kind_of(record) {
                Kind::Ride => 1,
                Kind::Courier => AGAIN_THROWS,
            };
            for _ in 0..throws {
                let back = least + dice.below(least * 3);
                if let Some(original) = self.earlier(record, back)
                    && self.is_repeatable(original)
                {
                    return Nature::Again(original);
                }
            }
        }
        Nature::Fresh
    }

    /// Whether sending it again makes a duplicate: of commands only movements, since an update
    /// sent again may undo a later one.
    fn is_repeatable(&self, record: u64) -> bool {
        let place = self.place(record);
        let movement = || {
            let partner = self.partner_of(record);
            self.fleet.command(partner, place.number).is_movement()
        };
        self.is_fresh(record) && (place.kind == Kind::Ride || movement())
    }

    /// Whether the throw makes it fresh, whatever lies before it.
    fn is_fresh(&self, record: u64) -> bool {
        self.dice(record).unit() >= self.recipe.bad + self.recipe.duplicates
    }

    fn dice(&self, record: u64) -> Dice {
        Dice::new(self.recipe.seed ^ record.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    /// The id of the resource that a record is about, as outcomes name it.
    pub(crate) fn resource(&self, record: u64) -> String {
        match self.command(record) {
            Some(command) => self.fleet.id(self.partner_of(record), command.courier),
            None => self.id(record).to_string(),
        }
    }

    /// What a ride's record is listed by.
    pub(crate) fn ride_id(&self, record: u64) -> Option<i64> {
        (self.kind_of(record) == Kind::Ride).then(|| self.id(record))
    }

    /// What a command's record is listed by.
    pub(crate) fn courier_id(&self, record: u64) -> Option<String> {
        (self.kind_of(record) == Kind::Courier).then(|| self.resource(record))
    }

    /// The ride's id: a record's own, or that of the one it repeats.
    pub(crate) fn id(&self, record: u64) -> i64 {
        let number = match self.nature(record) {
            Nature::Again(original) => original,
            Nature::Fresh | Nature::Bad => record,
        };
        i64::try_from(self.first_id + number).expect("18 digits fit")
    }

    /// Appends the body of a request, from 0.
    pub(crate) fn write_body(&self, request: u64, to: &mut Vec<u8>) {
        let first = request * self.recipe.batch;
        match self.recipe.body {
            Body::Single => match self.command(first) {
                Some(command) => self.fleet.write_body(self.partner(request), &command, to),
                None => self.write_record(first, to),
            },
            Body::Array => {
                for record in first..first + self.recipe.batch {
                    to.push(if record == first { b'[' } else { b',' });
                    self.write_record(record, to);
                }
                to.push(b']');
            }
            Body::Ndjson => {
                for record in first..first + self.recipe.batch {
                    self.write_record(record, to);
                    to.push(b'\n');
                }
            }
        }
    }

    fn write_record(&self, record: u64, to: &mut Vec<u8>) {
        if let Some(command) = self.command(record) {
            self.fleet.write_item(self.partner_of(record), &command, to);
            return;
        }
        let nature = self.nature(record);
        let (texts, number) = match nature {
            Nature::Fresh => (&self.texts, record),
            Nature::Again(original) => (&self.texts, original),
            Nature::Bad => (&self.bad_texts, record),
        };
        let at = usize::try_from(number % texts.len() as u64).expect("below the number of texts");
        let start = to.len() + ID_MEMBER.len();
        to.extend_from_slice(&texts[at]);
        let mut rest = self.first_id + number;
        for digit in to[start..start + ID_DIGITS].iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).expect("a digit");
            rest /= 10;
        }
    }
}

fn text(seed: u64, at: u64) -> Box<[u8]> {
    let mut text = String::with_capacity(512);
    let own = Dice::new(seed.rotate_left(32) ^ at).next();
    Ride::generate(i64::try_from(ID_MIN).expect("18 digits fit"), own).write_json(&mut text);
    debug_assert!(text.as_bytes().starts_with(ID_MEMBER));
    text.into_bytes().into()
}

/// JSON still, but not a ride: each has one fault.
fn spoiled(text: &[u8], at: u64) -> Box<[u8]> {
    let text = std::str::from_utf8(text).expect("rides are text");
    let (member, value) = [
        ("travel_type_id", "9"),
        ("user_id", "null"),
        ("from_date", "\"tomorrow\""),
        ("vehicle_model_id", "\"a big one\""),
    ][usize::try_from(at % 4).expect("below 4")];
    let member = format!("\"{member}\":");
    let start = text.find(&member).expect("every member is written") + member.len();
    let end = start + text[start..].find(',').expect("it is not the last member");
    format!("{}{value}{}", &text[..start], &text[end..])
        .into_bytes()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn recipe(seed: u64, body: Body, batch: u64) -> Recipe {
        Recipe {
            seed,
            body,
            batch,
            partners: 2,
            duplicates: 0.01,
            bad: 0.002,
            kinds: Kinds::default(),
            couriers: 500,
        }
    }

    fn mixed(seed: u64, body: Body, batch: u64) -> Recipe {
        Recipe {
            kinds: Kinds::new(0.2),
            couriers: 20,
            duplicates: 0.05,
            bad: 0.01,
            ..recipe(seed, body, batch)
        }
    }

    fn bodies(recipe: &Recipe, records: Option<u64>) -> Vec<u8> {
        let generator = Generator::new(recipe.clone(), records);
        let mut all = Vec::new();
        for request in 0..1_000 / recipe.batch {
            generator.write_body(request, &mut all);
        }
        all
    }

    fn fnv1a(all: &[u8]) -> u64 {
        all.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }

    #[test]
    fn one_seed_makes_the_same_bytes() {
        for (body, batch) in [(Body::Single, 1), (Body::Array, 10), (Body::Ndjson, 100)] {
            let one = bodies(&recipe(7, body, batch), Some(1_000));
            assert_eq!(one, bodies(&recipe(7, body, batch), Some(1_000)));
            assert_eq!(one, bodies(&recipe(7, body, batch), Some(2_000)));
            assert_ne!(one, bodies(&recipe(8, body, batch), Some(1_000)));
        }
    }

    /// A change of the generator changes what a seed means; this says so.
    #[test]
    fn a_seed_means_what_it_meant() {
        let all = bodies(&recipe(7, Body::Ndjson, 100), Some(1_000));
        assert_eq!((all.len(), fnv1a(&all)), (GOLDEN_BYTES, GOLDEN_FNV1A));
        let all = bodies(&mixed(7, Body::Ndjson, 10), Some(1_000));
        let golden = (GOLDEN_MIXED_BYTES, GOLDEN_MIXED_FNV1A);
        assert_eq!((all.len(), fnv1a(&all)), golden);
    }
    const GOLDEN_MIXED_BYTES: usize = 347_511;
    const GOLDEN_MIXED_FNV1A: u64 = 2_609_561_450_928_088_252;
    const GOLDEN_BYTES: usize = 414_129;
    const GOLDEN_FNV1A: u64 = 3_191_668_595_715_807_176;

    #[test]
    fn records_are_rides_with_ids_of_their_own() {
        let generator = Generator::new(recipe(1, Body::Array, 50), Some(500));
        let mut fresh = HashSet::new();
        let (mut again, mut bad) = (0, 0);
        for request in 0..400 {
            let mut body = Vec::new();
            generator.write_body(request, &mut body);
            let rides: Vec<serde_json::Value> = serde_json::from_slice(&body).unwrap();
            for (record, ride) in (request * 50..).zip(&rides) {
                let id = generator.id(record);
                assert_eq!(ride["id"], id);
                match generator.nature(record) {
                    Nature::Fresh => assert!(fresh.insert(id)),
                    Nature::Again(original) => {
                        again += 1;
                        assert!(fresh.contains(&id) && original < record);
                        assert_eq!(generator.partner_of(original), generator.partner_of(record));
                        assert!(record - original >= AGAIN_RECORDS_MIN);
                    }
                    Nature::Bad => bad += 1,
                }
            }
        }
        assert!((140..=240).contains(&again), "{again} of 20,000 are 1%");
        assert!((20..=60).contains(&bad), "{bad} of 20,000 are 0.2%");
    }

    /// A share of rides, a share of commands, each with its own repetitions; movements only.
    #[test]
    fn kinds_keep_their_shares_and_repeat_their_own() {
        let generator = Generator::new(mixed(4, Body::Ndjson, 10), Some(40_000));
        let (mut rides, mut commands) = ((0, 0, 0), (0, 0, 0));
        for record in 0..40_000 {
            let command = generator.command(record);
            let counts = if command.is_some() {
                &mut commands
            } else {
                &mut rides
            };
            counts.0 += 1;
            match generator.nature(record) {
                Nature::Fresh => {}
                Nature::Bad => counts.2 += 1,
                Nature::Again(original) => {
                    counts.1 += 1;
                    assert!(record - original >= AGAIN_RECORDS_MIN);
                    assert_eq!(generator.partner_of(original), generator.partner_of(record));
                    assert_eq!(generator.nature(original), Nature::Fresh);
                    assert_eq!(generator.command(original), command);
                    assert_eq!(generator.resource(original), generator.resource(record));
                    assert!(command.is_none_or(|it| it.is_movement()));
                }
            }
        }
        assert_eq!((rides.0, commands.0), (32_000, 8_000));
        assert!((1_400..=1_800).contains(&rides.1), "5%: {rides:?}");
        assert!((340..=460).contains(&commands.1), "5%: {commands:?}");
        assert!((250..=390).contains(&rides.2), "1%: {rides:?}");
        assert!((50..=110).contains(&commands.2), "1%: {commands:?}");
    }

    #[test]
    fn a_mixed_request_is_of_one_kind() {
        let generator = Generator::new(mixed(4, Body::Array, 10), Some(1_000));
        for request in 0..100 {
            let mut body = Vec::new();
            generator.write_body(request, &mut body);
            let items: Vec<serde_json::Value> = serde_json::from_slice(&body).unwrap();
            let courier = generator.kind(request) == Kind::Courier;
            for item in items {
                assert_eq!(item["command"].is_string(), courier);
                assert_eq!(item["id"].is_i64(), !courier);
            }
        }
    }

    #[test]
    fn what_is_repeated_is_repeated_to_the_byte() {
        let generator = Generator::new(recipe(3, Body::Single, 1), Some(5_000));
        let body = |record| {
            let mut body = Vec::new();
            generator.write_body(record, &mut body);
            body
        };
        let again = (0..5_000).filter_map(|record| match generator.nature(record) {
            Nature::Again(original) => Some((record, original)),
            _ => None,
        });
        let mut seen = 0;
        for (record, original) in again {
            assert_eq!(body(record), body(original));
            seen += 1;
        }
        assert!(seen > 20);
    }

    #[test]
    fn spoiled_rides_are_json_with_one_fault() {
        for at in 0..8 {
            let whole: serde_json::Value = serde_json::from_slice(&text(5, at)).unwrap();
            let bad: serde_json::Value =
                serde_json::from_slice(&spoiled(&text(5, at), at)).unwrap();
            let (whole, bad) = (whole.as_object().unwrap(), bad.as_object().unwrap());
            let differing = whole.iter().filter(|(name, value)| bad[*name] != **value);
            assert_eq!(differing.count(), 1);
        }
    }

    #[test]
    fn seeds_have_ids_apart() {
        let mut seen = HashSet::new();
        for seed in 0..1_000 {
            let first = Generator::new(recipe(seed, Body::Single, 1), Some(1)).first_id;
            assert!(seen.insert(first), "seed {seed}");
            assert_eq!(first.to_string().len(), ID_DIGITS);
        }
    }
}
