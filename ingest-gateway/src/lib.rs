//! HTTP in, records validated, chunks published to the log, 202 out.
//!
//! `ingest.rs` holds the story of a request. Everything is bounded, and a record that was answered
//! 202 is on the log's disk.

mod admission;
mod answer;
mod body;
mod clock;
mod condition;
mod config;
mod ingest;
mod item;
mod json;
mod lanes;
mod link;
mod many;
mod measure;
mod peers;
mod publisher;
mod queue;
mod quota;
mod received;
mod refusal;
mod route;
mod server;
mod shares;
mod work;

use std::net::SocketAddr;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chassis::listen::BindError;
use chassis::readiness::{Condition, Readiness};
use chassis::shutdown::Shutdown;
use contract::tracking_id::Minter;
use partners::{Partners, Sources};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

pub use config::{Args, Config, ConfigError};

use crate::clock::Clock;
use crate::ingest::{Gateway, Log};
use crate::link::{Link, Watch};
use crate::measure::{Measures, PartitionMeasures};
use crate::peers::Heartbeat;
use crate::publisher::Publisher;
use crate::queue::{PUBLISHERS, Queue};
use crate::quota::Quotas;
use crate::work::Work;

/// Why a gateway did not run, or did not end in order.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A socket could not be bound.
    #[error("cannot start")]
    Bind(#[from] BindError),
    /// A bound socket does not know its address.
    #[error("cannot tell the address of a listening socket")]
    Address(#[source] std::io::Error),
    /// The log's address cannot be used.
    #[error("cannot connect to the log")]
    Connect(#[from] partners::ConnectError),
    /// The drain took longer than its grace.
    #[error(transparent)]
    Abandoned(#[from] chassis::shutdown::Abandoned),
}

/// A gateway whose sockets are bound, and which serves once it is run.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    listener: TcpListener,
    admin: TcpListener,
}

impl Bound {
    /// Binds both sockets.
    ///
    /// # Errors
    /// [`RunError::Bind`] naming the address.
    pub async fn bind(config: Config) -> Result<Self, RunError> {
        let listener = chassis::listen::bind(config.args.listen).await?;
        let admin = chassis::listen::bind(config.args.admin_listen).await?;
        Ok(Self {
            config,
            listener,
            admin,
        })
    }

    /// Where requests arrive, and where the admin listener is.
    ///
    /// # Errors
    /// [`RunError::Address`].
    pub fn addresses(&self) -> Result<(SocketAddr, SocketAddr), RunError> {
        let of = |listener: &TcpListener| listener.local_addr().map_err(RunError::Address);
        Ok((of(&self.listener)?, of(&self.admin)?))
    }

    /// Serves until shutdown begins and everything begun is answered. The log may be away at
    /// start: until it is reached, requests are answered 503 and `/readyz` says why.
    ///
    /// # Errors
    /// [`RunError`]; [`RunError::Abandoned`] when the drain did not end within its grace.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), RunError> {
        let Self {
            config,
            listener,
            admin,
        } = self;
        let args = config.args.clone();
        let telemetry = chassis::telemetry::init(&args.telemetry, "ingest-gateway");
        let readiness = Readiness::new();
        let tls = config.tls.map(Arc::new);
        if let Some(tls) = &tls {
            tokio::spawn(Arc::clone(tls).follow(readiness.note("tls")));
        }
        let (client, gone_since) = link::connect(&args.log(), &config.name).await?;
        let clock = Arc::new(Clock::new());
        let measures = Arc::new(Measures::new());
        let (partners, watcher) = Partners::watch(Sources {
            seed: config.partners,
            cache: args.partners_cache.clone(),
        });
        let known = readiness.condition("partners");
        let watching = tokio::spawn(watcher.run(client.clone(), move |state| match state {
            Ok(()) => known.ready(),
            Err(reason) => known.not_ready(reason),
        }));
        // Alone until it hears of others, which is before it takes its first record.
        let gateways = Arc::new(AtomicU32::new(1));
        let gateway = Arc::new(Gateway {
            partners,
            minter: Minter::new(config.tracking_keys),
            clock: Arc::clone(&clock),
            discards: body::Discards::new(),
            bodies: body::Room::new(
                args.body_bytes_max.0 as usize,
                measures.body_bytes_in_flight.clone(),
            ),
            quotas: Quotas::new(Arc::clone(&gateways)),
            work: Work::new(),
            measures,
            body_wait: args.body_read_limit,
            request_wait: args.request_deadline,
            status_base: config.status_base,
            log: OnceLock::new(),
        });
        // Made before anyone can ask: a process without conditions would pass for ready.
        let opening = Opening {
            client: client.clone(),
            gone_since,
            gateway: Arc::clone(&gateway),
            publish_deadline: args.publish_deadline,
            heartbeat: Heartbeat::new(client.clone(), &config.name, gateways),
            name: config.name,
            log_condition: readiness.condition("log"),
            clock_condition: readiness.condition("clock"),
            publishers: TaskTracker::new(),
        };
        let publishers = opening.publishers.clone();
        let opening = tokio::spawn(opening.run(shutdown.clone()));
        let admin = tokio::spawn(chassis::admin::serve(
            admin,
            readiness,
            telemetry,
            shutdown.clone(),
        ));
        let served = server::serve(listener, Arc::clone(&gateway), &args, tls, shutdown.clone());
        let drained = drain(
            served,
            &gateway,
            &publishers,
            &shutdown,
            args.shutdown_grace,
        )
        .await;
        opening.abort();
        watching.abort();
        admin.abort();
        drop(client);
        drained?;
        tracing::info!("drained");
        Ok(())
    }
}

/// Serves, and once shutdown has begun waits for what is under way, within the grace.
async fn drain(
    served: impl Future<Output = ()>,
    gateway: &Gateway,
    publishers: &TaskTracker,
    shutdown: &Shutdown,
    grace: Duration,
) -> Result<(), chassis::shutdown::Abandoned> {
    let ended = async {
        served.await;
        // Every request is answered. What clients left behind is published still.
        if let Some(log) = gateway.log.get() {
            log.queues.iter().for_each(|queue| queue.close());
        }
        publishers.close();
        publishers.wait().await;
    };
    let mut ended = std::pin::pin!(ended);
    tokio::select! {
        () = ended.as_mut() => return Ok(()),
        () = shutdown.begun() => {}
    }
    chassis::shutdown::drain("a request or a publish", grace, ended).await
}

/// Opens the log once it can be reached, starts its publishers, and keeps watching it.
struct Opening {
    client: async_nats::Client,
    gone_since: tokio::sync::watch::Receiver<Option<std::time::Instant>>,
    gateway: Arc<Gateway>,
    publish_deadline: Duration,
    heartbeat: Heartbeat,
    name: String,
    log_condition: Condition,
    clock_condition: Condition,
    publishers: TaskTracker,
}

impl Opening {
    async fn run(mut self, shutdown: Shutdown) {
        let clock = Arc::clone(&self.gateway.clock);
        let opened = link::open(
            &self.client,
            &clock,
            self.publish_deadline,
            &self.log_condition,
        );
        let metadata = tokio::select! {
            metadata = opened => metadata,
            // Nothing was accepted, so nothing has to be published.
            () = shutdown.begun() => return,
        };
        let partitions = metadata.partitions;
        // Only a gateway that takes records has a share of what they may be, and it knows its
        // share before it takes any. Waited for at the end: it tells the others that it goes.
        self.heartbeat.beat().await;
        self.publishers.spawn(self.heartbeat.run(shutdown));
        let link = Arc::new(Link::new(self.client, self.gone_since, partitions));
        let queues: Vec<_> = partitions
            .iter()
            .map(|partition| Arc::new(Queue::new(partition)))
            .collect();
        for queue in &queues {
            for index in 0..PUBLISHERS {
                let publisher = Publisher {
                    index,
                    queue: Arc::clone(queue),
                    link: Arc::clone(&link),
                    clock: Arc::clone(&clock),
                    measures: PartitionMeasures::new(queue.partition),
                    totals: Arc::clone(&self.gateway.measures),
                    deadline: self.publish_deadline,
                    origin: self.name.clone(),
                };
                self.publishers.spawn(publisher.run());
            }
        }
        tracing::info!(partitions = partitions.count(), installation = %metadata.installation, "log opened");
        let opened = self.gateway.log.set(Log {
            partitions,
            queues,
            link: Arc::clone(&link),
        });
        assert!(opened.is_ok(), "the log is opened once");
        let watch = Watch {
            link,
            clock,
            measures: Arc::clone(&self.gateway.measures),
            metadata,
            publish_deadline: self.publish_deadline,
            log: self.log_condition,
            clock_condition: self.clock_condition,
        };
        watch.run().await;
    }
}
