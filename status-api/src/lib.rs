//! What became of every request: the read side.
//!
//! ```text
//! key -> partner -> tracking id whose tag verifies -> one statement (ledger row + watermark) -> answer
//! ```
//!
//! Knows nothing of the log or of how records are written: it sees the database through
//! read-only sessions, and while it cannot, it says so (503) instead of guessing (404).

mod answer;
mod api;
pub mod config;
mod couriers;
mod cursor;
mod instant;
mod keyset;
mod ledger;
mod monitor;
mod observe;
mod query;
mod rides;
mod routes;
mod serving;
mod settling;
mod standing;
mod tags;
mod waiting;

use std::net::SocketAddr;
use std::sync::Arc;

use chassis::listen::BindError;
use chassis::readiness::Readiness;
use chassis::shutdown::{Abandoned, Shutdown};
use chassis::telemetry::Telemetry;
use partners::{Partners, Sources};
use tokio::task::JoinHandle;

use crate::api::State;
use crate::ledger::Ledger;
use crate::waiting::Waiters;

pub use config::{Args, Config};

/// The service could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A bound socket does not tell its address.
    #[error("cannot tell a bound socket's address: {0}")]
    Address(#[from] std::io::Error),
    /// The log's address cannot be used.
    #[error(transparent)]
    Connect(#[from] partners::ConnectError),
}

/// A started service; dropping it ends it without a drain.
#[derive(Debug)]
pub struct Running {
    /// Where it answers.
    pub listening: SocketAddr,
    /// Where its probes and metrics are.
    pub admin: SocketAddr,
    serving: JoinHandle<Result<(), Abandoned>>,
    background: Vec<JoinHandle<()>>,
}

/// Binds both listeners and begins to serve. The database may be away: answers are 503 until it
/// is there, and `/readyz` says so.
///
/// # Errors
/// [`StartError`] when a port cannot be bound, or the log's address is none.
pub async fn start(
    mut config: Config,
    telemetry: Telemetry,
    shutdown: Shutdown,
) -> Result<Running, StartError> {
    let listener = chassis::listen::bind(config.listen).await?;
    let admin_listener = chassis::listen::bind(config.admin_listen).await?;
    let (listening, admin) = (listener.local_addr()?, admin_listener.local_addr()?);
    observe::describe();

    let readiness = Readiness::new();
    let mut background = Vec::new();
    let tls = config.tls.take().map(Arc::new);
    if let Some(tls) = &tls {
        background.push(tokio::spawn(Arc::clone(tls).follow(readiness.note("tls"))));
    }
    let partners = follow_partners(&config, &readiness, &mut background).await?;
    let ledger = Ledger::new(config.database.clone(), config.database_connections);
    // Apart, so that neither a probe nor a long poll queues behind a crowd of plain requests.
    let background_ledger = Arc::new(Ledger::new(
        config.database.clone(),
        waiting::BACKGROUND_CONNECTIONS,
    ));
    let waiters = Arc::new(Waiters::new(config.long_polls_max));

    let probed = admin_probes(
        admin_listener,
        readiness.clone(),
        telemetry,
        shutdown.clone(),
    );
    let watched = monitor::run(
        Arc::clone(&background_ledger),
        readiness.condition("database"),
    );
    let polled = waiting::run(
        Arc::clone(&waiters),
        background_ledger,
        config.ledger_retention,
    );
    background.extend([
        tokio::spawn(probed),
        tokio::spawn(watched),
        tokio::spawn(polled),
    ]);

    let limits = serving::limits(&config);
    let state = State::new(config, partners, ledger, waiters, shutdown.clone());
    let served = chassis::http::serve(listener, api::router(state), limits, tls, shutdown);
    let serving = tokio::spawn(served);
    Ok(Running {
        listening,
        admin,
        serving,
        background,
    })
}

/// Who may ask: as the log has it, which may be away for as long as it likes.
async fn follow_partners(
    config: &Config,
    readiness: &Readiness,
    background: &mut Vec<JoinHandle<()>>,
) -> Result<Partners, partners::ConnectError> {
    if config.log.urls.is_empty() {
        return Ok(Partners::fixed(&config.partners));
    }
    let client = config.log.stay_connected("status-api").await?;
    let (partners, watcher) = Partners::watch(Sources {
        seed: config.partners.clone(),
        cache: config.partners_cache.clone(),
    });
    let known = readiness.condition("partners");
    let watching = watcher.run(client, move |state| match state {
        Ok(()) => known.ready(),
        Err(reason) => known.not_ready(reason),
    });
    background.push(tokio::spawn(watching));
    Ok(partners)
}

async fn admin_probes(
    listener: tokio::net::TcpListener,
    readiness: Readiness,
    telemetry: Telemetry,
    shutdown: Shutdown,
) {
    if let Err(error) = chassis::admin::serve(listener, readiness, telemetry, shutdown).await {
        tracing::error!(%error, "the admin listener failed");
    }
}

impl Running {
    /// Returns once shutdown has begun and every request under way is answered.
    ///
    /// # Errors
    /// [`Abandoned`] when some were not within the grace.
    pub async fn drained(mut self) -> Result<(), Abandoned> {
        (&mut self.serving)
            .await
            .expect("the accept loop does not panic")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.serving.abort();
        for task in &self.background {
            task.abort();
        }
    }
}
