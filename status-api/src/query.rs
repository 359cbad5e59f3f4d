//! Query parameters, parsed once: what is not known, twice there or unreadable is said, not skipped.

use std::str::FromStr;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use contract::TrackingId;
use contract::limits::{CAPACITY_LITRES_MAX, VEHICLE_TYPE_CHARS_MAX};
use jiff::Timestamp;

use crate::couriers::CouriersAsked;
use crate::cursor::Cursor;
use crate::instant::Micros;
use crate::keyset::{CourierPlace, RidePlace};
use crate::rides::RidesAsked;

/// Longest long poll.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(30);

/// How long `?after=` waits when the client does not say.
const AFTER_WAIT_DEFAULT: Duration = Duration::from_secs(5);

/// Most results on a page, and how many when the client does not say.
const LIMIT_MAX: i64 = 1_000;
const LIMIT_DEFAULT: i64 = 100;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {fault}")]
pub(crate) struct BadParameter {
    name: String,
    fault: String,
}

/// `?wait=` of one request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct One {
    pub(crate) wait: Option<Duration>,
}

/// `?status=&since=&cursor=&limit=` of a page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) after: Cursor,
    pub(crate) limit: i64,
}

/// `?after=&wait=` of a read: what must have its outcome first, and how long that may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct After {
    pub(crate) id: TrackingId,
    pub(crate) wait: Duration,
}

/// `?after=&wait=` of one ride or courier.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) after: Option<After>,
}

/// The parameters of a page of couriers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Couriers {
    pub(crate) asked: CouriersAsked,
    pub(crate) place: CourierPlace,
    pub(crate) limit: i64,
    pub(crate) after: Option<After>,
}

/// The parameters of a page of rides.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rides {
    pub(crate) asked: RidesAsked,
    pub(crate) place: RidePlace,
    pub(crate) limit: i64,
    pub(crate) after: Option<After>,
}

type Pairs = [(String, String)];

/// The request's parameters, or why they cannot be read.
pub(crate) type Parameters = Result<axum::extract::Query<Vec<(String, String)>>, QueryRejection>;

/// The pairs of name and value, percent-decoded.
pub(crate) fn pairs(parameters: Parameters) -> Result<Vec<(String, String)>, BadParameter> {
    match parameters {
        Ok(axum::extract::Query(pairs)) => Ok(pairs),
        Err(rejection) => Err(bad("query", rejection.body_text())),
    }
}

impl One {
    pub(crate) fn read(pairs: &Pairs) -> Result<Self, BadParameter> {
        let [wait] = take(pairs, ["wait"])?;
        Ok(Self {
            wait: wait.map(parse_wait).transpose()?,
        })
    }
}

impl Page {
    pub(crate) fn read(pairs: &Pairs) -> Result<Self, BadParameter> {
        let [status, since, cursor, limit] = take(pairs, ["status", "since", "cursor", "limit"])?;
        match status {
            Some("failed") => {}
            Some(_) => return Err(bad("status", "only failed can be listed")),
            None => return Err(bad("status", "say which requests to list: status=failed")),
        }
        let since = match since {
            Some(text) => Cursor::before(parse_instant("since", text)?),
            None => Cursor::START,
        };
        let cursor = match cursor {
            Some(text) => {
                Cursor::from_str(text).map_err(|error| bad("cursor", error.to_string()))?
            }
            None => Cursor::START,
        };
        let limit = parse_limit(limit)?;
        // Both are lower bounds, so a cursor from before `since` cannot reach behind it.
        Ok(Self {
            after: since.max(cursor),
            limit,
        })
    }
}

impl Resource {
    pub(crate) fn read(pairs: &Pairs) -> Result<Self, BadParameter> {
        let [after, wait] = take(pairs, ["after", "wait"])?;
        Ok(Self {
            after: parse_after(after, wait)?,
        })
    }
}

impl Couriers {
    /// A cursor is read for this partner: another's goes on with none of its lists.
    pub(crate) fn read(pairs: &Pairs, partner_id: i32) -> Result<Self, BadParameter> {
        const NAMES: [&str; 6] = [
            "min_available",
            "vehicle_type",
            "limit",
            "cursor",
            "after",
            "wait",
        ];
        let [min_available, vehicle_type, limit, cursor, after, wait] = take(pairs, NAMES)?;
        let asked = CouriersAsked {
            min_available: min_available.map_or(Ok(0), parse_min_available)?,
            vehicle_type: vehicle_type.map(parse_vehicle_type).transpose()?,
        };
        let place = match cursor {
            Some(text) => CourierPlace::read(text, partner_id, &asked)
                .map_err(|error| bad("cursor", error.to_string()))?,
            None => CourierPlace::start(&asked),
        };
        Ok(Self {
            asked,
            place,
            limit: parse_limit(limit)?,
            after: parse_after(after, wait)?,
        })
    }
}

impl Rides {
    /// A cursor is read for this partner: another's goes on with none of its lists.
    pub(crate) fn read(pairs: &Pairs, partner_id: i32) -> Result<Self, BadParameter> {
        const NAMES: [&str; 7] = ["user_id", "from", "to", "limit", "cursor", "after", "wait"];
        let [user_id, from, to, limit, cursor, after, wait] = take(pairs, NAMES)?;
        let user_id = user_id.ok_or_else(|| bad("user_id", "say whose rides to list"))?;
        let user_id = user_id.parse();
        let instant = |name, text: Option<&str>| text.map(|it| parse_instant(name, it)).transpose();
        let asked = RidesAsked {
            user_id: user_id
                .map_err(|_| bad("user_id", "a whole number of 64 bits is expected"))?,
            from: instant("from", from)?,
            to: instant("to", to)?,
        };
        if let (Some(from), Some(to)) = (asked.from, asked.to)
            && to < from
        {
            return Err(bad("to", "before from"));
        }
        let place = match cursor {
            Some(text) => RidePlace::read(text, partner_id, &asked)
                .map_err(|error| bad("cursor", error.to_string()))?,
            None => RidePlace::start(&asked),
        };
        Ok(Self {
            asked,
            place,
            limit: parse_limit(limit)?,
            after: parse_after(after, wait)?,
        })
    }
}

fn parse_wait(text: &str) -> Result<Duration, BadParameter> {
    let wait = chassis::units::parse_duration(text).map_err(|fault| bad("wait", fault))?;
    if wait > WAIT_MAX {
        return Err(bad("wait", "at most 30s"));
    }
    Ok(wait)
}

fn parse_after(after: Option<&str>, wait: Option<&str>) -> Result<Option<After>, BadParameter> {
    let wait = wait.map(parse_wait).transpose()?;
    match (after, wait) {
        (Some(text), wait) => Ok(Some(After {
            id: text
                .parse()
                .map_err(|_| bad("after", "not a tracking id: pass one as it was answered"))?,
            wait: wait.unwrap_or(AFTER_WAIT_DEFAULT),
        })),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(bad(
            "wait",
            "says how long to wait for after, which is not given",
        )),
    }
}

fn parse_min_available(text: &str) -> Result<i32, BadParameter> {
    let litres = text.parse().ok();
    litres
        .filter(|litres| (0..=CAPACITY_LITRES_MAX).contains(litres))
        .ok_or_else(|| {
            let range = format!("a whole number from 0 to {CAPACITY_LITRES_MAX} is expected");
            bad("min_available", range)
        })
}

fn parse_vehicle_type(text: &str) -> Result<String, BadParameter> {
    if text.chars().count() > VEHICLE_TYPE_CHARS_MAX || text.contains(char::is_control) {
        let form = format!("at most {VEHICLE_TYPE_CHARS_MAX} characters, no control characters");
        return Err(bad("vehicle_type", form));
    }
    // What stands where bytes were that are no UTF-8: a filter for it would find nothing.
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err(bad("vehicle_type", "not UTF-8, percent-encoded"));
    }
    Ok(text.to_owned())
}

fn parse_instant(name: &str, text: &str) -> Result<Micros, BadParameter> {
    let instant = Timestamp::from_str(text).map_err(|_| {
        let plus = if text.contains(' ') {
            "; in a URL + is written %2B"
        } else {
            ""
        };
        bad(
            name,
            format!("not an RFC 3339 instant, like 2026-01-31T08:00:00Z{plus}"),
        )
    })?;
    Ok(Micros(instant.as_microsecond()))
}

fn parse_limit(text: Option<&str>) -> Result<i64, BadParameter> {
    let Some(text) = text else {
        return Ok(LIMIT_DEFAULT);
    };
    let limit = text
        .parse()
        .ok()
        .filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| {
        bad(
            "limit",
            format!("a whole number from 1 to {LIMIT_MAX} is expected"),
        )
    })
}

/// The values of the named parameters; one that is empty counts as absent, but for what a read is to
/// wait for: whoever forgot to fill it in must not be answered as if nothing had been asked.
fn take<'a, const N: usize>(
    pairs: &'a Pairs,
    names: [&str; N],
) -> Result<[Option<&'a str>; N], BadParameter> {
    let mut values = [None; N];
    for (name, value) in pairs {
        let Some(index) = names.iter().position(|known| known == name) else {
            return Err(bad(
                name,
                format!("no such parameter here: {} is known", names.join(", ")),
            ));
        };
        if values[index].replace(value.as_str()).is_some() {
            return Err(bad(name, "given twice"));
        }
    }
    for (name, value) in names.iter().zip(&mut values) {
        *value = value.filter(|text| !text.is_empty() || *name == "after");
    }
    Ok(values)
}

fn bad(name: &str, fault: impl Into<String>) -> BadParameter {
    BadParameter {
        name: name.to_owned(),
        fault: fault.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn page(list: &[(&str, &str)]) -> Result<Page, String> {
        Page::read(&pairs(list)).map_err(|error| error.to_string())
    }

    #[test]
    fn wait_has_a_unit_and_a_bound() {
        let wait = |text| One::read(&pairs(&[("wait", text)])).map(|one| one.wait);
        assert_eq!(One::read(&[]), Ok(One { wait: None }));
        assert_eq!(wait("5s"), Ok(Some(Duration::from_secs(5))));
        assert_eq!(wait("250ms"), Ok(Some(Duration::from_millis(250))));
        assert_eq!(wait("30s"), Ok(Some(WAIT_MAX)));
        assert_eq!(wait(""), Ok(None));
        assert!(wait("31s").is_err());
        assert!(wait("5").is_err());
        assert!(One::read(&pairs(&[("wiat", "5s")])).is_err());
        assert!(One::read(&pairs(&[("wait", "5s"), ("wait", "5s")])).is_err());
    }

    #[test]
    fn a_page_needs_a_status_that_can_be_listed() {
        let expected = Page {
            after: Cursor::START,
            limit: 100,
        };
        let as_documented = [
            ("status", "failed"),
            ("since", ""),
            ("cursor", ""),
            ("limit", ""),
        ];
        assert_eq!(page(&as_documented), Ok(expected));
        assert!(page(&[]).unwrap_err().contains("status=failed"));
        assert!(
            page(&[("status", "persisted")])
                .unwrap_err()
                .contains("only failed")
        );
    }

    #[test]
    fn bounds_of_a_page() {
        let with = |name, value| page(&[("status", "failed"), (name, value)]);
        assert_eq!(with("limit", "1").map(|page| page.limit), Ok(1));
        assert_eq!(with("limit", "1000").map(|page| page.limit), Ok(1_000));
        for limit in ["0", "1001", "-1", "x", "99999999999999999999"] {
            assert!(with("limit", limit).is_err(), "{limit}");
        }
        let since = Cursor::before(Micros(1_700_000_000_000_000));
        assert_eq!(
            with("since", "2023-11-14T22:13:20Z").map(|page| page.after),
            Ok(since)
        );
        assert_eq!(
            with("since", "2023-11-15T03:43:20+05:30").map(|page| page.after),
            Ok(since)
        );
        assert!(
            with("since", "2023-11-15T03:43:20 05:30")
                .unwrap_err()
                .contains("%2B")
        );
        assert!(with("since", "yesterday").is_err());
        assert!(with("cursor", "abc").is_err());
    }

    #[test]
    fn the_later_of_since_and_cursor_counts() {
        let since = Cursor::before(Micros(1_700_000_000_000_000));
        for (cursor, expected) in [
            (Cursor::START, since),
            (
                Cursor::before(Micros(i64::MAX)),
                Cursor::before(Micros(i64::MAX)),
            ),
        ] {
            let list = [
                ("status", "failed"),
                ("since", "2023-11-14T22:13:20Z"),
                ("cursor", &cursor.text()),
            ];
            assert_eq!(page(&list).map(|page| page.after), Ok(expected));
        }
    }
    #[test]
    fn couriers_are_asked_for_in_bounds() {
        let read = |list: &[(&str, &str)]| {
            Couriers::read(&pairs(list), 1).map_err(|error| error.to_string())
        };
        let everything = read(&[]).expect("no parameter is required");
        assert_eq!(everything.asked.min_available, 0);
        assert_eq!((everything.limit, everything.after), (100, None));
        let tight = read(&[("min_available", "2147483647"), ("vehicle_type", "")]);
        let expected = CouriersAsked {
            min_available: i32::MAX,
            vehicle_type: None,
        };
        assert_eq!(tight.map(|it| it.asked), Ok(expected));
        let long = "x".repeat(VEHICLE_TYPE_CHARS_MAX + 1);
        for (name, value) in [
            ("min_available", "-1"),
            ("min_available", "2147483648"),
            ("min_available", "4.5"),
            ("vehicle_type", "a\0"),
            ("vehicle_type", &long),
            ("limit", "0"),
            ("limit", "1001"),
            ("cursor", "c1"),
            ("after", "x"),
            ("wait", "5s"),
            ("wait", "31s"),
            ("available", "1"),
        ] {
            let fault = read(&[(name, value)]).expect_err(value);
            assert!(fault.starts_with(name), "{fault}");
        }
    }

    #[test]
    fn rides_are_asked_for_by_user() {
        let read = |list: &[(&str, &str)]| {
            let mut list = list.to_vec();
            list.push(("user_id", "7"));
            Rides::read(&pairs(&list), 1).map_err(|error| error.to_string())
        };
        let from = ("from", "2023-11-14T22:13:20Z");
        let micros = Micros(1_700_000_000_000_000);
        let asked = read(&[from]).expect("a user and a bound");
        assert_eq!((asked.place.from_date, asked.asked.to), (micros, None));
        let to = |to| read(&[from, ("to", to)]).map(|it| it.asked.to);
        assert_eq!(to("2023-11-14T22:13:20Z"), Ok(Some(micros)));
        assert!(to("2023-11-14T22:13:19Z").is_err_and(|fault| fault.starts_with("to: ")));
        assert!(read(&[("from", "x")]).is_err_and(|fault| fault.starts_with("from: ")));
        for user in ["", "x", "1.0", "9223372036854775808"] {
            let fault = Rides::read(&pairs(&[("user_id", user)]), 1).expect_err(user);
            assert!(fault.to_string().starts_with("user_id: "), "{fault}");
        }
    }

    #[test]
    fn after_waits_five_seconds_unless_told_otherwise() {
        let id = "018f2f4e-7c3a-7abc-8def-0123456789ab";
        let wait = |list: &[(&str, &str)]| {
            let read = Resource::read(&pairs(list)).expect("well formed");
            read.after.map(|after| after.wait)
        };
        assert_eq!(wait(&[]), None);
        assert_eq!(wait(&[("after", id)]), Some(Duration::from_secs(5)));
        let told = wait(&[("after", id), ("wait", "30s")]);
        assert_eq!(told, Some(WAIT_MAX));
        assert!(Resource::read(&pairs(&[("wait", "1s")])).is_err());
        assert!(Resource::read(&pairs(&[("after", id), ("wait", "31s")])).is_err());
        // Found by schemathesis: forgotten is not the same as not asked for.
        assert!(Resource::read(&pairs(&[("after", "")])).is_err());
        assert_eq!(wait(&[("wait", "")]), None);
    }
}
