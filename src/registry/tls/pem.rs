//! Certificates and keys from PEM files; every error names the file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::error::{Error, Kind, Result};

/// The list of all public certificate authorities has a quarter of a megabyte.
const MAX_FILE: u64 = 8 << 20;

/// All certificates of a file; at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = read(path)?;
    let certificates = CertificateDer::pem_slice_iter(&bytes)
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|e| malformed(path, "is no valid PEM").with_source(e))?;
    if certificates.is_empty() {
        return Err(malformed(path, "holds no PEM certificate")
            .with_hint("a PEM certificate starts with `-----BEGIN CERTIFICATE-----`; `openssl x509` converts others"));
    }
    Ok(certificates)
}

/// A certificate with its chain, and its key.
pub(super) fn certified_key(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey> {
    let chain = certificates(certificate)?;
    let private = private_key(key)?;
    CertifiedKey::from_der(chain, private, provider).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => Error::new(
            Kind::Usage,
            format!(
                "the key `{}` does not belong to the certificate `{}`",
                key.display(),
                certificate.display()
            ),
        )
        .with_hint("the client's own certificate has to be the first of its file"),
        other => Error::new(
            Kind::Malformed,
            format!(
                "the certificate `{}` and the key `{}` cannot be used",
                certificate.display(),
                key.display()
            ),
        )
        .with_source(other),
    })
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let bytes = read(path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|e| match e {
        // Both forms of a key with a password have the word: in the label, or in a `Proc-Type` line.
        pem::Error::NoItemsFound | pem::Error::Base64Decode(_) | pem::Error::IllegalSectionStart { .. }
            if bytes.windows(9).any(|window| window == b"ENCRYPTED") =>
        {
            malformed(path, "holds a private key with a password, which is not supported")
                .with_hint("`openssl pkey` writes it without one")
        }
        pem::Error::NoItemsFound => malformed(path, "holds no PEM private key")
            .with_hint("`PRIVATE KEY`, `RSA PRIVATE KEY` and `EC PRIVATE KEY` are understood"),
        // The cause is left out: it may quote a line of the key.
        _ => malformed(path, "is no valid PEM"),
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(|e| Error::io("read", path, e))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(malformed(path, &format!("has more than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

fn malformed(path: &Path, what: &str) -> Error {
    Error::new(Kind::Malformed, format!("`{}` {what}", path.display()))
}
