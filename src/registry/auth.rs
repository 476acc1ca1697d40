//! Which `Authorization` a request to a registry carries: what the registry challenged for, one token per set of scopes,
//! and one request for each token however many wait for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderValue;
use tokio::time::Instant;

use super::challenge::{Bearer, Challenge};
use super::context::{Context, Trust};
use super::credentials::{Credential, Found, Secret};
use super::reach::Zone;
use super::scope::Scope;
use super::token::{self, Refused, Token};
use crate::error::{Error, Kind, Result};

/// Token slots kept; beyond it those that nobody uses are dropped.
const MAX_SLOTS: usize = 1024;

/// How long a refused password is not tried again: many images must not lock an account.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// The authorization of one host.
#[derive(Debug)]
pub(super) struct Authenticator {
    /// The host as in references, which credentials are kept under.
    host: String,
    /// What the registry wants to see, and the zone of the server that said so.
    challenge: Mutex<Option<(Challenge, Zone)>>,
    slots: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Slot>>>>,
}

#[derive(Debug, Default)]
struct Slot {
    token: Option<Token>,
    refresh: Option<Secret>,
    failed: Option<NoToken>,
}

/// Why there is no token, for those who wait for the same one.
#[derive(Debug)]
struct NoToken {
    at: Instant,
    kind: Kind,
    message: String,
    hint: Option<String>,
}

impl NoToken {
    fn of(error: &Error) -> Self {
        Self {
            at: Instant::now(),
            kind: error.kind(),
            message: error.full(),
            hint: error.hint().map(str::to_owned),
        }
    }

    fn error(&self) -> Error {
        let error = Error::new(self.kind, &self.message);
        match &self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }

    /// Whether it is an answer to a request that began then: a token server that failed while somebody waited in line is
    /// not asked again for each of those in the line.
    fn holds_for(&self, begun: Instant) -> bool {
        self.at >= begun || (self.kind == Kind::Unauthorized && self.at.elapsed() < REFUSED_FOR)
    }
}

/// What a request needs an authorization for.
pub(super) struct Need<'a> {
    pub(super) context: &'a Context,
    /// The registry's own address.
    pub(super) registry: &'a Url,
    pub(super) repository: &'a str,
    pub(super) scope: &'a Scope,
    /// The request has a body that may take long.
    pub(super) long: bool,
    /// An authorization that was just refused: whatever is sent next must be another one.
    pub(super) refused: Option<Refused<'a>>,
    /// What the registry's own address is.
    pub(super) trust: Trust,
}

impl Need<'_> {
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
        }
    }

    /// Remembers what the registry wants to see.
    pub(super) fn challenged(&self, challenge: Challenge, zone: Zone) {
        *self.challenge.lock().unwrap_or_else(PoisonError::into_inner) = Some((challenge, zone));
    }

    /// The header for a request; `None` as long as the registry has not challenged.
    ///
    /// # Errors
    /// [`Kind::Unauthorized`] where there is nothing to answer the challenge with, or what there is was refused.
    pub(super) async fn authorization(&self, need: &Need<'_>) -> Result<Option<HeaderValue>> {
        let challenge = self.challenge.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match challenge {
            None => Ok(None),
            Some((Challenge::Basic, _)) => self.basic(need).await.map(Some),
            Some((Challenge::Bearer(bearer), zone)) => self.bearer(need, &bearer, zone).await.map(Some),
        }
    }

    /// What there is to identify with. A pull that may go on without a login does so where a place cannot be searched.
    async fn credential(&self, need: &Need<'_>) -> Result<Found> {
        let mut found = need.context.credentials.lookup(&self.host, need.repository).await;
        for note in &found.notes {
            need.context.warn_once(note.clone());
        }
        if !need.context.options.login_is_optional || need.scope.writes() {
            return match found.faults.is_empty() {
                true => Ok(found),
                false => Err(found.faults.swap_remove(0)),
            };
        }
        for fault in &found.faults {
            need.context.warn_once(format!("{}; going on without it", fault.full()));
        }
        Ok(found)
    }

    async fn basic(&self, need: &Need<'_>) -> Result<HeaderValue> {
        let credential = self.credential(need).await?.credential;
        let header = match credential {
            Credential::Basic { username, password } => token::basic(&username, &password)?,
            Credential::RegistryToken(secret) => token::bearer(secret.expose())?,
            Credential::Anonymous => return Err(self.unauthorized("wants a name and a password, and none are stored")),
            Credential::IdentityToken(_) => {
                return Err(self.unauthorized("wants a name and a password, and what is stored is an identity token"));
            }
        };
        if need.refuses(&header) {
            return Err(self.unauthorized("refuses the name and password that are stored"));
        }
        Ok(header)
    }

    async fn bearer(&self, need: &Need<'_>, bearer: &Bearer, zone: Zone) -> Result<HeaderValue> {
        if let Some(header) = self.wider(need) {
            return Ok(header);
        }
        let slot = self.slot(need.scope.key());
        let begun = Instant::now();
        // Whoever comes second waits here, and finds the token of the first, or what became of asking for it.
        let mut slot = slot.lock().await;
        if let Some(token) = &slot.token
            && token.will_do(need.long)
            && token.is_newer_than(need.refused.as_ref())
        {
            return Ok(token.header.clone());
        }
        if let Some(no_token) = slot.failed.as_ref().filter(|no_token| no_token.holds_for(begun)) {
            return Err(no_token.error());
        }
        let credential = self.credential(need).await?.credential;
        if let Credential::RegistryToken(secret) = &credential {
            let header = token::bearer(secret.expose())?;
            if need.refuses(&header) {
                return Err(self.unauthorized("refuses the token that is stored"));
            }
            return Ok(header);
        }
        let request = token::Request {
            context: need.context,
            registry: need.registry,
            bearer,
            zone,
            scope: need.scope,
            trust: need.trust,
        };
        match request.fetch(&credential, slot.refresh.as_ref()).await {
            Ok((token, refresh)) => {
                let header = token.header.clone();
                slot.token = Some(token);
                slot.failed = None;
                // Without credentials a refresh token would only be another name for nobody.
                if refresh.is_some() && !matches!(credential, Credential::Anonymous) {
                    slot.refresh = refresh;
                }
                Ok(header)
            }
            Err(error) => {
                slot.failed = Some(NoToken::of(&error));
                Err(error)
            }
        }
    }

    /// A token for more than is needed: one that may push to a repository may pull from it.
    fn wider(&self, need: &Need<'_>) -> Option<HeaderValue> {
        let wider = Scope::push(need.repository).key();
        if need.scope.key() != Scope::pull(need.repository).key() {
            return None;
        }
        let slot = {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.get(&wider)?)
        };
        let slot = slot.try_lock().ok()?;
        let token = slot.token.as_ref()?;
        (token.will_do(need.long) && token.is_newer_than(need.refused.as_ref())).then(|| token.header.clone())
    }

    fn slot(&self, key: String) -> Arc<tokio::sync::Mutex<Slot>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MAX_SLOTS {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry(key).or_default())
    }

    /// The error for a challenge that cannot be answered.
    pub(super) fn unauthorized(&self, why: &str) -> Error {
        Error::new(Kind::Unauthorized, format!("`{}` {why}", self.host)).with_hint(format!(
            "log in to `{}` (`docker login`, `podman login`), or give a name and a password",
            self.host
        ))
    }
}
