//! What this side shows of itself where a server asks for it.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;

use super::x509;

/// One or several certificates; a server that names the authorities that it accepts gets one from them.
#[derive(Debug)]
pub(super) struct ClientCertificates(Vec<Arc<CertifiedKey>>);

impl ClientCertificates {
    pub(super) fn new(certificates: Vec<CertifiedKey>) -> Self {
        Self(certificates.into_iter().map(Arc::new).collect())
    }
}

impl ResolvesClientCert for ClientCertificates {
    fn resolve(&self, authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let usable = || self.0.iter().filter(|one| one.key.choose_scheme(schemes).is_some());
        let wanted = |one: &&Arc<CertifiedKey>| {
            one.cert
                .iter()
                .filter_map(|certificate| x509::issuer(certificate))
                .any(|issuer| authorities.contains(&issuer))
        };
        // The list of a server may be incomplete: then the first is as good as any.
        usable().find(wanted).or_else(|| usable().next()).cloned()
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}
