//! Where HTTP/1.1 requests begin and end, read strictly beside the parser that serves them.
//!
//! hyper takes a bare LF for a line end, a `Content-Length` beside a `Transfer-Encoding`, and the
//! same length twice; a proxy before us may read the same bytes otherwise, and then one client's
//! request becomes part of another's (request smuggling). RFC 9112 lets a server refuse all of it.
//! What is refused here never reaches hyper, and neither does anything after it.

use memchr::memchr;

/// Bytes kept of a line that arrives in pieces: names and values that matter here are shorter.
const LINE_KEPT_BYTES: usize = 256;

/// Longest line before a chunk's data, in bytes: the size and its extensions, which nobody reads.
const CHUNK_LINE_BYTES_MAX: usize = 256;

/// Longest request line, in bytes; RFC 9112 section 3 asks for 8000 at least.
const REQUEST_LINE_BYTES_MAX: usize = 8 * 1024;

/// Digits of a length that cannot overflow.
const LENGTH_DIGITS_MAX: usize = 18;
const CHUNK_DIGITS_MAX: usize = 15;

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Violation {
    BareLineFeed,
    Folded,
    NameNotClosed,
    Length,
    LengthTwice,
    LengthAndCoding,
    Coding,
    Chunk,
    ChunkLine,
    HeadTooLarge,
    UriTooLong,
}

impl Violation {
    /// The status to answer with.
    pub(super) fn status(self) -> u16 {
        match self {
            Self::HeadTooLarge => 431,
            Self::UriTooLong => 414,
            _ => 400,
        }
    }

    /// For the client.
    pub(super) fn detail(self) -> &'static str {
        match self {
            Self::BareLineFeed => "a line ends in LF without CR",
            Self::Folded => "a header is folded over several lines",
            Self::NameNotClosed => "a header's name is not followed by a colon",
            Self::Length => "Content-Length is not one number",
            Self::LengthTwice => "Content-Length is there twice",
            Self::LengthAndCoding => "Content-Length and Transfer-Encoding exclude each other",
            Self::Coding => "Transfer-Encoding must be chunked, once",
            Self::Chunk => "a chunk is not as RFC 9112 section 7.1 has it",
            Self::ChunkLine => "a chunk's size and extensions are too long",
            Self::HeadTooLarge => "the request's head is too large",
            Self::UriTooLong => "the request line is too long",
        }
    }
}

/// Follows one connection's input, however it is cut into reads.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    head_bytes_max: usize,
    /// Of the head, or of the trailers, so far.
    head_bytes: usize,
    length: Option<u64>,
    chunked: bool,
    line: Line,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    RequestLine,
    Header,
    Body(u64),
    ChunkLine,
    Chunk(u64),
    ChunkEnd,
    Trailer,
}

/// The beginning of a line whose end has not been read.
#[derive(Debug, Default)]
struct Line {
    kept: Vec<u8>,
    bytes: usize,
    last: Option<u8>,
}

impl Line {
    fn extend(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        self.last = bytes.last().copied().or(self.last);
        let room = LINE_KEPT_BYTES - self.kept.len();
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

impl Framing {
    pub(super) fn new(head_bytes_max: usize) -> Self {
        Self {
            state: State::RequestLine,
            head_bytes_max,
            head_bytes: 0,
            length: None,
            chunked: false,
            line: Line::default(),
        }
    }

    /// Looks at what was read.
    ///
    /// # Errors
    /// The violation, and how many of the bytes come before the place where it shows.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), (Violation, usize)> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            at += match self.state {
                State::Body(left) => {
                    let taken = taken(left, rest);
                    self.state = match left - taken as u64 {
                        0 => self.next_request(),
                        left => State::Body(left),
                    };
                    taken
                }
                State::Chunk(left) => {
                    let taken = taken(left, rest);
                    self.state = match left - taken as u64 {
                        0 => State::ChunkEnd,
                        left => State::Chunk(left),
                    };
                    taken
                }
                _ => match memchr(b'\n', rest) {
                    Some(end) => {
                        self.line_ended(rest, end)
                            .map_err(|violation| (violation, at + end))?;
                        end + 1
                    }
                    None => {
                        self.line.extend(rest);
                        self.check_length().map_err(|violation| (violation, at))?;
                        rest.len()
                    }
                },
            };
        }
        Ok(())
    }

    fn next_request(&mut self) -> State {
        self.head_bytes = 0;
        self.length = None;
        self.chunked = false;
        State::RequestLine
    }

    /// A line without its end is no longer than a whole one may be.
    fn check_length(&self) -> Result<(), Violation> {
        match self.state {
            State::RequestLine if self.line.bytes > REQUEST_LINE_BYTES_MAX => {
                Err(Violation::UriTooLong)
            }
            State::ChunkLine if self.line.bytes > CHUNK_LINE_BYTES_MAX => Err(Violation::ChunkLine),
            State::ChunkEnd if self.line.bytes > 1 => Err(Violation::Chunk),
            _ if self.head_bytes + self.line.bytes > self.head_bytes_max => {
                Err(Violation::HeadTooLarge)
            }
            _ => Ok(()),
        }
    }

    /// `rest[end]` is the LF.
    fn line_ended(&mut self, rest: &[u8], end: usize) -> Result<(), Violation> {
        if self.line.bytes == 0 {
            let whole = &rest[..end];
            return self.line(whole, whole.len(), whole.last() == Some(&b'\r'));
        }
        self.line.extend(&rest[..end]);
        let line = std::mem::take(&mut self.line);
        self.line(&line.kept, line.bytes, line.last == Some(b'\r'))
    }

    /// A line without its LF: what is kept of it, how long it is, and whether it ends in CR.
    fn line(&mut self, kept: &[u8], bytes: usize, ends_in_cr: bool) -> Result<(), Violation> {
        if !ends_in_cr {
            return Err(match self.state {
                State::ChunkEnd => Violation::Chunk,
                _ => Violation::BareLineFeed,
            });
        }
        let is_whole = kept.len() == bytes;
        let text = if is_whole { &kept[..bytes - 1] } else { kept };
        self.head_bytes += bytes + 1;
        match self.state {
            State::RequestLine if bytes > REQUEST_LINE_BYTES_MAX => {
                return Err(Violation::UriTooLong);
            }
            State::RequestLine | State::Header | State::Trailer
                if self.head_bytes > self.head_bytes_max =>
            {
                return Err(Violation::HeadTooLarge);
            }
            // Empty lines before a request are to be ignored (RFC 9112 section 2.2).
            State::RequestLine if text.is_empty() => {}
            State::RequestLine => self.state = State::Header,
            State::Header if text.is_empty() => self.state = self.body(),
            State::Header => self.header(text, is_whole)?,
            State::ChunkLine => self.state = chunk(text, bytes)?,
            State::ChunkEnd if text.is_empty() => self.state = State::ChunkLine,
            State::ChunkEnd => return Err(Violation::Chunk),
            State::Trailer if text.is_empty() => self.state = self.next_request(),
            State::Trailer => {}
            State::Body(_) | State::Chunk(_) => unreachable!("no lines"),
        }
        if self.state == State::ChunkLine {
            // Each chunk's line has a bound of its own; what is counted next is the trailers.
            self.head_bytes = 0;
        }
        Ok(())
    }

    fn body(&mut self) -> State {
        match self.length {
            _ if self.chunked => State::ChunkLine,
            Some(length @ 1..) => State::Body(length),
            _ => self.next_request(),
        }
    }

    /// Cheap for all but the two headers that say how long a body is.
    fn header(&mut self, line: &[u8], is_whole: bool) -> Result<(), Violation> {
        match line[0] {
            b' ' | b'\t' => Err(Violation::Folded),
            b'c' | b'C' => match value_of(line, b"content-length")? {
                Some(value) if is_whole => self.content_length(value),
                Some(_) => Err(Violation::Length),
                None => Ok(()),
            },
            b't' | b'T' => match value_of(line, b"transfer-encoding")? {
                Some(value) if is_whole => self.transfer_encoding(value),
                Some(_) => Err(Violation::Coding),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Violation> {
        let length = number(value, 10, LENGTH_DIGITS_MAX).ok_or(Violation::Length)?;
        if self.chunked {
            return Err(Violation::LengthAndCoding);
        }
        match self.length.replace(length) {
            // Also the same length: whoever sends it twice is not worth guessing about.
            Some(_) => Err(Violation::LengthTwice),
            None => Ok(()),
        }
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Violation> {
        if self.length.is_some() {
            return Err(Violation::LengthAndCoding);
        }
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Violation::Coding);
        }
        self.chunked = true;
        Ok(())
    }
}

fn taken(left: u64, rest: &[u8]) -> usize {
    usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()))
}

/// The value, without the spaces around it, if the line is the header of that name.
fn value_of<'l>(line: &'l [u8], name: &[u8]) -> Result<Option<&'l [u8]>, Violation> {
    let Some((head, rest)) = line.split_at_checked(name.len()) else {
        return Ok(None);
    };
    if !head.eq_ignore_ascii_case(name) {
        return Ok(None);
    }
    match rest.first() {
        Some(b':') => Ok(Some(rest[1..].trim_ascii())),
        Some(b' ' | b'\t') | None => Err(Violation::NameNotClosed),
        // Another name, which only begins like it.
        Some(_) => Ok(None),
    }
}

/// Digits and nothing else.
fn number(text: &[u8], radix: u32, digits_max: usize) -> Option<u64> {
    let is_digit = |byte: &u8| char::from(*byte).is_digit(radix);
    if text.is_empty() || text.len() > digits_max || !text.iter().all(is_digit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(text).ok()?, radix).ok()
}

/// What follows a chunk's line.
fn chunk(line: &[u8], bytes: usize) -> Result<State, Violation> {
    if bytes > CHUNK_LINE_BYTES_MAX {
        return Err(Violation::ChunkLine);
    }
    let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
    match number(size, 16, CHUNK_DIGITS_MAX) {
        Some(0) => Ok(State::Trailer),
        Some(size) => Ok(State::Chunk(size)),
        None => Err(Violation::Chunk),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD_BYTES_MAX: usize = 16 * 1024;

    /// However the input is cut, the verdict is the same.
    fn verdict(input: &str) -> Option<Violation> {
        let verdicts = [1, 2, 3, 7, usize::MAX].map(|piece| {
            let mut framing = Framing::new(HEAD_BYTES_MAX);
            let mut pieces = input.as_bytes().chunks(piece.min(input.len()));
            pieces.find_map(|piece| framing.push(piece).err().map(|(violation, _)| violation))
        });
        assert!(
            verdicts.iter().all(|it| *it == verdicts[0]),
            "{verdicts:?} {input:?}"
        );
        verdicts[0]
    }

    #[test]
    fn what_is_as_it_should_be_passes_and_the_next_request_is_found() {
        let fold = "GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n";
        for head in [
            "GET /x HTTP/1.1\r\nhost: x\r\n\r\n",
            "\r\n\r\nGET /x HTTP/1.1\r\nhost: x\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
            "POST / HTTP/1.1\r\nCONTENT-Length:  5 \r\n\r\na\nb\r\n",
            "POST / HTTP/1.1\r\ncontent-length-x: 5\r\nte: trailers\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n5\r\na\nb\r\n\r\nA;x=\"y\"\r\n0123456789\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-sum: 1\r\n\r\n",
        ] {
            assert_eq!(verdict(head), None, "{head:?}");
            // Only where the head of the next request is looked for, folding is a violation.
            assert_eq!(
                verdict(&(head.to_owned() + fold)),
                Some(Violation::Folded),
                "{head:?}"
            );
        }
    }

    #[test]
    fn what_two_could_read_in_two_ways_is_refused() {
        let long = "x".repeat(9 * 1024);
        let many = "a: b\r\n".repeat(4 * 1024);
        for (request, violation) in [
            ("GET / HTTP/1.1\nhost: x\r\n\r\n", Violation::BareLineFeed),
            ("GET / HTTP/1.1\r\nhost: x\n\r\n", Violation::BareLineFeed),
            ("GET / HTTP/1.1\r\nhost: x\r\n\n", Violation::BareLineFeed),
            ("\nGET / HTTP/1.1\r\n\r\n", Violation::BareLineFeed),
            ("GET / HTTP/1.1\r\na: b\r\n\tc\r\n\r\n", Violation::Folded),
            (
                "GET / HTTP/1.1\r\ncontent-length : 1\r\n\r\n",
                Violation::NameNotClosed,
            ),
            (
                "GET / HTTP/1.1\r\ntransfer-encoding\t: chunked\r\n\r\n",
                Violation::NameNotClosed,
            ),
            (
                "GET / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n",
                Violation::LengthTwice,
            ),
            (
                "GET / HTTP/1.1\r\ncontent-length: 1\r\nContent-Length: 2\r\n\r\n",
                Violation::LengthTwice,
            ),
            (
                "GET / HTTP/1.1\r\ncontent-length: 1, 1\r\n\r\n",
                Violation::Length,
            ),
            (
                "GET / HTTP/1.1\r\ncontent-length: +1\r\n\r\n",
                Violation::Length,
            ),
            (
                "GET / HTTP/1.1\r\ncontent-length: \r\n\r\n",
                Violation::Length,
            ),
            (
                "GET / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
                Violation::Length,
            ),
            (
                "GET / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
                Violation::LengthAndCoding,
            ),
            (
                "GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n",
                Violation::LengthAndCoding,
            ),
            (
                "GET / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
                Violation::Coding,
            ),
            (
                "GET / HTTP/1.1\r\ntransfer-encoding: xchunked\r\n\r\n",
                Violation::Coding,
            ),
            (
                "GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
                Violation::Coding,
            ),
            (
                &format!("GET /{long} HTTP/1.1\r\n\r\n"),
                Violation::UriTooLong,
            ),
            (&format!("GET /{long}"), Violation::UriTooLong),
            (
                &format!("GET / HTTP/1.1\r\n{many}\r\n"),
                Violation::HeadTooLarge,
            ),
            (
                &format!("GET / HTTP/1.1\r\na: {long}{long}"),
                Violation::HeadTooLarge,
            ),
        ] {
            assert_eq!(verdict(request), Some(violation), "{request:.200}");
        }
    }

    #[test]
    fn chunks_are_read_strictly() {
        let long = "x".repeat(300);
        for (body, violation) in [
            ("z\r\n", Violation::Chunk),
            ("\r\n", Violation::Chunk),
            ("-1\r\n", Violation::Chunk),
            ("0x5\r\n", Violation::Chunk),
            ("5 \r\n", Violation::Chunk),
            ("ffffffffffffffff\r\n", Violation::Chunk),
            ("1\n", Violation::BareLineFeed),
            ("1;a\n", Violation::BareLineFeed),
            ("1\r\nabc\r\n", Violation::Chunk),
            ("1\r\na\n", Violation::Chunk),
            ("0\r\na: b\n\r\n", Violation::BareLineFeed),
            (&format!("1;{long}\r\n"), Violation::ChunkLine),
            (&format!("1;{long}"), Violation::ChunkLine),
        ] {
            let request = format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{body}");
            assert_eq!(verdict(&request), Some(violation), "{body:.40}");
        }
    }
}
