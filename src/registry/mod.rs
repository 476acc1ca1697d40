//! The wire: one client per registry host, with credentials, TLS, retries and limits (OCI distribution-spec).
//!
//! [`Registries`] is one side of a transfer. It hands out one [`Registry`] per host, and all clones of that share its
//! connections, tokens and limits. What a registry sends is checked as far as that is possible here: manifests against
//! their digest, blobs against the length that their descriptor promises; the digest of a blob is the reader's part, and
//! on the way out it is checked here.

mod answer;
mod attempt;
mod auth;
mod blob;
mod blob_store;
mod breaker;
mod cache;
mod call;
mod challenge;
mod content_encoding;
mod content_range;
mod context;
pub(crate) mod credentials;
mod failure;
mod find;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod host;
pub(crate) mod known_secrets;
mod limiter;
mod limits;
mod link;
mod list;
mod location;
mod login;
pub(crate) mod mirrors;
mod options;
mod outage;
mod pace;
mod proof;
pub(crate) mod proxy;
mod pull;
mod push;
mod reach;
mod redact;
mod redirect;
mod refusal;
mod renewal;
mod retry;
mod scheme;
mod scope;
mod stop;
mod tags_at_once;
pub(crate) mod tls;
mod token;
mod tunnel;
mod types;
pub(crate) mod upload;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use self::mirrors::Endpoint;
use crate::error::{Error, Kind, Result};
use crate::image::reference::Target;
use crate::lock::Mutex;
use crate::progress::InFlight;

pub(crate) use blob::Candidate;
pub use blob::{BlobReader, WithoutRange};
use context::Context;
use host::Host;
pub use limits::RateLimit;
pub use options::{MOST_JOBS, Options};
pub use refusal::Refusal;
pub use stop::Stop;
pub(crate) use tags_at_once::TAGS_AT_ONCE;
pub use types::{AcceptedManifest, Presence, Pushed, Referrers};
pub use upload::source::{BlobSource, BlobStream};

/// All registries of one side (source or destination); hands out one client per host.
#[derive(Clone)]
pub struct Registries {
    context: Arc<Context>,
    hosts: Arc<Mutex<HashMap<String, Arc<Host>>>>,
}

impl Registries {
    /// Registries that are reached as `options` say.
    ///
    /// # Errors
    /// Those of [`Credentials::new`](credentials::Credentials::new): a credential file that was named cannot be used.
    pub fn new(options: Options) -> Result<Self> {
        Ok(Self {
            context: Arc::new(Context::new(options)?),
            hosts: Arc::default(),
        })
    }

    /// The client of `HOST[:PORT]` as it stands in a reference (`docker.io` is resolved in here).
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

    /// Notes how many requests each host was sent at a time, where that was found out in this run.
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

    fn mirror(&self, endpoint: &Endpoint) -> Result<Arc<Host>> {
        let scheme = if endpoint.scheme_https { "https" } else { "http" };
        // Settings of a prefix hold for it alone: the same host is another endpoint under another prefix.
        let how = if endpoint.insecure { " insecure" } else { "" };
        let part = if endpoint.replaces_origin { " instead" } else { "" };
        let key = format!("{scheme}://{}{how}{part}", endpoint.host);
        let mut hosts = self.hosts.lock();
        if let Some(found) = hosts.get(&key) {
            return Ok(Arc::clone(found));
        }
        let context = Arc::clone(&self.context);
        let mut made = Host::mirror(&endpoint.host, scheme, endpoint.insecure, context)?;
        made.expendable = !endpoint.replaces_origin;
        let made = Arc::new(made);
        hosts.insert(key, Arc::clone(&made));
        Ok(made)
    }
}

/// Whether a registry refused something because it has no more room: by a quota of the project, or on its disk (507).
pub fn is_full(error: &Error) -> bool {
    refusal::Refusal::in_error(error).is_some_and(|refusal| refusal.is_full())
}

impl fmt::Debug for Registries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.hosts.lock().keys()).finish()
    }
}

/// One registry. Cheap to clone; all clones share connections, tokens and limits.
#[derive(Clone)]
pub struct Registry {
    host: Arc<Host>,
    registries: Registries,
}

impl Registry {
    /// `HOST[:PORT]` as in references.
    pub fn host(&self) -> &str {
        &self.host.name
    }

    /// Tells that requests for a repository are in flight, until the value is dropped.
    pub(crate) fn in_flight(&self, repository: &str) -> InFlight {
        let name = format_args!("{}/{repository}", self.host.name);
        self.host.context.options.progress.begin(name)
    }

    /// How many bodies may be on their way to it, or from it, at the same time; at least one. Uploads that are out and wait
    /// for their answers are not among them, up to one fewer. Where the number is found out, this is the first one.
    pub fn jobs(&self) -> usize {
        self.host.context.options.first_jobs()
    }

    /// How many requests without a body may be asked for at a time: three times as many as bodies, since they mostly wait. One
    /// job means one at a time.
    pub(crate) fn requests(&self) -> usize {
        self.host.context.options.jobs().saturating_mul(3) - 2
    }

    /// How many blobs, and how many manifests, are worth being in progress at this moment. Where the number of jobs is found
    /// out, always some more than there may be requests, or it would never be found out that more help; not all of them, since
    /// they are served in turns, and what was begun first would not end first.
    pub(crate) fn width(&self) -> usize {
        match self.host.context.options.jobs {
            Some(_) => self.requests(),
            None => self.host.limiter.limit() * 3 / 2,
        }
    }

    /// The registry itself, as the configuration of this machine wants it to be reached for this repository.
    fn origin(&self, repository: &str) -> Result<Arc<Host>> {
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

    /// Where something can be read: the mirrors of its repository, and at last the registry itself.
    fn places(&self, repository: &str, target: &Target) -> Result<VecDeque<Candidate>> {
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
            if host.is_left() {
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
