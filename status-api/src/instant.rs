//! Instants as the database holds them and as answers show them.

use jiff::Timestamp;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo, PgValueRef, Postgres};

/// `timestamptz`'s type number, fixed for ever in `pg_type.dat`.
const TIMESTAMPTZ: Oid = Oid(1184);

/// 2000-01-01T00:00:00Z, from where PostgreSQL counts, in microseconds since 1970.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// The first instant that a `timestamptz` can be, in microseconds since 2000 (`timestamp.h`). The
/// last is beyond what microseconds since 1970 reach.
const POSTGRES_FIRST_US: i64 = -211_813_488_000_000_000;

/// Microseconds since the Unix epoch. PostgreSQL's `-infinity` and `infinity` saturate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Micros(pub(crate) i64);

impl Micros {
    /// Before every instant.
    pub(crate) const MIN: Self = Self(i64::MIN);

    /// After every instant.
    pub(crate) const MAX: Self = Self(i64::MAX);

    pub(crate) fn from_unix_ms(ms: u64) -> Self {
        Self(i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1_000))
    }

    /// Now, by this machine's clock.
    pub(crate) fn now() -> Self {
        Self(Timestamp::now().as_microsecond())
    }

    pub(crate) fn minus(self, duration: std::time::Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)),
        )
    }

    /// How long `earlier` is ago, in milliseconds; 0 if it is not.
    pub(crate) fn ms_since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0) / 1_000).unwrap_or(0)
    }

    /// As PostgreSQL counts; the two ends of an i64 are its infinities.
    fn postgres_us(self) -> i64 {
        match self.0.saturating_sub(POSTGRES_EPOCH_US) {
            _ if self == Self::MAX => i64::MAX,
            us if us < POSTGRES_FIRST_US => i64::MIN,
            us => us,
        }
    }

    /// RFC 3339 in UTC, with as many digits as it takes. Years beyond 9999 show as its end.
    pub(crate) fn rfc_3339(self) -> String {
        let latest = if self.0 < 0 {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        };
        Timestamp::from_microsecond(self.0)
            .unwrap_or(latest)
            .to_string()
    }
}

impl sqlx::Type<Postgres> for Micros {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ)
    }
}

impl<'r> sqlx::Decode<'r, Postgres> for Micros {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        // Prepared statements answer in binary, and nothing else is used.
        let bytes: [u8; 8] = value.as_bytes()?.try_into()?;
        Ok(Self(
            i64::from_be_bytes(bytes).saturating_add(POSTGRES_EPOCH_US),
        ))
    }
}

impl sqlx::Encode<'_, Postgres> for Micros {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        // The same eight bytes as an int8's.
        self.postgres_us().encode_by_ref(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_a_timestamptz_cannot_hold_is_an_infinity() {
        assert_eq!(Micros(POSTGRES_EPOCH_US).postgres_us(), 0);
        for us in [i64::MIN, i64::MIN + POSTGRES_EPOCH_US] {
            assert_eq!(Micros(us).postgres_us(), i64::MIN);
        }
        assert_eq!(Micros::MAX.postgres_us(), i64::MAX);
        let first = POSTGRES_FIRST_US + POSTGRES_EPOCH_US;
        assert_eq!(Micros(first).postgres_us(), POSTGRES_FIRST_US);
        assert_eq!(Micros(first - 1).postgres_us(), i64::MIN);
    }

    #[test]
    fn shows_as_rfc_3339() {
        assert_eq!(Micros(0).rfc_3339(), "1970-01-01T00:00:00Z");
        assert_eq!(
            Micros(1_357_007_400_123_456).rfc_3339(),
            "2013-01-01T02:30:00.123456Z"
        );
        assert_eq!(
            Micros(1_357_007_400_120_000).rfc_3339(),
            "2013-01-01T02:30:00.12Z"
        );
        assert!(Micros(i64::MAX).rfc_3339().starts_with("9999-12-30T"));
    }

    #[test]
    fn differences_saturate() {
        assert_eq!(Micros(5_000).ms_since(Micros(1_000)), 4);
        assert_eq!(Micros(1_000).ms_since(Micros(5_000)), 0);
        assert_eq!(
            Micros(i64::MIN).minus(Duration::from_secs(30)),
            Micros(i64::MIN)
        );
        assert_eq!(Micros::from_unix_ms(u64::MAX), Micros(i64::MAX));
    }
}
