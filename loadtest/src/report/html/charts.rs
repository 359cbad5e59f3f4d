//! Which charts a run has, and what each draws.

use std::collections::BTreeMap;

use super::chart::{Axis, Chart, Colour, Line, Mark, Stroke};
use super::scale::{Scale, value_at_nines};
use super::times::{Of, Times};
use crate::report::figures::{bytes, cores, lossy, ms, rate, short, trimmed};
use crate::report::schema::{Distribution, FindCapacity, Quick, RunReport, Second, ServerUse};

/// Points of the percentile curve for each nine.
const POINTS_PER_NINE: u32 = 40;
/// What cannot be had from one run: a chart ends at seven nines.
const NINES_MAX: f64 = 7.0;

/// All charts of a run, in the order of the page.
pub(super) fn all(report: &RunReport) -> Vec<Chart> {
    let mut charts = Vec::new();
    if let Some(found) = &report.find_capacity {
        charts.push(capacity(found));
    }
    let times = Times::new(report);
    charts.extend([
        throughput(&times),
        latency(&times),
        percentiles(report),
        errors(&times),
        delay(&times),
        in_flight(&times),
    ]);
    charts.extend(servers(&times));
    charts.push(generator(&times));
    charts
}

fn throughput(times: &Times<'_>) -> Chart {
    let per_second = |value: fn(&Second) -> Option<f64>| times.values(Of::Mean, value);
    let lines = vec![
        Line {
            label: "intended".into(),
            colour: Colour::Muted,
            stroke: Stroke::Dashed,
            values: per_second(|it| Some(lossy(it.intended))),
        },
        Line {
            label: "persisted".into(),
            colour: Colour::Series(2),
            stroke: Stroke::Broad,
            values: per_second(|it| it.persisted.map(lossy)),
        },
        Line {
            label: "accepted".into(),
            colour: Colour::Series(1),
            stroke: Stroke::Solid,
            values: per_second(|it| Some(lossy(it.accepted))),
        },
    ];
    let words = ("throughput", "Throughput", "records per second");
    times.chart(words, Of::Mean, from_zero(&lines, short, rate), lines)
}

fn latency(times: &Times<'_>) -> Chart {
    let line = |label: &str, colour, stroke, value: fn(&Second) -> Option<f64>| Line {
        label: label.to_owned(),
        colour: Colour::Series(colour),
        stroke,
        values: times.values(Of::Highest, value),
    };
    let corrected: [fn(&Second) -> Option<f64>; 4] = [
        |it| it.corrected.map(|it: Quick| it.p50_ms),
        |it| it.corrected.map(|it| it.p90_ms),
        |it| it.corrected.map(|it| it.p99_ms),
        |it| it.corrected.map(|it| it.max_ms),
    ];
    let lines = vec![
        line("p50", 1, Stroke::Solid, corrected[0]),
        line("p90", 2, Stroke::Solid, corrected[1]),
        line("p99", 3, Stroke::Solid, corrected[2]),
        line("max", 4, Stroke::Solid, corrected[3]),
        line("p99 uncorrected", 3, Stroke::Dashed, |it| {
            it.uncorrected.map(|it| it.p99_ms)
        }),
    ];
    let words = (
        "latency",
        "Accept latency",
        "from the moment a request was due to its 202; dashed: from the moment it went out",
    );
    times.chart(words, Of::Highest, decades(&lines), lines)
}

fn percentiles(report: &RunReport) -> Chart {
    let latency = &report.latency;
    let all = [
        ("accept", 1, Stroke::Solid, &latency.accept_corrected),
        (
            "accept uncorrected",
            1,
            Stroke::Dashed,
            &latency.accept_uncorrected,
        ),
        ("refused", 4, Stroke::Solid, &latency.failed_corrected),
        ("visible", 2, Stroke::Solid, &latency.visible),
    ];
    let most = all.iter().map(|it| it.3.summary.count).max().unwrap_or(0);
    let nines = lossy(most.max(10)).log10().ceil().min(NINES_MAX);
    let steps = (0_u32..)
        .map(|index| f64::from(index) / f64::from(POINTS_PER_NINE))
        .take_while(|at| *at <= nines + 1e-9);
    let xs: Vec<_> = steps.collect();
    let lines: Vec<_> = all
        .into_iter()
        .filter(|it| it.3.summary.count > 0)
        .map(|(label, colour, stroke, distribution)| Line {
            label: label.to_owned(),
            colour: Colour::Series(colour),
            stroke,
            values: xs.iter().map(|at| curve_ms(distribution, *at)).collect(),
        })
        .collect();
    let scale = Scale::Nines { to: nines };
    Chart {
        id: "percentiles",
        title: "Percentiles",
        note: "the latency that this share did not exceed; each step to the right is ten times \
               rarer"
            .into(),
        x: Axis {
            scale,
            ticks: scale.ticks(),
            tick_text: nines_text,
            value_text: nines_text,
        },
        y: decades(&lines),
        xs,
        lines,
        marks: Vec::new(),
        group: "percentiles",
    }
}

fn curve_ms(distribution: &Distribution, nines: f64) -> Option<f64> {
    let us = value_at_nines(&distribution.histogram, distribution.summary.count, nines)?;
    let exact = &distribution.summary;
    let ms = lossy(us) / 1e3;
    Some(ms.clamp(exact.min_ms?, exact.max_ms?))
}

/// 0 is 0%, 1 is 90%, 2.3 is 99.5%.
fn nines_text(nines: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few nines"
    )]
    let decimals = nines.ceil() as usize;
    format!(
        "{}%",
        trimmed((1.0 - 10_f64.powf(-nines)) * 100.0, decimals)
    )
}

fn errors(times: &Times<'_>) -> Chart {
    let mut totals: BTreeMap<&str, u64> = BTreeMap::new();
    for (kind, count) in times
        .slices
        .iter()
        .copied()
        .flatten()
        .flat_map(|it| &it.errors)
    {
        *totals.entry(kind).or_default() += count;
    }
    let mut kinds: Vec<_> = totals.into_iter().filter(|(_, count)| *count > 0).collect();
    kinds.sort_by_key(|(kind, count)| (std::cmp::Reverse(*count), *kind));
    let named: Vec<_> = kinds.iter().map(|(kind, _)| *kind).collect();
    let shown = if named.len() > Colour::SERIES {
        Colour::SERIES - 1
    } else {
        named.len()
    };
    // Red and its neighbours first: these are errors.
    let mut lines: Vec<_> = named[..shown]
        .iter()
        .enumerate()
        .map(|(index, kind)| Line {
            label: (*kind).to_owned(),
            colour: Colour::Series((index + 3) % Colour::SERIES + 1),
            stroke: Stroke::Stacked,
            values: times.values(Of::Mean, |it| {
                Some(it.errors.get(*kind).copied().map_or(0.0, lossy))
            }),
        })
        .collect();
    if shown < named.len() {
        let rest = &named[shown..];
        lines.push(Line {
            label: "others".into(),
            colour: Colour::Muted,
            stroke: Stroke::Stacked,
            values: times.values(Of::Mean, |it| {
                let rest = rest.iter().filter_map(|kind| it.errors.get(*kind));
                Some(lossy(rest.sum()))
            }),
        });
    }
    let sums = (0..times.slices.len()).map(|index| {
        let values = lines.iter().filter_map(|line| line.values[index]);
        values.sum::<f64>()
    });
    let scale = Scale::up_to(sums.fold(0.0, f64::max));
    let y = axis(scale, short, |value| short(value) + "/s");
    let words = ("errors", "Errors", "records per second, by kind");
    times.chart(words, Of::Mean, y, lines)
}

fn delay(times: &Times<'_>) -> Chart {
    let line = Line {
        label: "delay".into(),
        colour: Colour::Series(2),
        stroke: Stroke::Solid,
        values: times.values(Of::Highest, |it| it.delay_ms),
    };
    let lines = vec![line];
    let words = ("delay", "Delay", "how far persisting lags behind accepting");
    times.chart(words, Of::Highest, from_zero(&lines, ms_short, ms), lines)
}

fn in_flight(times: &Times<'_>) -> Chart {
    let line = Line {
        label: "in flight".into(),
        colour: Colour::Series(1),
        stroke: Stroke::Solid,
        values: times.values(Of::Highest, |it| Some(lossy(it.in_flight))),
    };
    let lines = vec![line];
    let words = (
        "in-flight",
        "In flight",
        "requests without an answer at each second's end",
    );
    times.chart(words, Of::Highest, from_zero(&lines, short, short), lines)
}

/// Two charts: processors and memory.
fn servers(times: &Times<'_>) -> [Chart; 2] {
    let names = busiest(times);
    let lines = |value: fn(&ServerUse) -> Option<f64>| -> Vec<Line> {
        names
            .iter()
            .enumerate()
            .map(|(index, name)| Line {
                label: (*name).to_owned(),
                colour: Colour::Series(index + 1),
                stroke: Stroke::Solid,
                values: times.values(Of::Mean, |second| {
                    value(second.servers.iter().find(|it| it.name == *name)?)
                }),
            })
            .collect()
    };
    let own = Line {
        label: "loadtest itself".into(),
        colour: Colour::Muted,
        stroke: Stroke::Dashed,
        values: times.values(Of::Mean, |it| it.generator_cpu_cores),
    };
    let mut cpu = vec![own];
    cpu.extend(lines(|it| it.cpu_cores));
    let rss = lines(|it| it.rss_bytes.map(lossy));
    let exact = |value| format!("{} cores", cores(value));
    let cpu_axis = from_zero(&cpu, short, exact);
    let rss_axis = mebibytes(&rss);
    let cpu_words = ("cpu", "Processors", "cores in use, by server");
    let rss_words = ("memory", "Memory", "resident MiB, by server");
    [
        times.chart(cpu_words, Of::Mean, cpu_axis, cpu),
        times.chart(rss_words, Of::Mean, rss_axis, rss),
    ]
}

/// As many servers as there are colours, by name.
fn busiest<'a>(times: &Times<'a>) -> Vec<&'a str> {
    let mut used: BTreeMap<&str, f64> = BTreeMap::new();
    for second in times.slices.iter().copied().flatten() {
        for server in &second.servers {
            *used.entry(&server.name).or_default() += server.cpu_cores.unwrap_or(0.0);
        }
    }
    let mut used: Vec<_> = used.into_iter().collect();
    used.sort_by(|a, b| b.1.total_cmp(&a.1));
    used.truncate(Colour::SERIES);
    let mut names: Vec<_> = used.into_iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names
}

/// An axis of bytes that is round in the unit of its labels.
fn mebibytes(lines: &[Line]) -> Axis {
    const MIB: f64 = 1_048_576.0;
    let values = lines.iter().flat_map(|it| &it.values).flatten().copied();
    let ticks = Scale::up_to(values.fold(0.0, f64::max) / MIB).ticks();
    let ticks: Vec<_> = ticks.into_iter().map(|mib| mib * MIB).collect();
    let to = ticks.last().copied().unwrap_or(MIB);
    Axis {
        scale: Scale::Linear { from: 0.0, to },
        ticks,
        tick_text: |value| short(value / MIB),
        value_text: bytes,
    }
}

fn generator(times: &Times<'_>) -> Chart {
    let line = Line {
        label: "behind".into(),
        colour: Colour::Series(4),
        stroke: Stroke::Solid,
        values: times.values(Of::Highest, |it| Some(it.behind_ms)),
    };
    let lines = vec![line];
    let words = (
        "generator",
        "The generator itself",
        "the most that a request went out after it was due for want of this program's speed",
    );
    times.chart(words, Of::Highest, from_zero(&lines, ms_short, ms), lines)
}

fn capacity(found: &FindCapacity) -> Chart {
    let mut steps: Vec<_> = found.steps.iter().collect();
    steps.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let values = |kept: Option<bool>| {
        let steps = steps.iter();
        let of = |is_kept: bool| kept.is_none_or(|kept| kept == is_kept);
        steps
            .map(|step| step.accept_p99_ms.filter(|_| of(step.kept)))
            .collect::<Vec<_>>()
    };
    let line = |label: &str, colour, stroke, values| Line {
        label: label.to_owned(),
        colour,
        stroke,
        values,
    };
    let lines = vec![
        line("p99", Colour::Muted, Stroke::Solid, values(None)),
        line("kept", Colour::Series(1), Stroke::Discs, values(Some(true))),
        line(
            "missed",
            Colour::Series(4),
            Stroke::Crosses,
            values(Some(false)),
        ),
    ];
    let highest = steps.last().map_or(1.0, |step| step.rate);
    let scale = Scale::up_to(highest);
    let knee = found.knee_rate.map(|knee_rate| Mark {
        badge: "K".into(),
        text: format!("the knee, {}", rate(knee_rate)),
        from: knee_rate,
        to: None,
    });
    Chart {
        id: "capacity",
        title: "Capacity",
        note: match found.knee_rate {
            Some(knee_rate) => format!(
                "p99 of accepting at each rate that was tried; K: the knee, {}",
                rate(knee_rate)
            ),
            None => "p99 of accepting at each rate that was tried; none kept the objectives".into(),
        },
        x: axis(scale, short, rate),
        y: decades(&lines),
        xs: steps.iter().map(|step| step.rate).collect(),
        lines,
        marks: knee.into_iter().collect(),
        group: "capacity",
    }
}

fn axis(scale: Scale, tick_text: fn(f64) -> String, value_text: fn(f64) -> String) -> Axis {
    Axis {
        scale,
        ticks: scale.ticks(),
        tick_text,
        value_text,
    }
}

fn from_zero(lines: &[Line], tick_text: fn(f64) -> String, value_text: fn(f64) -> String) -> Axis {
    let values = lines.iter().flat_map(|it| &it.values).flatten().copied();
    axis(
        Scale::up_to(values.fold(0.0, f64::max)),
        tick_text,
        value_text,
    )
}

fn decades(lines: &[Line]) -> Axis {
    let values = lines.iter().flat_map(|it| &it.values).flatten().copied();
    axis(Scale::decades(values), ms_short, ms)
}

/// `100 µs`, `20 ms`, `1 s`: a tick's round value.
fn ms_short(value: f64) -> String {
    match value {
        value if value <= 0.0 => "0".into(),
        value if value < 0.9995 => format!("{} µs", trimmed(value * 1e3, 1)),
        value if value < 999.5 => format!("{} ms", trimmed(value, 2)),
        value => format!("{} s", trimmed(value / 1e3, 2)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn chart(report: &RunReport, id: &str) -> Chart {
        let mut all = all(report).into_iter();
        all.find(|chart| chart.id == id).unwrap()
    }

    #[test]
    fn every_chart_of_a_run_has_a_line() {
        let charts = all(&sample::run());
        let ids: Vec<_> = charts.iter().map(|chart| chart.id).collect();
        let expected = [
            "throughput",
            "latency",
            "percentiles",
            "errors",
            "delay",
            "in-flight",
            "cpu",
            "memory",
            "generator",
        ];
        assert_eq!(ids, expected);
        for chart in charts {
            assert!(chart.figure().contains("<svg viewBox"), "{}", chart.id);
        }
    }

    #[test]
    fn what_is_drawn_is_what_the_series_says() {
        let report = sample::run();
        let throughput = chart(&report, "throughput");
        for (second, value) in report.series.iter().zip(&throughput.lines[2].values) {
            assert_eq!(*value, Some(lossy(second.accepted)));
        }
        let latency = chart(&report, "latency");
        for (second, value) in report.series.iter().zip(&latency.lines[2].values) {
            assert_eq!(*value, second.corrected.map(|it| it.p99_ms));
        }
    }

    #[test]
    fn the_percentile_curve_passes_the_named_percentiles() {
        let report = sample::run();
        let curve = chart(&report, "percentiles");
        let at = |nines: u32| curve.lines[0].values[(nines * POINTS_PER_NINE) as usize].unwrap();
        let summary = report.latency.accept_corrected.summary;
        for (nines, ms) in [
            (1, summary.p90_ms),
            (2, summary.p99_ms),
            (3, summary.p99_9_ms),
            (4, summary.p99_99_ms),
        ] {
            let ratio = at(nines) / ms.unwrap();
            // The next bucket, where exactly so many values lie beyond.
            assert!((0.99..1.02).contains(&ratio), "{nines}: {ratio}");
        }
        assert_eq!(nines_text(0.0), "0%");
        assert_eq!(nines_text(3.0), "99.9%");
    }

    #[test]
    fn actions_are_marked_on_every_chart_over_time() {
        for chart in all(&sample::run()) {
            let marks = if chart.group == "time" { 2 } else { 0 };
            assert_eq!(chart.marks.len(), marks, "{}", chart.id);
        }
    }

    #[test]
    fn a_long_run_is_drawn_in_slices_that_keep_the_worst() {
        let mut report = sample::run();
        let second = report.series[0].clone();
        report.series = (0..7_200)
            .map(|number| Second {
                second: number,
                delay_ms: Some(if number == 4_321 { 900.0 } else { 1.0 }),
                ..second.clone()
            })
            .collect();
        let chart = chart(&report, "delay");
        assert_eq!(chart.xs.len(), 300);
        assert!(chart.note.contains("the worst of 24 s"), "{}", chart.note);
        let highest = chart.lines[0].values.iter().flatten().copied();
        assert_eq!(highest.fold(0.0, f64::max), 900.0);
    }

    #[test]
    fn more_kinds_and_servers_than_colours_still_fit() {
        let mut report = sample::run();
        for number in 0..20 {
            let name = format!("n{number}");
            report.series[3].errors.insert(name.clone(), 10);
            let mut server = report.series[3].servers[0].clone();
            server.name = name;
            report.series[3].servers.push(server);
        }
        let errors = chart(&report, "errors");
        assert_eq!(errors.lines.len(), Colour::SERIES);
        assert_eq!(errors.lines.last().unwrap().label, "others");
        assert_eq!(chart(&report, "cpu").lines.len(), Colour::SERIES + 1);
    }

    #[test]
    fn the_knee_is_marked() {
        let chart = chart(&sample::find_capacity(), "capacity");
        assert_eq!(chart.marks[0].from, 61_250.0);
        let drawn = |line: &Line| line.values.iter().flatten().count();
        assert_eq!(drawn(&chart.lines[0]), 9);
        assert_eq!(drawn(&chart.lines[1]) + drawn(&chart.lines[2]), 9);
    }
}
