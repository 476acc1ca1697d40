//! What the user requests from the images of a run: platforms, referrers, and the lock.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::manifest::{Entry, RawManifest, View};
use crate::image::media_type::{self, Shape};
use crate::image::platform::PlatformFilter;
use crate::image::reference::Reference;
use crate::image::tree::{ImageTree, IndexMode, platform_label};
use crate::inventory::lock::Lock;
use crate::inventory::locked_image::LockedImage;
use crate::transfer::referrers::ReferrerChoice;

/// Requested content of the images of a run.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Platforms to carry.
    pub platforms: PlatformFilter,
    /// Treatment of an index that loses entries.
    pub index: IndexMode,
    /// Platforms of single images, if they differ from `platforms`.
    pub exceptions: BTreeMap<Reference, PlatformFilter>,
    /// Referrers to carry with the images.
    pub referrers: ReferrerChoice,
    /// Lock that pins the images of the run and their referrers. The other fields do not apply to an image in the lock.
    pub lock: Option<Arc<Lock>>,
}

/// Returns the entries of an index that a lock lists as dropped.
/// All entries of a dropped nested index count as dropped, as on the first export.
pub(super) fn dropped<'a>(locked: &'a LockedImage, index: &'a RawManifest) -> impl Iterator<Item = &'a Entry> {
    let entries = match index.view() {
        View::Index(index) => index.entries.as_slice(),
        _ => &[],
    };
    let all = locked.dropped.iter().any(|dropped| dropped.digest == *index.digest());
    entries.iter().filter(move |entry| all || is_dropped(locked, entry))
}

/// Returns whether a lock lists an entry as dropped. Nested indexes are never dropped as a whole.
fn is_dropped(locked: &LockedImage, entry: &Entry) -> bool {
    let digest = &entry.descriptor.digest;
    if media_type::shape(&entry.descriptor.media_type) == Shape::Index {
        return false;
    }
    let mut dropped = locked
        .dropped
        .iter()
        .filter(|dropped| dropped.digest == *digest)
        .peekable();
    if dropped.peek().is_none() {
        return false;
    }
    // One manifest may be listed for several platforms, so the platform decides as well.
    let is_kept = locked.kept.iter().any(|kept| kept.digest == *digest);
    let label = platform_label(entry.platform.as_ref(), entry.attested().is_some());
    !is_kept || dropped.any(|dropped| dropped.platform == label)
}

/// Sets what a lock states of an image, and checks the tree against the lock.
///
/// # Errors
/// [`Kind::Integrity`] if the content of the tree differs from the lock.
pub(super) fn pin(tree: &mut ImageTree, locked: &LockedImage) -> Result<()> {
    tree.choice = locked.index;
    tree.left_out = locked.left_out.clone().into();
    tree.left_out_referrers = locked.left_out_referrers.clone().into();
    // The user was told about the left-out referrers when the lock was made.
    tree.lacks_referrers = false;
    let filtered = tree.filtered.as_ref().map(|filtered| filtered.root.digest());
    let manifests: HashSet<&Digest> = tree.manifests().into_iter().map(|manifest| manifest.digest()).collect();
    let blobs = tree.blobs();
    let blobs: HashSet<&Digest> = blobs.iter().map(|blob| &blob.descriptor.digest).collect();
    let is_same = filtered == locked.filtered.as_ref()
        && manifests == locked.manifests.iter().map(|piece| &piece.digest).collect()
        && blobs == locked.blobs.iter().map(|piece| &piece.digest).collect();
    match is_same {
        true => Ok(()),
        false => Err(Error::new(
            Kind::Integrity,
            "its manifests lead to other platforms or blobs than the lock lists",
        )
        .with_hint("write the lock again from the bundle: `docker-mirror inspect BUNDLE --lock FILE`")),
    }
}

impl Wanted {
    /// Returns the platforms of an image to carry.
    pub(crate) fn platforms_of(&self, image: &Reference) -> &PlatformFilter {
        if self.locked(image).is_some() {
            return &PlatformFilter::All;
        }
        self.exceptions.get(image).unwrap_or(&self.platforms)
    }
    /// Returns the entry of an image in the lock.
    pub(crate) fn locked(&self, image: &Reference) -> Option<&LockedImage> {
        self.lock.as_ref()?.find(image)
    }
}
