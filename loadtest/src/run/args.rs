//! The flags of `run`.

use std::path::PathBuf;
use std::time::Duration;

use chassis::units::parse_duration;
use clap::Args;

use super::generate::Body;
use super::slo::Slo;
use crate::base_url::BaseUrl;

/// Flags of `loadtest run`.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct RunArgs {
    /// Gateways' base URLs, comma-separated; connections are spread over them [default: from
    /// .weir/endpoints.json]
    #[arg(long, env = "WEIR_URL", value_delimiter = ',', value_name = "URL")]
    pub url: Vec<BaseUrl>,

    /// Status APIs' base URLs, comma-separated [default: from .weir/endpoints.json]
    #[arg(
        long,
        env = "WEIR_STATUS_URL",
        value_delimiter = ',',
        value_name = "URL"
    )]
    pub status_url: Vec<BaseUrl>,

    /// API key; several times for several partners, who take turns [default: from
    /// .weir/endpoints.json]
    #[arg(long, env = "WEIR_KEY", hide_env_values = true)]
    pub key: Vec<String>,

    /// So many of the partners of .weir/endpoints.json take turns
    #[arg(long, value_name = "N", conflicts_with = "key", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub partners: Option<u32>,

    /// How the rate goes: steady, ramp A:B, burst, soak, xrides-day or find-capacity
    #[arg(long, value_name = "PROFILE", num_args = 1..=2, default_value = "steady")]
    pub profile: Vec<String>,

    /// Records sent a second, over all connections and gateways; of burst the base, of
    /// find-capacity the first that is tried [default: 1000]
    #[arg(long, value_name = "RECORDS_PER_SECOND", value_parser = parse_rate)]
    pub rate: Option<f64>,

    /// How long to send [default: 30s; burst and ramp 60s; soak 1h; each step of find-capacity 10s]
    #[arg(long, value_parser = parse_duration)]
    pub duration: Option<Duration>,

    /// Records a second in a spike of burst [default: 5 times --rate]
    #[arg(long, value_name = "RECORDS_PER_SECOND", value_parser = parse_rate)]
    pub spike_rate: Option<f64>,

    /// From one spike of burst to the next [default: 10s]
    #[arg(long, value_parser = parse_duration)]
    pub spike_every: Option<Duration>,

    /// How long a spike of burst lasts [default: 1s]
    #[arg(long, value_parser = parse_duration)]
    pub spike_for: Option<Duration>,

    /// How many times as fast as it happened the day of xrides-day goes by [default: 60]
    #[arg(long, value_name = "TIMES", value_parser = parse_speedup)]
    pub speedup: Option<f64>,

    /// Closed model instead: N requests under way at all times, each followed by the next as soon
    /// as it is answered; latency then hides what waits behind a stall
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub closed: Option<u32>,

    /// Version of HTTP; 2 is spoken with prior knowledge
    #[arg(long, value_name = "1|2", default_value = "1", value_parser = clap::value_parser!(u8).range(1..=2))]
    pub http: u8,

    /// Connections in the pool [default: 64; with --http 2: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: Option<u32>,

    /// With --http 2, requests that share a connection [default: 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub streams: Option<u32>,

    /// How records are put into a request [default: single; with --batch ndjson]
    #[arg(long, value_enum)]
    pub body: Option<Body>,

    /// Records in one request of array or ndjson, 1 to 10000 [default: 100]
    #[arg(long, value_name = "RECORDS", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: Option<u32>,

    /// Kinds of records by weight: rides, and commands to couriers
    #[arg(long, value_name = "KIND=WEIGHT,...", default_value = "rides=100", value_parser = parse_mix)]
    pub mix: Mix,

    /// Couriers of each partner that commands are sent to, created before the first request is due
    /// [default: 500]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub couriers: Option<u32>,

    /// What is generated, ids included: one seed, the same bytes. A seed used before against the
    /// same installation repeats its ids [default: another each time]
    #[arg(long)]
    pub seed: Option<u64>,

    /// Share of records that repeat an earlier one on purpose, like 1%
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = parse_percent)]
    pub duplicates: f64,

    /// Share of records spoiled on purpose, like 0.1%: to be refused, and no error then
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = parse_percent)]
    pub bad: f64,

    /// How long to wait for an answer. A request that had no connection for as long since it was
    /// due is never sent, and counts as an error
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    pub timeout: Duration,

    /// How long to follow ids after the last answer before they count as unsettled
    #[arg(long, default_value = "120s", value_parser = parse_duration)]
    pub settle_timeout: Duration,

    /// How long after its failure an unanswered request may still be stored; looked up then
    #[arg(long, default_value = "15s", value_parser = parse_duration)]
    pub unanswered_wait: Duration,

    /// Do not follow ids to their outcomes: for servers that have none
    #[arg(long)]
    pub no_follow: bool,

    /// Follow ids in this database's tables instead of by the status API, and see that each ride is
    /// really there
    #[arg(long, value_name = "URL", conflicts_with = "no_follow")]
    pub database_url: Option<String>,

    /// An objective, several times for several; see below [default: errors<1%; with find-capacity
    /// accept.p99<100ms, errors<0.1%, rate>=0.98 and visible.p99<2s]
    #[arg(long, value_name = "OBJECTIVE")]
    pub slo: Vec<Slo>,

    /// Do something to a local stack on the way, several times for several: --at 20s 'kill worker'
    #[arg(long, num_args = 2, value_names = ["TIME", "ACTION"])]
    pub at: Vec<String>,

    /// Write the report as JSON; the file is replaced whole
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write the report as one HTML page that needs no network; the file is replaced whole
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

const AFTER_HELP: &str = "\
Open model: when each request is due follows from the profile alone. Whatever the server does, the \
schedule goes on; a request for which no connection is free waits here, and its latency counts from \
the moment it was due (corrected) as well as from the moment it went out (uncorrected). Requests \
that waited as long as --timeout are given up: the backlog is bounded.

An honest generator: a request is late by the generator's fault if it was not let go on time, or \
was while a connection was free; and if all connections were busy while the generator's own threads \
never rested. More than 1% of the requests late like that by more than 100 ms, or one by more than \
1 s, make the run invalid (exit 3). Waiting for a busy server does not.

Conservation: every id that a 202 carried is followed to its outcome. One that is lost, unsettled, \
doubled or a duplicate that nobody asked for fails the run and is listed, whatever the objectives. \
Unanswered records that turn out to be stored are counted apart. Takes about 60 bytes of memory for \
each record.

Couriers in the mix: a fleet is created first. No command to it depends on the order in which \
requests arrive, so one that is refused or fails fails the run; and in the end every courier must have the \
capacity and the version that the persisted commands add up to.

Profiles (rates in records per second):
  steady         one --rate for --duration
  ramp A:B       from A to B in a straight line
  burst          --rate, and --spike-rate for --spike-for at the end of every --spike-every
  soak           steady, an hour unless --duration says otherwise
  xrides-day     288,000 rides over the hours of a real day, most of each minute's in its first ten \
seconds, --speedup times as fast
  find-capacity  doubles and then halves in on the highest rate that keeps the objectives

Objectives: METRIC<LIMIT, <=, =, >=, >
  accept.pXX     p50 p75 p90 p95 p99 p99.9 p99.99 max mean of requests answered 202, from when they \
were due: accept.p99<10ms
  visible.pXX    the same of records, to when their outcome could be seen: visible.p99<500ms
  errors         share of records refused though whole, unanswered, never sent or failed: \
errors<0.01%
  lost           accepted records that are gone or have no outcome: lost=0
  rate           the rate reached as a share of the rate asked for: rate>=0.99

Actions: kill|stop|freeze|thaw ROLE [NUMBER] [TIME], for processes of .weir/endpoints.json: 'kill \
worker', 'stop gateway 1', 'freeze nats 5s'. What is frozen is thawed when the run ends.

Ctrl-C stops sending and still closes the books and reports; once more stops following too.

Exit codes: 0 all objectives met and every record accounted for; 1 it could not run, was \
interrupted, or its report could not be written; 2 an objective was missed, or the books do not \
balance; 3 invalid: the generator fell behind its own schedule; 64 wrong usage.";

/// Kinds of records and their shares, which sum to one.
#[derive(Clone, PartialEq, Debug)]
pub struct Mix {
    /// Of rides.
    pub rides: f64,
    /// Of commands to couriers.
    pub couriers: f64,
}

/// Smallest share of a kind that is in the mix at all.
const MIX_SHARE_MIN: f64 = 0.000_1;

fn parse_mix(text: &str) -> Result<Mix, String> {
    const HINT: &str = "write it like rides=80,couriers=20";
    let (mut rides, mut couriers) = (0.0, 0.0);
    for part in text.split(',') {
        let (kind, weight) = part.split_once('=').ok_or(HINT)?;
        let weight: f64 = weight.trim().parse().map_err(|_| HINT)?;
        if !weight.is_finite() || weight < 0.0 {
            return Err(HINT.to_owned());
        }
        match kind.trim() {
            "rides" => rides += weight,
            "couriers" => couriers += weight,
            other => {
                return Err(format!(
                    "no kind {other:?}, only rides and couriers; {HINT}"
                ));
            }
        }
    }
    let sum = rides + couriers;
    if sum <= 0.0 || !f64::is_finite(sum) {
        return Err(format!("nothing would be sent; {HINT}"));
    }
    let mix = Mix {
        rides: rides / sum,
        couriers: couriers / sum,
    };
    if [mix.rides, mix.couriers]
        .iter()
        .any(|share| *share > 0.0 && *share < MIX_SHARE_MIN)
    {
        return Err(format!("a share is at least 0.01% or nothing; {HINT}"));
    }
    Ok(mix)
}

pub(super) fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.replace('_', "").parse().map_err(|_| "not a number")?;
    if !(rate.is_finite() && (0.01..=1e8).contains(&rate)) {
        return Err("a rate lies between 0.01 and 100000000".to_owned());
    }
    Ok(rate)
}

fn parse_speedup(text: &str) -> Result<f64, String> {
    let times: f64 = text.parse().map_err(|_| "not a number")?;
    if !(times.is_finite() && (0.1..=100_000.0).contains(&times)) {
        return Err("between 0.1 and 100000".to_owned());
    }
    Ok(times)
}

fn parse_percent(text: &str) -> Result<f64, String> {
    const HINT: &str = "write it like 1% or 0.1%";
    let number = text.strip_suffix('%').ok_or(HINT)?;
    let percent: f64 = number.trim().parse().map_err(|_| HINT)?;
    if !(0.0..=50.0).contains(&percent) {
        return Err(format!("at most 50%; {HINT}"));
    }
    Ok(percent / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_mixes_are_read_with_their_units() {
        assert!((parse_percent("0.1%").unwrap() - 0.001).abs() < 1e-12);
        for text in ["1", "0.01", "x%", "-1%", "60%", "NaN%"] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
        for (text, couriers) in [
            ("rides=100", 0.0),
            ("rides=80,couriers=20", 0.2),
            ("couriers=3", 1.0),
            ("couriers=1, rides=1", 0.5),
        ] {
            let mix = parse_mix(text).unwrap();
            assert!((mix.couriers - couriers).abs() < 1e-9, "{text}");
            assert!((mix.rides + mix.couriers - 1.0).abs() < 1e-9, "{text}");
        }
        for text in [
            "rides",
            "rides=0",
            "drivers=10",
            "rides=0,couriers=0",
            "rides=1e9,couriers=1",
            "rides=x",
        ] {
            assert!(parse_mix(text).is_err(), "{text}");
        }
        for text in ["0", "-5", "inf", "x", ""] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
        assert!((parse_rate("10_000").unwrap() - 10_000.0).abs() < 1e-9);
    }
}
