//! Statements that read couriers.
//!
//! Each reads one table by columns that a view over it can have as well, and names the partner.
//! Deleted couriers are rows that nobody sees.

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::instant::Micros;
use crate::keyset::CourierPlace;
use crate::ledger::{Ledger, LedgerError};
use crate::observe::Query;

/// What `read_courier` takes by name.
macro_rules! courier_columns {
    () => {
        "courier_id, name, max_capacity, available_capacity, vehicle_type, phone,
         attributes::text as attributes, tracking_id, version, created_at, updated_at"
    };
}

/// A courier as stored. Fields as in the table.
pub(crate) struct StoredCourier {
    pub(crate) courier_id: String,
    pub(crate) name: String,
    /// Litres.
    pub(crate) max_capacity: i32,
    /// Litres.
    pub(crate) available_capacity: i32,
    pub(crate) vehicle_type: Option<String>,
    pub(crate) phone: Option<String>,
    /// JSON text.
    pub(crate) attributes: Option<String>,
    pub(crate) tracking_id: Uuid,
    pub(crate) version: i32,
    pub(crate) created_at: Micros,
    pub(crate) updated_at: Micros,
}

/// Which couriers to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CouriersAsked {
    /// Litres, from 0.
    pub(crate) min_available: i32,
    pub(crate) vehicle_type: Option<String>,
}

impl Ledger {
    /// A partner's courier, unless it is deleted.
    pub(crate) async fn courier(
        &self,
        partner_id: i32,
        courier_id: &str,
    ) -> Result<Option<StoredCourier>, LedgerError> {
        const SQL: &str = concat!(
            "select ",
            courier_columns!(),
            " from public.status_couriers where partner_id = $1 and courier_id = $2 and deleted_at is null"
        );
        let statement = sqlx::query(SQL).bind(partner_id).bind(courier_id);
        let rows = self.read(Query::Courier, statement, read_courier).await?;
        Ok(rows.into_iter().next())
    }

    /// At most `limit` of a partner's couriers behind `place`, the tightest fit first: a stretch
    /// of the index `couriers_available`, or of `couriers_available_by_type`, read in its order.
    pub(crate) async fn couriers(
        &self,
        partner_id: i32,
        vehicle_type: Option<&str>,
        place: &CourierPlace,
        limit: i64,
    ) -> Result<Vec<StoredCourier>, LedgerError> {
        // Two statements: a condition that may be absent would be no condition of an index.
        const OF_ANY_TYPE: &str = concat!(
            "select ",
            courier_columns!(),
            " from public.status_couriers
             where partner_id = $1 and deleted_at is null and (available_capacity, courier_id) > ($2, $3)
             order by available_capacity, courier_id limit $4"
        );
        const OF_ONE_TYPE: &str = concat!(
            "select ",
            courier_columns!(),
            " from public.status_couriers
             where partner_id = $1 and deleted_at is null and (available_capacity, courier_id) > ($2, $3)
                 and vehicle_type = $5
             order by available_capacity, courier_id limit $4"
        );
        let sql = match vehicle_type {
            None => OF_ANY_TYPE,
            Some(_) => OF_ONE_TYPE,
        };
        let mut statement = sqlx::query(sql)
            .bind(partner_id)
            .bind(place.available_capacity)
            .bind(&place.courier_id)
            .bind(limit);
        if let Some(vehicle_type) = vehicle_type {
            statement = statement.bind(vehicle_type);
        }
        self.read(Query::Couriers, statement, read_courier).await
    }
}

fn read_courier(row: &PgRow) -> Result<StoredCourier, sqlx::Error> {
    Ok(StoredCourier {
        courier_id: row.try_get("courier_id")?,
        name: row.try_get("name")?,
        max_capacity: row.try_get("max_capacity")?,
        available_capacity: row.try_get("available_capacity")?,
        vehicle_type: row.try_get("vehicle_type")?,
        phone: row.try_get("phone")?,
        attributes: row.try_get("attributes")?,
        tracking_id: row.try_get("tracking_id")?,
        version: row.try_get("version")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}
