//! RFC 8259, case by case, in every place where a sender's value can stand, by both reading paths.
//!
//! The cases are our own; in breadth they follow the public suites. What the grammar forbids is the
//! whole document's fault, or that line's; what it allows and nobody can hold is that item's.

use contract::Problem;
use contract::courier::Command;
use contract::{Record, limits::EXTRA_BYTES_MAX};

use super::*;
use cases::{Case, Expect};

mod cases;

const RIDES: Form = Form::Ride(ride::Form::Create);
const COURIERS: Form = Form::Courier(courier::Form::Create);

/// A ride that nothing is wrong with; what stands beside a case.
const GOOD: &[u8] = br#"{"id":7,"user_id":2,"vehicle_model_id":12,"travel_type_id":2,"from_date":0,"booking_created":0}"#;

fn all() -> impl Iterator<Item = &'static Case> {
    [
        cases::STRUCTURE,
        cases::LITERALS,
        cases::OBJECTS,
        cases::ARRAYS,
        cases::NUMBERS,
        cases::STRINGS,
        cases::CHARACTERS,
        cases::LIMITS,
    ]
    .into_iter()
    .flatten()
}

/// As `read`, by either path: they must agree.
fn both(body: &[u8], form: &Form) -> Result<Body, Refusal> {
    let quick = read(body, form);
    if !is_blank(body) {
        let slow = reread::document(body, form, false);
        assert_eq!(
            format!("{quick:?}"),
            format!("{slow:?}"),
            "the paths differ for {}",
            shown(body)
        );
    }
    quick
}

fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

fn is_good(item: &Parsed) -> bool {
    matches!(item, Ok(item) if item.ride_id() == Some(7))
}

/// Rides and couriers keep what is theirs in the same form.
fn kept(item: &Item) -> Option<&str> {
    match &item.record {
        Record::Ride(ride) => ride.extra.as_deref(),
        Record::Courier(courier) => match &courier.command {
            Command::Create(create) => create.attributes.as_deref(),
            _ => None,
        },
    }
}

fn ride_with(member: &[u8]) -> Vec<u8> {
    [&GOOD[..GOOD.len() - 1], b",", member, b"}"].concat()
}

fn courier_with(member: &[u8]) -> Vec<u8> {
    let head = br#"{"courier_id":"c","name":"n","max_capacity":1,"attributes":{"#;
    [head, member, b"}}"].concat()
}

/// The bodies in which a member stands where the sender's own members do, the pointer to the
/// object that holds it, and how they are read.
fn bodies_with(member: &[u8]) -> [(Vec<u8>, &'static str, Form); 2] {
    [
        (ride_with(member), "", RIDES),
        (courier_with(member), "/attributes", COURIERS),
    ]
}

#[test]
fn there_are_as_many_cases_as_the_public_suites_have() {
    let mut names: Vec<_> = all().map(|(section, name, ..)| (section, name)).collect();
    assert!(names.len() > 300, "{}", names.len());
    names.sort_unstable();
    let twice = names.windows(2).find(|two| two[0] == two[1]);
    assert_eq!(twice, None, "each has a name of its own");
}

#[test]
fn serde_json_agrees_with_every_case() {
    for (section, name, text, expect) in all() {
        let grammar = serde_json::from_slice::<&serde_json::value::RawValue>(text).is_ok();
        assert_eq!(grammar, *expect != Expect::NotJson, "{section} {name}");
        if let Expect::Kept(text) = expect {
            let value: serde_json::Value = serde_json::from_str(text).expect("kept as JSON");
            // Of doubles only the neighbourhood: this reader of them is not exact.
            if !text.contains(['.', 'e']) {
                assert_eq!(value.to_string(), *text, "{section} {name}");
            }
        }
    }
}

#[test]
fn as_a_whole_body() {
    for (section, name, text, expect) in all() {
        let read = both(text, &RIDES);
        let (malformed, empty) = match &read {
            Err(refusal) => (
                refusal.problem == Problem::Malformed,
                refusal.problem == Problem::Empty,
            ),
            Ok(_) => (false, false),
        };
        assert_eq!(malformed, *expect == Expect::NotJson, "{section} {name}");
        let empty_array = *expect == Expect::Kept("[]");
        assert_eq!(empty, empty_array, "{section} {name}");
        // None of them is a ride, nor has one in it.
        let refused = |item: &Parsed| match item {
            Ok(_) => false,
            Err(refusal) => refusal.problem == Problem::Invalid && !refusal.faults.is_empty(),
        };
        match &read {
            Ok(Body::One(item)) => assert!(refused(item), "{section} {name}"),
            Ok(Body::Many(items)) => assert!(items.iter().all(refused), "{section} {name}"),
            Err(_) => {}
        }
    }
}

#[test]
fn as_an_item_of_an_array() {
    for (section, name, text, expect) in all() {
        let body = [b"[", GOOD, b",", text, b",", GOOD, b"]"].concat();
        match (both(&body, &RIDES), expect) {
            (Err(refusal), Expect::NotJson) => {
                assert_eq!(refusal.problem, Problem::Malformed, "{section} {name}");
            }
            (Ok(Body::Many(items)), Expect::Kept(_) | Expect::Unheld) => {
                assert_eq!(items.len(), 3, "{section} {name}");
                let harmed = !(is_good(&items[0]) && is_good(&items[2]));
                assert!(!harmed, "{section} {name}");
                let refusal = items[1].as_ref().expect_err("no ride");
                assert_eq!(refusal.problem, Problem::Invalid, "{section} {name}");
            }
            (other, expect) => panic!("{section} {name}: {expect:?}, but {other:?}"),
        }
    }
}

#[test]
fn as_a_line() {
    for (section, name, text, expect) in all() {
        // A line feed ends the line: what stands before it is another text.
        if text.contains(&b'\n') {
            continue;
        }
        let body = [GOOD, b"\n", text, b"\n", GOOD].concat();
        let items = read_lines(&body, &RIDES).expect("lines");
        assert_eq!(items.len(), 3, "{section} {name}");
        let harmed = !(is_good(&items[0]) && is_good(&items[2]));
        assert!(!harmed, "{section} {name}");
        let refusal = items[1].as_ref().expect_err("no ride");
        let problem = match expect {
            Expect::NotJson => Problem::Malformed,
            Expect::Kept(_) | Expect::Unheld => Problem::Invalid,
        };
        assert_eq!(refusal.problem, problem, "{section} {name}");
        assert_eq!(items[1], reread::item(text, &RIDES), "{section} {name}");
    }
}

#[test]
fn as_a_value_in_extra_and_in_attributes() {
    for (section, name, text, expect) in all() {
        let member = [b"\"x\":", *text].concat();
        for (body, object, form) in bodies_with(&member) {
            check(&format!("{section} {name}"), &body, &form, |item| {
                match (item, expect) {
                    (Ok(item), Expect::Kept(text)) => {
                        assert_eq!(kept(item), Some(&*format!("{{\"x\":{text}}}")));
                    }
                    (Err(refusal), Expect::Unheld) => {
                        assert_eq!(refusal.faults.len(), 1, "{refusal:?}");
                        let pointer = &refusal.faults[0].pointer;
                        // What the slow way finds, it finds in the item's own members.
                        let named = pointer.starts_with(&format!("{object}/x"));
                        assert!(named || pointer == object, "{refusal:?}");
                    }
                    (Err(refusal), Expect::NotJson) => {
                        assert_eq!(refusal.problem, Problem::Malformed);
                    }
                    (item, expect) => panic!("{expect:?}, but {item:?}"),
                }
            });
        }
    }
}

#[test]
fn a_string_as_a_name_in_extra_and_in_attributes() {
    for (section, name, text, expect) in cases::STRINGS.iter().chain(cases::CHARACTERS) {
        if !text.starts_with(b"\"") {
            continue;
        }
        let member = [*text, b":1"].concat();
        for (body, _, form) in bodies_with(&member) {
            check(&format!("{section} {name}"), &body, &form, |item| {
                match (item, expect) {
                    (Ok(item), Expect::Kept(text)) => {
                        assert_eq!(kept(item), Some(&*format!("{{{text}:1}}")));
                    }
                    (Err(refusal), Expect::Unheld) => {
                        assert_eq!(refusal.problem, Problem::Invalid);
                        assert_eq!(refusal.faults.len(), 1, "{refusal:?}");
                    }
                    (Err(refusal), Expect::NotJson) => {
                        assert_eq!(refusal.problem, Problem::Malformed);
                    }
                    (item, expect) => panic!("{expect:?}, but {item:?}"),
                }
            });
        }
    }
}

/// Hands over what becomes of one item, be it alone, in an array or on a line.
fn check(case: &str, body: &[u8], form: &Form, expected: impl Fn(Result<&Item, &Refusal>)) {
    let read = both(body, form);
    let item = match &read {
        Ok(Body::One(item)) => item.as_ref().map_err(|refusal| &**refusal),
        Ok(Body::Many(_)) => panic!("{case}: one item"),
        Err(refusal) => Err(refusal),
    };
    let told = std::panic::AssertUnwindSafe(|| expected(item));
    if let Err(panic) = std::panic::catch_unwind(told) {
        eprintln!("in the case {case}: {}", shown(body));
        std::panic::resume_unwind(panic);
    }
    if body.contains(&b'\n') {
        return;
    }
    let alone = item.cloned().map_err(|refusal| Box::new(refusal.clone()));
    let line = read_lines(body, form).expect("a line").remove(0);
    assert_eq!(line, alone, "{case}: as a line");
    let array = [b"[", body, b"]"].concat();
    match (both(&array, form), alone) {
        (Ok(Body::Many(items)), alone) => assert_eq!(items, [alone], "{case}: in an array"),
        (Err(whole), Err(alone)) => assert_eq!(whole.problem, alone.problem, "{case}"),
        (other, _) => panic!("{case}: {other:?}"),
    }
}

/// Whatever is cut off a text that is JSON is missing, unless it is white space or digits.
#[test]
fn what_is_cut_short_is_not_json() {
    for (section, name, text, expect) in all() {
        let whole = text.trim_ascii_end();
        let brackets = matches!(whole.first(), Some(b'{' | b'[' | b'"'));
        if *expect == Expect::NotJson || !brackets {
            continue;
        }
        for end in 1..whole.len() {
            let read = both(&whole[..end], &RIDES);
            let problem = read.expect_err("cut short").problem;
            assert_eq!(problem, Problem::Malformed, "{section} {name} at {end}");
        }
    }
}

/// A text that is JSON stays what it is behind and before white space, as long as it likes.
#[test]
fn white_space_around_changes_nothing() {
    let space = b" \t\r".repeat(50);
    for (section, name, text, expect) in all() {
        let text = [&space[..], text, &space].concat();
        let body = ride_with(&[b"\"x\":", &text[..]].concat());
        match (both(&body, &RIDES), expect) {
            (Ok(Body::One(Ok(item))), Expect::Kept(text)) => {
                assert_eq!(kept(&item), Some(&*format!("{{\"x\":{text}}}")));
            }
            (Ok(Body::One(Err(refusal))), Expect::Unheld) => {
                assert_eq!(refusal.problem, Problem::Invalid, "{section} {name}");
            }
            (Err(refusal), Expect::NotJson) => {
                assert_eq!(refusal.problem, Problem::Malformed, "{section} {name}");
            }
            (other, expect) => panic!("{section} {name}: {expect:?}, but {other:?}"),
        }
    }
}

#[test]
fn nesting_is_read_to_a_bound_and_not_past_it() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = |depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        // The item's own object is a level as well.
        let within = ride_with(format!("\"x\":{}", nested(DEPTH_MAX - 1)).as_bytes());
        let Ok(Body::One(Err(refusal))) = both(&within, &RIDES) else {
            panic!("too deep to be kept, not too deep to be read");
        };
        assert_eq!(refusal.faults[0].pointer, "/x");
        let past = ride_with(format!("\"x\":{}", nested(DEPTH_MAX)).as_bytes());
        let refusal = both(&past, &RIDES).expect_err("too deep");
        assert_eq!(refusal.problem, Problem::Malformed);
        // On lines it is that line's fault.
        let lines = [GOOD, b"\n", &past, b"\n", GOOD].concat();
        let items = read_lines(&lines, &RIDES).expect("lines");
        assert!(is_good(&items[0]) && is_good(&items[2]));
        let refusal = items[1].as_ref().expect_err("too deep");
        assert_eq!(refusal.problem, Problem::Malformed);
    }
}

/// Each is that item's fault, or is kept. Those of many megabytes are sent to the process, in
/// `hostile_json`.
#[test]
fn long_numbers_are_numbers() {
    const DIGITS: usize = 256 * 1024;
    let digits = "7".repeat(DIGITS);
    let zeros = "0".repeat(DIGITS);
    let cases = [
        (digits.clone(), Expect::Unheld),
        (format!("-{digits}"), Expect::Unheld),
        (format!("{digits}.5"), Expect::Unheld),
        (format!("1e{digits}"), Expect::Unheld),
        (format!("1e-{digits}"), Expect::Kept("0.0")),
        (format!("0.{digits}"), Expect::Kept("0.7777777777777778")),
        (format!("0.{zeros}1"), Expect::Kept("0.0")),
        (format!("1.{zeros}"), Expect::Kept("1.0")),
        (format!("1{zeros}e-{DIGITS}"), Expect::Kept("1.0")),
        (format!("1e{zeros}2"), Expect::Kept("100.0")),
        (zeros.clone(), Expect::NotJson),
        (format!("1{zeros}."), Expect::NotJson),
    ];
    for (text, expect) in cases {
        let body = ride_with(format!("\"x\":{text}").as_bytes());
        let name = format!("{}...", &text[..10]);
        match (both(&body, &RIDES), expect) {
            (Ok(Body::One(Ok(item))), Expect::Kept(text)) => {
                assert_eq!(kept(&item), Some(&*format!("{{\"x\":{text}}}")), "{name}");
            }
            (Ok(Body::One(Err(refusal))), Expect::Unheld) => {
                assert_eq!(refusal.faults[0].pointer, "/x", "{name}");
            }
            (Err(refusal), Expect::NotJson) => {
                assert_eq!(refusal.problem, Problem::Malformed, "{name}");
            }
            (other, expect) => panic!("{name}: {expect:?}, but {other:?}"),
        }
    }
}

/// Where there is more than can be held, or more wrong than can be told, what is noted of it does
/// not grow with it.
#[test]
fn members_and_faults_without_number_are_told_up_to_a_bound() {
    let shortest = r#""":1"#;
    for member in [
        "\"a\":1e999",
        "\"a\":\"\\ud800\"",
        "\"\\ud800\":1",
        shortest,
    ] {
        // Those within the bound of an item's members are looked at, those past it are not.
        for members in [500, MEMBERS_MAX - 10, MEMBERS_MAX + 1] {
            let members = vec![member; members].join(",");
            for (body, _, form) in bodies_with(members.as_bytes()) {
                let Ok(Body::One(Err(refusal))) = both(&body, &form) else {
                    panic!("{member} is refused");
                };
                assert_eq!(refusal.problem, Problem::Invalid);
                assert!(refusal.faults.len() <= FAULTS_MAX, "{member}");
                let told: usize = refusal.faults.iter().map(|it| it.detail.len()).sum();
                assert!(told < 4 * EXTRA_BYTES_MAX, "{member}: {told} bytes");
            }
        }
    }
    // As many as can be kept are kept.
    let names = (100..780).map(|name| format!("\"{name}\":0"));
    let members = names.collect::<Vec<_>>().join(",");
    assert!(members.len() > EXTRA_BYTES_MAX);
    let fits = &members[..8 * 511 - 1];
    for (body, _, form) in bodies_with(fits.as_bytes()) {
        let read = both(&body, &form);
        let Ok(Body::One(Ok(item))) = &read else {
            panic!("{read:?}");
        };
        assert_eq!(kept(item), Some(&*format!("{{{fits}}}")));
    }
}
