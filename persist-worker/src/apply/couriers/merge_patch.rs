//! JSON Merge Patch (RFC 7396) on canonical texts: no number in them loses a digit.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

type Members<'t> = BTreeMap<String, &'t RawValue>;

/// Applies a patch, an object or null, to an object or nothing; `None` when nothing is left.
///
/// Compact with sorted keys, as both are. It nests as deep as the deeper of the two. What is not
/// JSON, which the gateway lets nobody send, comes out as it is: the database will refuse it.
pub(super) fn merge_patch(target: Option<&str>, patch: &str) -> Option<String> {
    if patch == "null" {
        return None;
    }
    let mut out = String::with_capacity(patch.len() + target.map_or(0, str::len));
    if merge(target, patch, &mut out).is_err() {
        return Some(patch.to_owned());
    }
    Some(out)
}

fn merge(target: Option<&str>, patch: &str, out: &mut String) -> serde_json::Result<()> {
    if !patch.starts_with('{') {
        out.push_str(patch);
        return Ok(());
    }
    let patch: Members<'_> = serde_json::from_str(patch)?;
    let target: Members<'_> = match target {
        Some(target) if target.starts_with('{') => serde_json::from_str(target)?,
        _ => Members::new(),
    };
    let kept = |name: &String| !patch.contains_key(name);
    let mut names: Vec<&String> = target.keys().filter(|name| kept(name)).collect();
    names.extend(patch.keys().filter(|name| patch[*name].get() != "null"));
    names.sort_unstable();
    out.push('{');
    for (at, name) in names.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(&serde_json::to_string(name)?);
        out.push(':');
        let before = target.get(name).map(|value| value.get());
        match (patch.get(name), before) {
            (Some(patch), before) => merge(before, patch.get(), out)?,
            (None, Some(before)) => out.push_str(before),
            (None, None) => unreachable!("a name of neither"),
        }
    }
    out.push('}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    #[test]
    fn the_examples_of_the_rfc_that_are_objects() {
        for (target, patch, expected) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (
                r#"{"a":{"b":"c"}}"#,
                r#"{"a":{"b":"d","c":null}}"#,
                r#"{"a":{"b":"d"}}"#,
            ),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"a":1,"e":null}"#),
            (r#"{"a":"foo"}"#, "null", ""),
        ] {
            let found = merge_patch(Some(target), patch).unwrap_or_default();
            assert_eq!(found, expected, "{patch} on {target}");
        }
        let nested = merge_patch(None, r#"{"a":{"bb":{"ccc":null}}}"#);
        assert_eq!(nested.as_deref(), Some(r#"{"a":{"bb":{}}}"#));
    }

    #[test]
    fn numbers_and_names_stay_as_they_are_written() {
        let found = merge_patch(
            Some(r#"{"a\"b":1e400,"z":12345678901234567890.50}"#),
            r#"{"\u001f":1}"#,
        );
        let expected = r#"{"\u001f":1,"a\"b":1e400,"z":12345678901234567890.50}"#;
        assert_eq!(found.as_deref(), Some(expected));
        assert_eq!(merge_patch(None, "{").as_deref(), Some("{"));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            (0..3).prop_map(Value::from),
            Just(Value::from("x"))
        ];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                object(inner).prop_map(Value::from),
            ]
        })
    }

    fn object(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
        proptest::collection::btree_map("[a-c]", inner, 0..4)
            .prop_map(|members| members.into_iter().collect())
    }

    /// The RFC's pseudo-code, word by word.
    fn by_the_rfc(target: Value, patch: &Value) -> Value {
        let Value::Object(patch) = patch else {
            return patch.clone();
        };
        let mut target = match target {
            Value::Object(target) => target,
            _ => Map::new(),
        };
        for (name, value) in patch {
            if value.is_null() {
                target.remove(name);
            } else {
                let before = target.remove(name).unwrap_or(Value::Null);
                target.insert(name.clone(), by_the_rfc(before, value));
            }
        }
        Value::Object(target)
    }

    /// Whatever order this build's maps keep.
    fn canonical(value: &Value) -> String {
        match value {
            Value::Object(members) => {
                let sorted: BTreeMap<_, _> = members.iter().collect();
                let members = sorted
                    .into_iter()
                    .map(|(name, value)| format!("{}:{}", Value::from(&**name), canonical(value)));
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }
            Value::Array(values) => {
                let values: Vec<_> = values.iter().map(canonical).collect();
                format!("[{}]", values.join(","))
            }
            scalar => scalar.to_string(),
        }
    }

    proptest! {
        #[test]
        fn it_does_what_the_rfc_says(target in proptest::option::of(object(value())), patch in object(value())) {
            let target = target.map(Value::Object);
            let patch = Value::Object(patch);
            let text = target.as_ref().map(canonical);
            let found = merge_patch(text.as_deref(), &canonical(&patch));
            let expected = by_the_rfc(target.unwrap_or(Value::Null), &patch);
            prop_assert_eq!(found, Some(canonical(&expected)));
        }
    }
}
