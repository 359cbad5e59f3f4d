//! How a request stands, waiting for its outcome where that is asked for: what a request's own
//! route tells, and what `?after=` of the others rests on.

use std::time::Duration;

use contract::{Problem, TrackingId};
use partners::Partner;

use crate::answer::Refusal;
use crate::api::State;
use crate::instant::Micros;
use crate::ledger::Asked;
use crate::observe;
use crate::query::After;
use crate::routes::alarm_unknown;
use crate::standing::{Standing, judge};
use crate::waiting::NoOutcome;

/// Bounds of `Retry-After` while queued.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// How a request stands, after at most `wait` while it is queued.
pub(crate) async fn standing(
    state: &State,
    asked: Asked,
    wait: Option<Duration>,
) -> Result<Standing, Refusal> {
    let query = observe::Query::Lookup;
    let seen = state.ledger.look_up(&[asked], query).await?;
    let seen = seen.into_iter().next().expect("one row per id asked for");
    let standing = judge(asked.id, seen, Micros::now(), state.ledger_retention);
    match (standing, wait) {
        (Standing::Queued, Some(wait)) => wait_for(state, asked, wait).await,
        (standing, _) => Ok(standing),
    }
}

/// Ends early, as queued, when the process is going away.
async fn wait_for(state: &State, asked: Asked, wait: Duration) -> Result<Standing, Refusal> {
    let outcome = tokio::select! {
        outcome = state.waiters.wait(asked, wait) => outcome,
        () = state.shutdown.begun() => Err(NoOutcome::StillQueued),
    };
    match outcome {
        Ok(standing) => Ok(standing),
        Err(NoOutcome::StillQueued) => Ok(Standing::Queued),
        Err(NoOutcome::Full) => Err(Refusal::overloaded(
            "too many requests are waiting; ask without waiting, or later",
        )),
        Err(NoOutcome::DatabaseAway(error)) => Err(Refusal::database_away(&error)),
    }
}

/// Returns once what is read next holds everything that the request did: its outcome was
/// committed with its effect.
pub(crate) async fn settled(
    state: &State,
    partner: &Partner,
    after: Option<After>,
) -> Result<(), Refusal> {
    let Some(After { id, wait }) = after else {
        return Ok(());
    };
    if !state.is_authentic(id, partner) {
        return Err(no_such_request());
    }
    let asked = Asked {
        id,
        partner_id: partner.id,
    };
    match standing(state, asked, Some(wait)).await? {
        // What the ledger no longer keeps was settled long ago.
        Standing::Ended(_) | Standing::Gone => Ok(()),
        Standing::Queued => {
            let detail = format!("request {id} has no outcome yet; its effect would be missing");
            Err(Refusal::temporary(
                Problem::NotSettled,
                detail,
                retry_after(id, Micros::now()),
            ))
        }
        Standing::Unknown => {
            alarm_unknown(id, partner.id);
            Err(no_such_request())
        }
    }
}

/// The same words whether the id is made up or another partner's, so that they tell nothing.
fn no_such_request() -> Refusal {
    Refusal::new(
        Problem::NotFound,
        "after: no request of yours has this tracking id",
    )
}

/// When it is worth asking again: whoever has waited long may ask less often.
pub(crate) fn retry_after(id: TrackingId, now: Micros) -> Duration {
    let waited = Duration::from_millis(now.ms_since(Micros::from_unix_ms(id.unix_ms())));
    (waited / 4).clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX)
}
