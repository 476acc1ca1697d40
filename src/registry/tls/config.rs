//! TLS settings, and the client configuration made from them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;

use super::certs_d;
use super::client_auth::ClientCertificates;
use super::pem;
use super::system::SystemAuthorities;
use super::verify::{AcceptAny, Trusted, Verifier};
use crate::error::{Error, Kind, Result};
use crate::files::Pipes;
use crate::text::quote;

/// Trusted authorities of a connection, and its client certificate.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// Additional certificate authorities, or the certificates of registries themselves.
    pub authorities: Vec<Authorities>,
    /// Certificate for servers that ask for one. Takes precedence over the certificates in `certs_dirs`.
    pub client_certificate: Option<ClientCertificate>,
    /// Folders with one folder of certificates per `HOST[:PORT]`, such as `/etc/docker/certs.d`.
    pub certs_dirs: Vec<PathBuf>,
    /// Certificate authorities of the system.
    pub system: SystemAuthorities,
    /// Accept any certificate.
    pub insecure: bool,
    /// Ignore the certificate authorities of the system.
    pub without_system_roots: bool,
}

/// Trusted certificates of one file.
#[derive(Debug, Clone)]
pub struct Authorities(Vec<CertificateDer<'static>>);

impl Authorities {
    /// Reads a file that the user names for this run.
    /// It has certificates in PEM, or one certificate in DER.
    ///
    /// # Errors
    /// The file cannot be read, has no certificate, or has a certificate that cannot be used.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_file(path, Pipes::Allowed)
    }

    fn read_file(path: &Path, pipes: Pipes) -> Result<Self> {
        let certificates = pem::certificates(path, pipes)?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone()).map_err(|e| {
                Error::new(
                    Kind::Malformed,
                    format!("`{}` holds a certificate that cannot be used", quote(&path)),
                )
                .with_source(e)
            })?;
        }
        Ok(Self(certificates))
    }
}

/// A client certificate, with its chain and its key.
#[derive(Debug, Clone)]
pub struct ClientCertificate(Arc<CertifiedKey>);

impl ClientCertificate {
    /// Reads a certificate and its key, each in PEM or DER.
    /// PEM keys may be PKCS#8, PKCS#1 or SEC1, without a password.
    ///
    /// # Errors
    /// A file cannot be read, or has other content than expected; the key belongs to another certificate.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self> {
        Self::read_files(certificate, key, Pipes::Allowed)
    }

    fn read_files(certificate: &Path, key: &Path, pipes: Pipes) -> Result<Self> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        pem::certified_key(certificate, key, pipes, &provider).map(|pair| Self(Arc::new(pair)))
    }
}

impl TlsOptions {
    /// Returns the `certs.d` folders that container tools use by default in this environment.
    pub fn standard_certs_dirs(env: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
        env("HOME")
            .filter(|home| !home.is_empty())
            .map(|home| PathBuf::from(home).join(".config/containers/certs.d"))
            .into_iter()
            .chain(["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from))
            .collect()
    }
}

/// Creates the TLS client configuration for `HOST[:PORT]` as in references.
///
/// Trusts the system's certificate authorities (having none is not an error), which are read at the first handshake, those of
/// the options, and those in the host's `certs.d` folders. Offers no application protocol (ALPN): the caller adds one if needed.
///
/// # Errors
/// A file in a `certs.d` folder cannot be read, has no PEM, or has other content than its name says; a certificate has no
/// key there, or the key of another certificate.
pub fn client_config(options: &TlsOptions, host: &str) -> Result<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let local = certs_d::find(&options.certs_dirs, host)?;

    let verifier: Arc<dyn ServerCertVerifier> = if options.insecure {
        Arc::new(AcceptAny::new(&provider))
    } else {
        let mut extra = options.authorities.clone();
        for path in &local.authorities {
            extra.push(Authorities::read_file(path, Pipes::Refused)?);
        }
        let system = (!options.without_system_roots).then(|| options.system.clone());
        let crypto = Arc::clone(&provider);
        let trusted = move || {
            let system = system.as_ref().map(|system| system.loaded().certificates.as_slice());
            trusted(extra, system.unwrap_or_default(), crypto)
        };
        Arc::new(Verifier::new(trusted, &provider))
    };

    let certificates = match &options.client_certificate {
        Some(given) => vec![Arc::clone(&given.0)],
        None => {
            let read = |(certificate, key): &(PathBuf, PathBuf)| {
                ClientCertificate::read_files(certificate, key, Pipes::Refused)
            };
            let pairs = local.pairs.iter().map(read);
            pairs.map(|pair| Ok(pair?.0)).collect::<Result<Vec<_>>>()?
        }
    };

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

/// Returns the certificates to trust: the system's, and those of the options and of the host.
fn trusted(
    extra: Vec<Authorities>,
    system: &[CertificateDer<'static>],
    provider: Arc<CryptoProvider>,
) -> std::result::Result<Trusted, rustls::Error> {
    let mut roots = RootCertStore::empty();
    // Unusable certificates are skipped. Certificates named for this run were checked when they were read.
    let certificates: Vec<_> = system
        .iter()
        .cloned()
        .chain(extra.into_iter().flat_map(|file| file.0))
        .collect();
    roots.add_parsable_certificates(certificates.iter().cloned());
    let chains = if roots.is_empty() {
        None
    } else {
        let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Some(built.map_err(|error| rustls::Error::General(error.to_string()))?)
    };
    Ok(Trusted { chains, certificates })
}
