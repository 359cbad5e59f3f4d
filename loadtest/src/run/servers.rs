//! What the servers use: by their own `/metrics`, and for nats-server and PostgreSQL, which have
//! none of ours, by `/proc` where they run on this machine.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::task::AbortHandle;

use crate::base_url::BaseUrl;
use crate::connection::Connection;
use crate::endpoints::{self, Endpoints};
use crate::report::schema::ServerUse;

const INTERVAL: Duration = Duration::from_secs(1);
/// How long an admin listener may take; one that is slower is left out of that second.
const WAIT: Duration = Duration::from_millis(800);
/// Roles that run beside the services.
const LOCAL_ROLES: [&str; 2] = ["nats", "postgres"];
/// Unit of `/proc/<pid>/stat`'s times: the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
const PAGE_BYTES: u64 = 4_096;

/// Looks once a second; gone when dropped.
#[derive(Debug)]
pub(crate) struct Servers {
    latest: Arc<Mutex<Latest>>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct Latest {
    used: Vec<ServerUse>,
    versions: BTreeMap<String, String>,
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Servers {
    /// Watches what the file lists.
    pub(crate) fn watch(path: PathBuf, endpoints: &Endpoints) -> Self {
        let latest = Arc::new(Mutex::new(Latest::default()));
        let mut watcher = Watcher {
            path,
            admin: admin(endpoints),
            seen: HashMap::new(),
        };
        let shown = Arc::clone(&latest);
        let task = tokio::spawn(async move {
            let mut interval = tokio::time::interval(INTERVAL);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                interval.tick().await;
                let looked = watcher.look().await;
                let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
                shown.used = looked.used;
                shown.versions.extend(looked.versions);
            }
        });
        Self {
            latest,
            task: task.abort_handle(),
        }
    }

    /// What they used in the second before the last look.
    pub(crate) fn used(&self) -> Vec<ServerUse> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.used.clone()
    }

    /// Their versions by name, as far as they said.
    pub(crate) fn versions(&self) -> BTreeMap<String, String> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.versions.clone()
    }
}

/// Names, with a number where a role has several.
fn admin(endpoints: &Endpoints) -> Vec<(String, Arc<BaseUrl>, Connection)> {
    let mut admin = Vec::new();
    for (role, urls) in &endpoints.admin {
        for (index, url) in urls.iter().enumerate() {
            if let Ok(base) = url.parse::<BaseUrl>() {
                let base = Arc::new(base);
                let name = numbered(role, index, urls.len());
                admin.push((name, Arc::clone(&base), Connection::new(base)));
            }
        }
    }
    admin
}

fn numbered(role: &str, index: usize, count: usize) -> String {
    if count > 1 {
        format!("{role} {index}")
    } else {
        role.to_owned()
    }
}

struct Watcher {
    path: PathBuf,
    admin: Vec<(String, Arc<BaseUrl>, Connection)>,
    /// CPU seconds at the last look.
    seen: HashMap<String, (f64, Instant)>,
}

impl Watcher {
    async fn look(&mut self) -> Latest {
        let mut latest = Latest::default();
        for (name, base, connection) in &mut self.admin {
            let request = Request::get(base.target("/metrics"))
                .body(Full::new(Bytes::new()))
                .expect("a base URL and a route make a request");
            let Ok(answer) = connection.exchange(request, WAIT).await else {
                // Restarted processes count from nought.
                self.seen.remove(name);
                continue;
            };
            let text = String::from_utf8_lossy(&answer.body);
            let metrics = Metrics::read(&text);
            latest.used.push(ServerUse {
                cpu_cores: metrics
                    .cpu_seconds
                    .and_then(|it| cores(&mut self.seen, name, it)),
                rss_bytes: metrics.resident_bytes,
                name: name.clone(),
            });
            if let Some(version) = metrics.version {
                latest.versions.insert(name.clone(), version);
            }
        }
        // Read again each time: what was killed has been started anew.
        let Ok(endpoints) = endpoints::read(&self.path) else {
            return latest;
        };
        for role in LOCAL_ROLES {
            let pids = endpoints.pids.get(role).map_or(&[][..], Vec::as_slice);
            for (index, pid) in pids.iter().enumerate() {
                let Some((cpu_seconds, rss_bytes)) = with_children(*pid) else {
                    continue;
                };
                let name = numbered(role, index, pids.len());
                latest.used.push(ServerUse {
                    cpu_cores: cores(&mut self.seen, &name, cpu_seconds),
                    rss_bytes: Some(rss_bytes),
                    name,
                });
            }
        }
        latest
    }
}

/// Cores in use since the last look.
fn cores(seen: &mut HashMap<String, (f64, Instant)>, name: &str, cpu: f64) -> Option<f64> {
    let now = Instant::now();
    let (before, at) = seen.insert(name.to_owned(), (cpu, now))?;
    let passed = (now - at).as_secs_f64();
    (cpu >= before && passed > 0.0).then(|| (cpu - before) / passed)
}

#[derive(Debug, Default, PartialEq)]
struct Metrics {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<u64>,
    version: Option<String>,
}

impl Metrics {
    fn read(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let bare = name.split('{').next().unwrap_or(name);
            match bare {
                "process_cpu_seconds_total" => metrics.cpu_seconds = value.parse().ok(),
                "process_resident_memory_bytes" => {
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "a number of bytes"
                    )]
                    let bytes = value.parse().ok().map(|bytes: f64| bytes as u64);
                    metrics.resident_bytes = bytes;
                }
                "weir_build_info" => {
                    let version = name.split_once("version=\"").map(|(_, rest)| rest);
                    metrics.version = version
                        .and_then(|rest| rest.split('"').next())
                        .map(ToOwned::to_owned);
                }
                _ => {}
            }
        }
        metrics
    }
}

/// CPU seconds and resident bytes of a process and its children.
fn with_children(pid: u32) -> Option<(f64, u64)> {
    let (mut cpu, mut rss) = of_process(pid)?;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    for child in children.unwrap_or_default().split_whitespace() {
        if let Some((own_cpu, own_rss)) = child.parse().ok().and_then(of_process) {
            cpu += own_cpu;
            rss += own_rss;
        }
    }
    Some((cpu, rss))
}

fn of_process(pid: u32) -> Option<(f64, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain anything; what follows its last parenthesis is fields.
    let fields: Vec<_> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    // utime, stime and those of children that have ended: fields 14 to 17 of proc(5).
    let ticks = number(11)? + number(12)? + number(13)? + number(14)?;
    #[expect(clippy::cast_precision_loss, reason = "a share need not be exact")]
    let cpu = ticks as f64 / TICKS_PER_SECOND;
    Some((cpu, number(21)? * PAGE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_says_of_itself_is_read() {
        let text = "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 12.5\n\
            process_resident_memory_bytes 1.5e6\nother{a=\"b c\"} 3\n\
            weir_build_info{service=\"ingest-gateway\",version=\"0.1.0\"} 1\n";
        let want = Metrics {
            cpu_seconds: Some(12.5),
            resident_bytes: Some(1_500_000),
            version: Some("0.1.0".into()),
        };
        assert_eq!(Metrics::read(text), want);
        assert_eq!(Metrics::read(""), Metrics::default());
    }

    #[test]
    fn a_process_of_this_machine_is_seen() {
        let (_, rss) = with_children(std::process::id()).unwrap();
        assert!(rss > 0);
        assert!(with_children(u32::MAX).is_none());
    }

    #[test]
    fn cores_are_what_was_used_between_two_looks() {
        let mut seen = HashMap::new();
        assert_eq!(cores(&mut seen, "a", 5.0), None);
        assert!(cores(&mut seen, "a", 6.0).unwrap() > 0.0);
        assert_eq!(cores(&mut seen, "a", 1.0), None, "restarted");
    }
}
