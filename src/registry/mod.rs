//! The wire: one client per registry host, with credentials, TLS, retries and limits. Stub with the agreed signatures.
#![allow(missing_docs, clippy::todo, unused_variables)]

pub mod credentials;
pub mod mirrors;
pub mod tls;
pub mod upload_source;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use crate::error::Result;
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::RawManifest;
use crate::image::reference::Target;
use crate::progress::Progress;
pub use upload_source::{BlobSource, BlobStream};

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Talk http to every host (`localhost`, 127.0.0.0/8 and ::1 need no flag).
    pub plain_http: bool,
    // TLS options, credential options, timeouts, retries, mirrors, cache directory: to be completed in the registry room
    /// Requests with bodies in flight per host.
    pub jobs: Option<usize>,
    /// No byte for this long ends a request.
    pub stall_timeout: Option<Duration>,
    /// Extra certificate authorities (PEM files).
    pub ca_files: Vec<PathBuf>,
    /// Who is told about retries and warnings.
    pub progress: Progress,
}

/// All registries of one side (source or destination); hands out one client per host.
#[derive(Debug, Clone)]
pub struct Registries {}

impl Registries {
    pub fn new(options: Options) -> Result<Self> {
        todo!()
    }

    /// The client of `HOST[:PORT]` as it stands in a reference (`docker.io` is resolved in here).
    pub fn host(&self, host: &str) -> Result<Registry> {
        todo!()
    }
}

/// One registry. Cheap to clone; all clones share connections, tokens and limits.
#[derive(Debug, Clone)]
pub struct Registry {}

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
    pub digest: Option<Digest>,
    pub media_type: Option<String>,
    pub size: Option<u64>,
}

/// What a reader does when a server ignores `Range`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithoutRange {
    /// Read from the start and throw the first bytes away.
    Skip,
    /// Fail with `Kind::Unsupported`.
    Refuse,
}

/// How a blob got into a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The registry took it from another repository.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

impl Registry {
    /// `HOST[:PORT]` as in references.
    pub fn host(&self) -> &str {
        todo!()
    }

    pub async fn head_manifest(&self, repository: &str, target: &Target) -> Result<Presence<ManifestHead>> {
        todo!()
    }

    /// GETs a manifest; by tag HEAD first where the manifest cache may then answer. NotFound, Unauthorized, RateLimited…
    pub async fn manifest(&self, repository: &str, target: &Target) -> Result<RawManifest> {
        todo!()
    }

    /// Opens the bytes `start..end` of a blob (`end` = `descriptor.size` for all). Reconnects by itself (progress rule);
    /// yields exactly `end - start` bytes or an error. Bytes are NOT hashed here: the caller does.
    pub async fn blob(
        &self,
        repository: &str,
        descriptor: &Descriptor,
        range: std::ops::Range<u64>,
        without_range: WithoutRange,
    ) -> Result<BlobReader> {
        todo!()
    }

    /// A whole small blob (config), verified against size and digest.
    pub async fn small_blob(&self, repository: &str, descriptor: &Descriptor) -> Result<Bytes> {
        todo!()
    }

    pub async fn head_blob(&self, repository: &str, descriptor: &Descriptor) -> Result<Presence<()>> {
        todo!()
    }

    /// Puts a blob into a repository: mount from `mount_from` (repository on the same registry known to have it) where given,
    /// else, or if refused, upload. Verifies the digest while sending; a wrong blob never ends in a finished upload.
    pub async fn push_blob(
        &self,
        repository: &str,
        descriptor: &Descriptor,
        source: &dyn BlobSource,
        mount_from: Option<&str>,
    ) -> Result<Pushed> {
        todo!()
    }

    pub async fn put_manifest(&self, repository: &str, target: &Target, manifest: &RawManifest) -> Result<()> {
        todo!()
    }
}

/// The body of a blob request.
pub struct BlobReader {}

impl BlobReader {
    /// The next bytes; `None` when exactly the requested range has been handed out.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        todo!()
    }
}
