//! Who goes next, and when. In the open model a thread of its own opens a gate as the schedule
//! says, whatever happens behind it; every free connection waits at the gate. In the closed model
//! whoever is free goes at once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::schedule::Schedule;

/// Shortest sleep of the pacing thread: the kernel wakes a sleeper some 50 µs late anyway, and ten
/// thousand wake-ups a second cost little.
const SLEEP_MIN: Duration = Duration::from_micros(100);
/// Longest, so that an end is seen.
const SLEEP_MAX: Duration = Duration::from_millis(20);
/// Requests let through so much later than they were due are remembered.
const STALL_MIN: Duration = Duration::from_millis(5);
/// How many stalls are remembered; one more forgets the oldest.
const STALLS_MAX: usize = 4_096;

/// A request whose turn it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// Counted over the whole run.
    pub(crate) request: u64,
    /// When it was due; in the closed model now.
    pub(crate) due: Instant,
    /// How much of its lateness is the generator's own.
    pub(crate) behind: Duration,
    /// How much of it was waiting for a connection.
    pub(crate) waited: Duration,
}

/// Both models.
#[derive(Debug)]
pub(crate) enum Pace {
    Open(Box<Open>),
    Closed {
        /// Counted over the whole run.
        next: AtomicU64,
        first: u64,
        until: Instant,
        stopped: AtomicBool,
    },
}

/// The gate.
#[derive(Debug)]
pub(crate) struct Open {
    schedule: Schedule,
    started: Instant,
    /// Number of the schedule's request 0 over the whole run.
    first: u64,
    /// One for each request that is let through and has not been taken.
    permits: Semaphore,
    /// The schedule's number of the next to be taken.
    next: AtomicU64,
    /// Numbers from here on are never taken.
    end: AtomicU64,
    stopped: AtomicBool,
    finished: AtomicBool,
    stalls: Mutex<VecDeque<Stall>>,
}

/// Requests that were all let through late, at one moment.
#[derive(Clone, Copy, Debug)]
struct Stall {
    from: u64,
    to: u64,
    released: Instant,
}

impl Pace {
    pub(crate) fn open(schedule: Schedule, first: u64, started: Instant) -> Self {
        Self::Open(Box::new(Open {
            schedule,
            started,
            first,
            permits: Semaphore::new(0),
            next: AtomicU64::new(0),
            end: AtomicU64::new(u64::MAX),
            stopped: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            stalls: Mutex::default(),
        }))
    }

    pub(crate) fn closed(first: u64, until: Instant) -> Self {
        Self::Closed {
            next: AtomicU64::new(first),
            first,
            until,
            stopped: AtomicBool::new(false),
        }
    }

    /// Waits for a turn; `free_since` is when the caller could have gone. `None`: there will be no
    /// more.
    ///
    /// # Cancel safety
    /// A turn that was given and not taken is never sent.
    pub(crate) async fn turn(&self, free_since: Instant) -> Option<Turn> {
        match self {
            Self::Open(open) => open.turn(free_since).await,
            Self::Closed {
                next,
                until,
                stopped,
                ..
            } => {
                let now = Instant::now();
                let over = now >= *until || stopped.load(Ordering::Relaxed);
                (!over).then(|| Turn {
                    request: next.fetch_add(1, Ordering::Relaxed),
                    due: now,
                    behind: Duration::ZERO,
                    waited: Duration::ZERO,
                })
            }
        }
    }

    /// No further turns; those who wait go home.
    pub(crate) fn stop(&self) {
        match self {
            Self::Open(open) => open.stop(),
            Self::Closed { stopped, .. } => stopped.store(true, Ordering::Relaxed),
        }
    }

    /// Number over the whole run of the first request that had no turn.
    pub(crate) fn next_request(&self) -> u64 {
        match self {
            Self::Open(open) => open.first + open.taken(),
            Self::Closed { next, .. } => next.load(Ordering::Relaxed),
        }
    }

    /// Requests that were due by `at`, or whose turn came in the closed model.
    pub(crate) fn due_by(&self, at: Instant) -> u64 {
        match self {
            Self::Open(open) => {
                let due = open
                    .schedule
                    .due_by(at.saturating_duration_since(open.started));
                due.min(open.end.load(Ordering::Acquire))
            }
            Self::Closed { next, first, .. } => next.load(Ordering::Relaxed) - first,
        }
    }

    /// Requests per second asked for at a moment.
    pub(crate) fn rate(&self, at: Instant) -> Option<f64> {
        match self {
            Self::Open(open) => {
                let since = at.saturating_duration_since(open.started);
                Some(if since < open.schedule.length() {
                    open.schedule.rate(since)
                } else {
                    0.0
                })
            }
            Self::Closed { .. } => None,
        }
    }
}

impl Open {
    async fn turn(&self, free_since: Instant) -> Option<Turn> {
        self.permits.acquire().await.ok()?.forget();
        let number = self.next.fetch_add(1, Ordering::AcqRel);
        if number >= self.end.load(Ordering::Acquire) {
            return None;
        }
        let due = self.started + self.schedule.due(number);
        let now = Instant::now();
        let released = if now - due < STALL_MIN {
            due
        } else {
            self.released_late(number).unwrap_or(due)
        };
        let (behind, waited) = split(due, released, free_since, now);
        Some(Turn {
            request: self.first + number,
            due,
            behind,
            waited,
        })
    }

    fn released_late(&self, number: u64) -> Option<Instant> {
        let stalls = self.stalls.lock().unwrap_or_else(PoisonError::into_inner);
        let stall = stalls
            .iter()
            .rev()
            .find(|it| (it.from..it.to).contains(&number));
        stall.map(|it| it.released)
    }

    fn taken(&self) -> u64 {
        let end = self.end.load(Ordering::Acquire);
        self.next.load(Ordering::Acquire).min(end)
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.finish(self.next.load(Ordering::Acquire));
    }

    fn finish(&self, end: u64) {
        self.end.fetch_min(end, Ordering::AcqRel);
        if !self.finished.swap(true, Ordering::AcqRel) {
            // Enough for everybody who waits, now or later, to see the end.
            self.permits.add_permits(Semaphore::MAX_PERMITS / 2);
        }
    }

    /// Opens the gate on time until all are through; the thread's whole life.
    fn keep(&self) {
        let requests = self.schedule.requests();
        let mut number = 0;
        while number < requests && !self.stopped.load(Ordering::Acquire) {
            let now = Instant::now();
            let due = self.started + self.schedule.due(number);
            if due > now {
                std::thread::park_timeout((due - now).clamp(SLEEP_MIN, SLEEP_MAX));
                continue;
            }
            let from = number;
            while number < requests && self.started + self.schedule.due(number) <= now {
                number += 1;
            }
            if now - due >= STALL_MIN {
                self.remember(Stall {
                    from,
                    to: number,
                    released: now,
                });
            }
            let released = usize::try_from(number - from).expect("a short while's requests");
            self.permits.add_permits(released);
        }
        self.finish(number);
    }

    fn remember(&self, stall: Stall) {
        let mut stalls = self.stalls.lock().unwrap_or_else(PoisonError::into_inner);
        if stalls.len() == STALLS_MAX {
            stalls.pop_front();
        }
        stalls.push_back(stall);
    }
}

/// Divides a request's lateness: the generator's own is what it was let through late, and what
/// passed although it was let through and a connection was free; the rest it waited for a
/// connection to be free.
fn split(
    due: Instant,
    released: Instant,
    free_since: Instant,
    now: Instant,
) -> (Duration, Duration) {
    let let_through = released.saturating_duration_since(due);
    let idle = now.saturating_duration_since(released.max(free_since));
    let behind = let_through + idle;
    let late = now.saturating_duration_since(due);
    (behind.min(late), late.saturating_sub(behind))
}

/// The thread that keeps the gate; ends with the schedule, or when it is dropped.
#[derive(Debug)]
pub(crate) struct Pacer {
    pace: Arc<Pace>,
    thread: Option<(JoinHandle<()>, Thread)>,
}

impl Pacer {
    /// Starts it; in the closed model there is nothing to do.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(crate) fn start(pace: &Arc<Pace>) -> std::io::Result<Self> {
        let thread = match **pace {
            Pace::Closed { .. } => None,
            Pace::Open(_) => {
                let pace = Arc::clone(pace);
                let keep = move || match &*pace {
                    Pace::Open(open) => open.keep(),
                    Pace::Closed { .. } => {}
                };
                let handle = std::thread::Builder::new()
                    .name("pacer".into())
                    .spawn(keep)?;
                let thread = handle.thread().clone();
                Some((handle, thread))
            }
        };
        Ok(Self {
            pace: Arc::clone(pace),
            thread,
        })
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        if let Some((handle, thread)) = self.thread.take() {
            if !handle.is_finished() {
                self.pace.stop();
                thread.unpark();
            }
            // It looks for the end at least every 20 ms.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::schedule::Profile;

    fn at(base: Instant, ms: u64) -> Instant {
        base + Duration::from_millis(ms)
    }

    #[test]
    fn lateness_is_divided_between_generator_and_connections() {
        let base = Instant::now();
        let ms = Duration::from_millis;
        for (released, free, now, behind, waited) in [
            // On time, by a connection that had been free.
            (100, 50, 100, 0, 0),
            // The connection had been free: the generator dawdled.
            (100, 50, 400, 300, 0),
            // Every connection was busy: the server's time.
            (100, 390, 400, 10, 290),
            // Let through late: the generator's, though connections were busy then.
            (300, 350, 360, 210, 50),
            // Let through late and then at once taken by a free connection.
            (300, 50, 310, 210, 0),
        ] {
            let got = split(
                at(base, 100),
                at(base, released),
                at(base, free),
                at(base, now),
            );
            assert_eq!(got, (ms(behind), ms(waited)), "{released} {free} {now}");
        }
    }

    fn steady(rate: f64, seconds: f64) -> Schedule {
        Schedule::new(&Profile::Steady { rate, seconds }, 1)
    }

    #[tokio::test]
    async fn the_gate_opens_on_time_and_then_for_ever() {
        let started = Instant::now();
        let pace = Arc::new(Pace::open(steady(1_000.0, 0.2), 40, started));
        let pacer = Pacer::start(&pace).unwrap();
        for number in 40..240 {
            let turn = pace.turn(started).await.unwrap();
            assert_eq!(turn.request, number);
            assert!(Instant::now() >= turn.due);
        }
        assert!(pace.turn(started).await.is_none());
        assert!(pace.turn(started).await.is_none());
        assert!(started.elapsed() >= Duration::from_millis(199));
        assert_eq!(pace.next_request(), 240);
        drop(pacer);
    }

    #[tokio::test]
    async fn nobody_at_the_gate_delays_nothing() {
        let started = Instant::now();
        let pace = Arc::new(Pace::open(steady(1_000.0, 0.1), 0, started));
        let pacer = Pacer::start(&pace).unwrap();
        // Whoever comes late finds all of them due, each at its own moment.
        tokio::time::sleep(Duration::from_millis(150)).await;
        let came = Instant::now();
        for number in 0..100 {
            let turn = pace.turn(came).await.unwrap();
            assert_eq!(turn.due, started + Duration::from_millis(number));
            assert!(turn.waited >= Duration::from_millis(40), "{turn:?}");
        }
        assert!(pace.turn(came).await.is_none());
        drop(pacer);
    }

    #[tokio::test]
    async fn a_stopped_pace_gives_no_more_turns() {
        let started = Instant::now();
        let pace = Arc::new(Pace::open(steady(100.0, 60.0), 0, started));
        let pacer = Pacer::start(&pace).unwrap();
        assert!(pace.turn(started).await.is_some());
        pace.stop();
        assert!(pace.turn(started).await.is_none());
        let taken = pace.next_request();
        assert!((1..60).contains(&taken), "{taken}");
        assert_eq!(pace.due_by(started + Duration::from_secs(60)), taken);
        drop(pacer);

        let pace = Pace::closed(7, Instant::now() + Duration::from_secs(60));
        assert_eq!(pace.turn(started).await.unwrap().request, 7);
        pace.stop();
        assert!(pace.turn(started).await.is_none());
        assert_eq!((pace.next_request(), pace.due_by(started)), (8, 1));
    }
}
