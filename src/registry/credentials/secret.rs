//! Passwords and tokens, which are shown to registries and nowhere else.

use std::fmt;

use crate::registry::known_secrets;

/// The user name that marks a password as an identity token (Docker's credential helper protocol).
const TOKEN_USER: &str = "<token>";

/// A password or token. It has no `Display` and no `Serialize`, and its `Debug` shows nothing of it, not even its length.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret as it is.
    pub fn new(secret: String) -> Self {
        known_secrets::remember(&secret);
        Self(secret)
    }

    /// The secret itself: for the one request that needs it, never for a message.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// How to identify at a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// No login is known: requests are anonymous.
    Anonymous,
    /// A user name and a password, for Basic authentication or for a token server.
    Basic {
        /// The user name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A refresh token, to be exchanged at the token server (OAuth2).
    IdentityToken(Secret),
    /// A bearer token for the registry itself.
    RegistryToken(Secret),
}

impl Credential {
    /// A pair as it is stored: the user name `<token>` says that the password is an identity token.
    pub(super) fn basic(username: String, password: Secret) -> Self {
        if username == TOKEN_USER {
            Self::IdentityToken(password)
        } else {
            Self::Basic { username, password }
        }
    }

    /// The same for a pair from a file or helper, where an empty half means that nothing is stored.
    pub(super) fn stored(username: &str, password: &str) -> Option<Self> {
        (!username.is_empty() && !password.is_empty())
            .then(|| Self::basic(username.to_owned(), Secret::new(password.to_owned())))
    }
}
