//! Connections to PostgreSQL, and what it must be set to.

use std::path::Path;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts};
use tokio_postgres::{Client, Config};
use tokio_util::task::AbortOnDropHandle;

use tls::Tls;
pub(crate) use tls::{Address, AddressError};

mod tls;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection whose peer stays silent below is given up after about this long.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Connections for everything but writing: leases, look-ups and the ledger's upkeep, one each,
/// and one spare for a hung one.
const POOL_CONNECTIONS: usize = 4;

/// A database that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The URL, or what belongs to it, cannot be used.
    #[error("the database's address: {0}")]
    Address(#[from] AddressError),
    /// No connection, a broken one, or a refused statement.
    #[error("{doing}: {}", words(.source))]
    Postgres {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: tokio_postgres::Error,
    },
    /// The pool had no connection to give.
    #[error("no database connection: {}", pool_words(.0))]
    Pool(#[source] deadpool_postgres::PoolError),
    /// The database did not answer in time.
    #[error("{doing}: no answer within {limit:?}")]
    Silent {
        /// What was being done.
        doing: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// It would lose what it has confirmed.
    #[error(
        "the database runs with {setting} off: a commit that a crash takes back would lose acknowledged records"
    )]
    Unsafe {
        /// `fsync` or `synchronous_commit`.
        setting: &'static str,
    },
    /// `migrate` has not been run.
    #[error("the database holds no installation: run `persist-worker migrate`")]
    NotInstalled,
}

impl DatabaseError {
    pub(crate) fn doing(doing: &'static str) -> impl Fn(tokio_postgres::Error) -> Self {
        move |source| Self::Postgres { doing, source }
    }
}

/// The server's own words, which tokio-postgres keeps out of its message.
pub(crate) fn words(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    match (error.as_db_error(), error.source()) {
        (Some(refused), _) => format!("{} ({})", refused.message(), refused.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

fn pool_words(error: &deadpool_postgres::PoolError) -> String {
    match error {
        deadpool_postgres::PoolError::Backend(error) => words(error),
        other => other.to_string(),
    }
}

/// Where the database is, and a small pool for what is not writing.
#[derive(Clone)]
pub(crate) struct Database {
    config: Config,
    tls: Tls,
    pool: Pool,
}

/// A connection of one's own; ends when dropped.
pub(crate) struct Connection {
    pub(crate) client: Client,
    _driver: AbortOnDropHandle<()>,
}

impl Database {
    /// Connects to nothing yet. `ca`: who vouches for the server.
    pub(crate) fn new(
        url: &str,
        ca: Option<&Path>,
        application: &str,
    ) -> Result<Self, DatabaseError> {
        let Address {
            mut config, tls, ..
        } = Address::read(url, ca)?;
        config
            .application_name(application)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(SILENCE_MAX)
            .keepalives(true)
            .keepalives_idle(SILENCE_MAX / 2)
            .keepalives_interval(SILENCE_MAX / 4)
            .keepalives_retries(2);
        let recycling = ManagerConfig {
            // `Fast` notices only a connection that is known to be closed.
            recycling_method: RecyclingMethod::Verified,
        };
        let manager = Manager::from_config(config.clone(), tls.clone(), recycling);
        let pool = Pool::builder(manager)
            .max_size(POOL_CONNECTIONS)
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts {
                wait: Some(CONNECT_TIMEOUT),
                create: Some(CONNECT_TIMEOUT),
                recycle: Some(CONNECT_TIMEOUT),
            })
            .build()
            .expect("a runtime is given for the timeouts");
        Ok(Self { config, tls, pool })
    }

    /// A connection of the pool.
    pub(crate) async fn pooled(&self) -> Result<deadpool_postgres::Object, DatabaseError> {
        self.pool.get().await.map_err(DatabaseError::Pool)
    }

    /// A connection outside the pool.
    pub(crate) async fn connect(&self, application: &str) -> Result<Connection, DatabaseError> {
        let mut config = self.config.clone();
        config.application_name(application);
        let (client, driver) = config
            .connect(self.tls.clone())
            .await
            .map_err(DatabaseError::doing("connecting to the database"))?;
        let driver = tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(error = words(&error), "database connection ended");
            }
        });
        Ok(Connection {
            client,
            _driver: AbortOnDropHandle::new(driver),
        })
    }
}

/// Says so when the user may do anything: whatever a flaw of the worker's lets in, may, too.
pub(crate) async fn warn_of_superuser(client: &Client) -> Result<(), DatabaseError> {
    let row = client
        .query_one("select current_setting('is_superuser') = 'on'", &[])
        .await
        .map_err(DatabaseError::doing("asking who the database's user is"))?;
    if row.get(0) {
        tracing::warn!(
            "the worker's database user is a superuser: give it one that has the role weir_worker \
             and nothing else"
        );
    }
    Ok(())
}

/// Refuses a database whose commits do not survive a power cut.
pub(crate) async fn check_settings(client: &Client) -> Result<(), DatabaseError> {
    let row = client
        .query_one(
            "select current_setting('fsync') = 'off', current_setting('synchronous_commit') = 'off'",
            &[],
        )
        .await
        .map_err(DatabaseError::doing("reading the database's settings"))?;
    for (column, setting) in ["fsync", "synchronous_commit"].into_iter().enumerate() {
        if row.get(column) {
            return Err(DatabaseError::Unsafe { setting });
        }
    }
    Ok(())
}
