//! The result of a push, for messages and for `--report`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::left_referrers::LeftReferrers;
use super::request::PushItem;
use crate::bundle::read::summed::VerifiedFile;
use crate::bundle::record::Missing;
use crate::error::Error;
use crate::image::digest::Digest;
use crate::image::tree::{Choice, ImageTree, LeftOut, PlatformRecord};
use crate::inventory::lock::Lock;
use crate::text::{Line, Warnings, is_unsafe};
use crate::transfer::export::Exported;

/// Result of a push.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PushReport {
    /// Whether the run was a dry run, so that the counts are only planned.
    pub dry_run: bool,
    /// One entry for each image, in the order of the request.
    pub images: Vec<ImageReport>,
    /// Sums of the counts of all images.
    pub total: Counts,
    /// Images that a bundle lists as missing, and that no other bundle has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
    /// Files and folders to import that could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub broken_archives: Vec<ArchiveReport>,
    /// Warnings about the bundles.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub warnings: Warnings,
    /// Error in a bundle from a pipe that was found after its images.
    /// The reports of the images are valid nevertheless, since all of their bytes were verified by digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle_error: Option<Error>,
    /// Error that ended the run before there was a result for any image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
    /// Lock of the images at the destination, if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
    /// Files that were read from the first to the last byte, each with its checksum.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<VerifiedFile>,
}

impl PushReport {
    pub(crate) fn new(dry_run: bool, images: Vec<ImageReport>) -> Self {
        let mut total = Counts::default();
        for image in &images {
            total.add(&image.counts);
        }
        Self {
            dry_run,
            images,
            total,
            missing: Vec::new(),
            broken_archives: Vec::new(),
            warnings: Warnings::default(),
            bundle_error: None,
            error: None,
            lock: None,
            files: Vec::new(),
        }
    }

    /// Returns the report of a run that an error ended before there was a result for any image.
    pub fn ended(dry_run: bool, error: &Error) -> Self {
        Self {
            error: Some(error.clone()),
            ..Self::new(dry_run, Vec::new())
        }
    }

    /// Returns whether a requested image, referrer or pinned digest is missing, or a bundle has an error.
    pub fn failed(&self) -> bool {
        self.error.is_some()
            || self.bundle_error.is_some()
            || !self.broken_archives.is_empty()
            || self
                .images
                .iter()
                .any(|image| image.error.is_some() || image.pinned_digest_missing || image.referrers_lost)
    }
}

/// A file or folder that could not be read.
#[derive(Debug, Clone, Serialize)]
pub struct ArchiveReport {
    /// Path of the file or folder.
    pub path: Line,
    /// Reason why it could not be read.
    pub error: Error,
}

/// Result for one image.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageReport {
    /// Canonical source reference.
    pub source: String,
    /// Name at the destination; absent if the image failed before it got a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// Outcome of the image.
    pub outcome: Outcome,
    /// Digest of the root manifest at the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original: Option<Digest>,
    /// Digest under the image's name at the destination, or, in a dry run, the digest that would be there.
    /// Absent if the image failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pushed: Option<Digest>,
    /// Digest that the tag held before, if it was another digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced: Option<Digest>,
    /// Whether the tag held this very image before, and something was pushed again or added: what the registry had lost, or a
    /// referrer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pushed_again: bool,
    /// Index form that was pushed; absent if the image failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<Form>,
    /// Whether the image is pinned to a digest that the destination did not accept.
    pub pinned_digest_missing: bool,
    /// Whether the archive had no manifest, so that a manifest with a new digest was built.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rebuilt: bool,
    /// Counts of blobs and bytes.
    pub counts: Counts,
    /// Platforms carried with the image.
    #[serde(serialize_with = "first")]
    pub kept: Arc<[PlatformRecord]>,
    /// Platforms of the original index that are not carried.
    #[serde(skip_serializing_if = "<[_]>::is_empty", serialize_with = "first")]
    pub dropped: Arc<[PlatformRecord]>,
    /// Blobs that manifests refer to and that were not carried.
    #[serde(skip_serializing_if = "<[_]>::is_empty", serialize_with = "first")]
    pub left_out: Arc<[LeftOut]>,
    /// Number of carried referrers of each kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub referrers: BTreeMap<String, usize>,
    /// Referrers that are missing at the destination, or not listed there for their subject.
    /// The digest is that of the referrer.
    #[serde(skip_serializing_if = "<[_]>::is_empty", serialize_with = "first")]
    pub left_out_referrers: Arc<[LeftOut]>,
    /// Whether a referrer that was to be carried is missing at the destination.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub referrers_lost: bool,
    /// Number of entries that were omitted from the lists above; absent if they are complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_listed: Option<NotListed>,
    /// Warnings about an image that was pushed nevertheless.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub warnings: Warnings,
    /// Reason why the image failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
}

impl ImageReport {
    pub(crate) fn new(item: &PushItem) -> Self {
        let tree = &item.tree;
        Self {
            source: tree.source.to_string(),
            destination: Some(item.destination.to_string()),
            outcome: Outcome::Failed,
            original: Some(tree.original.root.digest().clone()),
            pushed: Some(tree.pushed().root.digest().clone()),
            replaced: None,
            pushed_again: false,
            index: Some(tree.choice.into()),
            pinned_digest_missing: false,
            rebuilt: item.rebuilt,
            counts: Counts::default(),
            kept: tree.kept.clone(),
            dropped: tree.dropped.clone(),
            left_out: tree.left_out.clone(),
            referrers: tree.referrer_counts(),
            left_out_referrers: tree.left_out_referrers.clone(),
            referrers_lost: tree.lacks_referrers,
            not_listed: NotListed::from_tree(tree),
            warnings: Warnings::default(),
            error: None,
        }
    }

    /// Adds attachments that are not at the destination to the list of left-out referrers.
    pub(crate) fn add_left_out_referrers(&mut self, left: LeftReferrers) {
        self.referrers_lost |= left.is_loss;
        for left in &left.list {
            // The missing referrer was counted as carried.
            if let Some(count) = self.referrers.get_mut(&left.media_type) {
                *count = count.saturating_sub(1);
            }
        }
        self.referrers.retain(|_, count| *count > 0);
        if !left.list.is_empty() {
            self.left_out_referrers = self.left_out_referrers.iter().cloned().chain(left.list).collect();
        }
    }

    /// Records that the image failed, so that its presence at the destination is unknown.
    pub(crate) fn fail(&mut self, error: Error) {
        self.outcome = Outcome::Failed;
        self.referrers.clear();
        self.pushed = None;
        self.index = None;
        self.error = Some(error);
    }

    /// Returns the report of an image of an export.
    pub fn exported(image: &Exported, outcome: Outcome) -> Self {
        let is_in_bundle = outcome != Outcome::NotExported;
        Self {
            source: image.source.to_string(),
            destination: None,
            outcome,
            original: Some(image.original.clone()),
            pushed: is_in_bundle.then(|| image.digest.clone()),
            index: is_in_bundle.then(|| image.choice.into()),
            kept: image.kept.clone(),
            dropped: image.dropped.clone(),
            left_out: image.left_out.clone(),
            referrers: image.referrers.clone(),
            left_out_referrers: image.left_out_referrers.clone(),
            referrers_lost: image.lacks_referrers,
            error: None,
            ..Self::unresolved(&"", &Error::internal("no image"))
        }
    }

    /// Returns the report of an image that failed before it had a tree.
    pub fn unresolved(source: &impl ToString, error: &Error) -> Self {
        Self {
            source: source.to_string(),
            destination: None,
            outcome: Outcome::Failed,
            original: None,
            pushed: None,
            replaced: None,
            pushed_again: false,
            index: None,
            pinned_digest_missing: false,
            rebuilt: false,
            counts: Counts::default(),
            kept: Arc::default(),
            dropped: Arc::default(),
            left_out: Arc::default(),
            referrers: BTreeMap::new(),
            left_out_referrers: Arc::default(),
            referrers_lost: false,
            not_listed: None,
            warnings: Warnings::default(),
            error: Some(error.clone()),
        }
    }
}

/// Maximum number of entries in each list of an image in a report.
/// Real images have a few dozen platforms.
const MAX_LISTED: usize = 1000;

/// Numbers of entries that a report omits, since the lists of an image are too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotListed {
    /// Number of omitted platforms that are carried with the image.
    pub kept: usize,
    /// Number of omitted platforms that are not carried.
    pub dropped: usize,
    /// Number of omitted blobs that were not carried.
    pub left_out: usize,
}

impl NotListed {
    fn from_tree(tree: &ImageTree) -> Option<Self> {
        let beyond = |length: usize| length.saturating_sub(MAX_LISTED);
        let not_listed = Self {
            kept: beyond(tree.kept.len()),
            dropped: beyond(tree.dropped.len()),
            left_out: beyond(tree.left_out.len()),
        };
        let any = not_listed.kept + not_listed.dropped + not_listed.left_out > 0;
        any.then_some(not_listed)
    }
}

/// Serializes the first `MAX_LISTED` entries of a list.
fn first<T: Serialize, S: Serializer>(list: &Arc<[T]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().take(MAX_LISTED))
}

/// Returns the estimated size of an image's lists in a report, in bytes.
pub(crate) fn bytes_of_lists(tree: &ImageTree) -> u64 {
    /// Size in bytes of an entry without its texts: a digest, field names, and white space.
    const ENTRY: usize = 240;
    let text = |text: &str| {
        let bytes = |c: char| match c {
            '"' | '\\' => 2,
            c if is_unsafe(c) => 12,
            c => c.len_utf8(),
        };
        text.chars().map(bytes).sum::<usize>()
    };
    let platforms = [&tree.kept, &tree.dropped].into_iter();
    let platforms = platforms.flat_map(|list| list.iter().take(MAX_LISTED));
    let platforms = platforms.map(|platform| ENTRY + text(&platform.platform));
    let left_out = tree.left_out.iter().take(MAX_LISTED);
    let left_out = left_out.chain(tree.left_out_referrers.iter().take(MAX_LISTED));
    let left_out = left_out.map(|left| ENTRY + text(&left.media_type) + text(&left.reason));
    platforms.chain(left_out).sum::<usize>() as u64
}

/// Outcome of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The image is at the destination now.
    Pushed,
    /// The tag already held the image's digest.
    Unchanged,
    /// The tag holds another digest and was skipped, as requested.
    LeftAlone,
    /// The image would have been pushed.
    Planned,
    /// The image is in the bundle now.
    Exported,
    /// The image has no error, and no bundle with it was written.
    NotExported,
    /// The image is not at the destination, or not under its name.
    Failed,
}

/// Form of a pushed image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Form {
    /// The original manifest or index, with everything that it refers to.
    Whole,
    /// The filtered index, without the dropped platforms.
    Filtered,
    /// The original index, although dropped platforms are absent.
    Sparse,
    /// The filtered index, because the destination refused the sparse index.
    Fallback,
}

impl From<Choice> for Form {
    fn from(choice: Choice) -> Self {
        match choice {
            Choice::Whole => Self::Whole,
            Choice::Filtered => Self::Filtered,
            Choice::Sparse => Self::Sparse,
        }
    }
}

/// Counts of an image's blobs, each blob counted once.
/// A blob that two images of one repository share counts as moved for one image and as skipped for the other image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Blobs whose bytes were sent.
    pub uploaded: Amount,
    /// Blobs that the registry mounted from another of its repositories.
    pub mounted: Amount,
    /// Blobs that were already in place.
    pub skipped: Amount,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.uploaded.plus(other.uploaded);
        self.mounted.plus(other.mounted);
        self.skipped.plus(other.skipped);
    }

    /// Returns the same blobs, all counted as skipped, for another image of the same repository.
    pub(crate) fn all_skipped(&self) -> Self {
        let mut skipped = self.skipped;
        skipped.plus(self.uploaded);
        skipped.plus(self.mounted);
        Self {
            skipped,
            ..Self::default()
        }
    }
}

/// Number of blobs, and their total size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Amount {
    /// Number of blobs.
    pub blobs: u64,
    /// Total size of the blobs, in bytes.
    pub bytes: u64,
}

impl Amount {
    /// Adds one blob of `size` bytes.
    pub(crate) fn one(&mut self, size: u64) {
        self.plus(Self { blobs: 1, bytes: size });
    }

    pub(crate) fn plus(&mut self, other: Self) {
        self.blobs += other.blobs;
        // Sizes are claims of manifests: an overflow of absurd sizes must not end the program.
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}
