//! What a partition's worker lets others see while it works.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Shared between a partition's worker and the keeper of its lease.
#[derive(Clone, Default, Debug)]
pub(crate) struct Pulse {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Copy, Default, Debug)]
struct State {
    transaction_began: Option<Instant>,
    /// Store time of the oldest chunk in the transaction in flight.
    applying_us: Option<i64>,
    /// Store time of the last applied chunk, once one was applied.
    applied_us: Option<i64>,
    /// Whether the log held nothing beyond it.
    caught_up: bool,
    /// Acceptance of the command behind the oldest event that waits, once the outbox was read; none
    /// inside when none waits.
    event_waits_us: Option<Option<i64>>,
}

impl Pulse {
    /// A transaction begins, whose oldest chunk the log stored at `oldest_us`. It ends when the
    /// value is dropped, however that comes about.
    pub(crate) fn transaction(&self, oldest_us: i64) -> Transaction<'_> {
        self.change(|state| {
            state.transaction_began = Some(Instant::now());
            state.applying_us = Some(oldest_us);
        });
        Transaction { pulse: self }
    }

    /// How long the transaction in flight has taken so far.
    pub(crate) fn transaction_age(&self) -> Option<Duration> {
        self.state().transaction_began.map(|began| began.elapsed())
    }

    /// A batch is committed.
    pub(crate) fn applied(&self, stored_at_us: i64, caught_up: bool) {
        self.change(|state| {
            state.applied_us = Some(stored_at_us);
            state.caught_up = caught_up;
        });
    }

    /// Something keeps the partition from being worked on.
    pub(crate) fn hindered(&self) {
        self.change(|state| state.caught_up = false);
    }

    /// How far behind the log the database is: zero when caught up, unknown before the first batch.
    /// What a transaction holds is not applied, however long the database makes it wait.
    pub(crate) fn delay(&self) -> Option<Duration> {
        let state = self.state();
        if state.caught_up && state.applying_us.is_none() {
            return Some(Duration::ZERO);
        }
        let behind_us = now_us() - state.applying_us.or(state.applied_us)?;
        Some(Duration::from_micros(u64::try_from(behind_us).unwrap_or(0)))
    }

    /// The outbox was read: its oldest event is of a command accepted then, or it is empty.
    pub(crate) fn relaying(&self, oldest_us: Option<i64>) {
        self.change(|state| state.event_waits_us = Some(oldest_us));
    }

    /// How long the oldest event in the outbox has been waiting; unknown before the first look.
    pub(crate) fn events_delay(&self) -> Option<Duration> {
        let oldest_us = self.state().event_waits_us?;
        let waits_us = oldest_us.map_or(0, |oldest_us| now_us() - oldest_us);
        Some(Duration::from_micros(u64::try_from(waits_us).unwrap_or(0)))
    }

    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A transaction in flight.
#[must_use]
pub(crate) struct Transaction<'a> {
    pulse: &'a Pulse,
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        self.pulse.change(|state| {
            state.transaction_began = None;
            state.applying_us = None;
        });
    }
}

/// This machine's clock in microseconds since the Unix epoch: for figures only.
fn now_us() -> i64 {
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since_epoch.as_micros()).expect("the year is below 292,000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_the_database_holds_up_is_a_delay() {
        let pulse = Pulse::default();
        assert_eq!(pulse.delay(), None);
        pulse.applied(now_us(), true);
        assert_eq!(pulse.delay(), Some(Duration::ZERO));
        let minute = Duration::from_secs(60);
        let transaction = pulse.transaction(now_us() - 60_000_000);
        assert!(pulse.delay() >= Some(minute), "{:?}", pulse.delay());
        drop(transaction);
        assert_eq!(pulse.delay(), Some(Duration::ZERO));
        pulse.hindered();
        assert!(pulse.delay() < Some(minute));
    }
}
