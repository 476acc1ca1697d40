//! One image of a lock.

use std::collections::HashSet;

use serde::{Deserialize, Serialize, Serializer};

use super::images::{InventoryImage, Piece};
use super::locked_referrer::LockedReferrer;
use crate::error::{Error, Kind, Result};
use crate::image::budget::Budget;
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::tree::{Choice, ImageTree, LeftOut, PlatformRecord};

/// Maximum memory in bytes of all images of a report's lock:
/// the text of a larger lock could not be read again.
const MOST_IN_REPORT: u64 = 64 << 20;

/// An image with all its manifests and blobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LockedImage {
    /// The canonical reference.
    #[serde(serialize_with = "text", deserialize_with = "reference")]
    pub reference: Reference,
    /// Which of the digests `original` and `filtered` is published under the name.
    pub index: Choice,
    /// Digest of the image at its source.
    pub original: Digest,
    /// Digest of the index without the dropped platforms, if any were dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filtered: Option<Digest>,
    /// Platforms that were transferred.
    pub kept: Vec<PlatformRecord>,
    /// Platforms that were not transferred.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<PlatformRecord>,
    /// Blobs that the image references and that were not transferred.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// Referrers that were transferred with the image; a subject comes before its referrers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub referrers: Vec<LockedReferrer>,
    /// Referrers of the image that were not transferred.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out_referrers: Vec<LeftOut>,
    /// Every manifest once, including referrers.
    pub manifests: Vec<Piece>,
    /// Every blob once.
    pub blobs: Vec<Piece>,
}

impl LockedImage {
    pub(super) fn new(image: &InventoryImage) -> Result<Self> {
        let content = &image.content;
        Ok(Self {
            reference: image.reference.parse()?,
            index: image.index,
            original: content.original.clone(),
            filtered: content.filtered.clone(),
            kept: content.kept.to_vec(),
            dropped: content.dropped.to_vec(),
            left_out: content.left_out.to_vec(),
            referrers: content.attached.clone(),
            left_out_referrers: content.left_out_referrers.to_vec(),
            manifests: content.manifests.clone(),
            blobs: content.blobs.clone(),
        })
    }

    /// Lists the manifests and blobs of a tree, including its referrers.
    fn from_tree(tree: &ImageTree) -> Self {
        let piece = |descriptor: &Descriptor| Piece {
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            media_type: (&*descriptor.media_type).into(),
        };
        let manifests = tree.manifests();
        Self {
            reference: tree.source.clone(),
            index: tree.choice,
            original: tree.original.root.digest().clone(),
            filtered: tree.filtered.as_ref().map(|filtered| filtered.root.digest().clone()),
            kept: tree.kept.to_vec(),
            dropped: tree.dropped.to_vec(),
            left_out: tree.left_out.to_vec(),
            referrers: LockedReferrer::from_tree(tree),
            left_out_referrers: tree.left_out_referrers.to_vec(),
            manifests: manifests.iter().map(|manifest| piece(manifest.descriptor())).collect(),
            blobs: tree.blobs().iter().map(|blob| piece(&blob.descriptor)).collect(),
        }
    }

    /// Lists the manifests and blobs of these trees.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if the lists take more memory than this run has left, or more text than a lock may have.
    pub(crate) fn from_trees<'a>(trees: impl Iterator<Item = &'a ImageTree>, budget: &Budget) -> Result<Vec<Self>> {
        let mut held = budget.hold(0)?;
        let mut together = 0;
        let locked = trees.map(|tree| {
            let locked = Self::from_tree(tree);
            together += locked.memory();
            if together > MOST_IN_REPORT {
                return Err(Error::new(
                    Kind::TooLarge,
                    "too large to handle: the images are made of too many pieces",
                ));
            }
            held.grow(locked.memory())?;
            Ok(locked)
        });
        let locked = locked.collect::<Result<_>>()?;
        held.keep();
        Ok(locked)
    }

    /// Returns whether the name states no digest, or that of the image, before or after platforms were left out.
    pub(super) fn has_the_digest_of_its_name(&self) -> bool {
        let own = [Some(&self.original), self.filtered.as_ref()];
        self.reference.digest().is_none_or(|stated| own.contains(&Some(stated)))
    }

    /// Returns whether the manifests include each referrer and its subject, and each tag of cosign is that of its subject.
    pub(super) fn includes_its_referrers(&self) -> bool {
        let known: HashSet<&Digest> = self.manifests.iter().map(|manifest| &manifest.digest).collect();
        self.referrers.iter().all(|referrer| {
            let is_known = known.contains(&referrer.digest) && known.contains(&referrer.subject);
            is_known && referrer.has_the_tag_of_its_subject()
        })
    }

    /// Returns the approximate memory in bytes that the image and its text take.
    fn memory(&self) -> u64 {
        const LISTED: usize = 400;
        let pieces = self.manifests.len() + self.blobs.len();
        let referrers = self.referrers.len() + self.left_out_referrers.len();
        let others = self.kept.len() + self.dropped.len() + self.left_out.len();
        ((pieces + referrers + others + 2) * LISTED) as u64
    }
}

fn text<S: Serializer>(reference: &Reference, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(reference)
}

fn reference<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Reference, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}
