//! Consequences of a registry's refusal.
//! Either another authorization, or the request without a login, or an error with a hint.

use std::sync::atomic::Ordering;

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode, Url};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::answer::Answer;
use super::attempt::{Attempt, Renewal, Renewed};
use super::call::Call;
use super::challenge::{self, Challenge};
use super::context::Provenance;
use super::credentials::Credential;
use super::failure::Failure;
use super::host::Host;
use super::reach::Zone;
use super::redirect::{self, Outgoing};
use super::retry::is_passing;
use super::scope::Scope;
use super::token::Refused;
use crate::error::{Error, Result};

/// Hint for a 401 without a challenge to a run that has a login.
const NO_CHALLENGE: &str = "a registry states the form in `WWW-Authenticate`, which this answer lacks: check that this address is the \
     registry, and the proxies in front of it; `-vv` shows each answer";

impl Host {
    /// Creates the first attempt of a call.
    pub(super) async fn attempt(&self, call: &Call<'_>, url: &Url) -> Result<Attempt> {
        let mut attempt = Attempt {
            authorization: None,
            scope: call.scope.clone(),
            replayed: false,
            widened: false,
            bare: false,
            without_login: None,
        };
        self.authorize_again(call, url, &mut attempt).await?;
        Ok(attempt)
    }

    /// Renews the authorization of a call that is sent again after a pause.
    pub(super) async fn authorize_again(&self, call: &Call<'_>, url: &Url, attempt: &mut Attempt) -> Result<()> {
        attempt.replayed = false;
        if attempt.without_login.is_some() {
            return Ok(());
        }
        let authorized = self
            .authorize(url, call.provenance, call.repository, &attempt.scope, false, None)
            .await;
        match authorized {
            Ok(authorization) => attempt.authorization = authorization,
            Err(error) => self.leave_login_out(call, attempt, error).await?,
        }
        Ok(())
    }

    /// Waits until no other request tries an unproven login.
    /// The guard is held until the answer has been judged.
    pub(super) async fn prove(&self, call: &Call<'_>, attempt: &mut Attempt) -> Result<Option<OwnedMutexGuard<()>>> {
        match self.auth.prove(attempt.authorization.as_ref()).await {
            Ok(alone) => Ok(alone),
            Err(error) => self.leave_login_out(call, attempt, error).await.map(|()| None),
        }
    }

    /// Drops the login that failed with `error` from the call, if the call may succeed without it.
    async fn leave_login_out(&self, call: &Call<'_>, attempt: &mut Attempt, error: Error) -> Result<()> {
        if attempt.bare {
            return Err(error);
        }
        let without = self
            .auth
            .without_login(&self.context, call.repository, &call.scope, error)
            .await?;
        attempt.authorization = None;
        attempt.without_login = Some(without);
        Ok(())
    }

    /// Returns the consequence of an answer of the registry itself.
    pub(super) async fn renew(
        &self,
        answer: &mut Answer,
        call: &Call<'_>,
        attempt: &mut Attempt,
        begun: Instant,
    ) -> Result<Renewal> {
        let status = answer.status();
        let without = attempt.without_login.as_ref();
        if status == StatusCode::UNAUTHORIZED {
            if let Some(without) = without {
                self.auth.refused_without_login(call.repository);
                return Err(without.error.clone());
            }
        } else if !is_passing(status) {
            self.auth.served(&self.context, attempt.authorization.as_ref(), without);
        }
        let tried = match status {
            StatusCode::UNAUTHORIZED => &mut attempt.replayed,
            StatusCode::FORBIDDEN => &mut attempt.widened,
            _ => return Ok(Renewal::Stands),
        };
        let before = std::mem::replace(tried, true);
        attempt.bare |= attempt.authorization.is_none();
        let header = attempt.authorization.as_ref();
        if before && self.is_vague(answer) {
            return Ok(Renewal::MayPass(self.vague(call.repository).await));
        }
        // A second replay is useful only after a refused login: the request may succeed without the login.
        if before && !self.auth.is_login(&self.context, call.repository, header).await {
            return Ok(Renewal::Stands);
        }
        let words = match attempt.authorization {
            Some(_) => answer.quote().await,
            None => None,
        };
        let refused = Refused::new(attempt.authorization.as_ref(), begun);
        let refused = refused.map(|refused| refused.with_words(words.as_deref()));
        match self
            .rechallenged(answer, call.repository, &mut attempt.scope, refused)
            .await
        {
            Ok(Renewed::With(header)) => {
                attempt.authorization = Some(header);
                Ok(Renewal::Again)
            }
            Ok(Renewed::Nothing) => Ok(Renewal::Stands),
            Ok(Renewed::MayPass(error)) => Ok(Renewal::MayPass(error)),
            Err(error) => self
                .leave_login_out(call, attempt, error)
                .await
                .map(|()| Renewal::Again),
        }
    }

    /// Returns another authorization after a 401, or after a 403 that states the missing scope.
    pub(super) async fn rechallenged(
        &self,
        answer: &Answer,
        repository: &str,
        scope: &mut Scope,
        refused: Option<Refused<'_>>,
    ) -> Result<Renewed> {
        let mut challenges = challenge::parse(answer.headers());
        let mut zone = answer.zone();
        if answer.status() == StatusCode::FORBIDDEN {
            let demanded = challenges.into_iter().find_map(|challenge| match challenge {
                Challenge::Bearer(bearer) => Some(bearer.scopes),
                Challenge::Basic => None,
            });
            if !demanded.is_some_and(|demanded| scope.widen(&demanded)) {
                return Ok(Renewed::Nothing);
            }
        } else {
            // The registry's earlier challenge still applies: a token may have expired, but a login does not expire.
            if challenges.is_empty() && self.auth.is_basic() && self.is_vague(answer) {
                return Ok(Renewed::MayPass(self.vague(repository).await));
            }
            if challenges.is_empty() && !self.auth.is_bearer() {
                // Some registries send their challenge only at their root.
                (challenges, zone) = match self.challenges_of_root().await {
                    Ok(found) => found,
                    Err(failure) if failure.class.is_final() => return Err(failure.error),
                    Err(failure) => return Ok(Renewed::MayPass(failure.error)),
                };
            }
            match (challenges.into_iter().next(), challenge::unsupported(answer.headers())) {
                (Some(challenge), _) => {
                    if let Challenge::Bearer(bearer) = &challenge {
                        scope.widen(&bearer.scopes);
                    }
                    self.auth.challenged(challenge, zone);
                }
                (None, _) if self.auth.is_bearer() => {}
                (None, Some(what)) => return Err(self.unsupported(&what, repository).await),
                (None, None) if self.is_vague(answer) => return Ok(Renewed::MayPass(self.vague(repository).await)),
                (None, None) => return Err(self.vague(repository).await),
            }
        }
        let fresh = self
            .authorize(&self.base(), Provenance::OWN, repository, scope, false, refused)
            .await?;
        Ok(fresh.map_or(Renewed::Nothing, Renewed::With))
    }

    /// Returns whether an answer is a 401 without a challenge from a host that answered properly before.
    /// Such an answer may be an outage.
    fn is_vague(&self, answer: &Answer) -> bool {
        answer.status() == StatusCode::UNAUTHORIZED
            && self.answered.load(Ordering::Relaxed)
            && challenge::parse(answer.headers()).is_empty()
            && challenge::unsupported(answer.headers()).is_none()
    }

    /// Returns the error for a challenge that no login can answer.
    async fn unsupported(&self, what: &str, repository: &str) -> Error {
        let found = self.context.credentials.lookup(&self.name, repository).await;
        let error = self.auth.unauthorized(what, &found).with_shared_cause();
        error.with_hint(
            "a login does not help: have the registry, or the proxy in front of it, offer Basic or a token server (Bearer) too",
        )
    }

    async fn vague(&self, repository: &str) -> Error {
        let found = self.context.credentials.lookup(&self.name, repository).await;
        let why = "wants credentials, but does not say in which form";
        let error = self.auth.unauthorized(why, &found).with_shared_cause();
        match found.credential {
            Credential::Anonymous => error,
            _ => error.with_hint(NO_CHALLENGE),
        }
    }

    /// Returns the challenges of the registry's root, and the zone of the server that sent them.
    async fn challenges_of_root(&self) -> Result<(Vec<Challenge>, Zone), Failure> {
        let answer = self.root().await?;
        let status = answer.status();
        if is_passing(status) {
            return Err(Failure::broken(answer.into_words().await));
        }
        let found = if answer.from_registry {
            challenge::parse(answer.headers())
        } else {
            Vec::new()
        };
        let zone = answer.zone();
        answer.finish().await;
        Ok((found, zone))
    }

    /// Requests the registry's root, once and without an authorization.
    pub(super) async fn root(&self) -> Result<Answer, Failure> {
        let mut url = self.base();
        url.set_path("/v2/");
        let headers = HeaderMap::new();
        let outgoing = Outgoing {
            method: &Method::GET,
            url,
            headers: &headers,
            authorization: None,
            body: None,
            trust: self.trust,
            stays: false,
            stores: None,
        };
        redirect::send(&self.context, outgoing).await
    }

    /// Adds a hint to a final answer that is a refusal.
    ///
    /// # Errors
    /// The error of a login that was refused earlier, if that explains the answer.
    pub(super) async fn add_refusal_hint(&self, answer: Answer, call: &Call<'_>, attempt: &Attempt) -> Result<Answer> {
        if !answer.from_registry || attempt.without_login.is_some() {
            return Ok(answer);
        }
        self.auth.add_refusal_hint(&self.context, call.repository, answer).await
    }
}
