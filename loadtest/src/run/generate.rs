//! What is sent: every byte follows from the seed and the record's number, on every machine.
//!
//! Texts are rendered before the first is due; sending copies one and writes its id over the
//! placeholder, so that making rides never limits sending them. Texts take turns when there are
//! more records than texts, ids never do.

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
/// Every id has 18 digits, so that one can be written over another.
const ID_DIGITS: usize = 18;
const ID_MIN: u64 = 100_000_000_000_000_000;
/// A seed's ids: a billion in a row.
const IDS_PER_SEED: u64 = 1_000_000_000;
const ID_RANGES: u64 = 800_000_000;
const ID_MEMBER: &[u8] = b"{\"id\":";

/// Makes bodies.
#[derive(Debug)]
pub(crate) struct Generator {
    recipe: Recipe,
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
            let back = (least + dice.below(least * 3)) * round;
            if let Some(original) = record.checked_sub(back)
                && self.is_fresh(original)
            {
                return Nature::Again(original);
            }
        }
        Nature::Fresh
    }

    /// Whether the throw makes it fresh, whatever lies before it.
    fn is_fresh(&self, record: u64) -> bool {
        self.dice(record).unit() >= self.recipe.bad + self.recipe.duplicates
    }

    fn dice(&self, record: u64) -> Dice {
        Dice::new(self.recipe.seed ^ record.wrapping_mul(0xd6e8_feb8_6659_fd93))
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
            Body::Single => self.write_record(first, to),
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
        let sum = all.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        assert_eq!((all.len(), sum), (GOLDEN_BYTES, GOLDEN_FNV1A));
    }
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
