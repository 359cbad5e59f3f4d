//! How long a look-up by available capacity takes while capacities change.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use devstack::stack::Stack;
use loadtest::latency::Latencies;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::BenchError;
use crate::client::Api;

/// Couriers that are looked among.
pub(super) const COURIERS: u64 = 100_000;
/// Capacity changes that are sent a second.
pub(super) const CHANGES_PER_SECOND: u64 = 5_000;
/// Creations in one request.
const CREATES: u64 = 1_000;
/// Changes in one request: fifty requests a second.
const CHANGES: u64 = 100;
/// Look-ups a second, each begun when it is due, whatever became of the one before.
const LOOK_UPS_PER_SECOND: u64 = 100;
/// Couriers that a dispatcher wants to see.
const LOOK_UP_LIMIT: u64 = 10;
/// Capacities are 0 to this, in litres, evenly spread.
const MAX_CAPACITY: u64 = 100;
/// Requests under way at most; one that finds no place is not sent, and so is missing from the
/// rate.
const UNDER_WAY_MAX: usize = 256;

/// Looks couriers up over and over while their capacities change.
pub(super) struct Couriers {
    api: Api,
    gateway: String,
    status: String,
    /// Changes sent so far, over all rounds: no two in a row give a courier the same capacity.
    changes: u64,
}

/// What one round found.
pub(super) struct Round {
    /// Of a look-up, from when it was due to its whole answer.
    pub(super) latency: Latencies,
    /// Commands that were acknowledged.
    pub(super) acknowledged: u64,
}

impl Couriers {
    pub(super) fn new(stack: &Stack, api: &Api) -> Self {
        let endpoints = stack.endpoints();
        Self {
            api: api.clone(),
            gateway: endpoints.gateway[0].clone(),
            status: endpoints.status[0].clone(),
            changes: 0,
        }
    }

    /// Creates the fleet; the number of acknowledged commands.
    pub(super) async fn create(&self) -> Result<u64, BenchError> {
        let mut acknowledged = 0;
        for first in (0..COURIERS).step_by(usize::try_from(CREATES).expect("small")) {
            let mut lines = String::new();
            for courier in first..first + CREATES {
                writeln!(
                    lines,
                    r#"{{"courier_id":{courier},"name":"Courier {courier}","max_capacity":{MAX_CAPACITY},"available_capacity":{}}}"#,
                    courier % (MAX_CAPACITY + 1)
                )
                .expect("a string grows");
            }
            acknowledged += self.send("/v1/couriers", lines).await?;
        }
        Ok(acknowledged)
    }

    /// One measure.
    pub(super) async fn look_up(&mut self, duration: Duration) -> Result<Round, BenchError> {
        let end = Instant::now() + duration;
        let changing = self.clone_for_changes();
        let looking = Looking {
            api: self.api.clone(),
            status: self.status.clone(),
        };
        let (changed, looked) = tokio::join!(changing.until(end), Arc::new(looking).until(end));
        self.changes += CHANGES_PER_SECOND * (duration.as_secs() + 1);
        Ok(Round {
            latency: looked?,
            acknowledged: changed?,
        })
    }

    fn clone_for_changes(&self) -> Arc<Self> {
        Arc::new(Self {
            api: self.api.clone(),
            gateway: self.gateway.clone(),
            status: self.status.clone(),
            changes: self.changes,
        })
    }

    /// Sends changes at their rate; how many were acknowledged.
    async fn until(self: Arc<Self>, end: Instant) -> Result<u64, BenchError> {
        let mut due = every(CHANGES_PER_SECOND / CHANGES);
        let mut under_way = JoinSet::new();
        let (mut acknowledged, mut next) = (0, self.changes);
        while due.tick().await < end {
            while let Some(sent) = under_way.try_join_next() {
                acknowledged += sent.expect("sending does not panic")?;
            }
            if under_way.len() < UNDER_WAY_MAX {
                let lines = changes(next);
                let this = Arc::clone(&self);
                under_way.spawn(async move { this.send("/v1/courier-commands", lines).await });
                next += CHANGES;
            }
        }
        while let Some(sent) = under_way.join_next().await {
            acknowledged += sent.expect("sending does not panic")?;
        }
        Ok(acknowledged)
    }

    /// One NDJSON request; how many of its records were acknowledged.
    async fn send(&self, path: &str, lines: String) -> Result<u64, BenchError> {
        let url = format!("{}{path}", self.gateway);
        let sent = self.api.post(&url, "application/x-ndjson", lines.into());
        let (_, answer) = sent.await?;
        Ok(accepted(&answer))
    }
}

/// The `accepted` of an answer to a burst.
fn accepted(answer: &Bytes) -> u64 {
    let answer: serde_json::Value = serde_json::from_slice(answer).unwrap_or_default();
    answer["accepted"].as_u64().unwrap_or_default()
}

/// So many commands after the first `done`. Neighbours in time are couriers far apart, and a
/// courier's next change always differs from its last.
fn changes(done: u64) -> String {
    let mut lines = String::new();
    for number in done..done + CHANGES {
        let courier = number.wrapping_mul(7_919) % COURIERS;
        let available =
            (courier * 31 + number / COURIERS * 7 + number * 3 + 1) % (MAX_CAPACITY + 1);
        writeln!(
            lines,
            r#"{{"command":"set_capacity","courier_id":{courier},"available_capacity":{available}}}"#
        )
        .expect("a string grows");
    }
    lines
}

fn every(per_second: u64) -> tokio::time::Interval {
    let mut ticks = interval(Duration::from_micros(1_000_000 / per_second));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    ticks
}

struct Looking {
    api: Api,
    status: String,
}

impl Looking {
    async fn until(self: Arc<Self>, end: Instant) -> Result<Latencies, BenchError> {
        let mut due = every(LOOK_UPS_PER_SECOND);
        let mut under_way = JoinSet::new();
        let mut latency = Latencies::default();
        let mut number = 0;
        loop {
            let at = due.tick().await;
            while let Some(looked) = under_way.try_join_next() {
                latency.record(looked.expect("looking does not panic")?);
            }
            if at >= end {
                break;
            }
            number += 1;
            let this = Arc::clone(&self);
            under_way.spawn(async move { this.look(number, at).await });
        }
        while let Some(looked) = under_way.join_next().await {
            latency.record(looked.expect("looking does not panic")?);
        }
        Ok(latency)
    }

    async fn look(&self, number: u64, due: Instant) -> Result<Duration, BenchError> {
        let least = number * 37 % MAX_CAPACITY;
        let url = format!(
            "{}/v1/couriers?min_available={least}&limit={LOOK_UP_LIMIT}",
            self.status
        );
        let (status, answer) = self.api.get(&url).await?;
        if !status.is_success() {
            let answer = String::from_utf8_lossy(&answer).into_owned();
            return Err(BenchError::LookUp { status, answer });
        }
        Ok(due.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_changes_of_a_second_are_about_different_couriers() {
        let lines: String = (0..CHANGES_PER_SECOND / CHANGES)
            .map(|request| changes(request * CHANGES))
            .collect();
        let couriers: std::collections::HashSet<&str> = lines
            .lines()
            .map(|line| line.split("\"available").next().unwrap())
            .collect();
        assert_eq!(couriers.len() as u64, CHANGES_PER_SECOND);
    }

    #[test]
    fn a_fleet_is_made_of_whole_requests() {
        assert_eq!(COURIERS % CREATES, 0);
        assert_eq!(CHANGES_PER_SECOND % CHANGES, 0);
    }
}
