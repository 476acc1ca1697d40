//! Placeholder with the agreed signatures; the TLS room replaces it.

use std::sync::Arc;

use crate::error::{Error, Kind, Result};

/// Which certificates are trusted and shown.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {}

/// The TLS configuration for one host.
pub fn client_config(_options: &TlsOptions, _host: &str) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::new(Kind::Usage, "no TLS version is left").with_source(e))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
