//! What an export is asked to do, and what came of it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use crate::bundle::file_system::FileSystem;
use crate::error::Error;
use crate::image::budget::Budget;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::tree::{Choice, ImageTree, LeftOut, PlatformRecord};
use crate::inventory::lock::Lock;
use crate::transfer::resolve::Wanted;

/// Compression of the whole bundle. Layers are compressed already, so little is gained, and an import of the compressed file
/// cannot start in its middle: for pipes and for places that want it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    #[default]
    None,
    /// gzip (RFC 1952), without name and time.
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
}

/// Where a bundle goes.
pub enum Output {
    /// A file, which gets its name when it is complete.
    File {
        /// The final name.
        path: PathBuf,
        /// Whether a file of that name is replaced.
        force: bool,
        /// Whether an unfinished earlier run is thrown away.
        fresh: bool,
    },
    /// A pipe: the same bytes in order. They cannot be taken back, so the reader must check the exit code.
    Pipe(Box<dyn Write + Send>),
}

/// What to export, and how.
pub struct Request {
    /// The images.
    pub images: Vec<Reference>,
    /// Which of their platforms, and what becomes of their indexes.
    pub wanted: Wanted,
    /// Where the bundle goes.
    pub output: Output,
    /// Compression of the whole bundle.
    pub compression: Compression,
    /// Blobs in flight.
    pub jobs: usize,
    /// Whether nothing is written, and only planned.
    pub dry_run: bool,
    /// Whether images that fail are left out; otherwise any failure keeps the bundle from getting its name.
    pub allow_partial: bool,
    /// Whether `manifest.json` is written, for `docker load` and `podman load`.
    pub docker_manifest: bool,
    /// Whether the report is to have a lock.
    pub with_lock: bool,
    /// Earlier bundles whose blobs need not be fetched.
    pub reuse: Vec<PathBuf>,
    /// How much is read ahead of a pipe, in bytes.
    pub read_ahead: u64,
    /// The memory that may be taken for what registries say.
    pub budget: Budget,
    /// What the file system of the output can do, where the caller knows better than the system that is asked otherwise.
    pub file_system: Option<FileSystem>,
}

/// What to fetch for a supplement, and how.
pub struct SupplementRequest {
    /// The file of the want-list, for messages.
    pub list: PathBuf,
    /// Where it goes.
    pub output: Output,
    /// Compression of the whole file.
    pub compression: Compression,
    /// Blobs in flight.
    pub jobs: usize,
    /// Earlier bundles whose blobs need not be fetched.
    pub reuse: Vec<PathBuf>,
    /// How much is read ahead, in bytes.
    pub read_ahead: u64,
}

/// What an export would do.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct DryRun {
    /// Blobs of the bundle.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of them that an unfinished file has.
    pub present: u64,
    /// Bytes of them that earlier bundles have.
    pub reusable: u64,
    /// Bytes that would be fetched.
    pub to_fetch: u64,
    /// Bytes that are free where the bundle goes.
    pub free: Option<u64>,
}

/// The result of an export.
#[derive(Debug, Default)]
pub struct Report {
    /// The images in the bundle, in the order in which they were asked for.
    pub images: Vec<Exported>,
    /// The images that failed, in that order.
    pub failed: Vec<(Reference, Error)>,
    /// Tags that have moved since the first run, which the bundle keeps to: reference, digest in the bundle, digest now.
    pub moved: Vec<(Reference, Digest, Digest)>,
    /// Whether the bundle is complete under its name.
    pub committed: bool,
    /// Whether it was that before: nothing was written.
    pub up_to_date: bool,
    /// Whether the run ended before any blob, since images could not be resolved.
    pub nothing_fetched: bool,
    /// The size of the bundle, in bytes; uncompressed.
    pub size: u64,
    /// What the export would do, where it was only planned.
    pub dry_run: Option<DryRun>,
    /// How many manifests of each registry a run would have to fetch after one that only planned: those that the cache does not
    /// have.
    pub pulls_needed: BTreeMap<String, u64>,
    /// The digest of the bundle as it was written, where the run has seen its bytes in order.
    pub sha256: Option<Digest>,
    /// Blobs and bytes that came from earlier bundles.
    pub reused: Reused,
    /// What the bundle is made of, where that was asked for.
    pub lock: Option<Lock>,
}

/// One image in a bundle.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The name that it was asked for by.
    pub source: Reference,
    /// The digest that goes under the name.
    pub digest: Digest,
    /// The digest that the source has.
    pub original: Digest,
    /// Which of both goes under the name, and why it may differ.
    pub choice: Choice,
    /// Platforms in the bundle.
    pub kept: Arc<[PlatformRecord]>,
    /// Platforms that are not.
    pub dropped: Arc<[PlatformRecord]>,
    /// Blobs that are not.
    pub left_out: Arc<[LeftOut]>,
    /// How much refers to its manifests and is in the bundle, by what it is.
    pub referrers: BTreeMap<String, usize>,
    /// What refers to its manifests and is not.
    pub left_out_referrers: Arc<[LeftOut]>,
    /// Whether one of those should be.
    pub lacks_referrers: bool,
}

impl Exported {
    pub(super) fn new(tree: &ImageTree) -> Self {
        Self {
            source: tree.source.clone(),
            digest: tree.pushed().root.digest().clone(),
            original: tree.original.root.digest().clone(),
            choice: tree.choice,
            kept: tree.kept.clone(),
            dropped: tree.dropped.clone(),
            left_out: tree.left_out.clone(),
            referrers: tree.referrer_counts(),
            left_out_referrers: tree.left_out_referrers.clone(),
            lacks_referrers: tree.lacks_referrers,
        }
    }
}

/// Blobs and bytes that came from earlier bundles.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Reused {
    /// How many blobs.
    pub blobs: u64,
    /// How many bytes.
    pub bytes: u64,
}

impl Reused {
    /// Counts one blob, if some of it came from an earlier bundle.
    pub(super) fn add(&mut self, bytes: u64) {
        self.blobs += u64::from(bytes > 0);
        self.bytes += bytes;
    }
}
