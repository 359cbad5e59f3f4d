//! The couriers of a run: what became of their commands, and what does not add up.

use super::{LISTED, code, count, escape, table};
use crate::report::schema::RunReport;

/// Nothing of a run without couriers.
pub(super) fn totals(report: &RunReport) -> String {
    let Some(couriers) = &report.couriers else {
        return String::new();
    };
    let mut rows: Vec<_> = couriers
        .commands
        .iter()
        .map(|(word, it)| {
            let note = format!(
                "{} duplicate, {} failed",
                count(it.duplicate),
                count(it.failed)
            );
            vec![
                format!("{} persisted", escape(word)),
                count(it.persisted),
                note,
            ]
        })
        .collect();
    let why = couriers.unchecked_why.as_deref().map(escape);
    for (name, value, note) in [
        ("litres picked up", couriers.litres_picked_up, String::new()),
        (
            "litres dropped off",
            couriers.litres_dropped_off,
            String::new(),
        ),
        (
            "couriers checked",
            couriers.checked,
            "capacity and version as the persisted commands add up to".to_owned(),
        ),
        ("couriers differing", couriers.differing, String::new()),
        (
            "couriers not checked",
            couriers.unchecked,
            why.unwrap_or_default(),
        ),
        (
            "refused or failed",
            couriers.refused,
            "though valid in any order".to_owned(),
        ),
    ] {
        rows.push(vec![name.to_owned(), count(value), note]);
    }
    table("Couriers", &["what", "count", ""], rows)
}

/// Rows of what does not add up.
pub(super) fn discrepancies(report: &RunReport) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let Some(couriers) = &report.couriers else {
        return rows;
    };
    rows.extend(couriers.refusals.iter().take(LISTED).map(|it| {
        let id = it.tracking_id.map(|id| code(&id.to_string()));
        let what = format!("{}, {} of courier {}", it.index, it.command, it.courier_id);
        vec![
            format!("refused: {}", escape(&it.code)),
            format!("record {}", escape(&what)),
            id.unwrap_or_default(),
        ]
    }));
    rows.extend(couriers.differences.iter().take(LISTED).map(|it| {
        let what = escape(&it.describe());
        vec!["differs".to_owned(), what, String::new()]
    }));
    rows
}

#[cfg(test)]
mod tests {
    use super::super::render;
    use crate::report::sample;

    #[test]
    fn couriers_have_a_table_and_what_differs_is_listed_as_text() {
        assert!(!render(&sample::run()).contains("<h2>Couriers</h2>"));
        let mut report = sample::mixed();
        let couriers = report.couriers.as_mut().unwrap();
        couriers.refusals[0].code = "<img>".into();
        couriers.differences[0].courier_id = "<img>".into();
        couriers.unchecked_why = Some("<img>".into());
        let page = render(&report);
        for part in [
            "<h2>Couriers</h2>",
            "<td>18,000</td>",
            "pickup of courier lt1-0-8",
            "refused: &lt;img&gt;",
            "courier &lt;img&gt; is 1000 litres",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert_eq!(page.find("<img"), None);
        let again = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(report, again);
    }
}
