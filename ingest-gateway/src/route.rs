//! What a request asks for, by its method, path and content type.

use contract::problem::Fault;
use contract::{Operation, Problem};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method};

use crate::answer::Shape;
use crate::measure::Route;
use crate::refusal::Refusal;

/// The description of both services' HTTP interfaces.
pub(crate) const OPEN_API: &str = include_str!("../openapi.json");

const BY_STATUS_API: &str = "reading is served by the status API, under its own address";

/// What a request is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    OpenApi,
    Write(Write),
    /// `PUT` of an id that no ride can have.
    BadId,
    NotAllowed {
        allow: &'static str,
        detail: &'static str,
    },
    NotFound(&'static str),
}

/// A route that takes records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Write {
    Post,
    Put(i64),
    Save,
}

/// How the items of a body are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MediaType {
    Json,
    Lines,
}

impl Target {
    /// # Errors
    /// The refusal of everything that is not a write.
    pub(crate) fn write(self) -> Result<Write, Refusal> {
        match self {
            Self::Write(write) => Ok(write),
            Self::BadId => Err(Refusal::invalid(
                vec![Fault {
                    pointer: "/id".to_owned(),
                    detail: "in the path must be an integer from 1 to 9223372036854775807"
                        .to_owned(),
                }],
                None,
            )),
            Self::NotAllowed { allow, detail } => Err(Refusal {
                allow: Some(allow),
                ..Refusal::new(Problem::MethodNotAllowed, detail)
            }),
            Self::NotFound(detail) => Err(Refusal::new(Problem::NotFound, detail)),
            Self::OpenApi => unreachable!("answered before"),
        }
    }
}

impl Write {
    pub(crate) fn operation(self) -> Operation {
        match self {
            Self::Post => Operation::Create,
            Self::Put(_) | Self::Save => Operation::Replace,
        }
    }

    /// Whether it takes one record only.
    pub(crate) fn is_single(self) -> bool {
        self != Self::Post
    }
}

/// The route, and what is wanted of it.
pub(crate) fn find(method: &Method, path: &str) -> (Route, Target) {
    match path {
        "/v1/rides" => (
            Route::Rides,
            only(method, &Method::POST, "POST", Write::Post),
        ),
        "/save/booking/detail" => (
            Route::Save,
            only(method, &Method::POST, "POST", Write::Save),
        ),
        "/openapi.json" if method == Method::GET || method == Method::HEAD => {
            (Route::OpenApi, Target::OpenApi)
        }
        "/openapi.json" => (Route::OpenApi, not_allowed("GET, HEAD")),
        _ => match path.strip_prefix("/v1/rides/") {
            Some(id) if !id.is_empty() && !id.contains('/') => (Route::Ride, ride(method, id)),
            _ if path.starts_with("/v1/requests") => {
                (Route::Other, Target::NotFound(BY_STATUS_API))
            }
            _ => (Route::Other, Target::NotFound("there is no such route")),
        },
    }
}

fn only(method: &Method, wanted: &Method, allow: &'static str, write: Write) -> Target {
    if method == wanted {
        Target::Write(write)
    } else {
        not_allowed(allow)
    }
}

fn not_allowed(allow: &'static str) -> Target {
    Target::NotAllowed {
        allow,
        detail: "the route has other methods: see Allow",
    }
}

fn ride(method: &Method, id: &str) -> Target {
    if method == Method::GET || method == Method::HEAD {
        return Target::NotAllowed {
            allow: "PUT",
            detail: BY_STATUS_API,
        };
    }
    if method != Method::PUT {
        return not_allowed("PUT");
    }
    // One spelling per id: no sign, no leading zero.
    let canonical = id.bytes().all(|byte| byte.is_ascii_digit()) && !id.starts_with('0');
    match id.parse() {
        Ok(id) if canonical => Target::Write(Write::Put(id)),
        _ => Target::BadId,
    }
}

/// Whether a path is for partners only, whatever is there.
pub(crate) fn is_protected(path: &str) -> bool {
    path.starts_with("/v1/") || path.starts_with("/save/")
}

pub(crate) fn shape(route: Route) -> Shape {
    match route {
        Route::Save => Shape::Save,
        _ => Shape::Problem,
    }
}

/// By the content type; JSON when there is none.
///
/// # Errors
/// 415 for any other, and for lines where one record is wanted.
pub(crate) fn media_type(headers: &HeaderMap, write: Write) -> Result<MediaType, Refusal> {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Ok(MediaType::Json);
    };
    let value = value.to_str().unwrap_or("?");
    let mut parts = value.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let utf8 = parts.all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            let value = value.trim().trim_matches('"');
            value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("utf8")
        }
        _ => true,
    });
    let is = |name: &str| essence.eq_ignore_ascii_case(name);
    let lines = is("application/x-ndjson") || is("application/jsonl");
    if utf8 && (is("application/json") || essence.is_empty()) {
        Ok(MediaType::Json)
    } else if utf8 && lines && !write.is_single() {
        Ok(MediaType::Lines)
    } else {
        let detail = if write.is_single() {
            "the content type must be application/json, in UTF-8"
        } else {
            "the content type must be application/json, application/x-ndjson or \
             application/jsonl, in UTF-8"
        };
        Err(Refusal::new(Problem::UnsupportedMediaType, detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_the_table() {
        let target = |method: Method, path: &str| find(&method, path).1;
        assert_eq!(
            target(Method::POST, "/v1/rides"),
            Target::Write(Write::Post)
        );
        assert_eq!(
            target(Method::PUT, "/v1/rides/7"),
            Target::Write(Write::Put(7))
        );
        assert_eq!(
            target(Method::POST, "/save/booking/detail"),
            Target::Write(Write::Save)
        );
        assert_eq!(target(Method::GET, "/openapi.json"), Target::OpenApi);
        for id in ["0", "-1", "+1", "01", "x", "9223372036854775808", "1%30"] {
            let path = format!("/v1/rides/{id}");
            assert_eq!(target(Method::PUT, &path), Target::BadId, "{id}");
        }
        for (method, path, allow) in [
            (Method::GET, "/v1/rides", "POST"),
            (Method::DELETE, "/v1/rides/7", "PUT"),
            (Method::GET, "/v1/rides/7", "PUT"),
            (Method::PUT, "/save/booking/detail", "POST"),
            (Method::POST, "/openapi.json", "GET, HEAD"),
        ] {
            let refusal = target(method, path).write().unwrap_err();
            assert_eq!(refusal.allow, Some(allow), "{path}");
        }
        for path in [
            "/",
            "/v1/rides/",
            "/v1/rides/7/x",
            "/v1/requests/x",
            "/v2/rides",
        ] {
            let refusal = target(Method::POST, path).write().unwrap_err();
            assert_eq!(refusal.problem, Problem::NotFound, "{path}");
        }
    }

    #[test]
    fn media_types() {
        let of = |value: &'static str, write| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(value));
            media_type(&headers, write).ok()
        };
        assert_eq!(
            media_type(&HeaderMap::new(), Write::Post),
            Ok(MediaType::Json)
        );
        assert_eq!(of("application/json", Write::Post), Some(MediaType::Json));
        assert_eq!(
            of("Application/JSON; charset=\"UTF-8\"", Write::Save),
            Some(MediaType::Json)
        );
        assert_eq!(
            of("application/x-ndjson", Write::Post),
            Some(MediaType::Lines)
        );
        assert_eq!(of("application/jsonl", Write::Post), Some(MediaType::Lines));
        assert_eq!(of("application/jsonl", Write::Put(1)), None);
        assert_eq!(of("application/json; charset=latin1", Write::Post), None);
        assert_eq!(of("application/x-www-form-urlencoded", Write::Post), None);
    }

    /// Every `$ref` of a document.
    fn references<'d>(value: &'d serde_json::Value, found: &mut Vec<&'d str>) {
        match value {
            serde_json::Value::Object(members) => {
                for (name, member) in members {
                    match member.as_str() {
                        Some(target) if name == "$ref" => found.push(target),
                        _ => references(member, found),
                    }
                }
            }
            serde_json::Value::Array(elements) => {
                elements
                    .iter()
                    .for_each(|element| references(element, found));
            }
            _ => {}
        }
    }

    #[test]
    fn the_description_covers_both_services_and_is_whole() {
        let document: serde_json::Value = serde_json::from_str(OPEN_API).expect("JSON");
        assert_eq!(document["openapi"], "3.1.0");
        for (path, methods) in [
            ("/v1/rides", &["post"][..]),
            ("/v1/rides/{id}", &["put", "get"]),
            ("/save/booking/detail", &["post"]),
            ("/v1/requests/{tracking_id}", &["get"]),
            ("/v1/requests/lookup", &["post"]),
            ("/v1/requests", &["get"]),
            ("/openapi.json", &["get"]),
        ] {
            for method in methods {
                let operation = &document["paths"][path][method];
                assert!(operation["operationId"].is_string(), "{method} {path}");
                let protected = path != "/openapi.json";
                let responses = operation["responses"].as_object().expect("responses");
                assert_eq!(responses.contains_key("401"), protected, "{method} {path}");
            }
        }
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 50);
        for target in found {
            let pointer = target.strip_prefix('#').expect("within the document");
            assert!(document.pointer(pointer).is_some(), "{target}");
        }
        let codes = &document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"];
        let expected: Vec<_> = Problem::ALL.iter().map(|problem| problem.code()).collect();
        assert_eq!(*codes, serde_json::json!(expected));
    }
}
