//! A connection whose writes end when the other side does not take them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long a client may take nothing of an answer before its connection is closed. The system
/// holds some 100 KiB for it meanwhile, so whoever reads at all, however slowly, keeps within it.
/// Shorter than every grace, so that a drain does not wait for those who never read.
pub const WRITE_WAIT: Duration = Duration::from_secs(10);

/// Wraps a connection: a write that makes no progress for the wait fails with
/// [`io::ErrorKind::TimedOut`]. Reads are passed through.
#[derive(Debug)]
pub struct WriteBound<S> {
    stream: S,
    wait: Duration,
    /// Ends the write that waits; made when one waits for the first time.
    until: Option<Pin<Box<Sleep>>>,
    waits: bool,
}

impl<S> WriteBound<S> {
    /// `wait`: usually [`WRITE_WAIT`].
    #[must_use]
    pub fn new(stream: S, wait: Duration) -> Self {
        Self {
            stream,
            wait,
            until: None,
            waits: false,
        }
    }

    fn bounded<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waits = false;
            return written;
        }
        let wait = self.wait;
        let until = self
            .until
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
        if !std::mem::replace(&mut self.waits, true) {
            until.as_mut().reset(Instant::now() + wait);
        }
        ready!(until.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the other side does not read",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteBound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteBound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.bounded(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_that_nobody_takes_ends_and_a_slow_reader_is_waited_for() {
        let (ours, mut theirs) = tokio::io::duplex(8);
        let mut ours = WriteBound::new(ours, WRITE_WAIT);
        // Takes some just in time, three times.
        let slowly = async {
            for _ in 0..3 {
                tokio::time::sleep(WRITE_WAIT - Duration::from_secs(1)).await;
                theirs.read_exact(&mut [0; 8]).await.expect("written");
            }
        };
        let (written, ()) = tokio::join!(ours.write_all(&[1; 32]), slowly);
        written.expect("all is taken");

        let begun = Instant::now();
        let error = ours.write_all(&[1; 8]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), WRITE_WAIT);
        // Being read from all the time makes no difference.
        theirs.write_all(&[2; 4]).await.expect("room");
        ours.read_exact(&mut [0; 4]).await.expect("reads pass");
    }
}
