//! Placeholder with the agreed signatures; the credentials room replaces it.

use std::fmt;

use crate::error::Result;

/// How credentials are found.
#[derive(Debug, Clone, Default)]
pub struct CredentialOptions {}

/// A text that appears in no message, log or `Debug` output.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What a registry is shown.
#[derive(Debug, Clone)]
pub enum Credential {
    /// Nothing.
    Anonymous,
    /// A name and a password.
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// An OAuth2 refresh token.
    IdentityToken(Secret),
    /// A bearer token for the registry itself.
    RegistryToken(Secret),
}

/// Finds credentials.
#[derive(Debug)]
pub struct Credentials {}

impl Credentials {
    /// Finds them as these options say.
    pub fn new(_options: CredentialOptions) -> Self {
        Self {}
    }

    /// The credential for a repository on a host, as both stand in references.
    pub async fn lookup(&self, _host: &str, _repository: &str) -> Result<Credential> {
        Ok(Credential::Anonymous)
    }
}
