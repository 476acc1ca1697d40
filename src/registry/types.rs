//! Answers that requests of several kinds share.

use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;

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

/// How a blob got into a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The registry took it from another repository.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

/// What a registry lists as referring to a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Referrers {
    /// Type, digest and size of each.
    pub list: Vec<Descriptor>,
    /// Whether there are more than were asked for.
    pub more: bool,
}

/// What a registry said when it took a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AcceptedManifest {
    /// Whether it lists the manifest as a referrer of its subject.
    pub lists_referrer: bool,
    /// Tags that it says it has put beside the one of the address, where several were sent.
    pub tags: Vec<String>,
}
