//! What requests share while they are worked on, between their body and their answer: turns, and
//! the processors.

use std::sync::Arc;

use contract::Problem;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use crate::quota::Spread;
use crate::refusal::Refusal;
use crate::shares::{Amount, Bounds, Hold, Shares};

/// Requests in work. A request costs about as much however few records it has, so they are counted
/// as well as their bytes. A partner that is alone has as many in work as half of the connections
/// bring, which is no bound to it in practice; several share what a few milliseconds finish, so
/// that nobody stands behind hundreds of another's.
const TURNS: Bounds = Bounds {
    all: Amount::new(4_096, 512 * 1024 * 1024),
    alone: Amount::new(2_048, 256 * 1024 * 1024),
    shared: Amount::new(128, 256 * 1024),
};

/// Most that one of the runtime's workers does at a stretch: parse so many bytes, encode or answer
/// so many records. It is a millisecond's work at most, for which others can wait.
pub(crate) const STRETCH_BYTES_MAX: usize = 64 * 1024;
pub(crate) const STRETCH_RECORDS_MAX: usize = 500;

/// How much less of a processor than others, in steps of nice(2), a thread gets for long work of
/// one partner while another is there. A request that takes little and wakes while both processors
/// are busy then runs at once, not after the other's time slice.
const NICE: i32 = 10;

/// Shared by all requests.
pub(crate) struct Work {
    turns: Arc<Shares>,
    /// For what is done beside the runtime's workers: as much at a time as there are processors.
    beside: Semaphore,
    /// Threads that stand back. `None` only while it is dropped.
    nice: Option<Runtime>,
    spread: Spread,
}

impl Work {
    /// # Panics
    /// When the system gives no threads.
    pub(crate) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let nice = tokio::runtime::Builder::new_multi_thread()
            .enable_time()
            .worker_threads(processors)
            .thread_name("long-work")
            .on_thread_start(|| {
                // It works without, only others wait longer.
                if let Err(error) = stand_back() {
                    tracing::warn!(%error, "long work does not stand back for short");
                }
            })
            .build()
            .expect("the system gives threads");
        Self {
            turns: Shares::new(TURNS),
            beside: Semaphore::new(processors),
            nice: Some(nice),
            spread: Spread::new(),
        }
    }

    /// A turn for a partner's request to be worked on, held until its answer.
    ///
    /// # Errors
    /// 503 when there is none in time.
    pub(crate) async fn turn(
        &self,
        partner: i32,
        bytes: usize,
        by: tokio::time::Instant,
    ) -> Result<Hold, Refusal> {
        let amount = Amount::new(1, u32::try_from(bytes).unwrap_or(u32::MAX));
        let turn = self.turns.take(partner, amount, by).await;
        turn.ok_or_else(|| Refusal {
            // What is in work is done within a second, or the log is away.
            retry_after: Some(self.spread.over(1)),
            ..Refusal::new(
                Problem::Overloaded,
                "too many requests are being worked on at the moment",
            )
        })
    }

    /// Whether several partners are there, or were a moment ago.
    pub(crate) fn is_shared(&self) -> bool {
        self.turns.present() > 1
    }

    /// Does what takes long beside the runtime's workers, so that the system divides the
    /// processors between it and the requests that take little.
    pub(crate) fn run<T>(&self, is_long: bool, work: impl FnOnce() -> T) -> T {
        if is_long && let Ok(_permit) = self.beside.try_acquire() {
            return tokio::task::block_in_place(work);
        }
        work()
    }

    /// Works on a request whose work is long on threads that stand back, while others are there.
    ///
    /// # Panics
    /// When the work does.
    ///
    /// # Cancel safety
    /// As safe as the work: it ends where it waits next.
    pub(crate) async fn stand_back<T, F>(&self, work: F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let nice = self.nice.as_ref().expect("it is there until it is dropped");
        match AbortOnDropHandle::new(nice.spawn(work)).await {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// Makes the calling thread, which is what `None` means, stand back behind the process's others.
fn stand_back() -> rustix::io::Result<()> {
    let nice = rustix::process::getpriority_process(None)?;
    rustix::process::setpriority_process(None, nice + NICE)
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(nice) = self.nice.take() {
            // Otherwise it waits for its threads, which the runtime that drops this forbids.
            nice.shutdown_background();
        }
    }
}
