//! Passwords and tokens, which are sent to registries and never shown.

use std::fmt;

use crate::registry::known_secrets;

/// User name that marks a password as an identity token (Docker's credential helper protocol).
const TOKEN_USER: &str = "<token>";

/// A password or token.
/// It has no `Display` and no `Serialize`; its `Debug` reveals nothing, not even its length.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret, and remembers it so that messages can hide it.
    pub fn new(secret: String) -> Self {
        known_secrets::remember(&secret);
        Self(secret)
    }

    /// Returns the secret itself: for the one request that needs it, never for a message.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// Identification at a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// No login is known: requests are anonymous.
    Anonymous,
    /// A user name and a password, for Basic authentication or for a token server.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: Secret,
    },
    /// A refresh token, which the token server exchanges for access tokens (OAuth2).
    IdentityToken(Secret),
    /// A bearer token for the registry itself.
    RegistryToken(Secret),
}

impl Credential {
    /// Creates a credential from a stored pair.
    /// The user name `<token>` marks the password as an identity token.
    pub(super) fn basic(username: String, password: Secret) -> Self {
        if username == TOKEN_USER {
            Self::IdentityToken(password)
        } else {
            Self::Basic { username, password }
        }
    }

    /// Creates a credential from a file's or helper's pair.
    /// `None` if either half is empty, since then nothing is stored.
    pub(super) fn stored(username: &str, password: &str) -> Option<Self> {
        (!username.is_empty() && !password.is_empty())
            .then(|| Self::basic(username.to_owned(), Secret::new(password.to_owned())))
    }
}
