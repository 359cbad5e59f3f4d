//! Batches: chunks gathered while the batch before them commits.

use std::time::Duration;

use contract::Partition;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use crate::batch::{Batch, LoggedChunk};
use crate::feed::{Feed, FeedEnd, Fetched};

/// Records after which a batch takes no further chunk: past it, bulk gains little more, and one
/// transaction stays well below a second.
const BATCH_RECORDS: usize = 20_000;
/// Bytes of chunks after which a batch takes no further chunk: bounds memory.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Chunks after which a batch takes no further one: bounds what empty chunks gather.
const BATCH_CHUNKS: usize = 1_000;
/// How long an unfilled batch waits when the log has more, in which case it comes at once. A
/// chunk with nothing behind it does not wait at all.
const BATCH_WAIT: Duration = Duration::from_millis(5);
/// How far apart unfilled batches are given. Beginning and committing a transaction costs as much
/// as about a hundred records, and under a burst of single records a batch would hold no more than
/// that. A chunk after a pause does not wait.
const BATCH_PACE: Duration = Duration::from_millis(10);

/// A batch, and how many messages the log held beyond it.
pub(crate) struct Gathered {
    pub(crate) batch: Batch,
    pub(crate) pending: u64,
}

impl Gathered {
    /// Sequence of the last chunk.
    pub(crate) fn last_seq(&self) -> u64 {
        self.last().seq
    }

    /// Store time of the last chunk by the log, in microseconds since the Unix epoch.
    pub(crate) fn stored_at_us(&self) -> i64 {
        self.last().stored_at_us
    }

    /// Store time of the first chunk, likewise.
    pub(crate) fn oldest_us(&self) -> i64 {
        let first = self.batch.chunks.first();
        first.expect("a batch has a chunk").stored_at_us
    }

    fn last(&self) -> &LoggedChunk {
        self.batch.chunks.last().expect("a batch has a chunk")
    }
}

/// The receiving end. Dropping it ends the gathering.
pub(crate) struct Batches {
    want: mpsc::Sender<()>,
    ready: mpsc::Receiver<Result<Gathered, FeedEnd>>,
    _task: AbortOnDropHandle<()>,
}

impl Batches {
    /// Starts gathering in a task of its own.
    pub(crate) fn of(partition: Partition, feed: Feed) -> Self {
        // One batch is asked for at a time: until then the next one keeps growing.
        let (want, wanted) = mpsc::channel(1);
        let (give, ready) = mpsc::channel(1);
        let task = tokio::spawn(gather(partition, feed, wanted, give));
        Self {
            want,
            ready,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// The next batch. Batches follow each other without a gap until the feed ends.
    ///
    /// # Cancel safety
    /// Safe: a batch that was asked for is given at the next call.
    pub(crate) async fn next(&mut self) -> Result<Gathered, FeedEnd> {
        // Full means that one is already asked for.
        let _ = self.want.try_send(());
        self.ready
            .recv()
            .await
            .expect("the task gives the feed's end before it returns")
    }
}

async fn gather(
    partition: Partition,
    mut feed: Feed,
    mut wanted: mpsc::Receiver<()>,
    give: mpsc::Sender<Result<Gathered, FeedEnd>>,
) {
    let incarnation = feed.incarnation();
    let mut growing = Growing::default();
    let mut not_before = Instant::now();
    let mut end = None;
    let mut asked = false;
    loop {
        let open = end.is_none() && !growing.is_full();
        tokio::select! {
            biased;
            request = wanted.recv(), if !asked => match request {
                Some(()) => asked = true,
                None => return,
            },
            fetched = feed.next(), if open => match fetched {
                Ok(fetched) => growing.push(fetched),
                Err(error) => {
                    if matches!(error, FeedEnd::Held(_)) {
                        // It will be looked at again and again: consumers must not pile up.
                        feed.delete_consumer().await;
                    }
                    end = Some(error);
                }
            },
            () = sleep_until(growing.ripe_at(not_before)), if asked && !growing.chunks.is_empty() => {}
        }
        if !asked {
            continue;
        }
        let given = if growing.chunks.is_empty() {
            // What came before the end goes first.
            match end.take() {
                Some(end) => Err(end),
                None => continue,
            }
        } else if end.is_some() || growing.is_ripe(not_before) {
            not_before = Instant::now() + BATCH_PACE;
            let growing = std::mem::take(&mut growing);
            Ok(Gathered {
                pending: growing.pending,
                batch: Batch {
                    partition,
                    incarnation,
                    chunks: growing.chunks,
                },
            })
        } else {
            continue;
        };
        asked = false;
        let last = given.is_err();
        if give.send(given).await.is_err() || last {
            return;
        }
    }
}

/// The batch that takes chunks at the moment.
struct Growing {
    chunks: Vec<LoggedChunk>,
    records: usize,
    bytes: usize,
    /// Beyond the last chunk.
    pending: u64,
    first_at: Instant,
}

impl Default for Growing {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            records: 0,
            bytes: 0,
            pending: 0,
            first_at: Instant::now(),
        }
    }
}

impl Growing {
    fn push(&mut self, fetched: Fetched) {
        if self.chunks.is_empty() {
            self.first_at = Instant::now();
        }
        self.records += fetched.chunk.chunk.entries.len();
        self.bytes += fetched.bytes;
        self.pending = fetched.pending;
        self.chunks.push(fetched.chunk);
    }

    fn is_full(&self) -> bool {
        self.records >= BATCH_RECORDS
            || self.bytes >= BATCH_BYTES
            || self.chunks.len() >= BATCH_CHUNKS
    }

    /// When it is given unless it fills before.
    fn ripe_at(&self, not_before: Instant) -> Instant {
        let wait = if self.pending == 0 {
            Duration::ZERO
        } else {
            BATCH_WAIT
        };
        not_before.max(self.first_at + wait)
    }

    fn is_ripe(&self, not_before: Instant) -> bool {
        self.is_full() || Instant::now() >= self.ripe_at(not_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::chunk::{Chunk, Header};
    use uuid::Uuid;

    fn fetched(bytes: usize, pending: u64) -> Fetched {
        let header = Header {
            chunk_id: Uuid::nil(),
            partition: Partition(0),
            publish_by_us: 0,
            origin: String::new(),
        };
        let chunk = Chunk {
            header,
            entries: Vec::new(),
        };
        Fetched {
            chunk: LoggedChunk {
                seq: 1,
                stored_at_us: 0,
                chunk,
            },
            bytes,
            pending,
        }
    }

    #[test]
    fn a_lone_chunk_does_not_wait_and_a_first_of_many_does() {
        let now = Instant::now();
        let mut lone = Growing::default();
        lone.push(fetched(100, 0));
        assert!(lone.is_ripe(now));
        let mut first = Growing::default();
        first.push(fetched(100, 9));
        assert!(!first.is_ripe(now));
        first.push(fetched(BATCH_BYTES, 8));
        assert!(first.is_ripe(now));
    }

    #[test]
    fn batches_keep_their_distance_unless_they_are_full() {
        let later = Instant::now() + BATCH_PACE;
        let mut next = Growing::default();
        next.push(fetched(100, 0));
        assert!(!next.is_ripe(later));
        assert_eq!(next.ripe_at(later), later);
        next.push(fetched(BATCH_BYTES, 8));
        assert!(next.is_ripe(later));
    }
}
