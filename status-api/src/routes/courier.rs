//! `GET /v1/couriers/{id}` and `GET /v1/couriers`: couriers as they are stored.

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
use crate::couriers::StoredCourier;
use crate::keyset::{CourierPlace, is_courier_id};
use crate::query::{self, Couriers, Parameters, Resource};
use crate::routes::page;
use crate::{settling, tags};

pub(crate) const ONE: &str = "/v1/couriers/{id}";
pub(crate) const MANY: &str = "/v1/couriers";

/// All members are always there.
#[derive(Serialize)]
struct Courier {
    courier_id: String,
    name: String,
    max_capacity: i32,
    available_capacity: i32,
    vehicle_type: Option<String>,
    phone: Option<String>,
    attributes: Option<Box<RawValue>>,
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
    let not_found = || Refusal::new(Problem::NotFound, "no courier of yours has this id");
    let Resource { after } = Resource::read(&query::pairs(parameters)?)?;
    let id = path.map(|Path(text)| text).unwrap_or_default();
    if !is_courier_id(&id) {
        return Err(not_found());
    }
    settling::settled(&state, &partner, after).await?;
    let stored = state.ledger.courier(partner.id, &id).await?;
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
    let Couriers {
        asked,
        place,
        limit,
        after,
    } = Couriers::read(&pairs, partner.id)?;
    settling::settled(&state, &partner, after).await?;
    let vehicle_type = asked.vehicle_type.as_deref();
    let ledger = &state.ledger;
    let mut rows = ledger
        .couriers(partner.id, vehicle_type, &place, limit + 1)
        .await?;
    let more = page::cut(&mut rows, limit);
    let last = rows.last().filter(|_| more).map(|last| CourierPlace {
        available_capacity: last.available_capacity,
        courier_id: last.courier_id.clone(),
    });
    let next_cursor = last.map(|last| last.cursor(partner.id, &asked));
    let results: Vec<Courier> = rows.into_iter().map(shown).collect();
    Ok(page::answer(MANY, &pairs, results, next_cursor))
}

fn shown(stored: StoredCourier) -> Courier {
    // As the database wrote it, so that no number in it loses a digit.
    let attributes = stored
        .attributes
        .map(|text| RawValue::from_string(text).expect("the column holds JSON"));
    Courier {
        courier_id: stored.courier_id,
        name: stored.name,
        max_capacity: stored.max_capacity,
        available_capacity: stored.available_capacity,
        vehicle_type: stored.vehicle_type,
        phone: stored.phone,
        attributes,
        tracking_id: stored.tracking_id,
        version: stored.version,
        created_at: stored.created_at.rfc_3339(),
        updated_at: stored.updated_at.rfc_3339(),
    }
}
