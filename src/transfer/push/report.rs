//! The result of a push, for people and for `--report`.

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

/// The result of a push.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PushReport {
    /// Whether nothing was changed: then the counts are what would have been done.
    pub dry_run: bool,
    /// One entry per image, in the order in which they were given.
    pub images: Vec<ImageReport>,
    /// The sums over all images.
    pub total: Counts,
    /// Images that a bundle itself says are missing from it, and that no other one has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
    /// Files and folders to import that could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub broken_archives: Vec<ArchiveReport>,
    /// Warnings about the bundles.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub warnings: Warnings,
    /// What is wrong with a bundle that came out of a pipe, where that was found behind its images. What is told of the
    /// images is true all the same: the bytes of each were compared with its digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle_error: Option<Error>,
    /// What ended the run before anything could be told of its images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
    /// What the images that are there now are made of, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
    /// The files that were read from the first to the last byte, each with its own sum.
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

    /// The report of a run that this error ended before there was one.
    pub fn ended(dry_run: bool, error: &Error) -> Self {
        Self {
            error: Some(error.clone()),
            ..Self::new(dry_run, Vec::new())
        }
    }

    /// Whether something that was asked for is not at the destination now (an image, or the digest that one is pinned to), or
    /// the bundle is not what it should be.
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
    /// Its path.
    pub path: Line,
    /// Why it could not be read.
    pub error: Error,
}

/// The result for one image.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageReport {
    /// The canonical source reference.
    pub source: String,
    /// The name at the destination; nothing where the image did not get that far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// The digest that the source has under its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original: Option<Digest>,
    /// The digest that the destination has under its name, or would have after a run that is not dry; nothing where the image
    /// failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pushed: Option<Digest>,
    /// The digest that the tag held before, where it was another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced: Option<Digest>,
    /// In which form the image went; nothing where it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<Form>,
    /// Whether the image is pinned to a digest that the destination did not accept, so that it does not exist there.
    pub pinned_digest_missing: bool,
    /// Whether the manifest was built from an archive that has none, so that its digest is new.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rebuilt: bool,
    /// Blobs and bytes.
    pub counts: Counts,
    /// Platforms that the image is carried with.
    #[serde(serialize_with = "first")]
    pub kept: Arc<[PlatformRecord]>,
    /// Platforms that the original lists and that are not carried.
    #[serde(skip_serializing_if = "<[_]>::is_empty", serialize_with = "first")]
    pub dropped: Arc<[PlatformRecord]>,
    /// Blobs that manifests name and that were not carried.
    #[serde(skip_serializing_if = "<[_]>::is_empty", serialize_with = "first")]
    pub left_out: Arc<[LeftOut]>,
    /// What refers to its manifests and travels with it, by what it is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub referrers: BTreeMap<String, usize>,
    /// What refers to its manifests and is not at the destination, or not found there; the digest is that of the referrer.
    #[serde(skip_serializing_if = "<[_]>::is_empty", serialize_with = "first")]
    pub left_out_referrers: Arc<[LeftOut]>,
    /// Whether some of that was to be carried.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub referrers_lost: bool,
    /// How much of these lists a report leaves out; nothing where it has all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_listed: Option<NotListed>,
    /// What the user should know, though the image is there.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub warnings: Warnings,
    /// Why it failed.
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

    /// What was to be carried with it and is not at the destination.
    pub(crate) fn add_left_out_referrers(&mut self, left: LeftReferrers) {
        self.referrers_lost |= left.is_loss;
        for left in left.list.iter().filter(|_| self.referrers_lost) {
            // It was counted as travelling.
            if let Some(count) = self.referrers.get_mut(&left.media_type) {
                *count = count.saturating_sub(1);
            }
        }
        self.referrers.retain(|_, count| *count > 0);
        if !left.list.is_empty() {
            self.left_out_referrers = self.left_out_referrers.iter().cloned().chain(left.list).collect();
        }
    }

    /// It is not there, or not known to be.
    pub(crate) fn fail(&mut self, error: Error) {
        self.outcome = Outcome::Failed;
        self.pushed = None;
        self.index = None;
        self.error = Some(error);
    }

    /// An image of an export.
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

    /// An image that failed before it had a tree.
    pub fn unresolved(source: &impl ToString, error: &Error) -> Self {
        Self {
            source: source.to_string(),
            destination: None,
            outcome: Outcome::Failed,
            original: None,
            pushed: None,
            replaced: None,
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

/// Maximum length of each list of an image in a report. Real images have a few dozen platforms.
const MAX_LISTED: usize = 1000;

/// Numbers of what a report does not list of an image, since the lists are too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotListed {
    /// Platforms that the image is carried with.
    pub kept: usize,
    /// Platforms that are not carried.
    pub dropped: usize,
    /// Blobs that were not carried.
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

/// The part of a list that a report has.
fn first<T: Serialize, S: Serializer>(list: &Arc<[T]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().take(MAX_LISTED))
}

/// Number of bytes that the lists of an image take in a report.
pub(crate) fn bytes_of_lists(tree: &ImageTree) -> u64 {
    /// Of an entry without its texts: a digest, the names of fields, and white space.
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

/// How an image ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It is there now.
    Pushed,
    /// The tag held its digest already.
    Unchanged,
    /// The tag holds another digest and was left alone, as asked for.
    LeftAlone,
    /// It would have been pushed.
    Planned,
    /// It is in the bundle now.
    Exported,
    /// Nothing is wrong with it, and there is no bundle that has it.
    NotExported,
    /// It is not there, or not under its name.
    Failed,
}

/// In which form an image went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Form {
    /// The original, with everything that it names.
    Whole,
    /// The index without the dropped platforms.
    Filtered,
    /// The original index, though dropped platforms are absent.
    Sparse,
    /// The filtered index, since the destination refused the sparse one.
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

/// Blobs of an image, each counted once. A blob that two images of one repository share is counted as moved for one of
/// them and as skipped for the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Blobs whose bytes were sent.
    pub uploaded: Amount,
    /// Blobs that the registry took from another of its repositories.
    pub mounted: Amount,
    /// Blobs that were in place.
    pub skipped: Amount,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.uploaded.plus(other.uploaded);
        self.mounted.plus(other.mounted);
        self.skipped.plus(other.skipped);
    }

    /// The same blobs, as they count for another image of the repository.
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

/// A number of blobs, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Amount {
    /// How many.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Amount {
    /// One more blob.
    pub(crate) fn one(&mut self, size: u64) {
        self.plus(Self { blobs: 1, bytes: size });
    }

    pub(crate) fn plus(&mut self, other: Self) {
        self.blobs += other.blobs;
        // Sizes are claims of manifests: a sum of absurd ones must not end the program.
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}
