//! The images, referrers and missing images that one archive lists.

use std::hash::Hash;
use std::sync::Arc;

use super::broken::{BrokenArchive, BrokenImage};
use crate::bundle::record::{ImageRecord, Missing};
use crate::error::Error;
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::text::Warnings;

/// An image of a bundle.
#[derive(Debug, Clone)]
pub struct BundledImage {
    /// Name of the image.
    pub name: Reference,
    /// Root descriptor, from `index.json` or built from a docker-archive.
    pub root: Descriptor,
    /// The record of the image, if the bundle was made by this program.
    pub record: Option<Arc<ImageRecord>>,
    /// Whether the manifest was built by this program from a docker-archive, so that its digest is new.
    pub rebuilt: bool,
    /// The archive that lists the image.
    pub archive: String,
    /// Place of the image in the archive, counted from 0:
    /// first the entries of `index.json`, then those of `manifest.json`.
    pub place: usize,
    /// The image that this signature, attestation or SBOM belongs to;
    /// `None` for an image of its own.
    pub(crate) attached_to: Option<Reference>,
    /// Whether platforms may be missing without making the image broken: containerd saves an
    /// unchanged index with only the platforms that it has.
    pub(crate) may_be_sparse: bool,
}

impl BundledImage {
    /// Adds the name of the image and of the archive to an error.
    pub(crate) fn place_error(&self, error: Error) -> Error {
        error.for_image(format!("`{}` in `{}`", self.name, self.archive))
    }

    /// Returns everything that the image's tree depends on:
    /// images with equal values differ only in their names.
    pub(crate) fn content(&self) -> impl Eq + Hash + '_ {
        let record = self.record.as_ref().map(|record| record.content());
        let attached = self.attached_to.is_some();
        (&self.root, self.may_be_sparse, self.rebuilt, attached, record)
    }
}

/// A manifest without a name that refers to another manifest, such as a signature.
#[derive(Debug, Clone)]
pub struct Referrer {
    /// Digest of the subject.
    pub subject: Digest,
    /// Root descriptor of the referrer.
    pub root: Descriptor,
    /// The archive that lists the referrer.
    pub archive: String,
}

/// The content that one archive lists.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) images: Vec<BundledImage>,
    /// Images that are listed and not usable.
    pub(super) broken: Vec<BrokenImage>,
    pub(super) referrers: Vec<Referrer>,
    pub(super) missing: Vec<Missing>,
    /// Whether the archive looks like a bundle of this program whose record is missing.
    pub(super) lacks_record: bool,
    /// Images that the record lists and the index does not.
    pub(super) unlisted: Vec<String>,
    /// For an archive with blobs and no images: why the archive cannot be used on its own.
    pub(super) holds_only_blobs: Option<BrokenArchive>,
    /// Number of entries of the index.
    pub(super) places: usize,
    /// The readable entries of the index.
    pub(super) listed: Vec<Descriptor>,
    /// Warnings about entries that contradict one another.
    pub(super) warnings: Warnings,
}
