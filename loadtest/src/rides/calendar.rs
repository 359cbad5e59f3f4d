//! When rides are booked and picked up.

use jiff::SignedDuration;
use jiff::civil::{DateTime, Time, date};

use super::dice::Dice;

/// Bookings are dated within this many days from the first of 2013.
const DAYS: u64 = 330;

/// Lead time in hours at the shares given, straight lines between.
const LEAD_HOURS: [(f64, f64); 8] = [
    (0.0, 0.25),
    (0.10, 1.35),
    (0.25, 2.8),
    (0.50, 8.8),
    (0.75, 17.9),
    (0.90, 60.0),
    (0.99, 596.0),
    (1.0, 1_500.0),
];

/// How often rides are booked in each hour of the day, in thousandths: most at 10 and 11.
pub(crate) const BOOKED: [u64; 24] = [
    22, 9, 5, 2, 2, 4, 10, 25, 43, 57, 74, 77, 61, 55, 56, 60, 60, 60, 61, 62, 60, 50, 46, 40,
];

/// Weights that, multiplied for a pick-up's and its booking's hour and divided by their sum over
/// the hours that a given lead time allows, give both hours their real shares at once: pick-ups
/// peak at 8 and 9 (7% an hour) and at 17, bookings as in [`BOOKED`]. Found by iterative
/// proportional fitting over [`LEAD_HOURS`].
const PICK_UP_WEIGHTS: [u64; 24] = [
    100, 76, 74, 339, 430, 460, 628, 750, 1000, 937, 700, 477, 381, 271, 267, 322, 395, 518, 412,
    340, 337, 287, 208, 210,
];
const BOOKING_WEIGHTS: [u64; 24] = [
    232, 85, 44, 17, 16, 32, 81, 215, 418, 635, 912, 1000, 796, 693, 666, 685, 690, 720, 753, 779,
    762, 629, 563, 465,
];

const MINUTES: [(u64, u64); 8] = [
    (0, 380),
    (30, 310),
    (15, 150),
    (45, 150),
    (10, 3),
    (20, 3),
    (40, 2),
    (50, 2),
];

/// Pick-up and booking, local time.
pub(super) fn dates(dice: &mut Dice) -> (DateTime, DateTime) {
    let day = i64::try_from(dice.below(DAYS)).expect("within a year");
    let hours = super::between(&LEAD_HOURS, dice.unit());
    #[expect(clippy::cast_possible_truncation, reason = "at most 90,000 minutes")]
    let lead_minutes = (hours * 60.0) as i64;
    // 0.05% are booked after the fact: real, and to be accepted.
    let lead_minutes = if dice.percent(0.05) {
        -lead_minutes
    } else {
        lead_minutes
    };
    let minute = i64::try_from(dice.pick(&MINUTES)).expect("below 60");
    let mut weighted = [(0, 0); 24];
    for (hour, slot) in (0_i64..).zip(&mut weighted) {
        let booked = (hour * 60 + minute - lead_minutes).rem_euclid(24 * 60) / 60;
        let at = |hour: i64| usize::try_from(hour).expect("an hour of the day");
        let weight = PICK_UP_WEIGHTS[at(hour)] * BOOKING_WEIGHTS[at(booked)];
        *slot = (hour.unsigned_abs(), weight);
    }
    let hour = i64::try_from(dice.pick(&weighted)).expect("below 24");
    let pick_up = date(2013, 1, 1).to_datetime(Time::midnight())
        + SignedDuration::from_hours(24 * day + hour)
        + SignedDuration::from_mins(minute);
    (pick_up, pick_up - SignedDuration::from_mins(lead_minutes))
}
