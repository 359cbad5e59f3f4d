//! Places in the lists of couriers and rides, and the cursors that name them.
//!
//! A cursor means "what comes behind this row", by the values that the list is ordered by: rows
//! that come, go or move meanwhile make no row that stays where it is appear twice or not at all.
//! It is opaque to clients: letter and version, a hash of what was asked for, the values, all in
//! hex. The hash is no secret and protects nothing: a client that changes its question while it
//! turns the pages is told so, instead of getting a list with holes.

use contract::limits::COURIER_ID_CHARS_MAX;
use xxhash_rust::xxh3::xxh3_64;

use crate::couriers::CouriersAsked;
use crate::instant::Micros;
use crate::rides::RidesAsked;

const COURIERS: &str = "c1";
const RIDES: &str = "r1";

/// Hex digits of the hash.
const HASH_DIGITS: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CursorError {
    #[error("not a cursor: pass next_cursor of an earlier page as it was")]
    Unreadable,
    #[error("of another list: a cursor goes on with the parameters of the page that gave it")]
    OfAnotherList,
}

/// Behind the courier with this id among those with this much available.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CourierPlace {
    /// Litres, from 0.
    pub(crate) available_capacity: i32,
    pub(crate) courier_id: String,
}

/// Behind the ride with this id among those at this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RidePlace {
    pub(crate) from_date: Micros,
    pub(crate) id: i64,
}

impl CourierPlace {
    /// Before every courier that was asked for: no id is empty.
    pub(crate) fn start(asked: &CouriersAsked) -> Self {
        Self {
            available_capacity: asked.min_available,
            courier_id: String::new(),
        }
    }

    pub(crate) fn cursor(&self, partner_id: i32, asked: &CouriersAsked) -> String {
        format!(
            "{COURIERS}{}{:08x}{}",
            hash_of_couriers(partner_id, asked),
            self.available_capacity,
            hex::encode(&self.courier_id)
        )
    }

    pub(crate) fn read(
        cursor: &str,
        partner_id: i32,
        asked: &CouriersAsked,
    ) -> Result<Self, CursorError> {
        let values = values(cursor, COURIERS, &hash_of_couriers(partner_id, asked))?;
        let place = values.split_at_checked(8).and_then(|(capacity, id)| {
            Some(Self {
                available_capacity: i32::try_from(u32::from_str_radix(capacity, 16).ok()?).ok()?,
                courier_id: String::from_utf8(hex::decode(id).ok()?).ok()?,
            })
        });
        // A text with NUL is none to the database.
        place
            .filter(|place| is_courier_id(&place.courier_id))
            .ok_or(CursorError::Unreadable)
    }
}

impl RidePlace {
    /// Before every ride that was asked for.
    pub(crate) fn start(asked: &RidesAsked) -> Self {
        Self {
            from_date: asked.from.unwrap_or(Micros::MIN),
            id: i64::MIN,
        }
    }

    pub(crate) fn cursor(self, partner_id: i32, asked: &RidesAsked) -> String {
        let hash = hash_of_rides(partner_id, asked);
        format!("{RIDES}{hash}{:016x}{:016x}", self.from_date.0, self.id)
    }

    pub(crate) fn read(
        cursor: &str,
        partner_id: i32,
        asked: &RidesAsked,
    ) -> Result<Self, CursorError> {
        let values = values(cursor, RIDES, &hash_of_rides(partner_id, asked))?;
        let number = |digits| u64::from_str_radix(digits, 16).ok().map(u64::cast_signed);
        let place = values
            .split_at_checked(16)
            .filter(|(_, id)| id.len() == 16)
            .and_then(|(from_date, id)| {
                Some(Self {
                    from_date: Micros(number(from_date)?),
                    id: number(id)?,
                })
            });
        place.ok_or(CursorError::Unreadable)
    }
}

/// Whether a courier can have this id.
pub(crate) fn is_courier_id(text: &str) -> bool {
    (1..=COURIER_ID_CHARS_MAX).contains(&text.chars().count()) && !text.contains(char::is_control)
}

fn hash_of_couriers(partner_id: i32, asked: &CouriersAsked) -> String {
    let CouriersAsked {
        min_available,
        vehicle_type,
    } = asked;
    // The text comes last, so that no two questions share a key; no type is empty.
    let vehicle_type = vehicle_type.as_deref().unwrap_or_default();
    hash(&format!(
        "{partner_id}/couriers/{min_available}/{vehicle_type}"
    ))
}

fn hash_of_rides(partner_id: i32, asked: &RidesAsked) -> String {
    let RidesAsked { user_id, from, to } = asked;
    let bound = |it: &Option<Micros>| it.map(|it| it.0.to_string()).unwrap_or_default();
    let (from, to) = (bound(from), bound(to));
    hash(&format!("{partner_id}/rides/{user_id}/{from}/{to}"))
}

fn hash(key: &str) -> String {
    format!("{:016x}", xxh3_64(key.as_bytes()))
}

/// The digits behind kind and hash, both of which must be these.
fn values<'c>(cursor: &'c str, kind: &str, hash: &str) -> Result<&'c str, CursorError> {
    let digits = cursor.strip_prefix(kind).ok_or(CursorError::Unreadable)?;
    let lower = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() < HASH_DIGITS || !digits.bytes().all(lower) {
        return Err(CursorError::Unreadable);
    }
    match digits.split_at(HASH_DIGITS) {
        (of, values) if of == hash => Ok(values),
        _ => Err(CursorError::OfAnotherList),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn couriers(min_available: i32, vehicle_type: Option<&str>) -> CouriersAsked {
        CouriersAsked {
            min_available,
            vehicle_type: vehicle_type.map(Into::into),
        }
    }

    fn rides(user_id: i64, from: Option<i64>, to: Option<i64>) -> RidesAsked {
        RidesAsked {
            user_id,
            from: from.map(Micros),
            to: to.map(Micros),
        }
    }

    #[test]
    fn cursors_read_back_for_the_list_that_gave_them_and_for_no_other() {
        let asked = couriers(45, Some("van"));
        for (available_capacity, courier_id) in [(0, "7"), (i32::MAX, "kö/ ~\u{1f6b2}")] {
            let place = CourierPlace {
                available_capacity,
                courier_id: courier_id.into(),
            };
            let cursor = place.cursor(1, &asked);
            assert_eq!(CourierPlace::read(&cursor, 1, &asked), Ok(place));
            let others = [couriers(46, Some("van")), couriers(45, None)];
            for (partner_id, other) in [(2, &asked), (1, &others[0]), (1, &others[1])] {
                let read = CourierPlace::read(&cursor, partner_id, other);
                assert_eq!(read, Err(CursorError::OfAnotherList));
            }
        }
        let asked = rides(7, Some(-5), None);
        for (from_date, id) in [(0, 1), (i64::MIN, i64::MIN), (i64::MAX, i64::MAX)] {
            let place = RidePlace {
                from_date: Micros(from_date),
                id,
            };
            let cursor = place.cursor(1, &asked);
            assert_eq!(RidePlace::read(&cursor, 1, &asked), Ok(place));
            let others = [
                rides(8, Some(-5), None),
                rides(7, None, Some(-5)),
                rides(7, None, None),
            ];
            for other in &others {
                let read = RidePlace::read(&cursor, 1, other);
                assert_eq!(read, Err(CursorError::OfAnotherList));
            }
        }
    }

    #[test]
    fn nothing_else_is_read() {
        let asked = couriers(45, None);
        let hash = hash_of_couriers(1, &asked);
        let long = "61".repeat(COURIER_ID_CHARS_MAX + 1);
        for twisted in [
            String::new(),
            "c1".into(),
            format!("c2{hash}0000000061"),
            format!("r1{hash}0000000061"),
            format!("c1{hash}0000000"),
            format!("c1{hash}00000000"),
            format!("c1{hash}000000006"),
            format!("c1{hash}8000000061"),
            format!("c1{hash}0000000000"),
            format!("c1{hash}00000000ff"),
            format!("c1{hash}000000006A"),
            format!("c1{hash}+000000061"),
            format!("c1{hash}0000000é61"),
            format!("c1{hash}00000000{long}"),
        ] {
            let read = CourierPlace::read(&twisted, 1, &asked);
            assert_eq!(read, Err(CursorError::Unreadable), "{twisted:?}");
        }
        let asked = rides(7, None, None);
        let hash = hash_of_rides(1, &asked);
        for digits in [0, 16, 31, 33] {
            let twisted = format!("r1{hash}{}", "0".repeat(digits));
            let read = RidePlace::read(&twisted, 1, &asked);
            assert_eq!(read, Err(CursorError::Unreadable), "{twisted:?}");
        }
    }

    #[test]
    fn what_an_id_can_be() {
        assert!(is_courier_id("7") && is_courier_id(&"ö".repeat(64)));
        for text in ["", "a\0", "a\n", "\u{85}", &"ö".repeat(65)] {
            assert!(!is_courier_id(text), "{text:?}");
        }
    }
}
