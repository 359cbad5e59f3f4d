//! Ports of 127.0.0.1 that nobody else takes.
//!
//! A port that was free a moment ago can be taken before its server binds it: by the kernel for an
//! outgoing connection (so only ports outside the ephemeral range are chosen), or by another test.
//! Against the latter each chosen port is held through a Unix socket in the abstract namespace,
//! which has the same reach as the port (one network namespace), leaves no file behind and is given
//! back by the kernel when the process dies.

use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The lowest port to choose: below it live well-known services.
const LOWEST: u16 = 10_240;
/// Where the ephemeral range starts if the kernel does not say.
const EPHEMERAL_FROM_DEFAULT: u16 = 32_768;
/// How many ports are tried at random before giving up.
const TRIES: usize = 2_000;
/// How far [`Port::prefer`] walks upwards from a busy port.
const NEIGHBOURS: u16 = 200;

/// A port of 127.0.0.1 that belongs to this value as long as it lives. It is not bound: the server
/// that it is meant for does that, as often as it is restarted.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _hold: UnixDatagram,
}

/// No port could be had.
#[derive(Debug, thiserror::Error)]
#[error("no free port on 127.0.0.1 between {from} and {to}")]
pub struct NoFreePort {
    from: u16,
    to: u16,
}

impl Port {
    /// Any free port outside the ephemeral range.
    ///
    /// # Errors
    /// When `TRIES` random ports were all taken.
    pub fn any() -> Result<Self, NoFreePort> {
        let (from, to) = choice_range();
        let width = u32::from(to - from);
        for _ in 0..TRIES {
            let random = getrandom::u32().unwrap_or_else(|_| std::process::id());
            let offset = u16::try_from(random % width).expect("below the range's width");
            if let Some(port) = Self::claim(from + offset) {
                return Ok(port);
            }
        }
        Err(NoFreePort { from, to })
    }

    /// `wanted`, or the next free port above it.
    ///
    /// # Errors
    /// When none of the next `NEIGHBOURS` ports is free.
    pub fn prefer(wanted: u16) -> Result<Self, NoFreePort> {
        let to = wanted.saturating_add(NEIGHBOURS);
        (wanted..=to)
            .find_map(Self::claim)
            .ok_or(NoFreePort { from: wanted, to })
    }

    /// Exactly `wanted`; `None` when it is busy.
    #[must_use]
    pub fn exactly(wanted: u16) -> Option<Self> {
        Self::claim(wanted)
    }

    /// The port's number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    fn claim(number: u16) -> Option<Self> {
        let name = SocketAddr::from_abstract_name(format!("weir-port-{number}")).ok()?;
        let hold = UnixDatagram::bind_addr(&name).ok()?;
        // The standard library sets SO_REUSEADDR, so only a listener is in the way, not the
        // remains of closed connections.
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self {
            number,
            _hold: hold,
        })
    }
}

/// `LOWEST` up to the ephemeral range, or above that range when too little is left below it.
fn choice_range() -> (u16, u16) {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let bounds: Vec<u16> = text
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let (from, to) = match bounds[..] {
        [from, to] => (from, to),
        _ => (EPHEMERAL_FROM_DEFAULT, 60_999),
    };
    if from >= LOWEST + 2_000 || to >= u16::MAX - 500 {
        (LOWEST, from.max(LOWEST + 2_000))
    } else {
        (to + 1, u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_while_it_is_held() {
        let first = Port::any().unwrap();
        assert!(Port::claim(first.number()).is_none());
        let next = Port::prefer(first.number()).unwrap();
        assert!(next.number() > first.number());
        let number = first.number();
        drop(first);
        assert_eq!(Port::prefer(number).unwrap().number(), number);
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_busy() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(Port::claim(listener.local_addr().unwrap().port()).is_none());
    }
}
