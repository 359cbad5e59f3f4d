//! Reading a request's body within its bounds of size and time, and decompressing it.

use std::fmt::Display;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use bytes::Bytes;
use contract::Problem;
use contract::limits::BODY_BYTES_MAX;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Incoming};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt as _, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::refusal::Refusal;

mod room;

pub(crate) use room::{Held, Room};

/// After an early refusal, how much of the body is still read, and for how long, so that a client
/// that sends before it reads gets to the answer: four times the largest body.
const DISCARD_BYTES_MAX: usize = 4 * BODY_BYTES_MAX;
const DISCARD_WAIT: Duration = Duration::from_secs(5);

/// Requests over HTTP/2 that are read on at a time after a refusal, about 2 KiB each, of whosever
/// connections: a connection has many of them. Beyond it their streams are reset, which costs clients
/// such as curl the answer. Of HTTP/1.1 a connection has one.
const DISCARDS_MAX: usize = 4_096;

/// How much is decompressed between two looks at the bound.
const STEP_BYTES: usize = 64 * 1024;

/// How much compressed input is read between two looks at the clock: members and frames that hold
/// nothing take time without giving output, and there is room for a million of them.
const PORTION_BYTES: usize = 1024;

/// Largest window a zstd frame may ask for, as a power of two: 8 MiB, which RFC 8878 wants to be
/// supported and which is the whole of the largest body.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// What zstd says of a frame with a larger window.
const ZSTD_WINDOW_REFUSED: &str = "Frame requires too much memory";

/// How a body is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Coding {
    Identity,
    Gzip,
    Zstd,
}

/// What the head of a request says of its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    /// At most [`BODY_BYTES_MAX`].
    length: Option<usize>,
    coding: Coding,
}

impl Head {
    /// # Errors
    /// 413 for a body that says it is too large, 415 for a coding that is not known.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Self, Refusal> {
        let coding = coding(headers)?;
        // hyper has refused more than one length, or one that is no number.
        let length = headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        match length {
            Some(length) if length > BODY_BYTES_MAX => Err(too_large()),
            length => Ok(Self { length, coding }),
        }
    }

    /// How many bytes the body will have after decompression, where that is told.
    pub(crate) fn decompressed_length(&self) -> Option<usize> {
        self.length.filter(|_| self.coding == Coding::Identity)
    }
}

fn coding(headers: &HeaderMap) -> Result<Coding, Refusal> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return if headers.contains_key(CONTENT_ENCODING) {
            Err(unknown_coding())
        } else {
            Ok(Coding::Identity)
        };
    };
    let is = |name: &str| {
        value
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(name.as_bytes())
    };
    if is("gzip") || is("x-gzip") {
        Ok(Coding::Gzip)
    } else if is("zstd") {
        Ok(Coding::Zstd)
    } else if is("identity") || is("") {
        Ok(Coding::Identity)
    } else {
        Err(unknown_coding())
    }
}

fn unknown_coding() -> Refusal {
    Refusal::new(
        Problem::UnsupportedMediaType,
        "the content encoding must be gzip, zstd or none",
    )
}

fn too_large() -> Refusal {
    Refusal::new(
        Problem::TooLarge,
        format!("the body is larger than {BODY_BYTES_MAX} bytes, also after decompression"),
    )
}

/// A request refused, and whether some of its body may still be coming.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The client may still be sending: what it sends should be discarded.
    Early(Refusal),
    /// All of it was read.
    Late(Refusal),
}

/// Reads a body and decompresses it, all of it by the deadline that its room was taken with.
///
/// # Errors
/// [`Refused`]: 413 as soon as it is too large, 408 when it takes too long, 400 when it is not
/// compressed as its head says, 503 when there is no room for all of it.
pub(crate) async fn read<B>(
    body: &mut B,
    head: &Head,
    held: &mut Held<'_>,
) -> Result<Bytes, Refused>
where
    B: Body<Data = Bytes, Error: Display> + Unpin,
{
    let until = held.until;
    let read = async {
        let compressed = collect(body, held).await?;
        decompressed(compressed, head.coding, held)
            .await
            .map_err(Refused::Late)
    };
    // Polls the body first: no timer is made for a body that has arrived with its head.
    let read = tokio::time::timeout_at(until, read).await;
    read.unwrap_or_else(|_| {
        Err(Refused::Early(Refusal::new(
            Problem::RequestTimeout,
            "the body did not arrive in time",
        )))
    })
}

async fn decompressed(
    compressed: Bytes,
    coding: Coding,
    held: &mut Held<'_>,
) -> Result<Bytes, Refusal> {
    match coding {
        Coding::Identity => Ok(compressed),
        Coding::Gzip => {
            let mut decoder = GzipDecoder::new(Portions::new(&compressed));
            decoder.multiple_members(true);
            decompress(decoder, compressed.len(), held).await
        }
        Coding::Zstd => {
            let bound = [DParameter::window_log_max(ZSTD_WINDOW_LOG_MAX)];
            let mut decoder = ZstdDecoder::with_params(Portions::new(&compressed), &bound);
            decoder.multiple_members(true);
            decompress(decoder, compressed.len(), held).await
        }
    }
}

async fn collect<B>(body: &mut B, held: &mut Held<'_>) -> Result<Bytes, Refused>
where
    B: Body<Data = Bytes, Error: Display> + Unpin,
{
    let mut first = Bytes::new();
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        // Mostly the client is gone and nobody reads this.
        let frame = frame.map_err(|error| {
            Refused::Late(Refusal::malformed(format!("the body broke off: {error}")))
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let length = first.len() + all.len() + data.len();
        if length > BODY_BYTES_MAX {
            return Err(Refused::Early(too_large()));
        }
        held.cover(length).await.map_err(Refused::Early)?;
        if all.is_empty() && first.is_empty() {
            // A body of one frame, which most are, is not copied.
            if body.is_end_stream() {
                return Ok(data);
            }
            first = data;
            continue;
        }
        if all.is_empty() {
            grow(&mut all, first.len());
            all.extend_from_slice(&std::mem::take(&mut first));
        }
        grow(&mut all, data.len());
        all.extend_from_slice(&data);
    }
    Ok(if all.is_empty() { first } else { all.into() })
}

/// Makes room for more: by doubling, as usual, but never past what a body may have. What is
/// allocated is then no more than what was accounted for.
fn grow(buffer: &mut Vec<u8>, more: usize) {
    let most = (BODY_BYTES_MAX + STEP_BYTES).saturating_sub(buffer.len());
    if buffer.capacity() - buffer.len() < more {
        buffer.reserve_exact(buffer.len().max(STEP_BYTES).min(most).max(more));
    }
}

async fn decompress(
    mut decoder: impl AsyncRead + Unpin,
    compressed_bytes: usize,
    held: &mut Held<'_>,
) -> Result<Bytes, Refusal> {
    let mut out = Vec::new();
    loop {
        held.cover(compressed_bytes + out.len() + STEP_BYTES)
            .await?;
        grow(&mut out, STEP_BYTES);
        let mut step = (&mut decoder).take(STEP_BYTES as u64);
        let read = step
            .read_buf(&mut out)
            .await
            .map_err(|error| not_decompressed(&error))?;
        if read == 0 {
            return Ok(out.into());
        }
        if out.len() > BODY_BYTES_MAX {
            return Err(too_large());
        }
        // Reading from memory never waits: other requests get their turn here.
        tokio::task::yield_now().await;
    }
}

/// 400 also for a window that is too large: RFC 9659 has no such frames in the coding `zstd`,
/// however little is in them.
fn not_decompressed(error: &io::Error) -> Refusal {
    let detail = error.to_string();
    let detail = if detail.contains(ZSTD_WINDOW_REFUSED) {
        format!(
            "a zstd frame asks for a window of more than {} MiB (RFC 9659): compress with a window \
             log of {ZSTD_WINDOW_LOG_MAX} at most, or tell the compressor how long the body is",
            (1_u64 << ZSTD_WINDOW_LOG_MAX) >> 20
        )
    } else {
        format!("the body cannot be decompressed: {detail}")
    };
    Refusal::new(Problem::Malformed, detail)
}

/// Bytes in memory that let others have their turn after each portion.
struct Portions<'b> {
    rest: &'b [u8],
    /// Of the portion that is being read.
    left: usize,
}

impl<'b> Portions<'b> {
    fn new(bytes: &'b [u8]) -> Self {
        Self {
            rest: bytes,
            left: PORTION_BYTES,
        }
    }
}

impl AsyncBufRead for Portions<'_> {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.left == 0 {
            this.left = PORTION_BYTES;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(&this.rest[..this.left.min(this.rest.len())]))
    }

    fn consume(mut self: Pin<&mut Self>, bytes: usize) {
        self.rest = &self.rest[bytes..];
        self.left -= bytes;
    }
}

impl AsyncRead for Portions<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let portion = ready!(self.as_mut().poll_fill_buf(context))?;
        let bytes = portion.len().min(buffer.remaining());
        buffer.put_slice(&portion[..bytes]);
        self.consume(bytes);
        Poll::Ready(Ok(()))
    }
}

/// How a client goes on that is refused by its head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum GoesOn {
    /// It waits for a 100 (Continue), and sends nothing after a refusal.
    No,
    OneRequest,
    /// One of many requests of a connection over HTTP/2, where the stream must stay open even for
    /// who waits for a 100 (Continue).
    OneOfMany,
}

impl GoesOn {
    pub(crate) fn after(head: &http::request::Parts) -> Self {
        if head.version == http::Version::HTTP_2 {
            Self::OneOfMany
        } else if head.headers.contains_key(EXPECT) {
            Self::No
        } else {
            Self::OneRequest
        }
    }
}

/// Reads on after early refusals.
pub(crate) struct Discards(Arc<Semaphore>);

impl Discards {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(DISCARDS_MAX)))
    }

    /// Reads on for a bounded while after a refusal, in the background: closing a socket with
    /// unread input would reset it, and a client that only reads once it has sent would never see
    /// the answer. Over HTTP/2 the stream would be reset, and clients such as curl then drop the
    /// answer.
    pub(crate) fn discard(&self, mut body: Incoming, goes_on: GoesOn) {
        if body.is_end_stream() {
            return;
        }
        let permit = match goes_on {
            GoesOn::No => return,
            GoesOn::OneRequest => None,
            GoesOn::OneOfMany => match Arc::clone(&self.0).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => return,
            },
        };
        tokio::spawn(async move {
            let deadline = Instant::now() + DISCARD_WAIT;
            let mut discarded = 0;
            while discarded < DISCARD_BYTES_MAX {
                match tokio::time::timeout_at(deadline, body.frame()).await {
                    Ok(Some(Ok(frame))) => discarded += frame.data_ref().map_or(0, Bytes::len),
                    _ => break,
                }
            }
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use async_compression::tokio::bufread::GzipEncoder;
    use futures_util::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use metrics::Gauge;

    use super::room::{GROWTH_BYTES, ROOM_WAIT};
    use super::*;

    fn problem(refused: Refused) -> Problem {
        match refused {
            Refused::Early(refusal) | Refused::Late(refusal) => refusal.problem,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_wait_of_a_body_outlasts_its_deadline() {
        const WAIT: Duration = ROOM_WAIT.checked_div(5).expect("not by zero");
        let room = Room::new(2 * GROWTH_BYTES, Gauge::noop());
        let mut gzip = Vec::new();
        let mut encoder = GzipEncoder::new(&b"{}"[..]);
        encoder.read_to_end(&mut gzip).await.expect("from memory");
        let head = Head {
            length: Some(gzip.len()),
            coding: Coding::Gzip,
        };
        let until = || Instant::now() + WAIT;

        // It never arrives.
        let begun = Instant::now();
        let mut held = room.take(1, &head, until()).await.expect("room");
        let mut silent = StreamBody::new(stream::pending::<Result<Frame<Bytes>, String>>());
        let refused = read(&mut silent, &head, &mut held).await.map_err(problem);
        assert_eq!(refused, Err(Problem::RequestTimeout));
        assert_eq!(begun.elapsed(), WAIT);
        drop(held);

        // There is no room to decompress it.
        let begun = Instant::now();
        let mut held = room.take(1, &head, until()).await.expect("room");
        let mut rest = room.take(1, &head, until()).await.expect("room");
        rest.add(2 * (GROWTH_BYTES - gzip.len()))
            .await
            .expect("room");
        let frames = [Ok::<_, String>(Frame::data(Bytes::from(gzip)))];
        let mut body = StreamBody::new(stream::iter(frames));
        let refused = read(&mut body, &head, &mut held).await.map_err(problem);
        assert_eq!(refused, Err(Problem::Overloaded));
        assert_eq!(begun.elapsed(), WAIT);

        // There is no room at all.
        let begun = Instant::now();
        let refused = room.take(1, &head, until()).await.map_err(|it| it.problem);
        assert_eq!(refused.err(), Some(Problem::Overloaded));
        assert_eq!(begun.elapsed(), WAIT);
    }
}
