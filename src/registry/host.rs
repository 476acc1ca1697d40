//! A registry host: its address, what is known about it, and the limits for requests to it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::{Method, StatusCode, Url};
use tokio::time::Instant;

use super::answer::Answer;
use super::auth::{Authenticator, Need};
use super::breaker::Breaker;
use super::call::Call;
use super::challenge;
use super::context::{Context, Provenance, Trust, same_origin};
use super::head_sizes::HeadSizes;
use super::limiter::Limiter;
use super::limits::RateLimit;
use super::proof::Proof;
use super::reach::is_loopback;
use super::redact::authority;
use super::referrers_answers::ReferrersAnswers;
use super::retry::is_passing;
use super::scope::Scope;
use super::stores::Stores;
use super::tags_at_once::TagsAtOnce;
use super::token::Refused;
use super::upload::profile::UploadProfile;
use crate::error::{Error, Kind, Result};
use crate::image::reference::DOCKER_HUB;
use crate::lock::Mutex;
use crate::text::quote;

/// Host name of Docker Hub's registry.
const DOCKER_HUB_ADDRESS: &str = "registry-1.docker.io";

/// One host and its state.
#[derive(Debug)]
pub(super) struct Host {
    /// `HOST[:PORT]` as in references.
    pub(super) name: String,
    pub(super) context: Arc<Context>,
    /// Root URL with the scheme that was assumed at first.
    pub(super) base: Url,
    /// Root URL in plain http, for a host that turns out to speak no TLS.
    pub(super) plain: Url,
    pub(super) trust: Trust,
    /// State of the scheme: [`FIXED`], [`ASSUMED_HTTP`], [`FOUND_HTTPS`], [`EITHER`] or [`FOUND_HTTP`].
    pub(super) scheme: AtomicU8,
    /// Whether the host ever answered; a host that never answered is most likely a wrong address.
    pub(super) reached: AtomicBool,
    /// Whether the host ever answered with anything but a 401 without a challenge.
    pub(super) answered: AtomicBool,
    /// Whether the host ever answered with a status other than a failure that may pass.
    pub(super) accepted: AtomicBool,
    pub(super) auth: Authenticator,
    pub(super) limiter: Limiter,
    pub(super) upload_profile: UploadProfile,
    /// Whether the host was seen to keep uploaded blobs.
    pub(super) proof: Proof,
    pub(super) head_sizes: HeadSizes,
    pub(super) breaker: Arc<Breaker>,
    /// Circuit breaker for manifests that are pushed; open if the host refuses them while it answers other requests.
    pub(super) manifest_writes: Breaker,
    /// Circuit breaker for uploads of blobs, like `manifest_writes`.
    pub(super) blob_writes: Breaker,
    /// Servers to which the host redirects and which have failed.
    pub(super) stores: Stores,
    /// Whether the host ever had what was asked for.
    pub(super) has_served: AtomicBool,
    /// Whether the host is a mirror that is not asked again, since it only refused.
    pub(super) is_left: AtomicBool,
    /// Number of requests for which the host refused a login or permission.
    pub(super) refusals: AtomicU32,
    /// Number of manifests and blobs that the host, a mirror, did not have.
    pub(super) lacked: AtomicU32,
    /// Whether the host is a mirror, so that requests can go to another host instead.
    pub(super) is_mirror: bool,
    /// Whether the host was seen to keep manifests that are pushed by digest.
    /// The caller reads back manifests under a tag.
    pub(super) manifest_proof: Proof,
    /// Set when the store to which the host redirects for blobs was not reachable.
    pub(super) store_unreachable: AtomicBool,
    /// Set when the host turned out not to answer HEAD for manifests.
    pub(super) no_head: AtomicBool,
    /// Set when the host stated a digest for a manifest that its bytes do not have.
    pub(super) states_wrong_digests: AtomicBool,
    /// Set when the host refused a range of a blob, and then sent the whole blob.
    pub(super) no_ranges: AtomicBool,
    pub(super) referrers_answers: ReferrersAnswers,
    /// Set when the host used up the time for a list of tags, and for a list of referrers.
    pub(super) lists_slowly: [AtomicBool; 2],
    /// Whether the host accepts several tags of a manifest in one request.
    pub(super) tags_at_once: TagsAtOnce,
    rate_limit: Mutex<Option<RateLimit>>,
    /// Locks for writing manifests, by repository.
    writers: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// The scheme of a host is known and stays as it is.
const FIXED: u8 = 0;
/// A loopback host: http, unless the host turns out to speak TLS.
pub(super) const ASSUMED_HTTP: u8 = 1;
/// A loopback host that turned out to speak TLS.
pub(super) const FOUND_HTTPS: u8 = 2;
/// A host with `insecure = true` in registries.conf: unverified https, or else plain http.
pub(super) const EITHER: u8 = 3;
/// A host with `insecure = true` that turned out not to speak TLS.
pub(super) const FOUND_HTTP: u8 = 4;

impl Host {
    /// Creates a host from its name in references.
    pub(super) fn named(name: &str, context: Arc<Context>) -> Result<Self> {
        Self::from_reference(name, false, context)
    }

    /// Creates a host from its name in references, without a check of its certificate.
    pub(super) fn insecure(name: &str, context: Arc<Context>) -> Result<Self> {
        Self::from_reference(name, true, context)
    }

    fn from_reference(name: &str, blind: bool, context: Arc<Context>) -> Result<Self> {
        let invalid =
            |e| Error::new(Kind::Usage, format!("`{}` is not a valid registry host", quote(&name))).with_source(e);
        let base = url_of(name, "https")?;
        if base.path() != "/" || base.query().is_some() || base.fragment().is_some() || !base.username().is_empty() {
            return Err(invalid("it has more than a host and a port".to_owned()));
        }
        let plain = context.options.plain_http && name != DOCKER_HUB;
        let (protocol, scheme) = match (plain, is_loopback(&base)) {
            (true, _) => ("http", FIXED),
            (false, true) => ("http", ASSUMED_HTTP),
            (false, false) if blind && name != DOCKER_HUB => ("https", EITHER),
            (false, false) => ("https", FIXED),
        };
        Self::at(name, protocol, scheme, blind, context)
    }

    /// Creates a mirror, whose scheme is configured.
    pub(super) fn mirror(name: &str, scheme: &str, blind: bool, context: Arc<Context>) -> Result<Self> {
        let either = blind && scheme == "https" && name != DOCKER_HUB;
        Self::at(name, scheme, if either { EITHER } else { FIXED }, blind, context)
    }

    fn at(name: &str, protocol: &str, scheme: u8, blind: bool, context: Arc<Context>) -> Result<Self> {
        let limiter = context.limiters.get(name, || context.options.limiter(name));
        Ok(Self {
            name: name.to_owned(),
            base: url_of(name, protocol)?,
            plain: url_of(name, "http")?,
            trust: Trust::registry(blind),
            scheme: AtomicU8::new(scheme),
            reached: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            accepted: AtomicBool::new(false),
            auth: Authenticator::new(name),
            limiter,
            upload_profile: UploadProfile::default(),
            proof: Proof::default(),
            head_sizes: HeadSizes::default(),
            breaker: Arc::default(),
            manifest_writes: Breaker::default(),
            blob_writes: Breaker::default(),
            stores: Stores::default(),
            is_mirror: false,
            manifest_proof: Proof::default(),
            store_unreachable: AtomicBool::new(false),
            no_head: AtomicBool::new(false),
            states_wrong_digests: AtomicBool::new(false),
            has_served: AtomicBool::new(false),
            is_left: AtomicBool::new(false),
            refusals: AtomicU32::new(0),
            lacked: AtomicU32::new(0),
            no_ranges: AtomicBool::new(false),
            referrers_answers: ReferrersAnswers::default(),
            lists_slowly: Default::default(),
            tags_at_once: TagsAtOnce::default(),
            rate_limit: Mutex::new(None),
            writers: Mutex::new(HashMap::new()),
            context,
        })
    }

    /// Returns the registry's root URL.
    pub(super) fn base(&self) -> Url {
        let mut base = self.base.clone();
        match self.scheme.load(Ordering::Relaxed) {
            // `set_scheme` cannot fail here: URLs allow the change from http to https.
            FOUND_HTTPS => drop(base.set_scheme("https")),
            FOUND_HTTP => base = self.plain.clone(),
            _ => {}
        }
        base
    }

    /// Returns `/v2/REPOSITORY/REST` on this host.
    /// Both parts must consist of characters that need no escape.
    pub(super) fn url(&self, repository: &str, rest: &str) -> Url {
        let mut url = self.base();
        url.set_path(&format!("/v2/{repository}/{rest}"));
        url
    }

    /// Returns whether a URL is on this registry, so that it may receive the registry's credentials.
    pub(super) fn owns(&self, url: &Url) -> bool {
        same_origin(&self.base(), url)
    }

    /// Returns the trust in the server of a URL: the registry itself, or a server named by another server.
    pub(super) fn trust(&self, url: &Url, provenance: Provenance) -> Trust {
        match (self.owns(url), provenance.own) {
            (true, true) => self.trust,
            (true, false) => self.trust.without_certificate(),
            (false, _) => Trust::stranger(provenance.zone),
        }
    }

    /// Checks that the registry answers; a refusal counts as an answer.
    pub(super) async fn ping(&self) -> Result<()> {
        let mut url = self.base();
        url.set_path("/v2/");
        let action = format!("cannot reach `{}`", self.name);
        let call = Call::new(Method::GET, url, "", Scope::default(), action);
        match self.exchange(&call).await {
            Ok(answer) if matches!(answer.status().as_u16(), 200..=299 | 401 | 403) => {
                answer.finish().await;
                Ok(())
            }
            Ok(answer) => Err(answer.into_error(&call.action).await),
            Err(error) if matches!(error.kind(), Kind::Unauthorized | Kind::Denied) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Returns the pull quota that the registry last reported.
    pub(super) fn rate_limit(&self) -> Option<RateLimit> {
        self.rate_limit.lock().clone()
    }

    /// Returns the lock for writing manifests of a repository.
    /// Some registries fail on concurrent manifest uploads.
    pub(super) fn writer(&self, repository: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut writers = self.writers.lock();
        if writers.len() > 256 {
            writers.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        Arc::clone(writers.entry(repository.to_owned()).or_default())
    }

    /// Returns the authorization for a URL.
    /// `None` if the URL is not the registry's own, or was chosen by another server.
    pub(super) async fn authorize(
        &self,
        url: &Url,
        provenance: Provenance,
        repository: &str,
        scope: &Scope,
        long: bool,
        refused: Option<Refused<'_>>,
    ) -> Result<Option<HeaderValue>> {
        if !provenance.own || !self.owns(url) {
            return Ok(None);
        }
        let registry = self.base();
        let need = Need {
            context: &self.context,
            registry: &registry,
            repository,
            scope,
            long,
            refused,
            trust: self.trust,
        };
        self.auth.authorization(&need).await
    }

    /// Lowers the concurrency limit of a host that throttles, and pauses requests to it.
    pub(super) fn throttled(&self, status: StatusCode, asked: Option<Duration>, begun: Instant) {
        if is_throttling(status) {
            self.limiter.refused(begun);
            self.limiter.pause_for(asked.unwrap_or_default());
        }
    }

    /// Records the state that any answer of this host reveals.
    pub(super) fn note_answer(&self, answer: &Answer) {
        self.reached.store(true, Ordering::Relaxed);
        if matches!(answer.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT) && !answer.is_web_page() {
            self.has_served.store(true, Ordering::Relaxed);
        }
        if answer.status() != StatusCode::UNAUTHORIZED || !challenge::parse(answer.headers()).is_empty() {
            self.answered.store(true, Ordering::Relaxed);
        }
        if !answer.from_registry || !is_passing(answer.status()) {
            self.accepted.store(true, Ordering::Relaxed);
            self.breaker.answered();
        }
        if answer.redirected_by.is_some() {
            self.stores.answered(&authority(&answer.url), answer.status());
        }
        if answer.from_registry
            && let Some(limit) = RateLimit::from_headers(answer.headers())
        {
            *self.rate_limit.lock() = Some(limit);
        }
    }
}

/// Returns the root URL of a registry from its name in references.
fn url_of(name: &str, protocol: &str) -> Result<Url> {
    let address = if name == DOCKER_HUB { DOCKER_HUB_ADDRESS } else { name };
    Url::parse(&format!("{protocol}://{address}/"))
        .map_err(|e| Error::new(Kind::Usage, format!("`{}` is not a valid registry host", quote(&name))).with_source(e))
}

/// Returns whether a status says that the host is overloaded or throttles.
pub(super) fn is_throttling(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}
