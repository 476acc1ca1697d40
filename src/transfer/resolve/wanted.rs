//! What is asked of the images of a run.

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

/// What is asked of each image.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Which platforms are carried.
    pub platforms: PlatformFilter,
    /// What becomes of an index that loses some.
    pub index: IndexMode,
    /// Images of which other platforms are carried.
    pub exceptions: BTreeMap<Reference, PlatformFilter>,
    /// Which of the manifests that refer to them are carried along.
    pub referrers: ReferrerChoice,
    /// What the images are pinned to, where that is known. Nothing else that is asked of an image in it counts then.
    pub lock: Option<Arc<Lock>>,
}

/// Entries of an index that a lock says were dropped. An index inside it is looked into, so that all that it lists is known as
/// dropped, as on the first export.
pub(super) fn dropped<'a>(locked: &'a LockedImage, index: &'a RawManifest) -> impl Iterator<Item = &'a Entry> {
    let entries = match index.view() {
        View::Index(index) => index.entries.as_slice(),
        _ => &[],
    };
    let all = locked.dropped.iter().any(|dropped| dropped.digest == *index.digest());
    entries.iter().filter(move |entry| all || is_dropped(locked, entry))
}

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
    // One manifest may be listed for several platforms.
    let is_kept = locked.kept.iter().any(|kept| kept.digest == *digest);
    let label = platform_label(entry.platform.as_ref(), entry.attests().is_some());
    !is_kept || dropped.any(|dropped| dropped.platform == label)
}

/// Makes a tree exactly what a lock pins.
///
/// # Errors
/// [`Kind::Integrity`] if it is made of other things.
pub(super) fn pin(tree: &mut ImageTree, locked: &LockedImage) -> Result<()> {
    tree.choice = locked.index;
    tree.left_out = locked.left_out.clone().into();
    tree.left_out_referrers = locked.left_out_referrers.clone().into();
    // What the lock leaves out was told when it was made.
    tree.lacks_referrers = false;
    let is_locked = |digest: &Digest| locked.manifests.iter().any(|piece| piece.digest == *digest);
    let attachments = tree.attachments.iter();
    let attachments = attachments.filter(|attachment| is_locked(attachment.variant.root.digest()));
    tree.attachments = attachments.cloned().collect();
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
    /// Which platforms of an image are carried.
    pub(crate) fn platforms_of(&self, image: &Reference) -> &PlatformFilter {
        if self.locked(image).is_some() {
            return &PlatformFilter::All;
        }
        self.exceptions.get(image).unwrap_or(&self.platforms)
    }
    /// What an image is pinned to.
    pub(crate) fn locked(&self, image: &Reference) -> Option<&LockedImage> {
        self.lock.as_ref()?.find(image)
    }
}
