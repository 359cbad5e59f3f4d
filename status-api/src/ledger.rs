//! The way to the database, and the statements that read the ledger; those that read a state table
//! are beside it, in one module for each kind of resource.
//!
//! Each is one statement on one server, so that a row and the watermark it is judged by belong to
//! one snapshot; each names the partner.

use std::time::{Duration, Instant};

use contract::TrackingId;
use contract::outcome::{Action, Outcome};
use contract::record::Kind;
use sqlx::Row as _;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPool, PgPoolOptions, PgRow, Postgres};
use uuid::Uuid;

use crate::cursor::Cursor;
use crate::instant::Micros;
use crate::observe::{self, Query};

/// Longest wait for a connection: a database that is away is noticed within this.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// PostgreSQL gives a statement up after this many milliseconds.
const STATEMENT_TIMEOUT_MS: &str = "2500";

/// And this side stops listening after this, connection included: a frozen server says nothing.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// The columns of a ledger row, in the order `LedgerRow::read` takes them by name.
macro_rules! ledger_columns {
    () => {
        "r.tracking_id, r.kind, r.outcome, r.action, r.resource_id, r.code, r.detail, r.duplicate_of, r.completed_at"
    };
}

/// A statement with its parameters.
pub(crate) type Statement<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// A bounded pool of read-only sessions.
pub(crate) struct Ledger {
    pool: PgPool,
}

/// An id and who asks for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Asked {
    pub(crate) id: TrackingId,
    pub(crate) partner_id: i32,
}

/// What one statement saw of an id.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) row: Option<LedgerRow>,
    /// Of the id's partition; none if there is no such partition.
    pub(crate) committed_to: Option<Micros>,
}

/// A record's end.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct LedgerRow {
    pub(crate) tracking_id: Uuid,
    pub(crate) kind: Kind,
    pub(crate) outcome: Outcome,
    pub(crate) action: Option<Action>,
    pub(crate) resource_id: String,
    pub(crate) code: Option<String>,
    pub(crate) detail: Option<String>,
    pub(crate) duplicate_of: Option<Uuid>,
    pub(crate) completed_at: Micros,
}

/// One page of failures.
pub(crate) struct FailuresPage {
    pub(crate) rows: Vec<LedgerRow>,
    /// The smallest `committed_to` of all partitions; none before there are any.
    pub(crate) committed_to_min: Option<Micros>,
}

/// One partition's progress, and the database's clock when it was read.
pub(crate) struct Progress {
    pub(crate) partition: i32,
    pub(crate) committed_to: Micros,
    pub(crate) now: Micros,
}

/// The database did not answer. Every one of these may pass, so every one is a 503.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    #[error("the database did not answer the {query:?} query: {source}")]
    Database {
        query: &'static str,
        source: sqlx::Error,
    },
    #[error("the database took longer than {QUERY_TIMEOUT:?} for the {query:?} query")]
    TimedOut { query: &'static str },
}

impl Ledger {
    /// Connects when first asked, so that a process starts while the database is away.
    pub(crate) fn new(database: PgConnectOptions, connections_max: u32) -> Self {
        let database = database.application_name("weir-status-api").options([
            ("default_transaction_read_only", "on"),
            ("statement_timeout", STATEMENT_TIMEOUT_MS),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(ACQUIRE_TIMEOUT);
        Self {
            pool: pool.connect_lazy_with(database),
        }
    }

    /// What there is of each id, in the order asked, in one statement.
    pub(crate) async fn look_up(
        &self,
        asked: &[Asked],
        query: Query,
    ) -> Result<Vec<Seen>, LedgerError> {
        // `limit 1` keeps the planner from turning this into a scan of every day's partition:
        // each id is one index probe in the one partition that can hold it.
        const SQL: &str = concat!(
            "select ",
            ledger_columns!(),
            ", p.committed_to
             from unnest($1::uuid[], $2::int4[], $3::int4[]) with ordinality
                  as asked(tracking_id, partner_id, partition, position)
             left join lateral (select * from public.status_requests
                  where tracking_id = asked.tracking_id and partner_id = asked.partner_id
                  limit 1) as r on true
             left join public.status_progress p on p.partition = asked.partition
             order by asked.position"
        );
        let ids: Vec<Uuid> = asked.iter().map(|it| it.id.uuid()).collect();
        let partners: Vec<i32> = asked.iter().map(|it| it.partner_id).collect();
        let partitions: Vec<i32> = asked
            .iter()
            .map(|it| i32::from(it.id.partition().0))
            .collect();
        let statement = sqlx::query(SQL).bind(ids).bind(partners).bind(partitions);
        let seen = self.read(query, statement, read_seen).await?;
        assert_eq!(seen.len(), asked.len(), "one row per id asked for");
        Ok(seen)
    }

    /// A partner's failed requests with ids greater than `after`, ascending, and the lowest
    /// `committed_to`, in one statement.
    pub(crate) async fn failures(
        &self,
        partner_id: i32,
        after: Cursor,
        limit: i64,
    ) -> Result<FailuresPage, LedgerError> {
        // The index on failures names `outcome = 3` literally, so the statement does, too.
        const SQL: &str = concat!(
            "select ",
            ledger_columns!(),
            ", lowest.committed_to
             from (select min(committed_to) as committed_to from public.status_progress) as lowest
             left join lateral (select * from public.status_requests
                  where partner_id = $1 and outcome = 3 and tracking_id > $2
                  order by tracking_id limit $3) as r on true
             order by r.tracking_id"
        );
        let statement = sqlx::query(SQL)
            .bind(partner_id)
            .bind(after.uuid())
            .bind(limit);
        let read = |row: &PgRow| Ok((row.try_get("committed_to")?, LedgerRow::read(row)?));
        let rows = self.read(Query::Failures, statement, read).await?;
        Ok(FailuresPage {
            // The outer join gives one row at least, and the same in each.
            committed_to_min: rows.first().and_then(|(committed_to, _)| *committed_to),
            rows: rows.into_iter().filter_map(|(_, row)| row).collect(),
        })
    }

    /// Sends a statement and reads each of its rows; counted and timed as `query`.
    pub(crate) async fn read<T>(
        &self,
        query: Query,
        statement: Statement<'_>,
        read: impl Fn(&PgRow) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, LedgerError> {
        observe::ledger_query(query);
        let started = Instant::now();
        let rows = within(query.word(), statement.fetch_all(&self.pool)).await?;
        observe::ledger_query_took(query, started.elapsed());
        let rows: Result<Vec<T>, sqlx::Error> = rows.iter().map(read).collect();
        rows.map_err(|source| failed(query.word(), source))
    }

    /// Every partition's progress; also shows that the database is there and has its tables.
    pub(crate) async fn progress(&self) -> Result<Vec<Progress>, LedgerError> {
        const SQL: &str =
            "select partition, committed_to, clock_timestamp() as now from public.status_progress";
        let rows = within("progress", sqlx::query(SQL).fetch_all(&self.pool)).await?;
        let progress = rows.iter().map(|row| {
            let (partition, committed_to) =
                (row.try_get("partition")?, row.try_get("committed_to")?);
            Ok(Progress {
                partition,
                committed_to,
                now: row.try_get("now")?,
            })
        });
        progress
            .collect::<Result<_, sqlx::Error>>()
            .map_err(|source| failed("progress", source))
    }
}

async fn within<T>(
    query: &'static str,
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, LedgerError> {
    match tokio::time::timeout(QUERY_TIMEOUT, statement).await {
        Ok(Ok(rows)) => Ok(rows),
        Ok(Err(source)) => Err(failed(query, source)),
        Err(_) => {
            observe::database_error();
            Err(LedgerError::TimedOut { query })
        }
    }
}

fn failed(query: &'static str, source: sqlx::Error) -> LedgerError {
    observe::database_error();
    LedgerError::Database { query, source }
}

fn read_seen(row: &PgRow) -> Result<Seen, sqlx::Error> {
    Ok(Seen {
        row: LedgerRow::read(row)?,
        committed_to: row.try_get("committed_to")?,
    })
}

impl LedgerRow {
    /// None when the outer join found no row.
    fn read(row: &PgRow) -> Result<Option<Self>, sqlx::Error> {
        let Some(tracking_id) = row.try_get("tracking_id")? else {
            return Ok(None);
        };
        let action = match row.try_get::<Option<i16>, _>("action")? {
            Some(number) => Some(word("action", number, Action::from_number(number))?),
            None => None,
        };
        let (kind, outcome) = (row.try_get("kind")?, row.try_get("outcome")?);
        Ok(Some(Self {
            tracking_id,
            kind: word("kind", kind, Kind::from_number(kind))?,
            outcome: word("outcome", outcome, Outcome::from_number(outcome))?,
            action,
            resource_id: row.try_get("resource_id")?,
            code: row.try_get("code")?,
            detail: row.try_get("detail")?,
            duplicate_of: row.try_get("duplicate_of")?,
            completed_at: row.try_get("completed_at")?,
        }))
    }
}

/// A number without a word was written by a newer worker: saying anything of it would be a guess.
fn word<T>(column: &str, number: i16, known: Option<T>) -> Result<T, sqlx::Error> {
    known.ok_or_else(|| sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: format!("no word for {number}: this status-api is older than the worker").into(),
    })
}
