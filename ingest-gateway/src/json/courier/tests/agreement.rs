//! What holds for any text: one answer, and both ways of reading alike.

use proptest::prelude::*;
use serde_json::Value;

use super::super::super::tests::{json_text, nearly_json};
use super::*;

/// Items that are commands or nearly.
fn nearly_commands() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        prop::sample::select(vec![
            "1",
            "\"7\"",
            "null",
            "-1",
            "1e999",
            "\"\\ud800\"",
            "\"\\u0000\"",
            "{}",
            "{\"a\":null}",
            "\"pickup\"",
            "\"update\"",
            "\"create\"",
        ])
        .prop_map(str::to_owned),
        json_text(),
    ];
    let names = FIELDS.map(|(_, name)| name);
    let name = prop_oneof![
        9 => prop::sample::select(names.to_vec()),
        1 => prop::sample::select(vec!["courierId", "maxCapacity", "note", "a\\u0000"]),
    ];
    prop::collection::vec((name, value), 0..8).prop_map(|members| {
        let members = members
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value}"));
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    })
}

fn forms() -> impl Strategy<Value = AnyForm> {
    let of = (0..Action::ALL.len(), proptest::option::of(1..3_i32))
        .prop_map(|(index, if_match)| of(Action::ALL[index], if_match));
    prop_oneof![Just(CREATE), Just(COMMANDS), of]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Every item ends as a record that holds what the contract promises, or in faults.
    #[test]
    fn any_json_gives_one_answer(
        text in prop_oneof![nearly_commands(), json_text(), nearly_json()],
        form in forms(),
    ) {
        let items = match read(text.as_bytes(), &form) {
            Ok(Body::One(item)) => vec![item],
            Ok(Body::Many(items)) => items,
            Err(_) => return Ok(()),
        };
        for item in items {
            match item {
                Ok(item) => {
                    let Record::Courier(command) = &item.record else {
                        panic!("a courier's");
                    };
                    prop_assert!((1..=64).contains(&command.courier_id.chars().count()));
                    prop_assert!(!command.courier_id.chars().any(char::is_control));
                    prop_assert!(item.expected_version.is_none_or(|version| version >= 1));
                    let kept = match &command.command {
                        Command::Create(create) => create.attributes.as_deref(),
                        Command::Update(update) => update.attributes.as_deref(),
                        _ => None,
                    };
                    if let Some(kept) = kept {
                        let value: Value = serde_json::from_str(kept).expect("JSON");
                        prop_assert!(value.is_object() || value.is_null());
                        prop_assert!(!kept.contains("\\u0000"));
                    }
                }
                Err(refusal) => prop_assert!(
                    refusal.problem == Problem::Invalid && !refusal.faults.is_empty(),
                    "{:?}", refusal
                ),
            }
        }
    }

    #[test]
    fn both_ways_of_reading_agree(
        items in prop::collection::vec(nearly_commands(), 1..4),
        form in forms(),
    ) {
        let text = format!("[{}]", items.join(","));
        let fast = read(text.as_bytes(), &form);
        let slow = reread::document(text.as_bytes(), &form, false);
        match (fast, slow) {
            (Ok(Body::Many(fast)), Ok(Body::Many(slow))) => prop_assert_eq!(fast, slow),
            (fast, slow) => prop_assert!(false, "{:?} and {:?}", fast, slow),
        }
    }

    #[test]
    fn any_path_segment_gives_one_answer(segment in "[%0-9a-fA-F\u{fc}/]{0,80}") {
        if let Ok(id) = id_from_path(&segment) {
            prop_assert!((1..=64).contains(&id.chars().count()));
        }
    }
}
