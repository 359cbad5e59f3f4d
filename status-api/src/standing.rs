//! How a request stands, judged from what the ledger showed, and the object that says so.

use std::time::Duration;

use contract::TrackingId;
use contract::record::Kind;
use contract::timing::WATERMARK_SLACK;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::instant::Micros;
use crate::ledger::{LedgerRow, Seen};

/// How an authentic id stands.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Standing {
    /// It has its outcome.
    Ended(LedgerRow),
    /// The ledger may still get its row.
    Queued,
    /// The ledger may have had its row, and has dropped it.
    Gone,
    /// The ledger should have its row and has not.
    Unknown,
}

/// Judges an id whose tag has verified.
pub(crate) fn judge(
    id: TrackingId,
    seen: Seen,
    now: Micros,
    ledger_retention: Duration,
) -> Standing {
    if let Some(row) = seen.row {
        return Standing::Ended(row);
    }
    let accepted = Micros::from_unix_ms(id.unix_ms());
    // A partition that does not exist has no watermark: no gateway minted that id.
    let watermark = seen
        .committed_to
        .map_or(Micros(i64::MIN), |it| it.minus(WATERMARK_SLACK));
    if seen.committed_to.is_some() && accepted >= watermark {
        Standing::Queued
    } else if accepted < now.minus(ledger_retention) {
        Standing::Gone
    } else {
        Standing::Unknown
    }
}

/// The object that answers for one request. All members are always there.
#[derive(Serialize, Debug)]
pub(crate) struct RequestStatus {
    tracking_id: String,
    kind: Option<&'static str>,
    status: &'static str,
    accepted_at: Option<String>,
    completed_at: Option<String>,
    resource: Option<Resource>,
    action: Option<&'static str>,
    code: Option<String>,
    detail: Option<String>,
    duplicate_of: Option<Uuid>,
    delay_ms: Option<u64>,
}

#[derive(Serialize, Debug)]
struct Resource {
    id: Value,
}

impl RequestStatus {
    /// A request that has ended. The same row gives the same bytes, always.
    pub(crate) fn ended(row: LedgerRow) -> Self {
        // From the id itself: the row's own is the one that was asked for, and is version 7.
        let accepted = Micros::from_unix_ms((row.tracking_id.as_u128() >> 80) as u64);
        Self {
            tracking_id: row.tracking_id.hyphenated().to_string(),
            kind: Some(row.kind.word()),
            status: row.outcome.word(),
            accepted_at: Some(accepted.rfc_3339()),
            completed_at: Some(row.completed_at.rfc_3339()),
            resource: Some(Resource {
                id: resource_id(row.kind, row.resource_id),
            }),
            action: row.action.map(contract::outcome::Action::word),
            code: row.code,
            detail: row.detail,
            duplicate_of: row.duplicate_of,
            delay_ms: Some(row.completed_at.ms_since(accepted)),
        }
    }

    pub(crate) fn queued(id: TrackingId, now: Micros) -> Self {
        let accepted = Micros::from_unix_ms(id.unix_ms());
        Self {
            accepted_at: Some(accepted.rfc_3339()),
            delay_ms: Some(now.ms_since(accepted)),
            ..Self::only(id.to_string(), "queued")
        }
    }

    /// What would be 404 by itself; `text` as it was asked for, whatever it was.
    pub(crate) fn unknown(text: String) -> Self {
        Self::only(text, "unknown")
    }

    /// What would be 410 by itself.
    pub(crate) fn gone(id: TrackingId) -> Self {
        let accepted = Micros::from_unix_ms(id.unix_ms());
        Self {
            accepted_at: Some(accepted.rfc_3339()),
            ..Self::only(id.to_string(), "gone")
        }
    }

    fn only(tracking_id: String, status: &'static str) -> Self {
        Self {
            tracking_id,
            kind: None,
            status,
            accepted_at: None,
            completed_at: None,
            resource: None,
            action: None,
            code: None,
            detail: None,
            duplicate_of: None,
            delay_ms: None,
        }
    }
}

/// A ride's id is a JSON number, a courier's a string.
fn resource_id(kind: Kind, text: String) -> Value {
    match kind {
        Kind::Ride => text.parse::<i64>().map_or(Value::String(text), Value::from),
        Kind::Courier => Value::String(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::outcome::{Action, Outcome};

    const DAY: Duration = Duration::from_secs(86_400);
    const NOW_MS: u64 = 1_700_000_000_000;

    fn id(unix_ms: u64) -> TrackingId {
        let uuid = Uuid::from_u128(u128::from(unix_ms) << 80 | 0x7000 << 64 | 1 << 127 >> 64);
        TrackingId::from_uuid(uuid).expect("version 7")
    }

    fn row(id: TrackingId) -> LedgerRow {
        LedgerRow {
            tracking_id: id.uuid(),
            kind: Kind::Ride,
            outcome: Outcome::Persisted,
            action: Some(Action::Created),
            resource_id: "132512".into(),
            code: None,
            detail: None,
            duplicate_of: None,
            completed_at: Micros::from_unix_ms(id.unix_ms() + 1_250),
        }
    }

    fn judged(unix_ms: u64, committed_to_ms: Option<u64>) -> Standing {
        let seen = Seen {
            row: None,
            committed_to: committed_to_ms.map(Micros::from_unix_ms),
        };
        judge(id(unix_ms), seen, Micros::from_unix_ms(NOW_MS), 90 * DAY)
    }

    #[test]
    fn the_watermark_divides_queued_from_unknown() {
        assert_eq!(judged(NOW_MS, Some(NOW_MS)), Standing::Queued);
        assert_eq!(judged(NOW_MS - 30_000, Some(NOW_MS)), Standing::Queued);
        assert_eq!(judged(NOW_MS - 30_001, Some(NOW_MS)), Standing::Unknown);
        let hour = 3_600_000;
        assert_eq!(
            judged(NOW_MS - hour, Some(NOW_MS - hour)),
            Standing::Queued,
            "a slow partition"
        );
    }

    #[test]
    fn retention_divides_unknown_from_gone() {
        let retention_ms = 90 * 86_400_000;
        assert_eq!(
            judged(NOW_MS - retention_ms, Some(NOW_MS)),
            Standing::Unknown
        );
        assert_eq!(
            judged(NOW_MS - retention_ms - 1, Some(NOW_MS)),
            Standing::Gone
        );
        let stopped_long_ago = NOW_MS - retention_ms - 60_000;
        assert_eq!(
            judged(stopped_long_ago, Some(stopped_long_ago)),
            Standing::Queued
        );
    }

    #[test]
    fn a_partition_that_does_not_exist_queues_nothing() {
        assert_eq!(judged(NOW_MS, None), Standing::Unknown);
    }

    #[test]
    fn a_row_wins_over_everything() {
        let id = id(1);
        let seen = Seen {
            row: Some(row(id)),
            committed_to: None,
        };
        assert_eq!(
            judge(id, seen, Micros::from_unix_ms(NOW_MS), DAY),
            Standing::Ended(row(id))
        );
    }

    #[test]
    fn every_member_is_always_there() {
        let id = id(NOW_MS);
        let objects = [
            RequestStatus::ended(row(id)),
            RequestStatus::queued(id, Micros::from_unix_ms(NOW_MS + 7)),
            RequestStatus::unknown("x".into()),
            RequestStatus::gone(id),
        ];
        let objects = objects.map(|it| serde_json::to_value(it).expect("JSON"));
        for object in &objects {
            assert_eq!(object.as_object().expect("an object").len(), 11, "{object}");
        }
        assert_eq!(
            objects[0],
            serde_json::json!({
                "tracking_id": id, "kind": "ride", "status": "persisted",
                "accepted_at": "2023-11-14T22:13:20Z", "completed_at": "2023-11-14T22:13:21.25Z",
                "resource": {"id": 132_512}, "action": "created", "code": null, "detail": null,
                "duplicate_of": null, "delay_ms": 1_250,
            })
        );
        assert_eq!(
            (&objects[1]["status"], &objects[1]["delay_ms"]),
            (&"queued".into(), &7.into())
        );
    }
}
