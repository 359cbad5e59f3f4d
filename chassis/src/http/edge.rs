//! Between a connection's stream and hyper: strict framing of what comes in, a budget for idle
//! HTTP/2 frames, and a problem document (RFC 9457) in place of hyper's empty refusals.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::StatusCode;
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::frames::{Flood, Frames, PREFACE};
use super::framing::{Framing, Violation};
use super::{Endings, Refusal};

/// Handed to hyper in place of a request that is refused. Whatever hyper has read of it so far, a
/// head, a chunk's line or trailers, these bytes are a fault there, which hyper answers 400 (or
/// tells the handler, which does) and closes on: in its turn, after the answers to earlier requests.
const POISON: &[u8] = b"\0\n\0\r\n\r\n";

/// How hyper's own refusals begin, and what they say of their body and connection. None of the
/// services' answers says so.
const REFUSAL_BEGINS: &[u8] = b"HTTP/1.1 4";
const EMPTY: &[u8] = b"content-length: 0\r\n";
const CLOSE: &[u8] = b"connection: close\r\n";

/// After a refusal, how much input is discarded, and for how long, before the socket is closed:
/// unread input would reset the connection before the client has read the answer.
const LINGER_BYTES_MAX: usize = 1024 * 1024;
const LINGER_WAIT: Duration = Duration::from_secs(1);

/// A connection's stream, as hyper sees it.
#[derive(Debug)]
pub(super) struct Edge<S> {
    stream: S,
    /// Read to tell the protocol by, and not yet by hyper.
    read_ahead: Vec<u8>,
    input: Input,
    /// Of [`POISON`], what hyper has not read.
    poison: &'static [u8],
    refused: Option<Violation>,
    /// What is written in place of hyper's refusal.
    output: Vec<u8>,
    lingers: bool,
    linger: Option<Linger>,
    head_bytes_max: usize,
    refusal: Refusal,
    endings: Arc<Endings>,
}

#[derive(Debug)]
enum Input {
    /// So many bytes of HTTP/2's preface came.
    Undecided(usize),
    One(Framing),
    Two(Frames),
    Refused,
}

#[derive(Debug)]
struct Linger {
    until: Pin<Box<Sleep>>,
    bytes: usize,
}

enum Stop {
    Violation(Violation, usize),
    Flood,
}

impl From<(Violation, usize)> for Stop {
    fn from((violation, passed): (Violation, usize)) -> Self {
        Self::Violation(violation, passed)
    }
}

impl From<Flood> for Stop {
    fn from(_: Flood) -> Self {
        Self::Flood
    }
}

impl<S> Edge<S> {
    pub(super) fn new(
        stream: S,
        head_bytes_max: usize,
        refusal: Refusal,
        endings: Arc<Endings>,
    ) -> Self {
        Self {
            stream,
            read_ahead: Vec::new(),
            input: Input::Undecided(0),
            poison: POISON,
            refused: None,
            output: Vec::new(),
            lingers: false,
            linger: None,
            head_bytes_max,
            refusal,
            endings,
        }
    }

    fn look(&mut self, read: &[u8]) -> Result<(), Stop> {
        match &mut self.input {
            Input::One(framing) => Ok(framing.push(read)?),
            Input::Two(frames) => Ok(frames.push(read)?),
            Input::Undecided(matched) => {
                let expected = &PREFACE[*matched..];
                let same = read.iter().zip(expected).take_while(|(a, b)| a == b);
                let same = same.count();
                if same == expected.len() {
                    let mut frames = Frames::new();
                    frames.push(PREFACE)?;
                    frames.push(&read[same..])?;
                    self.input = Input::Two(frames);
                } else if same == read.len() {
                    *matched += same;
                } else {
                    let mut framing = Framing::new(self.head_bytes_max);
                    framing
                        .push(&PREFACE[..*matched])
                        .map_err(|(violation, _)| (violation, 0))?;
                    framing.push(read)?;
                    self.input = Input::One(framing);
                }
                Ok(())
            }
            Input::Refused => unreachable!("nothing is read any more"),
        }
    }

    /// Pending once it has all been read: hyper has enough to refuse.
    fn poisoned(&mut self, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.poison.is_empty() {
            return Poll::Pending;
        }
        let (now, later) = self
            .poison
            .split_at(self.poison.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.poison = later;
        Poll::Ready(Ok(()))
    }

    /// The refusal to write in place of hyper's own, if `written` is one.
    fn in_place_of(&self, written: &[u8]) -> Option<Vec<u8>> {
        if !written.starts_with(REFUSAL_BEGINS) {
            return None;
        }
        let empty = memmem::find(written, EMPTY)?;
        memmem::find(written, CLOSE)?;
        if memmem::find(written, b"\r\n\r\n")? + 4 != written.len() {
            return None;
        }
        let status = StatusCode::from_bytes(written.get(9..12)?).ok()?;
        let (status, detail) = match self.refused {
            Some(violation) => (
                StatusCode::from_u16(violation.status()).unwrap_or(status),
                violation.detail(),
            ),
            None => (status, detail_of(status)),
        };
        let body = (self.refusal)(status.as_u16(), detail);
        let reason = status.canonical_reason().unwrap_or_default();
        let mut answer = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
        let line_end = memchr::memchr(b'\n', written)? + 1;
        answer.extend_from_slice(written.get(line_end..empty)?);
        let described = format!(
            "content-type: application/problem+json\r\ncontent-length: {}\r\n",
            body.len()
        );
        answer.extend_from_slice(described.as_bytes());
        answer.extend_from_slice(&written[empty + EMPTY.len()..]);
        answer.extend_from_slice(body.as_bytes());
        Some(answer)
    }
}

fn detail_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Violation::HeadTooLarge.detail(),
        StatusCode::URI_TOO_LONG => Violation::UriTooLong.detail(),
        _ => "the request is not HTTP/1.1 as RFC 9112 has it",
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Edge<S> {
    /// Reads until it is told whether the client speaks HTTP/2; hyper then reads the same.
    ///
    /// # Errors
    /// The stream's.
    ///
    /// # Cancel safety
    /// Safe: what was read is kept.
    pub(super) async fn speaks_http2(&mut self) -> io::Result<bool> {
        loop {
            if !PREFACE.starts_with(&self.read_ahead) {
                return Ok(false);
            }
            let left = PREFACE.len() - self.read_ahead.len();
            if left == 0 {
                return Ok(true);
            }
            let mut preface = [0; PREFACE.len()];
            let read = self.stream.read(&mut preface[..left]).await?;
            if read == 0 {
                return Ok(false);
            }
            self.read_ahead.extend_from_slice(&preface[..read]);
        }
    }

    fn poll_input(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read_ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let bytes = self.read_ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.read_ahead[..bytes]);
        self.read_ahead.drain(..bytes);
        Poll::Ready(Ok(()))
    }

    /// What hyper writes, or what is written in its place.
    fn write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if !self.output.is_empty() {
            ready!(self.write_output(context))?;
        }
        match &mut self.input {
            Input::Two(frames) => {
                let written = ready!(write(Pin::new(&mut self.stream), context))?;
                frames.wrote(written);
                Poll::Ready(Ok(written))
            }
            _ => match self.in_place_of(bytes) {
                None => write(Pin::new(&mut self.stream), context),
                Some(answer) => {
                    self.endings.malformed.increment(1);
                    self.output = answer;
                    self.lingers = true;
                    // Taken over; what cannot be written now is by the flush.
                    match self.write_output(context) {
                        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                        _ => Poll::Ready(Ok(bytes.len())),
                    }
                }
            },
        }
    }

    fn write_output(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let stream = Pin::new(&mut self.stream);
            let written = ready!(stream.poll_write(context, &self.output))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    /// Discards input until the client has closed, too, within bounds.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let linger = self.linger.get_or_insert_with(|| Linger {
            until: Box::pin(tokio::time::sleep(LINGER_WAIT)),
            bytes: 0,
        });
        let mut discarded = [0; 4096];
        while linger.bytes < LINGER_BYTES_MAX {
            let mut buffer = ReadBuf::new(&mut discarded);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Pending => return linger.until.as_mut().poll(context),
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    linger.bytes += buffer.filled().len();
                }
                Poll::Ready(_) => break,
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Edge<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if matches!(self.input, Input::Refused) {
            return self.poisoned(buffer);
        }
        let before = buffer.filled().len();
        ready!(self.poll_input(context, buffer))?;
        match self.look(&buffer.filled()[before..]) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(Stop::Violation(violation, passed)) => {
                buffer.set_filled(before + passed);
                self.refused = Some(violation);
                self.lingers = true;
                self.input = Input::Refused;
                match self.poisoned(buffer) {
                    // No room left: what passed is read first.
                    Poll::Pending => unreachable!("not all of it has been read"),
                    ready => ready,
                }
            }
            Err(Stop::Flood) => {
                self.endings.flood.increment(1);
                Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "too many frames that carry nothing",
                )))
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Edge<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(context, bytes, |stream, context| {
            stream.poll_write(context, bytes)
        })
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A refusal of hyper's has no body, so it is a slice by itself.
        let mut filled = slices.iter().filter(|slice| !slice.is_empty());
        let only: &[u8] = match (filled.next(), filled.next()) {
            (Some(only), None) => only,
            _ => &[],
        };
        self.write(context, only, |stream, context| {
            stream.poll_write_vectored(context, slices)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_output(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_output(context))?;
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        }
        if self.lingers {
            ready!(self.poll_linger(context));
        }
        Poll::Ready(Ok(()))
    }
}
