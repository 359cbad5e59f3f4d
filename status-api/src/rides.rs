//! Statements that read rides.
//!
//! Each reads one table by columns that a view over it can have as well, and names the partner.

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::instant::Micros;
use crate::keyset::RidePlace;
use crate::ledger::{Ledger, LedgerError};
use crate::observe::Query;

/// What `read_ride` takes by name.
macro_rules! ride_columns {
    () => {
        "id, user_id, vehicle_model_id, package_id, travel_type_id, from_area_id, to_area_id,
         from_city_id, to_city_id, from_date, to_date, online_booking, mobile_site_booking,
         booking_created, from_lat, from_long, to_lat, to_long, car_cancellation,
         extra::text as extra, tracking_id, version, created_at, updated_at"
    };
}

/// A ride as stored. Fields as in the table.
pub(crate) struct StoredRide {
    pub(crate) id: i64,
    pub(crate) user_id: i64,
    pub(crate) vehicle_model_id: i32,
    pub(crate) package_id: Option<i32>,
    pub(crate) travel_type_id: i32,
    pub(crate) from_area_id: Option<i32>,
    pub(crate) to_area_id: Option<i32>,
    pub(crate) from_city_id: Option<i32>,
    pub(crate) to_city_id: Option<i32>,
    pub(crate) from_date: Micros,
    pub(crate) to_date: Option<Micros>,
    pub(crate) online_booking: bool,
    pub(crate) mobile_site_booking: bool,
    pub(crate) booking_created: Micros,
    pub(crate) from_lat: Option<f64>,
    pub(crate) from_long: Option<f64>,
    pub(crate) to_lat: Option<f64>,
    pub(crate) to_long: Option<f64>,
    pub(crate) car_cancellation: bool,
    /// JSON text.
    pub(crate) extra: Option<String>,
    pub(crate) tracking_id: Uuid,
    pub(crate) version: i32,
    pub(crate) created_at: Micros,
    pub(crate) updated_at: Micros,
}

/// Which rides to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RidesAsked {
    pub(crate) user_id: i64,
    /// Inclusive.
    pub(crate) from: Option<Micros>,
    /// Exclusive.
    pub(crate) to: Option<Micros>,
}

impl Ledger {
    /// A partner's ride.
    pub(crate) async fn ride(
        &self,
        partner_id: i32,
        id: i64,
    ) -> Result<Option<StoredRide>, LedgerError> {
        const SQL: &str = concat!(
            "select ",
            ride_columns!(),
            " from public.status_rides where partner_id = $1 and id = $2"
        );
        let statement = sqlx::query(SQL).bind(partner_id).bind(id);
        let rows = self.read(Query::Ride, statement, read_ride).await?;
        Ok(rows.into_iter().next())
    }

    /// At most `limit` of a user's rides behind `place`, by the time of the journey: a stretch of
    /// the index `rides_by_user`, read in its order.
    pub(crate) async fn rides(
        &self,
        partner_id: i32,
        asked: &RidesAsked,
        place: RidePlace,
        limit: i64,
    ) -> Result<Vec<StoredRide>, LedgerError> {
        const SQL: &str = concat!(
            "select ",
            ride_columns!(),
            " from public.status_rides
             where partner_id = $1 and user_id = $2 and (from_date, id) > ($3, $4) and from_date < $5
             order by from_date, id limit $6"
        );
        let statement = sqlx::query(SQL)
            .bind(partner_id)
            .bind(asked.user_id)
            .bind(place.from_date)
            .bind(place.id)
            .bind(asked.to.unwrap_or(Micros::MAX))
            .bind(limit);
        self.read(Query::Rides, statement, read_ride).await
    }
}

fn read_ride(row: &PgRow) -> Result<StoredRide, sqlx::Error> {
    Ok(StoredRide {
        id: row.try_get("id")?,
        user_id: row.try_get("user_id")?,
        vehicle_model_id: row.try_get("vehicle_model_id")?,
        package_id: row.try_get("package_id")?,
        travel_type_id: row.try_get("travel_type_id")?,
        from_area_id: row.try_get("from_area_id")?,
        to_area_id: row.try_get("to_area_id")?,
        from_city_id: row.try_get("from_city_id")?,
        to_city_id: row.try_get("to_city_id")?,
        from_date: row.try_get("from_date")?,
        to_date: row.try_get("to_date")?,
        online_booking: row.try_get("online_booking")?,
        mobile_site_booking: row.try_get("mobile_site_booking")?,
        booking_created: row.try_get("booking_created")?,
        from_lat: row.try_get("from_lat")?,
        from_long: row.try_get("from_long")?,
        to_lat: row.try_get("to_lat")?,
        to_long: row.try_get("to_long")?,
        car_cancellation: row.try_get("car_cancellation")?,
        extra: row.try_get("extra")?,
        tracking_id: row.try_get("tracking_id")?,
        version: row.try_get("version")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}
