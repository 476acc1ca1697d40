//! Rule for the addresses that a request may reach.
//! A host named by the user may be anywhere. A host named by a server (in a redirect, the `Location` of an upload, or the
//! realm of a challenge) may be on this machine or its local link only if that server is there itself.
//!
//! The rule applies to the address of the connection, not to its spelling: [`Guard`] resolves names and drops forbidden
//! addresses, so that no name circumvents the rule. A proxy resolves names by itself (except `socks4` and `socks5`): then
//! only IP addresses and `localhost` names in a URL can be checked.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Location of an address, as the rule distinguishes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Zone {
    /// This machine: loopback and unspecified addresses.
    Machine,
    /// The local link, and the addresses at which clouds give secrets to their machines.
    Link,
    /// Anywhere else, private networks included.
    Network,
}

/// Zones that a request may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reach {
    /// All zones: the user named the host.
    Anywhere,
    /// The network, and the zone of the server that named the host.
    From(Zone),
}

/// Addresses outside the local link at which clouds give secrets to their machines.
/// The clouds are Alibaba Cloud, Azure and Oracle Cloud.
const METADATA: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];

impl Zone {
    /// Returns the zone of an address. An IPv4 address inside an IPv6 address counts as that IPv4 address.
    pub(super) fn from_ip(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::of_v4(v4),
            IpAddr::V6(v6) => match (embedded(v6).map(Self::of_v4), v6.segments()) {
                (Some(zone @ (Self::Machine | Self::Link)), _) => zone,
                // Metadata addresses of Amazon and Google: unique local addresses, but not part of a private network.
                (_, [0xfd00, 0x0ec2, ..] | [0xfd20, 0x00ce, ..]) => Self::Link,
                _ if v6.is_unicast_link_local() => Self::Link,
                _ => Self::Network,
            },
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        // 0.0.0.0 connects to this machine; the rest of 0.0.0.0/8 is reserved (RFC 6890).
        if address.is_loopback() || address.octets()[0] == 0 {
            Self::Machine
        } else if address.is_link_local() || address.is_broadcast() || METADATA.contains(&address) {
            Self::Link
        } else {
            Self::Network
        }
    }

    /// Returns the zone of a URL from its text alone; `None` for a name that has to be resolved.
    pub(super) fn from_url(url: &Url) -> Option<Self> {
        match address(url) {
            Some(address) => Some(Self::from_ip(address)),
            None => is_localhost(url).then_some(Self::Machine),
        }
    }
}

/// Returns the IP address in a URL. The URL parser has normalized all spellings of an IPv4 address.
fn address(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Returns whether a URL has a name that is reserved for this machine (RFC 6761).
/// A final dot makes no difference.
fn is_localhost(url: &Url) -> bool {
    let name = url.host_str().unwrap_or_default().trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

/// Returns whether a URL names this machine: a `localhost` name, 127.0.0.0/8 or ::1.
/// Such a host needs no proxy.
pub(super) fn is_loopback(url: &Url) -> bool {
    match address(url) {
        Some(address) => address.to_canonical().is_loopback(),
        None => is_localhost(url),
    }
}

/// Returns the IPv4 address inside an IPv6 address.
/// Covers mapped, compatible and translated addresses (RFC 4291, RFC 7915), NAT64 (RFC 6052, RFC 8215) and 6to4 (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => Some(of(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, _, _, _, high, low] => Some(of(high, low)),
        [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

impl Reach {
    /// Returns whether a request may go to this zone.
    pub(super) fn allows(self, zone: Zone) -> bool {
        match self {
            Self::Anywhere => true,
            Self::From(home) => zone == Zone::Network || zone == home,
        }
    }

    /// Returns whether a request may go to this URL, judging by its text alone.
    /// [`Guard`] checks the connection.
    pub(super) fn allows_url(self, url: &Url) -> bool {
        Zone::from_url(url).is_none_or(|zone| self.allows(zone))
    }
}

/// Function that resolves a name; may block.
pub(super) type Lookup = fn(&str) -> io::Result<Vec<SocketAddr>>;

/// Resolves a name with the operating system.
pub(super) fn system_lookup(name: &str) -> io::Result<Vec<SocketAddr>> {
    (name, 0).to_socket_addrs().map(Iterator::collect)
}

/// Resolver of one HTTP client; returns only the addresses that the client may reach.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) reach: Reach,
    pub(super) lookup: Lookup,
    /// Host of the proxy, which the user named.
    pub(super) proxy: Option<String>,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (name, lookup) = (name.as_str().to_owned(), self.lookup);
        let reach = match &self.proxy {
            Some(proxy) if *proxy == name => Reach::Anywhere,
            _ => self.reach,
        };
        Box::pin(async move {
            let found = tokio::task::spawn_blocking(move || lookup(&name)).await??;
            let (within, beyond): (Vec<_>, Vec<_>) = found
                .into_iter()
                .partition(|address| reach.allows(Zone::from_ip(address.ip())));
            match beyond.first() {
                Some(address) if within.is_empty() => Err(OutOfReach(address.ip()).into()),
                _ => Ok(Box::new(within.into_iter()) as Addrs),
            }
        })
    }
}

/// Error for a name whose addresses are all forbidden.
#[derive(Debug)]
pub(super) struct OutOfReach(pub(super) IpAddr);

impl fmt::Display for OutOfReach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its address is {}", self.0)
    }
}

impl std::error::Error for OutOfReach {}

#[cfg(test)]
#[path = "reach_tests.rs"]
mod tests;
