//! Whether the generator kept its own schedule. A generator that is itself the bottleneck measures
//! itself, and must say so instead of giving figures.
//!
//! A request may go out later than it was due for two reasons, which `pace` tells apart for each:
//!
//! - **behind**: the gate was opened late, or it was open and a connection was free, and still
//!   time passed. That is the generator's own delay, for want of CPU.
//! - **waited**: every connection was busy. That is the server's time as long as the generator
//!   reads answers as they come. If its own threads never rested in that second, running or
//!   waiting for a CPU all the time, then answers lay about unread, and the wait counts as its own.
//!
//! Either way the latency counts from the intended moment, so nothing is hidden in it; this only
//! decides whose it is. A run is invalid when more than [`LATE_SHARE_MAX`] of its requests were
//! late by their own fault (more than 100 ms), or one was by [`BEHIND_MAX`].

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::tally::Tally;
use crate::report::schema::Generator;

/// Share of requests that may be late by the generator's own fault.
pub(crate) const LATE_SHARE_MAX: f64 = 0.01;
/// No request may be later than this by the generator's own fault.
pub(crate) const BEHIND_MAX: Duration = Duration::from_secs(1);
/// From this share of a second on, threads that ran or waited for a CPU never rested.
pub(crate) const BUSY_MIN: f64 = 0.95;

/// What the judgement rests on.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Lateness {
    pub(crate) requests: u64,
    /// Late by more than the tolerance, by their own fault.
    pub(crate) late: u64,
    pub(crate) behind_max: Duration,
}

impl Lateness {
    /// Adds one second, in which the generator's threads were busy for a share of the time.
    pub(crate) fn add(&mut self, second: &Tally, busy: Option<f64>) {
        self.requests += second.requests;
        self.late += second.late_own;
        if busy.is_some_and(|busy| busy >= BUSY_MIN) {
            self.late += second.late_waiting;
        }
        self.behind_max = self.behind_max.max(second.behind_max);
    }

    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    fn share(&self) -> f64 {
        self.late as f64 / (self.requests.max(1)) as f64
    }

    /// The judgement.
    pub(crate) fn judge(&self, cpu_share: Option<f64>) -> Generator {
        let share = self.share();
        let why = if share > LATE_SHARE_MAX {
            Some(format!(
                "{:.1}% of the requests left more than 100 ms late for want of CPU, and 1% is the \
                 most that can be allowed: give the generator more of it, or ask for less",
                share * 100.0
            ))
        } else if self.behind_max > BEHIND_MAX {
            Some(format!(
                "the generator stood still for {:.1} s, and 1 s is the most that can be allowed",
                self.behind_max.as_secs_f64()
            ))
        } else {
            None
        };
        Generator {
            valid: why.is_none(),
            why,
            behind_max_ms: self.behind_max.as_secs_f64() * 1e3,
            behind_share: share,
            cpu_share,
        }
    }
}

/// What this process's own threads do, second by second.
#[derive(Debug)]
pub(crate) struct Threads {
    /// By thread id: time on a CPU, and time waiting for one, in nanoseconds.
    seen: HashMap<String, (u64, u64)>,
    at: Instant,
    started: Instant,
    cpu_ns: u64,
    processors: usize,
}

/// One interval of it.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Interval {
    /// Cores used by all threads.
    pub(crate) cores: Option<f64>,
    /// Share of the time in which the threads that drive connections ran or waited for a CPU.
    pub(crate) busy: Option<f64>,
}

/// The name that tokio gives to the threads that drive connections.
const DRIVER: &str = "tokio-rt-worker";

impl Threads {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        let mut threads = Self {
            seen: HashMap::new(),
            at: now,
            started: now,
            cpu_ns: 0,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
        };
        threads.interval();
        threads.cpu_ns = 0;
        threads
    }

    /// What happened since this was called last.
    pub(crate) fn interval(&mut self) -> Interval {
        let now = Instant::now();
        let passed = u64::try_from((now - self.at).as_nanos())
            .unwrap_or(u64::MAX)
            .max(1);
        self.at = now;
        let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
            return Interval::default();
        };
        let (mut cpu, mut busy, mut drivers) = (0, 0, 0);
        for task in tasks.flatten() {
            let id = task.file_name().to_string_lossy().into_owned();
            let Some((ran, waited)) = schedstat(&id) else {
                continue;
            };
            let known = self.seen.insert(id.clone(), (ran, waited));
            let before = known.unwrap_or((ran, waited));
            cpu += ran.saturating_sub(before.0);
            let comm = std::fs::read_to_string(format!("/proc/self/task/{id}/comm"));
            // Blocking threads bear the same name; they rest and would hide that others do not.
            let active = ran.saturating_sub(before.0) + waited.saturating_sub(before.1);
            if comm.is_ok_and(|name| name.trim() == DRIVER) && known.is_some() && active > 0 {
                busy += active;
                drivers += 1;
            }
        }
        self.cpu_ns += cpu;
        Interval {
            cores: Some(ratio(cpu, passed)),
            busy: (drivers > 0).then(|| ratio(busy, passed * drivers)),
        }
    }

    /// Share of the processors' time taken since the beginning.
    pub(crate) fn cpu_share(&self) -> Option<f64> {
        let passed = u64::try_from(self.started.elapsed().as_nanos()).ok()?;
        let available = passed.saturating_mul(self.processors as u64);
        (available > 0).then(|| ratio(self.cpu_ns, available))
    }
}

/// Time on a CPU and time waiting for one, in nanoseconds.
fn schedstat(task: &str) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{task}/schedstat")).ok()?;
    let mut words = text.split_whitespace().map(str::parse);
    Some((words.next()?.ok()?, words.next()?.ok()?))
}

#[expect(clippy::cast_precision_loss, reason = "a share need not be exact")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(requests: u64, late_own: u64, late_waiting: u64, behind_ms: u64) -> Tally {
        Tally {
            requests,
            late_own,
            late_waiting,
            behind_max: Duration::from_millis(behind_ms),
            ..Tally::default()
        }
    }

    #[test]
    fn a_generator_that_falls_behind_is_invalid() {
        for (seconds, valid) in [
            // On time.
            (vec![(second(1_000, 0, 0, 3), 0.2)], true),
            // All connections were busy while the generator rested: the server's time.
            (vec![(second(1_000, 0, 900, 3), 0.3)], true),
            // All connections were busy while the generator never rested.
            (vec![(second(1_000, 0, 900, 3), 0.99)], false),
            // A single hiccup in a long run.
            (vec![(second(1_000, 8, 0, 300), 0.2)], true),
            (vec![(second(1_000, 11, 0, 300), 0.2)], false),
            // Rarely, but for long.
            (vec![(second(100_000, 8, 0, 1_500), 0.2)], false),
            // Nothing was sent at all.
            (vec![], true),
        ] {
            let mut lateness = Lateness::default();
            for (second, busy) in &seconds {
                lateness.add(second, Some(*busy));
            }
            let generator = lateness.judge(None);
            assert_eq!(generator.valid, valid, "{seconds:?} {generator:?}");
            assert_eq!(generator.why.is_none(), valid);
        }
    }

    #[test]
    fn a_thread_that_works_is_seen_to() {
        let mut threads = Threads::new();
        let until = Instant::now() + Duration::from_millis(50);
        let mut sum = 0_u64;
        while Instant::now() < until {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        let interval = threads.interval();
        assert!(
            interval.cores.is_none_or(|cores| cores > 0.0),
            "{interval:?}"
        );
        assert!(threads.cpu_share().is_none_or(|share| share > 0.0));
    }
}
