//! `weir partner erase`: what is kept of a person or a booking, removed.

use std::time::Duration;

use chassis::units::parse_duration;
use jiff::Timestamp;
use serde_json::json;
use tokio_postgres::{Client, NoTls, Transaction};

/// Remove what is kept of a user's rides, of one ride, or of a deleted courier.
///
/// Removed: the rows of the table rides, and what their events in the outbox say; of a courier its
/// name, vehicle type, phone and attributes. The ledger keeps that records with these numbers were
/// accepted and how they ended, without the sentences. The log's copy ends by itself, see
/// --log-retain; ride events on WEIR_EVENTS, if the workers send them, end with --events-retain.
#[derive(clap::Args, Debug)]
pub(super) struct Erase {
    /// Its name or id
    pub(super) partner: String,

    #[command(flatten)]
    whose: Whose,

    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,

    /// What the workers' --log-retain is, to say when the log's copy ends
    #[arg(long, env = "WEIR_LOG_RETAIN", value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    log_retain: Duration,

    /// The database, as its owner [default: that of the installation that `weir up` runs here]
    #[arg(
        long,
        env = "WEIR_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(super) database_url: Option<String>,
}

#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
struct Whose {
    /// All rides of this user
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    user_id: Option<i64>,

    /// This ride
    #[arg(long, value_name = "ID")]
    ride_id: Option<i64>,

    /// This courier, which must be deleted
    #[arg(long, value_name = "ID")]
    courier_id: Option<String>,
}

/// It was not erased; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum EraseError {
    #[error("the database does not answer, or refuses: {0}")]
    Database(#[from] tokio_postgres::Error),
    #[error("the partner has no such courier")]
    NoCourier,
    #[error("the courier is not deleted: DELETE /v1/couriers/ID first, and wait for its outcome")]
    CourierLives,
}

/// What was removed, in rows.
#[derive(Default, Debug)]
pub(super) struct Erased {
    rides: u64,
    couriers: u64,
    ledger_details: u64,
    outbox: u64,
}

/// Erases in one transaction.
pub(super) async fn erase(
    database_url: &str,
    partner_id: i32,
    erase: &Erase,
) -> Result<Erased, EraseError> {
    let (mut client, connection) = tokio_postgres::connect(database_url, NoTls).await?;
    let connection = tokio::spawn(connection);
    let erased = in_transaction(&mut client, partner_id, erase).await;
    drop(client);
    // The server has answered everything; how the connection ends does not matter.
    let _ = connection.await;
    erased
}

async fn in_transaction(
    client: &mut Client,
    partner_id: i32,
    erase: &Erase,
) -> Result<Erased, EraseError> {
    let transaction = client.transaction().await?;
    let whose = &erase.whose;
    let erased = match (whose.user_id, whose.ride_id, &whose.courier_id) {
        (Some(user_id), _, _) => {
            let of_user =
                "delete from rides where partner_id = $1 and user_id = $2 returning id::text";
            rides(&transaction, of_user, partner_id, user_id).await?
        }
        (_, Some(ride_id), _) => {
            let one = "delete from rides where partner_id = $1 and id = $2 returning id::text";
            rides(&transaction, one, partner_id, ride_id).await?
        }
        (_, _, Some(courier_id)) => courier(&transaction, partner_id, courier_id).await?,
        (None, None, None) => unreachable!("one of them is required"),
    };
    if erase.dry_run {
        transaction.rollback().await?;
    } else {
        transaction.commit().await?;
    }
    Ok(erased)
}

async fn rides(
    transaction: &Transaction<'_>,
    delete: &str,
    partner_id: i32,
    id: i64,
) -> Result<Erased, EraseError> {
    let rows = transaction.query(delete, &[&partner_id, &id]).await?;
    let ids: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(Erased {
        rides: rows.len() as u64,
        ledger_details: details(transaction, partner_id, 1, &ids).await?,
        outbox: transaction
            .execute(
                "delete from outbox where partner_id = $1 and event like 'ride\\_%' \
                 and body::json -> 'data' ->> 'id' = any($2)",
                &[&partner_id, &ids],
            )
            .await?,
        ..Erased::default()
    })
}

async fn courier(
    transaction: &Transaction<'_>,
    partner_id: i32,
    courier_id: &str,
) -> Result<Erased, EraseError> {
    let row = transaction
        .query_opt(
            "select deleted_at is not null from couriers \
             where partner_id = $1 and courier_id = $2 for update",
            &[&partner_id, &courier_id],
        )
        .await?
        .ok_or(EraseError::NoCourier)?;
    if !row.get::<_, bool>(0) {
        return Err(EraseError::CourierLives);
    }
    let couriers = transaction
        .execute(
            "update couriers set name = 'erased', vehicle_type = null, phone = null, \
             attributes = null where partner_id = $1 and courier_id = $2",
            &[&partner_id, &courier_id],
        )
        .await?;
    let ids = [courier_id.to_owned()];
    Ok(Erased {
        couriers,
        ledger_details: details(transaction, partner_id, 2, &ids).await?,
        outbox: transaction
            .execute(
                "delete from outbox where partner_id = $1 and event like 'courier\\_%' \
                 and body::json -> 'data' ->> 'courier_id' = $2",
                &[&partner_id, &courier_id],
            )
            .await?,
        ..Erased::default()
    })
}

/// The ledger's sentences about these resources. Its rows stay: they are what tells a chunk that
/// the log stored twice from a new one, and they say nothing of a person.
async fn details(
    transaction: &Transaction<'_>,
    partner_id: i32,
    kind: i16,
    ids: &[String],
) -> Result<u64, EraseError> {
    let cleared = transaction
        .execute(
            "update requests set detail = null where partner_id = $1 and kind = $2 \
             and resource_id = any($3) and detail is not null",
            &[&partner_id, &kind, &ids],
        )
        .await?;
    Ok(cleared)
}

impl Erase {
    /// What to print.
    pub(super) fn report(&self, erased: &Erased, as_json: bool, now: Timestamp) -> String {
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
        let verb = if self.dry_run {
            "would be removed"
        } else {
            "removed"
        };
        format!(
            "{verb}:\n  rides           {}\n  couriers        {} (name, vehicle type, phone, attributes)\n  \
             ledger          {} sentences; its rows stay, without them\n  outbox          {} events\n\
             the log's copy of what was committed by now ends by {log_until}, if the workers' --log-retain is {:?}",
            erased.rides, erased.couriers, erased.ledger_details, erased.outbox, self.log_retain,
        )
    }
}
