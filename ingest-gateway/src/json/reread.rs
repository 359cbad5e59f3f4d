//! The slow way, for what simd-json refused: whose fault is it?
//!
//! simd-json refuses a document whole for a number out of range or a lone surrogate anywhere in
//! it. serde_json's `RawValue` checks the grammar of RFC 8259 and nothing more, so it tells what
//! is not JSON from what is JSON that cannot be held, and takes arrays and objects apart.

use contract::limits::ITEMS_MAX;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    Body, DEPTH_MAX, Faults, Form, MEMBERS_MAX, OUT_OF_RANGE, Parsed, Refusal, TOO_MANY_MEMBERS,
    check_item_count, kind_of, too_many_items, with_tape,
};

/// As `read_with`, for a body that simd-json refused as a whole.
pub(super) fn document(body: &[u8], form: &Form, single: bool) -> Result<Body, Refusal> {
    let text = grammatical(body)?;
    if !single && text.starts_with('[') {
        return array(text, form);
    }
    Ok(Body::One(readable(text, form)))
}

/// One item that simd-json refused.
pub(super) fn item(text: &[u8], form: &Form) -> Parsed {
    match grammatical(text) {
        Ok(text) => readable(text, form),
        Err(refusal) => Err(Box::new(refusal)),
    }
}

/// The text without the white space around it, if it is JSON by RFC 8259's grammar.
fn grammatical(body: &[u8]) -> Result<&str, Refusal> {
    let text = std::str::from_utf8(body)
        .map_err(|error| Refusal::malformed(format!("the text is not UTF-8: {error}")))?;
    if text.starts_with('\u{feff}') {
        return Err(Refusal::malformed(
            "the text begins with a byte order mark, which JSON does not allow",
        ));
    }
    if nesting(text) > DEPTH_MAX {
        return Err(Refusal::malformed(format!(
            "arrays and objects nest more than {DEPTH_MAX} deep"
        )));
    }
    let raw: &RawValue = serde_json::from_str(text)
        .map_err(|error| Refusal::malformed(format!("the text is not JSON: {error}")))?;
    Ok(raw.get())
}

/// The deepest nesting of brackets outside of strings.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    deepest
}

fn skip_string(bytes: &mut std::str::Bytes<'_>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}

fn array(text: &str, form: &Form) -> Result<Body, Refusal> {
    let elements = serde_json::Deserializer::from_str(text)
        .deserialize_seq(Elements)
        .map_err(|error| Refusal::malformed(error.to_string()))?;
    let Some(elements) = elements else {
        return Err(too_many_items());
    };
    check_item_count(elements.len())?;
    let items = elements.into_iter().map(|element| {
        let from_tape = with_tape(element.get().as_bytes(), |nodes| {
            form.item(nodes, Vec::new())
        });
        from_tape.unwrap_or_else(|_| readable(element.get(), form))
    });
    Ok(Body::Many(items.collect()))
}

/// The elements of an array; `None` if there are too many.
struct Elements;

impl<'de> Visitor<'de> for Elements {
    type Value = Option<Vec<&'de RawValue>>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = access.next_element()? {
            if elements.len() == ITEMS_MAX {
                while access.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(None);
            }
            elements.push(element);
        }
        Ok(Some(elements))
    }
}

/// The names and values of an object, neither unescaped; `None` if there are too many.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Option<Vec<(&'de RawValue, &'de RawValue)>>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = access.next_entry()? {
            if members.len() == MEMBERS_MAX {
                while access.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                return Ok(None);
            }
            members.push(member);
        }
        Ok(Some(members))
    }
}

/// An item that is JSON but that simd-json refused. Each member is tried alone; those that cannot
/// be held are named, and the rest is read without them, so that all faults are told at once.
fn readable(text: &str, form: &Form) -> Parsed {
    let Ok(members) = serde_json::Deserializer::from_str(text).deserialize_map(Members) else {
        let detail = format!("must be a JSON object, not {}", kind_of_text(text));
        return Err(Faults::only(detail));
    };
    let Some(members) = members else {
        return Err(Faults::only(TOO_MANY_MEMBERS));
    };
    let mut faults = Faults::default();
    let mut unreadable = Vec::new();
    let mut rest = String::with_capacity(text.len());
    for (name, value) in members {
        let Ok(plain) = serde_json::from_str::<String>(name.get()) else {
            faults.push(
                "",
                format!(
                    "has a member {} whose name cannot be held: {OUT_OF_RANGE}",
                    shortened(name.get())
                ),
            );
            continue;
        };
        if with_tape(value.get().as_bytes(), |_| ()).is_err() {
            let mut own = Faults::default();
            own.push(&plain, OUT_OF_RANGE);
            let fault = own.found.pop().expect("just pushed");
            unreadable.push((plain, fault));
            continue;
        }
        rest.push(if rest.is_empty() { '{' } else { ',' });
        rest.push_str(name.get());
        rest.push(':');
        rest.push_str(value.get());
    }
    if rest.is_empty() {
        rest.push('{');
    }
    rest.push('}');
    let item = with_tape(rest.as_bytes(), |nodes| {
        let nameless = faults.found.drain(..).map(|fault| (String::new(), fault));
        form.item(nodes, nameless.chain(unreadable).collect())
    });
    item.unwrap_or_else(|error| Err(Faults::only(format!("cannot be read: {error}"))))
}

/// What a text that is JSON is, in the words of a fault.
fn kind_of_text(text: &str) -> &'static str {
    with_tape(text.as_bytes(), |nodes| kind_of(&nodes[0])).unwrap_or({
        match text.as_bytes().first() {
            Some(b'"') => "a string",
            Some(b'[') => "an array",
            _ => "a number",
        }
    })
}

/// Of a text that is only shown.
fn shortened(text: &str) -> &str {
    const SHOWN_BYTES_MAX: usize = 64;
    let mut end = text.len().min(SHOWN_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
