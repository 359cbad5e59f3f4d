//! Room on the stream of events: [`keep`].
//!
//! The stream refuses what does not fit, so that it never drops what a subscriber was promised.
//! Left alone it would be full long before its oldest events are of age, and the outbox would grow
//! in the database. So what is older than the least that is promised goes early, oldest first.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::response::Response;
use contract::event::STREAM;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::TELL_EVERY;
use super::publisher::BATCH_BYTES_MAX;
use crate::log::LogError;
use crate::meter;
use crate::worker::Workplace;

/// How often the stream is looked at: at a few tens of MB/s a small part of the room.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// One part in this many of the stream's size is kept free.
const ROOM_SHARE: u64 = 5;
/// What is kept free of a stream however small, in bytes: two batches, subjects and headers
/// included, for otherwise one might never fit.
const ROOM_BYTES_MIN: u64 = 5 * BATCH_BYTES_MAX as u64 / 2;

/// The stream at one time.
#[derive(Debug)]
struct Level {
    bytes: u64,
    /// 0 when there is no limit.
    bytes_max: u64,
    messages: u64,
    first_seq: u64,
    last_seq: u64,
    /// When the oldest message was stored, by the server's clock.
    first_at: Timestamp,
    /// The same clock now.
    now: Timestamp,
}

/// Keeps part of the stream free, for ever. Every worker does it, whatever partitions it has: a
/// purge by sequence does no harm twice.
pub(crate) async fn keep(place: Arc<Workplace>, keep_min: Duration) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut story = Story::default();
    loop {
        looks.tick().await;
        match make_room(&place, keep_min).await {
            Ok(made) => story.tell(made, keep_min),
            // The relays say why they cannot work; this is tried again at the next look.
            Err(error) => tracing::debug!(%error, "the stream of events could not be looked after"),
        }
    }
}

/// What became of one look.
#[derive(Clone, Copy, Debug)]
enum Made {
    NoneNeeded,
    Purged(u64),
    /// All that is in the way is too young.
    NoneToHave,
}

/// Says what happens, but not every second.
#[derive(Default)]
struct Story {
    purged: u64,
    told: Option<Instant>,
}

impl Story {
    fn tell(&mut self, made: Made, keep_min: Duration) {
        if let Made::Purged(events) = made {
            self.purged += events;
        }
        let is_due = self.told.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        if !is_due || matches!(made, Made::NoneNeeded) {
            return;
        }
        self.told = Some(Instant::now());
        if matches!(made, Made::NoneToHave) {
            tracing::warn!(
                ?keep_min,
                "{STREAM} is nearly full of events younger than --events-keep-min: new ones will wait in the outbox"
            );
        } else {
            let purged = std::mem::take(&mut self.purged);
            tracing::info!(
                purged,
                ?keep_min,
                "{STREAM} is nearly full: the oldest events were purged before their age"
            );
        }
    }
}

async fn make_room(place: &Workplace, keep_min: Duration) -> Result<Made, LogError> {
    if !place.log.is_connected() {
        return Ok(Made::NoneNeeded);
    }
    let level = look(place).await?;
    let kept = level.now.duration_since(level.first_at);
    let kept = Duration::try_from(kept).unwrap_or_default();
    let kept = if level.messages == 0 {
        Duration::ZERO
    } else {
        kept
    };
    meter::events_stream(level.bytes, level.bytes_max, kept);
    let by_size = first_to_keep_by_size(&level);
    if by_size <= level.first_seq {
        return Ok(Made::NoneNeeded);
    }
    let by_age = match level.now.checked_sub(keep_min) {
        Ok(young_from) => first_since(place, young_from).await?,
        Err(_) => Some(0),
    };
    // Fences go as well: whose is gone puts up another.
    let first_to_keep = by_size.min(by_age.unwrap_or(level.last_seq + 1));
    if first_to_keep <= level.first_seq {
        return Ok(Made::NoneToHave);
    }
    let purged = purge_before(place, first_to_keep).await?;
    meter::events_purged(purged);
    tracing::debug!(purged, first_to_keep, "purged the stream of events");
    Ok(Made::Purged(purged))
}

/// What must go so that enough is free; 0 when nothing must.
fn first_to_keep_by_size(level: &Level) -> u64 {
    if level.bytes_max == 0 || level.messages == 0 {
        return 0;
    }
    let room = (level.bytes_max / ROOM_SHARE).max(ROOM_BYTES_MIN);
    let most = level.bytes_max.saturating_sub(room);
    if level.bytes <= most {
        return 0;
    }
    let message_bytes = (level.bytes / level.messages).max(1);
    let first_to_keep = level.first_seq + (level.bytes - most).div_ceil(message_bytes);
    first_to_keep.min(level.last_seq + 1)
}

/// Asked for as it is: async-nats leaves out the server's clock, and this machine's may be wrong.
async fn look(place: &Workplace) -> Result<Level, LogError> {
    const DOING: &str = "asking for the stream of events";
    let answer: Response<Value> = place
        .log
        .jetstream
        .request(format!("STREAM.INFO.{STREAM}"), &())
        .await
        .map_err(|error| LogError::request(DOING, error))?;
    match answer {
        Response::Ok(info) => level(&info)
            .ok_or_else(|| LogError::request(DOING, "the answer lacks what it should have")),
        Response::Err { error } => Err(LogError::request(DOING, error)),
    }
}

fn level(info: &Value) -> Option<Level> {
    let state = &info["state"];
    let bytes_max = info["config"]["max_bytes"].as_i64()?;
    Some(Level {
        bytes: state["bytes"].as_u64()?,
        bytes_max: u64::try_from(bytes_max).unwrap_or(0),
        messages: state["messages"].as_u64()?,
        first_seq: state["first_seq"].as_u64()?,
        last_seq: state["last_seq"].as_u64()?,
        first_at: state["first_ts"].as_str()?.parse().ok()?,
        now: info["ts"].as_str()?.parse().ok()?,
    })
}

/// The first message that was stored then or later; `None` when all are older.
async fn first_since(place: &Workplace, since: Timestamp) -> Result<Option<u64>, LogError> {
    const DOING: &str = "looking for the first young event";
    let answer: Response<Value> = place
        .log
        .jetstream
        .request(
            format!("STREAM.MSG.GET.{STREAM}"),
            &json!({"start_time": since.to_string()}),
        )
        .await
        .map_err(|error| LogError::request(DOING, error))?;
    match answer {
        Response::Ok(found) => match found["message"]["seq"].as_u64() {
            Some(seq) => Ok(Some(seq)),
            None => Err(LogError::request(DOING, "the answer has no sequence")),
        },
        Response::Err { error } if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
        Response::Err { error } => Err(LogError::request(DOING, error)),
    }
}

async fn purge_before(place: &Workplace, first_to_keep: u64) -> Result<u64, LogError> {
    const DOING: &str = "purging the stream of events";
    let stream = place.log.jetstream.get_stream_no_info(STREAM).await;
    let stream = stream.map_err(|error| LogError::request(DOING, error))?;
    let purged = stream.purge().sequence(first_to_keep).await;
    purged
        .map(|it| it.purged)
        .map_err(|error| LogError::request(DOING, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn level_of(bytes: u64, bytes_max: u64) -> Level {
        Level {
            bytes,
            bytes_max,
            messages: 1_000,
            first_seq: 11,
            last_seq: 1_010,
            first_at: Timestamp::UNIX_EPOCH,
            now: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_fifth_is_kept_free_and_never_less_than_two_batches() {
        let first_to_keep = |bytes, max| first_to_keep_by_size(&level_of(bytes, max));
        assert_eq!(first_to_keep(80 * MIB, 100 * MIB), 0);
        // An eleventh of what it holds is too much.
        assert_eq!(first_to_keep(88 * MIB, 100 * MIB), 11 + 91);
        assert_eq!(first_to_keep(3 * MIB / 2, 4 * MIB), 0);
        assert_eq!(first_to_keep(2 * MIB, 4 * MIB), 11 + 251);
        assert_eq!(first_to_keep(2 * MIB, MIB), 1_011);
        assert_eq!(first_to_keep(2 * MIB, 0), 0);
    }
}
