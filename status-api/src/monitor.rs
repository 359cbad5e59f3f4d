//! Watches the database: readiness, and how far each watermark trails.

use std::sync::Arc;
use std::time::Duration;

use chassis::readiness::Condition;
use contract::timing::WATERMARK_SLACK;
use tokio::time::{MissedTickBehavior, interval};

use crate::ledger::Ledger;
use crate::observe;

/// How often the database is asked.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// Runs until it is aborted.
pub(crate) async fn run(ledger: Arc<Ledger>, database: Condition) {
    let mut ticks = interval(PING_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match ledger.progress().await {
            Ok(progress) if progress.is_empty() => {
                database.not_ready("no partitions: run persist-worker migrate");
            }
            Ok(progress) => {
                for partition in progress {
                    let watermark = partition.committed_to.minus(WATERMARK_SLACK);
                    let lag = Duration::from_millis(partition.now.ms_since(watermark));
                    observe::watermark_lag(partition.partition, lag);
                }
                database.ready();
            }
            Err(error) => database.not_ready(error.to_string()),
        }
    }
}
