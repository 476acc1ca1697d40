//! The wire: one client per registry host, with credentials, TLS, retries and limits (OCI distribution-spec).
//!
//! [`Registries`] is one side of a transfer. It hands out one [`Registry`] per host, and all clones of that share its
//! connections, tokens and limits. What a registry sends is checked as far as that is possible here: manifests against
//! their digest, blobs against the length that their descriptor promises; the digest of a blob is the reader's part, and
//! on the way out it is checked here.

mod answer;
mod auth;
mod blob;
mod cache;
mod challenge;
mod content_range;
mod context;
pub mod credentials;
mod failure;
mod host;
mod ladder;
mod limits;
mod location;
pub mod mirrors;
mod options;
mod pace;
mod pull;
mod push;
mod redact;
mod redirect;
mod retry;
mod scope;
pub mod tls;
mod token;
mod upload;
mod upload_body;
pub mod upload_source;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::image::digest::Digest;

pub use answer::Refusal;
use blob::Place;
pub use blob::{BlobReader, WithoutRange};
use context::Context;
use host::Host;
pub use limits::RateLimit;
pub use options::Options;
pub use push::Pushed;
pub use upload_source::{BlobSource, BlobStream};

/// All registries of one side (source or destination); hands out one client per host.
#[derive(Clone)]
pub struct Registries {
    context: Arc<Context>,
    hosts: Arc<Mutex<HashMap<String, Arc<Host>>>>,
}

impl Registries {
    /// Registries that are reached as `options` say.
    pub fn new(options: Options) -> Result<Self> {
        Ok(Self {
            context: Arc::new(Context::new(options)),
            hosts: Arc::default(),
        })
    }

    /// The client of `HOST[:PORT]` as it stands in a reference (`docker.io` is resolved in here).
    pub fn host(&self, host: &str) -> Result<Registry> {
        let mut hosts = self.hosts();
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

    fn mirror(&self, base: &reqwest::Url) -> Arc<Host> {
        let made = || Arc::new(Host::mirror(base, Arc::clone(&self.context)));
        Arc::clone(self.hosts().entry(base.to_string()).or_insert_with(made))
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<String, Arc<Host>>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Registries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.hosts().keys()).finish()
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

    /// Where a repository can be read: its mirrors, and at last the registry itself.
    fn places(&self, repository: &str) -> VecDeque<Place> {
        let mirrors = self.host.context.options.mirrors.of(&self.host.name, repository);
        let mirrors = mirrors.into_iter().filter_map(|endpoint| {
            let scheme = if endpoint.scheme_https { "https" } else { "http" };
            let base = reqwest::Url::parse(&format!("{scheme}://{}", endpoint.host)).ok()?;
            Some(Place {
                host: self.registries.mirror(&base),
                repository: endpoint.repository,
            })
        });
        let origin = Place {
            host: Arc::clone(&self.host),
            repository: repository.to_owned(),
        };
        mirrors.chain(std::iter::once(origin)).collect()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registry({})", self.host.name)
    }
}

/// The answer to a HEAD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence<T> {
    /// It is there.
    Present(T),
    /// It is definitely not there (404).
    Missing,
    /// The registry did not say (some answer 400, 403, 405 or 412 to a HEAD).
    Unknown,
}

/// What a HEAD of a manifest says; every field may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ManifestHead {
    /// `Docker-Content-Digest`.
    pub digest: Option<Digest>,
    /// `Content-Type`, without parameters.
    pub media_type: Option<String>,
    /// `Content-Length`.
    pub size: Option<u64>,
}
