//! Logins of a host: which were accepted or refused in this run, and how messages describe them.
//! A message says whose login was rejected and where the login came from, or where the client looked for a login; it never
//! contains the password.

use std::fmt;
use std::sync::Arc;

use reqwest::header::HeaderValue;
use tokio::sync::OwnedMutexGuard;

use super::credentials::{Credential, Found};
use super::redact::printable;
use super::token;
use crate::error::{Error, Kind, Result};
use crate::lock::Mutex;

/// Maximum number of consecutive refusals of a login.
/// The login is then not sent to the host again in this run: a transfer of many images must not lock an account.
const MAX_REFUSALS: u32 = 3;

/// Maximum number of tracked logins of one host.
/// A credential file may have one login for each repository.
const MAX_LOGINS: usize = 256;

/// Accepted and refused logins of a host.
#[derive(Debug, Default)]
pub(super) struct Logins {
    tried: Mutex<Vec<Tried>>,
    /// Held during a request with a login that was never accepted.
    proving: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct Tried {
    /// Header of the login itself; equal for equal logins.
    header: HeaderValue,
    accepted: bool,
    /// Number of refusals since the login was last accepted.
    refusals: u32,
    /// Last refusal since the login was last accepted.
    refusal: Option<Error>,
}

impl Logins {
    /// Returns the last refusal of a login that must not be sent again.
    pub(super) fn given_up(&self, login: &HeaderValue) -> Option<Error> {
        let tried = self.tried.lock();
        let tried = tried.iter().find(|tried| tried.header == *login)?;
        (tried.refusals >= MAX_REFUSALS).then(|| tried.refusal.clone())?
    }

    /// Returns the last refusal of a login, unless the login was accepted since.
    pub(super) fn refusal(&self, login: &HeaderValue) -> Option<Error> {
        let tried = self.tried.lock();
        tried.iter().find(|tried| tried.header == *login)?.refusal.clone()
    }

    /// Waits until no other request sends a login that was never accepted.
    /// So only one login can be refused at a time.
    pub(super) async fn prove(&self, login: &HeaderValue) -> Option<OwnedMutexGuard<()>> {
        if self
            .tried
            .lock()
            .iter()
            .any(|tried| tried.accepted && tried.header == *login)
        {
            return None;
        }
        let alone = Arc::clone(&self.proving).lock_owned().await;
        self.note(login, |_| ());
        Some(alone)
    }

    /// Records that a login was accepted.
    pub(super) fn accepted(&self, login: &HeaderValue) {
        let mut all = self.tried.lock();
        if let Some(tried) = all.iter_mut().find(|tried| tried.header == *login) {
            (tried.accepted, tried.refusals, tried.refusal) = (true, 0, None);
        }
    }

    /// Records that a login was refused.
    pub(super) fn refused(&self, login: &HeaderValue, error: &Error) {
        self.note(login, |tried| {
            tried.refusals += 1;
            tried.refusal = Some(error.clone());
        });
    }

    fn note(&self, login: &HeaderValue, change: impl FnOnce(&mut Tried)) {
        let mut all = self.tried.lock();
        let known = all.iter().position(|tried| tried.header == *login);
        let at = known.unwrap_or_else(|| {
            if all.len() >= MAX_LOGINS {
                all.remove(0);
            }
            all.push(Tried {
                header: login.clone(),
                accepted: false,
                refusals: 0,
                refusal: None,
            });
            all.len() - 1
        });
        change(&mut all[at]);
    }
}

/// Returns the header of a login; `None` for anonymous.
///
/// # Errors
/// The login has characters that no HTTP header can carry.
pub(super) fn header(credential: &Credential) -> Result<Option<HeaderValue>> {
    Ok(match credential {
        Credential::Anonymous => None,
        Credential::Basic { username, password } => Some(token::basic(username, password)?),
        Credential::IdentityToken(secret) => Some(token::basic("<token>", secret)?),
        Credential::RegistryToken(secret) => Some(token::bearer(secret.expose())?),
    })
}

/// Returns the user name and the source of the login; `None` for anonymous.
pub(super) fn who(found: &Found) -> Option<String> {
    let name = match &found.credential {
        Credential::Anonymous => return None,
        Credential::Basic { username, .. } => format!("user `{}`", printable(username, 64).replace('`', "\\u{60}")),
        Credential::IdentityToken(_) => "the identity token".to_owned(),
        Credential::RegistryToken(_) => "the token".to_owned(),
    };
    let place = found.origin.as_ref().map_or("the options", |origin| &origin.place);
    Some(format!("{name} (login from {place})"))
}

/// Returns whether the login was given for this run, by a flag or an environment variable.
pub(super) fn is_given(found: &Found) -> bool {
    found.origin.as_ref().is_some_and(|origin| origin.given)
}

/// Returns whether a pull may continue without this login if it is refused.
pub(super) fn may_be_dropped(found: &Found) -> bool {
    found.credential != Credential::Anonymous && !is_given(found)
}

/// Returns the places searched without finding a login, after a `; `; empty if no place was searched.
fn places(found: &Found) -> String {
    let mut text = String::new();
    if !found.searched.is_empty() {
        text.push_str(&format!("; looked in {}", found.searched.join(", ")));
    }
    if !found.absent.is_empty() {
        text.push_str(&format!("; not found: {}", found.absent.join(", ")));
    }
    text
}

/// Returns the error for a host that requires a login when no login is stored.
pub(super) fn required(host: &str, found: &Found) -> Error {
    no_login(host, found, "requires a login")
}

/// Returns the error for a 401 to a request without a login.
/// Some registries answer 401 for missing repositories. `words` is the registry's answer.
pub(super) fn required_or_missing(host: &str, found: &Found, words: String) -> Error {
    let error = no_login(host, found, "requires a login for this, or does not have it");
    let hint = format!("check the name; {}", error.hint().unwrap_or_default());
    error.with_source(RequiredOrMissing(words)).with_hint(hint)
}

/// A registry's answer in words, if it leaves open whether the repository exists.
#[derive(Debug)]
struct RequiredOrMissing(String);

impl fmt::Display for RequiredOrMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RequiredOrMissing {}

/// Returns whether an error is one of [`required_or_missing`].
pub(crate) fn is_required_or_missing(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<RequiredOrMissing>())
}

fn no_login(host: &str, found: &Found, what: &str) -> Error {
    let log_in = format!("log in with `docker login {host}` or `podman login {host}`, or give `--username`");
    let error = match found.faults.first() {
        None => Error::new(
            Kind::Unauthorized,
            format!("`{host}` {what}, and no credentials were found"),
        )
        .with_hint(format!("{log_in}{}", places(found))),
        Some(fault) => Error::new(
            Kind::Unauthorized,
            format!("`{host}` {what}, and the stored login cannot be read: {}", fault.full()),
        )
        .with_hint(fault.hint().map_or(log_in, str::to_owned)),
    };
    error.with_shared_cause()
}

/// Returns the error for a login that a host refuses. `words` is the host's answer.
pub(super) fn rejected(host: &str, found: &Found, words: Option<String>) -> Error {
    let Some(who) = who(found) else {
        let error = required(host, found);
        return match words {
            Some(words) => error.with_source(words),
            None => error,
        };
    };
    let hint = match (is_given(found), &found.credential) {
        (true, _) => "check the user name and the password".to_owned(),
        (false, Credential::Basic { .. }) => {
            format!("log in again with `docker login {host}` or `podman login {host}`")
        }
        (false, _) => format!("it may have expired; log in again with `docker login {host}` or `podman login {host}`"),
    };
    let error = Error::new(Kind::Unauthorized, format!("`{host}` rejected {who}"))
        .with_shared_cause()
        .with_hint(hint);
    match words {
        Some(words) => error.with_source(words),
        None => error,
    }
}

/// Returns the hint for a 401 or 403 in answer to an accepted login, or for a 403 without a login.
pub(super) fn refusal_hint(host: &str, found: &Found, denied: bool) -> String {
    match (who(found), denied) {
        (Some(who), true) => format!("{who} lacks permission for this; use another account or ask for access"),
        (Some(who), false) => format!("check the name; {who} has no access to it, or it does not exist"),
        (None, _) => no_login(host, found, "").hint().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::credentials::{Origin, Secret};

    fn found(credential: Credential, given: bool) -> Found {
        Found {
            credential,
            origin: Some(Origin {
                place: "`--username`".to_owned(),
                given,
            }),
            faults: Vec::new(),
            notes: Vec::new(),
            searched: vec!["`a.json`".to_owned()],
            absent: vec!["`b.json`".to_owned()],
        }
    }

    fn user(name: &str) -> Credential {
        Credential::Basic {
            username: name.to_owned(),
            password: Secret::new("hunter2".to_owned()),
        }
    }

    #[test]
    fn a_user_name_cannot_steer_the_terminal_or_forge_a_message() {
        let who = who(&found(user("al\u{1b}[2Jice`\nerror: x"), true)).unwrap();
        assert_eq!(who, "user `al\\u{1b}[2Jice\\u{60} error: x` (login from `--username`)");
        let long = super::who(&found(user(&"x".repeat(5000)), true)).unwrap();
        assert!(long.len() < 128, "{long}");
    }

    #[test]
    fn a_login_that_is_refused_three_times_in_a_row_is_given_up() {
        let shown = |name: &str| header(&user(name)).unwrap().unwrap();
        let (logins, alice, bob) = (Logins::default(), shown("alice"), shown("bob"));
        let error = rejected("h.io", &found(user("alice"), false), None);
        for round in 0..2 {
            for _ in 0..2 {
                logins.refused(&alice, &error);
                logins.refused(&bob, &error);
                assert!(logins.given_up(&alice).is_none() && logins.refusal(&alice).is_some());
            }
            assert_eq!(logins.given_up(&bob).is_some(), round == 1);
            logins.accepted(&alice);
            assert!(logins.refusal(&alice).is_none());
        }
        for _ in 0..3 {
            logins.refused(&alice, &error);
        }
        assert_eq!(logins.given_up(&alice).unwrap().to_string(), error.to_string());
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_that_was_never_accepted_is_shown_once_at_a_time() {
        let (logins, alice) = (Logins::default(), header(&user("alice")).unwrap().unwrap());
        let first = logins.prove(&alice).await;
        assert!(first.is_some());
        let second = tokio::time::timeout(std::time::Duration::from_secs(1), logins.prove(&alice)).await;
        assert!(second.is_err(), "the second waits for the first");
        logins.accepted(&alice);
        assert!(logins.prove(&alice).await.is_none());
    }

    #[test]
    fn places_that_were_searched_are_named() {
        let nobody = found(Credential::Anonymous, false);
        let error = required("h.io", &nobody);
        assert_eq!(
            error.to_string(),
            "`h.io` requires a login, and no credentials were found"
        );
        assert!(
            error
                .hint()
                .unwrap()
                .ends_with("; looked in `a.json`; not found: `b.json`")
        );
        assert!(refusal_hint("h.io", &nobody, true).contains("looked in `a.json`"));
        let error = rejected("h.io", &found(user("alice"), true), Some("401 Unauthorized".to_owned()));
        assert_eq!(
            error.full(),
            "`h.io` rejected user `alice` (login from `--username`): 401 Unauthorized"
        );
        assert_eq!(
            error.shared_cause(),
            Some("`h.io` rejected user `alice` (login from `--username`)")
        );
    }
}
