//! `GET /v1/requests?status=failed`: a partner's failures, page by page.
//!
//! `next_cursor` is always there. It never passes the lowest watermark of all partitions: a row of
//! a slower partition may still appear above it. Rows above it are shown, and shown again by the
//! next page. A page with fewer rows than its limit is the last one for now, and so is a full one
//! whose `next_cursor` is where it began: all of it is above the watermark. Nor does it ever go
//! back before where the page began, which may be above the watermark when the client said so.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use contract::timing::WATERMARK_SLACK;
use partners::Partner;
use serde::Serialize;

use crate::answer::Refusal;
use crate::api::State;
use crate::cursor::Cursor;
use crate::ledger::FailuresPage;
use crate::query::{self, Page, Parameters};
use crate::standing::RequestStatus;

#[derive(Serialize)]
struct Answer {
    results: Vec<RequestStatus>,
    next_cursor: String,
}

pub(crate) async fn get(
    Shared(state): Shared<State>,
    Extension(partner): Extension<Arc<Partner>>,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    let asked = Page::read(&query::pairs(parameters)?)?;
    let page = state
        .ledger
        .failures(partner.id, asked.after, asked.limit)
        .await?;
    let next_cursor = next_cursor(&page, &asked).text();
    let results = page.rows.into_iter().map(RequestStatus::ended).collect();
    let mut response = Json(Answer {
        results,
        next_cursor,
    })
    .into_response();
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn next_cursor(page: &FailuresPage, asked: &Page) -> Cursor {
    let watermark = match page.committed_to_min {
        Some(committed_to) => Cursor::before(committed_to.minus(WATERMARK_SLACK)),
        None => Cursor::START,
    };
    let next = match page.rows.last() {
        Some(last) if page.rows.len() as i64 >= asked.limit => {
            Cursor::behind(last.tracking_id).min(watermark)
        }
        // All there is has been shown, and below the watermark nothing will be added.
        _ => watermark,
    };
    next.max(asked.after)
}
