//! Referrers of a manifest as found in a registry: those that can be carried, and why others cannot.

use std::sync::Arc;

use crate::error::{Error, Kind};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::{Index, RawManifest, View};
use crate::image::tree::{LeftOut, Lookup};

/// Maximum number of referrers that are read for one subject, and maximum number for one image.
pub(crate) const MAX_REFERRERS: usize = 1000;

/// Maximum total size in bytes of the manifests of the referrers of one subject, and of one image. A referrer has a few
/// kilobytes, so that a thousand fit.
pub(super) const MAX_TOGETHER: u64 = 16 << 20;

/// Reason for leaving out a referrer that is listed and does not exist.
pub(super) const DANGLING: &str = "it is listed and not there";

/// A referrer of a manifest, and whether it can be carried.
#[derive(Debug, Clone)]
pub(super) enum Found {
    Carried(Arc<RawManifest>, Lookup),
    /// The referrer does not exist, or has another subject.
    LeftOut(LeftOut),
    /// The referrer exists and cannot be carried.
    Broken(LeftOut),
    /// Description of referrers that are missing, and of which no digest is known.
    Missing(String),
    /// Description of a referrer that exists, cannot be carried, and of which no digest is known.
    Lost(String),
    /// Description of something that is no list of referrers.
    NoList(String),
}

/// Content of a tag of a subject.
pub(super) enum TagContent {
    /// The tag does not exist.
    Nothing,
    Manifest(Arc<RawManifest>),
    /// The tag exists, and what it points at does not exist ([`Kind::NotFound`]) or cannot be carried. The digest may be known.
    Unreadable(Option<Digest>, Error),
}

/// Returns the list of referrers of a manifest that its tag holds; `None` if the tag holds something else.
/// Earlier versions of this program pushed images without a tag to this tag.
pub(super) fn as_list<'a>(manifest: &'a RawManifest, of: &Digest) -> Option<&'a Index> {
    match manifest.view() {
        View::Index(index) if manifest.digest() != of => Some(index),
        _ => None,
    }
}

/// Returns the referrer under a tag of cosign.
pub(super) fn beside(tag: &str, suffix: &'static str, content: TagContent) -> Option<Found> {
    let (digest, error) = match content {
        TagContent::Nothing => return None,
        TagContent::Manifest(manifest) => return Some(Found::Carried(manifest, Lookup::Tag(suffix))),
        TagContent::Unreadable(digest, error) => (digest, error),
    };
    let is_dangling = error.kind() == Kind::NotFound;
    let why = error.full();
    Some(match digest {
        None if is_dangling => Found::Missing(format!("tag `{tag}`: {DANGLING}")),
        None => Found::Lost(format!("tag `{tag}` is left out: {why}")),
        Some(digest) => {
            let reason = match is_dangling {
                true => DANGLING.to_owned(),
                false => format!("tag `{tag}`: {why}"),
            };
            let media_type = String::new();
            let left_out = LeftOut {
                digest,
                media_type,
                reason,
            };
            match is_dangling {
                true => Found::LeftOut(left_out),
                false => Found::Broken(left_out),
            }
        }
    })
}

/// Returns the description of referrers beyond those that are read, if there are more.
pub(super) fn more_than_read(subject: &Digest, is_more: bool) -> Option<Found> {
    is_more.then(|| {
        Found::Missing(format!(
            "more than {MAX_REFERRERS} manifests are listed that refer to {subject}; the first {MAX_REFERRERS} are read"
        ))
    })
}

/// Returns the reason for leaving out referrers whose manifests are too large together.
pub(super) fn too_large_together() -> String {
    format!(
        "the manifests of what refers to the image have more than {} MiB together",
        MAX_TOGETHER >> 20
    )
}

/// Returns an entry of a list of referrers as left out.
pub(super) fn left_out(entry: &Descriptor, why: &str) -> LeftOut {
    LeftOut {
        digest: entry.digest.clone(),
        media_type: entry.media_type.to_string(),
        reason: why.to_owned(),
    }
}
