//! The couriers that commands are sent to: created through the same API and seen to be there
//! before the first request is due, and read again when all is over.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header::HeaderValue;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::RunError;
use super::books::Outcome;
use super::settings::{Follow, Settings};
use super::source::{CourierState, Database, Miss, Source, Status, Verdict};
use super::transport::{Head, Transport};
use crate::couriers::{AVAILABLE, Courier, Fleet, MAX_CAPACITY};
use crate::replay::ItemAnswer;
use crate::replay::answer::interpret;

/// Couriers created with one request.
const CREATED_AT_ONCE: u64 = 500;
/// Requests under way when couriers are read one by one.
const READERS: usize = 8;
/// Pauses while somebody is away, or has not got that far.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A tracking id of each partner's, by which the database knows whose couriers are meant.
pub(super) type Witnesses = Vec<Uuid>;
/// Couriers by id, of each partner.
pub(super) type States = Vec<HashMap<String, CourierState>>;

/// Creates the fleet of every partner, and waits until it is there and as it was made: a fleet of
/// an earlier run with this seed that did not come to use it will do.
pub(super) async fn create(
    settings: &Settings,
    fleet: &Fleet,
    transports: &mut [Transport],
    sources: &mut [(Source, Vec<usize>)],
) -> Result<Option<Witnesses>, RunError> {
    if !settings.recipe.kinds.has_couriers() {
        return Ok(None);
    }
    let mut witnesses = Vec::new();
    for (partner, authorization) in settings.authorizations.iter().enumerate() {
        let mut creation = Creation {
            settings,
            fleet,
            partner,
            authorization,
            transports: &mut *transports,
            next: 0,
        };
        let mut ids = Vec::new();
        let all = fleet.all();
        for first in (0..all).step_by(usize::try_from(CREATED_AT_ONCE).expect("small")) {
            let numbers = first..all.min(first + CREATED_AT_ONCE);
            ids.extend(creation.send(numbers).await?);
        }
        let source = sources.iter_mut().find(|(_, of)| of.contains(&partner));
        if let Some((source, _)) = source {
            settled(source, &ids, settings.settle_timeout).await?;
        }
        witnesses.extend(ids.first());
    }
    if settings.follow == Follow::No {
        // Their creation is on the log before any command to them, and that is all there is.
        return Ok(None);
    }
    let states = states(settings, fleet, &witnesses).await;
    let states = states.map_err(RunError::Fleet)?;
    let fresh = CourierState {
        max_capacity: MAX_CAPACITY.cast_signed(),
        available_capacity: AVAILABLE.cast_signed(),
        version: 1,
    };
    for (partner, states) in states.iter().enumerate() {
        let ids = (0..fleet.all()).map(|number| fleet.id(partner, Courier::Fleet(number)));
        if ids.into_iter().any(|id| states.get(&id) != Some(&fresh)) {
            return Err(RunError::SeedUsed {
                seed: settings.recipe.seed,
            });
        }
    }
    Ok(Some(witnesses))
}

struct Creation<'a> {
    settings: &'a Settings,
    fleet: &'a Fleet,
    partner: usize,
    authorization: &'a HeaderValue,
    transports: &'a mut [Transport],
    /// The one whose turn it is.
    next: usize,
}

impl Creation<'_> {
    /// Creates some couriers; sent again until accepted, which at worst makes duplicates.
    async fn send(&mut self, numbers: Range<u64>) -> Result<Vec<Uuid>, RunError> {
        let until = Instant::now() + self.settings.settle_timeout;
        let mut left: Vec<u64> = numbers.collect();
        let mut ids = Vec::new();
        let mut pause = PAUSE_MIN;
        loop {
            let mut why = "no gateway answers".to_owned();
            let mut again = Vec::new();
            for (index, answer) in self.exchange(&left).await {
                match answer {
                    ItemAnswer::Accepted(id) => ids.push(id),
                    ItemAnswer::Rejected {
                        code,
                        retryable: false,
                    } => {
                        return Err(RunError::Fleet(format!("a creation was refused: {code}")));
                    }
                    ItemAnswer::Rejected { code, .. } | ItemAnswer::Unanswered { code } => {
                        again.push(left[index]);
                        why = code;
                    }
                }
            }
            if again.is_empty() {
                return Ok(ids);
            }
            left = again;
            if Instant::now() + pause > until {
                return Err(RunError::Fleet(why));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn exchange(&mut self, numbers: &[u64]) -> Vec<(usize, ItemAnswer)> {
        let settings = self.settings;
        self.next = (self.next + 1) % self.transports.len();
        let gateway = self.next / settings.streams % settings.gateways.len();
        let base = &settings.gateways[gateway];
        let head = Head {
            base: Arc::clone(base),
            method: Method::POST,
            target: base.target("/v1/couriers"),
            authorization: self.authorization.clone(),
            content_type: "application/x-ndjson",
        };
        let (fleet, partner) = (self.fleet, self.partner);
        let fill = |body: &mut Vec<u8>| {
            for number in numbers {
                fleet.write_body(partner, &Fleet::creation(*number), body);
                body.push(b'\n');
            }
        };
        let transport = &mut self.transports[self.next];
        let deadline = Instant::now() + settings.timeout;
        let answer = match transport.open().await {
            Ok(()) => transport.exchange(&head, fill, deadline).await,
            Err(failure) => Err(failure),
        };
        match answer {
            Ok(answer) => interpret(answer.status, answer.body, numbers.len()).items,
            Err(failure) => {
                let code = failure.code().to_owned();
                let none = ItemAnswer::Unanswered { code };
                (0..numbers.len())
                    .map(|index| (index, none.clone()))
                    .collect()
            }
        }
    }
}

/// Waits until every creation has its outcome: persisted, or there already.
async fn settled(source: &mut Source, ids: &[Uuid], patience: Duration) -> Result<(), RunError> {
    let until = Instant::now() + patience;
    for ids in ids.chunks(source.ids_max()) {
        let mut left = ids.to_vec();
        let mut pause = PAUSE_MIN;
        while !left.is_empty() {
            let found = match source.ask(&left).await {
                Ok(found) => found,
                Err(Miss::Again(_)) => Vec::new(),
                Err(Miss::Refused(why)) => return Err(RunError::Fleet(why)),
            };
            for found in found {
                match found.verdict {
                    Verdict::Settled(Outcome::Persisted | Outcome::Duplicate) => {
                        left.retain(|id| *id != found.tracking_id);
                    }
                    Verdict::Settled(Outcome::Failed(code)) => {
                        return Err(RunError::Fleet(format!("a creation failed: {code}")));
                    }
                    Verdict::Settled(Outcome::Lost)
                    | Verdict::Queued
                    | Verdict::Unknown
                    | Verdict::Nonsense(_) => {}
                }
            }
            if left.is_empty() {
                break;
            }
            if Instant::now() + pause > until {
                let why = format!("{} have no outcome after {patience:?}", left.len());
                return Err(RunError::Fleet(why));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
    Ok(())
}

/// The couriers of all partners' fleets as they are now.
///
/// # Errors
/// A sentence: nobody could be asked.
pub(super) async fn states(
    settings: &Settings,
    fleet: &Fleet,
    witnesses: &[Uuid],
) -> Result<States, String> {
    let mut all = Vec::new();
    for (partner, witness) in witnesses.iter().enumerate() {
        let ids = (0..fleet.all()).map(|number| fleet.id(partner, Courier::Fleet(number)));
        let ids: Vec<_> = ids.collect();
        all.push(match &settings.follow {
            Follow::Database(url) => from_database(url, *witness, &ids, settings).await?,
            Follow::Status | Follow::No => from_status(settings, partner, &ids).await?,
        });
    }
    Ok(all)
}

async fn from_database(
    url: &str,
    witness: Uuid,
    ids: &[String],
    settings: &Settings,
) -> Result<HashMap<String, CourierState>, String> {
    let until = Instant::now() + settings.settle_timeout;
    loop {
        let mut database = Database::new(url.to_owned());
        let asked = tokio::time::timeout(settings.timeout, database.couriers(witness, ids));
        let why = match asked.await {
            Ok(Ok(states)) => return Ok(states),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {:?}", settings.timeout),
        };
        if Instant::now() + PAUSE_MAX > until {
            return Err(format!("the database could not be read: {why}"));
        }
        tokio::time::sleep(PAUSE_MAX).await;
    }
}

async fn from_status(
    settings: &Settings,
    partner: usize,
    ids: &[String],
) -> Result<HashMap<String, CourierState>, String> {
    let until = Instant::now() + settings.settle_timeout;
    let mut readers = JoinSet::new();
    for ids in ids.chunks(ids.len().div_ceil(READERS).max(1)) {
        let key = settings.authorizations[partner].clone();
        let status = Status::new(&settings.status, key, settings.timeout);
        readers.spawn(read(status, ids.to_vec(), until));
    }
    let mut states = HashMap::new();
    while let Some(part) = readers.join_next().await {
        states.extend(part.expect("a reader does not panic")?);
    }
    Ok(states)
}

async fn read(
    mut status: Status,
    ids: Vec<String>,
    until: Instant,
) -> Result<HashMap<String, CourierState>, String> {
    let mut states = HashMap::new();
    for id in ids {
        let mut pause = PAUSE_MIN;
        loop {
            match status.courier(&id).await {
                Ok(Some(state)) => {
                    states.insert(id, state);
                    break;
                }
                Ok(None) => break,
                Err(Miss::Refused(why)) => return Err(why),
                Err(Miss::Again(_)) if Instant::now() + pause > until => {
                    return Err("the status API does not answer about couriers".to_owned());
                }
                Err(Miss::Again(_)) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }
    Ok(states)
}
