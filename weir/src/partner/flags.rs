//! What `weir partner add`, `limit` and `rotate-key` can be told.

use std::num::NonZeroU32;
use std::time::Duration;

use chassis::units::{parse_bytes, parse_duration};
use partners::{Limits, Scope};

/// Add a partner and show its first key, once.
///
/// Without limits a partner may send as much as Weir takes. Weir names the next free id.
#[derive(clap::Args, Debug)]
pub(super) struct Add {
    /// What to call it: 1 to 64 characters of a-z 0-9 - _ .
    #[arg(value_parser = name)]
    pub(super) name: String,

    /// Its id in every table, 1 to 2147483647 [default: the next free one]
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    pub(super) id: Option<i32>,

    /// What its key is good for: ingest or read; may be repeated [default: both]
    #[arg(long = "scope", value_name = "SCOPE", value_parser = scope)]
    scopes: Vec<Scope>,

    /// When its key ends, from now on, such as 90d [default: never]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(super) expires: Option<Duration>,

    /// Most records a second, in the long run
    #[arg(long, value_name = "N", value_parser = count)]
    records_per_second: Option<NonZeroU32>,

    /// Most records at once, so also the largest batch [default: as many as a second allows]
    #[arg(long, value_name = "N", value_parser = count)]
    records_burst: Option<NonZeroU32>,

    /// Most bytes of bodies a second, in the long run, such as 1MiB
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    bytes_per_second: Option<NonZeroU32>,

    /// Most bytes at once, so also the largest body [default: as many as a second allows]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    bytes_burst: Option<NonZeroU32>,
}

/// Change a partner's limits; what is not named stays.
#[derive(clap::Args, Debug)]
pub(super) struct Limit {
    /// Its name or id
    pub(super) partner: String,

    /// Most records a second, in the long run, or none
    #[arg(long, required_unless_present_any = ["records_burst", "bytes_per_second", "bytes_burst"], value_name = "N|none", value_parser = count_or_none)]
    records_per_second: Option<Setting>,

    /// Most records at once, or none for as many as a second allows
    #[arg(long, value_name = "N|none", value_parser = count_or_none)]
    records_burst: Option<Setting>,

    /// Most bytes of bodies a second, in the long run, or none
    #[arg(long, value_name = "BYTES|none", value_parser = bytes_or_none)]
    bytes_per_second: Option<Setting>,

    /// Most bytes at once, or none for as many as a second allows
    #[arg(long, value_name = "BYTES|none", value_parser = bytes_or_none)]
    bytes_burst: Option<Setting>,
}

/// Give a partner another key, and show it, once.
///
/// The old keys go on working unless --grace is given: revoke them once the partner uses the new
/// one.
#[derive(clap::Args, Debug)]
pub(super) struct RotateKey {
    /// Its name or id
    pub(super) partner: String,

    /// Let the old keys expire after this time, such as 24h: those that can do nothing that the new
    /// one cannot
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(super) grace: Option<Duration>,

    /// What the new key is good for: ingest or read; may be repeated [default: what the live keys
    /// are good for together]
    #[arg(long = "scope", value_name = "SCOPE", value_parser = scope)]
    scopes: Vec<Scope>,

    /// When the new key ends, from now on, such as 90d [default: never]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(super) expires: Option<Duration>,
}

/// A limit, or that there is to be none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Setting {
    None,
    Most(NonZeroU32),
}

impl Add {
    pub(super) fn scopes(&self) -> Vec<Scope> {
        in_order(&self.scopes, &Scope::ALL)
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            records_per_second: self.records_per_second,
            records_burst: self.records_burst,
            bytes_per_second: self.bytes_per_second,
            bytes_burst: self.bytes_burst,
        }
    }
}

impl Limit {
    /// A rate that goes takes its burst along.
    pub(super) fn applied_to(&self, limits: Limits) -> Limits {
        let records_per_second = chosen(self.records_per_second, limits.records_per_second);
        let bytes_per_second = chosen(self.bytes_per_second, limits.bytes_per_second);
        let records_burst = limits
            .records_burst
            .and(records_per_second)
            .and(limits.records_burst);
        let bytes_burst = limits
            .bytes_burst
            .and(bytes_per_second)
            .and(limits.bytes_burst);
        Limits {
            records_per_second,
            records_burst: chosen(self.records_burst, records_burst),
            bytes_per_second,
            bytes_burst: chosen(self.bytes_burst, bytes_burst),
        }
    }
}

impl RotateKey {
    pub(super) fn scopes(&self, live: &[Scope]) -> Vec<Scope> {
        in_order(&self.scopes, live)
    }
}

fn chosen(setting: Option<Setting>, before: Option<NonZeroU32>) -> Option<NonZeroU32> {
    match setting {
        None => before,
        Some(Setting::None) => None,
        Some(Setting::Most(most)) => Some(most),
    }
}

/// Each once.
fn in_order(named: &[Scope], default: &[Scope]) -> Vec<Scope> {
    let wanted = if named.is_empty() { default } else { named };
    let all = Scope::ALL.into_iter();
    all.filter(|scope| wanted.contains(scope)).collect()
}

fn name(text: &str) -> Result<String, String> {
    partners::check_name(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn scope(text: &str) -> Result<Scope, String> {
    Scope::of_word(text).ok_or_else(|| "a scope is ingest or read".to_owned())
}

fn count(text: &str) -> Result<NonZeroU32, String> {
    text.parse()
        .map_err(|_| format!("a number from 1 to {}", u32::MAX))
}

fn bytes(text: &str) -> Result<NonZeroU32, String> {
    let bytes = parse_bytes(text)?.0;
    let bytes = u32::try_from(bytes).ok().and_then(NonZeroU32::new);
    bytes.ok_or_else(|| "from 1B to less than 4GiB".to_owned())
}

fn count_or_none(text: &str) -> Result<Setting, String> {
    or_none(text, count)
}

fn bytes_or_none(text: &str) -> Result<Setting, String> {
    or_none(text, bytes)
}

fn or_none(
    text: &str,
    read: impl FnOnce(&str) -> Result<NonZeroU32, String>,
) -> Result<Setting, String> {
    match text {
        "none" => Ok(Setting::None),
        text => read(text)
            .map(Setting::Most)
            .map_err(|error| format!("{error}, or none")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser, Debug)]
    struct Limiting {
        #[command(flatten)]
        limit: Limit,
    }

    fn limit(words: &[&str]) -> Result<Limit, clap::Error> {
        let words = ["limit", "acme"].iter().chain(words);
        Limiting::try_parse_from(words).map(|parsed| parsed.limit)
    }

    #[test]
    fn what_is_not_named_stays_and_a_burst_goes_with_its_rate() {
        let before = Limits {
            records_per_second: NonZeroU32::new(100),
            records_burst: NonZeroU32::new(500),
            bytes_per_second: NonZeroU32::new(1 << 20),
            bytes_burst: None,
        };
        let after = |words: &[&str]| limit(words).unwrap().applied_to(before);
        let changed = after(&["--bytes-per-second", "2MiB", "--bytes-burst", "4MiB"]);
        assert_eq!(changed.records_burst, before.records_burst);
        assert_eq!(changed.bytes_burst, NonZeroU32::new(4 << 20));
        let changed = after(&["--records-per-second", "none"]);
        assert_eq!(
            (changed.records_per_second, changed.records_burst),
            (None, None)
        );
        assert_eq!(changed.bytes_per_second, before.bytes_per_second);
        let changed = after(&["--records-burst", "none"]);
        assert_eq!(changed.records_per_second, before.records_per_second);
        assert_eq!(changed.records_burst, None);
    }

    #[test]
    fn limits_have_units_and_bounds() {
        for words in [
            &[][..],
            &["--records-per-second", "0"],
            &["--records-per-second", "many"],
            &["--bytes-per-second", "4096"],
            &["--bytes-per-second", "0B"],
            &["--bytes-burst", "4GiB"],
        ] {
            assert!(limit(words).is_err(), "{words:?}");
        }
        assert!(limit(&["--bytes-burst", "4095MiB"]).is_ok());
    }
}
