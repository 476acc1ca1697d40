//! Request and report of an export.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use crate::bundle::file_system::FileSystem;
use crate::error::Error;
use crate::image::budget::Budget;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::tree::{Choice, ImageTree, LeftOut, PlatformRecord, attachments_of_manifests};
use crate::inventory::lock::Lock;
use crate::transfer::resolve::Wanted;

/// Compression of the whole bundle.
/// Layers are already compressed, so compression saves little, and an import cannot read single blobs of a compressed file.
/// Compression is meant for pipes and for storage that requires compressed files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// No compression: a plain tar.
    #[default]
    None,
    /// gzip (RFC 1952), without file name and modification time.
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
}

/// Destination of a bundle.
pub enum Output {
    /// A file, which gets its final name when it is complete.
    File {
        /// Final path of the file.
        path: PathBuf,
        /// Whether an existing file at `path` is replaced.
        force: bool,
        /// Whether the unfinished file of an earlier run is discarded.
        fresh: bool,
    },
    /// A pipe, which receives the bytes in order.
    /// Written bytes cannot be taken back, so the reader must check the exit code.
    Pipe(Box<dyn Write + Send>),
}

/// Request for an export.
pub struct Request {
    /// Images to export.
    pub images: Vec<Reference>,
    /// Platforms, referrers and index form of the images.
    pub wanted: Wanted,
    /// Destination of the bundle.
    pub output: Output,
    /// Compression of the whole bundle.
    pub compression: Compression,
    /// Maximum number of blobs in flight.
    pub jobs: usize,
    /// Whether the export is only planned and nothing is written.
    pub dry_run: bool,
    /// Whether failed images are left out of the bundle.
    /// Otherwise the bundle gets no final name after any failure.
    pub allow_partial: bool,
    /// Whether the bundle contains `manifest.json`, for `docker load` and `podman load`.
    pub docker_manifest: bool,
    /// Whether the report includes a lock.
    pub with_lock: bool,
    /// Paths of earlier bundles whose blobs are copied instead of fetched.
    pub reuse: Vec<PathBuf>,
    /// Maximum number of bytes read ahead when the bundle is written in order.
    pub read_ahead: u64,
    /// Memory budget for manifests and other metadata from registries.
    pub budget: Budget,
    /// Capabilities of the output's file system, if the caller knows them.
    /// Otherwise the operating system is queried.
    pub file_system: Option<FileSystem>,
}

/// Request for a supplement.
pub struct SupplementRequest {
    /// Path of the want-list, for messages.
    pub list: PathBuf,
    /// Whether to write the supplement without the blobs that registries no longer have.
    pub allow_partial: bool,
    /// Destination of the supplement.
    pub output: Output,
    /// Compression of the whole file.
    pub compression: Compression,
    /// Maximum number of blobs in flight.
    pub jobs: usize,
    /// Paths of earlier bundles whose blobs are copied instead of fetched.
    pub reuse: Vec<PathBuf>,
    /// Maximum number of bytes read ahead when the supplement is written in order.
    pub read_ahead: u64,
}

/// A supplement that was written.
pub struct WrittenSupplement {
    /// Blobs that came from earlier bundles.
    pub reused: Reused,
    /// SHA-256 of the output, if it is known.
    pub sha256: Option<Digest>,
    /// Number of wanted blobs that the supplement lacks.
    pub missing: usize,
}

/// Result of planning an export without writing the bundle.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct DryRun {
    /// Number of blobs in the bundle.
    pub blobs: u64,
    /// Total size of the blobs, in bytes.
    pub bytes: u64,
    /// Bytes of the blobs that an unfinished file already contains.
    pub present: u64,
    /// Bytes of the blobs that earlier bundles contain.
    pub reusable: u64,
    /// Bytes of the blobs to fetch from registries.
    pub to_fetch: u64,
    /// Free bytes in the folder of the bundle, if known.
    pub free: Option<u64>,
}

/// Result of an export.
#[derive(Debug, Default)]
pub struct Report {
    /// Images in the bundle, in the order of the request.
    pub images: Vec<Exported>,
    /// Failed images, each with its error, in the order of the request.
    pub failed: Vec<(Reference, Error)>,
    /// Tags that have moved since the first run, while the bundle keeps the old digest.
    /// Each entry has the reference, the digest in the bundle, and the current digest.
    pub moved: Vec<(Reference, Digest, Digest)>,
    /// Whether the bundle is complete under its final name.
    pub committed: bool,
    /// Whether the bundle was already complete before this run, which then wrote nothing.
    pub up_to_date: bool,
    /// Whether the run ended before fetching any blob, because images could not be resolved.
    pub nothing_fetched: bool,
    /// Uncompressed size of the bundle, in bytes.
    pub size: u64,
    /// Result of the plan, if the export was only planned.
    pub dry_run: Option<DryRun>,
    /// Set by a dry run if the file system cannot hold the bundle: the error of the real export.
    pub does_not_fit: Option<Error>,
    /// Number of manifests that an export would fetch from each registry.
    /// Set by a dry run; manifests in the cache are not counted.
    pub pulls_needed: BTreeMap<String, u64>,
    /// SHA-256 of the finished file, if the run wrote or read its bytes in order, or found a small file up to date.
    pub sha256: Option<Digest>,
    /// Number of blobs and bytes copied from earlier bundles.
    pub reused: Reused,
    /// Lock of the bundle, if requested.
    pub lock: Option<Lock>,
}

/// An image in a bundle.
#[derive(Debug, Clone)]
pub struct Exported {
    /// Reference that the user requested.
    pub source: Reference,
    /// Digest of the root manifest under the image's name.
    pub digest: Digest,
    /// Digest of the root manifest at the source.
    pub original: Digest,
    /// The choice between the original and the filtered index, with its reason.
    pub choice: Choice,
    /// Platforms in the bundle.
    pub kept: Arc<[PlatformRecord]>,
    /// Platforms of the source index that are not in the bundle.
    pub dropped: Arc<[PlatformRecord]>,
    /// Blobs of the image that are not in the bundle.
    pub left_out: Arc<[LeftOut]>,
    /// Number of carried referrers of each kind.
    pub referrers: BTreeMap<String, usize>,
    /// Number of these that refer to an index of which platforms are left out; they are pushed only together with that index.
    pub referrers_of_unfiltered: usize,
    /// Referrers that are not in the bundle, with reasons.
    pub left_out_referrers: Arc<[LeftOut]>,
    /// Whether a referrer that was to be carried is missing from the bundle.
    pub lacks_referrers: bool,
}

impl Exported {
    pub(super) fn new(tree: &ImageTree) -> Self {
        let referrers = tree.referrer_counts();
        let used = attachments_of_manifests(&tree.attachments, tree.pushed().all());
        let used: HashSet<&Digest> = used.iter().map(|used| used.variant.root.digest()).collect();
        Self {
            source: tree.source.clone(),
            digest: tree.pushed().root.digest().clone(),
            original: tree.original.root.digest().clone(),
            choice: tree.choice,
            kept: tree.kept.clone(),
            dropped: tree.dropped.clone(),
            left_out: tree.left_out.clone(),
            referrers_of_unfiltered: referrers.values().sum::<usize>() - used.len(),
            referrers,
            left_out_referrers: tree.left_out_referrers.clone(),
            lacks_referrers: tree.lacks_referrers,
        }
    }
}

/// Number of blobs and bytes copied from earlier bundles.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Reused {
    /// Number of blobs.
    pub blobs: u64,
    /// Number of bytes.
    pub bytes: u64,
}

impl Reused {
    /// Counts one blob, if at least one of its bytes came from an earlier bundle.
    pub(super) fn add(&mut self, bytes: u64) {
        self.blobs += u64::from(bytes > 0);
        self.bytes += bytes;
    }
}
