//! Names on the log: streams, subjects, headers and the metadata that `migrate` writes.

use std::collections::HashMap;

use uuid::Uuid;

use crate::partition::{PARTITION_HASH_VERSION, Partition, Partitions};

/// Header that carries the chunk id, hyphenated; the server drops repeats of it.
pub const MESSAGE_ID_HEADER: &str = "Nats-Msg-Id";

const INSTALLATION: &str = "weir_installation";
const INCARNATION: &str = "weir_incarnation";
const PARTITIONS: &str = "weir_partitions";
const PARTITION_HASH: &str = "weir_partition_hash";

/// The stream that holds a partition, for example `WEIR_INGEST_000`.
#[must_use]
pub fn stream_name(partition: Partition) -> String {
    format!("WEIR_INGEST_{:03}", partition.0)
}

/// The only subject of that stream, for example `weir.ingest.000`.
#[must_use]
pub fn subject(partition: Partition) -> String {
    format!("weir.ingest.{:03}", partition.0)
}

/// What a partition's stream says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamMetadata {
    /// The installation: the same in every stream and in the database.
    pub installation: Uuid,
    /// New whenever the stream is created: a recreated stream restarts its sequence, and the
    /// cursor must not be applied to it.
    pub incarnation: Uuid,
    /// P, the same in every stream.
    pub partitions: Partitions,
    /// [`PARTITION_HASH_VERSION`] of whoever created the stream.
    pub partition_hash: u32,
}

/// Metadata that is missing or that this build cannot serve.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MetadataError {
    /// A key is absent: the stream was not created by `persist-worker migrate`.
    #[error("stream metadata has no {0}: create streams with `persist-worker migrate` only")]
    Missing(&'static str),
    /// A value does not parse.
    #[error("stream metadata {key} is {value:?}")]
    Malformed {
        /// The metadata key.
        key: &'static str,
        /// What it holds.
        value: String,
    },
    /// The stream was partitioned by another hash.
    #[error(
        "the log is partitioned by hash version {found}, this build knows {PARTITION_HASH_VERSION}"
    )]
    HashVersion {
        /// The version in the metadata.
        found: u32,
    },
}

impl StreamMetadata {
    /// Metadata for a stream that is about to be created.
    #[must_use]
    pub fn new(installation: Uuid, incarnation: Uuid, partitions: Partitions) -> Self {
        Self {
            installation,
            incarnation,
            partitions,
            partition_hash: PARTITION_HASH_VERSION,
        }
    }

    /// The form in which NATS keeps it.
    #[must_use]
    pub fn to_map(&self) -> HashMap<String, String> {
        HashMap::from([
            (INSTALLATION.to_owned(), self.installation.to_string()),
            (INCARNATION.to_owned(), self.incarnation.to_string()),
            (PARTITIONS.to_owned(), self.partitions.count().to_string()),
            (PARTITION_HASH.to_owned(), self.partition_hash.to_string()),
        ])
    }

    /// # Errors
    /// [`MetadataError`] if a key is missing, does not parse, or names a hash this build lacks.
    pub fn from_map(map: &HashMap<String, String>) -> Result<Self, MetadataError> {
        let partitions = parse::<u32>(map, PARTITIONS)?;
        let partition_hash = parse(map, PARTITION_HASH)?;
        if partition_hash != PARTITION_HASH_VERSION {
            return Err(MetadataError::HashVersion {
                found: partition_hash,
            });
        }
        Ok(Self {
            installation: parse(map, INSTALLATION)?,
            incarnation: parse(map, INCARNATION)?,
            partitions: Partitions::new(partitions).map_err(|error| MetadataError::Malformed {
                key: PARTITIONS,
                value: error.0.to_string(),
            })?,
            partition_hash,
        })
    }
}

fn parse<T: std::str::FromStr>(
    map: &HashMap<String, String>,
    key: &'static str,
) -> Result<T, MetadataError> {
    let value = map.get(key).ok_or(MetadataError::Missing(key))?;
    value.parse().map_err(|_| MetadataError::Malformed {
        key,
        value: value.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_padded_so_that_they_sort() {
        assert_eq!(stream_name(Partition(7)), "WEIR_INGEST_007");
        assert_eq!(subject(Partition(255)), "weir.ingest.255");
    }

    #[test]
    fn metadata_survives_the_map_and_refuses_what_it_does_not_know() {
        let metadata = StreamMetadata::new(
            Uuid::from_u128(1),
            Uuid::from_u128(2),
            Partitions::new(8).unwrap(),
        );
        let mut map = metadata.to_map();
        assert_eq!(StreamMetadata::from_map(&map).unwrap(), metadata);
        map.insert(PARTITION_HASH.to_owned(), "2".to_owned());
        assert_eq!(
            StreamMetadata::from_map(&map),
            Err(MetadataError::HashVersion { found: 2 })
        );
        map.remove(PARTITIONS);
        assert_eq!(
            StreamMetadata::from_map(&map),
            Err(MetadataError::Missing(PARTITIONS))
        );
    }
}
