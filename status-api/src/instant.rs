//! Instants as the database holds them and as answers show them.

use jiff::Timestamp;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgTypeInfo, PgValueRef, Postgres};

/// `timestamptz`'s type number, fixed for ever in `pg_type.dat`.
const TIMESTAMPTZ: Oid = Oid(1184);

/// 2000-01-01T00:00:00Z, from where PostgreSQL counts, in microseconds since 1970.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// Microseconds since the Unix epoch. PostgreSQL's `-infinity` and `infinity` saturate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Micros(pub(crate) i64);

impl Micros {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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
