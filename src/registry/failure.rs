//! Requests without an answer: classified errors of DNS, TCP, TLS and HTTP, each with its hint.

use std::error::Error as StdError;
use std::io;
use std::net::IpAddr;

use super::reach::OutOfReach;
use crate::error::{Error, Kind};
use crate::text::Line;

/// Hint for a server that redirects to an address of this machine.
pub(super) const OUT_OF_REACH_HINT: &str = "a server elsewhere may not send requests to this machine or its local link; \
     if its token server is meant to be there, give `--any-token-server`";

/// Hint for a server with an unknown certificate authority.
pub(super) const UNKNOWN_AUTHORITY: &str = "give its authority with `--ca-file`, or put it below /etc/docker/certs.d";

/// Hint for a server whose certificate is signed by its own key.
pub(super) const SELF_SIGNED: &str = "give the certificate itself with `--ca-file`";

/// Hint for a server that may want a client certificate.
const CLIENT_CERTIFICATE: &str = "it may want a client certificate: give `--cert` and `--key`";

/// Hint for a server whose TLS is too old.
const NO_CIPHER: &str = "check which TLS versions and ciphers the registry speaks: TLS 1.3 is needed, or TLS 1.2 with ECDHE and AES-GCM \
     or ChaCha20";

/// A request without an answer.
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) class: Class,
    /// Server to which the registry redirected, if that one failed.
    pub(super) elsewhere: Option<String>,
}

/// Kind of failure, which decides about a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// A retry fails again: a certificate, a name, a rule of this client.
    Final,
    /// No connection was made. A host that was never reached is most likely a wrong address.
    Connect,
    /// A connection broke or stalled.
    Broken,
    /// The peer closed the connection, or sent bytes that are not HTTP.
    /// A TLS port does that when it gets plain text.
    NotHttp,
    /// The peer does not speak TLS, so a retry fails again.
    NotTls,
    /// The circuit breaker of the peer is open, so that no request was sent.
    NotSent,
}

impl Class {
    /// Returns whether a retry would fail again.
    pub(super) fn is_final(self) -> bool {
        matches!(self, Self::Final | Self::NotTls | Self::NotSent)
    }
}

impl Failure {
    pub(super) fn broken(message: impl Into<Line>) -> Self {
        Self {
            error: Error::new(Kind::Network, message),
            class: Class::Broken,
            elsewhere: None,
        }
    }

    /// Creates the failure for a server at a forbidden address, named by another server.
    pub(super) fn out_of_reach(host: &str, address: Option<IpAddr>) -> Self {
        let resolved = address.map_or_else(String::new, |address| format!(" ({address})"));
        let message = format!("`{host}`{resolved} is an address of this machine or of its local link");
        Self {
            error: Error::new(Kind::Server, message).with_hint(OUT_OF_REACH_HINT),
            class: Class::Final,
            elsewhere: None,
        }
    }

    /// Classifies an error of the HTTP library.
    /// `host` is the requested host, `proxy` the proxy used for it.
    pub(super) fn from_reqwest(error: reqwest::Error, host: &str, proxy: Option<&str>) -> Self {
        // The default port of a scheme is shown, since the user did not type it and may not know it.
        let url = error.url().filter(|url| proxy.is_none() && url.port().is_none());
        let port = url.and_then(reqwest::Url::port_or_known_default);
        // The library's own text contains the URL with its query; the causes do not.
        let error = error.without_url();
        let refused = causes(&error)
            .into_iter()
            .find_map(|cause| cause.downcast_ref::<OutOfReach>());
        if let Some(OutOfReach(address)) = refused {
            return Self::out_of_reach(host, Some(*address));
        }
        let (class, kind, message, hint) = classify(&error, host, port, proxy);
        let mut out = Error::new(kind, message);
        if let Some(hint) = hint {
            out = out.with_hint(hint);
        }
        // The TLS library describes these by its own types; the message already says the same in words.
        let is_in_words = matches!(
            tls_error(&error),
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::PeerIncompatible(_))
        );
        if !is_in_words {
            out = out.with_source(Innermost(innermost(&error)));
        }
        Self {
            error: out,
            class,
            elsewhere: None,
        }
    }
}

/// Innermost cause of an error; the layers above say "error sending request" and the like.
#[derive(Debug)]
struct Innermost(String);

impl std::fmt::Display for Innermost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Innermost {}

fn innermost(error: &(dyn StdError + 'static)) -> String {
    let all = causes(error);
    all.last().map_or_else(
        || error.to_string(),
        |cause| super::redact::printable(&cause.to_string(), 512),
    )
}

/// Returns the causes of an error, outermost first.
/// `io::Error::source` skips the wrapped error, so `get_ref` is asked too.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> Vec<&'a (dyn StdError + 'static)> {
    let mut all = vec![error];
    let mut last = error;
    while all.len() < 32 {
        let wrapped = last.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        last = match (wrapped, last.source()) {
            (Some(inner), _) => inner,
            (None, Some(source)) => source,
            (None, None) => break,
        };
        all.push(last);
    }
    all
}

type Classified = (Class, Kind, String, Option<String>);

fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    causes(error).into_iter().find_map(|cause| cause.downcast_ref())
}

/// Classifies an error. `port` is the scheme's default port, if the host's address has none.
fn classify(error: &reqwest::Error, host: &str, port: Option<u16>, proxy: Option<&str>) -> Classified {
    if let Some(tls) = tls_error(error) {
        return classify_tls(tls, host);
    }
    let io = causes(error)
        .into_iter()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .last();
    let network = |class, message: String, hint: Option<&str>| (class, Kind::Network, message, hint.map(str::to_owned));
    // With a proxy, the connection is to the proxy, which may also refuse to connect further.
    let next = match proxy {
        Some(proxy) => format!("the proxy `{proxy}` on the way to `{host}`"),
        None => format!("`{host}`"),
    };
    let port = port.map_or_else(String::new, |port| format!(" on port {port}"));
    if error.is_dns() {
        let hint = match proxy {
            Some(_) => "check the variables HTTP_PROXY, HTTPS_PROXY and ALL_PROXY; NO_PROXY lists what needs none",
            None => "check the name of the registry, and whether this machine resolves it",
        };
        return network(Class::Connect, format!("cannot find the address of {next}"), Some(hint));
    }
    if error.is_connect() {
        let refused = io.is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
        let hint = Some(match proxy {
            Some(_) => "check the variables HTTP_PROXY, HTTPS_PROXY and ALL_PROXY; NO_PROXY lists what needs none",
            None => "check host and port, and whether a proxy is needed (HTTPS_PROXY, NO_PROXY)",
        });
        return if refused {
            network(Class::Connect, format!("{next} refused the connection{port}"), hint)
        } else if error.is_timeout() {
            network(
                Class::Connect,
                format!("{next} did not accept a connection{port} in time"),
                hint,
            )
        } else if proxy.is_some() {
            network(Class::Connect, format!("cannot connect through {next}"), hint)
        } else {
            network(Class::Connect, format!("cannot connect to {next}{port}"), hint)
        };
    }
    if error.is_timeout() {
        return network(Class::Broken, format!("`{host}` did not answer in time"), None);
    }
    let text = innermost(error);
    if error.is_builder() {
        return (
            Class::Final,
            Kind::Malformed,
            format!("cannot make a request for `{host}`"),
            None,
        );
    }
    // hyper's parse errors have no public type; their texts share these words.
    if text.contains("invalid HTTP") || text.contains("message head is too large") || text.contains("parsed") {
        return (
            Class::NotHttp,
            Kind::Server,
            format!("`{host}` sent an answer that is not HTTP"),
            None,
        );
    }
    if text.contains("connection closed before message completed") {
        return network(
            Class::NotHttp,
            format!("`{host}` closed the connection without an answer"),
            None,
        );
    }
    network(Class::Broken, format!("the connection to `{host}` broke"), None)
}

fn classify_tls(error: &rustls::Error, host: &str) -> Classified {
    use rustls::CertificateError as Bad;
    let refused = |message: String, hint: &str| (Class::Final, Kind::Network, message, Some(hint.to_owned()));
    match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::UnknownIssuer | Bad::BadSignature => refused(
                format!("the certificate of `{host}` is signed by an authority that is not trusted here"),
                UNKNOWN_AUTHORITY,
            ),
            Bad::Expired | Bad::ExpiredContext { .. } => refused(
                format!("the certificate of `{host}` has expired"),
                "have it renewed, and check the clock of this machine",
            ),
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => refused(
                format!("the certificate of `{host}` is not valid yet"),
                "check the clock of this machine",
            ),
            Bad::NotValidForNameContext { presented, .. } if presented.is_empty() => refused(
                format!("the certificate of `{host}` has no host name that counts (subjectAltName); its common name does not"),
                "have it issued again with a subjectAltName for this host name",
            ),
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => refused(
                format!("the certificate of `{host}` was issued for another host name"),
                "use the name that the certificate has",
            ),
            Bad::Revoked => refused(format!("the certificate of `{host}` is revoked"), "have it renewed"),
            Bad::Other(other) if matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity)) => refused(
                format!("the certificate of `{host}` is self-signed and not trusted here"),
                SELF_SIGNED,
            ),
            Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => refused(
                format!("the certificate of `{host}` is not for servers (extendedKeyUsage)"),
                "have it issued again with the extendedKeyUsage serverAuth",
            ),
            Bad::Other(other) if matches!(other.0.downcast_ref(), Some(webpki::Error::UnsupportedCertVersion)) => refused(
                format!("the certificate of `{host}` has version 1, which is too old"),
                "have it issued again with version 3 and a subjectAltName for this host name",
            ),
            Bad::UnsupportedSignatureAlgorithmContext { .. } | Bad::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => refused(
                format!("the certificate of `{host}` is signed by an algorithm that is too weak or unknown"),
                "have it issued again with a signature by SHA-256 or better",
            ),
            _ => refused(
                format!("the certificate of `{host}` is not trusted here"),
                "if it is self-signed, give it with `--ca-file`; else have it renewed",
            ),
        },
        rustls::Error::InvalidMessage(_) => (
            Class::NotTls,
            Kind::Network,
            format!("`{host}` does not speak TLS"),
            Some(
                "if it is a plain http registry, give `--plain-http` (in one step `--src-plain-http` or `--dest-plain-http` \
                 for one side)"
                    .to_owned(),
            ),
        ),
        rustls::Error::AlertReceived(alert) => {
            use rustls::AlertDescription as Alert;
            let hint = match alert {
                Alert::CertificateRequired | Alert::BadCertificate | Alert::UnknownCA => CLIENT_CERTIFICATE.to_owned(),
                Alert::HandshakeFailure => format!("{CLIENT_CERTIFICATE}; or {NO_CIPHER}"),
                _ => NO_CIPHER.to_owned(),
            };
            refused(format!("`{host}` aborted the TLS handshake"), &hint)
        }
        rustls::Error::PeerIncompatible(_) => refused(
            format!("`{host}` and this program have no TLS version or cipher in common"),
            NO_CIPHER,
        ),
        _ => refused(
            format!("cannot set up a TLS connection to `{host}`"),
            "check the TLS configuration of the registry",
        ),
    }
}
