//! `If-Match` (RFC 9110, section 13.1.1): the version that the sender says a resource has.
//!
//! What it has is known only where the log's order is, so the gateway carries the condition along,
//! and its failure is the record's outcome, not a 412.

use contract::Problem;
use http::HeaderMap;
use http::header::IF_MATCH;

use crate::json::Form;
use crate::refusal::Refusal;

/// Puts the version into the form of a route that takes one.
///
/// # Errors
/// 400 for anything but one strong tag that holds a version, and where there is no condition.
pub(crate) fn read(headers: &HeaderMap, form: &mut Form) -> Result<(), Refusal> {
    let mut values = headers.get_all(IF_MATCH).iter();
    let Some(value) = values.next() else {
        return Ok(());
    };
    let Some(if_match) = form.if_match() else {
        return Err(Refusal::new(
            Problem::BadParameter,
            "If-Match is for one resource; this route takes no condition by header",
        ));
    };
    let version = match values.next() {
        None => version(value.as_bytes()),
        Some(_) => None,
    };
    *if_match = version;
    if version.is_some() {
        return Ok(());
    }
    Err(Refusal::new(
        Problem::BadParameter,
        "If-Match must be one strong entity tag that holds a version, an integer from 1 to \
         2147483647, such as \"7\"; neither *, nor W/\"7\", nor a list is read",
    ))
}

/// One spelling per version: no sign, no leading zero.
fn version(tag: &[u8]) -> Option<i32> {
    let digits = tag.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if digits.first().is_none_or(|first| *first == b'0') || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::json::{courier, ride};

    fn put() -> Form {
        Form::Ride(ride::Form::Put {
            id: 1,
            if_match: None,
        })
    }

    fn of(values: &[&'static str], mut form: Form) -> Result<Option<i32>, Problem> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(IF_MATCH, HeaderValue::from_static(value));
        }
        read(&headers, &mut form).map_err(|refusal| refusal.problem)?;
        Ok(form.if_match().copied().flatten())
    }

    #[test]
    fn one_strong_tag_with_a_version_is_read() {
        assert_eq!(of(&[], put()), Ok(None));
        assert_eq!(of(&["\"1\""], put()), Ok(Some(1)));
        assert_eq!(of(&["\"2147483647\""], put()), Ok(Some(i32::MAX)));
        for bad in [
            "*",
            "",
            "1",
            "\"\"",
            "\"",
            "W/\"1\"",
            "\"0\"",
            "\"01\"",
            "\"-1\"",
            "\"+1\"",
            "\" 1\"",
            "\"1.0\"",
            "\"x\"",
            "\"2147483648\"",
            "\"99999999999999999999\"",
            "\"1\", \"2\"",
            "\"1\",",
        ] {
            assert_eq!(of(&[bad], put()), Err(Problem::BadParameter), "{bad}");
        }
        assert_eq!(of(&["\"1\"", "\"1\""], put()), Err(Problem::BadParameter));
    }

    #[test]
    fn where_there_is_no_condition_the_header_is_refused() {
        for form in [
            Form::Ride(ride::Form::Create),
            Form::Ride(ride::Form::Save),
            Form::Courier(courier::Form::Create),
            Form::Courier(courier::Form::Commands),
        ] {
            assert_eq!(of(&[], form.clone()), Ok(None));
            assert_eq!(of(&["\"1\""], form), Err(Problem::BadParameter));
        }
    }
}
