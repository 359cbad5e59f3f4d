//! The process's own figures for `/metrics`, read from `/proc` at each scrape.

use std::fmt::Write as _;
use std::fs;

/// Ticks per second in `/proc`: `USER_HZ`, which Linux fixes at 100 for user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// Appends the `process_*` metrics in Prometheus text form. What `/proc` does not tell is left out.
pub(crate) fn render(out: &mut String) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields after the command's name, which may itself hold spaces and brackets (proc(5)).
    let fields: Vec<f64> = match stat.rsplit_once(')') {
        Some((_, rest)) => rest
            .split_ascii_whitespace()
            .skip(1)
            .map(|it| it.parse().unwrap_or(0.0))
            .collect(),
        None => Vec::new(),
    };
    // Counted from field 4, the first after the state.
    let field = |number: usize| fields.get(number - 4).copied();
    if let (Some(user), Some(system)) = (field(14), field(15)) {
        let seconds = (user + system) / TICKS_PER_SECOND;
        metric(
            out,
            "process_cpu_seconds_total",
            "counter",
            "CPU time used, in seconds",
            seconds,
        );
    }
    if let (Some(started), Some(boot)) = (field(22), boot_seconds()) {
        let seconds = boot + started / TICKS_PER_SECOND;
        metric(
            out,
            "process_start_time_seconds",
            "gauge",
            "Start, in seconds since the Unix epoch",
            seconds,
        );
    }
    if let Some(threads) = field(20) {
        metric(out, "process_threads", "gauge", "Threads", threads);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(kib) = first_number(&status, "VmRSS:") {
        metric(
            out,
            "process_resident_memory_bytes",
            "gauge",
            "Memory resident, in bytes",
            kib * 1024.0,
        );
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // Reading the directory holds one open, too.
        let open = entries.count().saturating_sub(1);
        metric(
            out,
            "process_open_fds",
            "gauge",
            "Open file descriptors",
            open as f64,
        );
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if let Some(most) = first_number(&limits, "Max open files") {
        metric(
            out,
            "process_max_fds",
            "gauge",
            "Most file descriptors it may open",
            most,
        );
    }
}

fn boot_seconds() -> Option<f64> {
    first_number(&fs::read_to_string("/proc/stat").ok()?, "btime")
}

fn first_number(text: &str, prefix: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(prefix))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

fn metric(out: &mut String, name: &str, kind: &str, help: &str, value: f64) {
    writeln!(
        out,
        "# HELP {name} {help}.\n# TYPE {name} {kind}\n{name} {value}"
    )
    .expect("a String grows");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_there_and_plausible() {
        let mut text = String::new();
        render(&mut text);
        let value = |name: &str| -> f64 {
            first_number(&text, &format!("{name} "))
                .unwrap_or_else(|| panic!("no {name} in {text}"))
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_threads") >= 1.0);
        assert!(value("process_cpu_seconds_total") < 100_000.0);
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970");
        let age = now.as_secs_f64() - value("process_start_time_seconds");
        assert!((-5.0..86_400.0).contains(&age), "started {age} s ago");
    }
}
