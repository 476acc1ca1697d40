//! Settings of the registry client, and their defaults.

use std::path::PathBuf;
use std::time::Duration;

use super::credentials::CredentialOptions;
use super::limiter::Limiter;
use super::mirrors::Mirrors;
use super::pace::Pace;
use super::proxy::Proxies;
use super::stop::Stop;
use super::tls::TlsOptions;
use crate::image::reference::DOCKER_HUB;
use crate::progress::Progress;
use crate::text::{counted, quote};

/// Maximum number of concurrent bodies per host and direction with automatic concurrency.
/// Each body takes up to half a megabyte of buffers.
pub const MOST_JOBS: usize = 64;

/// Returns the maximum of an automatic limit of requests for this maximum number of bodies: all that callers have in progress,
/// which is blobs and manifests, three times as many of each as bodies.
fn most_requests(bodies: usize) -> usize {
    bodies.saturating_mul(6) - 4
}

/// Maximum number of concurrent requests to a host before its first answer.
const FIRST: usize = 6;

/// Initial concurrency limit of a host after its first answer, before measurements adjust it.
const START: usize = 16;

/// Public hosts that count requests.
/// Docker Hub allows "thousands of requests per minute" for each address
/// (<https://docs.docker.com/docker-hub/usage/#abuse-rate-limit>).
const MODEST: [&str; 2] = [DOCKER_HUB, "ghcr.io"];

/// Number of open files that are not connections: the bundle, its journal, folders, the cache.
const OTHER_FILES: u64 = 64;

/// Returns the maximum number of connections for each side, from the limit on open files.
/// A request to a registry that redirects has two connections, one of them idle.
fn files_per_side() -> usize {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let connections = most.unwrap_or(u64::MAX).saturating_sub(OTHER_FILES);
    usize::try_from(connections / 4).unwrap_or(usize::MAX)
}

/// Settings of the registry client.
/// The default is https with the system's roots, and no credential files.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Use http for every host but Docker Hub (`localhost`, 127.0.0.0/8 and ::1 need no flag).
    pub plain_http: bool,
    /// Sources of credentials.
    pub credentials: CredentialOptions,
    /// Whether a pull continues without a login that cannot be read or is refused, with a warning.
    /// A login given for this run is never dropped, and a push never continues without its login.
    pub login_is_optional: bool,
    /// Trusted certificates, and client certificates.
    pub tls: TlsOptions,
    /// Mirrors that pulls may use before the origin.
    pub mirrors: Mirrors,
    /// Proxies. Loopback addresses are reached without a proxy.
    pub proxies: Proxies,
    /// Maximum number of concurrent requests to a host, of every kind; requests for a token are part of the request that needs it.
    /// The client lowers the number while a host throttles or breaks connections. None: the client measures which number
    /// is best.
    pub jobs: Option<usize>,
    /// Maximum number of concurrent bodies per host and direction if `jobs` is `None`; [`MOST_JOBS`] by default.
    pub bodies: Option<usize>,
    /// Maximum number of retries of a request after a transient failure; 5 by default.
    pub retries: Option<u32>,
    /// Pause before the first retry; every further pause is twice as long. Half a second by default.
    pub retry_pause: Option<Duration>,
    /// Maximum time to establish a connection; 30 seconds by default.
    pub connect_timeout: Option<Duration>,
    /// Maximum time from the end of the request to the start of the answer; two minutes by default.
    /// A registry that checks a large upload answers late. The time is extended by its own length for each MiB of the body
    /// that may still be in flight: at most 6, and only while the measured speed of the line does not justify less.
    pub header_timeout: Option<Duration>,
    /// Maximum time without a byte in either direction; 60 seconds by default.
    /// Extended for a body like the header timeout.
    pub stall_timeout: Option<Duration>,
    /// Minimum speed of a download in bytes per second; 1024 by default, 0 for no limit.
    /// A download that is slower over twice the stall timeout counts as stalled.
    pub minimum_rate: Option<u64>,
    /// Folder that caches manifests by digest, so that unchanged images cost no pull. None: no cache.
    pub manifest_cache: Option<PathBuf>,
    /// Folder for the upload sessions of large blobs, so that the next run can resume them.
    /// None: an interrupted upload starts again from its first byte.
    pub upload_sessions: Option<PathBuf>,
    /// Accept a token server on a loopback or link-local address though the registry is elsewhere.
    pub any_token_server: bool,
    /// Signal of an interrupted run; running uploads may still finish.
    pub stop: Stop,
    /// Receiver of retries and warnings.
    pub progress: Progress,
}

impl Options {
    /// Returns the maximum number of concurrent bodies per host and direction.
    pub(super) fn bodies(&self) -> usize {
        self.jobs.or(self.bodies).unwrap_or(MOST_JOBS).max(1)
    }

    /// Returns the initial maximum number of concurrent requests, before measurements adjust it.
    pub(super) fn first_jobs(&self) -> usize {
        self.jobs.unwrap_or(START).max(1)
    }

    /// Creates the limiter of a host.
    pub(super) fn limiter(&self, host: &str) -> Limiter {
        let bodies = self.bodies();
        let pace = match self.jobs {
            Some(jobs) => Pace::fixed(jobs),
            None => {
                let ceiling = match MODEST.contains(&host) {
                    true => START,
                    false => most_requests(bodies).min(files_per_side()),
                };
                if ceiling < START {
                    let most = counted(ceiling.max(1) as u64, "request at a time goes", "requests at a time go");
                    self.progress.note(format!(
                        "at most {most} to `{}`, since this process may have few open files (`ulimit -n`)",
                        quote(&host)
                    ));
                }
                Pace::automatic(FIRST, START, ceiling)
            }
        };
        Limiter::new(bodies, pace)
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
}
