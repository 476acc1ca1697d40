//! Bearer tokens: requests to the token server and its answers.
//! See the distribution token and OAuth2 specifications.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use tokio::time::Instant;

use super::answer::Answer;
use super::challenge::Bearer;
use super::context::{Context, Trust, same_origin};
use super::credentials::{Credential, Secret};
use super::failure::{Failure, OUT_OF_REACH_HINT};
use super::known_secrets;
use super::reach::{Reach, Zone};
use super::redact::{authority, shown};
use super::redirect::{self, Outgoing};
use super::retry::{Backoff, is_passing, retry_after};
use super::scope::Scope;
use crate::error::{Error, Kind, Result};
use crate::text::quote;

/// Name of this program for token servers (`client_id`).
const CLIENT_ID: &str = env!("CARGO_PKG_NAME");

/// Maximum number of bytes read of a token server's answer.
const MAX_ANSWER: u64 = 1 << 20;

/// Lifetime of a token in seconds if the server states none, a shorter one, or nonsense.
const SHORTEST_LIFE: u64 = 60;

/// Maximum lifetime of a token in seconds, whatever the server states.
const LONGEST_LIFE: u64 = 24 * 3600;

/// Hint for a server that does not answer like a token server.
const NO_TOKEN_SERVER: &str =
    "the address in the registry's challenge may not be a token server: ask the administrator of the registry";

/// An authorization that a registry refused.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refused<'a> {
    pub(super) header: &'a HeaderValue,
    /// Time at which the refused request was sent.
    pub(super) sent: Instant,
    /// The registry's message for the refusal.
    pub(super) words: Option<&'a str>,
}

impl<'a> Refused<'a> {
    /// Creates the value for a refused request; `None` if the request carried no authorization.
    pub(super) fn new(header: Option<&'a HeaderValue>, sent: Instant) -> Option<Self> {
        header.map(|header| Self {
            header,
            sent,
            words: None,
        })
    }

    /// Adds the registry's message.
    pub(super) fn with_words(self, words: Option<&'a str>) -> Self {
        Self { words, ..self }
    }
}

/// A token, ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct Token {
    /// Header value `Bearer …`, marked as sensitive.
    pub(super) header: HeaderValue,
    /// Time at which the token was received.
    since: Instant,
    expires: Instant,
    /// Lifetime stated by the token server, within [`SHORTEST_LIFE`] and [`LONGEST_LIFE`].
    life: Duration,
}

impl Token {
    /// Returns whether the token was received after the refused request was sent.
    /// An older token has most likely expired as well, even if it was issued for longer.
    pub(super) fn is_newer_than(&self, refused: Option<&Refused<'_>>) -> bool {
        refused.is_none_or(|refused| self.since > refused.sent && self.header != *refused.header)
    }

    /// Returns whether the token lives long enough for a request now.
    /// A long body needs much of the token's lifetime.
    pub(super) fn will_do(&self, long: bool) -> bool {
        let left = self.expires.saturating_duration_since(Instant::now());
        if long {
            left >= self.life / 2 && (left >= Duration::from_secs(60) || self.life <= Duration::from_secs(120))
        } else {
            left > self.life / 10
        }
    }
}

/// A request to a token server.
pub(super) struct Request<'a> {
    pub(super) context: &'a Context,
    /// The registry's own address.
    pub(super) registry: &'a Url,
    pub(super) bearer: &'a Bearer,
    /// Zone of the server that sent the challenge.
    pub(super) zone: Zone,
    pub(super) scope: &'a Scope,
    /// Trust in the registry's own address.
    pub(super) trust: Trust,
}

/// A token, and the refresh token that came with it, if any.
pub(super) type Granted = (Token, Option<Secret>);

impl Request<'_> {
    /// Requests a token for a credential.
    ///
    /// # Errors
    /// [`Kind::Unauthorized`] if the server refuses the credential; the message is the server's answer.
    pub(super) async fn fetch(&self, credential: &Credential, refresh: Option<&Secret>) -> Result<Granted> {
        let realm = self.realm()?;
        if let Some(secret) = refresh {
            // A refresh token from the server itself replaces the password; once it is no longer valid, the password is used
            // again.
            if let Ok(granted) = self.read(self.post(&realm, secret).await?).await {
                return Ok(granted);
            }
        }
        let answer = match credential {
            Credential::IdentityToken(secret) => {
                let answer = self.post(&realm, secret).await?;
                // Token servers without the OAuth2 form refuse it with different statuses.
                if matches!(answer.status().as_u16(), 400 | 401 | 404 | 405) {
                    answer.finish().await;
                    self.get(&realm, Some(("<token>", secret))).await?
                } else {
                    answer
                }
            }
            Credential::Basic { username, password } => self.get(&realm, Some((username.as_str(), password))).await?,
            Credential::Anonymous | Credential::RegistryToken(_) => self.get(&realm, None).await?,
        };
        self.read(answer).await
    }

    /// Returns the token server's address, if it may receive credentials.
    fn realm(&self) -> Result<Url> {
        let host = authority(self.registry);
        let refused = |why: String| {
            Error::new(
                Kind::Server,
                format!("`{host}` names a token server that is not to be trusted: {why}"),
            )
        };
        let stated = self.bearer.realm.trim();
        let has_scheme = stated
            .split_once("://")
            .is_some_and(|(scheme, _)| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        if !stated.starts_with('/') && !has_scheme {
            let what = format!(
                "`{host}` sends clients to `{}` for a token, which is no address",
                quote(&stated)
            );
            let hint = "have the address of the token server (`realm`) corrected in the configuration of the registry: it begins with \
                        https://";
            return Err(Error::new(Kind::Server, what).with_hint(hint).with_shared_cause());
        }
        let mut realm = self
            .registry
            .join(stated)
            .map_err(|e| refused("its address cannot be read".into()).with_source(e))?;
        let _ = realm.set_username("");
        let _ = realm.set_password(None);
        realm.set_fragment(None);
        match realm.scheme() {
            "https" => {}
            "http" if self.registry.scheme() == "http" => {}
            "http" => return Err(refused(format!("{} is not encrypted", shown(&realm)))),
            _ => return Err(refused(format!("{} is not http", shown(&realm)))),
        }
        if !self.trust(&realm).reach.allows_url(&realm) {
            let why = format!("{} is an address of this machine or of its local link", shown(&realm));
            return Err(refused(why).with_hint(OUT_OF_REACH_HINT));
        }
        Ok(realm)
    }

    /// Returns the trust in a token server.
    fn trust(&self, realm: &Url) -> Trust {
        if same_origin(realm, self.registry) {
            return self.trust;
        }
        let mut trust = Trust::stranger(self.zone);
        if self.context.options.any_token_server {
            trust.reach = Reach::Anywhere;
        }
        trust
    }

    async fn get(&self, realm: &Url, login: Option<(&str, &Secret)>) -> Result<Answer> {
        let mut url = realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &self.bearer.service {
                query.append_pair("service", service);
            }
            for scope in self.scope.iter() {
                query.append_pair("scope", scope);
            }
            if let Some((username, _)) = login.filter(|(username, _)| *username != "<token>") {
                query.append_pair("account", username);
            }
            query.append_pair("client_id", CLIENT_ID);
        }
        let authorization = match login {
            Some((username, password)) => Some(basic(username, password)?),
            None => None,
        };
        self.exchange(&Method::GET, &url, HeaderMap::new(), authorization.as_ref(), None)
            .await
    }

    async fn post(&self, realm: &Url, refresh: &Secret) -> Result<Answer> {
        // A form has the same encoding as a query, so a URL's query serializes it.
        let mut form = realm.clone();
        form.set_query(None);
        {
            let mut pairs = form.query_pairs_mut();
            pairs.append_pair("grant_type", "refresh_token");
            pairs.append_pair("refresh_token", refresh.expose());
            pairs.append_pair("client_id", CLIENT_ID);
            if let Some(service) = &self.bearer.service {
                pairs.append_pair("service", service);
            }
            pairs.append_pair("scope", &self.scope.iter().collect::<Vec<_>>().join(" "));
        }
        let body = Bytes::from(form.query().unwrap_or_default().to_owned());
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        self.exchange(&Method::POST, realm, headers, None, Some(body)).await
    }

    async fn exchange(
        &self,
        method: &Method,
        url: &Url,
        headers: HeaderMap,
        authorization: Option<&HeaderValue>,
        body: Option<Bytes>,
    ) -> Result<Answer> {
        let options = &self.context.options;
        let mut backoff = Backoff::new(options);
        let host = authority(url);
        let trust = self.trust(url);
        loop {
            let outgoing = Outgoing {
                method,
                url: url.clone(),
                headers: &headers,
                authorization,
                body: body.clone(),
                trust,
                stays: false,
                stores: None,
            };
            match redirect::send(self.context, outgoing).await {
                Ok(mut answer) if is_passing(answer.status()) => {
                    if let Some(error) = answer.long_pause().await {
                        return Err(error.context(self.action()));
                    }
                    let asked = retry_after(answer.headers(), SystemTime::now());
                    let status = answer.status();
                    if !backoff
                        .pause(options, asked, || {
                            format!("the token server `{host}` answered {status}")
                        })
                        .await
                    {
                        let error = answer.into_error(&self.action()).await;
                        let has_login = authorization.is_some() || body.is_some();
                        return Err(match error.kind() {
                            Kind::RateLimited if has_login => error.with_hint("wait and run again"),
                            _ => error,
                        });
                    }
                }
                Ok(answer) => return Ok(answer),
                Err(Failure { error, class, .. }) => {
                    let again = !class.is_final() && backoff.pause(options, None, || error.full()).await;
                    if !again {
                        return Err(error.context(self.action()));
                    }
                }
            }
        }
    }

    /// Returns the error for a refusal that a token server does not give. It is the same for all images of the registry, and says
    /// nothing about whether an image exists or may be pushed.
    async fn no_token_server(&self, mut answer: Answer) -> Error {
        let mut address = answer.url.clone();
        address.set_query(None);
        let mut error = answer.refusal().await;
        if !matches!(error.kind(), Kind::RateLimited) {
            error = error.with_kind(Kind::Server).with_hint(NO_TOKEN_SERVER);
        }
        error
            .context(format!("{} from {}", self.action(), shown(&address)))
            .with_shared_cause()
    }

    fn action(&self) -> String {
        format!("cannot get a token for `{}`", authority(self.registry))
    }

    async fn read(&self, answer: Answer) -> Result<Granted> {
        let host = authority(&answer.url);
        match answer.status() {
            StatusCode::OK | StatusCode::CREATED => {}
            // The caller, which looked up the credential, adds whose login was refused.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let words = answer.into_words().await;
                return Err(Error::new(Kind::Unauthorized, words));
            }
            status if status.is_client_error() => return Err(self.no_token_server(answer).await),
            _ => return Err(answer.into_error(&self.action()).await),
        }
        let wrong = |why: &str| {
            Error::new(Kind::Server, format!("{}: `{host}` {why}", self.action())).with_hint(NO_TOKEN_SERVER)
        };
        let bytes = answer.json(MAX_ANSWER).await.map_err(|failure| match failure {
            Some(failure) => failure.error.context(self.action()),
            None => wrong("sent an answer of more than 1 MiB"),
        })?;
        let json = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let wire: Wire = serde_json::from_slice(json).map_err(|_| wrong("sent an answer that is not a JSON object"))?;
        wire.into_token(Instant::now(), SystemTime::now())
            .ok_or_else(|| wrong("sent an answer without a token"))
    }
}

/// Returns `Authorization: Basic` for a name and a password.
pub(super) fn basic(username: &str, password: &Secret) -> Result<HeaderValue> {
    sensitive(format!(
        "Basic {}",
        STANDARD.encode(format!("{username}:{}", password.expose()))
    ))
}

/// Returns `Authorization: Bearer` for a token.
pub(super) fn bearer(token: &str) -> Result<HeaderValue> {
    sensitive(format!("Bearer {token}"))
}

fn sensitive(text: String) -> Result<HeaderValue> {
    known_secrets::remember(text.split_once(' ').map_or(text.as_str(), |(_, secret)| secret));
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| Error::new(Kind::Usage, "a credential has characters that no HTTP header can carry"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A token server's answer.
/// Some servers send numbers as strings, and every field may be absent or null.
#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    token: serde_json::Value,
    #[serde(default)]
    access_token: serde_json::Value,
    #[serde(default)]
    refresh_token: serde_json::Value,
    #[serde(default)]
    expires_in: serde_json::Value,
    #[serde(default)]
    issued_at: serde_json::Value,
}

impl Wire {
    fn into_token(self, now: Instant, clock: SystemTime) -> Option<Granted> {
        let text = |value: &serde_json::Value| {
            let text = value.as_str()?.trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        let token = text(&self.access_token).or_else(|| text(&self.token))?;
        let header = bearer(&token).ok()?;
        let stated = self
            .expires_in
            .as_f64()
            .or_else(|| self.expires_in.as_str()?.trim().parse().ok());
        // The cast saturates: negative numbers and NaN become 0.
        let stated = stated.map_or(0, |seconds| seconds as u64);
        let life = Duration::from_secs(stated.clamp(SHORTEST_LIFE, LONGEST_LIFE));
        // A token from the server's cache is already older. If the clocks disagree, the local clock counts.
        let issued = text(&self.issued_at).and_then(|text| humantime::parse_rfc3339_weak(&text).ok());
        let age = issued
            .and_then(|issued| clock.duration_since(issued).ok())
            .filter(|age| *age < life);
        let left = life - age.unwrap_or_default();
        Some((
            Token {
                header,
                since: now,
                expires: now + left,
                life,
            },
            text(&self.refresh_token).map(Secret::new),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(json: &str) -> Option<u64> {
        let now = Instant::now();
        let clock = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let (token, _) = serde_json::from_str::<Wire>(json).unwrap().into_token(now, clock)?;
        assert!(token.header.is_sensitive());
        Some((token.expires - now).as_secs())
    }

    #[test]
    fn answers_are_read_leniently() {
        for (json, expected) in [
            (r#"{"token":"t"}"#, Some(60)),
            (r#"{"access_token":"t","token":null,"expires_in":300}"#, Some(300)),
            (r#"{"token":"t","expires_in":"300"}"#, Some(300)),
            (r#"{"token":"t","expires_in":0}"#, Some(60)),
            (r#"{"token":"t","expires_in":-1}"#, Some(60)),
            (r#"{"token":"t","expires_in":1e9}"#, Some(24 * 3600)),
            (r#"{"token":"t","expires_in":"soon"}"#, Some(60)),
            (
                r#"{"token":"t","expires_in":300,"issued_at":"2001-09-09T01:45:40Z"}"#,
                Some(240),
            ),
            (
                r#"{"token":"t","expires_in":300,"issued_at":"2001-09-09T03:00:00Z"}"#,
                Some(300),
            ),
            (
                r#"{"token":"t","expires_in":300,"issued_at":"1999-09-09T03:00:00Z"}"#,
                Some(300),
            ),
            (r#"{"token":"t","expires_in":300,"issued_at":"yesterday"}"#, Some(300)),
            (r#"{"token":""}"#, None),
            (r#"{"token":7}"#, None),
            (r#"{"token":"t\r\n"}"#, Some(60)),
            (r#"{"token":"a\nb"}"#, None),
            (r#"{}"#, None),
        ] {
            assert_eq!(life(json), expected, "{json}");
        }
    }

    #[test]
    fn access_token_is_preferred() {
        let wire: Wire = serde_json::from_str(r#"{"token":"a","access_token":"b","refresh_token":"c"}"#).unwrap();
        let (token, refresh) = wire.into_token(Instant::now(), SystemTime::now()).unwrap();
        assert_eq!(token.header, "Bearer b");
        assert_eq!(refresh.unwrap().expose(), "c");
    }

    #[test]
    fn a_long_body_wants_much_of_a_tokens_life() {
        let token = |left: u64, life: u64| Token {
            header: HeaderValue::from_static("x"),
            since: Instant::now(),
            expires: Instant::now() + Duration::from_secs(left),
            life: Duration::from_secs(life),
        };
        assert!(token(299, 300).will_do(true));
        assert!(!token(100, 300).will_do(true));
        assert!(token(100, 300).will_do(false));
        assert!(!token(1, 300).will_do(false));
        assert!(token(59, 60).will_do(true));
    }
}
