//! Pages of couriers and rides, and the way to the next one.

use axum::Json;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Parameters that the next page does not repeat: its cursor is its own, and what was waited for
/// has its outcome.
const NOT_REPEATED: [&str; 3] = ["cursor", "after", "wait"];

#[derive(Serialize)]
struct Page<T> {
    results: Vec<T>,
    next_cursor: Option<String>,
}

/// Cuts off what was read beyond `limit` to see whether there is more, and says so.
pub(crate) fn cut<T>(rows: &mut Vec<T>, limit: i64) -> bool {
    let limit = usize::try_from(limit).expect("a limit is positive");
    let more = rows.len() > limit;
    rows.truncate(limit);
    more
}

/// A page of the list at `path`. When there is more, `Link` (RFC 8288) names the next page: a
/// path, as this service is reached by whatever origin a proxy gives it.
pub(crate) fn answer<T: Serialize>(
    path: &str,
    pairs: &[(String, String)],
    results: Vec<T>,
    next_cursor: Option<String>,
) -> Response {
    let link = next_cursor.as_ref().map(|cursor| next(path, pairs, cursor));
    let page = Page {
        results,
        next_cursor,
    };
    let mut response = Json(page).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(link) = link {
        let link = HeaderValue::try_from(link).expect("visible ASCII: all else is escaped");
        headers.insert(header::LINK, link);
    }
    response
}

fn next(path: &str, pairs: &[(String, String)], cursor: &str) -> String {
    let mut link = format!("<{path}?");
    for (name, value) in pairs {
        if !NOT_REPEATED.contains(&name.as_str()) && !value.is_empty() {
            link.push_str(&format!("{name}={}&", escaped(value)));
        }
    }
    link.push_str(&format!("cursor={cursor}>; rel=\"next\""));
    link
}

/// Percent-encoded but for what RFC 3986, section 2.3, reserves for no purpose.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_repeats_the_question_and_nothing_else() {
        let pairs = [
            ("vehicle_type", "e-bike >\"& ö"),
            ("limit", "7"),
            ("min_available", ""),
            ("cursor", "old"),
            ("after", "x"),
            ("wait", "1s"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(
            next("/v1/couriers", &pairs, "c1"),
            "</v1/couriers?vehicle_type=e-bike%20%3E%22%26%20%C3%B6&limit=7&cursor=c1>; rel=\"next\""
        );
    }

    #[test]
    fn a_row_too_many_means_there_is_more() {
        let mut rows = vec![1, 2, 3];
        assert!(cut(&mut rows, 2));
        assert_eq!(rows, [1, 2]);
        assert!(!cut(&mut rows, 2));
        assert!(!cut(&mut rows, 1_000));
    }
}
