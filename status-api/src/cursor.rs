//! Places in a partner's list of requests, by tracking id.
//!
//! A cursor means "everything with an id greater than this". It is opaque to clients: a version
//! letter and 32 hex digits.

use std::str::FromStr;

use uuid::Uuid;

use crate::instant::Micros;

/// Bits of a tracking id below its milliseconds.
const BITS_BELOW_MS: u32 = 80;

/// Largest millisecond that a tracking id can hold.
const MS_MAX: u64 = (1 << 48) - 1;

/// A place between two ids: behind the one it holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Cursor(u128);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor: pass next_cursor of an earlier page as it was")]
pub(crate) struct NotACursor;

impl Cursor {
    /// Before every id.
    pub(crate) const START: Self = Self(0);

    pub(crate) fn behind(id: Uuid) -> Self {
        Self(id.as_u128())
    }

    /// Before every id that was minted at `instant`'s millisecond or later.
    pub(crate) fn before(instant: Micros) -> Self {
        let ms = u64::try_from(instant.0.div_euclid(1_000))
            .unwrap_or(0)
            .min(MS_MAX);
        Self((u128::from(ms) << BITS_BELOW_MS).saturating_sub(1))
    }

    pub(crate) fn uuid(self) -> Uuid {
        Uuid::from_u128(self.0)
    }

    pub(crate) fn text(self) -> String {
        format!("a{:032x}", self.0)
    }
}

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        let digits = text
            .strip_prefix('a')
            .filter(|it| it.len() == 32)
            .ok_or(NotACursor)?;
        let lower = digits
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let value = u128::from_str_radix(digits, 16).map_err(|_| NotACursor)?;
        lower.then_some(Self(value)).ok_or(NotACursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_and_nothing_else_is_read() {
        let cursor = Cursor::behind(Uuid::from_u128(0x0123_4567_89ab_7aaa_aa55_550f_0fc3_b8fc));
        assert_eq!(cursor.text().parse(), Ok(cursor));
        let twisted = [
            "",
            "a",
            "1",
            "b0123456789ab7aaaaa55550f0fc3b8fc",
            "a+123456789ab7aaaaa55550f0fc3b8fc",
        ];
        for text in twisted
            .into_iter()
            .chain(["a0123456789AB7aaaaa55550f0fc3b8fc"])
        {
            assert_eq!(text.parse::<Cursor>(), Err(NotACursor), "{text:?}");
        }
    }

    #[test]
    fn an_instant_stands_just_before_its_millisecond() {
        let ms = 1_700_000_000_000_u64;
        let cursor = Cursor::before(Micros::from_unix_ms(ms));
        let first_of = |ms: u64| Cursor::behind(Uuid::from_u128(u128::from(ms) << 80));
        assert!(cursor < first_of(ms));
        assert!(cursor > first_of(ms - 1));
        assert_eq!(Cursor::before(Micros(-5)), Cursor::START);
        assert_eq!(Cursor::before(Micros(i64::MIN)), Cursor::START);
        assert!(Cursor::before(Micros(i64::MAX)) > cursor);
    }
}
