//! The blob that is uploaded, and its repository.

use reqwest::{Method, StatusCode, Url};

use super::retry_budget::RetryBudget;
use super::saved_sessions::{LARGE, SavedSession};
use crate::error::{Error, Kind};
use crate::image::descriptor::Descriptor;
use crate::registry::answer::Answer;
use crate::registry::call::Call;
use crate::registry::host::Host;
use crate::registry::proof;
use crate::registry::redact::shown;
use crate::registry::redirect;
use crate::registry::scope::Scope;
use crate::registry::types::Presence;

/// One blob on its way into one repository.
pub(super) struct BlobTarget<'a> {
    pub(super) host: &'a Host,
    pub(super) repository: &'a str,
    pub(super) descriptor: &'a Descriptor,
    pub(super) scope: Scope,
    /// The action in words, for errors.
    pub(super) action: String,
    pub(super) budget: RetryBudget<'a>,
    /// Where the address of a session is kept for the next run, if the blob is worth it.
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

    /// Whether the registry says that it has the blob: the end of an upload may have arrived, and only the answer been lost.
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

    /// The same, asked again after pauses: replicas lag behind.
    pub(super) async fn becomes_present(&self) -> bool {
        let ask = || {
            self.host
                .head_blob(self.repository, self.descriptor, self.scope.clone())
        };
        let found = proof::look(self.host.context.options.retry_pause(), ask).await == Some(true);
        if found {
            self.host.proof.found_upload();
        }
        found
    }

    /// The error for a redirect that an upload does not follow.
    pub(super) fn redirected(&self, answer: &Answer) -> Error {
        let target = redirect::target(answer, &self.host.base());
        let target = target.map_or_else(|failure| failure.error.to_string(), |url| shown(&url));
        let status = answer.status().as_u16();
        Error::new(
            Kind::Server,
            format!("the registry redirects the upload ({status}) to {target}"),
        )
        .with_hint("name the registry by the address that it redirects to")
    }

    /// The error for a success after which the blob is not there.
    pub(super) fn empty_success(&self, status: StatusCode) -> Error {
        let (host, status) = (&self.host.name, status.as_u16());
        Error::new(
            Kind::Server,
            format!("`{host}` answered {status} and does not have the blob"),
        )
        .with_hint("is this address a registry?")
    }
}
