//! Items from foreign JSON, in every form: serde_json must agree on what is JSON and what is in it,
//! and both of the reader's paths on what it amounts to.
#![no_main]

use contract::Problem;
use contract::problem::Fault;
use gateway::opinion;
use json::{Body, Form};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

mod gateway;
gateway!();

/// JSON that nobody can hold: an array with it is read the slow way.
const UNHELD: &[u8] = b"1e999";

fuzz_target!(|data: &[u8]| {
    let Some((form, body)) = data.split_first() else {
        return;
    };
    let form = gateway::form(*form);
    let read = json::read(body, &form);
    let one = json::read_one(body, &form);
    match &read {
        Ok(Body::One(item)) => {
            // Nothing at all is an empty command to delete.
            let text = if opinion::is_blank(body) { b"{}" } else { body };
            opinion::check_item(text, item);
            assert_eq!(&one, &item.clone().map_err(|refusal| *refusal));
            check_slow_path(text, item, &form);
        }
        Ok(Body::Many(items)) => {
            let elements: Vec<&RawValue> = serde_json::from_slice(body).expect("an array");
            assert_eq!(items.len(), elements.len());
            for (item, element) in items.iter().zip(elements) {
                opinion::check_item(element.get().as_bytes(), item);
            }
            assert_eq!(
                one.expect_err("no item is an array").problem,
                Problem::Invalid
            );
        }
        Err(refusal) if refusal.problem == Problem::Malformed => {
            assert!(!opinion::is_json(body), "{}", refusal.detail);
            assert_eq!(Some(refusal), one.as_ref().err());
        }
        Err(refusal) => {
            assert_eq!(refusal.problem, Problem::Empty);
            assert!(is_empty_array(body) || opinion::is_blank(body));
        }
    }
});

fn is_empty_array(body: &[u8]) -> bool {
    serde_json::from_slice::<Vec<&RawValue>>(body).is_ok_and(|elements| elements.is_empty())
}

/// The same item beside one that nobody can hold, and with a member that nobody can hold.
fn check_slow_path(text: &[u8], item: &json::Parsed, form: &Form) {
    let array = [b"[", text, b",", UNHELD, b"]"].concat();
    match json::read(&array, form) {
        Ok(Body::Many(items)) => {
            assert_eq!(items.len(), 2);
            assert_eq!(&items[0], item, "the slow way reads it in another way");
            items[1].as_ref().expect_err("nobody can hold it");
        }
        // Only the array around it can be one level too many.
        other => assert!(!opinion::is_json(&array), "{other:?}"),
    }
    let trimmed = text.trim_ascii();
    let (Some(open), Ok(object)) = (
        trimmed.strip_suffix(b"}"),
        serde_json::from_slice::<opinion::Value>(text),
    ) else {
        return;
    };
    let opinion::Value::Object(members) = object else {
        return;
    };
    const NAME: &str = "nobody can hold this";
    if members.iter().any(|(name, _)| name == NAME) {
        return;
    }
    let comma = if members.is_empty() { "" } else { "," };
    let more = format!("{comma}\"{NAME}\":1e999}}");
    let slow = match json::read(&[open, more.as_bytes()].concat(), form) {
        Ok(Body::One(Err(refusal))) => refusal.faults,
        other => panic!("{other:?}"),
    };
    let mut of_others = slow;
    let at = of_others
        .iter()
        .position(|fault| fault.pointer == format!("/{NAME}"));
    let own: Fault = of_others.remove(at.expect("it is named"));
    assert!(own.detail.contains("beyond a double's range"));
    let faults = match item {
        Ok(_) => Vec::new(),
        Err(refusal) => refusal.faults.clone(),
    };
    // The slow way names what nobody can hold first; a list that is full lacks its end.
    if of_others.len() + 1 < 40 {
        let sorted = |mut faults: Vec<Fault>| {
            faults.sort_by(|a, b| (&a.pointer, &a.detail).cmp(&(&b.pointer, &b.detail)));
            faults
        };
        assert_eq!(sorted(of_others), sorted(faults));
    }
}
