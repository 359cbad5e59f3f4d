//! The kinds of records there are. This is the only place that lists them.
//!
//! A kind is one module beside this one, and a line for it wherever this file names the others. The
//! module provides
//!
//! - `State`: what a resource of the kind is, as far as judging needs it;
//! - `judge`: what a record does to a state; pure, the same on either path;
//! - `look_up`: the states of the resources that a batch names, in one wait;
//! - `CREATE_STAGED`, `COPY_STAGED`, `encode_staged`, `MERGE`: the way into its table, by a staging
//!   table that takes every state which the batch goes through, so that the record is found that
//!   cannot be stored, and gives the last of each resource to the table.
//!
//! Neither path, nor narrowing, nor the ledger, nor the outbox knows one kind from another. There
//! is no trait for this: nothing is generic over kinds, and what each does is not quite the same.
//! Rides are judged without having been seen on the fast path and go straight into their table;
//! couriers are always looked up, and bring the references of their movements.

use std::collections::HashMap;

use contract::Record;
use contract::content_hash::UnknownVersion;
use contract::event::Event;
use futures_util::future::join3;
use tokio_postgres::{Error, Statement, Transaction};

use super::careful::CREATE_INCOMING;
use super::copy::prepare_if;
use super::couriers::{self, Movement, MovementKey};
use super::fault::Refusal;
use super::fold::{Item, Items, Judgement, Key, Verdict, Write};
use super::rides;
use super::session::Session;
use super::staging::Staging;
use crate::batch::Path;

/// What a resource is.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum State {
    Ride(rides::State),
    Courier(couriers::State),
}

impl State {
    pub(super) fn ride(&self) -> Option<&rides::State> {
        match self {
            Self::Ride(state) => Some(state),
            Self::Courier(_) => None,
        }
    }

    pub(super) fn courier(&self) -> Option<&couriers::State> {
        match self {
            Self::Courier(state) => Some(state),
            Self::Ride(_) => None,
        }
    }

    /// Whether its row holds what earlier records brought: one that cannot be stored takes those
    /// after it down.
    pub(super) fn builds_on_others(&self) -> bool {
        match self {
            Self::Ride(_) => false,
            Self::Courier(_) => true,
        }
    }
}

/// What is known from the database before folding.
#[derive(Debug, Default)]
pub(crate) struct Known<'b> {
    /// Per item: whether the ledger has its tracking id. Empty means none.
    pub(crate) in_ledger: Vec<bool>,
    /// The resources that exist, of those that the batch is about. On the fast path: no rides.
    pub(crate) states: HashMap<Key<'b>, State>,
    /// The movements that took effect, of those whose references the batch names.
    pub(crate) movements: HashMap<MovementKey<'b>, Movement>,
}

/// The resources as they are at one place in the log.
#[derive(Debug)]
pub(super) struct Now<'k, 'b> {
    known: &'k Known<'b>,
    slots: HashMap<Key<'b>, Slot>,
    /// Those of the batch.
    movements: HashMap<MovementKey<'b>, Movement>,
}

#[derive(Debug)]
struct Slot {
    state: Option<State>,
    /// The resource's latest place among the writes.
    write: Option<usize>,
}

/// What became of a record.
#[derive(Debug)]
pub(super) enum Step {
    Settled(Verdict),
    /// Its resource was written; the verdict says how.
    Written {
        verdict: Verdict,
        after: State,
        events: Vec<Event>,
        /// Where the resource was written before.
        overwritten: Option<usize>,
    },
}

impl<'k, 'b> Now<'k, 'b> {
    /// As the database has them.
    pub(super) fn new(known: &'k Known<'b>, items: usize) -> Self {
        Self {
            known,
            slots: HashMap::with_capacity(items),
            movements: HashMap::new(),
        }
    }

    /// Lets the next record of the log take effect, unless it is `unstorable`. If it is written,
    /// that will be the batch's write number `place`.
    pub(super) fn step(
        &mut self,
        item: &Item<'b>,
        unstorable: Option<&Refusal>,
        place: usize,
    ) -> Result<Step, UnknownVersion> {
        let slot = self.slots.entry(item.key).or_insert_with(|| Slot {
            state: self.known.states.get(&item.key).cloned(),
            write: None,
        });
        let movement = MovementKey::of(item);
        let judgement = match &item.entry.record {
            Record::Ride(_) => rides::judge(slot.state.as_ref().and_then(State::ride), item)?,
            Record::Courier(command) => {
                let made = |key| self.movements.get(key);
                let known = |key| self.known.movements.get(key);
                let earlier = movement
                    .as_ref()
                    .and_then(|key| made(key).or_else(|| known(key)));
                let state = slot.state.as_ref().and_then(State::courier);
                couriers::judge(state, command, earlier.copied(), item)?
            }
        };
        let (after, events, action) = match judgement {
            Judgement::Settled(verdict) => return Ok(Step::Settled(verdict)),
            Judgement::Change {
                after,
                events,
                action,
            } => (after, events, action),
        };
        if let Some(refusal) = unstorable {
            return Ok(Step::Settled(Verdict::Unstorable(refusal.clone())));
        }
        if let Some(key) = movement {
            self.movements.insert(key, Movement::of(item));
        }
        let overwritten = slot.write.replace(place);
        slot.state = Some(after.clone());
        Ok(Step::Written {
            verdict: Verdict::Persisted(action),
            after,
            events,
            overwritten,
        })
    }
}

/// Whether a batch must look first whatever the tables' keys would say. A ride that is written
/// twice must, because the content in between would never meet the database, which might refuse
/// it; a couriers' staging table takes every state anyway.
pub(super) fn must_look_first(writes: &[Write]) -> bool {
    let twice = |write: &Write| !write.last && write.after.ride().is_some();
    writes.iter().any(twice)
}

/// Every temporary table there may be.
pub(super) const DROP_TEMPORARY: &str = "drop table if exists pg_temp.incoming, \
    pg_temp.staged_rides, pg_temp.staged_couriers";

/// The COPY statements into the state tables.
#[derive(Debug)]
pub(super) struct Tables {
    path: Path,
    rides: Statement,
    couriers: Option<Statement>,
}

impl Tables {
    /// Makes the temporary tables and prepares the statements, all sent at once. On the fast path
    /// rides go straight into their table.
    pub(super) async fn prepare(
        transaction: &Transaction<'_>,
        path: Path,
        items: &Items<'_>,
        staging: &mut Staging,
    ) -> Result<Self, Error> {
        let (mut create, copy_rides) = match path {
            Path::Fast => (vec![], rides::COPY),
            Path::Careful => (
                vec![CREATE_INCOMING, rides::CREATE_STAGED],
                rides::COPY_STAGED,
            ),
        };
        create.extend(items.couriers.then_some(couriers::CREATE_STAGED));
        let (created, rides, couriers) = join3(
            staging.make(transaction, &create),
            transaction.prepare(copy_rides),
            prepare_if(items.couriers, transaction, couriers::COPY_STAGED),
        )
        .await;
        created?;
        Ok(Self {
            path,
            rides: rides?,
            couriers: couriers?,
        })
    }

    /// Copies what is written: one COPY per kind that is.
    pub(super) async fn copy(
        &self,
        session: &mut Session<'_>,
        items: &[Item<'_>],
        writes: &[&Write],
    ) -> Result<(), Error> {
        let of_rides = || rides::rows(items, writes);
        if of_rides().next().is_some() {
            match self.path {
                Path::Fast => session.copy(&self.rides, of_rides(), rides::encode).await?,
                Path::Careful => {
                    session
                        .copy(&self.rides, of_rides(), rides::encode_staged)
                        .await?
                }
            };
        }
        let of_couriers = || couriers::rows(items, writes);
        if let Some(statement) = &self.couriers
            && of_couriers().next().is_some()
        {
            session
                .copy(statement, of_couriers(), couriers::encode_staged)
                .await?;
        }
        Ok(())
    }

    /// From the staging tables into the tables, in one wait. The error comes with its table.
    pub(super) async fn merge(
        &self,
        session: &mut Session<'_>,
        writes: &[Write],
    ) -> Result<(), (&'static str, Error)> {
        let rides = writes.iter().any(|it| it.after.ride().is_some());
        let couriers = writes.iter().any(|it| it.after.courier().is_some());
        let rides = rides && self.path == Path::Careful;
        if !rides && !couriers {
            return Ok(());
        }
        let transaction = &session.transaction;
        let run = async |wanted: bool, sql| match wanted {
            true => transaction.batch_execute(sql).await,
            false => Ok(()),
        };
        let (rides, couriers, movements) = join3(
            run(rides, rides::MERGE),
            run(couriers, couriers::MERGE),
            run(couriers, couriers::MERGE_MOVEMENTS),
        )
        .await;
        session.waited();
        rides.map_err(|error| ("rides", error))?;
        couriers.map_err(|error| ("couriers", error))?;
        movements.map_err(|error| ("courier_movements", error))
    }
}
