//! Configuration of a registry double.

use std::path::PathBuf;
use std::time::Duration;

use super::auth::Auth;
use super::fault::{Action, Fault, When};
use super::tls::ServerTls;

/// The configuration of a [`Double`](super::Double); the default is an open, correct HTTP registry in memory.
#[derive(Debug, Default)]
pub struct Options {
    /// Access rules.
    pub auth: Auth,
    /// TLS configuration; `None` for plain HTTP.
    pub tls: Option<ServerTls>,
    /// Delay before each answer.
    pub latency: Duration,
    /// Maximum speed of each answer body, in bytes per second.
    pub bandwidth: Option<u64>,
    /// Folder of the registry's content; `None` keeps the content in memory.
    pub folder: Option<PathBuf>,
    /// Whether an index is accepted although children are absent.
    pub accept_sparse: bool,
    /// Whether a manifest is accepted although blobs or children are absent.
    pub unchecked: bool,
    /// Changes of a tag that are refused; `None` allows every change.
    pub immutable_tags: Option<Immutable>,
    /// Media types of manifests that are refused with 400 MANIFEST_INVALID.
    pub refused_types: Vec<String>,
    /// Condition on which a manifest is refused with 400 MANIFEST_INVALID.
    pub refuses: Option<fn(&serde_json::Value) -> bool>,
    /// Whether the referrers API is missing (404).
    pub no_referrers: bool,
    /// Maximum number of tags that a `PUT` of a manifest by digest sets and reports; none by default.
    pub tags_at_once: usize,
    /// Whether `POST ...?digest=` with the whole blob is accepted.
    pub single_post: bool,
    /// Maximum size of a chunk in bytes; larger chunks are refused with 416, as some registries do.
    pub max_chunk: Option<u64>,
    /// Value of the `OCI-Chunk-Min-Length` header, in bytes.
    pub min_chunk: Option<u64>,
    /// Maximum size of a request body in bytes; larger bodies are refused with 413, as a proxy would do.
    pub max_body: Option<u64>,
    /// Pull limit like Docker Hub's: after this number of `GET`s of manifests, the registry answers 429.
    pub pull_limit: Option<PullLimit>,
    /// Refuses requests beyond this number at a time with 429.
    pub refuse_above: Option<usize>,
    /// Faults, in the order in which they apply.
    pub faults: Vec<Fault>,
}

/// The changes of a tag that are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Immutable {
    /// A change to another digest (409).
    Other,
    /// Any `PUT` of an existing tag, even with the same digest (400 TAG_INVALID).
    Any,
}

/// A pull limit.
#[derive(Debug, Clone, Copy)]
pub struct PullLimit {
    /// Stated number of pulls per window.
    pub limit: u64,
    /// Number of pulls left at the start.
    pub remaining: u64,
    /// Stated length of the window in seconds.
    pub window: u64,
}

impl Options {
    /// Adds a fault.
    pub fn fault(mut self, when: When, action: Action) -> Self {
        self.faults.push(Fault::new(when, action));
        self
    }

    /// Sets the access rules.
    pub fn auth(mut self, auth: Auth) -> Self {
        self.auth = auth;
        self
    }

    /// Turns on TLS.
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }
}
