//! Query parameters, parsed once: what is not known, twice there or unreadable is said, not skipped.

use std::str::FromStr;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use jiff::Timestamp;

use crate::cursor::Cursor;
use crate::instant::Micros;

/// Longest long poll.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(30);

/// Most requests on a page, and how many when the client does not say.
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
        let wait = wait.map(|text| {
            let wait = chassis::units::parse_duration(text).map_err(|fault| bad("wait", fault))?;
            if wait > WAIT_MAX {
                Err(bad("wait", "at most 30s"))
            } else {
                Ok(wait)
            }
        });
        Ok(Self {
            wait: wait.transpose()?,
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
            Some(text) => Cursor::before(parse_instant(text)?),
            None => Cursor::START,
        };
        let cursor = match cursor {
            Some(text) => {
                Cursor::from_str(text).map_err(|error| bad("cursor", error.to_string()))?
            }
            None => Cursor::START,
        };
        let limit = match limit {
            Some(text) => parse_limit(text)?,
            None => LIMIT_DEFAULT,
        };
        // Both are lower bounds, so a cursor from before `since` cannot reach behind it.
        Ok(Self {
            after: since.max(cursor),
            limit,
        })
    }
}

fn parse_instant(text: &str) -> Result<Micros, BadParameter> {
    let instant = Timestamp::from_str(text).map_err(|_| {
        let plus = if text.contains(' ') {
            "; in a URL + is written %2B"
        } else {
            ""
        };
        bad(
            "since",
            format!("not an RFC 3339 instant, like 2026-01-31T08:00:00Z{plus}"),
        )
    })?;
    Ok(Micros(instant.as_microsecond()))
}

fn parse_limit(text: &str) -> Result<i64, BadParameter> {
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

/// The values of the named parameters; one that is empty counts as absent.
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
    Ok(values.map(|value| value.filter(|text| !text.is_empty())))
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
}
