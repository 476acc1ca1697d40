//! A request to a registry, and how it may be sent.

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};

use super::answer::Answer;
use super::challenge;
use super::context::Provenance;
use super::scope::Scope;

/// A request to a registry, as often as it has to be sent.
pub(super) struct Call<'a> {
    /// The action in words, for errors: `cannot read manifest x of h/r`.
    pub(super) action: String,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) repository: &'a str,
    pub(super) scope: Scope,
    pub(super) headers: HeaderMap,
    /// For methods with a body, also where it is empty.
    pub(super) body: Option<Bytes>,
    /// Whether to try again after what may pass. A request that must not be repeated blindly says no.
    pub(super) repeat: bool,
    /// Who chose `url`.
    pub(super) provenance: Provenance,
    /// Whether a redirect to another server is an answer like any other.
    pub(super) stays: bool,
    /// Whether its caller has a place in the limit of the host for it.
    pub(super) has_place: bool,
}

/// How often a registry is asked for a fresh address where the store that it redirects to refuses.
pub(super) const MAX_FRESH: u32 = 2;

/// Whether the store to which a registry redirected refuses: the signature in the address may have expired, and the registry
/// gives out another one when it is asked again.
pub(super) fn is_stale_address(answer: &Answer, call: &Call<'_>) -> bool {
    // A store that wants a login says so, and gets none.
    let refused = match answer.status().as_u16() {
        401 => challenge::parse(answer.headers()).is_empty(),
        status => matches!(status, 400 | 403 | 410),
    };
    refused && answer.redirected_by.is_some() && call.method == Method::GET && call.repeat
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, url: Url, repository: &'a str, scope: Scope, action: String) -> Self {
        let body = matches!(method, Method::POST | Method::PUT | Method::PATCH).then(Bytes::new);
        Self {
            action,
            method,
            url,
            repository,
            scope,
            headers: HeaderMap::new(),
            body,
            repeat: true,
            provenance: Provenance::OWN,
            stays: false,
            has_place: false,
        }
    }

    #[must_use]
    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    #[must_use]
    pub(super) fn named_by(mut self, provenance: Provenance) -> Self {
        self.provenance = provenance;
        self
    }

    #[must_use]
    pub(super) fn with_place(mut self) -> Self {
        self.has_place = true;
        self
    }

    #[must_use]
    pub(super) fn staying(mut self) -> Self {
        self.stays = true;
        self
    }

    #[must_use]
    pub(super) fn once(mut self) -> Self {
        self.repeat = false;
        self
    }
}
