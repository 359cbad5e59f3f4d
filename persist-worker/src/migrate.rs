//! `persist-worker migrate`: the only one that creates tables and streams. May be repeated, and
//! stopped halfway.

use std::collections::BTreeMap;
use std::time::Duration;

use contract::limits::CHUNK_BYTES_MAX;
use contract::log::{MetadataError, stream_name};
use contract::timing::{PUBLISH_DEADLINE, violations};
use contract::{Partition, Partitions};
use partners::Access;
use sqlx::migrate::MigrateError as SchemaError;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::args::MigrateArgs;
use crate::backoff::Backoff;
use crate::database::{Address, Connection, Database, DatabaseError, check_settings};
use crate::ledger::LedgerError;
use crate::log::{Log, LogError};
use crate::upkeep;
use streams::{DUPLICATE_WINDOW, Stream};

mod buckets;
mod events;
mod streams;

/// Partitions when neither streams nor flag say otherwise: the best on two cores.
const PARTITIONS_DEFAULT: u32 = 2;
/// What the log's answers to administrators are addressed to: no other role may listen there.
const INBOX: &str = "_INBOX_admin";
/// Room for a chunk's headers beside its bytes, in the server's `max_payload`.
const HEADER_BYTES: usize = 1024;
/// Indexes that a migration builds beside writers.
const BUILT_CONCURRENTLY: [&str; 1] = ["rides_by_user"];
/// Advisory lock of whoever migrates a database: "weirmigr".
const MIGRATING: i64 = 0x7765_6972_6d69_6772;
/// How often a `migrate` looks whether another one has finished.
const LOCK_LOOK_EVERY: Duration = Duration::from_millis(250);

/// What kept `migrate` from finishing; what it did before stays done.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The log refused, or stayed away.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The database refused, stayed away, or is not fit for use.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A migration failed.
    #[error("the database's schema could not be brought up to date")]
    Schema(#[from] SchemaError),
    /// The day partitions could not be made.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A server did not answer in the time given.
    #[error("{what} did not answer within {wait:?}: {last}")]
    Away {
        /// Log or database.
        what: &'static str,
        /// The time given.
        wait: Duration,
        /// What the last attempt said.
        last: String,
    },
    /// Another process has been at it all the time.
    #[error("another `migrate` is at work on the database; it did not finish within {wait:?}")]
    AnotherMigrates {
        /// The time given.
        wait: Duration,
    },
    /// A stream of that name exists that this build cannot serve.
    #[error("stream {stream}: {source}")]
    Stream {
        /// Its name.
        stream: String,
        /// What is wrong with it.
        source: MetadataError,
    },
    /// A stream of that name exists that may lose what it has acknowledged.
    #[error("stream {stream} is set up in a way that loses acknowledged records: {faults}")]
    Settings {
        /// Its name.
        stream: String,
        /// Each setting, as it is and as it must be.
        faults: String,
    },
    /// The stream of events cannot keep what the relays promise.
    #[error("stream WEIR_EVENTS cannot be used as it is set up: {0}")]
    EventSettings(String),
    /// P cannot be changed.
    #[error(
        "{what} has {found} partitions and {asked} were asked for: their number is fixed when the streams are created"
    )]
    Partitions {
        /// Log or database.
        what: String,
        /// What it has.
        found: u16,
        /// What was asked for.
        asked: u32,
    },
    /// Log and database do not belong together, or streams do not.
    #[error("{what} belongs to installation {found}, the others to {expected}")]
    Installation {
        /// A stream's name, or the database.
        what: String,
        /// What it says.
        found: Uuid,
        /// What the rest says.
        expected: Uuid,
    },
    /// A stream could not be created.
    #[error("{0}")]
    Create(String),
    /// The log is set up in a way that breaks a promise.
    #[error("{0}")]
    Unsound(String),
}

/// Brings database and log to what this build needs. Returns what it did, a line each.
///
/// # Errors
/// [`MigrateError`]; it may be run again.
pub async fn migrate(args: MigrateArgs) -> Result<Vec<String>, MigrateError> {
    let mut done = Vec::new();
    let places = &args.places;
    let ca = places.database_tls_ca.as_deref();
    let database = Database::new(&places.database_url, ca, "weir persist-worker migrate")?;
    let mut connection = reach_database(&database, args.wait).await?;
    check_settings(&connection.client).await?;
    let log = reach_log(&places.log(INBOX), args.wait).await?;
    check_log(&log)?;
    let address = Address::read(&places.database_url, ca).map_err(DatabaseError::Address)?;
    let applied = bring_schema_up(&address.for_migrations, args.wait).await?;
    done.push(match applied {
        0 => "database: schema is up to date".to_owned(),
        count => format!("database: {count} migrations applied"),
    });
    let streams = streams::existing(&log, &args).await?;
    let installation = settle_installation(&connection.client, &streams, &args).await?;
    for partition in installation.partitions.iter() {
        let stream = match streams.get(&partition) {
            Some(stream) => {
                done.extend(stream.warnings.iter().cloned());
                stream.clone()
            }
            None => {
                let created = streams::create(&log, partition, &installation, &args).await?;
                done.push(format!(
                    "log: created {} ({}, {} replicas)",
                    stream_name(partition),
                    args.stream_bytes_max,
                    args.replicas
                ));
                created
            }
        };
        let row = settle_partition(&connection.client, partition, &stream, args.adopt_new_log);
        if let Some(line) = row.await? {
            done.push(line);
        }
    }
    done.extend(events::settle(&log, &args).await?);
    done.extend(buckets::settle(&log, &args).await?);
    upkeep::arrange(&mut connection.client).await?;
    done.push(format!(
        "ready: installation {}, {} partitions",
        installation.id,
        installation.partitions.count()
    ));
    Ok(done)
}

/// One row of `installation`.
struct Installation {
    id: Uuid,
    partitions: Partitions,
}

async fn reach_database(database: &Database, wait: Duration) -> Result<Connection, MigrateError> {
    let give_up_at = Instant::now() + wait;
    let mut backoff = Backoff::new();
    loop {
        let error = match database.connect("weir persist-worker migrate").await {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        let pause = backoff.pause();
        if Instant::now() + pause >= give_up_at {
            return Err(MigrateError::Away {
                what: "the database",
                wait,
                last: error.to_string(),
            });
        }
        tokio::time::sleep(pause).await;
    }
}

async fn reach_log(access: &Access, wait: Duration) -> Result<Log, MigrateError> {
    let give_up_at = Instant::now() + wait;
    let mut backoff = Backoff::new();
    loop {
        let last = match timeout(
            wait,
            Log::connect(access, "weir persist-worker migrate", true),
        )
        .await
        {
            // A server that has just started, or has no leader yet, takes connections before it
            // takes requests.
            Ok(Ok(log)) => match log.stream_names().await {
                Ok(_) => return Ok(log),
                Err(error) => error.to_string(),
            },
            Ok(Err(error @ LogError::Address(_))) => return Err(error.into()),
            Ok(Err(LogError::Connect(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        let pause = backoff.pause();
        if Instant::now() + pause >= give_up_at {
            return Err(MigrateError::Away {
                what: "the log",
                wait,
                last,
            });
        }
        tokio::time::sleep(pause).await;
    }
}

/// The inequalities between the log's settings and the contract's.
fn check_log(log: &Log) -> Result<(), MigrateError> {
    let mut found = violations(PUBLISH_DEADLINE, DUPLICATE_WINDOW);
    let most = log.client.server_info().max_payload;
    let needed = CHUNK_BYTES_MAX + HEADER_BYTES;
    if most < needed {
        found.push(format!(
            "the log's max_payload is {most} bytes, a chunk with its headers takes up to {needed}"
        ));
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(MigrateError::Unsound(found.join("; ")))
}

/// Runs the migrations that have not run; how many there were.
async fn bring_schema_up(
    address: &PgConnectOptions,
    wait: Duration,
) -> Result<usize, MigrateError> {
    let mut migrator = sqlx::migrate!("../migrations");
    // sqlx would wait for its lock in a statement, and an index that is built beside writers waits
    // for every statement that is older: two that migrate would wait for each other.
    migrator.set_locking(false);
    let mut connection = PgConnection::connect_with(address)
        .await
        .map_err(SchemaError::Execute)?;
    // It goes with the connection.
    lock(&mut connection, wait).await?;
    drop_broken_indexes(&mut connection).await?;
    let before = applied(&mut connection).await;
    migrator.run(&mut connection).await?;
    let after = applied(&mut connection).await;
    Ok(after.saturating_sub(before))
}

async fn lock(connection: &mut PgConnection, wait: Duration) -> Result<(), MigrateError> {
    let give_up_at = Instant::now() + wait;
    loop {
        let is_mine: bool = sqlx::query_scalar("select pg_try_advisory_lock($1)")
            .bind(MIGRATING)
            .fetch_one(&mut *connection)
            .await
            .map_err(SchemaError::Execute)?;
        if is_mine {
            return Ok(());
        }
        if Instant::now() >= give_up_at {
            return Err(MigrateError::AnotherMigrates { wait });
        }
        tokio::time::sleep(LOCK_LOOK_EVERY).await;
    }
}

/// Drops what an index build left that broke off: `if not exists` would take it for the index.
async fn drop_broken_indexes(connection: &mut PgConnection) -> Result<(), MigrateError> {
    for index in BUILT_CONCURRENTLY {
        let is_broken: bool = sqlx::query_scalar(
            "select exists (select from pg_index where indexrelid = to_regclass($1) and not indisvalid)",
        )
        .bind(index)
        .fetch_one(&mut *connection)
        .await
        .map_err(SchemaError::Execute)?;
        if is_broken {
            let drop = format!("drop index concurrently if exists {index}");
            sqlx::query(sqlx::AssertSqlSafe(drop))
                .execute(&mut *connection)
                .await
                .map_err(SchemaError::Execute)?;
        }
    }
    Ok(())
}

async fn applied(connection: &mut PgConnection) -> usize {
    // The table is not there before the first migration.
    let count: Result<i64, _> =
        sqlx::query_scalar("select count(*) from _sqlx_migrations where success")
            .fetch_one(connection)
            .await;
    count.map_or(0, |count| usize::try_from(count).unwrap_or(0))
}

/// What log and database agree on; written down where it is new.
async fn settle_installation(
    client: &Client,
    streams: &BTreeMap<Partition, Stream>,
    args: &MigrateArgs,
) -> Result<Installation, MigrateError> {
    let in_database = known_installation(client).await?;
    let is_new = in_database.is_none();
    let settled = match agreed(in_database, streams)? {
        Some((says, settled)) => {
            let found = settled.partitions.count();
            match args.partitions {
                Some(asked) if asked != u32::from(found) => {
                    return Err(MigrateError::Partitions {
                        what: says,
                        found,
                        asked,
                    });
                }
                _ => settled,
            }
        }
        None => Installation {
            id: Uuid::now_v7(),
            partitions: Partitions::new(args.partitions.unwrap_or(PARTITIONS_DEFAULT))
                .expect("the flag's range"),
        },
    };
    if is_new {
        let count = i32::from(settled.partitions.count());
        client
            .execute(
                "insert into installation (id, partitions) values ($1, $2)",
                &[&settled.id, &count],
            )
            .await
            .map_err(DatabaseError::doing("writing down the installation"))?;
    }
    Ok(settled)
}

async fn known_installation(client: &Client) -> Result<Option<Installation>, MigrateError> {
    let row = client
        .query_opt("select id, partitions from installation", &[])
        .await
        .map_err(DatabaseError::doing("reading the installation"))?;
    Ok(row.map(|row| {
        let partitions = u32::try_from(row.get::<_, i32>(1)).unwrap_or(0);
        Installation {
            id: row.get(0),
            partitions: Partitions::new(partitions).expect("the table's check"),
        }
    }))
}

/// What the database and every stream say, and which of them said it first; none if nobody says
/// anything.
fn agreed(
    in_database: Option<Installation>,
    streams: &BTreeMap<Partition, Stream>,
) -> Result<Option<(String, Installation)>, MigrateError> {
    let mut said = in_database.map(|it| ("the database".to_owned(), it));
    for (partition, stream) in streams {
        let what = stream_name(*partition);
        let metadata = &stream.metadata;
        let (_, settled) = said.get_or_insert_with(|| {
            let first = Installation {
                id: metadata.installation,
                partitions: metadata.partitions,
            };
            (what.clone(), first)
        });
        if metadata.installation != settled.id {
            return Err(MigrateError::Installation {
                what,
                found: metadata.installation,
                expected: settled.id,
            });
        }
        if metadata.partitions != settled.partitions {
            return Err(MigrateError::Partitions {
                what,
                found: metadata.partitions.count(),
                asked: settled.partitions.count().into(),
            });
        }
    }
    Ok(said)
}

/// Gives a partition its rows; a line for the operator if there is something to say.
async fn settle_partition(
    client: &Client,
    partition: Partition,
    stream: &Stream,
    adopt_new_log: bool,
) -> Result<Option<String>, MigrateError> {
    let postgres = DatabaseError::doing("settling a partition");
    let number = i32::from(partition.0);
    let incarnation = stream.metadata.incarnation;
    client
        .execute(
            "insert into leases (partition) values ($1) on conflict do nothing",
            &[&number],
        )
        .await
        .map_err(&postgres)?;
    let inserted = client
        .execute(
            "insert into progress (partition, incarnation, last_seq, committed_to) \
             values ($1, $2, 0, $3) on conflict do nothing",
            &[&number, &incarnation, &stream.created],
        )
        .await
        .map_err(&postgres)?;
    if inserted > 0 {
        return Ok(Some(format!(
            "database: partition {partition} starts at the beginning of {}",
            stream_name(partition)
        )));
    }
    if adopt_new_log {
        move_events_ahead(client, number, incarnation).await?;
        // The watermark never runs backwards: it may have been shown already.
        let adopted = client
            .execute(
                "update progress set incarnation = $2, last_seq = 0, last_message_id = null, \
                 committed_to = greatest(committed_to, $3) where partition = $1 and incarnation <> $2",
                &[&number, &incarnation, &stream.created],
            )
            .await
            .map_err(&postgres)?;
        return Ok((adopted > 0).then(|| {
            format!("database: partition {partition} starts over at the beginning of the new log")
        }));
    }
    let other = client
        .query_opt(
            "select from progress where partition = $1 and incarnation <> $2",
            &[&number, &incarnation],
        )
        .await
        .map_err(&postgres)?;
    Ok(other.map(|_| {
        format!(
            "warning: partition {partition} will be held: {} is another stream than the cursor counts in; \
             --adopt-new-log starts over at its beginning",
            stream_name(partition)
        )
    }))
}

/// Events that wait are keyed by the old log's sequence; they go before those of the new one, and
/// must not take their keys.
async fn move_events_ahead(
    client: &Client,
    partition: i32,
    incarnation: Uuid,
) -> Result<(), MigrateError> {
    // Moved by more than they span, none lands on the key of another.
    client
        .execute(
            "update outbox set log_seq = log_seq - it.by from (\
               select greatest(max(log_seq), max(log_seq) - min(log_seq)) + 1 as by \
                 from outbox where partition = $1) it \
             where partition = $1 \
               and exists (select from progress where partition = $1 and incarnation <> $2)",
            &[&partition, &incarnation],
        )
        .await
        .map_err(DatabaseError::doing("settling a partition's events"))?;
    Ok(())
}
