//! Verification of a server's certificate.

use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

/// Verifier that accepts chains up to a trusted certificate, and a trusted certificate itself.
///
/// `openssl req -x509` makes the second kind: one certificate that is both authority and server. The chain verifier refuses
/// such a certificate in the role of a server, even if it is trusted. A user who trusts exactly these bytes means exactly
/// this server, so only the validity period and the name still matter. The chain verifier checks the period before the role
/// (the tests below depend on that); the name is checked here.
#[derive(Debug)]
pub(super) struct Verifier {
    /// Read at the first handshake, since a run over plain http needs no authorities.
    trusted: LazyLock<Result<Trusted, Error>, ReadTrusted>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Reads the trusted certificates.
type ReadTrusted = Box<dyn FnOnce() -> Result<Trusted, Error> + Send>;

/// Trusted certificates.
#[derive(Debug)]
pub(super) struct Trusted {
    /// Verifier of chains; `None` if no certificate is trusted.
    pub(super) chains: Option<Arc<WebPkiServerVerifier>>,
    /// Certificates behind the roots of `chains`.
    pub(super) certificates: Vec<CertificateDer<'static>>,
}

impl Verifier {
    /// Creates a verifier that gets the trusted certificates when it needs them.
    pub(super) fn new(
        trusted: impl FnOnce() -> Result<Trusted, Error> + Send + 'static,
        provider: &CryptoProvider,
    ) -> Self {
        Self {
            trusted: LazyLock::new(Box::new(trusted)),
            algorithms: provider.signature_verification_algorithms,
        }
    }
}

/// Returns whether the chain verifier rejected only the certificate's role.
/// The certificate is an authority in the role of a server, or its issuer is unknown, because only the certificate itself
/// is trusted.
fn is_about_the_role(error: &Error) -> bool {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => true,
        Error::InvalidCertificate(CertificateError::Other(other)) => matches!(
            other.0.downcast_ref::<webpki::Error>(),
            Some(webpki::Error::CaUsedAsEndEntity)
        ),
        _ => false,
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let trusted = self.trusted.as_ref().map_err(Error::clone)?;
        let Some(chains) = &trusted.chains else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        match chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(error) if is_about_the_role(&error) && trusted.certificates.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Verifier that accepts every server.
/// Signatures are not checked either: with a key that no authority vouches for they prove nothing, and the oldest
/// certificates could not even be parsed for the check.
#[derive(Debug)]
pub(super) struct AcceptAny(WebPkiSupportedAlgorithms);

impl AcceptAny {
    pub(super) fn new(provider: &CryptoProvider) -> Self {
        Self(provider.signature_verification_algorithms)
    }
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
    use rustls::RootCertStore;

    use super::*;

    /// Returns the parameters of a certificate for `h.io` that is valid only in the year 2001.
    fn params(is_ca: IsCa) -> CertificateParams {
        let mut params = CertificateParams::new(vec!["h.io".to_owned()]).unwrap();
        params.is_ca = is_ca;
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
        params
    }

    #[test]
    fn a_trusted_certificate_is_accepted_for_its_name_and_period_alone() {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let authority = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let both = params(authority).self_signed(&key).unwrap();
        let mut issuer = params(authority);
        issuer
            .distinguished_name
            .push(DnType::CommonName, "an authority that is not trusted");
        let unknown = Issuer::new(issuer, KeyPair::generate().unwrap());
        let only_server = params(IsCa::ExplicitNoCa).signed_by(&key, &unknown).unwrap();

        for certificate in [both.der(), only_server.der()] {
            let mut roots = RootCertStore::empty();
            roots.add(certificate.clone()).unwrap();
            let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .unwrap();
            let verify = |trusted: &[&CertificateDer<'static>], name: &'static str, seconds: u64| {
                let trusted = Trusted {
                    chains: Some(Arc::clone(&chains)),
                    certificates: trusted.iter().map(|one| (*one).clone()).collect(),
                };
                let verifier = Verifier::new(|| Ok(trusted), &provider);
                let name = ServerName::try_from(name).unwrap();
                let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
                verifier
                    .verify_server_cert(certificate, &[], &name, &[], now)
                    .map(|_| ())
                    .map_err(|error| error.to_string())
            };
            let (before, within, after) = (978_000_000, 990_000_000, 1_010_000_000);
            let trusted = [certificate];
            assert_eq!(verify(&trusted, "h.io", within), Ok(()));
            assert!(
                verify(&trusted, "other.io", within)
                    .unwrap_err()
                    .contains("not valid for name")
            );
            assert!(verify(&trusted, "h.io", before).unwrap_err().contains("not valid yet"));
            assert!(verify(&trusted, "h.io", after).unwrap_err().contains("expired"));
            assert!(verify(&[], "h.io", within).is_err());
        }
    }
}
