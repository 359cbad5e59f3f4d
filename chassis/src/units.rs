//! Values of flags with their units: `250ms`, `5s`, `8MiB`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Reads a duration, for clap's `value_parser`: `250ms`, `5s`, `1h 30m`, `90d`.
///
/// # Errors
/// A sentence for the user when the text has no unit or is not a duration.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write it like 250ms, 5s or 1h"))
}

/// Reads a number of bytes, for clap's `value_parser`: `8MiB`, `512KiB`, `20GB`, `900B`.
///
/// # Errors
/// A sentence for the user when the unit is missing or unknown, or the number does not fit.
pub fn parse_bytes(text: &str) -> Result<Bytes, String> {
    const HINT: &str = "write it like 8MiB, 512KiB or 900B";
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("no whole number of bytes; {HINT}"))?;
    let factor = match unit.trim_start() {
        "" => return Err(format!("a unit is missing; {HINT}")),
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1_u64 << 40,
        other => return Err(format!("unknown unit {other:?}; {HINT}")),
    };
    number
        .checked_mul(factor)
        .map(Bytes)
        .ok_or_else(|| format!("more than {} bytes", u64::MAX))
}

/// A number of bytes that reads and shows its unit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] = [
            (1 << 40, "TiB"),
            (1 << 30, "GiB"),
            (1 << 20, "MiB"),
            (1 << 10, "KiB"),
        ];
        // Only a unit that divides exactly: what is shown reads back as the same number.
        match UNITS
            .iter()
            .find(|(size, _)| self.0 >= *size && self.0.is_multiple_of(*size))
        {
            Some((size, unit)) => write!(f, "{}{unit}", self.0 / size),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_bytes(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse_duration("90d"), Ok(Duration::from_secs(90 * 86_400)));
        assert!(parse_duration("5").unwrap_err().contains("like 250ms"));
        assert!(parse_duration("").is_err());
        assert!(parse_duration("-5s").is_err());
    }

    #[test]
    fn bytes_need_a_unit() {
        assert_eq!(parse_bytes("8MiB"), Ok(Bytes(8 * 1024 * 1024)));
        assert_eq!(parse_bytes("512 KiB"), Ok(Bytes(512 * 1024)));
        assert_eq!(parse_bytes("20GB"), Ok(Bytes(20_000_000_000)));
        assert_eq!(parse_bytes("0B"), Ok(Bytes(0)));
        assert!(parse_bytes("4096").unwrap_err().contains("unit is missing"));
        assert!(parse_bytes("4 Mib").unwrap_err().contains("unknown unit"));
        assert!(parse_bytes("MiB").is_err());
        assert!(parse_bytes("1.5MiB").is_err());
        assert!(parse_bytes("18446744073709551615KiB").is_err());
    }

    #[test]
    fn bytes_show_as_they_read() {
        for text in ["8MiB", "3GiB", "1025B", "0B", "512KiB", "2TiB"] {
            assert_eq!(parse_bytes(text).expect(text).to_string(), text);
        }
    }
}
