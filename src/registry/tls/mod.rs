//! TLS: which servers are trusted, and what this side shows of itself.
//!
//! Everything is put together here and handed to the HTTP client as a whole, so that a machine without any certificate
//! authority still reaches registries over http, and nothing is installed for the whole process.

mod certs_d;
mod client_auth;
mod pem;
mod verify;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;

use self::client_auth::ClientCertificates;
use self::verify::{AcceptAny, Verifier};
use crate::error::{Error, Kind, Result};

/// What a connection to a registry trusts and shows.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// Extra certificate authorities, or the certificates of registries themselves (PEM files).
    pub ca_files: Vec<PathBuf>,
    /// The certificate (PEM, with its chain) and key (PEM: PKCS#8, PKCS#1 or SEC1, without a password) that this side
    /// shows where a server asks for one. It takes the place of those in `certs_dirs`.
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
        env("HOME")
            .filter(|home| !home.is_empty())
            .map(|home| PathBuf::from(home).join(".config/containers/certs.d"))
            .into_iter()
            .chain(["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from))
            .collect()
    }
}

/// The client side of TLS for `HOST[:PORT]` as it stands in references.
///
/// Trusted are the system's certificate authorities (none is no error), those of the options, and those in the host's
/// `certs.d` folders. No application protocol is offered: the caller adds one if it needs one.
///
/// # Errors
/// A file that was named, or that stands in a `certs.d` folder, cannot be read, has no PEM, or holds something else than
/// its place says; a certificate stands without its key, or with another's.
pub fn client_config(options: &TlsOptions, host: &str) -> Result<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let local = certs_d::find(&options.certs_dirs, host)?;

    let verifier: Arc<dyn ServerCertVerifier> = if options.insecure {
        Arc::new(AcceptAny::new(&provider))
    } else {
        let files = options.ca_files.iter().chain(&local.authorities);
        Arc::new(server_verifier(files, !options.without_system_roots, &provider)?)
    };

    let mut pairs = Vec::new();
    match &options.client_certificate {
        Some(pair) => pairs.push(pair),
        None => pairs.extend(&local.pairs),
    }
    let certificates = pairs
        .into_iter()
        .map(|(certificate, key)| pem::certified_key(certificate, key, &provider))
        .collect::<Result<Vec<_>>>()?;

    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::new(Kind::Unsupported, "TLS cannot be set up").with_source(e))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    Ok(if certificates.is_empty() {
        builder.with_no_client_auth()
    } else {
        builder.with_client_cert_resolver(Arc::new(ClientCertificates::new(certificates)))
    })
}

fn server_verifier<'a>(
    files: impl Iterator<Item = &'a PathBuf>,
    system: bool,
    provider: &Arc<CryptoProvider>,
) -> Result<Verifier> {
    let mut roots = RootCertStore::empty();
    let mut trusted = Vec::new();
    if system {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!("certificate authorities of the system: {error}");
        }
        // One that cannot be used does not spoil the others: nobody named it for this run.
        roots.add_parsable_certificates(found.certs.iter().cloned());
        trusted.extend(found.certs);
    }
    for path in files {
        for certificate in pem::certificates(path)? {
            roots.add(certificate.clone()).map_err(|e| {
                Error::new(
                    Kind::Malformed,
                    format!("`{}` holds a certificate that cannot be used", path.display()),
                )
                .with_source(e)
            })?;
            trusted.push(certificate);
        }
    }
    let chains = if roots.is_empty() {
        None
    } else {
        let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
        Some(built.map_err(|e| Error::new(Kind::Unsupported, "TLS cannot be set up").with_source(e))?)
    };
    Ok(Verifier::new(chains, trusted, provider))
}
