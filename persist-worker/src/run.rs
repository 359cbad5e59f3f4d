//! `persist-worker run`.

use std::sync::Arc;
use std::time::Duration;

use chassis::readiness::Readiness;
use chassis::shutdown::Shutdown;
use contract::Partition;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use crate::args::RunArgs;
use crate::backoff::Backoff;
use crate::database::{Database, DatabaseError, check_settings, warn_of_superuser};
use crate::keeper::Keeper;
use crate::log::{Log, LogError};
use crate::relay::{BATCHES_IN_FLIGHT_MAX, room};
use crate::worker::Workplace;
use crate::{meter, upkeep};

/// How often the log is asked whether it is there; ten times as often while it is not.
const LOG_LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the log's answers to workers are addressed to: no other role may listen there.
const INBOX: &str = "_INBOX_worker";

/// The worker cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The log's address is no address.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The database's address is no address, or it is not fit for use.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// Persists until `shutdown` begins, then finishes what is in flight and releases its leases.
///
/// Log and database may be away, at the start as later: `readiness` says so, in the conditions
/// `log`, `database` and one per held partition, for example `partition-003`.
///
/// # Errors
/// [`RunError`] when an address cannot be read, or when the database runs with `fsync` or
/// `synchronous_commit` off.
///
/// # Cancel safety
/// Dropping it ends everything at once, as a crash would: transactions in flight roll back, and
/// the leases are up a few seconds later.
pub async fn run(args: RunArgs, readiness: Readiness, shutdown: Shutdown) -> Result<(), RunError> {
    meter::describe();
    let owner = owner(args.owner.as_deref());
    let places = &args.places;
    let ca = places.database_tls_ca.as_deref();
    let database = Database::new(&places.database_url, ca, "weir persist-worker")?;
    let log = Log::connect(&places.log(INBOX), &owner, false).await?;
    let place = Arc::new(Workplace {
        log,
        database,
        readiness,
        owner,
        log_retain: args.log_retain,
        ride_events: args.ride_events,
        event_batches: Semaphore::new(BATCHES_IN_FLIGHT_MAX),
    });
    let _log_watch = AbortOnDropHandle::new(tokio::spawn(watch_log(Arc::clone(&place))));
    tokio::select! {
        fit = wait_for_database(&place) => fit?,
        () = shutdown.begun() => return Ok(()),
    }
    tracing::info!(owner = place.owner, "working");
    let _upkeep = AbortOnDropHandle::new(tokio::spawn(upkeep::run(Arc::clone(&place))));
    let _room = AbortOnDropHandle::new(tokio::spawn(room::keep(
        Arc::clone(&place),
        args.events_keep_min,
    )));
    Keeper::new(place).keep(shutdown).await;
    Ok(())
}

/// A name that no other process has, nor this one after a restart: a lease is never mistaken for
/// one's own.
fn owner(name: Option<&str>) -> String {
    let name = name.map_or_else(|| format!("worker-{}", std::process::id()), str::to_owned);
    let random = uuid::Uuid::now_v7().simple().to_string();
    format!("{name}.{}", &random[24..])
}

/// Waits until the database answers; refuses one whose commits are not durable.
async fn wait_for_database(place: &Workplace) -> Result<(), DatabaseError> {
    let condition = place.readiness.condition("database");
    let mut backoff = Backoff::new();
    loop {
        let looked = async {
            let client = place.database.pooled().await?;
            check_settings(&client).await?;
            warn_of_superuser(&client).await
        };
        match looked.await {
            Ok(()) => return Ok(()),
            Err(error @ DatabaseError::Unsafe { .. }) => return Err(error),
            Err(error) => condition.not_ready(error.to_string()),
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// Says whether the log answers, for ever. Partitions notice by themselves; this is for people.
async fn watch_log(place: Arc<Workplace>) {
    let condition = place.readiness.condition("log");
    loop {
        let pause = if condition.is_ready() {
            LOG_LOOK_EVERY
        } else {
            LOG_LOOK_EVERY / 10
        };
        tokio::time::sleep(pause).await;
        if place.log.is_connected() {
            // Any partition will do, and every installation has this one.
            match place.log.stream_info(Partition(0)).await {
                Ok(_) => condition.ready(),
                Err(error) => condition.not_ready(error.to_string()),
            }
        } else {
            condition.not_ready("no connection to the log");
        }
    }
}
