//! Choice among the client certificates, for servers that ask for one.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use rustls::{DistinguishedName, SignatureScheme};
use webpki::EndEntityCert;

/// One or several client certificates.
/// A server that lists accepted authorities gets a certificate from one of them.
#[derive(Debug)]
pub(super) struct ClientCertificates(Vec<Arc<CertifiedKey>>);

impl ClientCertificates {
    pub(super) fn new(certificates: Vec<Arc<CertifiedKey>>) -> Self {
        Self(certificates)
    }
}

impl ResolvesClientCert for ClientCertificates {
    fn resolve(&self, authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let usable = || self.0.iter().filter(|one| one.key.choose_scheme(schemes).is_some());
        let wanted = |one: &&Arc<CertifiedKey>| {
            one.cert
                .iter()
                .filter_map(issuer)
                .any(|issuer| authorities.contains(&issuer.as_ref()))
        };
        // A server's list may be incomplete, so the first certificate is sent if none matches.
        usable().find(wanted).or_else(|| usable().next()).cloned()
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Returns a certificate's issuer, in the form in which a server lists accepted authorities.
fn issuer(certificate: &CertificateDer<'_>) -> Option<DistinguishedName> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    Some(DistinguishedName::in_sequence(certificate.issuer()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    use rustls::crypto::aws_lc_rs::sign::any_supported_type;
    use rustls::pki_types::PrivateKeyDer;

    use super::*;

    /// Creates an authority of this name, and a client certificate from it.
    fn authority(name: &str) -> (DistinguishedName, CertifiedKey) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let subject = EndEntityCert::try_from(certificate.der()).unwrap().subject().to_vec();
        let issuer = Issuer::new(params, key);

        let key = KeyPair::generate().unwrap();
        let client = CertificateParams::new(vec!["client".to_owned()]).unwrap();
        let client = client.signed_by(&key, &issuer).unwrap();
        let key = any_supported_type(&PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap();
        let pair = CertifiedKey::new(vec![client.der().clone()], key);
        (DistinguishedName::in_sequence(&subject), pair)
    }

    #[test]
    fn a_server_gets_the_certificate_from_an_authority_that_it_accepts() {
        let (first, of_first) = authority("first");
        let (second, of_second) = authority("second");
        let (unknown, _) = authority("unknown");
        let expected = [of_first.cert[0].clone(), of_second.cert[0].clone()];
        let certificates = ClientCertificates::new(vec![Arc::new(of_first), Arc::new(of_second)]);
        let schemes = [SignatureScheme::ECDSA_NISTP256_SHA256];
        let chosen = |accepted: &DistinguishedName| {
            let found = certificates.resolve(&[accepted.as_ref()], &schemes).unwrap();
            Arc::clone(&found).cert[0].clone()
        };
        assert_eq!(chosen(&first), expected[0]);
        assert_eq!(chosen(&second), expected[1]);
        assert_eq!(chosen(&unknown), expected[0], "the list of a server may be incomplete");
    }
}
