//! The images, referrers and missing images that one archive lists.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use super::archive::{Archive, blob_name};
use super::broken::{BrokenArchive, BrokenImage};
use super::docker::items::{self, Items};
use super::store::Store;
use crate::bundle::record::{self, EDITED, ImageRecord, Missing};
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::text::{Warnings, quote};

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

/// A referrer that the record of a bundle states and its index does not list.
#[derive(Debug, Clone)]
pub(crate) struct LostReferrer {
    /// The image that the referrer goes with, as written in the record.
    pub(crate) image: String,
    /// Digest of the referrer.
    pub(crate) digest: Digest,
    /// Digest of the subject.
    pub(crate) subject: Digest,
    /// Artifact type of the referrer.
    pub(crate) artifact_type: String,
    /// The archive with the record.
    pub(crate) archive: String,
}

impl LostReferrer {
    /// Returns the error for this referrer.
    pub(crate) fn error(&self) -> Error {
        let what = format!(
            "`{}`: `{}` lists {} (`{}`), which belongs to `{}`, and `index.json` does not",
            quote(&self.archive),
            record::MEMBER,
            self.digest,
            quote(&self.artifact_type),
            quote(&self.image)
        );
        Error::new(Kind::Malformed, what).with_hint(EDITED)
    }
}

/// A document that cannot be read and that no image needs, or that has other bytes than when it was written.
#[derive(Debug)]
pub(super) struct BadDocument {
    pub(super) archive: String,
    pub(super) member: &'static str,
    /// Offset of the document in the archive, if the archive has the document.
    pub(super) offset: Option<u64>,
    pub(super) error: Error,
}

impl BadDocument {
    pub(super) fn new(archive: &Archive, member: &'static str, error: Error) -> Self {
        Self {
            archive: archive.label.clone(),
            member,
            offset: archive.files.get(member).map(|place| place.offset),
            error: error.with_hint(EDITED),
        }
    }
}

impl Contents {
    /// Whether a document has a fault that says more than that its bytes are others.
    pub(super) fn has_faults(&self) -> bool {
        let is_unreadable = |document: &BadDocument| document.error.kind() != Kind::Integrity;
        // What only lacks a name is verified like any other image, and is no fault.
        self.broken.iter().any(|broken| broken.root.is_none())
            || !self.lost_referrers.is_empty()
            || self.bad_documents.iter().any(is_unreadable)
    }
}

/// The `manifest.json` of an archive that also has an `index.json`.
#[derive(Debug)]
pub(super) struct DockerList {
    pub(super) archive: String,
    /// Offset of the document in the archive.
    pub(super) offset: u64,
    pub(super) items: Items,
    /// Whether the archive is a bundle of this program, whose `manifest.json` follows from its `index.json`.
    pub(super) is_own: bool,
    /// Paths that lead to no member, of those that are not the names of blobs.
    pub(super) absent: HashSet<String>,
}

impl DockerList {
    /// Keeps `manifest.json` for a comparison with the images of `index.json`; `None` for an archive that is not verified.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if the list takes more memory than the budget has left.
    pub(super) fn new(archive: &Archive, store: &Store, items: Items) -> Result<Option<Self>> {
        let place = archive.files.get(items::MEMBER);
        let Some(place) = place.filter(|_| archive.is_verified && !items.is_empty()) else {
            return Ok(None);
        };
        let taken = store.budget().take(6 * place.size);
        taken.map_err(|e| e.context(archive.describe(items::MEMBER)))?;
        let listed = items.all().filter_map(|(_, item)| item.ok());
        let paths = listed.flat_map(|item| std::iter::once(&item.config).chain(&item.layers));
        let absent = paths.filter(|path| blob_name(path).is_none() && archive.follow(path, store).is_err());
        Ok(Some(Self {
            absent: absent.cloned().collect(),
            archive: archive.label.clone(),
            offset: place.offset,
            is_own: archive.files.contains_key(record::MEMBER),
            items,
        }))
    }
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
    /// Whether an archive with blobs alone is a supplement of this program.
    pub(super) is_supplement: bool,
    /// Number of entries of the index.
    pub(super) places: usize,
    /// The readable entries of the index.
    pub(super) listed: Vec<Descriptor>,
    /// Warnings about entries that contradict one another.
    pub(super) warnings: Warnings,
    /// Referrers that the record states and the index does not list.
    pub(super) lost_referrers: Vec<LostReferrer>,
    /// Documents that cannot be read and that no image needs, each with the reason.
    pub(super) bad_documents: Vec<BadDocument>,
    /// The content of `manifest.json`, for a comparison with the images of the index.
    pub(super) docker_list: Option<DockerList>,
}
