//! Bytes of a request to records, or to named faults: one at a time, an array, or lines.
//!
//! simd-json reads into a tape that borrows from the bytes, and records are built from the tape, so
//! the hot path makes no intermediate values. simd-json refuses a whole document for what only one
//! item of it is to blame for, so on an error [`reread`] reads again, slowly, and says whose fault
//! it is.

pub(crate) mod courier;
mod extra;
mod instant;
mod members;
mod reread;
pub(crate) mod ride;

use std::cell::RefCell;

use crate::item::Item;
use crate::refusal::Refusal;
use contract::Problem;
use contract::limits::ITEMS_MAX;
use contract::problem::Fault;
use simd_json::{Buffers, INPUT_PADDING, Node, StaticNode, Tape};

/// Deepest nesting of objects and arrays that is read at all; deeper is 400. simd-json's default.
pub(crate) const DEPTH_MAX: usize = simd_json::DEFAULT_MAX_DEPTH;

/// The fault of a value that the grammar allows and that no record can hold.
const OUT_OF_RANGE: &str = "holds a number beyond 64 bits or beyond a double's range, or half of a \
                            surrogate pair, which cannot be stored";

/// Parser memory that a thread keeps between requests, in bytes: enough for bodies of a hundred
/// rides. What a larger body needed is given back.
const KEPT_BYTES_MAX: usize = 256 * 1024;

/// An item of a body. Boxed where it went wrong, so that good items lie close together.
pub(crate) type Parsed = Result<Item, Box<Refusal>>;

/// What a JSON body holds.
#[derive(Debug)]
pub(crate) enum Body {
    One(Parsed),
    /// At least one, at most [`ITEMS_MAX`].
    Many(Vec<Parsed>),
}

/// What a route's items are read as. Each kind of record has a module that knows the rest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    Ride(ride::Form),
    Courier(courier::Form),
}

impl Form {
    /// Where the version of `If-Match` goes; `None` where the route takes no condition.
    pub(crate) fn if_match(&mut self) -> Option<&mut Option<i32>> {
        match self {
            Self::Ride(ride::Form::Put { if_match, .. }) => Some(if_match),
            Self::Ride(ride::Form::Create | ride::Form::Save) => None,
            Self::Courier(form) => form.if_match(),
        }
    }

    /// Whether an item is a patch by RFC 7396.
    pub(crate) fn is_merge_patch(&self) -> bool {
        match self {
            Self::Ride(_) => false,
            Self::Courier(form) => form.is_merge_patch(),
        }
    }

    /// Whether a body without anything says all there is to say.
    fn may_be_empty(&self) -> bool {
        match self {
            Self::Ride(_) => false,
            Self::Courier(form) => form.may_be_empty(),
        }
    }

    /// Builds the item that a tape holds. The members in `unreadable` were left out of it: they
    /// count as sent, and their faults come first.
    fn item(&self, nodes: &[Node<'_>], unreadable: Vec<(String, Fault)>) -> Parsed {
        match self {
            Self::Ride(form) => ride::from_nodes(nodes, *form, unreadable),
            Self::Courier(form) => courier::from_nodes(nodes, form, unreadable),
        }
    }
}

/// Reads a JSON body: one item, or an array of them.
///
/// # Errors
/// 400 if it is empty or not JSON at all, 413 if it has too many items.
pub(crate) fn read(body: &[u8], form: &Form) -> Result<Body, Refusal> {
    read_with(body, form, false)
}

/// Reads a JSON body that holds one item.
///
/// # Errors
/// As [`read`]; an item's own faults as well.
pub(crate) fn read_one(body: &[u8], form: &Form) -> Result<Item, Refusal> {
    match read_with(body, form, true)? {
        Body::One(item) => item.map_err(|refusal| *refusal),
        Body::Many(_) => unreachable!("an array is one faulty item where one item is wanted"),
    }
}

/// `single`: an array is not wanted.
fn read_with(body: &[u8], form: &Form, single: bool) -> Result<Body, Refusal> {
    let body = match body {
        blank if is_blank(blank) && form.may_be_empty() => &b"{}"[..],
        blank if is_blank(blank) => {
            return Err(Refusal::new(Problem::Empty, "the body is empty"));
        }
        body => body,
    };
    let from_tape = with_tape(body, |nodes| match nodes.first() {
        Some(Node::Array { len, .. }) if !single => items_of_array(nodes, *len, form),
        _ => Ok(Body::One(form.item(nodes, Vec::new()))),
    });
    from_tape.unwrap_or_else(|_| reread::document(body, form, single))
}

fn items_of_array(nodes: &[Node<'_>], len: usize, form: &Form) -> Result<Body, Refusal> {
    check_item_count(len)?;
    let mut items = Vec::with_capacity(len);
    let mut rest = &nodes[1..];
    for _ in 0..len {
        let (item, after) = split_value(rest);
        items.push(form.item(item, Vec::new()));
        rest = after;
    }
    Ok(Body::Many(items))
}

fn check_item_count(len: usize) -> Result<(), Refusal> {
    if len == 0 {
        return Err(Refusal::new(Problem::Empty, "the array is empty"));
    }
    if len > ITEMS_MAX {
        return Err(too_many_items());
    }
    Ok(())
}

fn too_many_items() -> Refusal {
    Refusal::new(
        Problem::TooLarge,
        format!("more than {ITEMS_MAX} items: split them over several requests"),
    )
}

/// Reads NDJSON: one item per line; lines of nothing but white space are skipped and not counted.
/// A line that is not JSON is that item's fault alone.
///
/// # Errors
/// 400 if there is no item at all, 413 if there are too many.
pub(crate) fn read_lines(body: &[u8], form: &Form) -> Result<Vec<Parsed>, Refusal> {
    let mut items = Vec::with_capacity((body.len() / 256).min(ITEMS_MAX));
    for line in body.split(|byte| *byte == b'\n') {
        if is_blank(line) {
            continue;
        }
        if items.len() == ITEMS_MAX {
            return Err(too_many_items());
        }
        let from_tape = with_tape(line, |nodes| form.item(nodes, Vec::new()));
        items.push(from_tape.unwrap_or_else(|_| reread::item(line, form)));
    }
    if items.is_empty() {
        return Err(Refusal::new(
            Problem::Empty,
            "the body has no line with an item",
        ));
    }
    Ok(items)
}

fn is_blank(text: &[u8]) -> bool {
    text.iter()
        .all(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))
}

struct Scratch {
    input: Vec<u8>,
    buffers: Buffers,
    nodes: Vec<Node<'static>>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        input: Vec::new(),
        buffers: Buffers::default(),
        nodes: Vec::new(),
    });
}

/// Parses into this thread's buffers and hands the tape to `read`.
fn with_tape<T>(json: &[u8], read: impl FnOnce(&[Node<'_>]) -> T) -> Result<T, simd_json::Error> {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.input.clear();
        scratch.input.extend_from_slice(json);
        scratch.input.resize(json.len() + INPUT_PADDING, b' ');
        let mut tape = Tape(std::mem::take(&mut scratch.nodes)).reset();
        let filled = simd_json::fill_tape_padded(
            &mut scratch.input,
            json.len(),
            &mut scratch.buffers,
            &mut tape,
        );
        let result = filled.map(|()| read(&tape.0));
        scratch.nodes = tape.reset().0;
        if json.len() > KEPT_BYTES_MAX {
            scratch.input = Vec::new();
            scratch.buffers = Buffers::default();
            scratch.nodes = Vec::new();
        }
        result
    })
}

/// Splits off the first value of a tape.
fn split_value<'t, 'a>(nodes: &'t [Node<'a>]) -> (&'t [Node<'a>], &'t [Node<'a>]) {
    let size = match nodes.first() {
        Some(Node::Object { count, .. } | Node::Array { count, .. }) => 1 + count,
        _ => 1,
    };
    nodes.split_at(size)
}

/// The integer a value is. The tape holds integers as signed or unsigned, as it sees fit.
fn integer(node: &Node<'_>) -> Option<i64> {
    match node {
        Node::Static(StaticNode::I64(number)) => Some(*number),
        Node::Static(StaticNode::U64(number)) => i64::try_from(*number).ok(),
        _ => None,
    }
}

/// What a value is, in the words of a fault.
fn kind_of(node: &Node<'_>) -> &'static str {
    match node {
        Node::String(_) => "a string",
        Node::Object { .. } => "an object",
        Node::Array { .. } => "an array",
        Node::Static(StaticNode::Null) => "null",
        Node::Static(StaticNode::Bool(_)) => "a boolean",
        Node::Static(StaticNode::F64(_)) => "a number with a fraction or exponent",
        Node::Static(_) => "an integer",
    }
}

/// Longest member name that a pointer repeats, in bytes: an answer must not be an echo of what
/// was sent.
const POINTER_NAME_BYTES_MAX: usize = 256;

/// Appends a reference token to a pointer (RFC 6901, section 3).
fn push_token(pointer: &mut String, name: &str) {
    pointer.push('/');
    for character in name.chars() {
        match character {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            other => pointer.push(other),
        }
    }
}

/// Most faults that are named per item: enough for every member of a record. What else is wrong
/// will be found once these are mended.
const FAULTS_MAX: usize = 40;

/// Most members that an item may have: what a record does not know fits its bound up to some eight
/// hundred of the shortest, and no record knows more than a few dozen. An item with more is not
/// looked at, so that what is noted of it does not grow with it.
const MEMBERS_MAX: usize = 1_000;

const TOO_MANY_MEMBERS: &str = "has more than 1000 members";

/// The faults of one item as they are found.
#[derive(Default)]
struct Faults {
    found: Vec<Fault>,
}

impl Faults {
    /// A fault of the member of that name, or of the item itself (`""`).
    fn push(&mut self, name: &str, detail: impl Into<String>) {
        if name.is_empty() {
            self.push_at(String::new(), detail);
        } else {
            self.push_member(name, detail);
        }
    }

    /// The refusal of an item that has one fault, as a whole.
    fn only(detail: impl Into<String>) -> Box<Refusal> {
        let mut faults = Self::default();
        faults.push("", detail);
        Box::new(Refusal::invalid(faults.found, None))
    }

    /// A fault of the member of that name, which may be any.
    fn push_member(&mut self, name: &str, detail: impl Into<String>) {
        let mut pointer = String::new();
        if name.len() <= POINTER_NAME_BYTES_MAX {
            push_token(&mut pointer, name);
        }
        self.push_at(pointer, detail);
    }

    fn push_at(&mut self, pointer: String, detail: impl Into<String>) {
        if self.found.len() < FAULTS_MAX {
            self.found.push(Fault {
                pointer,
                detail: detail.into(),
            });
        }
    }
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
