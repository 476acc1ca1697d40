//! Certificate authorities of the system, or their replacements.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::pki_types::CertificateDer;

use super::pem;
use crate::error::{Error, Result};
use crate::files::Pipes;
use crate::text::quote;

/// Variables by which other programs get an authority.
/// They are not used here; a hint names those that are set.
const UNREAD: [&str; 3] = ["CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"];

/// Location of the system's certificate authorities.
/// They are read once, when a connection first needs them.
#[derive(Debug, Clone, Default)]
pub struct SystemAuthorities {
    /// Value of `SSL_CERT_FILE`.
    file: Option<PathBuf>,
    /// Folders in `SSL_CERT_DIR`.
    folders: Vec<PathBuf>,
    /// Variables of other programs that are set.
    unread: Vec<(&'static str, PathBuf)>,
    loaded: Arc<OnceLock<Loaded>>,
}

/// Authorities that were read, and errors of reading them.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    /// Errors of files and folders named by a variable.
    pub(super) faults: Vec<String>,
}

impl SystemAuthorities {
    /// Reads the location from the environment.
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` replace the system's own authorities, as in OpenSSL. An empty variable counts as
    /// not set.
    pub fn standard(env: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        Self {
            file: set("SSL_CERT_FILE").map(PathBuf::from),
            folders: set("SSL_CERT_DIR").map_or_else(Vec::new, |folders| {
                let folders = std::env::split_paths(&folders);
                folders.filter(|folder| !folder.as_os_str().is_empty()).collect()
            }),
            unread: UNREAD
                .into_iter()
                .filter_map(|name| Some((name, PathBuf::from(set(name)?))))
                .collect(),
            loaded: Arc::default(),
        }
    }

    /// Returns unused variables and errors for the hint about a server with an unknown authority.
    /// Each has a `; ` before it.
    pub(crate) fn unused(&self) -> String {
        let unread = self.unread.iter();
        let unread = unread.map(|(name, path)| format!("; `{name}` is not read: give `--ca-file {}`", quote(&path)));
        let faults = self.loaded().faults.iter().map(|fault| format!("; {fault}"));
        unread.chain(faults).collect()
    }

    pub(super) fn loaded(&self) -> &Loaded {
        self.loaded.get_or_init(|| {
            if self.file.is_none() && self.folders.is_empty() {
                return native();
            }
            let mut loaded = Loaded::default();
            let mut seen = HashSet::new();
            if let Some(file) = &self.file {
                loaded.add("SSL_CERT_FILE", pem::certificates(file, Pipes::Refused), &mut seen);
            }
            for folder in &self.folders {
                loaded.add("SSL_CERT_DIR", files(folder), &mut seen);
            }
            loaded
        })
    }
}

impl Loaded {
    fn add(
        &mut self,
        variable: &str,
        found: Result<Vec<CertificateDer<'static>>>,
        seen: &mut HashSet<CertificateDer<'static>>,
    ) {
        match found {
            Ok(certificates) => {
                let new = certificates.into_iter().filter(|one| seen.insert(one.clone()));
                self.certificates.extend(new);
            }
            Err(error) => self.faults.push(format!("`{variable}`: {}", error.full())),
        }
    }
}

/// Reads the certificates of all files of a folder.
/// Unreadable files and files without certificates add nothing: such folders also contain revocation lists, notes and
/// broken links.
fn files(folder: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let list = std::fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))?;
    let mut paths: Vec<PathBuf> = list.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.is_file());
    paths.sort();
    Ok(paths
        .iter()
        .filter_map(|path| pem::any_certificates(path).ok())
        .flatten()
        .collect())
}

fn native() -> Loaded {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!("certificate authorities of the system: {error}");
    }
    Loaded {
        certificates: found.certs,
        faults: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{TlsOptions, client_config};

    #[test]
    fn authorities_are_read_only_for_a_handshake() {
        let options = TlsOptions::default();
        client_config(&options, "h.io").unwrap();
        assert!(options.system.loaded.get().is_none());
    }
}
