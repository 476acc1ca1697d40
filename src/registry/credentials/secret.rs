//! What a registry is shown, kept out of sight everywhere else.

use std::fmt;

/// A password or token. It has no `Display` and no `Serialize`, and its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret as it is.
    pub fn new(secret: String) -> Self {
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
    /// Nothing is known: ask as nobody.
    Anonymous,
    /// A user name and a password, for Basic authentication or for a token server.
    Basic {
        /// The user name; not empty.
        username: String,
        /// The password; not empty.
        password: Secret,
    },
    /// A refresh token, to be exchanged at the token server (OAuth2).
    IdentityToken(Secret),
    /// A bearer token for the registry itself.
    RegistryToken(Secret),
}
