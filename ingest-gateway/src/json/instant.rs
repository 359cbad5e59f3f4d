//! Instants: RFC 3339, Unix seconds, or Unix milliseconds, to microseconds since the Unix epoch.

use jiff::civil::Date;
use simd_json::{Node, StaticNode};

use super::integer;

/// Numbers from here up (and from its negative down) are milliseconds, below it seconds: as
/// seconds it would be the year 5138, as milliseconds it is 1973.
const MILLISECONDS_FROM: i64 = 100_000_000_000;

/// 0001-01-01T00:00:00Z, in seconds since the Unix epoch.
const SECONDS_MIN: i64 = -62_135_596_800;

/// 9999-12-31T23:59:59Z, in seconds since the Unix epoch. RFC 3339 has no years beyond, and
/// PostgreSQL's timestamptz holds all of these.
const SECONDS_MAX: i64 = 253_402_300_799;

const MICROS: i64 = 1_000_000;

pub(super) const EXPECTED: &str = "must be an instant: an RFC 3339 string with an offset, Unix \
                                   seconds, or Unix milliseconds, of the years 1 to 9999";

const TOO_FINE: &str = "has a fraction finer than a microsecond";

/// # Errors
/// What is wrong, for the sender.
pub(super) fn from_node(node: &Node<'_>) -> Result<i64, &'static str> {
    match node {
        Node::String(text) => from_text(text.as_bytes()).ok_or(EXPECTED),
        Node::Static(StaticNode::F64(number)) => from_float(*number),
        _ => integer(node).and_then(from_integer).ok_or(EXPECTED),
    }
}

fn from_integer(number: i64) -> Option<i64> {
    let milliseconds = number.unsigned_abs() >= MILLISECONDS_FROM.unsigned_abs();
    let factor = if milliseconds { 1_000 } else { MICROS };
    in_range(number.checked_mul(factor)?)
}

fn from_float(number: f64) -> Result<i64, &'static str> {
    let milliseconds = number.abs() >= MILLISECONDS_FROM as f64;
    let factor = if milliseconds { 1e3 } else { 1e6 };
    let micros = (number * factor).round();
    // Within the range below every whole number of microseconds fits an i64.
    if micros.abs() > 1e18 {
        return Err(EXPECTED);
    }
    let micros = micros as i64;
    if micros as f64 / factor != number {
        return Err(TOO_FINE);
    }
    in_range(micros).ok_or(EXPECTED)
}

fn in_range(micros: i64) -> Option<i64> {
    let seconds = micros.div_euclid(MICROS);
    (SECONDS_MIN..=SECONDS_MAX)
        .contains(&seconds)
        .then_some(micros)
}

/// RFC 3339, section 5.6, strictly: jiff's own parser takes more than that. A fraction is cut to
/// the microsecond; a leap second counts as the second after it, as in POSIX and PostgreSQL.
fn from_text(text: &[u8]) -> Option<i64> {
    let (date_time, rest) = text.split_at_checked(19)?;
    let separators = [date_time[4], date_time[7], date_time[13], date_time[16]];
    if separators != *b"--::" || !matches!(date_time[10], b'T' | b't' | b' ') {
        return None;
    }
    let year = digits(&date_time[..4])?;
    let month = digits(&date_time[5..7])?;
    let day = digits(&date_time[8..10])?;
    let hour = digits(&date_time[11..13])?;
    let minute = digits(&date_time[14..16])?;
    let second = digits(&date_time[17..])?;
    let date = Date::new(
        i16::try_from(year).ok()?,
        i8::try_from(month).ok()?,
        i8::try_from(day).ok()?,
    )
    .ok()?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction, offset) = split_fraction(rest)?;
    let offset = offset_seconds(offset)?;
    let days = days_since_epoch(date);
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    // The only leap seconds there are come at the end of a day in UTC.
    if second == 60 && seconds.rem_euclid(86_400) != 0 {
        return None;
    }
    in_range(seconds * MICROS + fraction)
}

fn days_since_epoch(date: Date) -> i64 {
    // Days from the civil calendar (Howard Hinnant): years begin in March, so that the leap day
    // is the last of its year.
    let month = i64::from(date.month());
    let year = i64::from(date.year()) - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + i64::from(date.day()) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The fraction in microseconds, and what follows it.
fn split_fraction(rest: &[u8]) -> Option<(i64, &[u8])> {
    let Some(rest) = rest.strip_prefix(b".") else {
        return Some((0, rest));
    };
    let len = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if len == 0 {
        return None;
    }
    let (fraction, offset) = rest.split_at(len);
    let micros = (0..6).fold(0, |micros, position| {
        let digit = fraction.get(position).map_or(0, |byte| byte - b'0');
        micros * 10 + i64::from(digit)
    });
    Some((micros, offset))
}

fn offset_seconds(offset: &[u8]) -> Option<i64> {
    match offset {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let hours = digits(&[*h1, *h2])?;
            let minutes = digits(&[*m1, *m2])?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3_600 + minutes * 60;
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit()
            .then(|| number * 10 + i64::from(byte - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc_3339_in_its_forms() {
        for (text, micros) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01t00:00:00z", Some(0)),
            ("1970-01-01 00:00:00Z", Some(0)),
            ("1969-12-31T23:59:59.999999Z", Some(-1)),
            ("2013-01-01T09:30:00+05:30", Some(1_357_012_800_000_000)),
            ("2013-01-01T04:00:00.1234567Z", Some(1_357_012_800_123_456)),
            ("2013-01-01T04:00:00.5-00:00", Some(1_357_012_800_500_000)),
            ("2000-02-29T00:00:00Z", Some(951_782_400_000_000)),
            ("0001-01-01T00:00:00Z", Some(SECONDS_MIN * MICROS)),
            ("9999-12-31T23:59:59Z", Some(SECONDS_MAX * MICROS)),
            ("2016-12-31T23:59:60Z", Some(1_483_228_800_000_000)),
            ("2017-01-01T05:29:60+05:30", Some(1_483_228_800_000_000)),
            ("2016-12-31T22:59:60Z", None),
            ("0001-01-01T00:00:00+00:01", None),
            ("0000-12-31T00:00:00Z", None),
            ("9999-12-31T23:59:59-00:01", None),
            ("2013-02-29T00:00:00Z", None),
            ("2013-01-01T24:00:00Z", None),
            ("2013-01-01T09:30:00", None),
            ("2013-01-01T09:30Z", None),
            ("2013-01-01", None),
            ("2013-01-01T09:30:00.Z", None),
            ("2013-01-01T09:30:00+0530", None),
            ("2013-01-01T09:30:00+05:30[Asia/Kolkata]", None),
            ("2013-01-01T09:30:00Z ", None),
            ("20130101T093000Z", None),
            ("1356979500", None),
            ("", None),
            ("ééééééééééééé", None),
        ] {
            assert_eq!(from_text(text.as_bytes()), micros, "{text}");
        }
    }

    #[test]
    fn numbers_are_seconds_or_milliseconds_by_their_size() {
        assert_eq!(from_integer(1_356_979_500), Some(1_356_979_500_000_000));
        assert_eq!(from_integer(1_356_979_500_123), Some(1_356_979_500_123_000));
        assert_eq!(from_integer(99_999_999_999), Some(99_999_999_999_000_000));
        assert_eq!(from_integer(MILLISECONDS_FROM), Some(100_000_000_000_000));
        assert_eq!(from_integer(-MILLISECONDS_FROM), Some(-100_000_000_000_000));
        assert_eq!(from_integer(-1), Some(-1_000_000));
        assert_eq!(from_integer(i64::MAX), None);
        assert_eq!(from_integer(i64::MIN), None);
        assert_eq!(from_float(1_356_979_500.5), Ok(1_356_979_500_500_000));
        assert_eq!(from_float(1_356_979_500.123_456), Ok(1_356_979_500_123_456));
        assert_eq!(from_float(1_356_979_500_123.5), Ok(1_356_979_500_123_500));
        assert_eq!(from_float(-0.000_001), Ok(-1));
        assert_eq!(from_float(0.000_000_1), Err(TOO_FINE));
        assert_eq!(from_float(1e300), Err(EXPECTED));
    }

    proptest! {
        #[test]
        fn jiff_agrees(micros in SECONDS_MIN * MICROS..=(SECONDS_MAX - 86_400) * MICROS) {
            let text = jiff::Timestamp::from_microsecond(micros).unwrap().to_string();
            prop_assert_eq!(from_text(text.as_bytes()), Some(micros), "{}", text);
        }

        #[test]
        fn any_text_gives_an_answer(text: String) {
            let _ = from_text(text.as_bytes());
        }
    }
}
