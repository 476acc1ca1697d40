//! An image as a whole: a reference, the manifests below it, and the blobs that they name.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::descriptor::Descriptor;
use super::digest::Digest;
use super::manifest::RawManifest;
use super::platform::{Platform, PlatformFilter, PlatformPattern};
use super::reference::Reference;
use super::referrer::{artifact_type, tag_beside};
use crate::error::{Error, Kind};
use crate::text::quote;

/// What the user wants done with an index from which platforms are dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexMode {
    /// Filtered if it was asked for by tag, sparse if it is pinned by digest.
    #[default]
    Auto,
    /// The entries of what is dropped are removed; the digest is a new one.
    Filtered,
    /// The original bytes and digest, though some of what it lists is absent.
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

/// Which form of an index is pushed under an image's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// The original; nothing was dropped.
    Whole,
    /// The index without the dropped platforms.
    Filtered,
    /// The original index, though dropped platforms are absent.
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

/// Indexes nest no deeper than this: an index inside an index inside an index is no image any more.
pub(crate) const MAX_DEPTH: usize = 8;

/// An image has at most this many manifests altogether.
pub(crate) const MAX_NODES: usize = 10_000;

/// Maximum size of the blobs of one image together, in bytes. No file system of today holds a larger bundle, and the sizes of
/// thousands of such images still sum up to an offset that a file may have (`i64`).
pub(crate) const MAX_TOTAL: u64 = 256 << 40;

/// A root manifest with every manifest below it that is there.
#[derive(Debug, Clone)]
pub struct Variant {
    /// What a tag points at.
    pub root: Arc<RawManifest>,
    /// What must be in place before it: each manifest once, children before their parents, without the root.
    pub below: Arc<[Arc<RawManifest>]>,
}

impl Variant {
    /// Of a root and what is below it, children before their parents. What appears twice stays at its first place,
    /// which is before everything that names it.
    pub fn new(root: Arc<RawManifest>, mut below: Vec<Arc<RawManifest>>) -> Self {
        let mut seen = HashSet::new();
        below.retain(|manifest| seen.insert(manifest.digest().clone()));
        let below = below.into();
        Self { root, below }
    }

    /// Every manifest, children before their parents, the root last.
    pub fn all(&self) -> impl Iterator<Item = &Arc<RawManifest>> {
        self.below.iter().chain(std::iter::once(&self.root))
    }
}

/// A platform of an image and the manifest that is it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlatformRecord {
    /// `OS/ARCH[/VARIANT]`; `attestation` for what BuildKit lists as `unknown/unknown`; `unknown` where nothing says.
    pub platform: String,
    /// The manifest.
    pub digest: Digest,
}

/// A blob that a manifest names and that is not carried.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftOut {
    /// The blob.
    pub digest: Digest,
    /// Its type.
    pub media_type: String,
    /// Why.
    pub reason: String,
}

/// What refers to a manifest of an image and is carried with it: a signature, an attestation, an SBOM.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// Its manifest, and what is below it.
    pub variant: Variant,
    /// The manifest that it refers to: one of the image, or of another attachment.
    pub subject: Digest,
    /// How a registry finds it.
    pub lookup: Lookup,
}

/// How a registry finds what refers to a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lookup {
    /// It states its subject, and is listed by it.
    Subject,
    /// By a tag made of the digest of its subject, which ends so: `sha256-HEX.sig`.
    Tag(&'static str),
}

impl Attachment {
    /// What it is: its artifact type.
    pub fn artifact_type(&self) -> String {
        artifact_type(&self.variant.root, self.lookup != Lookup::Subject)
    }

    /// Says that it refers to an index with all its platforms, of which not all are carried.
    pub(crate) fn describe_unfiltered(&self, original: &Digest) -> String {
        let kind = self.artifact_type();
        let signs = ["signature", "sigstore", "simplesigning", "notary"];
        match self.lookup == Lookup::Tag("sig") || signs.iter().any(|word| kind.contains(word)) {
            true => format!("it signs the unfiltered index {original}"),
            false => format!("it refers to the unfiltered index {original}"),
        }
    }

    /// The tag that it has at a registry, if any.
    pub fn tag(&self) -> Option<String> {
        match self.lookup {
            Lookup::Subject => None,
            Lookup::Tag(suffix) => Some(tag_beside(&self.subject, suffix)),
        }
    }
}

/// Whether a manifest is among attachments in this way: as what refers to a subject, which it states, or under a tag beside one. It
/// may be there in both ways.
pub(crate) fn is_attached(attachments: &[Attachment], root: &Digest, subject: &Digest, lookup: Lookup) -> bool {
    let mut same = attachments.iter().filter(|it| it.variant.root.digest() == root);
    same.any(|it| it.lookup == lookup && (lookup == Lookup::Subject || it.subject == *subject))
}

/// The attachments that belong to these manifests, or to an attachment that does. Subjects stand before what refers to them.
pub(crate) fn belonging<'a>(
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

/// An image on its way: everything that is known once its manifests are fetched. A clone shares all but the name, so that an
/// image may have many.
#[derive(Debug, Clone)]
pub struct ImageTree {
    /// The name that it was asked for by.
    pub source: Reference,
    /// The source's own bytes. Where platforms were dropped, their manifests are not below it: a sparse index.
    pub original: Variant,
    /// The index without the dropped platforms; only where some were dropped.
    pub filtered: Option<Variant>,
    /// Which of the two goes under the name.
    pub choice: Choice,
    /// Platforms carried, in the order of the index.
    pub kept: Arc<[PlatformRecord]>,
    /// Platforms not carried, in the order of the index.
    pub dropped: Arc<[PlatformRecord]>,
    /// Blobs not carried.
    pub left_out: Arc<[LeftOut]>,
    /// What refers to its manifests and is carried with it; subjects stand before what refers to them.
    pub attachments: Arc<[Attachment]>,
    /// What refers to its manifests and is not carried; the digest is that of the referrer.
    pub left_out_referrers: Arc<[LeftOut]>,
    /// Whether one of those should have been carried.
    pub lacks_referrers: bool,
    /// Image configs that had to be read on the way, by digest.
    pub configs: BTreeMap<Digest, Bytes>,
}

impl ImageTree {
    /// An image that is carried whole, with no platform, attachment or config recorded.
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

    /// The variant that goes under the name.
    pub fn pushed(&self) -> &Variant {
        match (&self.choice, &self.filtered) {
            (Choice::Filtered, Some(filtered)) => filtered,
            _ => &self.original,
        }
    }

    /// What trees that differ in nothing but their names share: two that have this in common name the same blobs.
    pub(crate) fn shared_content(&self) -> impl Eq + Hash + use<> {
        let below = |variant: &Variant| Arc::as_ptr(&variant.below).cast::<()>() as usize;
        let filtered = self.filtered.as_ref();
        (
            (self.original.root.digest().clone(), below(&self.original)),
            filtered.map(|filtered| (filtered.root.digest().clone(), below(filtered))),
            Arc::as_ptr(&self.left_out).cast::<()>() as usize,
            // What has no attachments has nothing of its own to share.
            (self.attachments.first()).map(|first| std::ptr::from_ref(first) as usize),
        )
    }

    /// Puts aside what refers to nothing that goes under the name: a signature of an index is none of the filtered one.
    pub(crate) fn set_aside_unused_attachments(&mut self) {
        let used = belonging(&self.attachments, self.pushed().all());
        if used.len() == self.attachments.len() {
            return;
        }
        // One manifest may be there twice, and one of both be used.
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

    /// How many attachments it has of each artifact type, those that are found in two ways once.
    pub(crate) fn referrer_counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        let mut seen = HashSet::new();
        let attachments = self.attachments.iter();
        for attachment in attachments.filter(|it| seen.insert(it.variant.root.digest())) {
            *counts.entry(attachment.artifact_type()).or_default() += 1;
        }
        counts
    }

    /// The manifests of the image itself, without attachments: each of both variants, some of them twice.
    pub(crate) fn own_manifests(&self) -> impl Iterator<Item = &Arc<RawManifest>> {
        self.original.all().chain(self.filtered.iter().flat_map(Variant::all))
    }

    /// Applies the user's wish to a tree of which platforms were dropped.
    pub fn choose(&mut self, mode: IndexMode) {
        self.choice = match (&self.filtered, mode) {
            (None, _) => Choice::Whole,
            (Some(_), IndexMode::Filtered) => Choice::Filtered,
            (Some(_), IndexMode::Sparse) => Choice::Sparse,
            (Some(_), IndexMode::Auto) if self.source.digest().is_some() => Choice::Sparse,
            (Some(_), IndexMode::Auto) => Choice::Filtered,
        };
    }

    /// Platforms requested by name that no carried manifest runs on. It is unknown what an image
    /// or artifact without a platform runs on, so that nothing is absent from one.
    pub fn absent<'a>(&self, filter: &'a PlatformFilter) -> Vec<&'a PlatformPattern> {
        let PlatformFilter::Only(patterns) = filter else {
            return Vec::new();
        };
        let labels = self.kept.iter().filter(|kept| kept.platform != ATTESTATION);
        // A label may have the version of an operating system behind it, which no pattern has.
        let kept: Option<Vec<PlatformPattern>> = labels
            .map(|kept| kept.platform.split(' ').next()?.parse().ok())
            .collect();
        let Some(kept) = kept else { return Vec::new() };
        let is_there = |pattern: &PlatformPattern| kept.iter().any(|kept| pattern.matches(kept.platform()));
        patterns.iter().filter(|pattern| !is_there(pattern)).collect()
    }

    /// Memory in bytes that it takes and that is not counted yet: its lists, and manifests that were made for it.
    pub(crate) fn uncounted_memory(&self) -> u64 {
        /// What an allocator takes beside the bytes that are asked for, and rounds them up by.
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

    /// Memory in bytes that it takes with its manifests, which other trees may share.
    pub(crate) fn memory(&self) -> u64 {
        let manifests = self.manifests().into_iter();
        let shared = manifests.map(|manifest| manifest.memory() - manifest.uncounted_memory());
        shared.sum::<u64>() + self.uncounted_memory()
    }

    /// Every manifest of both variants and of the attachments once, children before parents.
    pub fn manifests(&self) -> Vec<&Arc<RawManifest>> {
        let mut seen = HashSet::new();
        let attached = self.attachments.iter().flat_map(|attachment| attachment.variant.all());
        self.own_manifests()
            .chain(attached)
            .filter(|m| seen.insert(m.digest().clone()))
            .collect()
    }

    /// The size of its blobs together, in bytes.
    ///
    /// # Errors
    /// [`Kind::Malformed`] if its manifests state sizes that sum up to more than 256 TiB.
    pub(crate) fn total(&self) -> Result<u64, Error> {
        let sizes = self.blobs().into_iter().map(|blob| blob.descriptor.size);
        let total = sizes.fold(0u64, u64::saturating_add);
        if total > MAX_TOTAL {
            let message = "its manifests state impossible sizes: more than 256 TiB for its blobs together";
            return Err(
                Error::new(Kind::Malformed, message).with_hint("the image is broken: have it built or pushed again")
            );
        }
        Ok(total)
    }

    /// Every blob that is carried, once, with whether it is a config; in the order in which manifests name them.
    pub fn blobs(&self) -> Vec<Blob> {
        let left_out: HashSet<&Digest> = self.left_out.iter().map(|left_out| &left_out.digest).collect();
        let mut seen = HashSet::new();
        let mut blobs = Vec::new();
        for manifest in self.manifests() {
            for (i, descriptor) in manifest.blobs().into_iter().enumerate() {
                if !left_out.contains(&descriptor.digest) && seen.insert(descriptor.digest.clone()) {
                    blobs.push(Blob {
                        descriptor: descriptor.clone(),
                        is_config: i == 0 && matches!(manifest.view(), super::manifest::View::Image(_)),
                    });
                }
            }
        }
        blobs
    }
}

/// A blob of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Type, digest and size.
    pub descriptor: Descriptor,
    /// Whether a manifest names it as its config.
    pub is_config: bool,
}

/// How BuildKit's attestations are written into records.
pub(crate) const ATTESTATION: &str = "attestation";

/// The platform in records where neither the index nor a config states one.
pub(crate) const UNKNOWN: &str = "unknown";

/// How a platform is written into records.
pub(crate) fn platform_label(platform: Option<&Platform>, attestation: bool) -> String {
    match platform {
        _ if attestation => ATTESTATION.to_owned(),
        Some(platform) => platform.to_string(),
        None => UNKNOWN.to_owned(),
    }
}
