//! Shared state of all hosts of one side, and the sending of a single request.
//! This includes time limits, the wire log, and one HTTP client per host (each has its own TLS settings).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use reqwest::{Body, Method, Response, Url};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::cache::ManifestCache;
use super::credentials::Credentials;
use super::failure::{Class, Failure, SELF_SIGNED, UNKNOWN_AUTHORITY};
use super::limiter::{Limiters, Place};
use super::options::Options;
use super::reach::{Guard, Lookup, Reach, Zone, is_loopback, system_lookup};
use super::redact::{authority, shown};
use super::send_queue::SendQueues;
use super::tls;
use super::tunnel;
use super::upload::saved_sessions::SavedSessions;
use crate::error::{Error, Kind, Result};
use crate::image::manifest::MAX_MANIFEST;
use crate::lock::Mutex;
use crate::progress::Event;
use crate::text::MAX_WARNINGS;

/// Maximum number of cached HTTP clients.
/// Redirects lead to few hosts; beyond the maximum, all clients are created again.
const MAX_CLIENTS: usize = 64;

/// Maximum number of bytes of a request body in transit after the client wrote the last byte.
/// They are in this machine's send buffer (4 MiB by default on Linux) and in proxies.
const MAX_UNDER_WAY: u64 = 6 << 20;

/// Number of bytes in transit for which a time limit is extended by its own length.
/// With the default limits, a line of 9 kB/s is fast enough.
const BYTES_PER_LIMIT: u64 = 1 << 20;

/// Maximum factor by which a line is assumed to slow down after the first bytes of a body arrived.
const SLOWDOWN: f64 = 16.0;

/// Maximum total length in bytes of manifests that are read at the same time.
/// A body of unknown length counts with the maximum length of a manifest.
const BODIES: usize = 2 * MAX_MANIFEST as usize;

/// Shared state of all hosts of one side.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) options: Options,
    pub(super) credentials: Credentials,
    pub(super) cache: Option<ManifestCache>,
    pub(super) sessions: Option<SavedSessions>,
    /// Name resolution; tests replace the function.
    pub(super) lookup: Lookup,
    /// Remaining memory in bytes for bodies that are read into memory at the same time.
    room: Semaphore,
    /// HTTP clients, by scheme and host, and by trust.
    clients: Mutex<HashMap<(String, Trust), reqwest::Client>>,
    pub(super) limiters: Limiters,
    /// Warnings that were already given.
    warned: Mutex<HashSet<String>>,
}

/// Trust in a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Trust {
    /// Whether the user named the server as a registry, so that it may receive the client certificate.
    pub(super) registry: bool,
    /// Whether the server's certificate is not checked, because the configuration of this server says so.
    pub(super) blind: bool,
    /// Addresses at which the server may be.
    pub(super) reach: Reach,
}

impl Trust {
    /// Creates the trust in a registry that the user named.
    pub(super) fn registry(blind: bool) -> Self {
        Self {
            registry: true,
            blind,
            reach: Reach::Anywhere,
        }
    }

    /// Creates the trust in a server that was named by another server, which is in the zone `named_from`.
    pub(super) fn stranger(named_from: Zone) -> Self {
        Self {
            registry: false,
            blind: false,
            reach: Reach::From(named_from),
        }
    }

    /// Returns the trust in the same server for a URL chosen by a stranger: no client certificate.
    pub(super) fn without_certificate(self) -> Self {
        Self {
            registry: false,
            ..self
        }
    }
}

/// Origin of a request's URL.
#[derive(Debug, Clone, Copy)]
pub(super) struct Provenance {
    /// Whether only this program and the registry itself chose the URL.
    /// Only then may the registry's credentials be sent to it.
    pub(super) own: bool,
    /// Zone of the server that named the URL.
    pub(super) zone: Zone,
}

impl Provenance {
    /// Provenance of a URL that this program made by itself.
    pub(super) const OWN: Self = Self {
        own: true,
        zone: Zone::Network,
    };
}

impl Context {
    pub(super) fn new(options: Options) -> Result<Self> {
        Ok(Self {
            credentials: Credentials::new(options.credentials.clone())?.reporting_to(options.progress.clone()),
            cache: options.manifest_cache.clone().map(ManifestCache::new),
            sessions: options.upload_sessions.clone().map(SavedSessions::new),
            lookup: system_lookup,
            room: Semaphore::new(BODIES),
            clients: Mutex::default(),
            limiters: Limiters::default(),
            warned: Mutex::default(),
            options,
        })
    }

    /// Waits for memory for a manifest of this length; an unknown length counts as the maximum.
    pub(super) async fn room_for(&self, length: Option<u64>) -> Option<SemaphorePermit<'_>> {
        let length = length.unwrap_or(MAX_MANIFEST).min(MAX_MANIFEST) as u32;
        self.room.acquire_many(length).await.ok()
    }

    /// Gives a warning that every image would repeat, once; gives at most [`MAX_WARNINGS`] different warnings.
    pub(super) fn warn_once(&self, text: String) {
        let mut warned = self.warned.lock();
        if warned.len() > MAX_WARNINGS || !warned.insert(text.clone()) {
            return;
        }
        let is_last = warned.len() > MAX_WARNINGS;
        drop(warned);
        self.options.progress.warn(match is_last {
            true => "further warnings about registries are not shown".to_owned(),
            false => text,
        });
    }

    /// Sends one request and waits for the head of its answer.
    /// Does not follow redirects, challenges or errors.
    pub(super) async fn send(
        &self,
        method: &Method,
        url: &Url,
        headers: HeaderMap,
        body: Option<Body>,
        watch: Option<&Watch>,
        trust: Trust,
    ) -> Result<Response, Failure> {
        // The resolver never sees IP addresses in a URL, so they are checked here.
        if !trust.reach.allows_url(url) {
            return Err(Failure::out_of_reach(&authority(url), None));
        }
        let client = self.client(url, trust).map_err(|error| Failure {
            error,
            class: Class::Final,
            elsewhere: None,
        })?;
        let mut request = client.request(method.clone(), url.clone()).headers(headers);
        // The digest covers the registry's own bytes: no proxy on the way may re-encode them.
        request = request.header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(body) = body {
            request = request.body(body);
        }
        tracing::debug!(target: "docker_mirror::wire", "> {method} {}", shown(url));
        let begun = Instant::now();
        let mut result = self.in_time(request.send(), watch, url).await;
        if let Ok(response) = &mut result {
            let zone = self.zone(url, response);
            response.extensions_mut().insert(zone);
        }
        // What is not HTTP is an answer, too.
        if !matches!(&result, Err(failure) if failure.error.kind() == Kind::Network) {
            self.options.progress.emit(Event::Answered);
        }
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

    /// Waits for an answer: while the body makes progress, then up to the header timeout. Bytes of the body that the peer
    /// acknowledges are progress, too, at the minimum rate or faster.
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
        let begun = Instant::now();
        let mut since = begun;
        let port = self
            .proxy(url)
            .unwrap_or(url)
            .port_or_known_default()
            .unwrap_or_default();
        // The queues of the kernel in the middle of a silence, and when they were read.
        let mut held: Option<(Instant, SendQueues)> = None;
        loop {
            if let Ok(result) = tokio::time::timeout(tick, answer.as_mut()).await {
                let proxy = self.proxy(url).map(authority);
                return match result {
                    Ok(response) => Ok(response),
                    Err(error) => {
                        let failure = Failure::from_reqwest(error, &authority(url), proxy.as_deref());
                        let failure = self.with_files_in_hint(failure);
                        // Boxed, since this rare case would enlarge the future of every request.
                        Err(Box::pin(self.explain_tunnel(failure, url)).await)
                    }
                };
            }
            let (now, out, idle) = watch.map_or(((0, true), true, false), Watch::snapshot);
            if now != seen || idle {
                seen = now;
                since = Instant::now();
                held = None;
            }
            let limit = if out { patience } else { stall };
            let limit = limit + time_under_way(limit, seen.0, since - begun);
            if since.elapsed() >= limit / 2 && held.is_none() && seen.0 > 0 {
                held = SendQueues::read(port).map(|queues| (Instant::now(), queues));
            }
            if since.elapsed() >= limit {
                if let Some((at, before)) = held.take()
                    && let Some(now) = SendQueues::read(port)
                    && now.moved_since(
                        &before,
                        (self.options.minimum_rate() as f64 * at.elapsed().as_secs_f64()) as u64,
                    )
                {
                    since = Instant::now();
                    continue;
                }
                let what = if out { "did not answer for" } else { "took no byte for" };
                let host = authority(url);
                let unit = if limit == Duration::from_secs(1) {
                    "second"
                } else {
                    "seconds"
                };
                return Err(Failure::broken(format!(
                    "`{host}` {what} {} {unit}",
                    limit.as_secs_f32()
                )));
            }
        }
    }

    /// Returns the zone of the server that answered. Behind a proxy, only the URL's text is known.
    fn zone(&self, url: &Url, response: &Response) -> Zone {
        let peer = response.remote_addr().filter(|_| self.proxy(url).is_none());
        peer.map(|peer| Zone::from_ip(peer.ip()))
            .or_else(|| Zone::from_url(url))
            .unwrap_or(Zone::Network)
    }

    /// Adds the proxy's status to the error of a tunnel that the proxy refused.
    async fn explain_tunnel(&self, mut failure: Failure, url: &Url) -> Failure {
        let is_unexplained = failure.error.full().ends_with(tunnel::UNEXPLAINED);
        let Some(proxy) = self.proxy(url).filter(|_| is_unexplained) else {
            return failure;
        };
        if let Some(status) = tunnel::refusal(proxy, url).await {
            let message = format!("{}: it answered {status}", failure.error);
            let hint = failure.error.hint().unwrap_or_default().to_owned();
            failure.error = Error::new(failure.error.kind(), message).with_hint(hint);
        }
        failure
    }

    /// Adds the certificate files that do not help to the hint, since the user may expect them to.
    fn with_files_in_hint(&self, mut failure: Failure) -> Failure {
        let what = match failure.error.hint() {
            Some(UNKNOWN_AUTHORITY) => "its authority",
            Some(SELF_SIGNED) => "it",
            _ => return failure,
        };
        let mut hint = failure.error.hint().unwrap_or_default().to_owned();
        if !self.options.tls.authorities.is_empty() {
            hint = format!("the files given with `--ca-file` do not contain {what}: {hint}");
        }
        hint.push_str(&self.options.tls.system.unused());
        failure.error = failure.error.with_hint(hint);
        failure
    }

    /// Returns the proxy for a URL.
    /// A loopback URL needs none: on the proxy, `localhost` is another machine.
    fn proxy(&self, url: &Url) -> Option<&Url> {
        self.options.proxies.for_url(url).filter(|_| !is_loopback(url))
    }

    fn client(&self, url: &Url, trust: Trust) -> Result<reqwest::Client> {
        let host = authority(url);
        let key = (format!("{}://{host}", url.scheme()), trust);
        let mut clients = self.clients.lock();
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
            Error::new(Kind::Internal, format!("cannot make a client for `{host}`")).with_source(error.without_url())
        };
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            // Redirects and retries follow this client's own rules: see `redirect.rs` and `retry.rs`.
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .connect_timeout(options.connect_timeout())
            .pool_idle_timeout(Duration::from_secs(20))
            .tcp_keepalive(Duration::from_secs(30))
            // The library's default of 30 seconds would end a connection before the stall timeout does.
            .tcp_user_timeout(None)
            .tls_backend_preconfigured(tls::client_config(&tls, &host)?);
        // The options already contain the proxies of the environment.
        builder = builder.no_proxy();
        let proxy = self.proxy(url);
        builder = builder.dns_resolver(Guard {
            reach: trust.reach,
            lookup: self.lookup,
            proxy: proxy.and_then(Url::host_str).map(str::to_owned),
        });
        if let Some(proxy) = proxy {
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

/// Returns how much longer than `limit` to wait after `sent` bytes of a body were sent in `time`.
///
/// The last bytes may still be in buffers, and nothing reports their arrival. A body larger than the buffers has shown how
/// fast the line is.
fn time_under_way(limit: Duration, sent: u64, time: Duration) -> Duration {
    let under_way = sent.min(MAX_UNDER_WAY);
    let longest = limit.mul_f64(under_way as f64 / BYTES_PER_LIMIT as f64);
    match sent - under_way {
        0 => longest,
        arrived => longest.min(time.mul_f64(SLOWDOWN * under_way as f64 / arrived as f64)),
    }
}

/// Progress of a request body, to distinguish a stalled connection from a slow one.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch(Arc<Progressed>);

#[derive(Debug, Default)]
struct Progressed {
    /// Number of bytes handed to the connection.
    sent: AtomicU64,
    /// Whether the last byte was handed to the connection.
    out: AtomicBool,
    /// Whether the body's source has no bytes at the moment.
    waiting: AtomicBool,
    /// The permit's place that the body occupies.
    place: Option<Arc<Place>>,
    /// Whether the body gives up its place once all bytes are sent.
    is_last: bool,
}

impl Watch {
    /// Creates the progress of a body with a place.
    /// The last body of an upload gives up the place once all bytes are sent.
    pub(super) fn new(place: Arc<Place>, is_last: bool) -> Self {
        Self(Arc::new(Progressed {
            place: Some(place),
            is_last,
            ..Progressed::default()
        }))
    }

    /// Creates the progress of a body of `bytes` bytes in memory.
    /// The connection has the whole body from the start.
    pub(super) fn whole(bytes: u64) -> Self {
        let watch = Self::default();
        watch.sent(bytes);
        watch.out();
        watch
    }

    /// Records that this many more bytes were handed to the connection.
    pub(super) fn sent(&self, bytes: u64) {
        self.0.sent.fetch_add(bytes, Ordering::Relaxed);
        if let Some(place) = &self.0.place {
            place.moved(bytes);
        }
    }

    /// Records that the last byte was handed to the connection.
    pub(super) fn out(&self) {
        self.0.out.store(true, Ordering::Relaxed);
        if let Some(place) = self.0.place.as_ref().filter(|_| self.0.is_last) {
            place.release();
        }
    }

    /// Records whether the body's source has no bytes although the connection could take more.
    /// The source has its own time limits.
    pub(super) fn waiting(&self, yes: bool) {
        self.0.waiting.store(yes, Ordering::Relaxed);
    }

    fn snapshot(&self) -> ((u64, bool), bool, bool) {
        let out = self.0.out.load(Ordering::Relaxed);
        (
            (self.0.sent.load(Ordering::Relaxed), out),
            out,
            self.0.waiting.load(Ordering::Relaxed),
        )
    }
}

/// Returns whether two URLs have the same scheme, host and port.
/// They may then receive the same credentials.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host() == b.host() && a.port_or_known_default() == b.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_longer_by_what_may_be_under_way() {
        let second = Duration::from_secs(1);
        let limit = 120 * second;
        for (sent, time, expected) in [
            (0, 0, 0),
            (1 << 20, 0, 120),
            (4 << 20, 1, 480),
            (6 << 20, 1, 720),
            // One byte more than the buffers hold, over a slow line.
            ((6 << 20) + 1, 60, 720),
            // Half of the body has arrived, and the line may be slower by now.
            (12 << 20, 10, 160),
            (1 << 30, 100, 9),
            (u64::MAX, 1000, 0),
        ] {
            let more = time_under_way(limit, sent, time * second);
            assert_eq!(more.as_secs(), expected, "{sent} in {time} s");
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
