//! The façades: the registries of one side, and one of them.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::candidate::Candidate;
use super::context::Context;
use super::host::Host;
use super::limiter::Lines;
use super::mirrors::Endpoint;
use super::options::Options;
use super::refusal::Refusal;
use crate::error::{Error, Kind, Result};
use crate::image::reference::Target;
use crate::lock::Mutex;
use crate::progress::InFlight;
use crate::text::counted;

/// All registries of one side (source or destination), with one client per host.
#[derive(Clone)]
pub struct Registries {
    context: Arc<Context>,
    hosts: Arc<Mutex<HashMap<String, Arc<Host>>>>,
}

impl Registries {
    /// Creates the clients' common state from `options`.
    ///
    /// # Errors
    /// Those of [`Credentials::new`](credentials::Credentials::new): a credential file named in the options cannot be used.
    pub fn new(options: Options) -> Result<Self> {
        Ok(Self {
            context: Arc::new(Context::new(options)?),
            hosts: Arc::default(),
        })
    }

    /// Returns the client of `HOST[:PORT]`, spelled as in a reference (`docker.io` is resolved here).
    pub fn host(&self, host: &str) -> Result<Registry> {
        let mut hosts = self.hosts.lock();
        let found = match hosts.get(host) {
            Some(found) => Arc::clone(found),
            None => {
                let made = Arc::new(Host::named(host, Arc::clone(&self.context))?);
                hosts.insert(host.to_owned(), Arc::clone(&made));
                made
            }
        };
        Ok(Registry {
            host: found,
            registries: self.clone(),
        })
    }

    /// Reports the peak number of concurrent requests of each host whose concurrency limit is automatic.
    pub fn note_concurrency(&self) {
        if self.context.options.jobs.is_some() {
            return;
        }
        let mut peaks: Vec<(String, usize)> = {
            let hosts = self.hosts.lock();
            let peak = |host: &Arc<Host>| (host.name.clone(), host.limiter.peak());
            hosts.values().map(peak).collect()
        };
        peaks.sort();
        for (host, peak) in peaks.into_iter().filter(|(_, peak)| *peak > 0) {
            let requests = if peak == 1 { "request" } else { "requests" };
            self.context
                .options
                .progress
                .note(format!("`{host}`: up to {peak} {requests} at a time"));
        }
    }

    /// Reports how much each mirror did not have. A warning told it once, when the first request failed.
    pub fn note_mirrors(&self) {
        let lacked = |host: &Arc<Host>| (host.name.clone(), host.lacked.load(Ordering::Relaxed));
        let mut mirrors: Vec<(String, u32)> = self.hosts.lock().values().map(lacked).collect();
        mirrors.sort();
        for (host, lacked) in mirrors.into_iter().filter(|(_, lacked)| *lacked > 0) {
            let lacked = counted(lacked.into(), "manifest or blob", "manifests and blobs");
            let progress = &self.context.options.progress;
            progress.info(format!("`{host}` did not have {lacked} that it was asked for"));
        }
    }

    fn mirror(&self, endpoint: &Endpoint) -> Result<Arc<Host>> {
        let scheme = if endpoint.scheme_https { "https" } else { "http" };
        // The settings of a prefix apply to that prefix alone: under another prefix, the same host is another endpoint.
        let how = if endpoint.insecure { " insecure" } else { "" };
        let part = if endpoint.replaces_origin { " instead" } else { "" };
        let key = format!("{scheme}://{}{how}{part}", endpoint.host);
        let mut hosts = self.hosts.lock();
        if let Some(found) = hosts.get(&key) {
            return Ok(Arc::clone(found));
        }
        let context = Arc::clone(&self.context);
        let mut made = Host::mirror(&endpoint.host, scheme, endpoint.insecure, context)?;
        made.is_mirror = !endpoint.replaces_origin;
        let made = Arc::new(made);
        hosts.insert(key, Arc::clone(&made));
        Ok(made)
    }
}

/// Returns whether a registry refused a request for lack of space.
/// Reasons are the project's quota, or a full disk (507).
pub fn is_full(error: &Error) -> bool {
    Refusal::in_error(error).is_some_and(|refusal| refusal.is_full())
}

impl fmt::Debug for Registries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.hosts.lock().keys()).finish()
    }
}

/// One registry. Cheap to clone; all clones share connections, tokens and limits.
#[derive(Clone)]
pub struct Registry {
    pub(super) host: Arc<Host>,
    registries: Registries,
}

impl Registry {
    /// Returns `HOST[:PORT]` as in references.
    pub fn host(&self) -> &str {
        &self.host.name
    }

    /// Reports requests for a repository as in flight until the returned value is dropped.
    pub(crate) fn in_flight(&self, repository: &str) -> InFlight {
        let name = format_args!("{}/{repository}", self.host.name);
        self.host.context.options.progress.in_flight(name)
    }

    /// Returns the maximum number of concurrent requests to the registry; at least 1.
    /// With an automatic concurrency limit, this is the initial number.
    pub fn jobs(&self) -> usize {
        self.host.context.options.first_jobs()
    }

    /// Returns how many blobs, or images, may be in progress at the same time.
    /// It is about three times the number of bodies, so that requests always wait for the places that become free: the
    /// concurrency limit alone bounds the requests.
    pub(crate) fn widest(&self) -> usize {
        self.host.context.options.bodies().saturating_mul(3) - 2
    }

    /// Returns how many blobs, and how many manifests, should be in progress now.
    /// With an automatic concurrency limit, that is always more than the limit, or the limiter would never see demand for
    /// more requests. It is not unlimited: requests are served in turns, so with too many blobs in progress the first blobs
    /// would not finish first.
    pub(crate) fn width(&self) -> usize {
        match self.host.context.options.jobs {
            Some(_) => self.widest(),
            None => self.host.limiter.limit() * 3 / 2,
        }
    }

    /// Returns how many bodies can be sent to the registry concurrently now.
    pub(crate) fn lines(&self) -> Lines {
        self.host.limiter.lines()
    }

    /// Returns the client of the registry itself, with this machine's configuration for the repository.
    pub(super) fn origin(&self, repository: &str) -> Result<Arc<Host>> {
        let name = &self.host.name;
        if !self.host.context.options.mirrors.origin_is_insecure(name, repository) {
            return Ok(Arc::clone(&self.host));
        }
        let mut hosts = self.registries.hosts.lock();
        let key = format!("{name} insecure");
        if let Some(found) = hosts.get(&key) {
            return Ok(Arc::clone(found));
        }
        let made = Arc::new(Host::insecure(name, Arc::clone(&self.host.context))?);
        hosts.insert(key, Arc::clone(&made));
        Ok(made)
    }

    /// Returns all sources of a repository in order: its mirrors, then the registry itself.
    pub(super) fn places(&self, repository: &str, target: &Target) -> Result<VecDeque<Candidate>> {
        let name = &self.host.name;
        let mirrors = &self.host.context.options.mirrors;
        if mirrors.is_blocked(name, repository) {
            return Err(Error::new(
                Kind::Denied,
                format!("`{name}/{repository}` is blocked by the configuration of this machine"),
            )
            .with_hint("a `blocked = true` in registries.conf says so"));
        }
        let mut places = VecDeque::new();
        let mut origin = true;
        for endpoint in mirrors
            .endpoints(name, repository)
            .into_iter()
            .filter(|endpoint| endpoint.serves(target))
        {
            let host = self.registries.mirror(&endpoint)?;
            if host.is_given_up() {
                continue;
            }
            origin &= !endpoint.replaces_origin;
            places.push_back(Candidate {
                host,
                repository: endpoint.repository,
            });
        }
        if origin || places.is_empty() {
            places.push_back(Candidate {
                host: self.origin(repository)?,
                repository: repository.to_owned(),
            });
        }
        Ok(places)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registry({})", self.host.name)
    }
}
