//! The waits that hold the design together, and the inequalities between them.
//!
//! A chunk is answered within the publish deadline or not at all; one stored more than the expiry
//! slack after its `publish_by` applies nothing; and the watermark trails by more than both, so
//! that `unknown` is only said when no acknowledged record can still appear.

use std::time::Duration;

/// From minting a tracking id to the last moment at which its chunk may be acknowledged.
pub const PUBLISH_DEADLINE: Duration = Duration::from_secs(5);

/// A chunk stored by the log later than its `publish_by` plus this ends `failed/expired`.
pub const EXPIRY_SLACK: Duration = Duration::from_secs(10);

/// How far a gateway's clock may stand from the log's before it answers 503.
pub const SKEW_ALLOWANCE: Duration = Duration::from_secs(2);

/// `watermark = committed_to - WATERMARK_SLACK`.
pub const WATERMARK_SLACK: Duration = Duration::from_secs(30);

/// Checks the inequalities that involve the publish deadline and the log's duplicate window.
///
/// Returns one sentence per violated inequality; none when the configuration is sound.
#[must_use]
pub fn violations(publish_deadline: Duration, duplicate_window: Duration) -> Vec<String> {
    let mut found = Vec::new();
    let settled = publish_deadline + EXPIRY_SLACK + 2 * SKEW_ALLOWANCE;
    if settled >= WATERMARK_SLACK {
        found.push(format!(
            "publish deadline {publish_deadline:?} + expiry slack {EXPIRY_SLACK:?} + 2 x skew allowance \
             {SKEW_ALLOWANCE:?} must be less than the watermark slack {WATERMARK_SLACK:?}"
        ));
    }
    if duplicate_window <= publish_deadline {
        found.push(format!(
            "the log's duplicate window {duplicate_window:?} must be longer than the publish deadline \
             {publish_deadline:?}: all retries of a chunk carry one message id"
        ));
    }
    found
}

const _: () = assert!(
    EXPIRY_SLACK.as_secs() > 2 * SKEW_ALLOWANCE.as_secs(),
    "a chunk acknowledged in time must never count as expired, whatever the clocks"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound() {
        assert!(violations(PUBLISH_DEADLINE, Duration::from_secs(120)).is_empty());
    }

    #[test]
    fn each_violation_is_named() {
        let found = violations(Duration::from_secs(16), Duration::from_secs(16));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("watermark slack"));
        assert!(found[1].contains("duplicate window"));
    }
}
