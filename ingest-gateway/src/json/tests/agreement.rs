//! What holds for any text: serde_json's grammar, and both ways of reading alike.

use proptest::prelude::*;

use super::*;

/// Texts that are JSON or nearly.
pub(in crate::json) fn nearly_json() -> impl Strategy<Value = String> {
    let atoms = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"a\"",
        "\"id\"",
        "\"user_id\"",
        "\"userId\"",
        "1",
        "-0",
        "0.5",
        "1e5",
        "1e999",
        "99999999999999999999",
        "null",
        "true",
        "false",
        "\"\\ud800\"",
        "\"\\ud83d\\ude00\"",
        "\"\\u0000\"",
        "\"é\"",
        " ",
        "\n",
        "\\",
        "\"",
        "e",
        "-",
        "\u{1}",
    ]);
    prop::collection::vec(atoms, 0..12).prop_map(|atoms| atoms.concat())
}

/// Any JSON value, as text.
pub(in crate::json) fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|it| it.to_string()),
        any::<i64>().prop_map(|it| it.to_string()),
        any::<f64>()
            .prop_filter("finite", |it| it.is_finite())
            .prop_map(|it| json!(it).to_string()),
        any::<String>().prop_map(|it| json!(it).to_string()),
    ];
    leaf.prop_recursive(4, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6)
                .prop_map(|it| format!("[{}]", it.join(", "))),
            prop::collection::btree_map(any::<String>(), inner, 0..6).prop_map(|it| {
                let members = it
                    .iter()
                    .map(|(name, value)| format!("{}: {value}", json!(name)));
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }),
        ]
    })
}

/// Whether a text is JSON by serde_json, which follows RFC 8259's grammar.
fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<&serde_json::value::RawValue>(bytes).is_ok()
        && std::str::from_utf8(bytes).is_ok()
}

fn check_against_grammar(bytes: &[u8]) -> Result<(), TestCaseError> {
    let malformed = match read(bytes) {
        Err(refusal) if refusal.problem == Problem::Malformed => true,
        Err(refusal) if refusal.problem == Problem::Empty => return Ok(()),
        _ => false,
    };
    prop_assert_eq!(
        malformed,
        !is_json(bytes),
        "{:?}",
        String::from_utf8_lossy(bytes)
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_give_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check_against_grammar(&bytes)?;
        let _ = read_lines(&bytes);
    }

    #[test]
    fn the_grammar_is_serde_jsons(text in nearly_json()) {
        check_against_grammar(text.as_bytes())?;
    }

    #[test]
    fn json_is_json(text in json_text()) {
        prop_assert!(read(text.as_bytes()).map_or_else(|refusal| refusal.problem == Problem::Empty, |_| true), "{}", text);
    }

    #[test]
    fn extra_holds_what_was_sent(text in json_text()) {
        let record = with("x", &text);
        if let Ok(ride) = one(&record) {
            let extra: Value = serde_json::from_str(&ride.extra.unwrap()).unwrap();
            let sent: Value = serde_json::from_str(&text).unwrap();
            // Minus zero is zero, as in PostgreSQL's jsonb.
            let normal = |value: &Value| value.to_string().replace("-0.0", "0.0");
            prop_assert_eq!(normal(&extra["x"]), normal(&sent));
        }
    }

    #[test]
    fn both_ways_of_reading_agree(items in prop::collection::vec(prop_oneof![nearly_json(), json_text(), Just(with("id", "7"))], 1..4)) {
        let text = format!("[{}]", items.join(","));
        let fast = read(text.as_bytes());
        let slow = reread::document(text.as_bytes(), &CREATE, false);
        match (fast, slow) {
            (Ok(Body::Many(fast)), Ok(Body::Many(slow))) => prop_assert_eq!(fast, slow),
            (Err(fast), Err(slow)) => prop_assert_eq!(fast.problem, slow.problem),
            (fast, slow) => prop_assert!(false, "{:?} and {:?}", fast, slow),
        }
    }
}
