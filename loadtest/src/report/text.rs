//! The summary for people, on stdout.

use std::collections::BTreeMap;
use std::fmt;

use super::figures::{cores, count, maybe_ms, moment, rate, share, trimmed};
use super::schema::{Discrepancies, Outcome, Record, RunReport, Summary};

/// Ids listed in the text; the JSON has more.
const LISTED: usize = 10;

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_load(f)?;
        self.write_books(f)?;
        self.write_couriers(f)?;
        self.write_latency(f)?;
        self.write_errors(f)?;
        self.write_servers(f)?;
        self.write_actions(f)?;
        self.write_capacity(f)?;
        self.write_discrepancies(f)?;
        self.write_verdict(f)
    }
}

impl RunReport {
    fn write_load(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        row(f, "load", &self.load.describe())?;
        let cut = if self.interrupted {
            " (interrupted)"
        } else {
            ""
        };
        let sent = format!(
            "{} for {} s{cut}: {} records, {} accepted",
            rate(self.sent_rate),
            trimmed(self.duration_seconds, 2),
            count(self.counts.sent),
            rate(self.accepted_rate)
        );
        row(f, "sent", &sent)?;
        let kept = if self.generator.valid {
            "kept its schedule"
        } else {
            "FELL BEHIND its schedule"
        };
        let mut generator = format!(
            "{kept}: at most {} late, {} of requests late",
            maybe_ms(Some(self.generator.behind_max_ms)),
            share(self.generator.behind_share)
        );
        if let Some(cpu_share) = self.generator.cpu_share {
            generator += &format!(", {} of the processors", share(cpu_share));
        }
        row(f, "generator", &generator)
    }

    fn write_books(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        row(
            f,
            "answers",
            &cells(&[
                ("accepted", counts.accepted),
                ("rejected", counts.rejected),
                ("unanswered", counts.unanswered),
            ]),
        )?;
        row(
            f,
            "outcomes",
            &cells(&[
                ("persisted", counts.persisted),
                ("duplicate", counts.duplicate),
                ("failed", counts.failed),
                ("lost", counts.lost),
                ("unsettled", counts.unsettled),
            ]),
        )?;
        let asides: Vec<_> = [
            ("doubled", counts.doubled),
            ("unanswered yet persisted", counts.unanswered_persisted),
            ("sent twice on purpose", counts.duplicates_sent),
            ("duplicate unasked for", counts.unexpected_duplicates),
            ("spoiled on purpose", counts.bad_sent),
            ("spoiled yet accepted", counts.bad_accepted),
        ]
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect();
        if asides.is_empty() {
            return Ok(());
        }
        row(f, "besides", &cells(&asides))
    }

    fn write_couriers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(couriers) = &self.couriers else {
            return Ok(());
        };
        let mut state = format!(
            "{} checked against their persisted commands, {} differ",
            count(couriers.checked),
            count(couriers.differing)
        );
        if let Some(why) = &couriers.unchecked_why {
            state += &format!("; {} not checked: {why}", count(couriers.unchecked));
        }
        row(f, "couriers", &state)?;
        for (word, it) in &couriers.commands {
            let text = format!(
                "{word}: {}",
                cells(&[
                    ("persisted", it.persisted),
                    ("duplicate", it.duplicate),
                    ("failed", it.failed),
                ])
            );
            row(f, "commands", &text)?;
        }
        let litres = format!(
            "{} picked up, {} dropped off",
            count(couriers.litres_picked_up),
            count(couriers.litres_dropped_off)
        );
        row(f, "litres", &litres)?;
        if couriers.refused > 0 {
            let refused = count(couriers.refused);
            row(
                f,
                "REFUSED",
                &format!("{refused} commands that were valid in any order"),
            )?;
        }
        Ok(())
    }

    fn write_latency(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["p50", "p90", "p99", "p99.9", "p99.99", "max"];
        write!(f, "{:<22}", "latency")?;
        for name in head {
            write!(f, "{name:>10}")?;
        }
        writeln!(f)?;
        let latency = &self.latency;
        for (name, summary) in [
            ("  accept, from due", &latency.accept_corrected.summary),
            ("  accept, from sent", &latency.accept_uncorrected.summary),
            ("  refused, from due", &latency.failed_corrected.summary),
            ("  visible, from due", &latency.visible.summary),
        ] {
            if summary.count == 0 {
                continue;
            }
            write!(f, "{name:<22}")?;
            for value in columns(summary) {
                write!(f, "{:>10}", maybe_ms(value))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn write_errors(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        table(f, "http status", &self.http_statuses)?;
        table(f, "rejected", &self.errors.rejected)?;
        table(f, "unanswered", &self.errors.unanswered)?;
        table(f, "failed", &self.errors.failed)?;
        table(f, "no answer", &self.errors.exchange)
    }

    fn write_servers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cells: Vec<_> = self
            .server_uses()
            .into_iter()
            .filter_map(|(name, it)| {
                let mean = cores(it.cpu_cores_mean?);
                Some(format!("{name} {mean}"))
            })
            .collect();
        if cells.is_empty() {
            return Ok(());
        }
        row(f, "cores", &cells.join(" · "))
    }

    fn write_actions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for action in &self.actions {
            let end = match (&action.error, action.done_at_seconds) {
                (Some(error), _) => format!("failed: {error}"),
                (None, Some(done_at)) => format!("done at {}", moment(done_at)),
                (None, None) => "not reached".into(),
            };
            let text = format!("{} {}, {end}", moment(action.at_seconds), action.text);
            row(f, "action", &text)?;
        }
        Ok(())
    }

    fn write_capacity(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(found) = &self.find_capacity else {
            return Ok(());
        };
        for step in &found.steps {
            let kept = step
                .why
                .as_deref()
                .unwrap_or(if step.kept { "kept" } else { "missed" });
            let text = format!(
                "{} asked, {} accepted, p99 {}: {kept}",
                rate(step.rate),
                rate(step.accepted_rate),
                maybe_ms(step.accept_p99_ms)
            );
            row(f, "step", &text)?;
        }
        let knee = match found.knee_rate {
            Some(knee_rate) if found.limited_by_generator => {
                format!("at least {}: the generator's own limit", rate(knee_rate))
            }
            Some(knee_rate) => rate(knee_rate),
            None => "no rate kept the objectives".into(),
        };
        row(f, "knee", &knee)
    }

    fn write_discrepancies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Discrepancies {
            lost,
            unsettled,
            doubled,
            unexpected_duplicates,
        } = &self.discrepancies;
        records(f, "lost", lost, self.counts.lost)?;
        records(f, "unsettled", unsettled, self.counts.unsettled)?;
        for it in doubled.iter().take(LISTED) {
            let ids: Vec<_> = it.tracking_ids.iter().map(ToString::to_string).collect();
            writeln!(
                f,
                "  doubled: {}, records {:?}, tracking ids {}",
                it.kind,
                it.indexes,
                ids.join(" ")
            )?;
        }
        more(f, self.counts.doubled, "doubled")?;
        records(
            f,
            "duplicate unasked for",
            unexpected_duplicates,
            self.counts.unexpected_duplicates,
        )?;
        self.write_differences(f)
    }

    fn write_differences(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(couriers) = &self.couriers else {
            return Ok(());
        };
        for it in couriers.refusals.iter().take(LISTED) {
            writeln!(
                f,
                "  refused: record {}, {} of courier {}: {}{}",
                it.index,
                it.command,
                it.courier_id,
                it.code,
                it.tracking_id
                    .map(|id| format!(", tracking id {id}"))
                    .unwrap_or_default()
            )?;
        }
        more(f, couriers.refused, "refused")?;
        for it in couriers.differences.iter().take(LISTED) {
            writeln!(f, "  differs: {}", it.describe())?;
        }
        more(f, couriers.differing, "differing")
    }

    fn write_verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for objective in &self.objectives {
            let word = if objective.met { "met" } else { "MISSED" };
            let actual = objective.actual_text();
            row(
                f,
                "objective",
                &format!("{word:<6} {}, it was {actual}", objective.text),
            )?;
        }
        let verdict = match self.verdict.outcome {
            Outcome::Met => "every objective met, every record accounted for",
            Outcome::Missed => "MISSED",
            Outcome::Invalid => "INVALID: the generator was the bottleneck",
        };
        row(f, "verdict", verdict)?;
        for reason in &self.verdict.reasons {
            writeln!(f, "  {reason}")?;
        }
        Ok(())
    }
}

fn columns(summary: &Summary) -> [Option<f64>; 6] {
    [
        summary.p50_ms,
        summary.p90_ms,
        summary.p99_ms,
        summary.p99_9_ms,
        summary.p99_99_ms,
        summary.max_ms,
    ]
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, text: &str) -> fmt::Result {
    writeln!(f, "{name:<11} {text}")
}

fn cells(counts: &[(&str, u64)]) -> String {
    let cells: Vec<_> = counts
        .iter()
        .map(|(name, value)| format!("{name} {}", count(*value)))
        .collect();
    cells.join(" · ")
}

fn table<K: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    counts: &BTreeMap<K, u64>,
) -> fmt::Result {
    let cells: Vec<_> = counts
        .iter()
        .filter(|(_, value)| **value > 0)
        .map(|(key, value)| format!("{key} x {}", count(*value)))
        .collect();
    if cells.is_empty() {
        return Ok(());
    }
    row(f, name, &cells.join(" · "))
}

fn records(f: &mut fmt::Formatter<'_>, name: &str, records: &[Record], all: u64) -> fmt::Result {
    for it in records.iter().take(LISTED) {
        let id = it.resource().map(|id| format!(", {id}"));
        let id = id.unwrap_or_default();
        writeln!(
            f,
            "  {name}: record {}{id}, sent at {}, tracking id {}",
            it.index,
            moment(it.sent_at_seconds),
            it.tracking_id
        )?;
    }
    more(f, all, name)
}

fn more(f: &mut fmt::Formatter<'_>, all: u64, name: &str) -> fmt::Result {
    match all.saturating_sub(LISTED as u64) {
        0 => Ok(()),
        rest => writeln!(
            f,
            "  and {} more {name}: --json FILE lists them",
            count(rest)
        ),
    }
}

#[cfg(test)]
mod tests {
    use crate::report::sample;
    use crate::report::schema::{Doubled, Outcome, Record};

    #[test]
    fn the_summary_of_a_run() {
        let expected = include_str!("../../tests/samples/run-v1.txt");
        assert_eq!(sample::run().to_string(), expected);
    }

    #[test]
    fn what_does_not_add_up_is_listed_and_counted() {
        let mut report = sample::run();
        report.verdict.outcome = Outcome::Invalid;
        report.generator.valid = false;
        report.counts.lost = 2_012;
        report.discrepancies.lost = (0..12)
            .map(|index| Record {
                index,
                id: Some(7),
                ..Record::default()
            })
            .collect();
        report.counts.doubled = 1;
        report.discrepancies.doubled = vec![Doubled {
            kind: "created-twice".into(),
            indexes: vec![3, 9],
            tracking_ids: Vec::new(),
        }];
        let text = report.to_string();
        assert_eq!(text.matches("  lost: record").count(), 10, "{text}");
        assert!(text.contains("and 2,002 more lost"), "{text}");
        assert!(
            text.contains("doubled: created-twice, records [3, 9]"),
            "{text}"
        );
        assert!(text.contains("FELL BEHIND"), "{text}");
        assert!(text.contains("INVALID"), "{text}");
    }

    #[test]
    fn couriers_show_their_commands_and_what_does_not_add_up() {
        let text = sample::mixed().to_string();
        for line in [
            "load        steady, 5,000/s for 40 s, single, 20% commands to couriers, HTTP/1.1",
            "couriers    599 checked against their persisted commands, 1 differ; 1 not checked: too",
            "commands    pickup: persisted 18,000 · duplicate 0 · failed 1\n",
            "litres      900,000 picked up, 870,000 dropped off\n",
            "REFUSED     1 commands that were valid in any order\n",
            "  refused: record 41, pickup of courier lt1-0-8: insufficient-capacity\n",
            "  differs: courier lt1-0-7 is 1000 litres available in version 2, should be 990 litres \
             available in version 3\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    #[test]
    fn a_search_shows_its_steps_and_the_knee() {
        let text = sample::find_capacity().to_string();
        assert_eq!(text.matches("\nstep ").count(), 9, "{text}");
        assert!(text.contains("\nknee        61,250/s\n"), "{text}");
    }
}
