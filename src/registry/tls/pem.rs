//! Certificates and keys from files, in PEM or DER; every error names the file.

use std::path::Path;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::error::{Error, Kind, Result};
use crate::files::encoding;
use crate::files::{self, Pipes};
use crate::text::quote;

/// Maximum size of a file in bytes.
/// The list of all public certificate authorities has a quarter of a megabyte.
const MAX_FILE: u64 = 8 << 20;

/// Returns all certificates of a file; at least one.
pub(super) fn certificates(path: &Path, pipes: Pipes) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = read(path, pipes)?;
    let found = parse(path, &bytes)?;
    if found.is_empty() {
        return Err(malformed(path, "holds no PEM certificate").with_hint(other_form(&bytes)));
    }
    Ok(found)
}

/// Returns all certificates of a file that may also have other content.
pub(super) fn any_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    parse(path, &read(path, Pipes::Refused)?)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_slice_iter(bytes)
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|e| malformed(path, "is not valid PEM").with_source(e))?;
    let whole = CertificateDer::from(bytes);
    if found.is_empty() && webpki::anchor_from_trusted_cert(&whole).is_ok() {
        return Ok(vec![whole.into_owned()]);
    }
    Ok(found)
}

/// Returns the hint for a file without a PEM certificate.
fn other_form(bytes: &[u8]) -> &'static str {
    let holds = |label: &[u8]| bytes.windows(label.len()).any(|window| window == label);
    if holds(b"BEGIN TRUSTED CERTIFICATE") {
        "this is OpenSSL's own form; `openssl x509 -in FILE` writes the plain one"
    } else if holds(b"BEGIN PKCS7") {
        "this is PKCS #7; `openssl pkcs7 -print_certs -in FILE` writes PEM"
    } else if holds(b"PRIVATE KEY-----") {
        "this is a private key; a certificate starts with `-----BEGIN CERTIFICATE-----`"
    } else if bytes.first() == Some(&0x30) {
        "this may be PKCS #12 or PKCS #7; `openssl pkcs12 -nokeys -in FILE` or \
         `openssl pkcs7 -inform der -print_certs -in FILE` writes PEM"
    } else {
        "a PEM certificate starts with `-----BEGIN CERTIFICATE-----`; `openssl x509` converts others"
    }
}

/// Reads a certificate with its chain, and its key.
pub(super) fn certified_key(
    certificate: &Path,
    key: &Path,
    pipes: Pipes,
    provider: &CryptoProvider,
) -> Result<CertifiedKey> {
    let chain = certificates(certificate, pipes)?;
    let private = private_key(key, pipes)?;
    CertifiedKey::from_der(chain, private, provider).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => Error::new(
            Kind::Usage,
            format!(
                "the key `{}` does not belong to the certificate `{}`",
                quote(&key),
                quote(&certificate)
            ),
        )
        .with_hint("the client's own certificate has to be the first of its file"),
        other => Error::new(
            Kind::Malformed,
            format!(
                "the certificate `{}` and the key `{}` cannot be used",
                quote(&certificate),
                quote(&key)
            ),
        )
        .with_source(other),
    })
}

fn private_key(path: &Path, pipes: Pipes) -> Result<PrivateKeyDer<'static>> {
    let bytes = read(path, pipes)?;
    PrivateKeyDer::from_pem_slice(&bytes).or_else(|e| match e {
        // Both forms of a key with a password contain this word: in the label, or in a `Proc-Type` line.
        pem::Error::NoItemsFound | pem::Error::Base64Decode(_) | pem::Error::IllegalSectionStart { .. }
            if bytes.windows(9).any(|window| window == b"ENCRYPTED") =>
        {
            Err(
                malformed(path, "holds a private key with a password, which is not supported")
                    .with_hint("`openssl pkey` writes it without one"),
            )
        }
        pem::Error::NoItemsFound => PrivateKeyDer::try_from(bytes).map_err(|_| {
            malformed(path, "holds no PEM private key")
                .with_hint("`PRIVATE KEY`, `RSA PRIVATE KEY` and `EC PRIVATE KEY` are understood")
        }),
        // The cause is omitted, since it may quote a line of the key.
        _ => Err(malformed(path, "is not valid PEM")),
    })
}

fn read(path: &Path, pipes: Pipes) -> Result<Vec<u8>> {
    let bytes = files::read(path, MAX_FILE, pipes).map_err(|e| Error::io("read", path, e))?;
    if bytes.len() as u64 > MAX_FILE {
        let what = format!(
            "is no file of certificates or keys: it has more than {} MiB",
            MAX_FILE >> 20
        );
        return Err(malformed(path, &what));
    }
    Ok(encoding::pem(bytes))
}

fn malformed(path: &Path, what: &str) -> Error {
    Error::new(Kind::Malformed, format!("`{}` {what}", quote(&path)))
}
