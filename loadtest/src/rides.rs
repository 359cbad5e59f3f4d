//! Synthetic rides that look like real ones: shares, nulls, areas, coordinates and lead times
//! follow what is known of YourCabs' bookings (Bangalore 2013), but no row is anybody's. The same
//! seed gives the same rides on every machine, for ever: a sample in the repository and the
//! comparison of two measurements rest on it.

use std::fmt::Write as _;

use bytes::Bytes;
use jiff::civil::{Date, DateTime, Time, date};
use jiff::{SignedDuration, Span};

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

/// Areas that rides start and end in; ids 2 to 1403.
const AREAS: u64 = 525;
/// The airport: 8.4% of all pick-ups.
const AIRPORT: Area = Area {
    id: 393,
    lat: 13.199_56,
    long: 77.706_88,
};
/// Bookings are dated within this many days from the first of 2013.
const DAYS: u64 = 330;

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

#[derive(Clone, Copy, PartialEq, Debug)]
struct Area {
    id: u64,
    lat: f64,
    long: f64,
}

impl Ride {
    /// The ride that belongs to `seed`, under the given id.
    #[must_use]
    pub fn generate(id: i64, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let travel_type_id = dice.pick(&[(1, 365), (2, 7850), (3, 1785)]);
        let to_null_percent = [4.0, 45.0, 33.0][slot(travel_type_id)];
        let from_city_null_percent = [9.6, 58.0, 94.0][slot(travel_type_id)];
        let (from_date, booking_created) = dates(&mut dice);
        let days_away = if travel_type_id == 1 {
            dice.below(5)
        } else {
            0
        };
        let booked = dice.pick(&[(0, 61), (1, 35), (2, 4)]);
        let has_from = travel_type_id != 1 || !dice.percent(5.5);
        let from = area(&mut dice);
        let to = area(&mut dice);
        Self {
            id,
            // A few regular customers, and many who come once.
            user_id: if dice.percent(83.0) {
                11 + dice.below(48_720)
            } else {
                11 + dice.below(1_500) * 29
            },
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

fn slot(travel_type_id: u64) -> usize {
    usize::try_from(travel_type_id - 1).expect("a travel type is 1 to 3")
}

/// Top 10 areas hold 25%, top 50 half; the airport alone 8.4%.
fn area(dice: &mut Dice) -> Area {
    let rank = match dice.below(1_000) {
        0..84 => return AIRPORT,
        84..250 => 1 + dice.below(9),
        250..500 => 10 + dice.below(40),
        _ => 50 + dice.below(AREAS - 50),
    };
    // 211 and 525 have no common factor: every rank gets an index of its own.
    let index = (rank * 211 + 7) % AREAS;
    let id = 2 + index * 1_401 / (AREAS - 1);
    let id = if id == AIRPORT.id { id + 1 } else { id };
    let mut place = Dice::new(id);
    // The mean of three throws: dense in the middle of the city, thin towards its edges.
    let mut around = |low: f64, high: f64| {
        let mean = (place.unit() + place.unit() + place.unit()) / 3.0;
        ((low + mean * (high - low)) * 1e5).round() / 1e5
    };
    Area {
        id,
        lat: around(12.777, 13.166),
        long: around(77.387, 77.786),
    }
}

/// Pick-up and booking: the pick-up's hour and minute, and how long before it was booked.
fn dates(dice: &mut Dice) -> (DateTime, DateTime) {
    /// Lead time in hours at the shares given, straight lines between.
    const LEAD: [(f64, f64); 8] = [
        (0.0, 0.25),
        (0.10, 1.35),
        (0.25, 2.8),
        (0.50, 8.8),
        (0.75, 17.9),
        (0.90, 60.0),
        (0.99, 596.0),
        (1.0, 1_500.0),
    ];
    /// Weight of each hour of the day: peaks at 8-9 and at 17.
    const HOURS: [(u64, u64); 24] = [
        (0, 20),
        (1, 15),
        (2, 20),
        (3, 35),
        (4, 50),
        (5, 55),
        (6, 55),
        (7, 60),
        (8, 70),
        (9, 70),
        (10, 50),
        (11, 40),
        (12, 38),
        (13, 38),
        (14, 40),
        (15, 42),
        (16, 50),
        (17, 65),
        (18, 58),
        (19, 45),
        (20, 38),
        (21, 36),
        (22, 30),
        (23, 25),
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
    let day = i64::try_from(dice.below(DAYS)).expect("within a year");
    let minute_of_day = dice.pick(&HOURS) * 60 + dice.pick(&MINUTES);
    let share = dice.unit();
    let next = LEAD
        .iter()
        .position(|(to, _)| share < *to)
        .unwrap_or(LEAD.len() - 1);
    let ((from_share, from_hours), (to_share, to_hours)) = (LEAD[next - 1], LEAD[next]);
    let hours =
        from_hours + (to_hours - from_hours) * (share - from_share) / (to_share - from_share);
    // 0.05% are booked after the fact: real, and to be accepted.
    let hours = if dice.percent(0.05) { -hours } else { hours };
    let first = date(2013, 1, 1).to_datetime(Time::midnight());
    let pick_up = first
        + SignedDuration::from_hours(24 * day)
        + SignedDuration::from_mins(i64::try_from(minute_of_day).expect("within a day"));
    #[expect(clippy::cast_possible_truncation, reason = "at most 90,000 minutes")]
    let lead = SignedDuration::from_mins((hours * 60.0) as i64);
    (pick_up, pick_up - lead)
}

/// SplitMix64 (Steele, Lea, Flood 2014): tiny, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 0 to `bound` - 1.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// 0 to 1, 1 excluded.
    fn unit(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let throw = (self.next() >> 11) as f64;
        throw / (1_u64 << 53) as f64
    }

    fn percent(&mut self, percent: f64) -> bool {
        self.unit() * 100.0 < percent
    }

    /// One of the values, by weight.
    fn pick(&mut self, weighted: &[(u64, u64)]) -> u64 {
        let mut throw = self.below(weighted.iter().map(|(_, weight)| weight).sum());
        for (value, weight) in weighted {
            if throw < *weight {
                return *value;
            }
            throw -= weight;
        }
        unreachable!("a throw is below the sum of the weights")
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn many() -> Vec<Ride> {
        (0..20_000).map(|seed| Ride::generate(1, seed)).collect()
    }

    fn share(rides: &[Ride], of: impl Fn(&Ride) -> bool) -> f64 {
        rides.iter().filter(|ride| of(ride)).count() as f64 / rides.len() as f64
    }

    #[test]
    fn shares_follow_the_real_bookings() {
        let rides = many();
        let close = |got: f64, want: f64| assert!((got - want).abs() < 0.015, "{got} {want}");
        close(share(&rides, |ride| ride.travel_type_id == 1), 0.0365);
        close(share(&rides, |ride| ride.travel_type_id == 2), 0.785);
        close(share(&rides, |ride| ride.vehicle_model_id == 12), 0.73);
        close(
            share(&rides, |ride| ride.from.map(|it| it.id) == Some(393)),
            0.084,
        );
        close(share(&rides, |ride| ride.from_date.minute() == 0), 0.38);
        close(share(&rides, |ride| ride.online_booking), 0.35);
        let mut leads: Vec<_> = rides
            .iter()
            .map(|ride| {
                ride.from_date
                    .duration_since(ride.booking_created)
                    .as_mins()
            })
            .collect();
        leads.sort_unstable();
        let median_hours = leads[leads.len() / 2] as f64 / 60.0;
        assert!((7.5..10.0).contains(&median_hours), "{median_hours}");
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
