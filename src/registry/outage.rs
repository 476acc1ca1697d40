//! Consequences of a host's failures: shared pauses, and the circuit breakers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::StatusCode;

use super::Registry;
use super::breaker::{Breaker, FailureMode, Verdict};
use super::call::Call;
use super::host::Host;
use super::refusal::Refusal;
use super::retry::{Backoff, is_passing};
use crate::error::{Error, Kind, Result, Side};

/// Kind of content that is written to a host.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content {
    Manifest,
    Blob,
}

impl Content {
    fn plural(self) -> &'static str {
        match self {
            Self::Manifest => "manifests",
            Self::Blob => "blobs",
        }
    }
}

/// A failure of a host, or of a server to which the host redirected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trouble<'a> {
    pub(super) mode: FailureMode,
    /// Authority of the server to which the host redirected; `None` for the host itself.
    pub(super) store: Option<&'a str>,
}

impl From<FailureMode> for Trouble<'_> {
    fn from(mode: FailureMode) -> Self {
        Self { mode, store: None }
    }
}

impl Registry {
    /// Returns whether the root of the registry answers; a refusal counts as an answer.
    pub(crate) async fn is_alive(&self) -> bool {
        self.host.is_alive().await
    }
}

impl Host {
    fn breaker_of(&self, store: Option<&str>) -> Arc<Breaker> {
        store.map_or_else(|| self.breaker.clone(), |store| self.stores.breaker(store))
    }

    /// Takes the next pause of a retry budget.
    /// Requests that fail in the same way at the same time report the failure once, and stop waiting when the breaker
    /// opens.
    pub(super) async fn pause(
        &self,
        backoff: &mut Backoff,
        way: Option<Trouble<'_>>,
        attempt: u32,
        asked: Option<Duration>,
        reason: impl FnOnce() -> String,
    ) -> bool {
        let options = &self.context.options;
        let breaker = self.breaker_of(way.and_then(|way| way.store));
        let silent = way.is_some_and(|way| !breaker.is_news(way.mode, attempt));
        let pause = async {
            match silent {
                true => backoff.pause_silently(asked).await,
                false => backoff.pause(options, asked, reason).await,
            }
        };
        breaker.wait(pause).await
    }

    /// Returns whether the root of the host answers; a refusal counts as an answer.
    pub(super) async fn is_alive(&self) -> bool {
        let root = self.root().await;
        root.is_ok_and(|answer| !is_passing(answer.status()))
    }

    /// Counts a request that was given up, and opens the breaker after too many consecutive failures.
    /// Returns the error for the request: `error`, or the error for which the breaker is already open.
    pub(super) async fn gave_up(
        &self,
        Trouble { mode, store }: Trouble<'_>,
        repository: &str,
        error: Error,
        wrong_address: bool,
    ) -> Error {
        let breaker = self.breaker_of(store);
        if let Some(error) = breaker.error() {
            return error;
        }
        // The store of a mirror may fail for one blob, which comes from the next host then.
        let is_mirror = self.is_mirror && store.is_none();
        let limit = Breaker::limit(is_mirror, wrong_address);
        let opens = match breaker.gave_up(mode, repository, limit) {
            Verdict::GoOn => false,
            Verdict::Leave => true,
            // A store has no root that shows whether it is alive, and the failures may concern one repository or blob.
            Verdict::AskRoot if store.is_some() => false,
            Verdict::AskRoot => {
                let alive = self.is_alive().await;
                if alive {
                    self.breaker.answered();
                }
                !alive
            }
        };
        if opens && breaker.open(mode, is_mirror, error.clone()) && (limit > 1 || is_mirror) {
            let for_good = is_mirror || !mode.may_pass();
            let how_long = if for_good { "in this run" } else { "for a while" };
            let server = store.unwrap_or(&self.name);
            let text = format!("{}; `{server}` is not asked again {how_long}", error.full());
            self.context.options.progress.warn(text);
        }
        error
    }

    /// Returns the circuit breaker of the requests that write this kind of content.
    /// A host that answers every other request may refuse these, so that its other answers do not reset this breaker.
    pub(super) fn breaker_of_writes(&self, content: Content) -> &Breaker {
        match content {
            Content::Manifest => &self.manifest_writes,
            Content::Blob => &self.blob_writes,
        }
    }

    /// Counts a manifest or blob that the host did not accept. `result` is the result of all attempts.
    /// A success closes the breaker. Transient failures may concern single repositories, so that the breaker opens after many
    /// consecutive failures in several repositories only.
    pub(super) fn count_write<T>(&self, content: Content, repository: &str, result: &Result<T>) {
        let breaker = self.breaker_of_writes(content);
        let error = match result {
            Ok(_) => return breaker.answered(),
            Err(error) => error,
        };
        // A host that gets no request at all has been reported. An open breaker closes by a success alone.
        let is_open = self.breaker.error().is_some() || breaker.error().is_some();
        let is_transient = match Refusal::in_error(error) {
            Some(refusal) => StatusCode::from_u16(refusal.status).is_ok_and(is_passing),
            None => error.kind() == Kind::Network && error.side() != Some(Side::Source),
        };
        if is_open || !is_transient {
            return;
        }
        // The mode says nothing here, since failures of all modes count together.
        let verdict = breaker.gave_up(FailureMode::Broken, repository, Breaker::limit(false, false));
        if verdict == Verdict::Leave {
            let error = without_object(error);
            let text = format!(
                "{}; no further {} are sent to `{}` for a while",
                error.full(),
                content.plural(),
                self.name
            );
            if breaker.open(FailureMode::Broken, false, error) {
                self.context.options.progress.warn(text);
            }
        }
    }

    /// Counts a request that got no token because the token server could not be asked.
    pub(super) async fn without_token(&self, call: &Call<'_>, error: Error) -> Error {
        let mode = match error.kind() {
            Kind::Network => FailureMode::NoToken,
            Kind::Server | Kind::RateLimited => FailureMode::TokenFailed,
            _ => return error,
        };
        let error = error.with_shared_cause();
        self.gave_up(mode.into(), call.repository, error, false).await
    }

    /// Returns whether the host is a mirror that is not asked again in this run.
    pub(super) fn is_given_up(&self) -> bool {
        self.is_mirror && (self.is_left.load(Ordering::Relaxed) || self.breaker.error().is_some())
    }

    /// Counts a refusal of a mirror. Returns whether the mirror has never had a manifest or blob, and refused too often to be
    /// asked again. A missing permission may concern one repository only.
    fn is_useless_mirror(&self, error: &Error) -> bool {
        const REFUSALS: u32 = 3;
        if !self.is_mirror || self.has_served.load(Ordering::Relaxed) {
            return false;
        }
        match error.kind() {
            Kind::Unauthorized | Kind::Denied => self.refusals.fetch_add(1, Ordering::Relaxed) + 1 >= REFUSALS,
            kind => matches!(kind, Kind::Server | Kind::RateLimited | Kind::Unsupported),
        }
    }

    /// Warns that the client continues with another host after `error`.
    /// Silent for a mirror that is no longer asked, which was reported before; a cause that several requests share is
    /// reported once.
    pub(super) fn warn_about_fallback(&self, error: &Error, next: &str) {
        if self.is_given_up() {
            return;
        }
        // A mirror that only refuses is not asked again. Refused logins were reported with the first one.
        let is_login = matches!(error.kind(), Kind::Unauthorized | Kind::Denied);
        let is_left = self.is_useless_mirror(error);
        self.is_left.fetch_or(is_left, Ordering::Relaxed);
        let what_follows = match is_left && !is_login {
            true => format!("`{}` is not asked again in this run", self.name),
            false => format!("going on with `{next}`"),
        };
        match error.shared_cause() {
            Some(cause) => self.context.warn_once(format!("{cause}; {what_follows}")),
            // A pull-through or partial mirror may lack much of what is asked for.
            None if self.is_mirror && error.kind() == Kind::NotFound => {
                self.lacked.fetch_add(1, Ordering::Relaxed);
                self.context.warn_once(format!(
                    "`{}` does not have all that is asked for; what it lacks comes from `{next}`",
                    self.name
                ));
            }
            None => {
                let text = format!("{}; {what_follows}", error.full());
                self.context.options.progress.warn(text);
            }
        }
    }
}

/// Returns the error that a failure stands for in requests for other manifests and blobs: its shared cause and its hint.
pub(super) fn without_object(error: &Error) -> Error {
    let cause = error.shared_cause().map_or_else(|| error.full(), str::to_owned);
    let shared = Error::new(error.kind(), cause).with_shared_cause();
    match error.hint() {
        Some(hint) => shared.with_hint(hint),
        None => shared,
    }
}
