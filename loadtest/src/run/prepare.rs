//! Everything that has to be there before the first request is due.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use tokio::task::JoinSet;

use super::RunError;
use super::actions;
use super::books::Books;
use super::engine::{Contradictions, Engine, Given, Heads};
use super::fleet;
use super::follow::{Follower, Following, try_database};
use super::generate::Generator;
use super::http1::Http1;
use super::http2::{Http2, Shared};
use super::servers::Servers;
use super::settings::{Follow, Model, Settings};
use super::source::{Source, Status};
use super::transport::{Head, Transport};
use crate::replay::preflight::reachable;
use crate::signals::Signals;

/// What sending starts with.
pub(super) struct Ready {
    pub(super) engine: Arc<Engine>,
    pub(super) transports: Vec<Transport>,
    /// Whom followers ask, each with the partners whose ids it knows.
    pub(super) sources: Vec<(Source, Vec<usize>)>,
    pub(super) servers: Option<Servers>,
    /// If there are couriers in the mix, and they can be asked about.
    pub(super) witnesses: Option<fleet::Witnesses>,
}

/// Sees that everybody is there and lets this key in, renders the bodies, opens the connections.
pub(super) async fn prepare(settings: &Settings) -> Result<Ready, RunError> {
    for key in &settings.authorizations {
        if settings.follow != Follow::No {
            // The cheapest question that needs the key and counts no unknown id.
            let route = "/v1/requests?status=failed&limit=1";
            reachable("status API", &settings.status, route, key).await?;
        }
        if settings.http == 1 {
            reachable("gateway", &settings.gateways, "/openapi.json", key).await?;
        }
    }
    if let Some((path, _)) = &settings.stack {
        actions::check(&settings.actions, path)?;
    }
    let mut sources = sources(settings).await?;
    let generator = Generator::new(settings.recipe.clone(), settings.records());
    refuse_used_seed(settings, &generator).await?;
    let mut transports = connect(settings).await?;
    let fleet = generator.fleet();
    let witnesses = fleet::create(settings, fleet, &mut transports, &mut sources).await?;
    let engine = Engine::new(
        generator,
        heads(settings),
        settings.timeout,
        settings.follow != Follow::No,
    );
    let stack = settings.stack.as_ref();
    Ok(Ready {
        engine: Arc::new(engine),
        transports,
        sources,
        witnesses,
        servers: stack.map(|(path, endpoints)| Servers::watch(path.clone(), endpoints)),
    })
}

async fn sources(settings: &Settings) -> Result<Vec<(Source, Vec<usize>)>, RunError> {
    match &settings.follow {
        Follow::No => Ok(Vec::new()),
        Follow::Status => {
            let lookups = settings.lookups().unwrap_or_default();
            let sources = lookups.into_iter().map(|it| Source::Status(Box::new(it)));
            Ok((0..)
                .map(|partner| vec![partner])
                .zip(sources)
                .map(|(a, b)| (b, a))
                .collect())
        }
        Follow::Database(url) => {
            let source = try_database(url).await.map_err(RunError::Database)?;
            Ok(vec![(source, (0..settings.authorizations.len()).collect())])
        }
    }
}

/// A seed makes the same ids each time: used twice, all would be duplicates.
async fn refuse_used_seed(settings: &Settings, generator: &Generator) -> Result<(), RunError> {
    let lookups = settings.lookups().unwrap_or_default();
    // The first request is one of rides if there are any.
    let first_ride = format!("/v1/rides/{}", generator.id(0));
    if settings.recipe.kinds.has_rides()
        && let Some(mut status) = lookups.into_iter().next()
        && status.is_stored(&first_ride).await == Ok(true)
    {
        return Err(RunError::SeedUsed {
            seed: settings.recipe.seed,
        });
    }
    Ok(())
}

fn heads(settings: &Settings) -> Vec<Vec<Heads>> {
    let gateways = settings.gateways.iter();
    gateways
        .map(|base| {
            let partners = settings.authorizations.iter();
            partners
                .map(|authorization| {
                    let head = |route| Head {
                        base: Arc::clone(base),
                        method: Method::POST,
                        target: base.target(route),
                        authorization: authorization.clone(),
                        content_type: settings.recipe.body.content_type(),
                    };
                    Heads {
                        rides: head("/v1/rides"),
                        couriers: head("/v1/courier-commands"),
                    }
                })
                .collect()
        })
        .collect()
}

/// Opens all connections, those to each gateway in turn; one that opens is enough, since others
/// may come back.
async fn connect(settings: &Settings) -> Result<Vec<Transport>, RunError> {
    let gateways = settings.gateways.len();
    let mut transports = Vec::new();
    let mut opening = JoinSet::new();
    for number in 0..settings.connections {
        let base = &settings.gateways[number % gateways];
        if settings.http == 1 {
            let transport = Transport::One(Box::new(Http1::new(Arc::clone(base))));
            opening.spawn(open(number, transport));
            continue;
        }
        let shared = Arc::new(Shared::new(Arc::clone(base)));
        for _ in 0..settings.streams {
            let transport = Transport::Two(Http2::new(Arc::clone(&shared)));
            opening.spawn(open(number, transport));
        }
    }
    let mut opened = false;
    while let Some(done) = opening.join_next().await {
        let (number, transport, is_open) = done.expect("opening a connection does not panic");
        opened |= is_open;
        transports.push((number, transport));
    }
    if !opened {
        return Err(RunError::Connect {
            url: settings.gateways[0].to_string(),
            http: settings.http,
        });
    }
    transports.sort_by_key(|(number, _)| *number);
    Ok(transports
        .into_iter()
        .map(|(_, transport)| transport)
        .collect())
}

async fn open(number: usize, mut transport: Transport) -> (usize, Transport, bool) {
    let opened = transport.open().await.is_ok();
    (number, transport, opened)
}

impl Settings {
    /// One look-up client for each partner, if there is a status API.
    pub(super) fn lookups(&self) -> Option<Vec<Status>> {
        if self.status.is_empty() {
            return None;
        }
        let partners = self.authorizations.iter();
        let status = |key: &http::HeaderValue| Status::new(&self.status, key.clone(), self.timeout);
        Some(partners.map(status).collect())
    }

    /// What will be done, in a line.
    pub(super) fn summary(&self) -> String {
        let recipe = &self.recipe;
        let mut what = match recipe.batch {
            1 => recipe.body.name().to_owned(),
            batch => format!("{} of {batch}", recipe.body.name()),
        };
        if recipe.kinds.has_couriers() {
            let share = recipe.kinds.couriers() * 100.0;
            what += &format!("; {share}% commands to {} couriers", recipe.couriers);
        }
        let rate = match &self.model {
            Model::Open(profile) => format!(
                "{}, {:.0} records/s (peak {:.0})",
                self.profile_text,
                profile.mean_rate(),
                profile.peak_rate()
            ),
            Model::Closed { .. } => {
                format!("closed, {} at a time", self.connections * self.streams)
            }
            Model::FindCapacity { first_rate, .. } => {
                format!("find-capacity from {first_rate:.0} records/s")
            }
        };
        let targets: Vec<_> = self.gateways.iter().map(ToString::to_string).collect();
        format!(
            "{rate}; {what}; HTTP/{} over {} connections to {}; seed {}",
            if self.http == 1 { "1.1" } else { "2" },
            self.connections,
            targets.join(", "),
            recipe.seed,
        )
    }
}

/// Followers at work.
pub(super) struct Followers {
    following: Option<Arc<Following>>,
    tasks: JoinSet<Vec<Given>>,
}

/// What following has brought.
pub(super) struct Followed {
    pub(super) books: Books,
    pub(super) unsettled: Vec<Given>,
    pub(super) refused: Option<String>,
    /// By how much `visible` may be too long.
    pub(super) lag_max: Duration,
    pub(super) elapsed: Duration,
    pub(super) contradictions: Contradictions,
}

impl Followers {
    pub(super) fn start(
        settings: &Settings,
        engine: &Arc<Engine>,
        sources: Vec<(Source, Vec<usize>)>,
        started: Instant,
        signals: &Signals,
    ) -> Self {
        let mut tasks = JoinSet::new();
        if sources.is_empty() {
            return Self {
                following: None,
                tasks,
            };
        }
        let following = Arc::new(Following::new(Arc::clone(engine), started, sources.len()));
        for (number, (source, partners)) in sources.into_iter().enumerate() {
            let follower = Follower {
                following: Arc::clone(&following),
                number,
                partners,
                source,
                settle_timeout: settings.settle_timeout,
                stop: signals.stop_following.clone(),
            };
            tasks.spawn(follower.run());
        }
        Self {
            following: Some(following),
            tasks,
        }
    }

    pub(super) fn following(&self) -> Option<Arc<Following>> {
        self.following.clone()
    }

    /// Waits until every id has its outcome, or patience ends; `None` if nothing was followed.
    pub(super) async fn finish(mut self, engine: &Engine) -> Option<Followed> {
        let began = Instant::now();
        let following = self.following?;
        following.sending_is_over();
        let mut unsettled = Vec::new();
        while let Some(left) = self.tasks.join_next().await {
            unsettled.extend(left.expect("a follower does not panic"));
        }
        Some(Followed {
            books: following.take_books(),
            unsettled,
            refused: following.refused(),
            lag_max: following.lag_max(),
            elapsed: began.elapsed(),
            contradictions: engine.contradictions(),
        })
    }
}
