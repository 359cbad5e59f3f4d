//! Where connections come from: how many one address may have, and whom a trusted proxy speaks for.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Bits of an IPv6 address that one customer is given: whoever has one address has 2^64.
const IPV6_CUSTOMER_BITS: u32 = 64;

/// Reads one network of `--trusted-proxies`: `10.0.0.0/8`, or an address by itself.
///
/// # Errors
/// A sentence for the user.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "write it like 10.0.0.0/8, fd00::/8 or 192.0.2.7".to_owned())
}

/// Proxies whose `X-Forwarded-For` is believed.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Arc<[IpNet]>);

impl TrustedProxies {
    /// The networks they are in; none: nobody is believed.
    #[must_use]
    pub fn new(networks: &[IpNet]) -> Self {
        Self(networks.into())
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whose request it is that came from `peer`: behind trusted proxies the rightmost address
    /// that is not one of theirs, since everything to its left is what somebody claimed.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.contains(peer) {
            return peer;
        }
        let lines: Vec<&str> = headers
            .get_all(FORWARDED_FOR)
            .iter()
            .map(|value| value.to_str().unwrap_or_default())
            .collect();
        let mut nearest = peer;
        for item in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
            // What cannot be read was not written by a proxy of ours.
            let Some(address) = forwarded(item) else {
                return nearest;
            };
            nearest = address;
            if !self.contains(address) {
                return nearest;
            }
        }
        nearest
    }
}

/// An address as proxies write it, with or without a port.
fn forwarded(item: &str) -> Option<IpAddr> {
    let item = item.trim();
    let address = item
        .parse::<IpAddr>()
        .or_else(|_| item.parse::<SocketAddr>().map(|it| it.ip()));
    address.ok().map(|it| it.to_canonical())
}

/// Counts the connections of each address. Touched when a connection begins and ends, never by a
/// request; holds an entry per address that has one, so no more than there are connections.
#[derive(Debug)]
pub(super) struct Addresses {
    max: u32,
    exempt: TrustedProxies,
    open: Mutex<HashMap<IpAddr, u32>>,
}

/// One connection's place in the count of its address; given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Option<(Arc<Addresses>, IpAddr)>);

impl Addresses {
    /// `max` per IPv4 address or IPv6 /64; `exempt`, since many share a proxy's connections.
    pub(super) fn new(max: u32, exempt: TrustedProxies) -> Self {
        Self {
            max,
            exempt,
            open: Mutex::default(),
        }
    }

    /// `None` when the address has as many connections as it may.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        if self.exempt.contains(peer) {
            return Some(Place(None));
        }
        let address = customer(peer);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Place(Some((Arc::clone(self), address))))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((addresses, address)) = self.0.take() else {
            return;
        };
        let mut open = addresses
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&address);
            }
        }
    }
}

/// What is counted as one address.
fn customer(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let kept = u128::MAX << (u128::BITS - IPV6_CUSTOMER_BITS);
            Ipv6Addr::from_bits(address.to_bits() & kept).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_has_a_bound_and_gets_its_places_back() {
        let proxies = TrustedProxies::new(&[parse_network("10.0.0.0/8").expect("a network")]);
        let addresses = Arc::new(Addresses::new(2, proxies));
        for (first, same, other) in [
            ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
            ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"),
        ] {
            let held = [addresses.admit(ip(first)), addresses.admit(ip(same))];
            assert!(held.iter().all(Option::is_some));
            assert!(addresses.admit(ip(first)).is_none());
            assert!(addresses.admit(ip(other)).is_some());
            drop(held);
            assert!(addresses.admit(ip(first)).is_some());
        }
        let shared: Vec<_> = (0..9).map(|_| addresses.admit(ip("10.1.2.3"))).collect();
        assert!(shared.iter().all(Option::is_some), "a proxy is exempt");
        drop(shared);
        assert!(addresses.open.lock().expect("no panic").is_empty());
    }

    #[test]
    fn only_trusted_proxies_say_for_whom_they_speak() {
        let networks =
            ["10.0.0.0/8", "fd00::/8", "192.0.2.7"].map(|it| parse_network(it).expect(it));
        let proxies = TrustedProxies::new(&networks);
        let client = |peer: &str, lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, http::HeaderValue::from_static(line));
            }
            proxies.client(ip(peer), &headers).to_string()
        };
        // From anyone else it is a claim.
        assert_eq!(client("203.0.113.9", &["198.51.100.1"]), "203.0.113.9");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(
            client("::ffff:10.0.0.1", &["198.51.100.1:443"]),
            "198.51.100.1"
        );
        assert_eq!(client("fd00::1", &["[2001:db8::1]:443"]), "2001:db8::1");
        // The rightmost that is none of ours, over several lines; what the client claims is left.
        assert_eq!(
            client("10.0.0.1", &["1.1.1.1, 198.51.100.1", "192.0.2.7,10.9.9.9"]),
            "198.51.100.1"
        );
        assert_eq!(
            client("10.0.0.1", &["1.1.1.1, nonsense, 10.2.2.2"]),
            "10.2.2.2"
        );
        assert_eq!(client("10.0.0.1", &["10.3.3.3, 10.2.2.2"]), "10.3.3.3");
        assert!(parse_network("10.0.0.0/33").is_err());
    }
}
