//! Room for bodies that are being read, shared by all requests.

use std::sync::Arc;
use std::time::Duration;

use contract::Problem;
use contract::limits::BODY_BYTES_MAX;
use metrics::Gauge;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Head;
use crate::quota::Spread;
use crate::refusal::Refusal;
use crate::shares::{Amount, Bounds, Hold, Shares};

/// How long a request waits for room for its body before it is refused.
pub(super) const ROOM_WAIT: Duration = Duration::from_millis(500);

/// Room that a body takes at a time as it arrives, in bytes: most need one. What it says of its
/// length holds none: whoever sends slowly would keep the room from those who send.
pub(super) const GROWTH_BYTES: usize = 64 * 1024;

/// The part of the room for bodies that one partner leaves to others while it is alone: a quarter,
/// or what is there beyond the largest body twice.
const KEPT_FREE_PART: u32 = 4;

/// For how many bytes of the room one request may be open whose body is not there yet. It takes
/// about 12 KiB beside its body, and one HTTP/2 connection has up to 128 of them.
const BYTES_FOR_ONE: u32 = 16 * 1024;

/// Requests that wait for room to begin with at a time; whoever comes then is refused at once,
/// since waiting takes as much memory as being let in.
const WAITING_MAX: usize = 256;

/// Room for bodies, shared by all requests.
pub(crate) struct Room {
    shares: Arc<Shares>,
    waiting: Semaphore,
    in_flight: Gauge,
    spread: Spread,
}

/// Room that one body has; given back when dropped.
pub(crate) struct Held<'r> {
    room: &'r Room,
    partner: i32,
    hold: Option<Hold>,
    /// When the body must have been read, waiting for more room included.
    pub(super) until: Instant,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.room.in_flight.decrement(f64::from(self.bytes()));
    }
}

impl Room {
    /// `bytes_max`: of all bodies in flight together; `in_flight` shows how many there are.
    pub(crate) fn new(bytes_max: usize, in_flight: Gauge) -> Self {
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
        let beyond = bytes_max.saturating_sub(2 * BODY_BYTES_MAX as u32);
        let kept_free = beyond.min(bytes_max / KEPT_FREE_PART);
        let count_max = (bytes_max / BYTES_FOR_ONE).max(1);
        let all = Amount::new(count_max, bytes_max);
        Self {
            shares: Shares::new(Bounds {
                all,
                alone: Amount::new(
                    count_max - count_max / KEPT_FREE_PART,
                    bytes_max - kept_free,
                ),
                shared: all,
            }),
            waiting: Semaphore::new(WAITING_MAX),
            in_flight,
            spread: Spread::new(),
        }
    }

    /// Room for a partner's body to begin with.
    ///
    /// # Errors
    /// 503 when there is none within [`ROOM_WAIT`], or until then; at once when as many wait
    /// already as may.
    pub(crate) async fn take(
        &self,
        partner: i32,
        head: &Head,
        until: Instant,
    ) -> Result<Held<'_>, Refusal> {
        let mut held = Held {
            room: self,
            partner,
            hold: None,
            until,
        };
        let first = head.length.map_or(GROWTH_BYTES, |it| it.min(GROWTH_BYTES));
        held.add(first).await?;
        Ok(held)
    }
}

impl Held<'_> {
    /// Room for what is to be buffered in all.
    pub(super) async fn cover(&mut self, bytes: usize) -> Result<(), Refusal> {
        let held = self.bytes() as usize;
        if bytes <= held {
            return Ok(());
        }
        self.add((bytes - held).next_multiple_of(GROWTH_BYTES))
            .await
    }

    fn bytes(&self) -> u32 {
        self.hold.as_ref().map_or(0, |hold| hold.amount().bytes)
    }

    pub(super) async fn add(&mut self, bytes: usize) -> Result<(), Refusal> {
        let begins = self.hold.is_none();
        let more = Amount::new(
            u32::from(begins),
            u32::try_from(bytes).expect("bounded by BODY_BYTES_MAX"),
        );
        let more = match self.room.shares.try_take(self.partner, more) {
            Some(more) => more,
            None => self.wait_for(more, begins).await?,
        };
        self.room.in_flight.increment(bytes as f64);
        match &mut self.hold {
            Some(hold) => hold.join(more),
            None => self.hold = Some(more),
        }
        Ok(())
    }

    async fn wait_for(&self, more: Amount, begins: bool) -> Result<Hold, Refusal> {
        let refused = || Refusal {
            retry_after: Some(self.room.spread.over(1)),
            ..Refusal::new(
                Problem::Overloaded,
                "too many requests, or bytes of them, are in flight",
            )
        };
        // What has begun is bounded already.
        let _place = match begins {
            true => Some(self.room.waiting.try_acquire().map_err(|_| refused())?),
            false => None,
        };
        let until = self.until.min(Instant::now() + ROOM_WAIT);
        let waited = self.room.shares.take(self.partner, more, until).await;
        waited.ok_or_else(refused)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream::{FuturesUnordered, StreamExt as _};

    use super::*;
    use crate::body::Coding;

    #[tokio::test(start_paused = true)]
    async fn open_requests_are_bounded_and_so_are_those_that_wait() {
        let room = Room::new(1024 * BYTES_FOR_ONE as usize, Gauge::noop());
        let head = Head {
            length: Some(1),
            coding: Coding::Identity,
        };
        let until = Instant::now() + 2 * ROOM_WAIT;
        let mut open = Vec::new();
        for _ in 0..768 {
            open.push(room.take(1, &head, until).await.expect("room"));
        }
        // Another partner finds room all the same.
        open.push(room.take(2, &head, until).await.expect("room"));
        let begun = Instant::now();
        let waits = (0..WAITING_MAX + 10).map(|_| room.take(1, &head, until));
        let mut waits: FuturesUnordered<_> = waits.collect();
        for _ in 0..10 {
            let refused = waits.next().await.expect("a wait").map_err(|it| it.problem);
            assert_eq!(refused.err(), Some(Problem::Overloaded));
            assert_eq!(begun.elapsed(), Duration::ZERO, "at once");
        }
        open.clear();
        let let_in = waits.filter_map(async |it| it.ok()).count().await;
        assert_eq!(let_in, WAITING_MAX);
    }
}
