//! Synthetic rides that look like real ones: shares, nulls, areas, coordinates and lead times
//! follow what is known of YourCabs' bookings (Bangalore 2013), but no row is anybody's. The same
//! seed gives the same rides on every machine, for ever: a sample in the repository and the
//! comparison of two measurements rest on it.

use std::fmt::Write as _;

use bytes::Bytes;
use jiff::Span;
use jiff::civil::{Date, DateTime, Time};

mod bodies;
mod calendar;
mod city;
mod dice;

pub use bodies::Bodies;
pub(crate) use calendar::BOOKED;
use city::Area;
pub(crate) use dice::Dice;

/// The columns of a recorded file, in order.
pub const COLUMNS: [&str; 18] = [
    "id",
    "user_id",
    "vehicle_model_id",
    "package_id",
    "travel_type_id",
    "from_area_id",
    "to_area_id",
    "from_city_id",
    "to_city_id",
    "from_date",
    "to_date",
    "online_booking",
    "mobile_site_booking",
    "booking_created",
    "from_lat",
    "from_long",
    "to_lat",
    "to_long",
];

/// One synthetic booking. Dates are local (Asia/Kolkata, +05:30 all year).
#[derive(Clone, PartialEq, Debug)]
pub struct Ride {
    id: i64,
    user_id: u64,
    vehicle_model_id: u64,
    package_id: Option<u64>,
    travel_type_id: u64,
    from: Option<Area>,
    to: Option<Area>,
    from_city_id: Option<u64>,
    to_city_id: Option<u64>,
    from_date: DateTime,
    to_date: Option<Date>,
    online_booking: bool,
    mobile_site_booking: bool,
    booking_created: DateTime,
}

impl Ride {
    /// The ride that belongs to `seed`, under the given id.
    #[must_use]
    pub fn generate(id: i64, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let travel_type_id = dice.pick(&[(1, 365), (2, 7850), (3, 1785)]);
        let to_null_percent = [4.0, 45.0, 33.0][slot(travel_type_id)];
        let from_city_null_percent = [9.6, 58.0, 94.0][slot(travel_type_id)];
        let (from_date, booking_created) = calendar::dates(&mut dice);
        let days_away = if travel_type_id == 1 {
            dice.below(5)
        } else {
            0
        };
        let booked = dice.pick(&[(0, 61), (1, 35), (2, 4)]);
        let has_from = travel_type_id != 1 || !dice.percent(5.5);
        let (from, to) = city::trip(&mut dice);
        Self {
            id,
            // A few regular customers, and many who come once.
            user_id: user(&mut dice),
            vehicle_model_id: dice.pick(&VEHICLES),
            package_id: (travel_type_id == 3).then(|| dice.pick(&PACKAGES)),
            travel_type_id,
            from: has_from.then_some(from),
            to: (travel_type_id == 2).then_some(to),
            from_city_id: (!dice.percent(from_city_null_percent))
                .then(|| dice.pick(&[(15, 97), (1, 3)])),
            to_city_id: (travel_type_id == 1).then(|| 1 + dice.below(200)),
            from_date,
            to_date: (!dice.percent(to_null_percent)).then(|| {
                let days = Span::new().days(i64::try_from(days_away).expect("below 5"));
                from_date.date().saturating_add(days)
            }),
            online_booking: booked == 1,
            mobile_site_booking: booked == 2,
            booking_created,
        }
    }

    /// Appends the ride as one JSON object, every member present.
    pub fn write_json(&self, text: &mut String) {
        let optional =
            |value: Option<u64>| value.map_or_else(|| "null".into(), |it| it.to_string());
        let instant = |at: DateTime| at.strftime("%Y-%m-%dT%H:%M:%S+05:30");
        let (from_area, from_lat, from_long) = area_fields(self.from, "null");
        let (to_area, to_lat, to_long) = area_fields(self.to, "null");
        let to_date = self.to_date.map_or_else(
            || "null".to_owned(),
            |day| format!("\"{}\"", instant(day.to_datetime(Time::midnight()))),
        );
        write!(
            text,
            concat!(
                r#"{{"id":{},"user_id":{},"vehicle_model_id":{},"package_id":{},"travel_type_id":{},"#,
                r#""from_area_id":{},"to_area_id":{},"from_city_id":{},"to_city_id":{},"#,
                r#""from_date":"{}","to_date":{},"online_booking":{},"mobile_site_booking":{},"#,
                r#""booking_created":"{}","from_lat":{},"from_long":{},"to_lat":{},"to_long":{}}}"#
            ),
            self.id,
            self.user_id,
            self.vehicle_model_id,
            optional(self.package_id),
            self.travel_type_id,
            from_area,
            to_area,
            optional(self.from_city_id),
            optional(self.to_city_id),
            instant(self.from_date),
            to_date,
            self.online_booking,
            self.mobile_site_booking,
            instant(self.booking_created),
            from_lat,
            from_long,
            to_lat,
            to_long,
        )
        .expect("writing to a String cannot fail");
    }

    /// Appends the ride as one line of CSV with [`COLUMNS`]: local dates, `NULL` for null.
    pub fn write_csv(&self, text: &mut String) {
        let optional =
            |value: Option<u64>| value.map_or_else(|| "NULL".into(), |it| it.to_string());
        let day = |day: Date| format!("{}/{}/{}", day.month(), day.day(), day.year());
        let instant = |at: DateTime| format!("{} {}:{:02}", day(at.date()), at.hour(), at.minute());
        let (from_area, from_lat, from_long) = area_fields(self.from, "NULL");
        let (to_area, to_lat, to_long) = area_fields(self.to, "NULL");
        let fields: [String; COLUMNS.len()] = [
            self.id.to_string(),
            self.user_id.to_string(),
            self.vehicle_model_id.to_string(),
            optional(self.package_id),
            self.travel_type_id.to_string(),
            from_area,
            to_area,
            optional(self.from_city_id),
            optional(self.to_city_id),
            instant(self.from_date),
            self.to_date.map_or_else(|| "NULL".into(), day),
            u8::from(self.online_booking).to_string(),
            u8::from(self.mobile_site_booking).to_string(),
            instant(self.booking_created),
            from_lat,
            from_long,
            to_lat,
            to_long,
        ];
        text.push_str(&fields.join(","));
        text.push('\n');
    }
}

/// The value at `share` of a distribution given by a few of its quantiles, straight lines between.
fn between(quantiles: &[(f64, f64)], share: f64) -> f64 {
    let next = quantiles
        .iter()
        .position(|(to, _)| share < *to)
        .unwrap_or(quantiles.len() - 1);
    let ((from_share, from), (to_share, to)) = (quantiles[next - 1], quantiles[next]);
    from + (to - from) * (share - from_share) / (to_share - from_share)
}

fn area_fields(area: Option<Area>, null: &str) -> (String, String, String) {
    match area {
        Some(it) => (it.id.to_string(), it.lat.to_string(), it.long.to_string()),
        None => (null.into(), null.into(), null.into()),
    }
}

const VEHICLES: [(u64, u64); 9] = [
    (12, 730),
    (85, 55),
    (89, 55),
    (65, 44),
    (28, 39),
    (24, 34),
    (87, 13),
    (90, 15),
    (23, 15),
];
const PACKAGES: [(u64, u64); 6] = [(1, 47), (2, 34), (3, 5), (4, 6), (6, 6), (7, 1)];

/// Of as many customers as the real sample has, 83% book once; a few regulars book often.
fn user(dice: &mut Dice) -> u64 {
    if dice.percent(57.0) {
        11 + dice.below(48_720)
    } else {
        let throw = dice.below(1_000);
        11 + throw * throw / 1_000 * 48
    }
}

fn slot(travel_type_id: u64) -> usize {
    usize::try_from(travel_type_id - 1).expect("a travel type is 1 to 3")
}

/// First id of [`sample_csv`]: above all real ones (they end below 190,000), so that a sample and a
/// real file can be replayed into one system.
const SAMPLE_FIRST_ID: i64 = 500_001;

/// A recorded file of `rows` synthetic rides, as CSV with [`COLUMNS`]. Ids ascend with small gaps.
#[must_use]
pub fn sample_csv(rows: u64, seed: u64) -> String {
    let mut text = COLUMNS.join(",");
    text.push('\n');
    let mut gaps = Dice::new(seed);
    let mut id = SAMPLE_FIRST_ID;
    for row in 0..rows {
        Ride::generate(id, seed.wrapping_add(row)).write_csv(&mut text);
        id += 1 + i64::try_from(gaps.below(14)).expect("below 14");
    }
    text
}

/// One ride as a JSON body; its content follows from its id.
#[must_use]
pub fn body_single(id: i64) -> Bytes {
    let mut text = String::with_capacity(512);
    Ride::generate(id, id.unsigned_abs()).write_json(&mut text);
    text.into()
}

/// `count` rides with ascending ids as an NDJSON body.
#[must_use]
pub fn body_ndjson(first_id: i64, count: u32) -> Bytes {
    let mut text = String::with_capacity(512 * count as usize);
    for id in first_id..first_id.saturating_add(i64::from(count)) {
        Ride::generate(id, id.unsigned_abs()).write_json(&mut text);
        text.push('\n');
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn many() -> Vec<Ride> {
        (0..100_000).map(|seed| Ride::generate(1, seed)).collect()
    }

    fn share(rides: &[Ride], of: impl Fn(&Ride) -> bool) -> f64 {
        rides.iter().filter(|ride| of(ride)).count() as f64 / rides.len() as f64
    }

    /// What is known of the real rows' shares, each within 2% of it, or within three standard
    /// deviations where chance alone moves so small a part by more than that.
    #[test]
    fn shares_follow_the_real_bookings() {
        let rides = many();
        let close = |name: &str, of: &[Ride], which: &dyn Fn(&Ride) -> bool, percent: f64| {
            let want = percent / 100.0;
            let deviation = (want * (1.0 - want) / of.len() as f64).sqrt();
            let got = share(of, which);
            let near = (got - want).abs() <= (want * 0.02).max(3.0 * deviation);
            assert!(near, "{name}: {}%, not {percent}%", got * 100.0);
        };
        for (kind, percent, from_city_null, to_date_null) in [
            (1, 3.65, 9.6, 4.0),
            (2, 78.5, 58.0, 45.0),
            (3, 17.85, 94.0, 33.0),
        ] {
            let of: Vec<_> = rides
                .iter()
                .filter(|it| it.travel_type_id == kind)
                .cloned()
                .collect();
            close(
                "travel type",
                &rides,
                &|it| it.travel_type_id == kind,
                percent,
            );
            close(
                "from_city null",
                &of,
                &|it| it.from_city_id.is_none(),
                from_city_null,
            );
            close(
                "to_date null",
                &of,
                &|it| it.to_date.is_none(),
                to_date_null,
            );
            let from_area_null = if kind == 1 { 5.5 } else { 0.0 };
            close(
                "from_area null",
                &of,
                &|it| it.from.is_none(),
                from_area_null,
            );
            for (package, percent) in [(1, 47.0), (2, 34.0), (4, 6.0), (6, 6.0), (3, 5.0), (7, 1.0)]
                .into_iter()
                .filter(|_| kind == 3)
            {
                // The table's figures are rounded and sum to 99.
                close(
                    "package",
                    &of,
                    &|it| it.package_id == Some(package),
                    percent / 0.99,
                );
            }
        }
        for (vehicle, percent) in [
            (12, 73.0),
            (85, 5.5),
            (89, 5.5),
            (65, 4.4),
            (28, 3.9),
            (24, 3.4),
            (87, 1.3),
        ] {
            close(
                "vehicle",
                &rides,
                &|it| it.vehicle_model_id == vehicle,
                percent,
            );
        }
        for (minute, percent) in [(0, 38.0), (30, 31.0), (15, 15.0), (45, 15.0)] {
            close(
                "minute",
                &rides,
                &|it| it.from_date.minute() == minute,
                percent,
            );
        }
        for (booked, percent) in [
            ((false, false), 61.0),
            ((true, false), 35.0),
            ((false, true), 4.0),
        ] {
            let by = |it: &Ride| (it.online_booking, it.mobile_site_booking) == booked;
            close("online, mobile", &rides, &by, percent);
        }
        close(
            "booked afterwards",
            &rides,
            &|it| it.booking_created > it.from_date,
            0.05,
        );
    }

    #[test]
    fn areas_are_as_popular_as_the_real_ones() {
        let mut picked = std::collections::HashMap::<u64, u32>::new();
        let rides = many();
        for area in rides.iter().filter_map(|ride| ride.from) {
            *picked.entry(area.id).or_default() += 1;
        }
        let total: f64 = picked.values().copied().map(f64::from).sum();
        assert!((f64::from(picked[&393]) / total - 0.084).abs() < 0.084 * 0.02);
        let mut counts: Vec<_> = picked.into_values().map(f64::from).collect();
        counts.sort_by(|one, two| two.total_cmp(one));
        assert!(
            (515..=525).contains(&counts.len()),
            "{} areas",
            counts.len()
        );
        let top = |ranks: usize| counts[..ranks].iter().sum::<f64>() / total;
        assert!((top(10) - 0.25).abs() < 0.25 * 0.02, "{}", top(10));
        assert!((top(50) - 0.50).abs() < 0.50 * 0.02, "{}", top(50));
    }

    #[test]
    fn times_follow_the_real_bookings() {
        let rides = many();
        let mut leads: Vec<_> = rides
            .iter()
            .map(|ride| {
                ride.from_date
                    .duration_since(ride.booking_created)
                    .as_mins()
            })
            .collect();
        leads.sort_unstable();
        for (percent, want_hours) in [
            (10, 1.35),
            (25, 2.8),
            (50, 8.8),
            (75, 17.9),
            (90, 60.0),
            (99, 596.0),
        ] {
            let hours = leads[leads.len() * percent / 100] as f64 / 60.0;
            let close = (hours - want_hours).abs() <= want_hours * 0.02;
            assert!(close, "p{percent}: {hours} h, not {want_hours}");
        }
        let at = |of: fn(&Ride) -> DateTime| {
            let mut hours = [0.0; 24];
            for ride in &rides {
                hours[usize::try_from(of(ride).hour()).unwrap()] += 100.0 / rides.len() as f64;
            }
            hours
        };
        let picked = at(|ride| ride.from_date);
        assert!(
            (picked[8] - 7.0).abs() < 0.2 && (picked[9] - 7.0).abs() < 0.3,
            "{picked:?}"
        );
        assert!(
            picked[17] > picked[15] && picked[17] > picked[19],
            "{picked:?}"
        );
        let booked = at(|ride| ride.booking_created);
        for (hour, percent) in booked.iter().enumerate() {
            let busiest = hour == 10 || hour == 11;
            assert_eq!(busiest, *percent > 6.8, "{hour} h: {percent}%");
        }
    }

    #[test]
    fn most_customers_book_once() {
        // As many rows as the real sample has: the share falls as they grow.
        let mut booked = std::collections::HashMap::<u64, u32>::new();
        for seed in 0..5_000 {
            let user = Ride::generate(1, seed).user_id;
            assert!((11..=48_730).contains(&user));
            *booked.entry(user).or_default() += 1;
        }
        let once = booked.values().filter(|count| **count == 1).count() as f64;
        let once = once / booked.len() as f64;
        assert!((once - 0.83).abs() < 0.83 * 0.02, "{once}");
    }

    #[test]
    fn nulls_come_together_as_in_the_real_bookings() {
        for ride in many() {
            assert_eq!(ride.package_id.is_some(), ride.travel_type_id == 3);
            assert_eq!(ride.to.is_some(), ride.travel_type_id == 2);
            assert_eq!(ride.to_city_id.is_some(), ride.travel_type_id == 1);
            assert!(ride.from.is_some() || ride.travel_type_id == 1);
            assert!(!(ride.online_booking && ride.mobile_site_booking));
            for area in [ride.from, ride.to].into_iter().flatten() {
                assert!((12.777..=13.366).contains(&area.lat), "{area:?}");
                assert!((77.387..=77.786).contains(&area.long), "{area:?}");
                assert!((2..=1403).contains(&area.id), "{area:?}");
            }
        }
    }

    #[test]
    fn the_sample_in_the_repository_is_the_generators() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/samples/bookings.csv");
        let committed = std::fs::read_to_string(path).unwrap();
        assert_eq!(committed, sample_csv(500, 2013));
    }

    #[test]
    fn bodies_are_json_with_fresh_ids() {
        let single: serde_json::Value = serde_json::from_slice(&body_single(77)).unwrap();
        assert_eq!(single["id"], 77);
        assert_eq!(single.as_object().unwrap().len(), COLUMNS.len());

        let first = Bodies::FIRST_ID_MIN + 5;
        let bodies = Bodies::ndjson(first, 7);
        let mut seen = HashSet::new();
        for number in 0..100 {
            let body = bodies.body(number);
            for line in body
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
            {
                let ride: serde_json::Value = serde_json::from_slice(line).unwrap();
                assert!(seen.insert(ride["id"].as_u64().unwrap()));
            }
        }
        assert_eq!(seen, (first..first + 700).collect());
        assert_eq!(Bodies::single(first).records(), 1);
    }
}
