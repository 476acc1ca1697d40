//! A request to a registry, and the options for sending it.

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};

use super::answer::Answer;
use super::challenge;
use super::context::Provenance;
use super::scope::Scope;

/// A request to a registry, which can be sent several times.
#[derive(Clone)]
pub(super) struct Call<'a> {
    /// Action in words, for errors: `cannot read manifest x of h/r`.
    pub(super) action: String,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) repository: &'a str,
    pub(super) scope: Scope,
    pub(super) headers: HeaderMap,
    /// Body; `Some` for every method with a body, even an empty one.
    pub(super) body: Option<Bytes>,
    /// Whether to retry after a transient failure; `false` for requests that are not safe to repeat.
    pub(super) repeat: bool,
    /// Origin of `url`.
    pub(super) provenance: Provenance,
    /// Whether to return a redirect to another server instead of following it.
    pub(super) stays: bool,
    /// Whether the caller already holds a permit of the host's concurrency limit for this request.
    pub(super) has_place: bool,
}

/// Maximum number of fresh addresses requested from a registry whose store refuses.
pub(super) const MAX_FRESH: u32 = 2;

/// Returns whether the store to which a registry redirected refuses the request.
/// The signature in the address may have expired; the registry issues a new address when asked again.
pub(super) fn is_stale_address(answer: &Answer, call: &Call<'_>) -> bool {
    // A store that asks for a login sends a challenge; a fresh address would not help, and a store gets no login.
    let refused = match answer.status().as_u16() {
        401 => challenge::parse(answer.headers()).is_empty(),
        status => matches!(status, 400 | 403 | 410),
    };
    refused && answer.was_redirected && call.method == Method::GET && call.repeat
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
