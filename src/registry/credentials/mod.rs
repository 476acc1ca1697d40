//! Credentials: from the command line, from the files of Docker and Podman, and from credential helpers.
//!
//! The rules are those of the Docker and Podman documentation (`docker login`, containers-auth.json(5)). Nothing that is
//! secret leaves this module but inside a [`Secret`]: errors name files, keys and programs, never what they hold.

mod file;
mod helper;
mod key;
mod options;
mod secret;

use tokio::sync::OnceCell;

use self::file::{AuthFile, Source};
use self::helper::Helpers;
pub use self::options::{CredentialFile, CredentialOptions, FileFormat, Login};
pub use self::secret::{Credential, Secret};
use crate::error::Result;

/// Finds the credential for a repository.
///
/// Each file is read once, and each credential helper is asked once per server, whatever it answers: a helper that hangs
/// costs its timeout once and not once per image.
#[derive(Debug)]
pub struct Credentials {
    login: Option<Login>,
    files: Vec<(CredentialFile, OnceCell<AuthFile>)>,
    helpers: Helpers,
}

impl Credentials {
    /// Nothing is read before the first [`lookup`](Self::lookup).
    pub fn new(options: CredentialOptions) -> Self {
        Self {
            login: options.login,
            files: options.files.into_iter().map(|file| (file, OnceCell::new())).collect(),
            helpers: Helpers::new(options.helper_directories, options.helper_timeout),
        }
    }

    /// The credential for this repository; `host` is `HOST[:PORT]` as it stands in references, and the three names of
    /// Docker Hub are one.
    ///
    /// The login of the options comes first, then the files in their order. Within a file the order is: an entry for the
    /// repository or the longest part of its path, the host's own helper (`credHelpers`), an entry for the host, and the
    /// general helper (`credsStore`) if the host has none of its own. The first that has something wins; an entry
    /// without content, and a helper that knows nothing, count as nothing.
    ///
    /// # Errors
    /// A file that somebody named is missing; a file cannot be read or is broken; an entry that would apply is broken; a
    /// helper that would apply is missing, fails, takes too long or answers nonsense. The search does not go on then: to
    /// be silently somebody else, or nobody, is worse than to stop.
    pub async fn lookup(&self, host: &str, repository: &str) -> Result<Credential> {
        let host = key::canonical(host);
        if let Some(login) = &self.login
            && login.host.as_deref().is_none_or(|only| key::canonical(only) == host)
        {
            return Ok(Credential::basic(login.username.clone(), login.password.clone()));
        }
        for (place, cell) in &self.files {
            let file = cell.get_or_try_init(|| async { AuthFile::read(place) }).await?;
            for source in file.sources(&host, repository) {
                let found = match source {
                    Source::Entry { key, entry } => entry.credential(&place.path, key)?,
                    Source::Helper { name, server, field } => {
                        self.helpers.ask(name, &server, &place.path, field).await?
                    }
                };
                if let Some(credential) = found {
                    return Ok(credential);
                }
            }
        }
        Ok(Credential::Anonymous)
    }
}
