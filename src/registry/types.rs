//! Answers that several kinds of requests share.

use std::collections::HashSet;

use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;

/// The answer to a HEAD request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence<T> {
    /// The object exists.
    Present(T),
    /// The object does not exist (404).
    Missing,
    /// A blob exists, but with this number of bytes in place of the number in its descriptor.
    OtherSize(u64),
    /// The answer says neither (some registries answer 400, 403, 405 or 412 to a HEAD).
    Unknown,
}

/// Headers of the answer to a HEAD of a manifest; every field may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ManifestHead {
    /// Value of `Docker-Content-Digest`.
    pub digest: Option<Digest>,
    /// Value of `Content-Type`, without parameters.
    pub media_type: Option<String>,
    /// Value of `Content-Length`.
    pub size: Option<u64>,
}

/// Requests that read the manifest of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TagLookup {
    /// A HEAD request first, since a cached manifest with the digest in the answer needs no GET request.
    HeadFirst,
    /// A GET request at once, for a manifest that is not in the cache.
    Direct,
}

/// The way in which a blob got into a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The registry mounted the blob from another repository.
    Mounted,
    /// The blob's bytes were uploaded.
    Uploaded,
}

/// Referrers of a manifest, as listed by a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Referrers {
    /// Descriptors of the referrers.
    pub list: Vec<Descriptor>,
    /// Whether the registry has more referrers than were requested.
    pub more: bool,
    /// Number of listed entries without a usable digest.
    pub unusable: usize,
}

impl Referrers {
    pub(super) fn new(list: Vec<Descriptor>, more: bool, unusable: usize) -> Self {
        Self { list, more, unusable }
    }

    /// Adds the referrers of another source that are not in this list, up to `at_most` together.
    pub(super) fn add(&mut self, other: Self, at_most: usize) {
        let known: HashSet<Digest> = self.list.iter().map(|entry| entry.digest.clone()).collect();
        let new = other.list.into_iter().filter(|entry| !known.contains(&entry.digest));
        self.list.extend(new);
        self.more |= other.more || self.list.len() > at_most;
        self.list.truncate(at_most);
        // The sources mostly have the same entries.
        self.unusable = self.unusable.max(other.unusable);
    }
}

/// Answer of a registry that accepted a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AcceptedManifest {
    /// Whether the registry lists the manifest as a referrer of its subject (`OCI-Subject`).
    pub lists_referrer: bool,
    /// Tags that the registry reports as set in addition to the tag in the URL, when several were sent.
    pub tags: Vec<String>,
}
