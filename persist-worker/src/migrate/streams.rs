//! The partitions' streams: what is there, and creating what is missing.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use chassis::units::Bytes;
use contract::log::{StreamMetadata, stream_name, subject};
use contract::{Partition, Partitions};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Installation, MigrateError};
use crate::args::MigrateArgs;
use crate::backoff::Backoff;
use crate::log::Log;

/// How long the log remembers message ids: longer than any retry of a chunk.
pub(super) const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// A stream as far as it matters here.
#[derive(Clone)]
pub(super) struct Stream {
    pub(super) metadata: StreamMetadata,
    pub(super) created: SystemTime,
    /// How it differs from what was asked for, in words; such a stream is kept as it is.
    pub(super) warnings: Vec<String>,
}

/// The streams that exist, in order.
pub(super) async fn existing(
    log: &Log,
    args: &MigrateArgs,
) -> Result<BTreeMap<Partition, Stream>, MigrateError> {
    let names = log.stream_names().await?;
    let mut streams = BTreeMap::new();
    let every = Partitions::new(256).expect("256 is the most");
    for partition in every.iter() {
        let stream = stream_name(partition);
        if !names.contains(&stream) {
            continue;
        }
        let info = log.stream_info(partition).await?;
        let metadata = StreamMetadata::from_map(&info.config.metadata)
            .map_err(|source| MigrateError::Stream { stream, source })?;
        check(&info.config)?;
        let created = created(info.created.unix_timestamp_nanos());
        let warnings = warnings(&info.config, args);
        let stream = Stream {
            metadata,
            created,
            warnings,
        };
        streams.insert(partition, stream);
    }
    Ok(streams)
}

/// Refuses a stream that drops what it has acknowledged, by itself or with its server.
fn check(config: &Config) -> Result<(), MigrateError> {
    let mut faults = Vec::new();
    if config.discard != DiscardPolicy::New {
        faults.push("discard is not new: when full it drops what it has acknowledged".to_owned());
    }
    if !config.max_age.is_zero() {
        let age = config.max_age;
        faults.push(format!("max_age is {age:?}, not 0: it drops what is older"));
    }
    if config.storage != StorageType::File {
        faults.push("storage is not file: a restart loses what it holds".to_owned());
    }
    if config.retention != RetentionPolicy::Limits {
        faults.push("retention is not limits: it drops what was read".to_owned());
    }
    if faults.is_empty() {
        return Ok(());
    }
    let (stream, faults) = (config.name.clone(), faults.join("; "));
    Err(MigrateError::Settings { stream, faults })
}

fn warnings(config: &Config, args: &MigrateArgs) -> Vec<String> {
    let name = &config.name;
    let mut warnings = Vec::new();
    // A server may leave out what is 1.
    let replicas = config.num_replicas.max(1);
    if replicas != usize::from(args.replicas) {
        let asked = args.replicas;
        warnings.push(format!(
            "warning: {name} has {replicas} replicas, --replicas is {asked}: kept as it is"
        ));
    }
    if config.max_bytes != bytes_max(args) {
        let found = match u64::try_from(config.max_bytes) {
            Ok(bytes) => Bytes(bytes).to_string(),
            Err(_) => "any number of bytes".to_owned(),
        };
        let asked = args.stream_bytes_max;
        warnings.push(format!(
            "warning: {name} may hold {found}, --stream-bytes-max is {asked}: kept as it is"
        ));
    }
    warnings
}

fn bytes_max(args: &MigrateArgs) -> i64 {
    i64::try_from(args.stream_bytes_max.0).unwrap_or(i64::MAX)
}

fn created(nanos: i128) -> SystemTime {
    let nanos = u64::try_from(nanos).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
}

/// Creates a partition's stream, under a new incarnation.
pub(super) async fn create(
    log: &Log,
    partition: Partition,
    installation: &Installation,
    args: &MigrateArgs,
) -> Result<Stream, MigrateError> {
    let name = stream_name(partition);
    // Its sequence starts anew, which the cursor must be able to tell.
    let metadata = StreamMetadata::new(installation.id, Uuid::now_v7(), installation.partitions);
    let config = Config {
        name: name.clone(),
        subjects: vec![subject(partition)],
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        max_bytes: bytes_max(args),
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        num_replicas: usize::from(args.replicas),
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        description: Some(format!("weir: chunks of partition {partition}")),
        metadata: metadata.to_map(),
        ..Config::default()
    };
    let info = create_within(log, &config, Instant::now() + args.wait)
        .await
        .map_err(|error| refused(&name, &error, installation, args))?;
    Ok(Stream {
        metadata,
        created: created(info.created.unix_timestamp_nanos()),
        warnings: Vec::new(),
    })
}

/// Creates a stream on a log that may still be coming up.
pub(super) async fn create_within(
    log: &Log,
    config: &Config,
    give_up_at: Instant,
) -> Result<Info, CreateStreamErrorKind> {
    let mut backoff = Backoff::new();
    loop {
        // The same configuration again is no error, so an answer that was lost does no harm.
        let error = match log.jetstream.create_stream(config.clone()).await {
            Ok(stream) => return Ok(stream.cached_info().clone()),
            Err(error) => error.kind(),
        };
        let pause = backoff.pause();
        if !may_pass(&error) || Instant::now() + pause >= give_up_at {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
    }
}

/// Whether a cluster that is still coming up would answer like this.
fn may_pass(error: &CreateStreamErrorKind) -> bool {
    match error {
        CreateStreamErrorKind::JetStream(refused) => matches!(
            refused.error_code(),
            ErrorCode::CLUSTER_NO_PEERS
                | ErrorCode::CLUSTER_NOT_AVAILABLE
                | ErrorCode::CLUSTER_NOT_LEADER
                | ErrorCode::CLUSTER_NOT_ACTIVE
                | ErrorCode::INSUFFICIENT_RESOURCES
        ),
        CreateStreamErrorKind::TimedOut | CreateStreamErrorKind::JetStreamUnavailable => true,
        _ => false,
    }
}

fn refused(
    name: &str,
    error: &CreateStreamErrorKind,
    installation: &Installation,
    args: &MigrateArgs,
) -> MigrateError {
    let count = installation.partitions.count();
    let most = args.stream_bytes_max;
    MigrateError::Create(match error {
        CreateStreamErrorKind::JetStream(refused)
            if refused.error_code() == ErrorCode::STORAGE_RESOURCES_EXCEEDED =>
        {
            format!(
                "the log has no room for {count} streams of {most} (stopped at {name}, error 10047): choose \
                 a smaller --stream-bytes-max, or give the server more max_file_store"
            )
        }
        _ => format!("stream {name} could not be created: {error}"),
    })
}
