//! `GET /v1/rides/{id}` and `GET /v1/rides`: rides as they are stored.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Shared};
use axum::http::HeaderMap;
use axum::response::Response;
use contract::Problem;
use partners::Partner;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::answer::Refusal;
use crate::api::State;
use crate::keyset::RidePlace;
use crate::query::{self, Parameters, Resource, Rides};
use crate::rides::StoredRide;
use crate::routes::page;
use crate::{settling, tags};

pub(crate) const ONE: &str = "/v1/rides/{id}";
pub(crate) const MANY: &str = "/v1/rides";

/// All members are always there.
#[derive(Serialize)]
struct Ride {
    id: i64,
    user_id: i64,
    vehicle_model_id: i32,
    package_id: Option<i32>,
    travel_type_id: i32,
    from_area_id: Option<i32>,
    to_area_id: Option<i32>,
    from_city_id: Option<i32>,
    to_city_id: Option<i32>,
    from_date: String,
    to_date: Option<String>,
    online_booking: bool,
    mobile_site_booking: bool,
    booking_created: String,
    from_lat: Option<f64>,
    from_long: Option<f64>,
    to_lat: Option<f64>,
    to_long: Option<f64>,
    car_cancellation: bool,
    extra: Option<Box<RawValue>>,
    tracking_id: Uuid,
    version: i32,
    created_at: String,
    updated_at: String,
}

pub(crate) async fn get(
    Shared(state): Shared<State>,
    Extension(partner): Extension<Arc<Partner>>,
    path: Result<Path<String>, PathRejection>,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let not_found = || Refusal::new(Problem::NotFound, "no ride of yours has this id");
    let Resource { after } = Resource::read(&query::pairs(parameters)?)?;
    let text = path.map(|Path(text)| text).unwrap_or_default();
    let id = ride_id(&text).ok_or_else(not_found)?;
    settling::settled(&state, &partner, after).await?;
    let stored = state.ledger.ride(partner.id, id).await?;
    let stored = stored.ok_or_else(not_found)?;
    let version = stored.version;
    Ok(tags::versioned(&headers, version, &shown(stored)))
}

pub(crate) async fn list(
    Shared(state): Shared<State>,
    Extension(partner): Extension<Arc<Partner>>,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    let pairs = query::pairs(parameters)?;
    let Rides {
        asked,
        place,
        limit,
        after,
    } = Rides::read(&pairs, partner.id)?;
    settling::settled(&state, &partner, after).await?;
    let ledger = &state.ledger;
    let mut rows = ledger.rides(partner.id, &asked, place, limit + 1).await?;
    let more = page::cut(&mut rows, limit);
    let last = rows.last().filter(|_| more).map(|last| RidePlace {
        from_date: last.from_date,
        id: last.id,
    });
    let next_cursor = last.map(|last| last.cursor(partner.id, &asked));
    let results: Vec<Ride> = rows.into_iter().map(shown).collect();
    Ok(page::answer(MANY, &pairs, results, next_cursor))
}

/// One spelling per ride: digits alone, without leading zeros.
fn ride_id(text: &str) -> Option<i64> {
    let id: i64 = text.parse().ok()?;
    (id > 0 && id.to_string() == text).then_some(id)
}

fn shown(stored: StoredRide) -> Ride {
    // As the database wrote it, so that no number in it loses a digit.
    let extra = stored
        .extra
        .map(|text| RawValue::from_string(text).expect("jsonb is JSON"));
    Ride {
        id: stored.id,
        user_id: stored.user_id,
        vehicle_model_id: stored.vehicle_model_id,
        package_id: stored.package_id,
        travel_type_id: stored.travel_type_id,
        from_area_id: stored.from_area_id,
        to_area_id: stored.to_area_id,
        from_city_id: stored.from_city_id,
        to_city_id: stored.to_city_id,
        from_date: stored.from_date.rfc_3339(),
        to_date: stored.to_date.map(|it| it.rfc_3339()),
        online_booking: stored.online_booking,
        mobile_site_booking: stored.mobile_site_booking,
        booking_created: stored.booking_created.rfc_3339(),
        from_lat: stored.from_lat,
        from_long: stored.from_long,
        to_lat: stored.to_lat,
        to_long: stored.to_long,
        car_cancellation: stored.car_cancellation,
        extra,
        tracking_id: stored.tracking_id,
        version: stored.version,
        created_at: stored.created_at.rfc_3339(),
        updated_at: stored.updated_at.rfc_3339(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ride_has_one_spelling() {
        assert_eq!(ride_id("132512"), Some(132_512));
        for text in ["", "0", "-1", "+1", "01", "1.0", "x", "9223372036854775808"] {
            assert_eq!(ride_id(text), None, "{text:?}");
        }
    }
}
