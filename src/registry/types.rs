//! Answers that requests of several kinds share.

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
