//! Access rules: Basic, or Bearer with a token service (distribution documentation, "Token Authentication Specification" and
//! "OAuth2").

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::json;

use super::fault::Canned;

/// The access rules of a server.
#[derive(Debug, Clone, Default)]
pub enum Auth {
    /// Every client has full access.
    #[default]
    Open,
    /// Every request needs this user name and password.
    Basic { username: String, password: String },
    /// Every request needs a token of this service.
    Bearer(Arc<TokenService>),
}

/// A token service. Several servers may share a token service, and each serves it at `/token`.
#[derive(Debug)]
pub struct TokenService {
    /// Users and passwords that get every scope.
    pub users: Vec<(String, String)>,
    /// Identity tokens that get every scope through `POST`.
    pub identity_tokens: Vec<String>,
    /// Whether a client without credentials gets `pull`.
    pub anonymous_pull: bool,
    /// Repositories that anonymous clients cannot pull.
    pub private: Vec<String>,
    /// Lifetime of a token.
    pub lifetime: Duration,
    /// Maximum number of requests per token.
    pub uses: Option<u64>,
    /// Value of `expires_in`; `None` omits the field.
    pub told_lifetime: Option<serde_json::Value>,
    /// Value of `issued_at`; `None` omits the field.
    pub told_issued: Option<String>,
    /// Status that answers `POST` if the service supports only `GET` (real services use 404, 405, 401 or 400).
    pub post_refused: Option<u16>,
    /// Whether answers have `access_token`, but no `token`.
    pub access_token_only: bool,
    /// Whether the service reads only the first scope of a request.
    pub first_scope_only: bool,
    /// Whether the registry refuses every token that the service issues.
    pub useless: bool,
    /// Whether `/v2/` answers 200 without a token.
    pub open_ping: bool,
    /// URL of the service; `None` for `/token` of the server that asks for the token.
    pub realm: Option<String>,
    /// Templates of the `WWW-Authenticate` headers, with `{realm}`, `{service}` and `{scope}`.
    pub challenge: Vec<String>,
    /// Issued tokens.
    pub state: Tokens,
}

/// The tokens that a service has issued.
#[derive(Debug, Default)]
pub struct Tokens {
    issued: Mutex<HashMap<String, Issued>>,
    count: AtomicU64,
}

#[derive(Debug)]
struct Issued {
    scopes: Vec<(String, String)>,
    until: Instant,
    uses: Option<u64>,
}

impl Default for TokenService {
    fn default() -> Self {
        Self {
            users: Vec::new(),
            identity_tokens: Vec::new(),
            anonymous_pull: true,
            private: Vec::new(),
            lifetime: Duration::from_secs(300),
            uses: None,
            told_lifetime: Some(json!(300)),
            told_issued: None,
            post_refused: None,
            access_token_only: false,
            first_scope_only: false,
            useless: false,
            open_ping: false,
            realm: None,
            challenge: vec![r#"Bearer realm="{realm}",service="{service}",scope="{scope}""#.to_owned()],
            state: Tokens::default(),
        }
    }
}

impl Auth {
    pub fn basic(username: &str, password: &str) -> Self {
        Self::Basic {
            username: username.to_owned(),
            password: password.to_owned(),
        }
    }

    /// Returns rules that give tokens to this user only.
    pub fn bearer(username: &str, password: &str) -> Self {
        Self::Bearer(Arc::new(TokenService {
            users: vec![(username.to_owned(), password.to_owned())],
            anonymous_pull: false,
            ..TokenService::default()
        }))
    }

    /// Returns rules that give anonymous clients tokens to pull, as Docker Hub does.
    pub fn anonymous() -> Self {
        Self::Bearer(Arc::default())
    }
}

/// The scopes that a request needs.
#[derive(Debug, Clone, Default)]
pub struct Need {
    /// Pairs of repository and `pull` or `push`; none for `/v2/`.
    pub scopes: Vec<(String, &'static str)>,
}

impl Need {
    fn scope_text(&self) -> String {
        let mut merged: Vec<(String, Vec<&str>)> = Vec::new();
        for (repository, action) in &self.scopes {
            match merged.iter_mut().find(|(name, _)| name == repository) {
                Some((_, actions)) => actions.push(action),
                None => merged.push((repository.clone(), vec![action])),
            }
        }
        let texts: Vec<String> = merged
            .iter()
            .map(|(name, actions)| format!("repository:{name}:{}", actions.join(",")))
            .collect();
        texts.join(" ")
    }
}

fn basic_credentials(authorization: &str) -> Option<(String, String)> {
    let encoded = authorization.strip_prefix("Basic ")?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

impl Auth {
    /// Checks that a request has access, and returns the answer to send otherwise.
    pub fn check(&self, base: &str, need: &Need, authorization: Option<&str>) -> Result<(), Canned> {
        let unauthorized = || Canned::error(401, "UNAUTHORIZED", "authentication required");
        match self {
            Self::Open => Ok(()),
            Self::Basic { username, password } => {
                let given = authorization.and_then(basic_credentials);
                if given.is_some_and(|(u, p)| u == *username && p == *password) {
                    return Ok(());
                }
                Err(unauthorized().with_header("www-authenticate", r#"Basic realm="Registry Realm""#))
            }
            Self::Bearer(service) => {
                if need.scopes.is_empty() && service.open_ping {
                    return Ok(());
                }
                let token = authorization.and_then(|a| a.strip_prefix("Bearer "));
                let problem = match token.map(|token| service.accepts(token, need)) {
                    Some(Ok(())) => return Ok(()),
                    Some(Err(problem)) => format!(",error=\"{problem}\""),
                    None => String::new(),
                };
                let realm = service.realm.clone().unwrap_or_else(|| format!("{base}/token"));
                let mut canned = unauthorized();
                for template in &service.challenge {
                    let text = template
                        .replace("{realm}", &realm)
                        .replace("{service}", "double")
                        .replace("{scope}", &need.scope_text());
                    let text = if text.starts_with("Bearer") {
                        text + &problem
                    } else {
                        text
                    };
                    canned = canned.with_header("www-authenticate", &text);
                }
                Err(canned)
            }
        }
    }
}

impl TokenService {
    /// Returns the number of issued tokens.
    pub fn handed_out(&self) -> u64 {
        self.state.count.load(Ordering::SeqCst)
    }

    /// Revokes every token issued so far.
    pub fn revoke_all(&self) {
        self.state.issued.lock().unwrap().clear();
    }

    fn accepts(&self, token: &str, need: &Need) -> Result<(), &'static str> {
        let mut issued = self.state.issued.lock().unwrap();
        let Some(token) = issued.get_mut(token).filter(|_| !self.useless) else {
            return Err("invalid_token");
        };
        if Instant::now() >= token.until || token.uses == Some(0) {
            return Err("invalid_token");
        }
        let covered = |(name, action): &(String, &str)| token.scopes.iter().any(|(n, a)| n == name && a == action);
        if !need.scopes.iter().all(covered) {
            return Err("insufficient_scope");
        }
        if let Some(uses) = &mut token.uses {
            *uses -= 1;
        }
        Ok(())
    }

    /// Answers a request for a token. `fields` are the fields of the query or the form.
    pub fn answer(&self, post: bool, fields: &[(String, String)], authorization: Option<&str>) -> Canned {
        if let (true, Some(status)) = (post, self.post_refused) {
            return Canned::error(status, "UNSUPPORTED", "POST is not supported here");
        }
        let field = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let refused = || Canned::error(401, "UNAUTHORIZED", "incorrect username or password");
        let known = |user: &str, password: &str| self.users.iter().any(|(u, p)| u == user && p == password);
        let user = match (post, field("grant_type"), authorization) {
            (true, Some("refresh_token"), _) => {
                let given = field("refresh_token").unwrap_or_default();
                if !self.identity_tokens.iter().any(|t| t == given) {
                    return refused();
                }
                true
            }
            (true, Some("password"), _) => {
                if !known(
                    field("username").unwrap_or_default(),
                    field("password").unwrap_or_default(),
                ) {
                    return refused();
                }
                true
            }
            (true, _, _) => return Canned::error(400, "UNSUPPORTED", "unknown grant_type"),
            (false, _, Some(authorization)) => match basic_credentials(authorization) {
                Some((user, password)) if known(&user, &password) => true,
                _ => return refused(),
            },
            (false, _, None) => false,
        };
        let mut scopes = Vec::new();
        let asked = fields
            .iter()
            .filter(|(n, _)| n == "scope")
            .flat_map(|(_, v)| v.split(' '));
        for scope in asked.take(if self.first_scope_only { 1 } else { usize::MAX }) {
            let parts: Vec<&str> = scope.split(':').collect();
            let ["repository", name, actions] = parts[..] else {
                continue;
            };
            for action in actions.split(',') {
                let public = self.anonymous_pull && action == "pull" && !self.private.iter().any(|p| p == name);
                if user || public {
                    scopes.push((name.to_owned(), action.to_owned()));
                }
            }
        }
        self.hand_out(scopes)
    }

    fn hand_out(&self, scopes: Vec<(String, String)>) -> Canned {
        let number = self.state.count.fetch_add(1, Ordering::SeqCst) + 1;
        let token = format!("secret-token-{number}");
        let issued = Issued {
            scopes,
            until: Instant::now() + self.lifetime,
            uses: self.uses,
        };
        self.state.issued.lock().unwrap().insert(token.clone(), issued);
        let mut body = serde_json::Map::new();
        body.insert("access_token".to_owned(), json!(token));
        if !self.access_token_only {
            body.insert("token".to_owned(), json!(token));
        }
        if let Some(seconds) = &self.told_lifetime {
            body.insert("expires_in".to_owned(), seconds.clone());
        }
        if let Some(at) = &self.told_issued {
            body.insert("issued_at".to_owned(), json!(at));
        }
        Canned {
            status: 200,
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: serde_json::Value::Object(body).to_string().into_bytes(),
        }
    }
}
