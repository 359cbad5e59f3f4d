//! Figures as people read them.

use std::fmt::Write as _;

/// A count where exactness below 2^53 is enough.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub(crate) fn lossy(count: u64) -> f64 {
    count as f64
}

/// `1,234,567`.
pub(crate) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `10,012/s`, and `0.25/s` below ten.
pub(crate) fn rate(per_second: f64) -> String {
    if per_second < 10.0 {
        return format!("{}/s", trimmed(per_second, 2));
    }
    format!("{}/s", count(whole(per_second)))
}

/// Three figures and the unit that fits: `850 µs`, `1.32 ms`, `13.2 ms`, `6.01 s`, `12 min`.
pub(crate) fn ms(ms: f64) -> String {
    // What rounds to the next unit's first figure is given in that unit.
    match ms {
        ms if ms < 0.9995 => format!("{} µs", whole(ms * 1e3)),
        ms if ms < 999.5 => format!("{} ms", three(ms)),
        ms if ms < 599_500.0 => format!("{} s", three(ms / 1e3)),
        ms => format!("{} min", three(ms / 60e3)),
    }
}

/// [`ms`], and a dash for what was not measured.
pub(crate) fn maybe_ms(value: Option<f64>) -> String {
    value.map_or_else(|| "\u{2013}".into(), ms)
}

/// `12.5%`, `0.012%`.
pub(crate) fn share(share: f64) -> String {
    let percent = share * 100.0;
    let decimals = match percent.abs() {
        percent if percent >= 10.0 => 1,
        percent if percent >= 0.1 => 2,
        _ => 4,
    };
    format!("{}%", trimmed(percent, decimals))
}

/// `812 MiB`, `1.25 GiB`.
pub(crate) fn bytes(bytes: f64) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    if bytes < 999.5 * MIB {
        format!("{} MiB", three(bytes / MIB))
    } else {
        format!("{} GiB", three(bytes / MIB / 1024.0))
    }
}

/// Cores in use, `0.40`.
pub(crate) fn cores(cores: f64) -> String {
    format!("{cores:.2}")
}

/// For axes: `250k`, `1.5M`, `0.5`.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{}M", trimmed(value / 1e6, 2)),
        size if size >= 1e4 => format!("{}k", trimmed(value / 1e3, 1)),
        _ => trimmed(value, 3),
    }
}

/// A moment of a run: `12 s`, `2:05`, `1:02:03`.
pub(crate) fn moment(seconds: f64) -> String {
    if seconds < 120.0 {
        return format!("{} s", trimmed(seconds, 1));
    }
    let seconds = whole(seconds);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    if hours > 0 {
        let _ = write!(text, "{hours}:{minutes:02}");
    } else {
        let _ = write!(text, "{minutes}");
    }
    let _ = write!(text, ":{seconds:02}");
    text
}

/// At most so many decimals, none of them a trailing zero.
pub(crate) fn trimmed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    if decimals == 0 {
        return text;
    }
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0" } else { text }.to_owned()
}

fn three(value: f64) -> String {
    let decimals = match value {
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a measurement is neither negative nor beyond 2^64"
)]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(rate(9_999.6), "10,000/s");
        assert_eq!(rate(0.25), "0.25/s");
        assert_eq!(ms(0.0), "0 µs");
        assert_eq!(ms(0.85), "850 µs");
        assert_eq!(ms(0.9996), "1.00 ms");
        assert_eq!(ms(9.996), "10.0 ms");
        assert_eq!(ms(132.4), "132 ms");
        assert_eq!(ms(999.6), "1.00 s");
        assert_eq!(ms(6010.0), "6.01 s");
        assert_eq!(ms(720_000.0), "12.0 min");
        assert_eq!(maybe_ms(None), "\u{2013}");
        assert_eq!(share(0.0), "0%");
        assert_eq!(share(0.000_12), "0.012%");
        assert_eq!(share(0.125), "12.5%");
        assert_eq!(bytes(1_310_720.0 * 1024.0), "1.25 GiB");
        assert_eq!(cores(0.4), "0.40");
        assert_eq!(short(250_000.0), "250k");
        assert_eq!(short(-0.0), "0");
        assert_eq!(moment(12.0), "12 s");
        assert_eq!(moment(125.0), "2:05");
        assert_eq!(moment(3723.0), "1:02:03");
    }
}
