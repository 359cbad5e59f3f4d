//! Keeps this process's leases: beats them, takes what is up, hands over what is too much, and runs
//! one [`Worker`] per lease.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chassis::readiness::Condition;
use chassis::shutdown::Shutdown;
use contract::Partition;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::database::DatabaseError;
use crate::lease::{Lease, Look, Watch};
use crate::meter;
use crate::pulse::Pulse;
use crate::worker::{Worker, Workplace};

/// How often the leases are beaten: five misses are death.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How often the leases are looked at: with [`crate::lease::UNBEATEN_MAX`], how soon a dead
/// worker's partitions go on.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long one round of statements may take before its connection is given up.
const ROUND_MAX: Duration = Duration::from_secs(3);
/// A lease is not beaten while a transaction has been in flight for longer than this: whoever is
/// stuck must be replaceable.
const TRANSACTION_MAX: Duration = Duration::from_secs(30);
/// How long a shutdown waits for transactions in flight; then they are rolled back. Below the
/// chassis' grace, so that the leases are released within it.
const DRAIN_MAX: Duration = Duration::from_secs(15);

/// A partition that is being worked on.
struct Shift {
    /// Ends the work after the transaction in flight.
    stop: CancellationToken,
    pulse: Pulse,
    task: AbortOnDropHandle<()>,
}

/// The leases of this process.
pub(crate) struct Keeper {
    place: Arc<Workplace>,
    shifts: BTreeMap<Partition, Shift>,
    watch: Watch,
    database_ready: Condition,
    beaten: Option<Instant>,
    /// Partitions whose worker failed here, and whose condition says so.
    failed: BTreeSet<Partition>,
}

impl Keeper {
    pub(crate) fn new(place: Arc<Workplace>) -> Self {
        Self {
            shifts: BTreeMap::new(),
            watch: Watch::new(place.owner.clone()),
            database_ready: place.readiness.condition("database"),
            beaten: None,
            failed: BTreeSet::new(),
            place,
        }
    }

    /// Works until shutdown begins, then finishes what is in flight and releases every lease.
    pub(crate) async fn keep(mut self, shutdown: Shutdown) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !shutdown.is_begun() {
            tokio::select! {
                _ = looks.tick() => {}
                () = shutdown.begun() => break,
            }
            self.look_after(false).await;
        }
        let give_up_at = Instant::now() + DRAIN_MAX;
        for shift in self.shifts.values() {
            shift.stop.cancel();
        }
        // A database that hangs may take up all of it, but no more.
        let _ = timeout_at(give_up_at, self.drain()).await;
        for partition in self.shifts.keys() {
            tracing::warn!(%partition, "the transaction in flight did not end within {DRAIN_MAX:?} and is abandoned");
        }
        self.shifts.clear();
        if let Err(error) = within(self.sign_off()).await {
            tracing::warn!(%error, "leases could not be released: they are up in a few seconds");
        }
    }

    async fn drain(&mut self) {
        // Not counted from here on, so that others take what is released one by one.
        if let Err(error) = within(self.leave()).await {
            tracing::warn!(%error, "the other workers could not be told of the shutdown");
        }
        // Beaten until the end: a lease that seems dead would be fought over meanwhile.
        while !self.shifts.is_empty() {
            self.look_after(true).await;
            tokio::time::sleep(LOOK_EVERY / 10).await;
        }
    }

    async fn look_after(&mut self, draining: bool) {
        self.reap().await;
        for (partition, shift) in &self.shifts {
            meter::delay(*partition, shift.pulse.delay());
            meter::events_delay(*partition, shift.pulse.events_delay());
        }
        match within(self.round(draining)).await {
            Ok(()) => self.database_ready.ready(),
            Err(error) => self.database_ready.not_ready(error.to_string()),
        }
    }

    /// Releases the leases of work that has ended.
    async fn reap(&mut self) {
        let ended: Vec<_> = self
            .shifts
            .iter()
            .filter(|(_, shift)| shift.task.is_finished())
            .map(|(partition, _)| *partition)
            .collect();
        if ended.is_empty() {
            return;
        }
        for partition in &ended {
            let partition = *partition;
            let shift = self.shifts.remove(&partition).expect("it was just there");
            if let Err(error) = shift.task.await {
                tracing::error!(%partition, %error, "the partition's worker failed");
                // Until one that is started anew gets further, here or elsewhere.
                self.condition(partition)
                    .not_ready(format!("its worker failed: {error}"));
                self.failed.insert(partition);
            }
            meter::lease_held(partition, false);
            tracing::info!(%partition, "stopped working on the partition");
        }
        // One statement for all of them: each would wait as long for a database that hangs. Not
        // released is up a few seconds later.
        if let Err(error) = within(self.release(&ended)).await {
            tracing::warn!(partitions = ?ended, %error, "leases could not be released");
        }
    }

    async fn round(&mut self, draining: bool) -> Result<(), DatabaseError> {
        let client = self.place.database.pooled().await?;
        if self.beaten.is_none_or(|last| last.elapsed() >= BEAT_EVERY) {
            self.beat(&client, draining).await?;
            self.beaten = Some(Instant::now());
        }
        let look = look(&client).await?;
        let now = Instant::now();
        self.watch.note(&look, now);
        self.stop_what_is_lost(&look);
        self.forget_what_is_elsewhere(&look);
        if draining {
            return Ok(());
        }
        let mine: BTreeSet<_> = self
            .shifts
            .iter()
            .filter(|(_, shift)| !shift.stop.is_cancelled())
            .map(|(partition, _)| *partition)
            .collect();
        let plan = self.watch.plan(&look, &mine, now);
        for partition in plan.hand_over {
            tracing::info!(%partition, "handing the partition over: another worker has less");
            self.shifts[&partition].stop.cancel();
        }
        for lease in plan.take {
            if !self.shifts.contains_key(&lease.partition)
                && take(&client, &lease, &self.place.owner).await?
            {
                self.start(&lease);
            }
        }
        Ok(())
    }

    async fn beat(&self, client: &Client, draining: bool) -> Result<(), DatabaseError> {
        let postgres = DatabaseError::doing("beating the leases");
        let beating: Vec<i32> = self
            .shifts
            .iter()
            .filter(|(_, shift)| {
                shift
                    .pulse
                    .transaction_age()
                    .is_none_or(|age| age <= TRANSACTION_MAX)
            })
            .map(|(partition, _)| i32::from(partition.0))
            .collect();
        if !draining {
            client
                .execute(
                    "insert into workers (owner, beaten_at) values ($1, clock_timestamp()) \
                     on conflict (owner) do update set beaten_at = excluded.beaten_at",
                    &[&self.place.owner],
                )
                .await
                .map_err(&postgres)?;
        }
        if !beating.is_empty() {
            client
                .execute(
                    "update leases set beaten_at = clock_timestamp() \
                     where owner = $1 and partition = any($2)",
                    &[&self.place.owner, &beating],
                )
                .await
                .map_err(&postgres)?;
        }
        Ok(())
    }

    fn stop_what_is_lost(&self, look: &Look) {
        for lease in &look.leases {
            if lease.owner.as_deref() == Some(&self.place.owner) {
                continue;
            }
            if let Some(shift) = self.shifts.get(&lease.partition)
                && !shift.stop.is_cancelled()
            {
                tracing::warn!(partition = %lease.partition, owner = lease.owner, "the lease is lost");
                shift.stop.cancel();
            }
        }
    }

    /// What failed here and is another's now is the other's to tell.
    fn forget_what_is_elsewhere(&mut self, look: &Look) {
        for lease in &look.leases {
            let elsewhere = lease
                .owner
                .as_ref()
                .is_some_and(|it| *it != self.place.owner);
            if elsewhere && self.failed.remove(&lease.partition) {
                self.condition(lease.partition).ready();
            }
        }
    }

    fn condition(&self, partition: Partition) -> Condition {
        let name = format!("partition-{:03}", partition.0);
        self.place.readiness.condition(name)
    }

    fn start(&mut self, lease: &Lease) {
        let partition = lease.partition;
        // The new worker tells from here on.
        self.failed.remove(&partition);
        if let Some(owner) = &lease.owner {
            meter::takeover();
            tracing::warn!(%partition, owner, "took the lease from an owner who stopped beating");
        } else {
            tracing::info!(%partition, "took the lease");
        }
        meter::lease_held(partition, true);
        let stop = CancellationToken::new();
        let pulse = Pulse::default();
        let task = {
            let (place, stop, pulse) = (Arc::clone(&self.place), stop.clone(), pulse.clone());
            tokio::spawn(Worker::new(place, partition, stop, pulse).work())
        };
        let shift = Shift {
            stop,
            pulse,
            task: AbortOnDropHandle::new(task),
        };
        self.shifts.insert(partition, shift);
    }

    async fn release(&self, partitions: &[Partition]) -> Result<(), DatabaseError> {
        let numbers: Vec<i32> = partitions.iter().map(|it| i32::from(it.0)).collect();
        let client = self.place.database.pooled().await?;
        client
            .execute(
                "update leases set owner = null where partition = any($1) and owner = $2",
                &[&numbers, &self.place.owner],
            )
            .await
            .map_err(DatabaseError::doing("releasing leases"))?;
        Ok(())
    }

    async fn sign_off(&self) -> Result<(), DatabaseError> {
        let client = self.place.database.pooled().await?;
        client
            .execute(
                "update leases set owner = null where owner = $1",
                &[&self.place.owner],
            )
            .await
            .map_err(DatabaseError::doing("releasing the leases"))?;
        Ok(())
    }

    async fn leave(&self) -> Result<(), DatabaseError> {
        let client = self.place.database.pooled().await?;
        client
            .execute(
                "delete from workers where owner = $1 or beaten_at < now() - interval '1 hour'",
                &[&self.place.owner],
            )
            .await
            .map_err(DatabaseError::doing("leaving the other workers"))?;
        Ok(())
    }
}

/// A connection that hangs must not keep the leases from being beaten over another.
async fn within<T>(
    round: impl Future<Output = Result<T, DatabaseError>>,
) -> Result<T, DatabaseError> {
    match timeout(ROUND_MAX, round).await {
        Ok(done) => done,
        Err(_) => Err(DatabaseError::Silent {
            doing: "looking after the leases",
            limit: ROUND_MAX,
        }),
    }
}

async fn look(client: &Client) -> Result<Look, DatabaseError> {
    let postgres = DatabaseError::doing("reading the leases");
    let leases = client.query(
        "select partition, owner, beaten_at from leases order by partition",
        &[],
    );
    let workers = client.query("select owner, beaten_at from workers", &[]);
    let (leases, workers) = tokio::try_join!(leases, workers).map_err(&postgres)?;
    if leases.is_empty() {
        return Err(DatabaseError::NotInstalled);
    }
    let leases = leases.iter().map(|row| Lease {
        partition: partition(row.get(0)),
        owner: row.get(1),
        beaten_at: row.get(2),
    });
    Ok(Look {
        leases: leases.collect(),
        workers: workers.iter().map(|row| (row.get(0), row.get(1))).collect(),
    })
}

/// Takes a lease as it was seen; false when somebody was faster.
async fn take(client: &Client, seen: &Lease, owner: &str) -> Result<bool, DatabaseError> {
    let taken = client
        .execute(
            "update leases set owner = $2, beaten_at = clock_timestamp() where partition = $1 \
             and owner is not distinct from $3 and beaten_at is not distinct from $4",
            &[
                &i32::from(seen.partition.0),
                &owner,
                &seen.owner,
                &seen.beaten_at,
            ],
        )
        .await
        .map_err(DatabaseError::doing("taking a lease"))?;
    Ok(taken == 1)
}

fn partition(number: i32) -> Partition {
    Partition(u8::try_from(number).expect("the table's check keeps it within 0 to 255"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Database;
    use crate::log::Log;
    use chassis::readiness::Readiness;
    use partners::Access;
    use tokio::sync::Semaphore;

    /// A keeper of workers that have ended in such a way; its log is nowhere.
    async fn keeper_of(ended: &[(Partition, bool)], database_url: &str) -> Keeper {
        let place = Workplace {
            log: Log::connect(
                &Access::by(&["nats://127.0.0.1:1".to_owned()]),
                "test",
                false,
            )
            .await
            .unwrap(),
            database: Database::new(database_url, None, "test").unwrap(),
            readiness: Readiness::new(),
            owner: "me".to_owned(),
            log_retain: Duration::from_secs(1),
            ride_events: false,
            event_batches: Semaphore::new(1),
        };
        let mut keeper = Keeper::new(Arc::new(place));
        for (partition, panics) in ended {
            let panics = *panics;
            let task = tokio::spawn(async move { assert!(!panics, "on purpose") });
            while !task.is_finished() {
                tokio::task::yield_now().await;
            }
            let shift = Shift {
                stop: CancellationToken::new(),
                pulse: Pulse::default(),
                task: AbortOnDropHandle::new(task),
            };
            keeper.shifts.insert(*partition, shift);
        }
        keeper
    }

    #[tokio::test]
    async fn a_hung_database_is_waited_for_once_however_many_partitions_have_ended() {
        // Takes connections and says nothing.
        let hung = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("postgres://test@{}/test", hung.local_addr().unwrap());
        let ended: Vec<_> = (0..8).map(|it| (Partition(it), false)).collect();
        let mut keeper = keeper_of(&ended, &url).await;
        let began = Instant::now();
        keeper.reap().await;
        assert!(began.elapsed() < 2 * ROUND_MAX, "{:?}", began.elapsed());
        assert!(keeper.shifts.is_empty());
    }

    fn owned_by(partition: Partition, owner: Option<&str>) -> Look {
        let lease = Lease {
            partition,
            owner: owner.map(str::to_owned),
            beaten_at: None,
        };
        Look {
            leases: vec![lease],
            ..Look::default()
        }
    }

    fn reason(keeper: &Keeper) -> Option<String> {
        let reasons = keeper.place.readiness.reasons().into_iter();
        reasons
            .filter(|it| it.condition == "partition-003")
            .map(|it| it.reason)
            .next()
    }

    #[tokio::test]
    async fn a_worker_that_failed_is_told_of_until_another_process_has_its_partition() {
        let partition = Partition(3);
        let url = "postgres://test@127.0.0.1:1/test";
        let mut keeper = keeper_of(&[(partition, true)], url).await;
        keeper.reap().await;
        for owner in [None, Some("me")] {
            keeper.forget_what_is_elsewhere(&owned_by(partition, owner));
            assert!(reason(&keeper).unwrap().contains("its worker failed"));
        }
        keeper.forget_what_is_elsewhere(&owned_by(partition, Some("other")));
        assert_eq!(reason(&keeper), None);
    }
}
