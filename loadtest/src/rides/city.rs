//! Where rides begin and end: areas as unequally popular as the real ones, and trips as long.

use std::sync::OnceLock;

use super::dice::Dice;

/// Areas that rides start and end in; ids 2 to 1403.
const AREAS: u64 = 525;
/// The least popular ones lie out in the country, so that long trips have somewhere to go.
const OUTLYING_FROM: u64 = 470;
/// The airport: 8.4% of all pick-ups, and nearly always a long way.
const AIRPORT: Area = Area {
    id: 393,
    lat: 13.199_56,
    long: 77.706_88,
};
const AIRPORT_PERCENT: f64 = 8.4;
/// No trip from the airport is among this share of the shortest.
const AIRPORT_FROM_SHARE: f64 = 0.5;

/// Length of a trip in km at the shares given, straight lines between.
const TRIP_KM: [(f64, f64); 6] = [
    (0.0, 2.0),
    (0.10, 5.2),
    (0.50, 14.7),
    (0.90, 32.8),
    (0.99, 39.5),
    (1.0, 44.0),
];
/// How far a trip's length may be from the one thrown, as a share of it.
const TRIP_TOLERANCE: f64 = 0.012;

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Area {
    pub(super) id: u64,
    pub(super) lat: f64,
    pub(super) long: f64,
}

/// Every area by rank, and all others by their distance from it.
struct City {
    areas: Vec<Area>,
    /// By rank; ascending (km, rank).
    around: Vec<Vec<(f64, usize)>>,
}

/// Where a ride begins, and where it would end if it has a destination.
pub(super) fn trip(dice: &mut Dice) -> (Area, Area) {
    let city = city();
    let share = dice.unit();
    let airport =
        share >= AIRPORT_FROM_SHARE && dice.percent(AIRPORT_PERCENT / (1.0 - AIRPORT_FROM_SHARE));
    let from = if airport { 0 } else { rank(dice) };
    let km = super::between(&TRIP_KM, share);
    let around = &city.around[from];
    let low = around.partition_point(|(it, _)| *it < km * (1.0 - TRIP_TOLERANCE));
    let high = around.partition_point(|(it, _)| *it <= km * (1.0 + TRIP_TOLERANCE));
    let to = if low < high {
        let weighted: Vec<_> = around[low..high]
            .iter()
            .map(|(_, rank)| (*rank as u64, weight(*rank)))
            .collect();
        usize::try_from(dice.pick(&weighted)).expect("a rank")
    } else {
        nearest(around, low, km)
    };
    (city.areas[from], city.areas[to])
}

/// Any but the airport: the top 10 hold 25% with it, the top 50 half.
fn rank(dice: &mut Dice) -> usize {
    let rank = match dice.below(916) {
        0..166 => 1 + dice.below(9),
        166..416 => 10 + dice.below(40),
        _ => 50 + dice.below(AREAS - 50),
    };
    usize::try_from(rank).expect("below 525")
}

/// How often an area is the destination among those equally far, in the ratio of pick-ups.
fn weight(rank: usize) -> u64 {
    match rank {
        0 => 8_400,
        1..10 => 1_844,
        10..50 => 625,
        _ => 105,
    }
}

fn nearest(around: &[(f64, usize)], at: usize, km: f64) -> usize {
    let below = at.checked_sub(1).map(|index| around[index]);
    let above = around.get(at).copied();
    match (below, above) {
        (Some(below), Some(above)) if km - below.0 < above.0 - km => below.1,
        (_, Some(above)) => above.1,
        (Some(below), None) => below.1,
        (None, None) => unreachable!("there are other areas"),
    }
}

fn city() -> &'static City {
    static CITY: OnceLock<City> = OnceLock::new();
    CITY.get_or_init(|| {
        let areas: Vec<_> = (0..AREAS).map(area).collect();
        let around = areas
            .iter()
            .map(|from| {
                let mut others: Vec<_> = areas
                    .iter()
                    .enumerate()
                    .filter(|(_, to)| to.id != from.id)
                    .map(|(rank, to)| (km_between(*from, *to), rank))
                    .collect();
                others.sort_by(|one, two| one.0.total_cmp(&two.0).then(one.1.cmp(&two.1)));
                others
            })
            .collect();
        City { areas, around }
    })
}

fn area(rank: u64) -> Area {
    if rank == 0 {
        return AIRPORT;
    }
    // 211 and 525 have no common factor: every rank gets an index of its own.
    let index = (rank * 211 + 7) % AREAS;
    let id = 2 + index * 1_401 / (AREAS - 1);
    let id = if id == AIRPORT.id { id + 1 } else { id };
    let mut place = Dice::new(id);
    let rounded = |degrees: f64| (degrees * 1e5).round() / 1e5;
    if rank >= OUTLYING_FROM {
        let lat = rounded(13.1 + place.unit() * 0.266);
        let long = rounded(77.387 + place.unit() * 0.399);
        return Area { id, lat, long };
    }
    // The mean of three throws: dense in the middle of the city, thin towards its edges.
    let mut around = |low: f64, high: f64| {
        let mean = (place.unit() + place.unit() + place.unit()) / 3.0;
        rounded(low + mean * (high - low))
    };
    let lat = around(12.777, 13.12);
    let long = around(77.387, 77.786);
    Area { id, lat, long }
}

/// The great circle's (haversine).
fn km_between(from: Area, to: Area) -> f64 {
    let square = |it: f64| it * it;
    let half = square(((to.lat - from.lat).to_radians() / 2.0).sin())
        + from.lat.to_radians().cos()
            * to.lat.to_radians().cos()
            * square(((to.long - from.long).to_radians() / 2.0).sin());
    2.0 * 6_371.0 * half.sqrt().asin()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trips_are_as_long_as_the_real_ones() {
        let mut km: Vec<_> = (0..50_000)
            .map(|seed| {
                let (from, to) = trip(&mut Dice::new(seed));
                km_between(from, to)
            })
            .collect();
        km.sort_by(f64::total_cmp);
        for (share, want) in [(0.10, 5.2), (0.50, 14.7), (0.90, 32.8), (0.99, 39.5)] {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let got = km[(km.len() as f64 * share) as usize];
            assert!(
                (got - want).abs() < want * 0.02,
                "{share}: {got} km, not {want}"
            );
        }
    }

    #[test]
    fn every_area_has_an_id_of_its_own() {
        let mut ids: Vec<_> = city().areas.iter().map(|area| area.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len() as u64, AREAS);
    }
}
