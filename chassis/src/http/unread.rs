//! Answers that HTTP/2 clients stop by their windows: each piece has to be taken in time.
//!
//! The socket does not show it: a client can answer pings and take nothing of an answer, and hold
//! hundreds of them per connection.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// Largest piece of an answer that is handed to h2 at a time, in bytes: a frame of usual size.
/// One piece per tick is the least that a client has to read of each answer.
const PIECE_BYTES: usize = 16 * 1024;

/// Pieces begun in this tick, in the one before, and earlier ones.
const GENERATIONS: usize = 3;

/// What one connection has handed over and its client has not taken.
#[derive(Debug, Default)]
pub(super) struct Unread {
    pieces: [AtomicU32; GENERATIONS],
    now: AtomicUsize,
}

impl Unread {
    /// A tick has passed: whether a piece has waited for the whole of it.
    pub(super) fn tick(&self) -> bool {
        let now = self.now.load(Ordering::Relaxed);
        let before = (now + GENERATIONS - 1) % GENERATIONS;
        let stuck = self.pieces[before].load(Ordering::Relaxed) > 0;
        self.now.store((now + 1) % GENERATIONS, Ordering::Relaxed);
        stuck
    }

    pub(super) fn is_empty(&self) -> bool {
        let none = |pieces: &AtomicU32| pieces.load(Ordering::Relaxed) == 0;
        self.pieces.iter().all(none)
    }
}

/// One piece that is not taken yet.
#[derive(Debug)]
struct Ticket {
    unread: Arc<Unread>,
    generation: usize,
}

impl Ticket {
    fn new(unread: &Arc<Unread>) -> Self {
        let generation = unread.now.load(Ordering::Relaxed);
        unread.pieces[generation].fetch_add(1, Ordering::Relaxed);
        Self {
            unread: Arc::clone(unread),
            generation,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.unread.pieces[self.generation].fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes whose ticket ends when h2 has written them, or their stream is gone.
struct Piece {
    bytes: Bytes,
    _ticket: Ticket,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body that is watched while it is sent. Over HTTP/1.1 it is the body itself: there the socket
/// tells who reads.
#[derive(Debug)]
pub(super) struct Watched<B> {
    body: B,
    watch: Option<Watch>,
}

#[derive(Debug)]
struct Watch {
    unread: Arc<Unread>,
    /// Of the body's last frame.
    rest: Bytes,
}

impl<B> Watched<B> {
    pub(super) fn new(body: B, unread: Option<&Arc<Unread>>) -> Self {
        let watch = unread.map(|unread| Watch {
            unread: Arc::clone(unread),
            rest: Bytes::new(),
        });
        Self { body, watch }
    }
}

impl Watch {
    fn piece(&mut self) -> Bytes {
        let bytes = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
        Bytes::from_owner(Piece {
            bytes,
            _ticket: Ticket::new(&self.unread),
        })
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Self { body, watch } = &mut *self;
        let Some(watch) = watch else {
            return Pin::new(body).poll_frame(context);
        };
        if !watch.rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(watch.piece()))));
        }
        let polled = Pin::new(body).poll_frame(context);
        polled.map_ok(|frame| match frame.into_data() {
            Ok(data) if data.is_empty() => Frame::data(data),
            Ok(data) => {
                watch.rest = data;
                Frame::data(watch.piece())
            }
            Err(other) => other,
        })
    }

    fn is_end_stream(&self) -> bool {
        let rest = self.watch.as_ref().is_some_and(|it| !it.rest.is_empty());
        !rest && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.watch.as_ref().map_or(0, |it| it.rest.len() as u64);
        let mut hint = self.body.size_hint();
        if rest > 0 {
            let upper = hint.upper();
            hint.set_lower(hint.lower() + rest);
            if let Some(upper) = upper {
                hint.set_upper(upper + rest);
            }
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    #[tokio::test]
    async fn every_piece_has_to_be_taken_within_two_ticks() {
        let unread = Arc::new(Unread::default());
        let content = Bytes::from(vec![7; PIECE_BYTES + 1]);
        let mut body = Watched::new(Full::new(content.clone()), Some(&unread));
        assert_eq!(body.size_hint().exact(), Some(content.len() as u64));
        let mut next = async || body.frame().await?.expect("no error").into_data().ok();
        let first = next().await.expect("a piece");
        assert_eq!(first.len(), PIECE_BYTES);
        assert!(!unread.tick(), "it may have been handed over just now");
        let second = next().await.expect("a piece");
        assert_eq!(second.len(), 1);
        assert!(next().await.is_none());
        assert!(unread.tick(), "the first waits still");
        drop(first);
        assert!(unread.tick(), "the second, too");
        drop(second);
        assert!(!unread.tick());
        assert!(unread.is_empty());

        let mut plain = Watched::new(Full::new(content.clone()), None);
        let whole = plain.frame().await.expect("a frame").expect("no error");
        assert_eq!(whole.into_data().expect("data"), content);
        assert!(plain.is_end_stream());
    }
}
