//! Growing pauses with jitter, so that workers which lost the same server do not return as one.

use std::time::Duration;

/// First pause: long enough for a restart of a connection, short enough not to be noticed.
const FIRST: Duration = Duration::from_millis(100);
/// Longest pause: how late an outage's end may be noticed.
const MOST: Duration = Duration::from_secs(3);

/// The pauses of one retried operation.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    /// The next pause: between half and all of a length that doubles up to [`MOST`].
    pub(crate) fn pause(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(MOST);
        full / 2 + jitter(full / 2)
    }

    /// It worked: the next failure starts with the shortest pause again.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }
}

/// Between zero and `most`.
fn jitter(most: Duration) -> Duration {
    // Without randomness the pauses are merely regular.
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    most.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_over() {
        let mut backoff = Backoff::new();
        let mut full = FIRST;
        for _ in 0..10 {
            let pause = backoff.pause();
            assert!(pause >= full / 2 && pause <= full, "{pause:?} of {full:?}");
            full = (full * 2).min(MOST);
        }
        assert_eq!(full, MOST);
        backoff.reset();
        assert!(backoff.pause() <= FIRST);
    }
}
