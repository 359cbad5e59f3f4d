//! What follows from the flags and `.weir/endpoints.json`; wrong usage ends here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chassis::cli::exit_usage;
use chassis::units::parse_duration;
use http::header::HeaderValue;

use super::actions::Action;
use super::args::{RunArgs, parse_rate};
use super::generate::{Body, Recipe};
use super::mix::Kinds;
use super::schedule::{Profile, xrides_day_seconds};
use super::slo::Slo;
use crate::base_url::BaseUrl;
use crate::couriers::MOVEMENTS_MAX;
use crate::endpoints::{self, ENDPOINTS_FILE, Endpoints};

const RATE_DEFAULT: f64 = 1_000.0;
const CONNECTIONS_DEFAULT: u32 = 64;
const HTTP2_CONNECTIONS_DEFAULT: u32 = 4;
const STREAMS_DEFAULT: u32 = 32;
const COURIERS_DEFAULT: u32 = 500;

/// Flags with their defaults in place and found to fit each other.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) command: Vec<String>,
    pub(crate) profile_text: String,
    pub(crate) model: Model,
    pub(crate) recipe: Recipe,
    pub(crate) gateways: Vec<Arc<BaseUrl>>,
    pub(crate) status: Vec<Arc<BaseUrl>>,
    /// One `Authorization` for each partner.
    pub(crate) authorizations: Vec<HeaderValue>,
    pub(crate) http: u8,
    pub(crate) connections: usize,
    /// Requests that share a connection; 1 with HTTP/1.1.
    pub(crate) streams: usize,
    pub(crate) timeout: Duration,
    pub(crate) settle_timeout: Duration,
    pub(crate) unanswered_wait: Duration,
    pub(crate) follow: Follow,
    pub(crate) objectives: Vec<Slo>,
    pub(crate) actions: Vec<(Duration, Action)>,
    /// The file and what it says, if the load goes to the stack that it describes.
    pub(crate) stack: Option<(PathBuf, Endpoints)>,
    pub(crate) json: Option<PathBuf>,
    pub(crate) html: Option<PathBuf>,
}

/// How requests come about.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Model {
    Open(Profile),
    Closed { seconds: f64 },
    FindCapacity { first_rate: f64, step_seconds: f64 },
}

/// How ids are followed.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Follow {
    No,
    Status,
    Database(String),
}

impl RunArgs {
    /// Fills in what was left out; leaves with 64 and names all that is missing or wrong.
    pub(crate) fn settle(self) -> Settings {
        let mut faults = Vec::new();
        let model = self.model(&mut faults);
        let (body, batch) = self.body(&mut faults);
        let actions = self.actions(&mut faults);
        let (servers, stack) = self.servers(&mut faults);
        self.check_rest(&model, &mut faults);
        let authorizations = authorizations(&servers.keys, &mut faults);
        if !actions.is_empty() && stack.is_none() {
            faults.push(format!(
                "--at acts on the local stack only, and {ENDPOINTS_FILE} does not list this --url"
            ));
        }
        if !faults.is_empty() {
            exit_usage(faults.join("\nerror: "));
        }
        let (connections, streams) = self.pool();
        let settings = Settings {
            command: command(std::env::args()),
            profile_text: self.profile.join(" "),
            recipe: Recipe {
                seed: self.seed.unwrap_or_else(fresh_seed),
                body,
                batch: u64::from(batch),
                partners: authorizations.len() as u64,
                duplicates: self.duplicates,
                bad: self.bad,
                kinds: Kinds::new(self.mix.couriers),
                couriers: u64::from(self.couriers.unwrap_or(COURIERS_DEFAULT)),
            },
            gateways: servers.gateways.into_iter().map(Arc::new).collect(),
            status: servers.status.into_iter().map(Arc::new).collect(),
            authorizations,
            http: self.http,
            connections,
            streams,
            timeout: self.timeout,
            settle_timeout: self.settle_timeout,
            unanswered_wait: self.unanswered_wait,
            follow: match (&self.database_url, self.no_follow) {
                (_, true) => Follow::No,
                (Some(url), _) => Follow::Database(url.clone()),
                (None, _) => Follow::Status,
            },
            objectives: objectives(self.slo, &model, !self.no_follow),
            model,
            actions,
            stack,
            json: self.json,
            html: self.html,
        };
        if settings.commands_each() > MOVEMENTS_MAX {
            exit_usage("so many commands could empty a courier: take more --couriers");
        }
        settings
    }

    fn model(&self, faults: &mut Vec<String>) -> Model {
        let mut words = self.profile.iter().flat_map(|it| it.split_whitespace());
        let name = words.next().unwrap_or_default();
        let argument = words.next();
        let seconds = |default| self.duration.map_or(default, |it| it.as_secs_f64());
        let rate = self.rate.unwrap_or(RATE_DEFAULT);
        if words.next().is_some() || (argument.is_some() && name != "ramp") {
            faults.push(format!("--profile {name} takes nothing behind it"));
        }
        if self.closed.is_some() {
            if name != "steady" || self.rate.is_some() {
                faults.push("--closed has no schedule: leave --profile and --rate out".to_owned());
            }
            return Model::Closed {
                seconds: seconds(30.0),
            };
        }
        let profile = match name {
            "steady" => Profile::Steady {
                rate,
                seconds: seconds(30.0),
            },
            "soak" => Profile::Steady {
                rate,
                seconds: seconds(3_600.0),
            },
            "ramp" => match argument.map(ramp) {
                Some(Ok((from, to))) => Profile::Ramp {
                    from,
                    to,
                    seconds: seconds(60.0),
                },
                _ => {
                    faults.push("--profile ramp wants its ends, like ramp 100:5000".to_owned());
                    Profile::Steady { rate, seconds: 1.0 }
                }
            },
            "burst" => self.burst(rate, seconds(60.0), faults),
            "xrides-day" => Profile::XridesDay {
                speedup: self.speedup.unwrap_or(60.0),
            },
            "find-capacity" => {
                return Model::FindCapacity {
                    first_rate: rate,
                    step_seconds: seconds(10.0),
                };
            }
            other => {
                faults.push(format!(
                    "no profile {other:?}: there are steady, ramp A:B, burst, soak, xrides-day and \
                     find-capacity"
                ));
                Profile::Steady { rate, seconds: 1.0 }
            }
        };
        if matches!(name, "xrides-day" | "ramp") && self.rate.is_some() {
            faults.push(format!(
                "--profile {name} has its own rate: leave --rate out"
            ));
        }
        if name == "xrides-day" && self.duration.is_some() {
            faults.push("a day is a day: --speedup says how long it takes".to_owned());
        }
        Model::Open(profile)
    }

    fn burst(&self, rate: f64, seconds: f64, faults: &mut Vec<String>) -> Profile {
        let length =
            |given: Option<Duration>, default| given.map_or(default, |it| it.as_secs_f64());
        let every_seconds = length(self.spike_every, 10.0);
        let spike_seconds = length(self.spike_for, 1.0);
        if spike_seconds > every_seconds {
            faults.push("--spike-for is longer than --spike-every".to_owned());
        }
        Profile::Burst {
            rate,
            spike_rate: self.spike_rate.unwrap_or(rate * 5.0),
            every_seconds,
            spike_seconds,
            seconds,
        }
    }

    fn check_rest(&self, model: &Model, faults: &mut Vec<String>) {
        let burst = matches!(model, Model::Open(Profile::Burst { .. }));
        let day = matches!(model, Model::Open(Profile::XridesDay { .. }));
        let spikes = [
            self.spike_rate.is_some(),
            self.spike_every.is_some(),
            self.spike_for.is_some(),
        ];
        for (wrong, why) in [
            (
                !burst && spikes.contains(&true),
                "--spike-* belong to --profile burst",
            ),
            (
                !day && self.speedup.is_some(),
                "--speedup belongs to --profile xrides-day",
            ),
            (
                self.mix.couriers <= 0.0 && self.couriers.is_some(),
                "--couriers belong to --mix with couriers",
            ),
            (
                self.http == 1 && self.streams.is_some(),
                "--streams belong to --http 2",
            ),
            (
                self.closed.is_some() && self.connections.or(self.streams).is_some(),
                "--closed N is the number of connections: leave --connections and --streams out",
            ),
            (
                self.no_follow && self.slo.iter().any(Slo::needs_following),
                "--no-follow leaves nothing to hold visible or lost against",
            ),
            (
                self.closed.is_some() && self.slo.iter().any(Slo::needs_schedule),
                "--closed asks for no rate that could be held against",
            ),
            (
                self.duration
                    .is_some_and(|it| it < Duration::from_millis(100)),
                "--duration is too short for anything",
            ),
            (
                self.json.is_some() && self.json == self.html,
                "--json and --html name the same file",
            ),
        ] {
            if wrong {
                faults.push(why.to_owned());
            }
        }
    }

    fn body(&self, faults: &mut Vec<String>) -> (Body, u32) {
        let body = match (self.body, self.batch) {
            (Some(body), _) => body,
            (None, Some(_)) => Body::Ndjson,
            (None, None) => Body::Single,
        };
        if body == Body::Single {
            if self.batch.is_some_and(|batch| batch > 1) {
                faults.push("--body single sends one record a request: leave --batch out".into());
            }
            return (body, 1);
        }
        (body, self.batch.unwrap_or(100))
    }

    fn actions(&self, faults: &mut Vec<String>) -> Vec<(Duration, Action)> {
        let mut actions = Vec::new();
        for pair in self.at.chunks(2) {
            match (parse_duration(&pair[0]), pair[1].parse()) {
                (Ok(at), Ok(action)) => actions.push((at, action)),
                (Err(why), _) | (_, Err(why)) => {
                    faults.push(format!("--at {:?} {:?}: {why}", pair[0], pair[1]));
                }
            }
        }
        actions
    }

    fn pool(&self) -> (usize, usize) {
        let size = |number: u32| usize::try_from(number).expect("at most 10,000");
        match (self.http, self.closed) {
            (2, Some(requests)) => {
                let streams = requests.min(STREAMS_DEFAULT);
                (size(requests.div_ceil(streams)), size(streams))
            }
            (_, Some(requests)) => (size(requests), 1),
            (2, None) => (
                size(self.connections.unwrap_or(HTTP2_CONNECTIONS_DEFAULT)),
                size(self.streams.unwrap_or(STREAMS_DEFAULT)),
            ),
            (_, None) => (size(self.connections.unwrap_or(CONNECTIONS_DEFAULT)), 1),
        }
    }

    fn servers(&self, faults: &mut Vec<String>) -> (Servers, Option<(PathBuf, Endpoints)>) {
        let mut servers = Servers {
            gateways: self.url.clone(),
            status: self.status_url.clone(),
            keys: self.key.clone(),
        };
        let here = std::env::current_dir().map_err(|error| error.to_string());
        let file = here.and_then(|here| {
            let path = endpoints::locate(&here).map_err(|error| error.to_string())?;
            let found = endpoints::read(&path).map_err(|error| error.to_string())?;
            Ok((path, found))
        });
        let needs_status = !self.no_follow && servers.status.is_empty();
        match &file {
            Ok((_, found)) => {
                if servers.gateways.is_empty() {
                    servers.gateways = parse_all(&found.gateway, faults);
                }
                if needs_status {
                    servers.status = parse_all(&found.status, faults);
                }
                if servers.keys.is_empty() {
                    let wanted = self.partners.unwrap_or(1) as usize;
                    if found.partners.len() < wanted {
                        let count = found.partners.len();
                        faults.push(format!(
                            "--partners {wanted}: {ENDPOINTS_FILE} names {count}"
                        ));
                    }
                    let keys = found.partners.iter().take(wanted);
                    servers.keys = keys.map(|it| it.api_key.clone()).collect();
                }
            }
            Err(why) if self.partners.is_some() => faults.push(format!("--partners: {why}")),
            Err(_) => {}
        }
        let missing: Vec<_> = [
            (servers.gateways.is_empty(), "--url"),
            (needs_status && servers.status.is_empty(), "--status-url"),
            (servers.keys.is_empty(), "--key"),
        ]
        .into_iter()
        .filter_map(|(missing, flag)| missing.then_some(flag))
        .collect();
        if !missing.is_empty() {
            let why = file.as_ref().err().cloned();
            let why = why.unwrap_or_else(|| format!("{ENDPOINTS_FILE} names none"));
            let missing = missing.join(", ");
            faults.push(format!(
                "{missing} not given, and {why}; start `cargo weir up` or name them"
            ));
        }
        let stack = file.ok().filter(|(_, found)| {
            let listed: Vec<BaseUrl> = parse_all(&found.gateway, &mut Vec::new());
            servers.gateways.iter().any(|url| listed.contains(url))
        });
        (servers, stack)
    }
}

struct Servers {
    gateways: Vec<BaseUrl>,
    status: Vec<BaseUrl>,
    keys: Vec<String>,
}

fn parse_all(urls: &[String], faults: &mut Vec<String>) -> Vec<BaseUrl> {
    let mut parsed = Vec::new();
    for url in urls {
        match url.parse() {
            Ok(url) => parsed.push(url),
            Err(why) => faults.push(format!("{ENDPOINTS_FILE}: {url:?}: {why}")),
        }
    }
    parsed
}

fn authorizations(keys: &[String], faults: &mut Vec<String>) -> Vec<HeaderValue> {
    let mut values = Vec::new();
    for key in keys {
        match HeaderValue::from_str(&format!("Bearer {key}")) {
            Ok(mut value) => {
                value.set_sensitive(true);
                values.push(value);
            }
            Err(_) => faults.push("--key holds characters that no header can carry".to_owned()),
        }
    }
    values
}

fn ramp(ends: &str) -> Result<(f64, f64), String> {
    let (from, to) = ends.split_once(':').ok_or("no colon")?;
    Ok((parse_rate(from)?, parse_rate(to)?))
}

/// What can be accepted but not stored as fast is no capacity: `visible` is among the defaults.
fn objectives(given: Vec<Slo>, model: &Model, follows: bool) -> Vec<Slo> {
    let default: &[&str] = match model {
        _ if !given.is_empty() => return given,
        Model::FindCapacity { .. } => &[
            "accept.p99<100ms",
            "errors<0.1%",
            "rate>=0.98",
            "visible.p99<2s",
        ],
        Model::Open(_) | Model::Closed { .. } => &["errors<1%"],
    };
    let default = default.iter().map(|text| text.parse::<Slo>());
    let default = default.map(|slo| slo.expect("written above"));
    default
        .filter(|slo| follows || !slo.needs_following())
        .collect()
}

/// Other runs have other ids.
fn fresh_seed() -> u64 {
    let (high, low) = uuid::Uuid::now_v7().as_u64_pair();
    // Short enough to be typed again.
    (high ^ low) % 1_000_000_000
}

/// The command as typed; what opens doors is left out.
fn command(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut hide_next = false;
    let mut command = Vec::new();
    for word in words {
        if std::mem::take(&mut hide_next) {
            command.push("***".to_owned());
            continue;
        }
        match word.split_once('=') {
            Some((flag @ ("--key" | "--database-url"), _)) => command.push(format!("{flag}=***")),
            _ => {
                hide_next = matches!(word.as_str(), "--key" | "--database-url");
                command.push(word);
            }
        }
    }
    command
}

impl Settings {
    /// Commands to one courier on the average, as far as that is known; half of them are pickups.
    fn commands_each(&self) -> u64 {
        if !self.recipe.kinds.has_couriers() {
            return 0;
        }
        self.records().unwrap_or_default() / (self.recipe.couriers * self.recipe.partners).max(1)
    }

    /// How many records there will be, if that is known.
    pub(crate) fn records(&self) -> Option<u64> {
        match &self.model {
            Model::Open(profile) => {
                let schedule = super::schedule::Schedule::new(profile, self.recipe.batch);
                Some(schedule.requests() * self.recipe.batch)
            }
            Model::Closed { .. } | Model::FindCapacity { .. } => None,
        }
    }

    /// How long sending will take, if that is known.
    pub(crate) fn target_seconds(&self) -> Option<f64> {
        match &self.model {
            Model::Open(
                Profile::Steady { seconds, .. }
                | Profile::Ramp { seconds, .. }
                | Profile::Burst { seconds, .. },
            )
            | Model::Closed { seconds } => Some(*seconds),
            Model::Open(Profile::XridesDay { speedup }) => Some(xrides_day_seconds(*speedup)),
            Model::FindCapacity { .. } => None,
        }
    }

    /// Records per second asked for, on the whole.
    pub(crate) fn target_rate(&self) -> Option<f64> {
        match &self.model {
            Model::Open(profile) => Some(profile.mean_rate()),
            Model::Closed { .. } | Model::FindCapacity { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_shows_no_secrets() {
        let words = [
            "loadtest",
            "run",
            "--key",
            "abc",
            "--key=def",
            "--database-url",
            "x",
            "--rate",
        ];
        let shown = command(words.map(str::to_owned).into_iter());
        let want = "loadtest run --key *** --key=*** --database-url *** --rate";
        assert_eq!(shown.join(" "), want);
    }

    #[test]
    fn seeds_differ_from_run_to_run() {
        let seeds: std::collections::HashSet<_> = (0..100).map(|_| fresh_seed()).collect();
        assert!(seeds.len() > 95);
    }
}
