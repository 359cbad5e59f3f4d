//! The outbox: what others are told, in the order in which it happened.

use std::borrow::Cow;

use contract::event::{Event, event_id};
use tokio_postgres::{Error, Statement};

use super::copy::Rows;
use super::fold::{Folded, Item};
use super::rides;
use super::session::Session;

/// Into the outbox.
pub(super) const COPY: &str = "copy outbox (partition, log_seq, event_index, partner_id, event, \
    event_id, body) from stdin (format binary)";
const COLUMNS: i16 = 7;

/// An event and where it stands.
pub(super) struct Told<'f, 'b> {
    item: &'f Item<'b>,
    event: Cow<'f, Event>,
    /// Among the record's events, from 0.
    n: u32,
    /// Among the chunk's events, from 0.
    index: i32,
}

/// The events of a folded batch. The same batch has the same ones, whoever folds it.
pub(super) fn events<'f, 'b>(
    items: &'f [Item<'b>],
    folded: &'f Folded,
    ride_events: bool,
) -> Vec<Told<'f, 'b>> {
    let mut told: Vec<Told<'f, 'b>> = Vec::new();
    for write in &folded.writes {
        let item = &items[write.item];
        let ride = match ride_events {
            true => rides::event(item, write),
            false => None,
        };
        let events = write.events.iter().map(Cow::Borrowed);
        for (n, event) in (0..).zip(events.chain(ride.map(Cow::Owned))) {
            let index = match told.last() {
                Some(last) if last.item.log_seq == item.log_seq => last.index + 1,
                _ => 0,
            };
            told.push(Told {
                item,
                event,
                n,
                index,
            });
        }
    }
    told
}

/// Writes one row as [`COPY`] wants it. Its record is staged or stored by then, so what should be
/// JSON in it is.
fn encode(told: &Told<'_, '_>, rows: &mut Rows) {
    let Told {
        item,
        event,
        n,
        index,
    } = told;
    let tracking_id = item.entry.tracking_id;
    let partner_id = item.key.partner_id;
    rows.row(COLUMNS);
    rows.int4(i32::from(tracking_id.partition().0));
    rows.int8(item.log_seq);
    rows.int4(*index);
    rows.int4(partner_id);
    rows.text(event.name());
    rows.text(&event_id(tracking_id, *n));
    rows.text(&event.document(partner_id, tracking_id, *n));
}

/// Copies the events, if there are any.
pub(super) async fn copy(
    session: &mut Session<'_>,
    statement: &Statement,
    events: &[Told<'_, '_>],
) -> Result<(), Error> {
    if !events.is_empty() {
        session.copy(statement, events, encode).await?;
    }
    Ok(())
}
