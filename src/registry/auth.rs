//! Choice of each request's `Authorization` header, according to the registry's challenge.
//! There is one token per set of scopes, and one token request at a time for each set, however many requests wait for the
//! token.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::{StatusCode, Url};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::answer::Answer;
use super::attempt::WithoutLogin;
use super::challenge::{Bearer, Challenge};
use super::context::{Context, Trust};
use super::credentials::{Credential, Found, Secret};
use super::login::{self, Logins};
use super::reach::Zone;
use super::scope::Scope;
use super::token::{self, Refused, Token};
use crate::error::{Error, Kind, Result};
use crate::lock::Mutex;

/// Maximum number of token slots; beyond it, slots without a user are dropped.
const MAX_SLOTS: usize = 1024;

/// Time for which a refused password is not tried again.
/// A transfer of many images must not lock the account.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// Maximum number of repositories that are requested without a login if the host refuses all of them.
/// Applies to a host that wants a login with every request.
const MAX_WITHOUT_LOGIN: usize = 3;

/// Authorization state of one host.
#[derive(Debug)]
pub(super) struct Authenticator {
    /// Host as in references; credentials are stored under this name.
    host: String,
    /// The registry's challenge, and the zone of the server that sent it.
    challenge: Mutex<Option<(Challenge, Zone)>>,
    slots: Mutex<HashMap<String, Arc<tokio::sync::Mutex<TokenSlot>>>>,
    logins: Logins,
    /// Repositories that the host refused without a login, at most [`MAX_WITHOUT_LOGIN`]; `None` once it has served a request
    /// without a login, and so has public repositories.
    refused_without_login: Mutex<Option<Vec<String>>>,
}

#[derive(Debug, Default)]
struct TokenSlot {
    /// Last token received.
    token: Option<Token>,
    /// Refresh token from the token server.
    refresh: Option<Secret>,
    /// Last failure to get a token.
    failed: Option<NoToken>,
    /// Why the login is not used: it was refused, and the token server issued a token without a login.
    without_login: Option<Error>,
}

/// Why no token is available, for all requests that wait for the same token.
#[derive(Debug)]
struct NoToken {
    at: Instant,
    error: Error,
}

impl NoToken {
    /// Returns whether the failure also answers a request that began at `begun`.
    /// After a failure of the token server, requests that were already waiting do not each ask the server again.
    fn holds_for(&self, begun: Instant) -> bool {
        self.at >= begun || (self.error.kind() == Kind::Unauthorized && self.at.elapsed() < REFUSED_FOR)
    }
}

/// Requirements of a request for its authorization.
pub(super) struct Need<'a> {
    pub(super) context: &'a Context,
    /// The registry's own address.
    pub(super) registry: &'a Url,
    pub(super) repository: &'a str,
    pub(super) scope: &'a Scope,
    /// Whether the request has a body that may take long.
    pub(super) long: bool,
    /// Authorization that was just refused; the next request must use another.
    pub(super) refused: Option<Refused<'a>>,
    /// Trust in the registry's own address.
    pub(super) trust: Trust,
}

impl Need<'_> {
    /// Returns whether the request may be sent without the stored login.
    fn login_is_optional(&self) -> bool {
        self.context.options.login_is_optional && !self.scope.writes()
    }

    /// Returns the registry's message for the refusal of the last authorization.
    fn words(&self) -> Option<String> {
        self.refused?.words.map(str::to_owned)
    }

    fn refuses(&self, header: &HeaderValue) -> bool {
        self.refused.is_some_and(|refused| refused.header == header)
    }
}

impl Authenticator {
    pub(super) fn new(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            challenge: Mutex::new(None),
            slots: Mutex::new(HashMap::new()),
            logins: Logins::default(),
            refused_without_login: Mutex::new(Some(Vec::new())),
        }
    }

    /// Stores the registry's challenge.
    pub(super) fn challenged(&self, challenge: Challenge, zone: Zone) {
        *self.challenge.lock() = Some((challenge, zone));
    }

    /// Returns whether the registry has sent a challenge.
    pub(super) fn is_challenged(&self) -> bool {
        self.challenge.lock().is_some()
    }

    /// Returns whether the registry wants a token.
    pub(super) fn is_bearer(&self) -> bool {
        matches!(*self.challenge.lock(), Some((Challenge::Bearer(_), _)))
    }

    /// Returns whether the registry wants a login with every request.
    pub(super) fn is_basic(&self) -> bool {
        matches!(*self.challenge.lock(), Some((Challenge::Basic, _)))
    }

    /// Returns the header for a request; `None` until the registry has sent a challenge.
    ///
    /// # Errors
    /// [`Kind::Unauthorized`] if no credential fits the challenge, or the credential was refused.
    pub(super) async fn authorization(&self, need: &Need<'_>) -> Result<Option<HeaderValue>> {
        let challenge = self.challenge.lock().clone();
        match challenge {
            None => Ok(None),
            Some((Challenge::Basic, _)) => self.basic(need).await.map(Some),
            Some((Challenge::Bearer(bearer), zone)) => self.bearer(need, &bearer, zone).await.map(Some),
        }
    }

    /// Looks up the credential.
    /// A pull that may continue without a login ignores unreadable credential sources.
    async fn credential(&self, need: &Need<'_>) -> Result<Found> {
        let mut found = need.context.credentials.lookup(&self.host, need.repository).await;
        for note in &found.notes {
            need.context.warn_once(note.clone());
        }
        if !need.login_is_optional() {
            return match found.faults.is_empty() {
                true => Ok(found),
                // One kind, and so one exit code, however the login of this machine is broken.
                false => Err(found
                    .faults
                    .swap_remove(0)
                    .with_kind(Kind::Unauthorized)
                    .with_shared_cause()),
            };
        }
        for fault in &found.faults {
            need.context.warn_once(format!("{}; going on without it", fault.full()));
        }
        Ok(found)
    }

    async fn basic(&self, need: &Need<'_>) -> Result<HeaderValue> {
        let found = self.credential(need).await?;
        let header = match &found.credential {
            Credential::Anonymous => return Err(login::required(&self.host, &found)),
            Credential::IdentityToken(_) => {
                let why = "requires a user name and a password, and the stored credential is an identity token";
                return Err(self.unauthorized(why, &found));
            }
            credential => login::header(credential)?,
        };
        let header = header.ok_or_else(|| login::required(&self.host, &found))?;
        match self.logins.given_up(&header) {
            Some(error) => Err(error),
            None if need.refuses(&header) => Err(self.rejected(&found, &header, need.words())),
            None => Ok(header),
        }
    }

    async fn bearer(&self, need: &Need<'_>, bearer: &Bearer, zone: Zone) -> Result<HeaderValue> {
        // Reusing a token with wider permissions saves a request to the token server.
        if let Some(header) = self.wider(need) {
            return Ok(header);
        }
        let slot = self.slot(need.scope.key());
        let begun = Instant::now();
        // A second task waits here, and finds the token of the first task or its error.
        let mut slot = slot.lock().await;
        if let Some(token) = &slot.token
            && token.will_do(need.long)
            && token.is_newer_than(need.refused.as_ref())
        {
            return Ok(token.header.clone());
        }
        if let Some(no_token) = slot.failed.as_ref().filter(|no_token| no_token.holds_for(begun)) {
            return Err(no_token.error.clone());
        }
        let found = self.credential(need).await?;
        let login = login::header(&found.credential)?;
        if let (Credential::RegistryToken(_), Some(header)) = (&found.credential, &login)
            && slot.without_login.is_none()
        {
            if !need.refuses(header) && self.logins.given_up(header).is_none() {
                return Ok(header.clone());
            }
            slot.without_login = Some(self.rejected(&found, header, need.words()));
        }
        let request = token::Request {
            context: need.context,
            registry: need.registry,
            bearer,
            zone,
            scope: need.scope,
            trust: need.trust,
        };
        match self.token(need, &request, &found, login.as_ref(), &mut slot).await {
            Ok((token, refresh)) => {
                let header = token.header.clone();
                slot.token = Some(token);
                slot.failed = None;
                // Without credentials, a refresh token would be anonymous as well.
                if refresh.is_some() && login.is_some() && slot.without_login.is_none() {
                    slot.refresh = refresh;
                }
                Ok(header)
            }
            Err(error) => {
                slot.failed = Some(NoToken {
                    at: Instant::now(),
                    error: error.clone(),
                });
                Err(error)
            }
        }
    }

    /// Requests a token with the login, and without the login if the pull may continue without.
    async fn token(
        &self,
        need: &Need<'_>,
        request: &token::Request<'_>,
        found: &Found,
        login: Option<&HeaderValue>,
        slot: &mut TokenSlot,
    ) -> Result<token::Granted> {
        let Some(login) = login else {
            let granted = request.fetch(&Credential::Anonymous, None).await;
            return granted.map_err(|error| match error.kind() {
                Kind::Unauthorized => login::rejected(&self.host, found, Some(error.full())),
                _ => error,
            });
        };
        let refused = match &slot.without_login {
            Some(error) => error.clone(),
            None => {
                // One attempt at a time until a login was accepted: several wrong attempts at once could lock the account.
                let _alone = self.logins.prove(login).await;
                match self.logins.given_up(login) {
                    Some(error) => error,
                    None => match request.fetch(&found.credential, slot.refresh.as_ref()).await {
                        Ok(granted) => {
                            self.logins.accepted(login);
                            return Ok(granted);
                        }
                        Err(error) if error.kind() == Kind::Unauthorized => {
                            self.rejected(found, login, Some(error.full()))
                        }
                        Err(error) => return Err(error),
                    },
                }
            }
        };
        if !need.login_is_optional() || !login::may_be_dropped(found) {
            return Err(refused);
        }
        match request.fetch(&Credential::Anonymous, None).await {
            Ok(granted) => {
                self.warn_without_login(need.context, &refused);
                slot.without_login = Some(refused);
                Ok(granted)
            }
            Err(error) if error.kind() == Kind::Unauthorized => Err(refused),
            Err(error) => Err(error),
        }
    }

    /// Records that a login was refused, and returns the error.
    fn rejected(&self, found: &Found, login: &HeaderValue, words: Option<String>) -> Error {
        let error = login::rejected(&self.host, found, words);
        self.logins.refused(login, &error);
        error
    }

    /// Waits until no other request tries the same login, unless the login was accepted before.
    /// Applies only to a login that is sent as it is (Basic).
    ///
    /// # Errors
    /// The login was refused too often in the meantime.
    pub(super) async fn prove(&self, authorization: Option<&HeaderValue>) -> Result<Option<OwnedMutexGuard<()>>> {
        let Some(header) = authorization.filter(|_| self.is_basic()) else {
            return Ok(None);
        };
        let alone = self.logins.prove(header).await;
        match self.logins.given_up(header) {
            Some(error) => Err(error),
            None => Ok(alone),
        }
    }

    /// Records that a request was authorized.
    pub(super) fn served(
        &self,
        context: &Context,
        authorization: Option<&HeaderValue>,
        without_login: Option<&WithoutLogin>,
    ) {
        match authorization {
            Some(header) => self.logins.accepted(header),
            None => *self.refused_without_login.lock() = None,
        }
        if let Some(WithoutLogin { error, stored: true }) = without_login {
            self.warn_without_login(context, error);
        }
    }

    /// Records the refusal of a request that was sent without a login for lack of a valid one.
    pub(super) fn refused_without_login(&self, repository: &str) {
        let mut refused = self.refused_without_login.lock();
        if let Some(refused) = refused.as_mut()
            && refused.len() < MAX_WITHOUT_LOGIN
            && !refused.iter().any(|known| known == repository)
        {
            refused.push(repository.to_owned());
        }
    }

    /// Allows a request without the login that failed with `error`.
    /// The request must only read; the registry must want a login with every request (and so may have asked because of
    /// another repository); and the login must not have been given for this run.
    ///
    /// # Errors
    /// `error`, if a condition is not met.
    pub(super) async fn without_login(
        &self,
        context: &Context,
        repository: &str,
        scope: &Scope,
        error: Error,
    ) -> Result<WithoutLogin> {
        let refused = self.refused_without_login.lock().as_ref().map_or(0, Vec::len);
        let hopeless = refused >= MAX_WITHOUT_LOGIN;
        let optional = context.options.login_is_optional && !scope.writes();
        if error.kind() != Kind::Unauthorized || !optional || !self.is_basic() || hopeless {
            return Err(error);
        }
        let found = context.credentials.lookup(&self.host, repository).await;
        match login::is_given(&found) {
            true => Err(error),
            false => Ok(WithoutLogin {
                error,
                stored: found.credential != Credential::Anonymous,
            }),
        }
    }

    /// Returns whether an authorization is a stored login itself, not a token obtained with a login.
    pub(super) async fn is_login(&self, context: &Context, repository: &str, header: Option<&HeaderValue>) -> bool {
        let Some(header) = header else { return false };
        let found = context.credentials.lookup(&self.host, repository).await;
        login::header(&found.credential).is_ok_and(|login| login.as_ref() == Some(header))
    }

    /// Adds a hint to a final answer that is a refusal.
    ///
    /// # Errors
    /// The error of a login that was refused earlier, if that explains the answer.
    pub(super) async fn add_refusal_hint(&self, context: &Context, repository: &str, answer: Answer) -> Result<Answer> {
        let denied = match answer.status() {
            StatusCode::UNAUTHORIZED => false,
            StatusCode::FORBIDDEN => true,
            _ => return Ok(answer),
        };
        if !self.is_challenged() {
            return Ok(answer);
        }
        let found = context.credentials.lookup(&self.host, repository).await;
        let refusal = login::header(&found.credential)?.and_then(|header| self.logins.refusal(&header));
        match refusal {
            Some(refusal) if !denied => Err(refusal),
            None if !denied && found.credential == Credential::Anonymous => Err(login::required_or_missing(
                &self.host,
                &found,
                answer.into_words().await,
            )),
            _ => Ok(answer.with_hint(login::refusal_hint(&self.host, &found, denied))),
        }
    }

    fn warn_without_login(&self, context: &Context, refused: &Error) {
        let cause = refused.shared_cause().map_or_else(|| refused.full(), str::to_owned);
        context.warn_once(format!("{cause}; pulling without a login"));
    }

    /// Returns a token with more permissions than needed.
    /// A token for pushing to a repository also allows pulling.
    fn wider(&self, need: &Need<'_>) -> Option<HeaderValue> {
        let wider = Scope::push(need.repository).key();
        if need.scope.key() != Scope::pull(need.repository).key() {
            return None;
        }
        let slot = {
            let slots = self.slots.lock();
            Arc::clone(slots.get(&wider)?)
        };
        let slot = slot.try_lock().ok()?;
        let token = slot.token.as_ref()?;
        (token.will_do(need.long) && token.is_newer_than(need.refused.as_ref())).then(|| token.header.clone())
    }

    fn slot(&self, key: String) -> Arc<tokio::sync::Mutex<TokenSlot>> {
        let mut slots = self.slots.lock();
        if slots.len() >= MAX_SLOTS {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry(key).or_default())
    }

    /// Returns the error for a challenge that cannot be answered, with the login that the run has.
    pub(super) fn unauthorized(&self, why: &str, found: &Found) -> Error {
        let host = &self.host;
        let login = login::who(found).map_or_else(String::new, |who| format!("; the login of this run: {who}"));
        Error::new(Kind::Unauthorized, format!("`{host}` {why}{login}")).with_hint(format!(
            "log in to `{host}` (`docker login`, `podman login`), or give a name and a password"
        ))
    }
}
