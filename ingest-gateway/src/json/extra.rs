//! What is kept as the sender has it, as one canonical object: compact, keys sorted at every level.
//! Unknown members of a ride, attributes of a courier.

use contract::limits::{
    ATTRIBUTES_BYTES_MAX, ATTRIBUTES_DEPTH_MAX, EXTRA_BYTES_MAX, EXTRA_DEPTH_MAX,
};
use simd_json::{Node, StaticNode};

use super::{Faults, MEMBERS_MAX, POINTER_NAME_BYTES_MAX, push_token, split_value};

/// The shortest member there is, in bytes: `"":1,`.
const MEMBER_BYTES_MIN: usize = 5;

const _: () = assert!(MEMBERS_MAX * MEMBER_BYTES_MIN > EXTRA_BYTES_MAX);
const _: () = assert!(MEMBERS_MAX * MEMBER_BYTES_MIN > ATTRIBUTES_BYTES_MAX);

/// A member of an object: its name as sent, and its value.
pub(super) type Member<'t, 'a> = (&'a str, &'t [Node<'a>]);

/// Writes the unknown members of a record; `None` when there are none or they have a fault.
pub(super) fn canonical(members: Vec<Member<'_, '_>>, faults: &mut Faults) -> Option<String> {
    if members.is_empty() {
        return None;
    }
    let bounds = Bounds {
        bytes_max: EXTRA_BYTES_MAX,
        depth_max: EXTRA_DEPTH_MAX,
        subject: "the unknown members",
    };
    written(members, String::new(), bounds, faults)
}

/// Writes an object, the value of the member called `name`; `None` when it has a fault.
pub(super) fn canonical_attributes(
    members: Vec<Member<'_, '_>>,
    name: &str,
    faults: &mut Faults,
) -> Option<String> {
    let bounds = Bounds {
        bytes_max: ATTRIBUTES_BYTES_MAX,
        depth_max: ATTRIBUTES_DEPTH_MAX,
        subject: "the attributes",
    };
    let mut pointer = String::new();
    push_token(&mut pointer, name);
    written(members, pointer, bounds, faults)
}

/// How large and deep an object may be, and what it is called.
#[derive(Clone, Copy)]
struct Bounds {
    bytes_max: usize,
    depth_max: usize,
    subject: &'static str,
}

/// `pointer`: to the object.
fn written(
    members: Vec<Member<'_, '_>>,
    pointer: String,
    bounds: Bounds,
    faults: &mut Faults,
) -> Option<String> {
    let before = faults.found.len();
    let mut writer = Writer {
        out: String::with_capacity(64),
        root_bytes: pointer.len(),
        pointer,
        bounds,
        faults,
        too_deep: None,
    };
    writer.members(members, 1);
    let (out, mut pointer, too_deep) = (writer.out, writer.pointer, writer.too_deep);
    pointer.truncate(writer.root_bytes);
    let Bounds {
        bytes_max,
        depth_max,
        subject,
    } = bounds;
    if out.len() > bytes_max {
        let detail = if pointer.is_empty() {
            format!("{subject} take more than {bytes_max} bytes as compact JSON")
        } else {
            format!("takes more than {bytes_max} bytes as compact JSON")
        };
        faults.push_at(pointer, detail);
    }
    if let Some(pointer) = too_deep {
        faults.push_at(
            pointer,
            format!(
                "nests too deep: {depth_max} levels are kept, of which the object of {subject} is \
                 the first"
            ),
        );
    }
    (faults.found.len() == before).then_some(out)
}

struct Writer<'f> {
    out: String,
    pointer: String,
    /// Of the pointer to the object that is written.
    root_bytes: usize,
    bounds: Bounds,
    faults: &'f mut Faults,
    /// The first member that nests too deep.
    too_deep: Option<String>,
}

impl Writer<'_> {
    /// Whether there is no point in writing more: the object is refused for its size in any case.
    fn is_over(&self) -> bool {
        self.out.len() > self.bounds.bytes_max
    }

    /// The pointer to the object's own member that is being written.
    fn top_member(&self) -> &str {
        let below = &self.pointer[self.root_bytes..];
        let end = below.match_indices('/').nth(1).map(|(at, _)| at);
        &self.pointer[..self.root_bytes + end.unwrap_or(below.len())]
    }

    fn members(&mut self, mut members: Vec<Member<'_, '_>>, depth: usize) {
        // Stable, so of two members of one name the second is the duplicate.
        members.sort_by_key(|(name, _)| *name);
        self.out.push('{');
        let mut previous = None;
        for (name, value) in members {
            if self.is_over() {
                return;
            }
            let parent = self.pointer.len();
            if name.len() <= POINTER_NAME_BYTES_MAX {
                push_token(&mut self.pointer, name);
            }
            if previous == Some(name) {
                self.fault("stands twice");
            }
            if previous.is_some() {
                self.out.push(',');
            }
            previous = Some(name);
            if name.contains('\0') {
                self.fault("has a NUL character in its name, which cannot be stored");
            }
            self.string(name);
            self.out.push(':');
            self.value(value, depth);
            self.pointer.truncate(parent);
        }
        self.out.push('}');
    }

    fn value(&mut self, nodes: &[Node<'_>], depth: usize) {
        match &nodes[0] {
            Node::Object { .. } | Node::Array { .. } if depth == self.bounds.depth_max => {
                if self.too_deep.is_none() {
                    self.too_deep = Some(self.top_member().to_owned());
                }
            }
            Node::Object { len, .. } => self.members(members_of(nodes, *len), depth + 1),
            Node::Array { len, .. } => self.elements(&nodes[1..], *len, depth + 1),
            Node::String(text) => {
                if text.contains('\0') {
                    self.fault("has a NUL character, which cannot be stored");
                }
                self.string(text);
            }
            Node::Static(value) => self.scalar(*value),
        }
    }

    fn elements(&mut self, mut rest: &[Node<'_>], len: usize, depth: usize) {
        self.out.push('[');
        for index in 0..len {
            if self.is_over() {
                return;
            }
            if index > 0 {
                self.out.push(',');
            }
            let parent = self.pointer.len();
            push_token(&mut self.pointer, itoa(index as u64, &mut [0; 20]));
            let (value, after) = split_value(rest);
            self.value(value, depth);
            rest = after;
            self.pointer.truncate(parent);
        }
        self.out.push(']');
    }

    fn scalar(&mut self, value: StaticNode) {
        let mut digits = [0; 20];
        match value {
            StaticNode::Null => self.out.push_str("null"),
            StaticNode::Bool(true) => self.out.push_str("true"),
            StaticNode::Bool(false) => self.out.push_str("false"),
            StaticNode::U64(number) => self.out.push_str(itoa(number, &mut digits)),
            StaticNode::I64(number) => {
                if number < 0 {
                    self.out.push('-');
                }
                self.out.push_str(itoa(number.unsigned_abs(), &mut digits));
            }
            // Adding positive zero turns -0, which jsonb has not, into 0.
            StaticNode::F64(number) if number.is_finite() => {
                let text = serde_json::to_string(&(number + 0.0));
                self.out
                    .push_str(&text.expect("a finite number can be written"));
            }
            StaticNode::F64(_) => self.fault(super::OUT_OF_RANGE),
        }
    }

    /// A string as serde_json escapes it: only what RFC 8259 demands.
    fn string(&mut self, text: &str) {
        let text = serde_json::to_string(text).expect("any string can be written");
        self.out.push_str(&text);
    }

    fn fault(&mut self, detail: &str) {
        self.faults.push_at(self.pointer.clone(), detail);
    }
}

/// The members of the object that a tape begins with; of one that is too large to be kept whatever
/// is in it, as many as make it so.
pub(super) fn members_of<'t, 'a>(nodes: &'t [Node<'a>], len: usize) -> Vec<Member<'t, 'a>> {
    let len = len.min(MEMBERS_MAX);
    let mut members = Vec::with_capacity(len);
    let mut rest = &nodes[1..];
    for _ in 0..len {
        let (name, value, after) = split_member(rest);
        members.push((name, value));
        rest = after;
    }
    members
}

/// Splits off the first member of what follows an object's head on a tape.
pub(super) fn split_member<'t, 'a>(
    nodes: &'t [Node<'a>],
) -> (&'a str, &'t [Node<'a>], &'t [Node<'a>]) {
    let Node::String(name) = nodes[0] else {
        unreachable!("the names of an object's members are strings")
    };
    let (value, after) = split_value(&nodes[1..]);
    (name, value, after)
}

fn itoa(mut number: u64, buffer: &mut [u8; 20]) -> &str {
    let mut start = buffer.len();
    loop {
        start -= 1;
        buffer[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    std::str::from_utf8(&buffer[start..]).expect("digits are ASCII")
}
