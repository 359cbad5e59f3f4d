//! The report as one HTML file: nothing is fetched, the charts are drawn already, and the JSON it
//! was made of lies inside.

mod chart;
mod charts;
mod couriers;
mod scale;
mod times;

use std::collections::BTreeMap;
use std::fmt::Display;

use super::figures::{bytes, cores, count, lossy, maybe_ms, moment, ms, rate, share, trimmed};
use super::schema::{Outcome, RunReport, Summary};

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");
/// Nothing may be fetched, whatever the report says.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      img-src data:";
/// Records that do not add up are listed up to here; the JSON has more.
const LISTED: usize = 50;
const ADDS_UP_NOT: &str = "What does not add up";

/// The whole page.
#[must_use]
pub fn render(report: &RunReport) -> String {
    let title = escape(&format!("loadtest: {}", report.load.describe()));
    let mut charts: Vec<_> = charts::all(report)
        .iter()
        .map(chart::Chart::figure)
        .collect();
    // The servers' totals fill the place beside the last chart, if there is one.
    let (beside, below) = match charts.len() % 2 {
        0 => (String::new(), server_table(report)),
        _ => (server_table(report), String::new()),
    };
    charts.push(beside);
    let sections = [
        header(report),
        tiles(report),
        reasons(report),
        grid(&[objectives(report), actions(report)]),
        grid(&charts),
        grid(&[
            percentile_table(report),
            discrepancies(report),
            books(report),
            couriers::totals(report),
            setting(report),
            error_tables(report),
            below,
        ]),
    ]
    .concat();
    // A `<` stands in strings only, where JSON lets it be written this way; so no text in the
    // report can end the element.
    let json = report.to_json().replace('<', "\\u003c");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n\
         </head>\n<body>\n<main>\n{sections}</main>\n\
         <script type=\"application/json\" id=\"report\">\n{json}</script>\n\
         <script>\n{SCRIPT}</script>\n</body>\n</html>\n"
    )
}

fn header(report: &RunReport) -> String {
    let (class, sign, word) = match report.verdict.outcome {
        Outcome::Met => ("good", "✓", "Objectives met"),
        Outcome::Missed => ("bad", "✕", "Objectives missed"),
        Outcome::Invalid => ("warn", "!", "Invalid run"),
    };
    let cut = if report.interrupted {
        ", interrupted"
    } else {
        ""
    };
    let load = escape(&report.load.describe());
    let command = report.command.iter().map(|word| shell_word(word));
    let command = escape(&command.collect::<Vec<_>>().join(" "));
    let started_at = escape(&report.started_at);
    format!(
        "<header>\n<p class=\"verdict {class}\"><span aria-hidden=\"true\">{sign}</span> {word}</p>\n\
         <h1>Load test</h1>\n<p class=\"load\">{load}</p>\n\
         <p class=\"when\">{started_at}{cut}</p>\n<pre>{command}</pre>\n</header>\n"
    )
}

/// The figures that most people came for.
fn tiles(report: &RunReport) -> String {
    let accept = &report.latency.accept_corrected.summary;
    let uncorrected = &report.latency.accept_uncorrected.summary;
    let counts = &report.counts;
    let missing = counts.lost + counts.unsettled + counts.doubled + counts.unexpected_duplicates;
    // Of a search the rate that it found, since it sent what it liked.
    let first = match &report.find_capacity {
        Some(found) => {
            let whose = if found.limited_by_generator {
                "the generator's limit"
            } else {
                "keeps the objectives"
            };
            let knee = found.knee_rate.map_or_else(|| maybe_ms(None), rate);
            ("knee", knee, whose.to_owned())
        }
        None => (
            "accepted",
            rate(report.accepted_rate),
            format!("{} records", count(counts.accepted)),
        ),
    };
    let tiles = [
        first,
        (
            "accept p50",
            maybe_ms(accept.p50_ms),
            format!("p90 {}", maybe_ms(accept.p90_ms)),
        ),
        (
            "accept p99",
            maybe_ms(accept.p99_ms),
            format!("uncorrected {}", maybe_ms(uncorrected.p99_ms)),
        ),
        (
            "accept p99.9",
            maybe_ms(accept.p99_9_ms),
            format!("max {}", maybe_ms(accept.max_ms)),
        ),
        (
            "visible p99",
            maybe_ms(report.latency.visible.summary.p99_ms),
            format!("p50 {}", maybe_ms(report.latency.visible.summary.p50_ms)),
        ),
        (
            "errors",
            share(report.error_share()),
            format!("{} unanswered", count(counts.unanswered)),
        ),
        (
            "unaccounted for",
            count(missing),
            format!("{} lost", count(counts.lost)),
        ),
    ];
    let tiles: String = tiles
        .into_iter()
        .map(|(name, value, beside)| {
            format!("<div><dt>{name}</dt><dd>{value}<small>{beside}</small></dd></div>\n")
        })
        .collect();
    format!("<dl class=\"tiles\">\n{tiles}</dl>\n")
}

fn reasons(report: &RunReport) -> String {
    let invalid = (!report.generator.valid).then(|| {
        let why = report.generator.why.as_deref().unwrap_or("it fell behind");
        format!("The generator was the bottleneck, so this says nothing about the target: {why}")
    });
    let reasons: String = invalid
        .iter()
        .chain(&report.verdict.reasons)
        .map(|reason| format!("<li>{}</li>\n", escape(reason)))
        .collect();
    if reasons.is_empty() {
        return reasons;
    }
    format!("<ul class=\"reasons\">\n{reasons}</ul>\n")
}

fn objectives(report: &RunReport) -> String {
    let rows = report.objectives.iter().map(|objective| {
        let (class, word) = if objective.met {
            ("good", "✓ met")
        } else {
            ("bad", "✕ missed")
        };
        vec![
            code(&objective.text),
            objective.actual_text(),
            format!("<span class=\"{class}\">{word}</span>"),
        ]
    });
    table("Objectives", &["objective", "measured", ""], rows.collect())
}

fn actions(report: &RunReport) -> String {
    let rows = report.actions.iter().enumerate().map(|(index, action)| {
        let end = match (&action.error, action.done_at_seconds) {
            (Some(error), _) => format!("<span class=\"bad\">failed: {}</span>", escape(error)),
            (None, Some(done_at)) => format!("done at {}", moment(done_at)),
            (None, None) => "not reached".into(),
        };
        vec![
            format!("<span class=\"badge\">{}</span>", index + 1),
            moment(action.at_seconds),
            code(&action.text),
            end,
        ]
    });
    table("On the way", &["", "at", "action", ""], rows.collect())
}

fn percentile_table(report: &RunReport) -> String {
    let latency = &report.latency;
    let rows = [
        ("accept, from due", &latency.accept_corrected.summary),
        ("accept, from sent", &latency.accept_uncorrected.summary),
        ("refused, from due", &latency.failed_corrected.summary),
        ("visible, from due", &latency.visible.summary),
    ]
    .into_iter()
    .filter(|(_, summary)| summary.count > 0)
    .map(|(name, summary)| {
        let mut row = vec![name.to_owned(), count(summary.count)];
        row.extend(all_percentiles(summary).map(maybe_ms));
        row
    });
    let head = [
        "latency", "count", "min", "mean", "p50", "p75", "p90", "p95", "p99", "p99.9", "p99.99",
        "max",
    ];
    table("Latency", &head, rows.collect())
}

fn all_percentiles(summary: &Summary) -> [Option<f64>; 10] {
    [
        summary.min_ms,
        summary.mean_ms,
        summary.p50_ms,
        summary.p75_ms,
        summary.p90_ms,
        summary.p95_ms,
        summary.p99_ms,
        summary.p99_9_ms,
        summary.p99_99_ms,
        summary.max_ms,
    ]
}

fn books(report: &RunReport) -> String {
    let counts = &report.counts;
    let rows = [
        ("intended", counts.intended, "due by the schedule"),
        ("sent", counts.sent, "= accepted + rejected + unanswered"),
        ("accepted", counts.accepted, "got a tracking id"),
        ("rejected", counts.rejected, "refused at the door"),
        ("unanswered", counts.unanswered, "nobody knows"),
        (
            "unanswered yet persisted",
            counts.unanswered_persisted,
            "stored all the same",
        ),
        ("persisted", counts.persisted, "stored"),
        ("duplicate", counts.duplicate, "there already"),
        ("failed", counts.failed, "could not be stored"),
        ("lost", counts.lost, "accepted and no longer known"),
        (
            "unsettled",
            counts.unsettled,
            "no outcome when patience ended",
        ),
        ("doubled", counts.doubled, "one became two"),
        (
            "duplicate unasked for",
            counts.unexpected_duplicates,
            "sent once, yet there already",
        ),
        (
            "sent twice on purpose",
            counts.duplicates_sent,
            "--duplicates",
        ),
        ("spoiled on purpose", counts.bad_sent, "--bad"),
        ("spoiled yet accepted", counts.bad_accepted, ""),
    ]
    .map(|(name, value, note)| vec![name.to_owned(), count(value), note.to_owned()]);
    table("The books", &["records", "count", ""], rows.into())
}

fn error_tables(report: &RunReport) -> String {
    fn rows<K: Display>(what: &str, counts: &BTreeMap<K, u64>) -> Vec<Vec<String>> {
        counts
            .iter()
            .map(|(key, value)| vec![what.to_owned(), escape(&key.to_string()), count(*value)])
            .collect()
    }
    let errors = &report.errors;
    let all = [
        rows("HTTP status, requests", &report.http_statuses),
        rows("no whole answer, requests", &errors.exchange),
        rows("rejected, records", &errors.rejected),
        rows("unanswered, records", &errors.unanswered),
        rows("failed, records", &errors.failed),
    ];
    table("Answers by kind", &["what", "kind", "count"], all.concat())
}

fn server_table(report: &RunReport) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| maybe_ms(None));
    let rows = report.server_uses().into_iter().map(|(name, it)| {
        vec![
            escape(name),
            or_dash(it.cpu_cores_mean.map(cores)),
            or_dash(it.cpu_cores_max.map(cores)),
            or_dash(it.rss_bytes_max.map(|rss_bytes| bytes(lossy(rss_bytes)))),
        ]
    });
    let head = ["server", "cores, mean", "cores, most", "memory, most"];
    table("Servers", &head, rows.collect())
}

fn discrepancies(report: &RunReport) -> String {
    let lists = &report.discrepancies;
    let records = [
        ("lost", &lists.lost),
        ("unsettled", &lists.unsettled),
        ("duplicate unasked for", &lists.unexpected_duplicates),
    ];
    let mut rows = Vec::new();
    for (what, records) in records {
        rows.extend(records.iter().take(LISTED).map(|it| {
            vec![
                what.to_owned(),
                format!(
                    "record {}{}, sent at {}",
                    it.index,
                    it.resource()
                        .map(|id| format!(", {}", escape(&id)))
                        .unwrap_or_default(),
                    moment(it.sent_at_seconds)
                ),
                code(&it.tracking_id.to_string()),
            ]
        }));
    }
    rows.extend(lists.doubled.iter().take(LISTED).map(|it| {
        let ids: Vec<_> = it.tracking_ids.iter().map(ToString::to_string).collect();
        vec![
            format!("doubled: {}", escape(&it.kind)),
            format!("records {:?}", it.indexes),
            code(&ids.join(" ")),
        ]
    }));
    rows.extend(couriers::discrepancies(report));
    table(ADDS_UP_NOT, &["what", "record", "tracking id"], rows)
}

fn setting(report: &RunReport) -> String {
    let (load, versions) = (&report.load, &report.versions);
    let mix = load.mix.iter();
    let mix: Vec<_> = mix
        .map(|(kind, part)| format!("{} {}", escape(kind), share(*part)))
        .collect();
    let mut rows = vec![
        vec!["loadtest".into(), escape(&versions.loadtest)],
        vec!["system".into(), escape(&versions.os)],
        vec!["machine".into(), escape(&versions.machine)],
        vec!["targets".into(), escape(&load.targets.join(" "))],
        vec!["mix".into(), mix.join(", ")],
        vec!["partners".into(), count(load.partners)],
        vec!["sent twice".into(), share(load.duplicates_share)],
        vec!["spoiled".into(), share(load.bad_share)],
        vec![
            "time".into(),
            format!(
                "{} s sending, {} s following",
                trimmed(report.duration_seconds, 2),
                trimmed(report.follow_seconds, 2)
            ),
        ],
        vec![
            "generator".into(),
            format!(
                "at most {} late, {} of requests late",
                ms(report.generator.behind_max_ms),
                share(report.generator.behind_share)
            ),
        ],
    ];
    for (name, version) in &versions.services {
        rows.push(vec![escape(name), escape(version)]);
    }
    table("Setting", &["", ""], rows)
}

/// Beside each other where there is room.
fn grid(parts: &[String]) -> String {
    format!("<div class=\"pair\">\n{}</div>\n", parts.concat())
}

/// Nothing when there are no rows; cells are HTML already.
fn table(title: &str, head: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    // Many columns, or long ones, take the whole width.
    let class = if head.len() > 4 || title == ADDS_UP_NOT {
        "table wide"
    } else {
        "table"
    };
    let head: String = if head.iter().all(|name| name.is_empty()) {
        String::new()
    } else {
        let cells: String = head
            .iter()
            .map(|name| format!("<th scope=\"col\">{name}</th>"))
            .collect();
        format!("<thead><tr>{cells}</tr></thead>\n")
    };
    let rows: String = rows
        .into_iter()
        .map(|row| {
            let cells: String = row.iter().map(|cell| format!("<td>{cell}</td>")).collect();
            format!("<tr>{cells}</tr>\n")
        })
        .collect();
    format!(
        "<section class=\"{class}\">\n<h2>{title}</h2>\n<div class=\"scroll\" tabindex=\"0\"><table>\n{head}<tbody>\n{rows}</tbody>\n</table></div>\n</section>\n"
    )
}

fn code(text: &str) -> String {
    format!("<code>{}</code>", escape(text))
}

/// As a shell would have to be told.
fn shell_word(word: &str) -> String {
    let plain =
        |character: char| character.is_ascii_alphanumeric() || "-_./:=,%+@".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Text as HTML, also within quotes.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::report::sample;

    fn embedded(page: &str) -> &str {
        let start = "<script type=\"application/json\" id=\"report\">";
        let (_, rest) = page.split_once(start).unwrap();
        rest.split_once("</script>").unwrap().0
    }

    #[test]
    fn the_json_within_is_the_json_beside() {
        let mut report = sample::run();
        report.command.push("</script><script>alert(1)".into());
        let page = render(&report);
        let within: serde_json::Value = serde_json::from_str(embedded(&page)).unwrap();
        let beside: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(within, beside);
        let again: RunReport = serde_json::from_str(embedded(&page)).unwrap();
        assert_eq!(again, report);
    }

    #[test]
    fn nothing_is_fetched() {
        let mut report = sample::run();
        assert!(render(&report).contains("http://127.0.0.1:8080"));
        // The target is named; nothing else has an address.
        report.load.targets = vec!["the target".into()];
        let page = render(&report);
        assert_eq!(page.find("://"), None);
        for fetching in ["src=", "@import", "url(", "import(", "fetch("] {
            assert!(!page.contains(fetching), "{fetching}");
        }
        let links: Vec<_> = page.match_indices("href=").collect();
        assert_eq!(links.len(), 1, "the icon only, which is empty");
        assert!(page.contains("default-src 'none'"));
    }

    #[test]
    fn what_a_server_says_is_shown_as_text() {
        let evil = "<img onerror=\"alert(1)\">&";
        let mut report = sample::run();
        report.verdict.reasons.push(evil.into());
        report.actions[0].text = evil.into();
        report.actions[1].error = Some(evil.into());
        report.objectives[0].text = evil.into();
        report.load.profile = evil.into();
        report.load.targets.push(evil.into());
        report.versions.services.insert(evil.into(), evil.into());
        report.errors.rejected.insert(evil.into(), 1);
        report.series[0].errors.insert(evil.into(), 1);
        report.series[0].servers[0].name = evil.into();
        let page = render(&report);
        assert_eq!(page.find("<img"), None);
        assert_eq!(page.find("alert(1)\">"), None, "quotes end no attribute");
        assert!(page.contains("&lt;img onerror=&quot;alert(1)&quot;&gt;&amp;"));
    }

    #[test]
    fn a_run_of_nothing_renders() {
        let page = render(&RunReport::default());
        assert!(page.contains("Nothing was measured"));
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }

    #[test]
    fn no_figure_of_a_chart_is_undefined() {
        for report in [sample::run(), sample::find_capacity()] {
            let page = render(&report);
            assert!(!page.contains("NaN"));
        }
    }

    #[test]
    fn the_command_can_be_pasted() {
        assert_eq!(shell_word("--slo"), "--slo");
        assert_eq!(shell_word("lost=0"), "lost=0");
        assert_eq!(shell_word("p99<10ms"), "'p99<10ms'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
    }

    /// WCAG 2.2: text against its background 4.5 to 1 (1.4.3), what is drawn 3 to 1 (1.4.11).
    #[test]
    fn colours_stand_out_in_light_and_dark() {
        let (light, dark) = STYLE.split_once("prefers-color-scheme: dark").unwrap();
        for theme in [light, dark.split_once("* {").unwrap().0] {
            let colours = colours(theme);
            let contrast = |a: &str, b: &str| {
                let (a, b) = (luminance(colours[a]), luminance(colours[b]));
                (a.max(b) + 0.05) / (a.min(b) + 0.05)
            };
            for (text, back) in [
                ("text", "page"),
                ("text", "card"),
                ("quiet", "page"),
                ("quiet", "card"),
                ("good", "card"),
                ("bad", "card"),
                ("good", "good-back"),
                ("bad", "bad-back"),
                ("warn", "warn-back"),
                ("card", "mark"),
                ("page", "text"),
            ] {
                assert!(contrast(text, back) >= 4.5, "{text} on {back}");
            }
            for series in 0..=chart::Colour::SERIES {
                let series = format!("s{series}");
                assert!(contrast(&series, "card") >= 3.0, "{series}");
            }
        }
    }

    fn colours(theme: &str) -> HashMap<&str, u32> {
        theme
            .split("--")
            .filter_map(|rest| {
                let (name, value) = rest.split_once(": #")?;
                Some((name, u32::from_str_radix(value.get(..6)?, 16).ok()?))
            })
            .collect()
    }

    fn luminance(colour: u32) -> f64 {
        let part = |shift: u32| {
            let part = f64::from(colour >> shift & 0xff) / 255.0;
            if part <= 0.040_45 {
                part / 12.92
            } else {
                ((part + 0.055) / 1.055).powf(2.4)
            }
        };
        0.2126 * part(16) + 0.7152 * part(8) + 0.0722 * part(0)
    }

    const CHROMIUM_FLAGS: [&str; 7] = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--window-size=1280,2600",
    ];

    #[test]
    #[ignore = "needs Debian's chromium"]
    fn a_browser_shows_the_report_without_a_complaint() {
        let directory = tempfile::tempdir().unwrap();
        let page = directory.path().join("report.html");
        let url = format!("file://{}", page.display());
        for (name, report) in [
            ("run", sample::run()),
            ("search", sample::find_capacity()),
            ("nothing", RunReport::default()),
        ] {
            std::fs::write(&page, render(&report)).unwrap();
            let (dom, _) = chromium(directory.path(), &["--dump-dom", &url]);
            assert!(
                dom.contains("data-ready=\"true\""),
                "{name}: the script did not end"
            );
            assert!(dom.contains("Save the JSON"), "{name}");
            for (theme, number) in [("dark", 0), ("light", 1)] {
                let picture = directory.path().join(format!("{name}-{theme}.png"));
                let to = format!("--screenshot={}", picture.display());
                let preferred = format!("--blink-settings=preferredColorScheme={number}");
                chromium(directory.path(), &[&to, &preferred, &url]);
                let drawn = std::fs::read(&picture).unwrap();
                assert!(drawn.starts_with(b"\x89PNG"), "{name} {theme}");
                assert!(drawn.len() > 20_000, "{name} {theme} is empty");
            }
        }
    }

    /// What the browser says on stdout and on stderr, where nothing of the page's may stand.
    fn chromium(home: &Path, arguments: &[&str]) -> (String, String) {
        let output = Command::new("chromium")
            .args(CHROMIUM_FLAGS)
            .arg(format!(
                "--user-data-dir={}",
                home.join("profile").display()
            ))
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        assert!(output.status.success(), "{stderr}");
        let complaints: Vec<_> = stderr
            .lines()
            .filter(|line| line.contains("CONSOLE"))
            .collect();
        assert!(complaints.is_empty(), "{complaints:?}");
        (stdout, stderr)
    }
}
