//! The report, the verdict and the exit code.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;

use super::accounts::Accounts;
use super::books::Closed;
use super::engine::{Contradictions, Engine, Unanswered};
use super::fleet::States;
use super::mix::Kinds;
use super::monitor::Seen;
use super::prepare::Followed;
use super::send::{Sent, lossy, measure};
use super::settings::{Model, Settings};
use super::slo::{Measured, Slo, explain};
use super::tally::{NOT_SENT, add_all};
use crate::report::schema::{
    Action, Counts, CourierRefusal, Couriers, Errors, Generator, Latency, Load, Objective, Outcome,
    RunReport, SCHEMA, SCHEMA_VERSION, Verdict, Versions,
};

/// Exit codes beside success.
const EXIT_INTERRUPTED: u8 = 1;
const EXIT_MISSED: u8 = 2;
const EXIT_INVALID: u8 = 3;
/// Contradictions that are quoted.
const CONTRADICTIONS_SHOWN: usize = 3;

/// Everything a run has brought to light.
pub(super) struct Facts<'a> {
    pub(super) settings: &'a Settings,
    pub(super) engine: &'a Engine,
    pub(super) started_at: Timestamp,
    pub(super) interrupted: bool,
    pub(super) sent: Sent,
    pub(super) actions: Vec<Action>,
    pub(super) followed: Option<Followed>,
    pub(super) unanswered: Vec<Unanswered>,
    /// Unanswered records that turned out to be stored.
    pub(super) stored: Option<u64>,
    /// The fleet as it was in the end, or why that is not known; `None` if nobody was to look.
    pub(super) couriers: Option<Result<States, String>>,
    pub(super) seen: Seen,
}

impl Facts<'_> {
    pub(super) fn report(mut self) -> RunReport {
        let follow_seconds = self
            .followed
            .as_ref()
            .map_or(0.0, |it| it.elapsed.as_secs_f64());
        let mut reasons = Vec::new();
        let mut followed = self.followed.take();
        let follows = followed.is_some();
        let couriers = self.close_couriers(followed.as_mut(), &mut reasons);
        let books = self.close_books(followed, &mut reasons);
        let tally = &self.seen.totals.tally;
        if tally.bad_accepted > 0 {
            reasons.push(format!(
                "{} records were spoiled on purpose and accepted all the same",
                tally.bad_accepted
            ));
        }
        let generator = self.generator();
        let objectives = self.objectives(&books, follows);
        let missed = objectives.iter().filter(|it| !it.met);
        let missed: Vec<_> = missed
            .map(|it| format!("missed: {}", explain(it)))
            .collect();
        let verdict = self.verdict(reasons, &generator, missed);
        let exit_code = match verdict.outcome {
            Outcome::Missed => EXIT_MISSED,
            Outcome::Invalid => EXIT_INVALID,
            Outcome::Met if self.interrupted => EXIT_INTERRUPTED,
            Outcome::Met => 0,
        };
        let seconds = self.sent.elapsed.as_secs_f64();
        let per_second = |records: u64| lossy(records) / seconds.max(1e-9);
        let totals = &self.seen.totals;
        RunReport {
            schema: SCHEMA.to_owned(),
            schema_version: SCHEMA_VERSION,
            verdict,
            exit_code,
            interrupted: self.interrupted,
            command: self.settings.command.clone(),
            versions: versions(std::mem::take(&mut self.seen.versions)),
            started_at: self.started_at.to_string(),
            load: self.load(),
            duration_seconds: seconds,
            follow_seconds,
            sent_rate: per_second(tally.sent),
            accepted_rate: per_second(tally.accepted),
            counts: self.counts(&books, couriers.as_ref()),
            errors: self.errors(&books),
            discrepancies: books.discrepancies,
            http_statuses: tally.statuses.clone(),
            latency: Latency {
                accept_corrected: tally.corrected.distribution(),
                accept_uncorrected: tally.uncorrected.distribution(),
                failed_corrected: tally.failed.distribution(),
                visible: totals.visible.distribution(),
            },
            generator,
            objectives,
            actions: self.actions,
            couriers,
            find_capacity: self.sent.capacity.map(|(found, _)| found),
            series: self.seen.series,
        }
    }

    /// Holds the couriers against their commands, and says what is wrong with them.
    fn close_couriers(
        &self,
        followed: Option<&mut Followed>,
        reasons: &mut Vec<String>,
    ) -> Option<Couriers> {
        if !self.settings.recipe.kinds.has_couriers() {
            return None;
        }
        let (engine, generator) = (self.engine, &self.engine.generator);
        let (accounts, open) = match followed {
            Some(followed) => {
                let unanswered = self.unanswered.iter().map(|it| it.record);
                let unsettled = followed.unsettled.iter().map(|it| it.record);
                let open = followed.books.open(unanswered.chain(unsettled), generator);
                (std::mem::take(&mut followed.books.accounts), open)
            }
            None => (Accounts::default(), HashSet::new()),
        };
        let states = match &self.couriers {
            Some(Ok(states)) => Ok(states.as_slice()),
            Some(Err(why)) => Err(why.as_str()),
            None => Err("ids were not followed"),
        };
        let couriers = accounts.close(generator, &engine.refused(), &open, states);
        if couriers.refused > 0 {
            let first = couriers.refusals.first().map(|it| {
                let CourierRefusal {
                    command,
                    courier_id,
                    code,
                    ..
                } = it;
                format!(": {command} of {courier_id}, {code}")
            });
            reasons.push(format!(
                "{} commands to couriers were refused or failed though valid in any order{}",
                couriers.refused,
                first.unwrap_or_default()
            ));
        }
        if couriers.differing > 0 {
            reasons.push(format!(
                "{} couriers are not what their persisted commands add up to",
                couriers.differing
            ));
        }
        if let Some(Err(why)) = &self.couriers {
            reasons.push(format!("the couriers could not be checked: {why}"));
        }
        Some(couriers)
    }

    /// Closes the books, and says what is wrong with them.
    fn close_books(&self, followed: Option<Followed>, reasons: &mut Vec<String>) -> Closed {
        let Some(followed) = followed else {
            say_contradictions(&self.engine.contradictions(), reasons);
            return Closed::default();
        };
        let unanswered: HashSet<u64> = self.unanswered.iter().map(|it| it.record).collect();
        let generator = &self.engine.generator;
        let (books, mut contradictions) =
            followed
                .books
                .close(&followed.unsettled, &unanswered, generator);
        for (count, what) in [
            (books.lost, "records were accepted and are gone"),
            (
                books.unsettled,
                "records were accepted and had no outcome when patience ended",
            ),
            (books.doubled, "records became two"),
            (
                books.unexpected_duplicates,
                "records were sent once and ended as duplicates (was this seed used here before?)",
            ),
        ] {
            if count > 0 {
                reasons.push(format!("{count} {what}"));
            }
        }
        if let Some(why) = followed.refused {
            reasons.push(format!("ids could not be followed: {why}"));
        }
        contradictions.count += followed.contradictions.count;
        contradictions.first.extend(followed.contradictions.first);
        say_contradictions(&contradictions, reasons);
        debug_assert!(books.balance() || !reasons.is_empty());
        books
    }

    fn generator(&self) -> Generator {
        let mut generator = self.seen.totals.lateness.judge(self.seen.cpu_share);
        match (&self.settings.model, &self.sent.capacity) {
            // A step beyond what the generator can do is part of the search.
            (Model::FindCapacity { .. }, Some((found, _))) => {
                generator.valid = !found.limited_by_generator;
                generator.why = found.limited_by_generator.then(|| {
                    "the generator itself was the limit: the target's own knee lies higher".into()
                });
            }
            // Without a schedule there is nothing to fall behind.
            (Model::Closed { .. }, _) => {
                generator.valid = true;
                generator.why = None;
            }
            _ => {}
        }
        generator
    }

    fn objectives(&self, books: &Closed, follows: bool) -> Vec<Objective> {
        let lost = follows.then(|| lossy(books.lost + books.unsettled));
        if let Some((_, objectives)) = &self.sent.capacity {
            let slos = self.settings.objectives.iter();
            let judged = |(mut objective, slo): (Objective, &Slo)| {
                if objective.metric == "lost" {
                    let measured = Measured {
                        lost,
                        ..Measured::default()
                    };
                    objective = slo.judge(&measured);
                }
                objective
            };
            return objectives.iter().cloned().zip(slos).map(judged).collect();
        }
        let totals = &self.seen.totals;
        let tally = &totals.tally;
        let intended = self.sent.intended;
        let never = intended.saturating_sub(tally.sent + tally.not_sent);
        let scheduled = self.sent.scheduled.unwrap_or(self.sent.elapsed);
        let mut measured = measure(totals, intended, never, scheduled, self.sent.elapsed);
        measured.lost = lost;
        let failed = lossy(books.failed) / lossy(intended.max(1));
        measured.errors = measured.errors.map(|errors| errors + failed);
        let slos = self.settings.objectives.iter();
        slos.map(|slo| slo.judge(&measured)).collect()
    }

    fn verdict(
        &self,
        mut reasons: Vec<String>,
        generator: &Generator,
        missed: Vec<String>,
    ) -> Verdict {
        // A record that is gone is worse than a figure that means nothing.
        let outcome = if !reasons.is_empty() {
            Outcome::Missed
        } else if !generator.valid {
            Outcome::Invalid
        } else if missed.is_empty() {
            Outcome::Met
        } else {
            Outcome::Missed
        };
        reasons.extend(generator.why.clone());
        reasons.extend(missed);
        Verdict { outcome, reasons }
    }

    fn load(&self) -> Load {
        let settings = self.settings;
        let recipe = &settings.recipe;
        let closed = matches!(settings.model, Model::Closed { .. });
        let requests = (settings.connections * settings.streams) as u64;
        Load {
            profile: if closed {
                "closed".to_owned()
            } else {
                settings.profile_text.clone()
            },
            seed: recipe.seed,
            targets: settings.gateways.iter().map(ToString::to_string).collect(),
            target_rate: settings.target_rate(),
            closed: closed.then_some(requests),
            target_seconds: settings.target_seconds(),
            connections: settings.connections as u64,
            http_version: if settings.http == 1 { "1.1" } else { "2" }.to_owned(),
            body: recipe.body.name().to_owned(),
            batch_records: recipe.batch,
            mix: mix(recipe.kinds),
            partners: recipe.partners,
            duplicates_share: recipe.duplicates,
            bad_share: recipe.bad,
        }
    }

    fn counts(&self, books: &Closed, couriers: Option<&Couriers>) -> Counts {
        let tally = &self.seen.totals.tally;
        Counts {
            intended: self.sent.intended,
            sent: tally.sent,
            answered: tally.answered,
            accepted: tally.accepted,
            rejected: tally.rejected,
            unanswered: tally.unanswered,
            persisted: books.persisted,
            duplicate: books.duplicate,
            failed: books.failed,
            lost: books.lost,
            unsettled: books.unsettled,
            doubled: books.doubled,
            unanswered_persisted: self.stored.unwrap_or_default()
                + couriers.map_or(0, |it| it.unanswered_persisted),
            bad_sent: tally.bad_sent,
            bad_accepted: tally.bad_accepted,
            duplicates_sent: tally.duplicates_sent,
            unexpected_duplicates: books.unexpected_duplicates,
        }
    }

    fn errors(&self, books: &Closed) -> Errors {
        let tally = &self.seen.totals.tally;
        let mut exchange = BTreeMap::new();
        let kinds = tally.exchange_by.iter();
        add_all(
            &mut exchange,
            &kinds
                .map(|(kind, count)| ((*kind).to_owned(), *count))
                .collect(),
        );
        let never = self
            .sent
            .intended
            .saturating_sub(tally.sent + tally.not_sent);
        let requests = never / self.settings.recipe.batch;
        if requests > 0 {
            *exchange.entry(NOT_SENT.to_owned()).or_default() += requests;
        }
        Errors {
            rejected: tally.rejected_by.clone(),
            unanswered: tally.unanswered_by.clone(),
            failed: books.failed_by.clone(),
            exchange,
        }
    }
}

fn mix(kinds: Kinds) -> BTreeMap<String, f64> {
    let couriers = kinds.couriers();
    [("rides", 1.0 - couriers), ("couriers", couriers)]
        .into_iter()
        .filter(|(_, share)| *share > 0.0)
        .map(|(kind, share)| (kind.to_owned(), share))
        .collect()
}

fn say_contradictions(contradictions: &Contradictions, reasons: &mut Vec<String>) {
    if contradictions.count == 0 {
        return;
    }
    let first: Vec<_> = contradictions
        .first
        .iter()
        .take(CONTRADICTIONS_SHOWN)
        .cloned()
        .collect();
    reasons.push(format!(
        "{} answers cannot be true: {}",
        contradictions.count,
        first.join("; ")
    ));
}

fn versions(services: BTreeMap<String, String>) -> Versions {
    let kernel = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}"));
        text.unwrap_or_default().trim().to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    Versions {
        loadtest: env!("CARGO_PKG_VERSION").to_owned(),
        os: format!("{} {}", kernel("ostype"), kernel("osrelease")),
        machine: format!("{}, {cores} cores", std::env::consts::ARCH),
        services,
    }
}
