//! Entity tags (RFC 9110, section 8.8.3).

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// May be kept, and must be asked about before each use: any moment can change it.
const RESOURCE_CACHE: &str = "private, no-cache";

/// A resource as it is now, or 304 to who has it already. Its tag is its version, as `If-Match`
/// of a command takes it.
pub(crate) fn versioned(
    request_headers: &HeaderMap,
    version: i32,
    resource: &impl Serialize,
) -> Response {
    let etag = format!("\"{version}\"");
    let mut response = if has_already(request_headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Json(resource).into_response()
    };
    let headers = response.headers_mut();
    let etag = HeaderValue::try_from(etag).expect("visible ASCII");
    headers.insert(header::ETAG, etag);
    let cache = HeaderValue::from_static(RESOURCE_CACHE);
    headers.insert(header::CACHE_CONTROL, cache);
    // The same URL is another resource to another partner.
    headers.insert(header::VARY, HeaderValue::from_static("authorization"));
    response
}

/// RFC 9110, section 13.1.2: weak comparison with each tag of the list.
pub(crate) fn has_already(headers: &HeaderMap, etag: &str) -> bool {
    let lists = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut tags = lists.flat_map(|list| list.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_weakly_and_in_lists() {
        let matches = |list: &'static str| {
            let headers =
                HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static(list))]);
            has_already(&headers, "\"1-1-a\"")
        };
        assert!(matches("\"1-1-a\""));
        assert!(matches("W/\"1-1-a\""));
        assert!(matches("\"x\", \"1-1-a\""));
        assert!(matches("*"));
        assert!(!matches("\"1-1-b\""));
        assert!(!matches("1-1-a"));
        assert!(!has_already(&HeaderMap::new(), "\"1-1-a\""));
    }
}
