//! How registries are reached: everything that a front end may set, with the defaults that hold where it sets nothing.

use std::path::PathBuf;
use std::time::Duration;

use super::credentials::CredentialOptions;
use super::mirrors::Mirrors;
use super::proxy::Proxies;
use super::stop::Stop;
use super::tls::TlsOptions;
use crate::progress::Progress;

/// How registries are reached. The default is https with the roots of the system, and no credential files.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Talk http to every host but Docker Hub (`localhost`, 127.0.0.0/8 and ::1 need no flag).
    pub plain_http: bool,
    /// Where credentials come from.
    pub credentials: CredentialOptions,
    /// Whether a pull goes on without a login, with a warning, where a stored one cannot be read or is refused. A login that
    /// was given for this run is never left out, and a push never goes on without one.
    pub login_is_optional: bool,
    /// Which certificates are trusted and shown.
    pub tls: TlsOptions,
    /// Where pulls may go before the origin is asked.
    pub mirrors: Mirrors,
    /// The proxies on the way. Addresses of this machine are reached without.
    pub proxies: Proxies,
    /// Requests with bodies in flight per host and direction; 6 by default. The client goes below it by itself where a
    /// host throttles or breaks connections.
    pub jobs: Option<usize>,
    /// How often a request that failed for a passing reason is sent again; 5 by default.
    pub retries: Option<u32>,
    /// The pause before the first repetition, which doubles from there; half a second by default.
    pub retry_pause: Option<Duration>,
    /// How long a connection may take to come about; 30 seconds by default.
    pub connect_timeout: Option<Duration>,
    /// How long an answer may take to begin once the request is out; two minutes by default (a registry that checks a
    /// large upload answers late). As long again for each MiB of a body that may be on its way: 6 at most, and only where the
    /// line has not shown that it is faster.
    pub header_timeout: Option<Duration>,
    /// No byte in either direction for this long ends a request; 60 seconds by default. Extended for a body like the
    /// header timeout.
    pub stall_timeout: Option<Duration>,
    /// A download slower than this many bytes per second, over twice the stall timeout, counts as stalled; 1024 by default,
    /// 0 for no limit.
    pub minimum_rate: Option<u64>,
    /// A folder for manifests by digest, so that unchanged images cost no pull. None: no cache.
    pub manifest_cache: Option<PathBuf>,
    /// A folder for the upload sessions of large blobs, so that the next run can go on where this one was ended. None: it
    /// begins such a blob anew.
    pub upload_sessions: Option<PathBuf>,
    /// Accept a token server on a loopback or link-local address though the registry is elsewhere.
    pub any_token_server: bool,
    /// The `User-Agent`; the crate's name and version by default.
    pub user_agent: Option<String>,
    /// Lets uploads finish what is under way when the run is interrupted.
    pub stop: Stop,
    /// Reports retries and warnings.
    pub progress: Progress,
}

impl Options {
    pub(super) fn jobs(&self) -> usize {
        self.jobs.unwrap_or(6).max(1)
    }

    pub(super) fn retries(&self) -> u32 {
        self.retries.unwrap_or(5)
    }

    pub(super) fn retry_pause(&self) -> Duration {
        self.retry_pause.unwrap_or(Duration::from_millis(500))
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        self.connect_timeout.unwrap_or(Duration::from_secs(30))
    }

    pub(super) fn header_timeout(&self) -> Duration {
        self.header_timeout.unwrap_or(Duration::from_secs(120))
    }

    pub(super) fn stall_timeout(&self) -> Duration {
        self.stall_timeout.unwrap_or(Duration::from_secs(60))
    }

    pub(super) fn minimum_rate(&self) -> u64 {
        self.minimum_rate.unwrap_or(1024)
    }

    pub(super) fn user_agent(&self) -> &str {
        self.user_agent
            .as_deref()
            .unwrap_or(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
    }
}
