//! How registries are reached: everything that a front end may set, with the defaults that hold where it sets nothing.

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

/// How many bodies are in flight per host and direction at most, where no number is given. Each takes up to half a megabyte of
/// buffers.
pub const MOST_JOBS: usize = 64;

/// How many requests are under way to a host at most, where no number of jobs is given.
const MOST_REQUESTS: usize = 3 * MOST_JOBS;

/// How many requests are under way to a host that has not answered yet.
const FIRST: usize = 6;

/// The same once it has, before it is known how many help.
const START: usize = 16;

/// Hosts for everybody, which count requests: Docker Hub allows "thousands of requests per minute" for each address
/// (<https://docs.docker.com/docker-hub/usage/#abuse-rate-limit>).
const MODEST: [&str; 2] = [DOCKER_HUB, "ghcr.io"];

/// Number of open files that are not connections: the bundle, its journal, folders, the cache.
const OTHER_FILES: u64 = 64;

/// How many connections there may be for each side, by the limit on open files. A request to a registry that redirects has two,
/// of which one is idle.
fn files_per_side() -> usize {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let connections = most.unwrap_or(u64::MAX).saturating_sub(OTHER_FILES);
    usize::try_from(connections / 4).unwrap_or(usize::MAX)
}

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
    /// Maximum number of bodies in flight per host and direction. The client goes below it by itself where a host throttles or
    /// breaks connections. By default it also finds by itself how many help, at most [`MOST_JOBS`].
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
        self.jobs.unwrap_or(MOST_JOBS).max(1)
    }

    /// How many bodies are in flight before it is known how many help.
    pub(super) fn first_jobs(&self) -> usize {
        self.jobs.unwrap_or(START).max(1)
    }

    /// The limit of a host.
    pub(super) fn limiter(&self, host: &str) -> Limiter {
        let jobs = self.jobs();
        let pace = match self.jobs {
            // As many as the callers have under way: blobs and manifests, three times as many of each as bodies.
            Some(_) => Pace::fixed(jobs.saturating_mul(6) - 4),
            None => {
                let ceiling = match MODEST.contains(&host) {
                    true => START,
                    false => MOST_REQUESTS.min(files_per_side()),
                };
                Pace::automatic(FIRST, START, ceiling)
            }
        };
        Limiter::new(jobs, pace)
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
