//! The images of one or several bundles, with the sizes of all their manifests and blobs.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::details::Details;
use super::locked_referrer::LockedReferrer;
use crate::error::Error;
use crate::image::digest::Digest;
use crate::image::media_type;
use crate::image::tree::{Choice, LeftOut, PlatformRecord, UNKNOWN};
use crate::text::{Warnings, quote};

/// The content of one or several bundles.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// The usable images, in the order of the bundles and of their indexes.
    pub images: Vec<InventoryImage>,
    /// Images, files and folders that cannot be used.
    pub broken: Vec<Unusable>,
    /// Images that the bundles record as missing.
    pub missing: Vec<Absent>,
    /// Blobs that no image references.
    pub unreferenced: Vec<Piece>,
    /// Whether the only file is a supplement, which has blobs and no image.
    pub is_supplement: bool,
    /// Whether a bundle has a `manifest.json`, which `docker load` reads.
    pub docker_manifest: bool,
    /// Harmless irregularities of the bundles.
    pub warnings: Warnings,
}

/// An image under one of its names.
#[derive(Debug, Clone)]
pub struct InventoryImage {
    /// The canonical reference.
    pub reference: String,
    /// The bundle that lists the image.
    pub archive: Arc<str>,
    /// Which of the digests `original` and `filtered` is published under the name.
    pub index: Choice,
    /// Reference of the image that this image belongs to: for a signature, the signed image.
    pub belongs_to: Option<String>,
    /// The content of the image. Images that differ only in their names share one content.
    pub content: Arc<Content>,
}

/// The manifests and blobs of an image.
#[derive(Debug, Clone)]
pub struct Content {
    /// Digest of the image at its source.
    pub original: Digest,
    /// Digest of the index without the dropped platforms, if any were dropped.
    pub filtered: Option<Digest>,
    /// Whether the manifest was built by this program, from an archive without manifests,
    /// so that the digest is new.
    pub rebuilt: bool,
    /// Platforms in the bundle.
    pub kept: Arc<[PlatformRecord]>,
    /// Platforms that the source has and the bundle omits.
    pub dropped: Arc<[PlatformRecord]>,
    /// Blobs that the image references and the bundle omits.
    pub left_out: Arc<[LeftOut]>,
    /// Referrers of the image in the bundle, such as signatures;
    /// the media type holds the artifact type.
    pub referrers: Vec<LeftOut>,
    /// The same referrers with their subjects, one for each way in which a registry finds them;
    /// a subject comes before its referrers.
    pub(crate) attached: Vec<LockedReferrer>,
    /// Referrers of the image that the bundle omits.
    pub left_out_referrers: Arc<[LeftOut]>,
    /// Every manifest once, children before parents.
    pub manifests: Vec<Piece>,
    /// Every blob once, in the order in which manifests reference the blobs.
    pub blobs: Vec<Piece>,
    /// Config and layers of each manifest that is not an index.
    pub parts: Vec<Part>,
    /// Sums that are computed on first use.
    pub(crate) sums: Sums,
}

/// Cached sums of a content:
/// a content may have thousands of names, and each name asks for the sums.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sums {
    bytes: OnceLock<u64>,
    layers: OnceLock<usize>,
}

/// A manifest or a blob.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Piece {
    /// Digest of the manifest or blob.
    pub digest: Digest,
    /// Size in bytes, as stored and transferred.
    pub size: u64,
    /// Media type of the manifest or blob.
    pub media_type: Arc<str>,
}

/// A manifest with a config and layers.
/// Numbers are indices into [`Content::manifests`] and [`Content::blobs`].
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// Index of the manifest.
    pub manifest: usize,
    /// Index of the config; `None` for an artifact without a config.
    pub config: Option<usize>,
    /// Indices of the layers, in order; a layer may appear more than once.
    pub layers: Vec<usize>,
    /// The platform, as an index into [`Content::kept`].
    pub platform: Option<usize>,
    /// Texts of the config, if requested.
    pub details: Option<Arc<Details>>,
    /// Whether this manifest is a referrer of the image or belongs to a referrer,
    /// and is not part of the image itself.
    pub is_referrer: bool,
}

/// An image, file or folder that cannot be used.
#[derive(Debug, Clone)]
pub struct Unusable {
    /// Name of the image, file or folder.
    pub label: String,
    /// The reason.
    pub error: Arc<Error>,
}

/// An image that was requested for a bundle and is not in the bundle.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Absent {
    /// Reference of the image.
    pub reference: String,
    /// The reason, in one word.
    pub reason: String,
}

/// Describes in words that an image is missing from a bundle, and why.
/// An unknown reason is quoted.
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
    /// Returns the digest published under the name.
    pub fn digest(&self) -> &Digest {
        match (self.index, &self.content.filtered) {
            (Choice::Filtered, Some(filtered)) => filtered,
            _ => &self.content.original,
        }
    }
}

impl Content {
    /// Returns every manifest and blob.
    pub fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.manifests.iter().chain(&self.blobs)
    }

    /// Returns the total size of all manifests and blobs in bytes, each counted once.
    pub fn bytes(&self) -> u64 {
        let sum = || self.pieces().fold(0, |sum: u64, piece| sum.saturating_add(piece.size));
        *self.sums.bytes.get_or_init(sum)
    }

    /// Returns the number of different layers of the image itself, without those of its referrers.
    pub fn layers(&self) -> usize {
        *self.sums.layers.get_or_init(|| {
            let own = || self.parts.iter().filter(|part| !part.is_referrer);
            let configs: HashSet<usize> = own().filter_map(|part| part.config).collect();
            let layers: HashSet<usize> = own().flat_map(|part| part.layers.iter().copied()).collect();
            layers.difference(&configs).count()
        })
    }

    /// Returns a label for a part: its platform, or the artifact type of a referrer.
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

    /// Returns the platforms in the bundle in words: an artifact has none, and is named by the media type of its config.
    pub fn platform_names(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let parts = self.parts.iter();
        let configs: HashMap<usize, usize> = parts.filter_map(|part| Some((part.platform?, part.config?))).collect();
        self.kept.iter().enumerate().map(move |(place, kept)| {
            let config = configs.get(&place).and_then(|config| self.blobs.get(*config));
            match config.filter(|config| kept.platform == UNKNOWN && !media_type::is_image_config(&config.media_type)) {
                Some(config) => format!("artifact {}", config.media_type).into(),
                None => kept.platform.as_str().into(),
            }
        })
    }

    /// Returns the platform of a part, as the index or the config states it.
    pub fn platform_of(&self, part: &Part) -> &str {
        let kept = part.platform.and_then(|place| self.kept.get(place));
        kept.map_or(UNKNOWN, |kept| &kept.platform)
    }
}
