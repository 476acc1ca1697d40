//! An image as a whole: its reference, its manifests, and the blobs that the manifests name.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::descriptor::{BROKEN, Descriptor};
use super::digest::Digest;
use super::manifest::RawManifest;
use super::platform::{Platform, PlatformFilter, PlatformPattern};
use super::reference::Reference;
use super::referrer::{artifact_type, tag_beside};
use crate::error::{Error, Kind};
use crate::text::{counted, few, quote};

/// The user's choice for an index from which platforms are dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexMode {
    /// Filtered for an image requested by tag, sparse for an image pinned by digest.
    #[default]
    Auto,
    /// Dropped platforms are removed from the index, which gets a new digest.
    Filtered,
    /// The index keeps its bytes and digest, although some listed manifests are absent.
    Sparse,
}

impl FromStr for IndexMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => Ok(Self::Auto),
            "filtered" => Ok(Self::Filtered),
            "sparse" => Ok(Self::Sparse),
            _ => Err(
                Error::new(Kind::Usage, format!("invalid index mode `{}`", quote(&text)))
                    .with_hint("one of `auto`, `filtered`, `sparse`"),
            ),
        }
    }
}

/// The form of an index that is pushed under an image's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// The original index, from which nothing was dropped.
    Whole,
    /// The index without the dropped platforms.
    Filtered,
    /// The original index, although the manifests of dropped platforms are absent.
    Sparse,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole => "whole",
            Self::Filtered => "filtered",
            Self::Sparse => "sparse",
        })
    }
}

/// Maximum depth of nested indexes, far above the depth of real images.
pub(crate) const MAX_DEPTH: usize = 8;

/// Maximum number of manifests of one image.
pub(crate) const MAX_NODES: usize = 10_000;

/// Maximum total size of the blobs of one image, in bytes. No common file system holds a larger bundle, and the total size of
/// thousands of such images still fits a file offset (`i64`).
pub(crate) const MAX_TOTAL: u64 = 256 << 40;

/// Returns a list that its clones share. Empty lists, of which a run has several for each image, take no memory.
pub(crate) fn shared<T>(list: Vec<T>) -> Arc<[T]> {
    match list.is_empty() {
        true => Arc::default(),
        false => list.into(),
    }
}

/// A root manifest with all available manifests below it.
#[derive(Debug, Clone)]
pub struct Variant {
    /// Manifest that a tag points to.
    pub root: Arc<RawManifest>,
    /// Manifests below the root, which are pushed before the root: each once, children before their parents.
    pub below: Arc<[Arc<RawManifest>]>,
}

impl Variant {
    /// Creates a variant from a root and the manifests below it, children before their parents. A manifest that appears
    /// twice keeps its first position, which is before all its parents.
    pub fn new(root: Arc<RawManifest>, mut below: Vec<Arc<RawManifest>>) -> Self {
        let mut seen = HashSet::new();
        below.retain(|manifest| seen.insert(manifest.digest().clone()));
        let below = shared(below);
        Self { root, below }
    }

    /// Returns every manifest, children before their parents, the root last.
    pub fn all(&self) -> impl Iterator<Item = &Arc<RawManifest>> {
        self.below.iter().chain(std::iter::once(&self.root))
    }
}

/// A platform of an image, and the digest of its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlatformRecord {
    /// Platform as `OS/ARCH[/VARIANT]`; `attestation` for BuildKit's `unknown/unknown`; `index` for a nested index of which
    /// nothing is carried; `unknown` if nothing states a platform.
    pub platform: String,
    /// Digest of the manifest.
    pub digest: Digest,
}

/// Returns the labels of the platforms in a list, without nested indexes and attestations.
pub fn platforms_alone(records: &[PlatformRecord]) -> impl Iterator<Item = &str> {
    let labels = records.iter().map(|record| &*record.platform);
    labels.filter(|label| ![INDEX, ATTESTATION].contains(label))
}

/// Returns the numbers of platforms, nested indexes and attestations in a list.
pub fn platform_counts(records: &[PlatformRecord]) -> [u64; 3] {
    let platforms = platforms_alone(records).count();
    let attestations = records.iter().filter(|record| record.platform == ATTESTATION).count();
    [platforms, records.len() - platforms - attestations, attestations].map(|count| count as u64)
}

/// Returns the result of [`platform_counts`] in words, without those that are 0.
pub fn counts_in_words(counts: [u64; 3]) -> impl Iterator<Item = String> {
    let words = [
        ("platform", "platforms"),
        ("nested index", "nested indexes"),
        ("attestation", "attestations"),
    ];
    let counts = counts.into_iter().zip(words).filter(|(count, _)| *count > 0);
    counts.map(|(count, (one, many))| counted(count, one, many))
}

/// Returns the first platforms of a list as text, with the numbers of nested indexes and attestations at the end.
pub fn platform_list(records: &[PlatformRecord]) -> String {
    let [_, indexes, attestations] = platform_counts(records);
    let mut parts = vec![few(platforms_alone(records).map(quote))];
    parts.retain(|part| !part.is_empty());
    parts.extend(counts_in_words([0, indexes, attestations]));
    parts.join(", ")
}

/// A blob or referrer that is not carried.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftOut {
    /// Digest of the blob or referrer.
    pub digest: Digest,
    /// Media type or artifact type.
    pub media_type: String,
    /// Reason why the blob or referrer is not carried.
    pub reason: String,
}

/// A referrer that is carried with an image: a signature, an attestation or an SBOM.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// Manifest of the referrer, with all manifests below it.
    pub variant: Variant,
    /// Digest of the subject: a manifest of the image or of another attachment.
    pub subject: Digest,
    /// Way in which a registry finds the referrer.
    pub lookup: Lookup,
}

/// The way in which a registry finds a referrer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lookup {
    /// By the `subject` field of the referrer.
    Subject,
    /// By a tag made of the subject's digest and this suffix: `sha256-HEX.sig`.
    Tag(&'static str),
}

impl Attachment {
    /// Returns the artifact type of the attachment.
    pub fn artifact_type(&self) -> String {
        artifact_type(&self.variant.root, self.lookup != Lookup::Subject)
    }

    /// Returns the entry for this attachment in a list of what is not carried.
    pub(crate) fn to_left_out(&self, why: &str) -> LeftOut {
        LeftOut {
            digest: self.variant.root.digest().clone(),
            media_type: self.artifact_type(),
            reason: format!("it refers to {}: {why}", self.subject),
        }
    }

    /// Returns a text that says that the attachment refers to an unfiltered index, of which not all platforms are carried.
    pub(crate) fn describe_unfiltered(&self, original: &Digest) -> String {
        let kind = self.artifact_type();
        let signs = ["signature", "sigstore", "simplesigning", "notary"];
        match self.lookup == Lookup::Tag("sig") || signs.iter().any(|word| kind.contains(word)) {
            true => format!("it signs the unfiltered index {original}"),
            false => format!("it refers to the unfiltered index {original}"),
        }
    }

    /// Returns the tag of the attachment at a registry, if it has a tag.
    pub fn tag(&self) -> Option<String> {
        match self.lookup {
            Lookup::Subject => None,
            Lookup::Tag(suffix) => Some(tag_beside(&self.subject, suffix)),
        }
    }
}

/// Returns whether a manifest is already an attachment with this `lookup`.
///
/// A manifest may be an attachment twice: by its stated subject, and under a tag for `subject`.
pub(crate) fn is_attached(attachments: &[Attachment], root: &Digest, subject: &Digest, lookup: Lookup) -> bool {
    let mut same = attachments.iter().filter(|it| it.variant.root.digest() == root);
    same.any(|it| it.lookup == lookup && (lookup == Lookup::Subject || it.subject == *subject))
}

/// Returns the attachments that refer to these manifests, directly or through another attachment. In `attachments` and in
/// the result, a subject comes before its referrers.
pub(crate) fn attachments_of_manifests<'a>(
    attachments: &'a [Attachment],
    manifests: impl Iterator<Item = &'a Arc<RawManifest>>,
) -> Vec<&'a Attachment> {
    let mut subjects: HashSet<&Digest> = manifests.map(|manifest| manifest.digest()).collect();
    let mut found = Vec::new();
    for attachment in attachments {
        if subjects.contains(&attachment.subject) {
            subjects.extend(attachment.variant.all().map(|manifest| manifest.digest()));
            found.push(attachment);
        }
    }
    found
}

/// An image in transfer: its name, manifests and attachments. A clone shares everything except the name, so that an image
/// may have many names.
#[derive(Debug, Clone)]
pub struct ImageTree {
    /// Reference by which the image was requested.
    pub source: Reference,
    /// Original root with its exact bytes. The manifests of dropped platforms are missing below it, which makes it sparse.
    pub original: Variant,
    /// Index without the dropped platforms; `None` if no platform was dropped.
    pub filtered: Option<Variant>,
    /// Form of the index that is pushed under the name.
    pub choice: Choice,
    /// Platforms carried, in the order of the index.
    pub kept: Arc<[PlatformRecord]>,
    /// Platforms not carried, in the order of the index. A nested index of which nothing is carried is one entry.
    pub dropped: Arc<[PlatformRecord]>,
    /// Blobs that are not carried.
    pub left_out: Arc<[LeftOut]>,
    /// Referrers that are carried with the image; a subject comes before its referrers.
    pub attachments: Arc<[Attachment]>,
    /// Referrers that are not carried.
    pub left_out_referrers: Arc<[LeftOut]>,
    /// Whether a referrer that should have been carried is missing.
    pub lacks_referrers: bool,
    /// Image configs that were read to find platforms, by digest.
    pub configs: BTreeMap<Digest, Bytes>,
}

impl ImageTree {
    /// Creates a tree for an image that is carried whole, with no platforms, attachments or configs recorded.
    pub fn new(source: Reference, original: Variant) -> Self {
        Self {
            source,
            original,
            filtered: None,
            choice: Choice::Whole,
            kept: Arc::default(),
            dropped: Arc::default(),
            left_out: Arc::default(),
            attachments: Arc::default(),
            left_out_referrers: Arc::default(),
            lacks_referrers: false,
            configs: BTreeMap::new(),
        }
    }

    /// Returns the variant that is pushed under the image's name.
    pub fn pushed(&self) -> &Variant {
        match (&self.choice, &self.filtered) {
            (Choice::Filtered, Some(filtered)) => filtered,
            _ => &self.original,
        }
    }

    /// Returns a key that is equal for trees that differ only in their names, and so name the same blobs.
    pub(crate) fn shared_content(&self) -> impl Eq + Hash + use<> {
        let below = |variant: &Variant| Arc::as_ptr(&variant.below).cast::<()>() as usize;
        let filtered = self.filtered.as_ref();
        (
            (self.original.root.digest().clone(), below(&self.original)),
            filtered.map(|filtered| (filtered.root.digest().clone(), below(filtered))),
            Arc::as_ptr(&self.left_out).cast::<()>() as usize,
            // Trees without attachments have no common allocation to compare, and compare equal in this part.
            (self.attachments.first()).map(|first| std::ptr::from_ref(first) as usize),
        )
    }

    /// Moves attachments whose subject is not pushed to the left-out referrers: a signature of the original index does not
    /// sign the filtered index.
    pub(crate) fn set_aside_unused_attachments(&mut self) {
        let used = attachments_of_manifests(&self.attachments, self.pushed().all());
        if used.len() == self.attachments.len() {
            return;
        }
        // Attachments are compared by address, since a manifest may be an attachment twice, of which only one is used.
        let kept: HashSet<*const Attachment> = used.iter().map(|used| std::ptr::from_ref(*used)).collect();
        let (used, unused): (Vec<&Attachment>, Vec<&Attachment>) = self
            .attachments
            .iter()
            .partition(|attachment| kept.contains(&std::ptr::from_ref(*attachment)));
        let original = self.original.root.digest();
        let unused = unused.into_iter().map(|unused| LeftOut {
            digest: unused.variant.root.digest().clone(),
            media_type: unused.artifact_type(),
            reason: format!("{}, which is not pushed", unused.describe_unfiltered(original)),
        });
        self.left_out_referrers = self.left_out_referrers.iter().cloned().chain(unused).collect();
        self.attachments = used.into_iter().cloned().collect();
    }

    /// Returns the number of attachments of each artifact type. A manifest that is an attachment twice counts once.
    pub(crate) fn referrer_counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        let mut seen = HashSet::new();
        let attachments = self.attachments.iter();
        for attachment in attachments.filter(|it| seen.insert(it.variant.root.digest())) {
            *counts.entry(attachment.artifact_type()).or_default() += 1;
        }
        counts
    }

    /// Returns the manifests of both variants, without attachments. A manifest of both variants appears twice.
    pub(crate) fn own_manifests(&self) -> impl Iterator<Item = &Arc<RawManifest>> {
        self.original.all().chain(self.filtered.iter().flat_map(Variant::all))
    }

    /// Chooses the form of the index to push, according to the user's `mode` and whether platforms were dropped.
    pub fn choose(&mut self, mode: IndexMode) {
        self.choice = match (&self.filtered, mode) {
            (None, _) => Choice::Whole,
            (Some(_), IndexMode::Filtered) => Choice::Filtered,
            (Some(_), IndexMode::Sparse) => Choice::Sparse,
            (Some(_), IndexMode::Auto) if self.source.digest().is_some() => Choice::Sparse,
            (Some(_), IndexMode::Auto) => Choice::Filtered,
        };
    }

    /// Returns the requested platforms that no carried manifest has. Returns none if a carried image or artifact has no known
    /// platform, since it may run on any platform.
    pub fn absent<'a>(&self, filter: &'a PlatformFilter) -> Vec<&'a PlatformPattern> {
        let PlatformFilter::Only(patterns) = filter else {
            return Vec::new();
        };
        let labels = self.kept.iter().filter(|kept| kept.platform != ATTESTATION);
        // A label may end with the version of the operating system, which a pattern cannot have.
        let kept: Option<Vec<PlatformPattern>> = labels
            .map(|kept| kept.platform.split(' ').next()?.parse().ok())
            .collect();
        let Some(kept) = kept else { return Vec::new() };
        let is_there = |pattern: &PlatformPattern| kept.iter().any(|kept| pattern.matches(kept.platform()));
        patterns.iter().filter(|pattern| !is_there(pattern)).collect()
    }

    /// Returns the memory of the tree that the budget has not counted yet, in bytes: its lists, and manifests created for it.
    pub(crate) fn uncounted_memory(&self) -> u64 {
        /// Overhead of one heap allocation for bookkeeping and rounding, in bytes.
        const ALLOCATION: usize = 32;
        let platforms = self.kept.iter().chain(self.dropped.iter());
        let platforms = platforms.map(|platform| size_of::<PlatformRecord>() + platform.platform.len() + ALLOCATION);
        let left_out = self.left_out.iter().chain(self.left_out_referrers.iter());
        let left_out =
            left_out.map(|left| size_of::<LeftOut>() + left.media_type.len() + left.reason.len() + 2 * ALLOCATION);
        let attachments = || self.attachments.iter().map(|attachment| &attachment.variant);
        let variants = || {
            std::iter::once(&self.original)
                .chain(&self.filtered)
                .chain(attachments())
        };
        let below: usize = variants()
            .map(|variant| variant.below.len() * size_of::<Arc<RawManifest>>())
            .sum();
        let attached = self.attachments.len() * size_of::<Attachment>();
        let lists = platforms.chain(left_out).sum::<usize>() + below + attached;
        let made = variants()
            .flat_map(Variant::all)
            .map(|manifest| manifest.uncounted_memory());
        lists as u64 + made.sum::<u64>()
    }

    /// Returns the memory of the tree in bytes, including its manifests, which other trees may share.
    pub(crate) fn memory(&self) -> u64 {
        let manifests = self.manifests().into_iter();
        let shared = manifests.map(|manifest| manifest.memory() - manifest.uncounted_memory());
        shared.sum::<u64>() + self.uncounted_memory()
    }

    /// Returns every manifest of both variants and of the attachments once, children before parents.
    pub fn manifests(&self) -> Vec<&Arc<RawManifest>> {
        let mut seen = HashSet::new();
        let attached = self.attachments.iter().flat_map(|attachment| attachment.variant.all());
        self.own_manifests()
            .chain(attached)
            .filter(|m| seen.insert(m.digest().clone()))
            .collect()
    }

    /// Returns the total size of the image's blobs in bytes.
    ///
    /// # Errors
    /// [`Kind::Malformed`] if the stated sizes add up to more than 256 TiB.
    pub(crate) fn total(&self) -> Result<u64, Error> {
        let sizes = self.blobs().into_iter().map(|blob| blob.descriptor.size);
        let total = sizes.fold(0u64, u64::saturating_add);
        if total > MAX_TOTAL {
            let message = "its manifests state impossible sizes: more than 256 TiB for its blobs together";
            return Err(Error::new(Kind::Malformed, message).with_hint(BROKEN));
        }
        Ok(total)
    }

    /// Returns every carried blob once, in the order in which the manifests name the blobs.
    pub fn blobs(&self) -> Vec<Blob> {
        let blobs = self.named_blobs().into_iter().map(|(descriptor, is_config)| Blob {
            descriptor: descriptor.clone(),
            is_config,
        });
        blobs.collect()
    }

    /// Returns the same as [`blobs`](Self::blobs) without copies: the descriptor of each blob, and whether a manifest names the
    /// blob as its config.
    pub(crate) fn named_blobs(&self) -> Vec<(&Descriptor, bool)> {
        let left_out: HashSet<&Digest> = self.left_out.iter().map(|left_out| &left_out.digest).collect();
        let mut seen = HashSet::new();
        let mut blobs = Vec::new();
        for manifest in self.manifests() {
            for (i, descriptor) in manifest.blobs().into_iter().enumerate() {
                if !left_out.contains(&descriptor.digest) && seen.insert(&descriptor.digest) {
                    let is_config = i == 0 && matches!(manifest.view(), super::manifest::View::Image(_));
                    blobs.push((descriptor, is_config));
                }
            }
        }
        blobs
    }
}

/// A blob of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Media type, digest and size of the blob.
    pub descriptor: Descriptor,
    /// Whether a manifest names the blob as its config.
    pub is_config: bool,
}

/// Platform label of BuildKit's attestations in records.
pub(crate) const ATTESTATION: &str = "attestation";

/// Platform label in records of a nested index of which nothing is carried, if its entry states no platform.
pub(crate) const INDEX: &str = "index";

/// Platform label in records if neither the index nor a config states a platform.
pub(crate) const UNKNOWN: &str = "unknown";

/// Returns the label of a platform for records.
pub(crate) fn platform_label(platform: Option<&Platform>, attestation: bool) -> String {
    match platform {
        _ if attestation => ATTESTATION.to_owned(),
        Some(platform) => platform.to_string(),
        None => UNKNOWN.to_owned(),
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
