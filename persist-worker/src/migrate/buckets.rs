//! The log's buckets, created here because nobody else may create anything there: partners, and
//! which gateways are there.

use std::time::Duration;

use async_nats::jetstream::context::CreateKeyValueErrorKind;
use async_nats::jetstream::kv;
use async_nats::jetstream::stream::StorageType;
use partners::Bucket;

use super::MigrateError;
use crate::args::MigrateArgs;
use crate::log::{Log, LogError};

/// Where gateways say that they are there.
const GATEWAYS: &str = "weir_gateways";
/// How long the log keeps what a gateway that died has said: only to stay tidy, well above the
/// second after which it no longer counts.
const GATEWAYS_KEPT_FOR: Duration = Duration::from_secs(10);

/// Creates what is missing; what is there stays as it is.
pub(super) async fn settle(log: &Log, args: &MigrateArgs) -> Result<Vec<String>, MigrateError> {
    let mut done = Vec::new();
    Bucket::open_or_create(&log.client)
        .await
        .map_err(|error| LogError::request("creating the bucket of partners", error))?;
    if log.jetstream.get_key_value(GATEWAYS).await.is_ok() {
        return Ok(done);
    }
    let config = kv::Config {
        bucket: GATEWAYS.to_owned(),
        description: "Weir: which gateways are there".to_owned(),
        history: 1,
        max_age: GATEWAYS_KEPT_FOR,
        storage: StorageType::File,
        num_replicas: usize::from(args.replicas),
        ..kv::Config::default()
    };
    match log.jetstream.create_key_value(config).await {
        Ok(_) => done.push(format!("log: created bucket {GATEWAYS}")),
        // A gateway that may was faster, with settings of its own.
        Err(error) if error.kind() == CreateKeyValueErrorKind::BucketCreate => {
            let opened = log.jetstream.get_key_value(GATEWAYS).await;
            opened.map_err(|_| LogError::request("creating the bucket of gateways", error))?;
        }
        Err(error) => {
            return Err(LogError::request("creating the bucket of gateways", error).into());
        }
    }
    Ok(done)
}
