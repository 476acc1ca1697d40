//! The blob to upload, and its repository.

use reqwest::{Method, StatusCode, Url};

use super::retry_budget::RetryBudget;
use super::saved_sessions::{LARGE, SavedSession};
use crate::error::{Error, Kind};
use crate::image::descriptor::Descriptor;
use crate::registry::answer::Answer;
use crate::registry::call::Call;
use crate::registry::context::same_origin;
use crate::registry::host::Host;
use crate::registry::proof;
use crate::registry::redact::{origin, shown};
use crate::registry::redirect;
use crate::registry::scope::Scope;
use crate::registry::types::Presence;

/// One blob to upload into one repository.
pub(super) struct BlobTarget<'a> {
    pub(super) host: &'a Host,
    pub(super) repository: &'a str,
    pub(super) descriptor: &'a Descriptor,
    pub(super) scope: Scope,
    /// Action in words, for errors.
    pub(super) action: String,
    pub(super) budget: RetryBudget<'a>,
    /// File for the session's URL, so that the next run can resume; `None` for small blobs.
    pub(super) saved: Option<SavedSession>,
}

impl<'a> BlobTarget<'a> {
    pub(super) fn new(host: &'a Host, repository: &'a str, descriptor: &'a Descriptor) -> Self {
        let saved = host.context.sessions.as_ref();
        Self {
            host,
            repository,
            descriptor,
            scope: Scope::push(repository),
            action: format!(
                "cannot upload blob {} to `{}/{repository}`",
                descriptor.digest, host.name
            ),
            budget: RetryBudget::new(&host.context.options, descriptor.size),
            saved: saved
                .filter(|_| descriptor.size >= LARGE)
                .map(|saved| saved.session(&host.name, repository, &descriptor.digest)),
        }
    }

    pub(super) fn call(&self, method: Method, url: Url) -> Call<'a> {
        Call::new(method, url, self.repository, self.scope.clone(), self.action.clone())
    }

    /// Returns whether the registry has the blob.
    /// The upload may have succeeded although its answer was lost.
    pub(super) async fn is_present(&mut self) -> bool {
        let head = self
            .host
            .head_blob_within(
                self.repository,
                self.descriptor,
                self.scope.clone(),
                &mut self.budget.backoff,
            )
            .await;
        let found = matches!(head, Ok(Presence::Present(())));
        if found {
            self.host.proof.found_upload();
        }
        found
    }

    /// Returns whether the registry has the blob, with repeated checks after pauses: replicas lag behind. `None` if the registry
    /// does not say.
    pub(super) async fn becomes_present(&self) -> Option<bool> {
        let ask = || {
            self.host
                .head_blob(self.repository, self.descriptor, self.scope.clone())
        };
        match proof::check_with_retries(self.host.context.options.retry_pause(), ask).await {
            Presence::Present(()) => {
                self.host.proof.found_upload();
                Some(true)
            }
            Presence::Missing | Presence::OtherSize(_) => Some(false),
            Presence::Unknown => None,
        }
    }

    /// Adds a hint to the error of a server that cannot be reached, if the registry named another address for the upload.
    pub(super) fn with_address_hint(&self, url: &Url, error: Error) -> Error {
        let base = self.host.base();
        if same_origin(url, &base) {
            return error;
        }
        error.with_hint(format!(
            "the registry sends uploads to `{}`: have it told the address by which it is reached from here \
             (distribution: `http: relativeurls: true` or `http: host`; a proxy in front of it: the headers `Host` and \
             `X-Forwarded-Proto`)",
            origin(url)
        ))
    }

    /// Returns the error for a redirect that an upload does not follow.
    pub(super) fn redirected(&self, answer: &Answer) -> Error {
        let url = match redirect::target(answer, &self.host.base()) {
            Ok(url) => url,
            Err(failure) => return failure.error.or_shared_cause(),
        };
        let (host, status) = (&self.host.name, answer.status().as_u16());
        let what = format!("`{host}` redirects the upload ({status}) to {}", shown(&url));
        Error::new(Kind::Server, what)
            .with_cause(&format!("`{host}` redirects uploads ({status}) to `{}`", origin(&url)))
            .with_hint("name the registry by the address that it redirects to")
    }

    /// Returns the error for an upload that ended with another status than 201, where the registry does not say what it has.
    pub(super) fn unconfirmed(&self, status: StatusCode) -> Error {
        let (host, status) = (&self.host.name, status.as_u16());
        let what = format!("`{host}` answered {status} in place of 201, and does not say whether it has the blob");
        Error::new(Kind::Server, what).with_shared_cause().with_hint(
            "run the same command again, which looks for the blob first; if that does not help, ask the administrator of the registry \
             why it does not answer HEAD requests for blobs (`-vv` shows the answers)",
        )
    }

    /// Returns the error for a successful answer after which the registry does not have the blob.
    pub(super) fn empty_success(&self, status: StatusCode) -> Error {
        let (host, status) = (&self.host.name, status.as_u16());
        Error::new(
            Kind::Server,
            format!("`{host}` answered {status} and does not have the blob"),
        )
        .with_shared_cause()
        .with_hint(
            "the registry accepts uploads that it does not keep: see in its log what becomes of them; if no upload succeeds, check \
             whether this address is a registry",
        )
    }
}
