//! One image in a lock.

use serde::{Deserialize, Serialize, Serializer};

use super::images::{InventoryImage, Piece};
use crate::error::{Error, Kind, Result};
use crate::image::budget::Budget;
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::tree::{Choice, ImageTree, LeftOut, PlatformRecord};

/// Memory in bytes that all images of a report's lock may take: the text of more could not be read again as a lock.
const MOST_IN_REPORT: u64 = 64 << 20;

/// One image with all that it is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LockedImage {
    /// The canonical reference.
    #[serde(serialize_with = "text", deserialize_with = "reference")]
    pub reference: Reference,
    /// Which index goes under the name.
    pub index: Choice,
    /// The digest that the source has.
    pub original: Digest,
    /// The digest without the dropped platforms, where some were dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filtered: Option<Digest>,
    /// Platforms that were moved.
    pub kept: Vec<PlatformRecord>,
    /// Platforms that were not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<PlatformRecord>,
    /// Blobs that the image names and that were not moved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// What refers to the image and was not moved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out_referrers: Vec<LeftOut>,
    /// Every manifest once, those that refer to the image included.
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
            left_out_referrers: content.left_out_referrers.to_vec(),
            manifests: content.manifests.clone(),
            blobs: content.blobs.clone(),
        })
    }

    /// What a tree is made of, with what refers to it.
    fn from_tree(tree: &ImageTree) -> Self {
        let piece = |descriptor: &Descriptor| Piece {
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            media_type: descriptor.media_type.as_str().into(),
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
            left_out_referrers: tree.left_out_referrers.to_vec(),
            manifests: manifests.iter().map(|manifest| piece(manifest.descriptor())).collect(),
            blobs: tree.blobs().iter().map(|blob| piece(&blob.descriptor)).collect(),
        }
    }

    /// What these trees are made of.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if it takes more memory than this run has left, or more text than a lock may have.
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

    /// About how many bytes of memory it takes, with its text.
    fn memory(&self) -> u64 {
        const LISTED: usize = 400;
        let pieces = self.manifests.len() + self.blobs.len();
        let others = self.kept.len() + self.dropped.len() + self.left_out.len() + self.left_out_referrers.len();
        ((pieces + others + 2) * LISTED) as u64
    }
}

fn text<S: Serializer>(reference: &Reference, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(reference)
}

fn reference<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Reference, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}
