//! How a server is set up.

use std::path::PathBuf;
use std::time::Duration;

use super::auth::Auth;
use super::fault::{Action, Fault, When};
use super::tls::ServerTls;

/// The set-up of a [`Double`](super::Double); the default is a plain, open, well-behaved registry in memory.
#[derive(Debug, Default)]
pub struct Options {
    /// Who may do what.
    pub auth: Auth,
    /// TLS, where wanted.
    pub tls: Option<ServerTls>,
    /// A pause before each answer.
    pub latency: Duration,
    /// Bytes per second of each answer body.
    pub bandwidth: Option<u64>,
    /// Where blobs are kept; in memory otherwise.
    pub folder: Option<PathBuf>,
    /// Accepts an index whose children are absent.
    pub accept_sparse: bool,
    /// Accepts a manifest whose blobs and children are absent.
    pub unchecked: bool,
    /// Refuses to move a tag: to another digest, or (as some registries do) even to the same one.
    pub immutable_tags: Option<Immutable>,
    /// Refuses manifests of these types with 400 MANIFEST_INVALID.
    pub refused_types: Vec<String>,
    /// Refuses manifests of which this is true, with 400 MANIFEST_INVALID.
    pub refuses: Option<fn(&serde_json::Value) -> bool>,
    /// Has no referrers API: 404.
    pub no_referrers: bool,
    /// Takes so many tags at most with a `PUT` of a manifest by its digest, and says which; none by default.
    pub tags_at_once: usize,
    /// Takes `POST ...?digest=` with the whole blob.
    pub single_post: bool,
    /// Refuses chunks above this size with 416, as some registries do.
    pub max_chunk: Option<u64>,
    /// Says so in `OCI-Chunk-Min-Length`.
    pub min_chunk: Option<u64>,
    /// Refuses bodies above this size with 413, as a proxy before it would.
    pub max_body: Option<u64>,
    /// The pull limit of Docker Hub: so many `GET`s of manifests, then 429.
    pub pull_limit: Option<PullLimit>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
}

/// Which moves of a tag are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Immutable {
    /// A move to another digest (409).
    Other,
    /// Any `PUT` of a tag that is there (400 TAG_INVALID).
    Any,
}

/// A pull limit.
#[derive(Debug, Clone, Copy)]
pub struct PullLimit {
    /// Pulls per window.
    pub limit: u64,
    /// Pulls that are left at the start.
    pub remaining: u64,
    /// The window, in seconds, as the headers tell it.
    pub window: u64,
}

impl Options {
    /// Adds a fault.
    pub fn fault(mut self, when: When, action: Action) -> Self {
        self.faults.push(Fault::new(when, action));
        self
    }

    /// With these rules about who may do what.
    pub fn auth(mut self, auth: Auth) -> Self {
        self.auth = auth;
        self
    }

    /// With TLS.
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }
}
