//! What all hosts of one side share, and the sending of a single request: time limits, the wire log, one HTTP client
//! per host (each has TLS settings of its own).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use reqwest::{Body, Method, Response, Url};

use super::cache::ManifestCache;
use super::credentials::Credentials;
use super::failure::{Class, Failure};
use super::options::Options;
use super::pace::Place;
use super::redact::{authority, shown};
use super::tls;
use super::upload_sessions::Sessions;
use crate::error::{Error, Kind, Result};

/// Clients kept; redirects go to few hosts, and one that redirects to many gets its clients made anew.
const MAX_CLIENTS: usize = 64;

/// What all hosts of one side share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) options: Options,
    pub(super) credentials: Credentials,
    pub(super) cache: Option<ManifestCache>,
    pub(super) sessions: Option<Sessions>,
    clients: Mutex<HashMap<(String, Trust), reqwest::Client>>,
}

/// What a server is to this side; by default some server to which a registry sent it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Trust {
    /// It is a registry that the user named: it may see the certificate of this side.
    pub(super) registry: bool,
    /// Its certificate is not checked, because the configuration says so for it alone.
    pub(super) blind: bool,
}

impl Context {
    pub(super) fn new(options: Options) -> Self {
        Self {
            credentials: Credentials::new(options.credentials.clone()),
            cache: options.manifest_cache.clone().map(ManifestCache::new),
            sessions: options.upload_sessions.clone().map(Sessions::new),
            clients: Mutex::default(),
            options,
        }
    }

    /// Sends one request and waits for the head of its answer. Redirects, challenges and errors are not followed here.
    pub(super) async fn send(
        &self,
        method: &Method,
        url: &Url,
        headers: HeaderMap,
        body: Option<Body>,
        watch: Option<&Watch>,
        trust: Trust,
    ) -> Result<Response, Failure> {
        let client = self.client(url, trust).map_err(|error| Failure {
            error,
            class: Class::Final,
        })?;
        let mut request = client.request(method.clone(), url.clone()).headers(headers);
        // A registry's bytes are what the digest covers: nobody on the way may re-encode them.
        request = request.header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(body) = body {
            request = request.body(body);
        }
        tracing::debug!(target: "docker_mirror::wire", "> {method} {}", shown(url));
        let begun = Instant::now();
        let result = self.in_time(request.send(), watch, url).await;
        let took = begun.elapsed().as_millis();
        match &result {
            Ok(response) => {
                tracing::debug!(target: "docker_mirror::wire", "< {} {method} {} ({took} ms)", response.status().as_u16(), shown(url));
            }
            Err(failure) => {
                tracing::debug!(target: "docker_mirror::wire", "! {method} {} ({took} ms): {}", shown(url), failure.error.full());
            }
        }
        result
    }

    /// Waits for an answer: as long as a body moves, or for the header timeout once it is out.
    async fn in_time(
        &self,
        answer: impl Future<Output = reqwest::Result<Response>>,
        watch: Option<&Watch>,
        url: &Url,
    ) -> Result<Response, Failure> {
        let patience = self.options.header_timeout();
        let stall = self.options.stall_timeout();
        let tick = (stall.min(patience) / 8).clamp(Duration::from_millis(5), Duration::from_secs(5));
        let mut answer = std::pin::pin!(answer);
        let mut seen = (0, false);
        let mut since = Instant::now();
        loop {
            if let Ok(result) = tokio::time::timeout(tick, answer.as_mut()).await {
                let proxy = self.proxy(url).map(authority);
                return result.map_err(|error| Failure::of(error, &authority(url), proxy.as_deref()));
            }
            let (now, out, idle) = watch.map_or(((0, true), true, false), Watch::look);
            if now != seen || idle {
                seen = now;
                since = Instant::now();
            }
            let limit = if out { patience } else { stall };
            if since.elapsed() >= limit {
                let what = if out { "did not answer for" } else { "took no byte for" };
                let host = authority(url);
                return Err(Failure::broken(format!(
                    "`{host}` {what} {} seconds",
                    limit.as_secs_f32()
                )));
            }
        }
    }

    /// The proxy on the way to a URL. A proxy elsewhere has another idea of who `localhost` is.
    fn proxy(&self, url: &Url) -> Option<&Url> {
        self.options.proxies.of(url).filter(|_| !is_loopback(url))
    }

    fn client(&self, url: &Url, trust: Trust) -> Result<reqwest::Client> {
        let host = authority(url);
        let key = (format!("{}://{host}", url.scheme()), trust);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let options = &self.options;
        let mut tls = options.tls.clone();
        tls.insecure |= trust.blind;
        if !trust.registry {
            tls.client_certificate = None;
        }
        let wrong = |error: reqwest::Error| {
            Error::new(Kind::Usage, format!("cannot make a client for `{host}`")).with_source(error.without_url())
        };
        let mut builder = reqwest::Client::builder()
            .user_agent(options.user_agent())
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .connect_timeout(options.connect_timeout())
            .pool_idle_timeout(Duration::from_secs(20))
            .tcp_keepalive(Duration::from_secs(30))
            .tls_backend_preconfigured(tls::client_config(&tls, &host)?);
        // What the environment says came by way of the options.
        builder = builder.no_proxy();
        if let Some(proxy) = self.proxy(url) {
            builder = builder.proxy(reqwest::Proxy::all(proxy.clone()).map_err(wrong)?);
        }
        let client = builder.build().map_err(wrong)?;
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// How far a request body has got, for telling a stalled connection from a slow one.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch(Arc<Progressed>);

#[derive(Debug, Default)]
struct Progressed {
    sent: AtomicU64,
    out: AtomicBool,
    waiting: AtomicBool,
    /// What the body leaves when it is out.
    place: Option<Arc<Place>>,
}

impl Watch {
    /// For a body that is the last one of its upload.
    pub(super) fn last(place: Arc<Place>) -> Self {
        Self(Arc::new(Progressed {
            place: Some(place),
            ..Progressed::default()
        }))
    }

    /// So many more bytes were handed to the connection.
    pub(super) fn sent(&self, bytes: u64) {
        self.0.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The last byte was handed over.
    pub(super) fn out(&self) {
        self.0.out.store(true, Ordering::Relaxed);
        if let Some(place) = &self.0.place {
            place.leave();
        }
    }

    /// The connection could take more, but the source of the bytes has none yet: its own limits apply.
    pub(super) fn waiting(&self, yes: bool) {
        self.0.waiting.store(yes, Ordering::Relaxed);
    }

    fn look(&self) -> ((u64, bool), bool, bool) {
        let out = self.0.out.load(Ordering::Relaxed);
        (
            (self.0.sent.load(Ordering::Relaxed), out),
            out,
            self.0.waiting.load(Ordering::Relaxed),
        )
    }
}

/// Whether a URL names this machine: `localhost`, 127.0.0.0/8 or ::1.
pub(super) fn is_loopback(url: &Url) -> bool {
    match address(url) {
        Some(address) => address.is_loopback(),
        None => url
            .host_str()
            .is_some_and(|name| name == "localhost" || name.ends_with(".localhost")),
    }
}

/// Whether a URL names this machine or an address that only the local link knows, where cloud services keep secrets.
pub(super) fn is_local(url: &Url) -> bool {
    is_loopback(url)
        || address(url).is_some_and(|address| match address {
            std::net::IpAddr::V4(v4) => v4.is_link_local() || v4.is_unspecified(),
            std::net::IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_unspecified(),
        })
}

fn address(url: &Url) -> Option<std::net::IpAddr> {
    let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']');
    // An IPv4 address inside an IPv6 one is that IPv4 address.
    host.parse::<std::net::IpAddr>()
        .ok()
        .map(|address| address.to_canonical())
}

/// Whether two URLs have the same scheme, host and port: what may see the same credentials.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host() == b.host() && a.port_or_known_default() == b.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_known_in_all_forms() {
        for local in [
            "http://localhost",
            "http://127.9.9.9",
            "http://[::1]:5",
            "http://[::ffff:127.0.0.1]",
            "http://0x7f000001",
            "http://169.254.169.254",
            "http://[fe80::1]",
            "http://0.0.0.0",
        ] {
            assert!(is_local(&Url::parse(local).unwrap()), "{local}");
        }
        for other in [
            "http://10.0.0.1",
            "http://192.168.0.1",
            "http://registry",
            "http://[2001:db8::1]",
            "http://localhost.example",
        ] {
            assert!(!is_local(&Url::parse(other).unwrap()), "{other}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| same_origin(&Url::parse(a).unwrap(), &Url::parse(b).unwrap());
        assert!(same("https://h/a", "https://h:443/b"));
        assert!(!same("https://h", "http://h"));
        assert!(!same("https://h", "https://h:444"));
        assert!(!same("https://h", "https://g"));
    }
}
