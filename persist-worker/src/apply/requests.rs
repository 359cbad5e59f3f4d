//! The ledger's rows.

use contract::Record;

use super::copy::Rows;
use super::fold::{Folded, Item, Verdict};

/// `completed_at` is left to its default, the transaction's `now()`.
pub(super) const COPY: &str = "copy requests (tracking_id, partner_id, kind, outcome, action, \
    resource_id, code, detail, duplicate_of, log_seq, log_index, content_hash) \
    from stdin (format binary)";
const COLUMNS: i16 = 12;

/// The rows of a folded batch: one per item that has no outcome yet.
pub(super) fn rows<'f, 'b: 'f>(
    items: &'f [Item<'b>],
    folded: &'f Folded,
) -> impl Iterator<Item = (&'f Item<'b>, &'f Verdict)> {
    items
        .iter()
        .zip(&folded.verdicts)
        .filter_map(|(item, verdict)| Some((item, verdict.as_ref()?)))
}

/// What the ledger calls a record's resource.
pub(super) fn resource_id(record: &Record) -> String {
    storable(record.resource_id())
}

/// The database has no NUL in a text, but a log that somebody else wrote may.
fn storable(text: String) -> String {
    match text.contains('\0') {
        true => text.replace('\0', "\u{fffd}"),
        false => text,
    }
}

/// Writes one row as [`COPY`] wants it.
pub(super) fn encode((item, verdict): (&Item<'_>, &Verdict), rows: &mut Rows) {
    rows.row(COLUMNS);
    rows.uuid(item.id());
    rows.int4(item.key.partner_id);
    rows.int2(item.entry.record.kind() as i16);
    rows.int2(verdict.outcome() as i16);
    rows.or_null(verdict.action(), |rows, action| rows.int2(action as i16));
    rows.text(&resource_id(&item.entry.record));
    rows.or_null(verdict.code(), |rows, code| rows.text(code.code()));
    rows.or_null(verdict.detail(item), |rows, detail| {
        rows.text(&storable(detail));
    });
    rows.or_null(verdict.duplicate_of(), Rows::uuid);
    rows.int8(item.log_seq);
    rows.int4(item.log_index);
    rows.int8(item.hash.get());
}
