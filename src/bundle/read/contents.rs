//! What one archive lists: images, what refers to them, and what is missing.

use std::hash::Hash;
use std::sync::Arc;

use super::broken::{BrokenArchive, BrokenImage};
use crate::bundle::record::{ImageRecord, Missing};
use crate::error::Error;
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::reference::Reference;

/// An image that a bundle holds.
#[derive(Debug, Clone)]
pub struct BundledImage {
    /// The name it goes by.
    pub name: Reference,
    /// The root descriptor, from `index.json` (or made from a docker-archive).
    pub root: Descriptor,
    /// What `docker-mirror.json` says about it, where the bundle is ours.
    pub record: Option<Arc<ImageRecord>>,
    /// Whether the manifest was built here from a docker-archive, so that its digest is new.
    pub rebuilt: bool,
    /// The archive that lists it.
    pub archive: String,
    /// Where that archive lists it, counted from 0: in `index.json`, and behind that in `manifest.json`.
    pub place: usize,
    /// The image that it belongs to, where it is a signature, an attestation or an SBOM that belongs to one.
    pub(crate) attached_to: Option<Reference>,
    /// Whether platforms may be absent without anything being broken: containerd saves an index as it is with only the
    /// platforms that it has.
    pub(crate) may_be_sparse: bool,
}

impl BundledImage {
    /// Says which image an error is about.
    pub(crate) fn place_error(&self, error: Error) -> Error {
        error.for_image(format!("`{}` in `{}`", self.name, self.archive))
    }

    /// All that its tree depends on; images of which this is equal differ in nothing but their names.
    pub(crate) fn content(&self) -> impl Eq + Hash + '_ {
        let record = self.record.as_ref().map(|record| record.content());
        let attached = self.attached_to.is_some();
        (&self.root, self.may_be_sparse, self.rebuilt, attached, record)
    }
}

/// A manifest without a name that refers to another one, such as a signature.
#[derive(Debug, Clone)]
pub struct Referrer {
    /// The manifest that it refers to.
    pub subject: Digest,
    /// Its own root descriptor.
    pub root: Descriptor,
    /// The archive that lists it.
    pub archive: String,
}

/// What one archive lists.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) images: Vec<BundledImage>,
    /// Images that are listed and not usable.
    pub(super) broken: Vec<BrokenImage>,
    pub(super) referrers: Vec<Referrer>,
    pub(super) missing: Vec<Missing>,
    /// Whether it looks like a bundle of this program but for the record, which is not there.
    pub(super) lacks_record: bool,
    /// What the record lists and the index does not.
    pub(super) unlisted: Vec<String>,
    /// Where it lists no image and has blobs: why it cannot be used by itself.
    pub(super) holds_only_blobs: Option<BrokenArchive>,
    /// Number of entries of the index.
    pub(super) places: usize,
    /// The entries of the index that can be read.
    pub(super) listed: Vec<Descriptor>,
}
