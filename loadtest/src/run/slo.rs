//! Objectives: `accept.p99<10ms`, `errors<0.01%`, `lost=0`, `rate>=0.99`.

use std::str::FromStr;

use crate::report::schema::{Objective, Summary};

/// What a run is measured by.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Metric {
    /// Of requests answered 202, from when they were due; in milliseconds.
    Accept(Point),
    /// Of records, from when they were due to when their outcome could be seen; milliseconds.
    Visible(Point),
    /// Share of records refused though whole, unanswered, never sent, or failed.
    Errors,
    /// Accepted records that are gone, or had no outcome when patience ended.
    Lost,
    /// The rate accepted, as a share of the rate asked for.
    Rate,
}

/// A point of a distribution.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Point {
    P50,
    P75,
    P90,
    P95,
    P99,
    P999,
    P9999,
    Max,
    Mean,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Op {
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
}

/// One `--slo`.
#[derive(Clone, PartialEq, Debug)]
pub struct Slo {
    text: String,
    name: String,
    metric: Metric,
    op: Op,
    /// Milliseconds, a share, or a count.
    limit: f64,
}

/// What objectives are held against; `None` is what could not be measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    pub(crate) accept: Summary,
    pub(crate) visible: Summary,
    pub(crate) errors: Option<f64>,
    pub(crate) lost: Option<f64>,
    pub(crate) rate: Option<f64>,
}

const FORM: &str = "write it like accept.p99<10ms, visible.p99.9<500ms, errors<0.01%, lost=0 or \
                    rate>=0.99";

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let at = text
            .find(['<', '>', '='])
            .ok_or_else(|| format!("no <, = or >; {FORM}"))?;
        let (name, rest) = text.split_at(at);
        let (op, limit) = [
            ("<=", Op::LessOrEqual),
            (">=", Op::GreaterOrEqual),
            ("==", Op::Equal),
            ("<", Op::Less),
            (">", Op::Greater),
            ("=", Op::Equal),
        ]
        .into_iter()
        .find_map(|(sign, op)| Some((op, rest.strip_prefix(sign)?.trim())))
        .expect("it begins with one of them");
        let name = name.trim();
        let metric = metric(name).ok_or_else(|| format!("no metric {name:?}; {FORM}"))?;
        let limit = parse_limit(metric, limit)
            .ok_or_else(|| format!("{limit:?} is no limit of {name}; {FORM}"))?;
        Ok(Self {
            text: text.to_owned(),
            name: name.to_owned(),
            metric,
            op,
            limit,
        })
    }
}

fn metric(name: &str) -> Option<Metric> {
    Some(match name {
        "errors" => Metric::Errors,
        "lost" => Metric::Lost,
        "rate" => Metric::Rate,
        _ => match name.split_once('.')? {
            ("accept", rest) => Metric::Accept(point(rest)?),
            ("visible", rest) => Metric::Visible(point(rest)?),
            _ => return None,
        },
    })
}

fn point(name: &str) -> Option<Point> {
    Some(match name {
        "p50" => Point::P50,
        "p75" => Point::P75,
        "p90" => Point::P90,
        "p95" => Point::P95,
        "p99" => Point::P99,
        "p99.9" | "p999" => Point::P999,
        "p99.99" | "p9999" => Point::P9999,
        "max" => Point::Max,
        "mean" => Point::Mean,
        _ => return None,
    })
}

fn parse_limit(metric: Metric, text: &str) -> Option<f64> {
    let number = |text: &str| {
        let number: f64 = text.trim().parse().ok()?;
        (number.is_finite() && number >= 0.0).then_some(number)
    };
    match metric {
        Metric::Accept(_) | Metric::Visible(_) => {
            // A number alone would leave the unit to be guessed.
            [("ms", 1.0), ("us", 1e-3), ("µs", 1e-3), ("s", 1e3)]
                .into_iter()
                .find_map(|(unit, ms)| Some(number(text.strip_suffix(unit)?)? * ms))
        }
        Metric::Errors | Metric::Rate => match text.strip_suffix('%') {
            Some(percent) => Some(number(percent)? / 100.0),
            None => number(text),
        },
        Metric::Lost => number(text),
    }
}

impl Slo {
    /// Whether it needs ids to be followed.
    pub(crate) fn needs_following(&self) -> bool {
        matches!(self.metric, Metric::Visible(_) | Metric::Lost)
    }

    /// Whether it says something only about a rate that was asked for.
    pub(crate) fn needs_schedule(&self) -> bool {
        self.metric == Metric::Rate
    }

    /// Holds a run against it; what could not be measured is missed.
    pub(crate) fn judge(&self, measured: &Measured) -> Objective {
        let actual = match self.metric {
            Metric::Accept(point) => at(&measured.accept, point),
            Metric::Visible(point) => at(&measured.visible, point),
            Metric::Errors => measured.errors,
            Metric::Lost => measured.lost,
            Metric::Rate => measured.rate,
        };
        Objective {
            text: self.text.clone(),
            metric: self.name.clone(),
            op: self.op.sign().to_owned(),
            limit: self.limit,
            actual,
            met: actual.is_some_and(|actual| self.op.holds(actual, self.limit)),
        }
    }
}

/// An objective with what came of it.
pub(crate) fn explain(objective: &Objective) -> String {
    format!("{}: {}", objective.text, objective.actual_text())
}

impl Op {
    fn sign(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Equal => "=",
            Self::GreaterOrEqual => ">=",
            Self::Greater => ">",
        }
    }

    fn holds(self, actual: f64, limit: f64) -> bool {
        match self {
            Self::Less => actual < limit,
            Self::LessOrEqual => actual <= limit,
            Self::Equal => (actual - limit).abs() < 1e-9,
            Self::GreaterOrEqual => actual >= limit,
            Self::Greater => actual > limit,
        }
    }
}

fn at(summary: &Summary, point: Point) -> Option<f64> {
    match point {
        Point::P50 => summary.p50_ms,
        Point::P75 => summary.p75_ms,
        Point::P90 => summary.p90_ms,
        Point::P95 => summary.p95_ms,
        Point::P99 => summary.p99_ms,
        Point::P999 => summary.p99_9_ms,
        Point::P9999 => summary.p99_99_ms,
        Point::Max => summary.max_ms,
        Point::Mean => summary.mean_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Measured {
        Measured {
            accept: Summary {
                count: 10,
                p99_ms: Some(9.5),
                p99_9_ms: Some(40.0),
                ..Summary::default()
            },
            errors: Some(0.0001),
            lost: Some(0.0),
            rate: Some(0.995),
            ..Measured::default()
        }
    }

    #[test]
    fn objectives_are_read_and_judged() {
        for (text, met, limit) in [
            ("accept.p99<10ms", true, 10.0),
            ("accept.p99 < 9ms", false, 9.0),
            ("accept.p99.9<=0.04s", true, 40.0),
            ("accept.p99>9400us", true, 9.4),
            ("errors<0.01%", false, 0.0001),
            ("errors<=0.01%", true, 0.0001),
            ("lost=0", true, 0.0),
            ("rate>=0.99", true, 0.99),
            ("rate>=99.9%", false, 0.999),
            // Nothing was followed: not measured is not met.
            ("visible.p99<500ms", false, 500.0),
        ] {
            let objective = text.parse::<Slo>().unwrap().judge(&measured());
            assert_eq!((objective.met, objective.text.as_str()), (met, text));
            assert!((objective.limit - limit).abs() < 1e-9, "{objective:?}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "",
            "accept.p99",
            "accept.p98<1ms",
            "p99<1ms",
            "accept.p99<10",
            "accept.p99<-1ms",
            "errors<x%",
            "lost=",
            "rate>=NaN",
            "visible<1ms",
            "accept.p99<1m",
        ] {
            assert!(text.parse::<Slo>().is_err(), "{text:?} was accepted");
        }
    }
}
