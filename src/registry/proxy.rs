//! Choice of a proxy for a URL.
//! `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` have their usual meaning. The front end reads the variables;
//! their values are checked here, so that an invalid value is an error.

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;

use reqwest::Url;

use super::redact::authority;
use crate::error::{Error, Kind, Result};

/// Proxies, and the hosts that need none. The default has no proxies.
#[derive(Clone, Default)]
pub struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    direct: Vec<Direct>,
}

/// An entry of `NO_PROXY`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Direct {
    All,
    /// An IP address and the length of its network prefix in bits.
    Network(IpAddr, u8),
    /// A domain and all its subdomains; with a port, only at that port.
    Domain(String, Option<u16>),
}

impl Proxies {
    /// Reads the proxies from the environment.
    /// Upper-case names take precedence. `HTTP_PROXY` is ignored if `REQUEST_METHOD` is set, since a web server sets
    /// `HTTP_PROXY` from a client's header.
    ///
    /// # Errors
    /// [`Kind::Usage`] if a variable's value is not the address of a proxy.
    pub fn standard(env: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        let first = |names: &[&'static str]| {
            let set = |name: &'static str| env(name).filter(|value| !value.is_empty()).map(|value| (name, value));
            names.iter().find_map(|name| set(name))
        };
        let read = |names: &[&'static str]| {
            let found = first(names).or_else(|| first(&["ALL_PROXY", "all_proxy"]));
            found.map(|(name, value)| address(name, &value)).transpose()
        };
        let served = env("REQUEST_METHOD").is_some();
        let direct = first(&["NO_PROXY", "no_proxy"]).map(|(_, value)| value.to_string_lossy().into_owned());
        Ok(Self {
            http: read(if served {
                &["http_proxy"]
            } else {
                &["HTTP_PROXY", "http_proxy"]
            })?,
            https: read(&["HTTPS_PROXY", "https_proxy"])?,
            direct: direct.unwrap_or_default().split(',').filter_map(Direct::read).collect(),
        })
    }

    /// Returns the proxy for a URL; its user information is only for the proxy.
    pub(super) fn for_url(&self, url: &Url) -> Option<&Url> {
        let proxy = match url.scheme() {
            "https" => self.https.as_ref(),
            _ => self.http.as_ref(),
        }?;
        (!self.direct.iter().any(|direct| direct.covers(url))).then_some(proxy)
    }
}

/// Omits user information.
impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies")
            .field("http", &self.http.as_ref().map(authority))
            .field("https", &self.https.as_ref().map(authority))
            .field("direct", &self.direct)
            .finish()
    }
}

/// Parses a proxy's address. Errors do not quote the value, which may contain a password.
fn address(name: &str, value: &OsString) -> Result<Url> {
    let wrong =
        |why: &str| {
            Error::new(Kind::Usage, format!("the variable `{name}` does not name a proxy: {why}")).with_hint(
            "write `http://HOST:PORT` or `http://USER:PASSWORD@HOST:PORT` (also `https://`, `socks5://`), or unset it",
        )
        };
    let text = value.to_str().ok_or_else(|| wrong("it is not UTF-8"))?.trim();
    let text = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let url = Url::parse(&text).map_err(|e| wrong("its address cannot be read").with_source(e))?;
    if !matches!(
        url.scheme(),
        "http" | "https" | "socks4" | "socks4a" | "socks5" | "socks5h"
    ) {
        return Err(wrong("such a kind of proxy is not known"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(wrong("it has no host"));
    }
    Ok(url)
}

impl Direct {
    fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        if text == "*" {
            return Some(Self::All);
        }
        let (network, bits) = match text.split_once('/') {
            Some((network, bits)) => (network, Some(bits)),
            None => (text, None),
        };
        if let Ok(network) = network.trim_matches(['[', ']']).parse::<IpAddr>() {
            let whole = if network.is_ipv4() { 32 } else { 128 };
            let bits = bits.map_or(Some(whole), |bits| bits.parse().ok());
            return bits
                .filter(|bits| *bits <= whole)
                .map(|bits| Self::Network(network, bits));
        }
        let (domain, port) = match text.rsplit_once(':') {
            Some((domain, port)) if port.parse::<u16>().is_ok() => (domain, port.parse().ok()),
            _ => (text, None),
        };
        if let Ok(address) = domain.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Some(Self::Domain(address.to_string(), port));
        }
        let domain = domain.trim_start_matches("*.").trim_matches('.');
        Some(Self::Domain(domain.to_ascii_lowercase(), port))
    }

    fn covers(&self, url: &Url) -> bool {
        // A final dot does not change the name.
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let host = host.trim_end_matches('.');
        match self {
            Self::All => true,
            Self::Network(network, bits) => host.parse().is_ok_and(|host| same_network(*network, host, *bits)),
            Self::Domain(domain, port) => {
                let below = host
                    .strip_suffix(domain.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
                below && port.is_none_or(|port| url.port_or_known_default() == Some(port))
            }
        }
    }
}

fn same_network(a: IpAddr, b: IpAddr, bits: u8) -> bool {
    let (a, b, width) = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    // With zero bits, the shift is as wide as the type, which `checked_shr` refuses.
    (a ^ b).checked_shr(width - u32::from(bits)).unwrap_or_default() == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Proxies> {
        Proxies::standard(&|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    fn way(variables: &[(&str, &str)], url: &str) -> Option<String> {
        let proxies = read(variables).unwrap();
        proxies.for_url(&Url::parse(url).unwrap()).map(authority)
    }

    #[test]
    fn by_scheme_and_by_name() {
        let both = [
            ("HTTPS_PROXY", "http://u:p@a.example:3128"),
            ("http_proxy", "b.example:80"),
        ];
        assert_eq!(way(&both, "https://r.example/").as_deref(), Some("a.example:3128"));
        assert_eq!(way(&both, "http://r.example/").as_deref(), Some("b.example"));
        assert_eq!(way(&[], "https://r.example/"), None);
        assert_eq!(way(&[("HTTPS_PROXY", "")], "https://r.example/"), None);
        let all = [("ALL_PROXY", "socks5://c.example:1080"), ("https_proxy", "d.example")];
        assert_eq!(way(&all, "http://r.example/").as_deref(), Some("c.example:1080"));
        assert_eq!(way(&all, "https://r.example/").as_deref(), Some("d.example"));
        let served = [("HTTP_PROXY", "e.example"), ("REQUEST_METHOD", "GET")];
        assert_eq!(way(&served, "http://r.example/"), None);
        let debug = format!("{:?}", read(&both).unwrap());
        assert!(debug.contains("a.example:3128") && !debug.contains("u:p"), "{debug}");
    }

    #[test]
    fn what_is_reached_without() {
        for (list, url, direct) in [
            ("r.example", "https://r.example/", true),
            ("r.example", "https://a.r.example:5000/", true),
            (".r.example", "https://r.example/", true),
            ("r.example", "https://r.example./", true),
            ("r.example.", "https://r.example/", true),
            ("*.r.example", "https://a.r.example/", true),
            ("R.Example", "https://r.example/", true),
            ("r.example", "https://notr.example/", false),
            ("example.org, r.example ,", "https://r.example/", true),
            ("r.example:5000", "https://r.example:5000/", true),
            ("r.example:5000", "https://r.example/", false),
            ("*", "https://r.example/", true),
            ("*", "https://10.1.2.3/", true),
            ("10.0.0.0/8", "https://10.1.2.3/", true),
            ("10.0.0.0/8", "https://11.1.2.3/", false),
            ("10.0.0.0/99", "https://10.0.0.0/", false),
            ("0.0.0.0/0", "https://11.1.2.3/", true),
            ("10.1.2.3", "https://10.1.2.3:5000/", true),
            ("10.1.2.3:5000", "https://10.1.2.3:5000/", true),
            ("fd00::/8", "https://[fd00::1]:5000/", true),
            ("[fd00::1]", "https://[fd00::1]/", true),
            ("fd00::/8", "https://[fe00::1]/", false),
            ("", "https://r.example/", false),
        ] {
            let found = way(&[("HTTPS_PROXY", "p.example"), ("NO_PROXY", list)], url);
            assert_eq!(found.is_none(), direct, "{list} {url}");
        }
    }

    #[test]
    fn what_names_no_proxy_is_an_error_without_its_value() {
        for value in [
            "http://",
            "://x",
            "http://u:s3cret@:3128",
            "ftp://u:s3cret@h",
            "http://u:s3cret@h:port",
            "http://[s3cret",
            "http://h h/s3cret",
        ] {
            let error = read(&[("HTTPS_PROXY", value)]).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{value}");
            let text = error.full();
            assert!(text.contains("`HTTPS_PROXY`") && !text.contains("s3cret"), "{text}");
        }
    }
}
