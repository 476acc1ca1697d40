//! Credentials from the command line, the files of Docker and Podman, and credential helpers.
//!
//! The rules are those of the Docker and Podman documentation (`docker login`, containers-auth.json(5)). Secrets leave this
//! module only inside a [`Secret`]: errors name files, keys and programs, never their content.

mod file;
mod helper;
mod key;
mod lookup;
mod options;
mod secret;

pub use self::options::{CredentialFile, CredentialOptions, FileFormat, HostLogin, Login};
pub use self::secret::{Credential, Secret};
#[cfg(test)]
pub(crate) use lookup::Origin;
pub use lookup::{Credentials, Found};
