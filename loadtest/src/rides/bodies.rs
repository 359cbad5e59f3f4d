//! Bodies for a closed loop: few texts that take turns, fresh ids.

use bytes::Bytes;

use super::{body_ndjson, body_single};

/// Bodies built ahead, so that a measurement does not pay for making them: each request copies one
/// of a few and only its ids are written anew.
#[derive(Clone, Debug)]
pub struct Bodies {
    first_id: u64,
    records: u64,
    variants: Vec<Variant>,
}

#[derive(Clone, Debug)]
struct Variant {
    bytes: Vec<u8>,
    /// Where each record's id begins.
    ids: Vec<usize>,
}

/// Digits of an id of [`Bodies`]: all have as many, so that they can be overwritten in place.
const ID_DIGITS: usize = 16;
/// How many different bodies take turns.
const VARIANTS: u64 = 32;

impl Bodies {
    /// The smallest `first_id`: ids have 16 digits.
    pub const FIRST_ID_MIN: u64 = 1_000_000_000_000_000;

    /// Bodies of one JSON object each.
    ///
    /// # Panics
    /// If `first_id` is not from [`Bodies::FIRST_ID_MIN`] to nine times that.
    #[must_use]
    pub fn single(first_id: u64) -> Self {
        Self::new(first_id, 1, body_single)
    }

    /// NDJSON bodies of `records` rides each, at least one.
    ///
    /// # Panics
    /// As [`Bodies::single`].
    #[must_use]
    pub fn ndjson(first_id: u64, records: u32) -> Self {
        let records = records.max(1);
        Self::new(first_id, records, |id| body_ndjson(id, records))
    }

    fn new(first_id: u64, records: u32, body: impl Fn(i64) -> Bytes) -> Self {
        assert!(
            (Self::FIRST_ID_MIN..=9 * Self::FIRST_ID_MIN).contains(&first_id),
            "first_id has 16 digits and room above it"
        );
        let records = u64::from(records);
        let variants = (0..VARIANTS)
            .map(|variant| {
                let first = Self::FIRST_ID_MIN + variant * records;
                let bytes = body(i64::try_from(first).expect("16 digits fit")).to_vec();
                let ids = bytes
                    .windows(ID_MEMBER.len())
                    .enumerate()
                    .filter(|(_, window)| *window == ID_MEMBER)
                    .map(|(at, _)| at + ID_MEMBER.len())
                    .collect::<Vec<_>>();
                assert_eq!(ids.len() as u64, records, "one id per record");
                Variant { bytes, ids }
            })
            .collect();
        Self {
            first_id,
            records,
            variants,
        }
    }

    /// Records in each body.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The body of the `number`-th request: ids follow on each other without gap or repetition.
    #[must_use]
    pub fn body(&self, number: u64) -> Bytes {
        let variant = &self.variants[usize::try_from(number % VARIANTS).expect("below 32")];
        let mut bytes = variant.bytes.clone();
        let first = self.first_id + number * self.records;
        for (id, at) in (first..).zip(&variant.ids) {
            let mut rest = id;
            for digit in bytes[*at..at + ID_DIGITS].iter_mut().rev() {
                *digit = b'0' + u8::try_from(rest % 10).expect("a digit");
                rest /= 10;
            }
        }
        bytes.into()
    }
}

const ID_MEMBER: &[u8] = b"{\"id\":";
