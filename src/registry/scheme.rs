//! Detection of TLS, for hosts whose scheme is not known beforehand.

use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode, Url};

use super::answer::Answer;
use super::context::same_origin;
use super::failure::{Class, Failure};
use super::host::{ASSUMED_HTTP, EITHER, FOUND_HTTP, FOUND_HTTPS, Host};

/// Maximum number of connections for detecting TLS; a broken connection is followed by another.
const PROBES: u32 = 4;

/// Maximum duration of the detection of TLS. It is a host of this machine that is asked, and a server of plain http may leave the
/// handshake without an answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

impl Host {
    /// Returns a URL of the host with the scheme that was detected since the URL was made.
    pub(super) fn by_scheme(&self, url: &Url) -> Url {
        let found = matches!(self.scheme.load(Ordering::Relaxed), FOUND_HTTPS | FOUND_HTTP);
        if !found || !(same_origin(&self.base, url) || same_origin(&self.plain, url)) {
            return url.clone();
        }
        let mut found = self.base();
        found.set_path(url.path());
        found.set_query(url.query());
        found
    }

    /// Returns whether a loopback host speaks TLS although plain http was assumed.
    /// The host is then switched to https.
    ///
    /// No other host is ever assumed to speak plain http.
    pub(super) async fn found_tls(&self, sent: &Result<Answer, Failure>, url: &Url) -> bool {
        let scheme = self.scheme.load(Ordering::Relaxed);
        if !matches!(scheme, ASSUMED_HTTP | FOUND_HTTPS) {
            return false;
        }
        let answers_http = scheme == ASSUMED_HTTP && self.reached.load(Ordering::Relaxed);
        if url.scheme() == "https" || answers_http {
            return false;
        }
        let mut probe = self.base();
        let _ = probe.set_scheme("http");
        let doubtful = match sent {
            Ok(answer) => answer.status() == StatusCode::BAD_REQUEST,
            Err(failure) => matches!(failure.class, Class::NotHttp | Class::Broken),
        };
        if !doubtful || !same_origin(&probe, url) {
            return false;
        }
        if scheme == FOUND_HTTPS {
            // Another request detected the scheme while this one was in flight.
            return true;
        }
        let _ = probe.set_scheme("https");
        probe.set_path("/v2/");
        let found = tokio::time::timeout(PROBE_TIMEOUT, self.answers_in_tls(&probe)).await;
        let found = found.unwrap_or(false);
        if found {
            self.scheme.store(FOUND_HTTPS, Ordering::Relaxed);
        }
        found
    }

    /// Returns whether a server answers in TLS.
    async fn answers_in_tls(&self, probe: &Url) -> bool {
        for _ in 0..PROBES {
            let headers = HeaderMap::new();
            match self
                .context
                .send(&Method::GET, probe, headers, None, None, self.trust)
                .await
            {
                Ok(_) => return true,
                // A server that wants a client certificate may close the connection before its alert is read.
                Err(failure) if failure.class == Class::Broken => {}
                // An untrusted certificate proves TLS as well; the next request reports the certificate to the user.
                Err(failure) => return failure.class == Class::Final,
            }
        }
        false
    }

    /// Returns whether a host with `insecure = true` in its configuration speaks plain http and no TLS.
    ///
    /// The host is then switched to http, as podman does. A host that has answered in TLS never falls back, and neither does
    /// a host without that setting.
    pub(super) async fn found_plain(&self, sent: &Result<Answer, Failure>, url: &Url) -> bool {
        let scheme = self.scheme.load(Ordering::Relaxed);
        let Err(failure) = sent else { return false };
        if !matches!(scheme, EITHER | FOUND_HTTP) || !same_origin(&self.base, url) {
            return false;
        }
        if scheme == FOUND_HTTP {
            // Another request detected the scheme while this one was in flight.
            return true;
        }
        // Without a port in the name, http uses port 80, which may be open where 443 is not.
        let doubtful = match failure.class {
            Class::NotTls | Class::NotHttp | Class::Broken => true,
            Class::Connect => self.base.port().is_none(),
            Class::Final | Class::NotSent => false,
        };
        if !doubtful || failure.elsewhere.is_some() || self.reached.load(Ordering::Relaxed) {
            return false;
        }
        let mut probe = self.plain.clone();
        probe.set_path("/v2/");
        let headers = HeaderMap::new();
        let sent = self
            .context
            .send(&Method::GET, &probe, headers, None, None, self.trust)
            .await;
        let found = sent.is_ok_and(|answer| matches!(answer.status().as_u16(), 200..=299 | 401 | 403));
        if found {
            self.scheme.store(FOUND_HTTP, Ordering::Relaxed);
        }
        found
    }
}
