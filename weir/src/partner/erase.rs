//! `weir partner erase`: what is kept of a person or a booking, removed.

use std::path::PathBuf;
use std::time::Duration;

use chassis::units::parse_duration;
use jiff::Timestamp;
use partners::{Bucket, Document};
use serde_json::json;
use sqlx::{Connection as _, PgConnection, PgTransaction};

use super::find::find;
use super::place::{Database, Log, Way};
use super::{PartnerError, print};
use fault::{hint, words};

mod fault;

/// Longest wait for a connection to the database.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for rows that a worker is writing, which has them for milliseconds.
const LOCK_WAIT: &str = "set local lock_timeout = '10s'";
/// `requests.kind` of rides.
const RIDE: i16 = 1;
/// `requests.kind` of couriers.
const COURIER: i16 = 2;

/// Remove what is kept of a user's rides, of one ride, or of a deleted courier.
///
/// Removed, in one transaction: the rows of the table rides, and what their events in the outbox say;
/// of a courier its name, vehicle type, phone and attributes. The ledger keeps that records with these
/// numbers were accepted and how they ended, without the sentences; it is searched from end to end,
/// which takes seconds per ten million rows. It may be repeated.
///
/// Records that were accepted and are not applied yet are applied afterwards: wait for their outcomes
/// first. The log's copy ends by itself, see --log-retain; ride events on WEIR_EVENTS, if the workers
/// send them, and couriers' events end with --events-retain.
///
/// Exit codes: 0, it is gone, or was gone before; 1, nothing was removed, and why is on stderr: also
/// when the partner never had such a ride or courier; 64, the command line cannot be used.
#[derive(clap::Args, Debug)]
pub(super) struct Erase {
    /// Its name or id
    partner: String,

    #[command(flatten)]
    whose: Whose,

    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,

    /// What the workers' --log-retain is, to say when the log's copy ends
    #[arg(long, env = "WEIR_LOG_RETAIN", value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    log_retain: Duration,

    #[command(flatten)]
    database: Database,
}

#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
struct Whose {
    /// All rides of this user
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    user_id: Option<i64>,

    /// This ride
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    ride_id: Option<i64>,

    /// This courier, which must be deleted
    #[arg(long, value_name = "ID")]
    courier_id: Option<String>,
}

/// It was not erased.
#[derive(Debug, thiserror::Error)]
pub(super) enum EraseError {
    #[error("cannot connect to the database: {}. {}. Nothing was removed", words(.source), hint(.source, .from.as_ref()))]
    Connect {
        source: sqlx::Error,
        from: Option<PathBuf>,
    },
    #[error("the database refused: {}. {}. Nothing was removed", words(.0), hint(.0, None))]
    Refused(#[from] sqlx::Error),
    #[error(
        "the connection to the database broke at the end: {}. It is not known whether everything was removed \
         or nothing: run the same again, which does no harm", words(.0)
    )]
    Unknown(#[source] sqlx::Error),
    #[error(
        "{partner} has no ride {id}, and its ledger knows of none: mind the number, and whose it is. \
         Nothing was removed"
    )]
    NoRide { partner: String, id: i64 },
    #[error(
        "{partner} has no courier {id} and never had: mind the id, upper and lower case too, and whose it is. \
         Nothing was removed"
    )]
    NoCourier { partner: String, id: String },
    #[error(
        "courier {id} of {partner} is not deleted: DELETE /v1/couriers/{id} with a key of the partner's first, \
         and wait for the outcome. Nothing was removed"
    )]
    CourierLives { partner: String, id: String },
}

/// What was removed, in rows.
#[derive(Default, PartialEq, Eq, Debug)]
pub(super) struct Erased {
    rides: u64,
    couriers: u64,
    ledger_details: u64,
    outbox: u64,
}

impl Erase {
    /// Erases and says what.
    pub(super) async fn run(
        &self,
        log: &Log,
        as_json: bool,
        now: Timestamp,
    ) -> Result<(), PartnerError> {
        // Said before anything is asked of the log.
        let way = self.database.way(log);
        let bucket = Bucket::open(&log.connect().await?).await?;
        let known = bucket.list().await?;
        let partner = find(&known, &self.partner)?;
        let erased = self.erase(&way, partner).await?;
        print(&self.report(&erased, as_json, now))
    }

    async fn erase(&self, way: &Way, partner: &Document) -> Result<Erased, EraseError> {
        let connecting = PgConnection::connect_with(&way.options);
        let connected = tokio::time::timeout(CONNECT_WAIT, connecting).await;
        let connected = connected.unwrap_or_else(|_| {
            let silence = format!("no answer within {CONNECT_WAIT:?}");
            let silence = std::io::Error::new(std::io::ErrorKind::TimedOut, silence);
            Err(sqlx::Error::Io(silence))
        });
        let mut connection = connected.map_err(|source| EraseError::Connect {
            source,
            from: way.from.clone(),
        })?;
        let mut transaction = connection.begin().await?;
        let erased = self.remove(&mut transaction, partner).await?;
        if self.dry_run {
            transaction.rollback().await?;
        } else {
            transaction.commit().await.map_err(|error| match error {
                sqlx::Error::Database(_) => EraseError::Refused(error),
                error => EraseError::Unknown(error),
            })?;
        }
        // The server has answered everything; how the connection ends does not matter.
        let _ = connection.close().await;
        Ok(erased)
    }

    async fn remove(
        &self,
        transaction: &mut PgTransaction<'_>,
        partner: &Document,
    ) -> Result<Erased, EraseError> {
        sqlx::query(LOCK_WAIT).execute(&mut **transaction).await?;
        let Whose {
            user_id,
            ride_id,
            courier_id,
        } = &self.whose;
        if let Some(courier_id) = courier_id {
            return courier(transaction, partner, courier_id).await;
        }
        if let Some(user_id) = user_id {
            let of_user =
                "delete from rides where partner_id = $1 and user_id = $2 returning id::text";
            let deleting = sqlx::query_scalar(of_user).bind(partner.id).bind(user_id);
            let ids: Vec<String> = deleting.fetch_all(&mut **transaction).await?;
            return rides(transaction, partner.id, ids.len(), &ids).await;
        }
        let ride_id = ride_id.expect("one of the three is required");
        let one = "delete from rides where partner_id = $1 and id = $2";
        let deleting = sqlx::query(one).bind(partner.id).bind(ride_id);
        let deleted = deleting.execute(&mut **transaction).await?.rows_affected();
        // Also of a ride that is gone already: a sentence may have been written since.
        let ids = [ride_id.to_string()];
        let count = usize::try_from(deleted).expect("one at most");
        let erased = rides(transaction, partner.id, count, &ids).await?;
        if erased == Erased::default() && !is_known(transaction, partner.id, &ids[0]).await? {
            return Err(EraseError::NoRide {
                partner: partner.name.clone(),
                id: ride_id,
            });
        }
        Ok(erased)
    }
}

async fn rides(
    transaction: &mut PgTransaction<'_>,
    partner_id: i32,
    count: usize,
    ids: &[String],
) -> Result<Erased, EraseError> {
    let ledger_details = details(transaction, partner_id, RIDE, ids).await?;
    let untold = sqlx::query(
        "delete from outbox where partner_id = $1 and event like 'ride\\_%' \
         and body::json -> 'data' ->> 'id' = any($2)",
    );
    let untold = untold.bind(partner_id).bind(ids);
    Ok(Erased {
        rides: count as u64,
        ledger_details,
        outbox: untold.execute(&mut **transaction).await?.rows_affected(),
        ..Erased::default()
    })
}

/// Whether a record of that ride's was ever accepted, as far as the ledger reaches.
async fn is_known(
    transaction: &mut PgTransaction<'_>,
    partner_id: i32,
    ride_id: &str,
) -> Result<bool, EraseError> {
    let asking = sqlx::query_scalar(
        "select exists (select from requests \
                        where partner_id = $1 and kind = $2 and resource_id = $3)",
    );
    let asking = asking.bind(partner_id).bind(RIDE).bind(ride_id);
    Ok(asking.fetch_one(&mut **transaction).await?)
}

async fn courier(
    transaction: &mut PgTransaction<'_>,
    partner: &Document,
    courier_id: &str,
) -> Result<Erased, EraseError> {
    let asking = sqlx::query_scalar(
        "select deleted_at is not null from couriers \
         where partner_id = $1 and courier_id = $2 for update",
    );
    let asking = asking.bind(partner.id).bind(courier_id);
    let found: Option<bool> = asking.fetch_optional(&mut **transaction).await?;
    let (name, id) = (partner.name.clone(), courier_id.to_owned());
    match found {
        None => return Err(EraseError::NoCourier { partner: name, id }),
        Some(false) => return Err(EraseError::CourierLives { partner: name, id }),
        Some(true) => {}
    }
    let erasing = sqlx::query(
        "update couriers set name = 'erased', vehicle_type = null, phone = null, \
         attributes = null where partner_id = $1 and courier_id = $2",
    );
    let erasing = erasing.bind(partner.id).bind(courier_id);
    let couriers = erasing.execute(&mut **transaction).await?.rows_affected();
    let ledger_details = details(transaction, partner.id, COURIER, &[id]).await?;
    let untold = sqlx::query(
        "delete from outbox where partner_id = $1 and event like 'courier\\_%' \
         and body::json -> 'data' ->> 'courier_id' = $2",
    );
    let untold = untold.bind(partner.id).bind(courier_id);
    Ok(Erased {
        couriers,
        ledger_details,
        outbox: untold.execute(&mut **transaction).await?.rows_affected(),
        ..Erased::default()
    })
}

/// The ledger's sentences about these resources. Its rows stay: they are what tells a chunk that
/// the log stored twice from a new one, and they say nothing of a person.
async fn details(
    transaction: &mut PgTransaction<'_>,
    partner_id: i32,
    kind: i16,
    ids: &[String],
) -> Result<u64, EraseError> {
    let clearing = sqlx::query(
        "update requests set detail = null where partner_id = $1 and kind = $2 \
         and resource_id = any($3) and detail is not null",
    );
    let clearing = clearing.bind(partner_id).bind(kind).bind(ids);
    Ok(clearing.execute(&mut **transaction).await?.rows_affected())
}

impl Erase {
    /// What to print.
    fn report(&self, erased: &Erased, as_json: bool, now: Timestamp) -> String {
        let log_until = partners::later(now, self.log_retain);
        if as_json {
            return json!({
                "dry_run": self.dry_run,
                "rides": erased.rides,
                "couriers": erased.couriers,
                "ledger_details": erased.ledger_details,
                "outbox": erased.outbox,
                "log_until": log_until.to_string(),
            })
            .to_string();
        }
        let verb = match (*erased == Erased::default(), self.dry_run) {
            (true, _) => "nothing is left to remove",
            (false, true) => "would be removed",
            (false, false) => "removed",
        };
        format!(
            "{verb}:\n  rides           {}\n  couriers        {} (name, vehicle type, phone, attributes)\n  \
             ledger          {} sentences; its rows stay, without them\n  outbox          {} events\n\
             the log's copy of what was committed by now ends by {log_until}, if the workers' --log-retain is {:?}",
            erased.rides, erased.couriers, erased.ledger_details, erased.outbox, self.log_retain,
        )
    }
}
