//! What a request asks for, by its method, path and content type.

use contract::Problem;
use contract::problem::Fault;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, Method};

use crate::answer::Shape;
use crate::json::{Form, courier, ride};
use crate::measure::Route;
use crate::refusal::Refusal;

/// The description of both services' HTTP interfaces.
pub(crate) const OPEN_API: &str = include_str!("../openapi.json");

const BY_STATUS_API: &str = "reading is served by the status API, under its own address";

/// RFC 5789, section 3.1: which patches a refused PATCH might have been.
const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");

/// What a request is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    OpenApi,
    Write(Write),
    /// A path with an id that no resource can have.
    BadId {
        pointer: &'static str,
        detail: String,
    },
    NotAllowed {
        allow: &'static str,
        detail: &'static str,
    },
    NotFound(&'static str),
}

/// What a route does with its body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Write {
    /// What its items are read as.
    pub(crate) form: Form,
    /// Whether it takes one record only.
    pub(crate) single: bool,
}

/// How the items of a body are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MediaType {
    Json,
    Lines,
}

impl Target {
    fn one(form: Form) -> Self {
        let single = true;
        Self::Write(Write { form, single })
    }

    fn many(form: Form) -> Self {
        let single = false;
        Self::Write(Write { form, single })
    }

    /// # Errors
    /// The refusal of everything that is not a write.
    pub(crate) fn write(self) -> Result<Write, Refusal> {
        match self {
            Self::Write(write) => Ok(write),
            Self::BadId { pointer, detail } => {
                let pointer = pointer.to_owned();
                Err(Refusal::invalid(vec![Fault { pointer, detail }], None))
            }
            Self::NotAllowed { allow, detail } => Err(Refusal {
                header: Some(Box::new((ALLOW, allow))),
                ..Refusal::new(Problem::MethodNotAllowed, detail)
            }),
            Self::NotFound(detail) => Err(Refusal::new(Problem::NotFound, detail)),
            Self::OpenApi => unreachable!("answered before"),
        }
    }
}

/// The route, and what is wanted of it.
pub(crate) fn find(method: &Method, path: &str) -> (Route, Target) {
    match path {
        "/v1/rides" => (Route::Rides, rides(method)),
        "/save/booking/detail" => (Route::Save, save(method)),
        "/v1/couriers" => (Route::Couriers, couriers(method)),
        "/v1/courier-commands" => (Route::CourierCommands, courier_commands(method)),
        "/openapi.json" if is_read(method) => (Route::OpenApi, Target::OpenApi),
        "/openapi.json" => (Route::OpenApi, not_allowed(method, "GET, HEAD")),
        _ => below(method, path),
    }
}

/// Of one resource, whose id is in the path.
fn below(method: &Method, path: &str) -> (Route, Target) {
    if let Some(id) = path.strip_prefix("/v1/rides/")
        && is_segment(id)
    {
        return (Route::Ride, ride(method, id));
    }
    if let Some(rest) = path.strip_prefix("/v1/couriers/") {
        let (id, part) = rest.split_once('/').unwrap_or((rest, ""));
        let route = match part {
            "" if id.len() == rest.len() => Some(Route::Courier),
            "capacity" => Some(Route::Capacity),
            "pickups" => Some(Route::Pickups),
            "dropoffs" => Some(Route::Dropoffs),
            _ => None,
        };
        if let Some(route) = route
            && is_segment(id)
        {
            return (route, courier(method, route, id));
        }
    }
    if path.starts_with("/v1/requests") {
        return (Route::Other, Target::NotFound(BY_STATUS_API));
    }
    (Route::Other, Target::NotFound("there is no such route"))
}

fn is_segment(id: &str) -> bool {
    !id.is_empty() && !id.contains('/')
}

fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

fn not_allowed(method: &Method, allow: &'static str) -> Target {
    let detail = if is_read(method) {
        BY_STATUS_API
    } else {
        "the route has other methods: see Allow"
    };
    Target::NotAllowed { allow, detail }
}

fn rides(method: &Method) -> Target {
    match *method {
        Method::POST => Target::many(Form::Ride(ride::Form::Create)),
        _ => not_allowed(method, "POST"),
    }
}

fn save(method: &Method) -> Target {
    match *method {
        Method::POST => Target::one(Form::Ride(ride::Form::Save)),
        _ => Target::NotAllowed {
            allow: "POST",
            detail: "the route has other methods: see Allow",
        },
    }
}

fn ride(method: &Method, id: &str) -> Target {
    if method != Method::PUT {
        return not_allowed(method, "PUT");
    }
    // One spelling per id: no sign, no leading zero.
    let canonical = id.bytes().all(|byte| byte.is_ascii_digit()) && !id.starts_with('0');
    let if_match = None;
    match id.parse() {
        Ok(id) if canonical => Target::one(Form::Ride(ride::Form::Put { id, if_match })),
        _ => Target::BadId {
            pointer: "/id",
            detail: "in the path must be an integer from 1 to 9223372036854775807".to_owned(),
        },
    }
}

fn couriers(method: &Method) -> Target {
    match *method {
        Method::POST => Target::many(Form::Courier(courier::Form::Create)),
        _ => not_allowed(method, "POST"),
    }
}

fn courier_commands(method: &Method) -> Target {
    match *method {
        Method::POST => Target::many(Form::Courier(courier::Form::Commands)),
        _ => not_allowed(method, "POST"),
    }
}

fn courier(method: &Method, route: Route, id: &str) -> Target {
    use courier::Action;

    let (action, allow) = match (route, method) {
        (Route::Capacity, &Method::PUT) => (Some(Action::SetCapacity), "PUT"),
        (Route::Capacity, _) => (None, "PUT"),
        (Route::Pickups, &Method::POST) => (Some(Action::Pickup), "POST"),
        (Route::Dropoffs, &Method::POST) => (Some(Action::Dropoff), "POST"),
        (Route::Pickups | Route::Dropoffs, _) => (None, "POST"),
        (_, &Method::PATCH) => (Some(Action::Update), "PATCH, DELETE"),
        (_, &Method::DELETE) => (Some(Action::Delete), "PATCH, DELETE"),
        _ => (None, "PATCH, DELETE"),
    };
    let Some(action) = action else {
        return not_allowed(method, allow);
    };
    match courier::id_from_path(id) {
        Ok(courier_id) => Target::one(Form::Courier(courier::Form::Of {
            courier_id,
            action,
            if_match: None,
        })),
        Err(detail) => Target::BadId {
            pointer: "/courier_id",
            detail,
        },
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
pub(crate) fn media_type(headers: &HeaderMap, write: &Write) -> Result<MediaType, Refusal> {
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
    let patch = write.form.is_merge_patch();
    let json =
        is("application/json") || essence.is_empty() || patch && is("application/merge-patch+json");
    if utf8 && json {
        Ok(MediaType::Json)
    } else if utf8 && lines && !write.single {
        Ok(MediaType::Lines)
    } else {
        Err(unsupported(write.single, patch))
    }
}

fn unsupported(single: bool, patch: bool) -> Refusal {
    let detail = match (single, patch) {
        (_, true) => {
            "the content type must be application/merge-patch+json or application/json, in UTF-8"
        }
        (true, false) => "the content type must be application/json, in UTF-8",
        (false, false) => {
            "the content type must be application/json, application/x-ndjson or \
             application/jsonl, in UTF-8"
        }
    };
    let types = "application/merge-patch+json, application/json";
    Refusal {
        header: patch.then(|| Box::new((ACCEPT_PATCH, types))),
        ..Refusal::new(Problem::UnsupportedMediaType, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    fn target(method: &Method, path: &str) -> Target {
        find(method, path).1
    }

    /// The refusal of a request by its path and method alone.
    fn refusal(method: &Method, path: &str) -> Refusal {
        target(method, path).write().unwrap_err()
    }

    #[test]
    fn routes_of_rides() {
        assert_eq!(
            target(&Method::POST, "/v1/rides"),
            Target::many(Form::Ride(ride::Form::Create))
        );
        assert_eq!(
            target(&Method::PUT, "/v1/rides/7"),
            Target::one(Form::Ride(ride::Form::Put {
                id: 7,
                if_match: None
            }))
        );
        assert_eq!(
            target(&Method::POST, "/save/booking/detail"),
            Target::one(Form::Ride(ride::Form::Save))
        );
        assert_eq!(target(&Method::GET, "/openapi.json"), Target::OpenApi);
        for id in ["0", "-1", "+1", "01", "x", "9223372036854775808", "1%30"] {
            let refusal = refusal(&Method::PUT, &format!("/v1/rides/{id}"));
            assert_eq!(refusal.faults[0].pointer, "/id", "{id}");
        }
    }

    #[test]
    fn routes_of_couriers() {
        use courier::Action;

        assert_eq!(
            target(&Method::POST, "/v1/couriers"),
            Target::many(Form::Courier(courier::Form::Create))
        );
        assert_eq!(
            target(&Method::POST, "/v1/courier-commands"),
            Target::many(Form::Courier(courier::Form::Commands))
        );
        for (method, part, action) in [
            (Method::PATCH, "", Action::Update),
            (Method::DELETE, "", Action::Delete),
            (Method::PUT, "/capacity", Action::SetCapacity),
            (Method::POST, "/pickups", Action::Pickup),
            (Method::POST, "/dropoffs", Action::Dropoff),
        ] {
            for (segment, id) in [
                ("7", "7"),
                ("007", "007"),
                ("a%2Fb%2f%25", "a/b/%"),
                ("a+b%20c", "a+b c"),
                ("Z%C3%BC%72ich", "Zürich"),
                ("capacity", "capacity"),
                (&"%F0%9F%9A%B2".repeat(64), &"🚲".repeat(64)),
            ] {
                assert_eq!(
                    target(&method, &format!("/v1/couriers/{segment}{part}")),
                    Target::one(Form::Courier(courier::Form::Of {
                        courier_id: id.to_owned(),
                        action,
                        if_match: None
                    }))
                );
            }
            for id in [
                "%",
                "a%2",
                "%zz",
                "%+1",
                "%FF",
                "%ED%A0%80",
                "%00",
                "a%0A",
                "%7F",
                "%C2%85",
                &"x".repeat(65),
                &"%C3%BC".repeat(65),
            ] {
                let refusal = refusal(&method, &format!("/v1/couriers/{id}{part}"));
                assert_eq!(refusal.problem, Problem::Invalid, "{id}");
                assert_eq!(refusal.faults[0].pointer, "/courier_id", "{id}");
            }
        }
    }

    #[test]
    fn other_methods_and_other_paths() {
        for (method, path, allow) in [
            (Method::GET, "/v1/rides", "POST"),
            (Method::DELETE, "/v1/rides/7", "PUT"),
            (Method::GET, "/v1/rides/7", "PUT"),
            (Method::PUT, "/save/booking/detail", "POST"),
            (Method::POST, "/openapi.json", "GET, HEAD"),
            (Method::GET, "/v1/couriers", "POST"),
            (Method::PUT, "/v1/couriers", "POST"),
            (Method::GET, "/v1/courier-commands", "POST"),
            (Method::GET, "/v1/couriers/7", "PATCH, DELETE"),
            (Method::HEAD, "/v1/couriers/7", "PATCH, DELETE"),
            (Method::PUT, "/v1/couriers/7", "PATCH, DELETE"),
            (Method::GET, "/v1/couriers/7/capacity", "PUT"),
            (Method::POST, "/v1/couriers/7/capacity", "PUT"),
            (Method::GET, "/v1/couriers/7/pickups", "POST"),
            (Method::PUT, "/v1/couriers/7/dropoffs", "POST"),
        ] {
            let by_status_api = is_read(&method);
            let refusal = refusal(&method, path);
            assert_eq!(refusal.header.as_deref(), Some(&(ALLOW, allow)), "{path}");
            assert_eq!(refusal.detail == BY_STATUS_API, by_status_api, "{path}");
        }
        for path in [
            "/",
            "/v1/rides/",
            "/v1/rides/7/x",
            "/v1/requests/x",
            "/v2/rides",
            "/v1/couriers/",
            "/v1/couriers//",
            "/v1/couriers//capacity",
            "/v1/couriers/7/",
            "/v1/couriers/7/x",
            "/v1/couriers/7/pickups/",
            "/v1/couriers/7/pickups/8",
            "/v1/courier-commands/",
        ] {
            assert_eq!(
                refusal(&Method::POST, path).problem,
                Problem::NotFound,
                "{path}"
            );
        }
    }

    #[test]
    fn media_types() {
        let of = |value: &'static str, method: &Method, path: &str| {
            let mut headers = HeaderMap::new();
            if !value.is_empty() {
                headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(value));
            }
            let write = target(method, path).write().expect("a write");
            media_type(&headers, &write)
        };
        let rides = |value| of(value, &Method::POST, "/v1/rides").ok();
        assert_eq!(rides(""), Some(MediaType::Json));
        assert_eq!(rides("application/json"), Some(MediaType::Json));
        assert_eq!(rides("application/x-ndjson"), Some(MediaType::Lines));
        assert_eq!(rides("application/jsonl"), Some(MediaType::Lines));
        assert_eq!(rides("application/json; charset=latin1"), None);
        assert_eq!(rides("application/x-www-form-urlencoded"), None);
        assert_eq!(rides("application/merge-patch+json"), None);
        let save = "Application/JSON; charset=\"UTF-8\"";
        assert_eq!(
            of(save, &Method::POST, "/save/booking/detail"),
            Ok(MediaType::Json)
        );
        assert!(of("application/jsonl", &Method::PUT, "/v1/rides/1").is_err());
        for burst in ["/v1/couriers", "/v1/courier-commands"] {
            assert_eq!(
                of("application/jsonl", &Method::POST, burst),
                Ok(MediaType::Lines)
            );
        }
        let patch = |value| of(value, &Method::PATCH, "/v1/couriers/7");
        for value in ["", "application/json", "application/merge-patch+json"] {
            assert_eq!(patch(value), Ok(MediaType::Json), "{value}");
        }
        let refusal = patch("application/json-patch+json").unwrap_err();
        assert_eq!(refusal.problem, Problem::UnsupportedMediaType);
        assert_eq!(refusal.header.map(|it| it.0.clone()), Some(ACCEPT_PATCH));
        assert!(of("application/jsonl", &Method::POST, "/v1/couriers/7/pickups").is_err());
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
            ("/v1/couriers", &["post"]),
            ("/v1/couriers/{id}", &["patch", "delete"]),
            ("/v1/couriers/{id}/capacity", &["put"]),
            ("/v1/couriers/{id}/pickups", &["post"]),
            ("/v1/couriers/{id}/dropoffs", &["post"]),
            ("/v1/courier-commands", &["post"]),
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
    /// The texts of an operation's examples, by content type.
    fn examples(operation: &serde_json::Value) -> Vec<(&str, String)> {
        let mut found = Vec::new();
        for (content_type, content) in operation["requestBody"]["content"].as_object().unwrap() {
            for example in content["examples"].as_object().into_iter().flatten() {
                let text = match &example.1["value"] {
                    serde_json::Value::String(lines) => lines.clone(),
                    value => value.to_string(),
                };
                found.push((content_type.as_str(), text));
            }
        }
        found
    }

    #[test]
    fn the_descriptions_examples_are_valid() {
        let document: serde_json::Value = serde_json::from_str(OPEN_API).expect("JSON");
        let mut read = 0;
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                if !path.starts_with("/v1/courier") || !operation["requestBody"].is_object() {
                    continue;
                }
                let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                for (content_type, text) in examples(operation) {
                    let write = target(&method, &path.replace("{id}", "7")).write().unwrap();
                    let mut headers = HeaderMap::new();
                    headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
                    let items = match media_type(&headers, &write).expect(content_type) {
                        MediaType::Lines => json::read_lines(text.as_bytes(), &write.form),
                        MediaType::Json if write.single => {
                            let item = json::read_one(text.as_bytes(), &write.form);
                            item.map(|item| vec![Ok(item)])
                        }
                        MediaType::Json => {
                            json::read(text.as_bytes(), &write.form).map(|body| match body {
                                json::Body::One(item) => vec![item],
                                json::Body::Many(items) => items,
                            })
                        }
                    };
                    for item in items.expect(&text) {
                        item.expect(&text);
                        read += 1;
                    }
                }
            }
        }
        assert!(read > 30, "{read}");
    }
}
