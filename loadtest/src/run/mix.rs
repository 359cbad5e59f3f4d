//! Which requests carry rides and which commands to couriers: as evenly as whole requests allow,
//! the same for every partner, and known from a request's number alone.

/// A million parts.
const WHOLE: u64 = 1_000_000;

/// What all records of a request are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Ride,
    Courier,
}

/// The shares of the kinds; of rounds, in each of which every partner has one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Kinds {
    couriers_ppm: u64,
}

impl Kinds {
    /// `couriers`: their share, 0 to 1.
    pub(crate) fn new(couriers: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to what fits"
        )]
        let couriers_ppm = (couriers.clamp(0.0, 1.0) * 1e6).round() as u64;
        Self { couriers_ppm }
    }

    /// Their share, 0 to 1.
    pub(crate) fn couriers(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "at most a million")]
        let ppm = self.couriers_ppm as f64;
        ppm / 1e6
    }

    pub(crate) fn has_couriers(self) -> bool {
        self.couriers_ppm > 0
    }

    pub(crate) fn has_rides(self) -> bool {
        self.couriers_ppm < WHOLE
    }

    /// A round's kind, and how many of its kind are before it.
    pub(crate) fn at(self, round: u64) -> (Kind, u64) {
        let before = self.couriers_before(round);
        if self.couriers_before(round + 1) > before {
            (Kind::Courier, before)
        } else {
            (Kind::Ride, round - before)
        }
    }

    /// The round that has so many of its kind before it.
    pub(crate) fn round(self, kind: Kind, rank: u64) -> u64 {
        match kind {
            Kind::Ride => scaled(rank, WHOLE, WHOLE - self.couriers_ppm),
            Kind::Courier => ((rank + 1) * WHOLE).div_ceil(self.couriers_ppm) - 1,
        }
    }

    fn couriers_before(self, round: u64) -> u64 {
        scaled(round, self.couriers_ppm, WHOLE)
    }
}

/// Rounds stay far below 2^44: each of their records has its place in memory.
fn scaled(number: u64, by: u64, over: u64) -> u64 {
    number * by / over
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranks_and_rounds_go_both_ways(ppm in 0_u64..=WHOLE, first in 0_u64..10_000_000) {
            let kinds = Kinds { couriers_ppm: ppm };
            let mut couriers = None;
            for round in first..first + 50 {
                let (kind, rank) = kinds.at(round);
                prop_assert_eq!(kinds.round(kind, rank), round);
                if kind == Kind::Courier {
                    if let Some(before) = couriers {
                        prop_assert_eq!(rank, before + 1);
                    }
                    couriers = Some(rank);
                }
            }
        }
    }

    #[test]
    fn shares_are_kept_exactly() {
        for (share, couriers) in [(0.0, 0), (0.2, 200), (0.5, 500), (1.0, 1_000)] {
            let kinds = Kinds::new(share);
            let count = (0..1_000).filter(|round| kinds.at(*round).0 == Kind::Courier);
            assert_eq!(count.count(), couriers);
        }
        assert_eq!(Kinds::new(0.2).at(0), (Kind::Ride, 0));
        assert_eq!(Kinds::default().at(7), (Kind::Ride, 7));
    }
}
