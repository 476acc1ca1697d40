//! The images of one or several bundles, with the sizes of all that they are made of.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::details::Details;
use crate::error::Error;
use crate::image::digest::Digest;
use crate::image::tree::{Choice, LeftOut, PlatformRecord, UNKNOWN};
use crate::text::{Warnings, quote};

/// What bundles hold.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// The usable images, in the order of the bundles and of each one's index.
    pub images: Vec<InventoryImage>,
    /// Images, files and folders that are listed or given and cannot be used.
    pub broken: Vec<Unusable>,
    /// Images that the bundles say are missing.
    pub missing: Vec<Absent>,
    /// Blobs that no image names.
    pub unreferenced: Vec<Piece>,
    /// Whether a bundle has the list of images that `docker load` reads.
    pub docker_manifest: bool,
    /// What is odd about the bundles, though it does no harm.
    pub warnings: Warnings,
}

/// One image under one name.
#[derive(Debug, Clone)]
pub struct InventoryImage {
    /// The canonical reference.
    pub reference: String,
    /// The bundle that lists it.
    pub archive: Arc<str>,
    /// Which of its two indexes goes under the name.
    pub index: Choice,
    /// The reference of the image that this one belongs to, such as the one that a signature is for.
    pub belongs_to: Option<String>,
    /// What it is made of. Images that differ in nothing but their names share it.
    pub content: Arc<Content>,
}

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct Content {
    /// The digest that the source has.
    pub original: Digest,
    /// The digest without the dropped platforms, where some were dropped.
    pub filtered: Option<Digest>,
    /// Whether the manifest was built from an archive that has none, so that the digest is new.
    pub rebuilt: bool,
    /// Platforms in the bundle.
    pub kept: Arc<[PlatformRecord]>,
    /// Platforms that the source has and the bundle does not.
    pub dropped: Arc<[PlatformRecord]>,
    /// Blobs that the image names and the bundle does not have.
    pub left_out: Arc<[LeftOut]>,
    /// Manifests that refer to the image and go with it, such as signatures; the media type is what each is.
    pub referrers: Vec<LeftOut>,
    /// Manifests that refer to the image and do not go with it.
    pub left_out_referrers: Arc<[LeftOut]>,
    /// Every manifest once, children before parents.
    pub manifests: Vec<Piece>,
    /// Every blob once, in the order in which manifests name them.
    pub blobs: Vec<Piece>,
    /// What each manifest that is no index is made of.
    pub parts: Vec<Part>,
    /// Its sums, once they were asked for.
    pub(crate) sums: Sums,
}

/// Sums of a content. One content may have thousands of names, and each of them asks for its sums.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sums {
    bytes: OnceLock<u64>,
    layers: OnceLock<usize>,
}

/// A manifest or a blob.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Piece {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes, as it is stored and transferred.
    pub size: u64,
    /// Its media type.
    pub media_type: Arc<str>,
}

/// One manifest with a config and layers. Numbers are places in [`Content::manifests`] and [`Content::blobs`].
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// The manifest.
    pub manifest: usize,
    /// The config; nothing for an artifact without one.
    pub config: Option<usize>,
    /// The layers, in order; one may be there more than once.
    pub layers: Vec<usize>,
    /// The platform, as a place in [`Content::kept`].
    pub platform: Option<usize>,
    /// What the config says to people, where that was asked for.
    pub details: Option<Arc<Details>>,
    /// Whether it is none of the image itself, but refers to it or to what does.
    pub is_referrer: bool,
}

/// Something that cannot be used.
#[derive(Debug, Clone)]
pub struct Unusable {
    /// The image, or the file or folder.
    pub label: String,
    /// Why.
    pub error: Arc<Error>,
}

/// An image that was asked for when a bundle was made and is not in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Absent {
    /// Its reference.
    pub reference: String,
    /// Why, in one word.
    pub reason: String,
}

/// What a bundle says of an image that is missing from it, in words. A reason that is not known is quoted.
pub fn missing_in_words(reference: &str, reason: &str) -> String {
    let why = match reason {
        "notfound" => "it was not found",
        "unauthorized" => "a login was required",
        "denied" => "the account had no access",
        "ratelimited" => "a pull limit was reached",
        "network" => "the connection failed",
        "server" => "the registry failed",
        "integrity" => "its content did not match its digests",
        "malformed" => "it broke the rules of its format",
        "toolarge" => "it was too large",
        other => &quote(&other).to_string(),
    };
    format!("the bundle says that `{}` is missing from it: {why}", quote(&reference))
}

impl InventoryImage {
    /// The digest that goes under the name.
    pub fn digest(&self) -> &Digest {
        match (self.index, &self.content.filtered) {
            (Choice::Filtered, Some(filtered)) => filtered,
            _ => &self.content.original,
        }
    }
}

impl Content {
    /// Every manifest and blob.
    pub fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.manifests.iter().chain(&self.blobs)
    }

    /// The bytes of all manifests and blobs, each once.
    pub fn bytes(&self) -> u64 {
        let sum = || self.pieces().fold(0, |sum: u64, piece| sum.saturating_add(piece.size));
        *self.sums.bytes.get_or_init(sum)
    }

    /// How many different layers it has, without those of what refers to it.
    pub fn layers(&self) -> usize {
        *self.sums.layers.get_or_init(|| {
            let own = || self.parts.iter().filter(|part| !part.is_referrer);
            let configs: HashSet<usize> = own().filter_map(|part| part.config).collect();
            let layers: HashSet<usize> = own().flat_map(|part| part.layers.iter().copied()).collect();
            layers.difference(&configs).count()
        })
    }

    /// What people call a part: its platform, or what it is where it refers to the image.
    pub fn label_of(&self, part: &Part) -> &str {
        let digest = self.manifests.get(part.manifest).map(|manifest| &manifest.digest);
        let mut referrers = self.referrers.iter();
        match (
            part.platform,
            referrers.find(|referrer| Some(&referrer.digest) == digest),
        ) {
            (None, Some(referrer)) => &referrer.media_type,
            _ => self.platform_of(part),
        }
    }

    /// The platform that a part is for, as the index or its config states it.
    pub fn platform_of(&self, part: &Part) -> &str {
        let kept = part.platform.and_then(|place| self.kept.get(place));
        kept.map_or(UNKNOWN, |kept| &kept.platform)
    }
}
