//! Waiting for a condition instead of for a time.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// How often a condition is tried. Short, since tests spend their time here.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Tries `condition` until it gives a value or `limit` has passed; `None` then. Each try is cut off
/// at the limit too, so a condition that hangs cannot hang its caller.
pub async fn eventually<T, F, Fut>(limit: Duration, mut condition: F) -> Option<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        if let Ok(Some(value)) = tokio::time::timeout_at(deadline, condition()).await {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}
