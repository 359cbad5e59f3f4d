//! The stream of events: created once, then left as it is.

use std::time::Duration;

use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{ErrorCode, context::GetStreamErrorKind};
use chassis::units::Bytes;
use contract::event::{FENCE_SUBJECTS, STREAM, SUBJECTS};
use tokio::time::Instant;

use super::MigrateError;
use super::streams::create_within;
use crate::args::MigrateArgs;
use crate::log::{Log, LogError};

/// How long the log remembers event ids: most relays that come back after an outage find theirs.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(600);

/// Room for several batches of a relay: a batch that can never fit would wait for ever.
const BYTES_MIN: Bytes = Bytes(4 * 1024 * 1024);

/// Creates the stream, or compares it with what was asked for; a line each.
pub(super) async fn settle(log: &Log, args: &MigrateArgs) -> Result<Vec<String>, MigrateError> {
    match log.jetstream.get_stream(STREAM).await {
        Ok(stream) => {
            let config = &stream.cached_info().config;
            check(config)?;
            Ok(warnings(config, args))
        }
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(refused)
                if refused.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                create(log, args).await
            }
            _ => Err(LogError::request("asking for the stream of events", error).into()),
        },
    }
}

async fn create(log: &Log, args: &MigrateArgs) -> Result<Vec<String>, MigrateError> {
    if args.events_bytes_max.0 < BYTES_MIN.0 {
        return Err(MigrateError::Unsound(format!(
            "--events-bytes-max is {}, less than the {BYTES_MIN} that relays need",
            args.events_bytes_max
        )));
    }
    let give_up_at = Instant::now() + args.wait;
    let info = create_within(log, &config(args), give_up_at)
        .await
        .map_err(|error| refused(&error, args))?;
    // A server that does not know a setting leaves it out.
    check(&info.config)?;
    Ok(vec![format!(
        "log: created {STREAM} ({} for {:?}, {} replicas)",
        args.events_bytes_max, args.events_retain, args.replicas
    )])
}

fn config(args: &MigrateArgs) -> Config {
    Config {
        name: STREAM.to_owned(),
        subjects: vec![SUBJECTS.to_owned(), FENCE_SUBJECTS.to_owned()],
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        // Nothing is dropped before its time: what does not fit waits in the outbox.
        discard: DiscardPolicy::New,
        max_age: args.events_retain,
        max_bytes: bytes_max(args),
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        num_replicas: usize::from(args.replicas),
        // The server takes none that is longer than the age.
        duplicate_window: DUPLICATE_WINDOW.min(args.events_retain),
        allow_direct: true,
        allow_rollup: true,
        allow_atomic_publish: true,
        description: Some("weir: events for subscribers".to_owned()),
        ..Config::default()
    }
}

/// Refuses a stream that cannot hold the relays to their order, or drops what is not old.
fn check(config: &Config) -> Result<(), MigrateError> {
    let mut faults = Vec::new();
    let subjects = [SUBJECTS, FENCE_SUBJECTS];
    if !subjects
        .iter()
        .all(|it| config.subjects.iter().any(|has| has == it))
    {
        faults.push(format!(
            "its subjects are not {SUBJECTS} and {FENCE_SUBJECTS}"
        ));
    }
    if !config.allow_rollup {
        faults.push("allow_rollup is off: relays have no fence".to_owned());
    }
    if !config.allow_atomic_publish {
        faults.push(
            "allow_atomic is off: relays cannot publish batches (nats-server 2.12 or newer)"
                .to_owned(),
        );
    }
    if config.discard != DiscardPolicy::New {
        faults.push("discard is not new: when full it drops what is not old".to_owned());
    }
    if config.storage != StorageType::File {
        faults.push("storage is not file: a restart loses what it holds".to_owned());
    }
    if config.retention != RetentionPolicy::Limits {
        faults.push("retention is not limits: it drops what one subscriber read".to_owned());
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(MigrateError::EventSettings(faults.join("; ")))
}

fn warnings(config: &Config, args: &MigrateArgs) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut differs = |what: &str, found: String, flag: &str, asked: String| {
        if found != asked {
            warnings.push(format!(
                "warning: {STREAM} {what} {found}, {flag} is {asked}: kept as it is"
            ));
        }
    };
    // A server may leave out what is 1.
    let replicas = config.num_replicas.max(1).to_string();
    differs(
        "replicas:",
        replicas,
        "--replicas",
        args.replicas.to_string(),
    );
    let age = match config.max_age {
        Duration::ZERO => "for ever".to_owned(),
        age => format!("{age:?}"),
    };
    let asked = format!("{:?}", args.events_retain);
    differs("keeps events", age, "--events-retain", asked);
    let bytes = match u64::try_from(config.max_bytes) {
        Ok(bytes) => Bytes(bytes).to_string(),
        Err(_) => "any number of bytes".to_owned(),
    };
    let asked = args.events_bytes_max.to_string();
    differs("may hold", bytes, "--events-bytes-max", asked);
    warnings
}

fn bytes_max(args: &MigrateArgs) -> i64 {
    i64::try_from(args.events_bytes_max.0).unwrap_or(i64::MAX)
}

fn refused(error: &CreateStreamErrorKind, args: &MigrateArgs) -> MigrateError {
    MigrateError::Create(match error {
        CreateStreamErrorKind::JetStream(refused)
            if refused.error_code() == ErrorCode::STORAGE_RESOURCES_EXCEEDED =>
        {
            format!(
                "the log has no room left for {STREAM} of {} (error 10047): choose a smaller \
                 --events-bytes-max, or give the server more max_file_store",
                args.events_bytes_max
            )
        }
        _ => format!("stream {STREAM} could not be created: {error}"),
    })
}
