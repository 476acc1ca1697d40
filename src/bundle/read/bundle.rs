//! A bundle that was opened for reading.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::archive::Archive;
use super::assemble::{Assembled, Rules, assemble};
use super::broken::{BrokenArchive, BrokenImage};
use super::contents::BundledImage;
use super::contents::{LostReferrer, Referrer};
use super::find;
use super::find::Found;
use super::name_override::GivenName;
use super::spool;
use super::spool::Temp;
use super::store::Store;
use super::stream::pipe::{self, Incoming};
use super::summed::{VerifiedFile, sum_file};
use super::tree;
use crate::bundle::record::Missing;
use crate::error::{Kind, Result};
use crate::image::budget::Budget;
use crate::image::digest::Digest;
use crate::image::tree::{ImageTree, Variant};
use crate::progress::Progress;
use crate::text::{self, Warnings, quote};

/// One or several opened bundles, which share their blobs. Reads are positional, so any number of
/// threads can read at the same time.
pub struct Bundle {
    pub(super) parts: Assembled,
    /// The blobs, which an import reads after everything else is dropped.
    pub(super) store: Arc<Store>,
}

/// Options for opening bundles.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Names for images without a name, or in place of their names (`--name`).
    pub names: Vec<GivenName>,
    /// Folder for temporary copies of archives that are compressed as a whole or come from a pipe.
    /// Without a folder, such archives are refused.
    pub temp_dir: Option<PathBuf>,
    /// Receives events, such as the warning before an archive is copied to a temporary file.
    pub progress: Progress,
    /// Maximum number of bytes that the layers of one docker-archive may unpack to, all together,
    /// beyond a hundred times their size; 64 GiB by default. The layers are only hashed and never written, so this limit
    /// bounds time.
    pub max_unpacked: Option<u64>,
    /// Memory budget for manifests, configs, names and other parsed content.
    pub budget: Budget,
    /// Whether the SHA-256 of a file is computed if the file is read to its end for unpacking.
    pub sum: bool,
    /// Whether bundles without a usable image are accepted.
    pub allow_none: bool,
    /// Whether scanning continues after a tar fault. Otherwise an archive with such a fault is
    /// refused, unless it is opened together with a supplement.
    pub continue_after_faults: bool,
}

impl OpenOptions {
    fn temp(&self) -> Temp {
        Temp {
            directory: self.temp_dir.clone(),
            progress: self.progress.clone(),
            sum: self.sum,
            continue_after_faults: self.continue_after_faults,
        }
    }
}

impl Bundle {
    /// Opens and indexes bundles. Of their blobs, reads only small documents.
    ///
    /// # Errors
    /// [`Kind::Malformed`] if an archive breaks the rules of its format or holds no image, with file, member and offset;
    /// [`Kind::Usage`] if no image has a name and [`OpenOptions::names`] gives none. If at least one image is usable,
    /// unusable images are listed in [`broken`](Self::broken), and unreadable archives in
    /// [`broken_archives`](Self::broken_archives).
    pub fn open(paths: &[PathBuf], options: &OpenOptions) -> Result<Self> {
        let mut store = Store::new(options.budget.clone());
        let mut warnings = Warnings::default();
        let mut archives = Vec::new();
        let found: Vec<Found> = find::archives(paths, &mut warnings, &options.progress)
            .into_iter()
            .collect();
        let temp = Temp {
            // Another bundle may replace the blobs that a fault hides.
            continue_after_faults: options.continue_after_faults || found.len() > 1,
            ..options.temp()
        };
        for found in found {
            let (path, opened) = match found {
                Found::Layout(path) => (
                    path.clone(),
                    Archive::from_directory(&path, &mut store, &options.progress),
                ),
                Found::File(path) => (path.clone(), spool::open(&path, &temp, &mut store)),
                Found::Broken(path, error) => (path, Err(error)),
            };
            if opened.is_err() && options.continue_after_faults {
                store.sum_unreadable(&path);
            }
            archives.push(opened.map_err(|error| BrokenArchive::new(&text::path(&path), error)));
        }
        Self::from_archives(archives, store, warnings, options)
    }

    /// Opens an archive from a pipe, called `label` in messages. The archive is copied to a
    /// temporary file, which disappears when the bundle is dropped or the process ends.
    ///
    /// # Errors
    /// The errors of [`open`](Self::open); [`Kind::NoSpace`] if the temporary file does not fit.
    pub fn from_reader(input: impl Read + Send, label: &str, options: &OpenOptions) -> Result<Self> {
        let mut store = Store::new(options.budget.clone());
        let archive = spool::from_reader(input, label, &options.temp(), &mut store)?;
        Self::from_archives(vec![Ok(archive)], store, Warnings::default(), options)
    }

    /// Opens an archive from a pipe, and copies as little of the archive as possible.
    ///
    /// A bundle of this program starts with everything but its layers: then only this front is read, and the rest is
    /// returned. The images are those of the front; reading the rest has to prove that all their blobs follow. Any other
    /// archive is copied as by [`from_reader`](Self::from_reader), and no rest is returned.
    ///
    /// # Errors
    /// The errors of [`from_reader`](Self::from_reader).
    pub fn from_pipe(
        input: impl Read + Send + 'static,
        label: &str,
        options: &OpenOptions,
    ) -> Result<(Self, Option<Incoming>)> {
        let mut store = Store::new(options.budget.clone());
        let (archive, rest) = match pipe::open(input, label, &options.temp(), &mut store) {
            Ok((archive, rest)) => (Ok(archive), rest),
            Err(error) if options.allow_none => (Err(BrokenArchive::new(label, error)), None),
            Err(error) => return Err(error),
        };
        Ok((
            Self::from_archives(vec![archive], store, Warnings::default(), options)?,
            rest,
        ))
    }

    /// Opens one path; a pipe as by [`from_pipe`](Self::from_pipe).
    ///
    /// If there is no room to unpack a compressed bundle, the bundle is read like a pipe while it is unpacked.
    ///
    /// # Errors
    /// The errors of [`open`](Self::open) and [`from_pipe`](Self::from_pipe).
    pub fn open_one(path: &Path, options: &OpenOptions) -> Result<(Self, Option<Incoming>)> {
        let label = text::path(path);
        let file = || spool::open_file(path, &options.progress);
        if path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo()) {
            return Self::from_pipe(file()?, &label, options);
        }
        let paths = [path.to_owned()];
        let full = match Self::open(&paths, options) {
            Err(error) if matches!(error.kind(), Kind::NoSpace | Kind::Io) && path.is_file() => error,
            other => return Ok((other?, None)),
        };
        let without = OpenOptions {
            temp_dir: None,
            ..options.clone()
        };
        match Self::from_pipe(file()?, &label, &without) {
            Ok((bundle, Some(rest))) => {
                options.progress.warn(format!(
                    "{}; `{}` is read as it is unpacked instead, so that a large layer whose upload breaks cannot be sent \
                     from its start again in this run",
                    full.full(),
                    quote(&label)
                ));
                Ok((bundle, Some(rest)))
            }
            _ => Err(full),
        }
    }

    /// Opens the documents of one path.
    /// Of a pipe or a compressed file, reads only the front if the archive allows that.
    ///
    /// The presence of the layers is not checked then.
    ///
    /// # Errors
    /// The errors of [`open`](Self::open) and [`from_pipe`](Self::from_pipe).
    pub fn open_front(path: &Path, options: &OpenOptions) -> Result<Self> {
        Ok(Self::open_passing(path, options)?.0)
    }

    /// Opens one path for a single pass. The rest of a pipe or a compressed file is returned if
    /// the archive allows that; no temporary file is written then.
    ///
    /// # Errors
    /// The errors of [`open_front`](Self::open_front).
    pub fn open_passing(path: &Path, options: &OpenOptions) -> Result<(Self, Option<Incoming>)> {
        let is_file = path.metadata().is_ok_and(|metadata| metadata.is_file());
        if !path.exists() || path.is_dir() || (is_file && !spool::is_compressed(path).unwrap_or(false)) {
            return Ok((Self::open(&[path.to_owned()], options)?, None));
        }
        let file = spool::open_file(path, &options.progress)?;
        Self::from_pipe(file, &text::path(path), options)
    }

    /// Returns whether the only file is a supplement, which has blobs and no image.
    pub fn is_supplement(&self) -> bool {
        self.parts.is_supplement
    }

    /// Returns whether an archive has a `manifest.json`, which `docker load` reads.
    pub(crate) fn has_docker_manifest(&self) -> bool {
        self.parts.docker_manifest
    }

    fn from_archives(
        archives: Vec<Result<Archive, BrokenArchive>>,
        mut store: Store,
        warnings: Warnings,
        options: &OpenOptions,
    ) -> Result<Self> {
        store.compact();
        let rules = Rules {
            names: &options.names,
            max_unpacked: options.max_unpacked,
            continue_after_faults: options.continue_after_faults,
            allow_none: options.allow_none,
        };
        let parts = assemble(archives, &mut store, warnings, &rules)?;
        let store = Arc::new(store);
        Ok(Self { parts, store })
    }

    /// The usable images, in the order of the bundles and of their indexes.
    pub fn images(&self) -> &[BundledImage] {
        &self.parts.images
    }

    /// Images that are incomplete or have no name, each with the reason.
    pub fn broken(&self) -> &[BrokenImage] {
        &self.parts.broken
    }

    /// Files and folders that cannot be read, each with the reason.
    pub fn broken_archives(&self) -> &[BrokenArchive] {
        &self.parts.broken_archives
    }

    /// Referrers without a name, in the order of the bundles and of their indexes.
    pub fn referrers(&self) -> &[Referrer] {
        &self.parts.referrers
    }

    /// Referrers that the bundles state and do not list.
    pub(crate) fn lost_referrers(&self) -> &[LostReferrer] {
        &self.parts.lost_referrers
    }

    /// Images that the bundles record as missing.
    pub fn missing(&self) -> &[Missing] {
        &self.parts.missing
    }

    /// Warnings about the bundles (trailing garbage, skipped members).
    pub fn warnings(&self) -> &Warnings {
        &self.parts.warnings
    }

    /// Reads and verifies the manifests of an image,
    /// and checks that every blob is present with the right size.
    ///
    /// # Errors
    /// [`Kind::Malformed`] if blobs or manifests are missing, with a list; [`Kind::Integrity`] if bytes or sizes do not
    /// match a digest or descriptor.
    pub fn tree(&self, image: &BundledImage) -> Result<ImageTree> {
        self.tree_of(image).map_err(|e| image.place_error(e))
    }

    /// Like [`tree`](Self::tree), without the image's name in errors,
    /// since an image may have many names.
    pub(crate) fn tree_of(&self, image: &BundledImage) -> Result<ImageTree> {
        tree::image_tree(&self.store, image)
    }

    /// Returns the blobs of the bundle, without its images.
    pub(crate) fn blobs(&self) -> Arc<Store> {
        self.store.clone()
    }

    /// Drops the manifests and configs in the cache, after the last image was read. Trees keep their manifests.
    pub(crate) fn drop_documents(&self) {
        self.store.drop_documents();
    }

    /// Returns the memory budget of this run.
    pub fn budget(&self) -> &Budget {
        self.store.budget()
    }

    /// Reads and verifies the manifests of a referrer, like [`tree`](Self::tree).
    pub fn referrer_tree(&self, referrer: &Referrer) -> Result<Variant> {
        tree::referrer_tree(&self.store, referrer)
            .map_err(|e| e.context(format!("referrer {} in `{}`", referrer.root.digest, referrer.archive)))
    }

    /// Returns the SHA-256 of each file. Files not yet read to their end are read now, until
    /// `stop` is set. Folders have no sum.
    pub(crate) fn sums(&self, stop: &AtomicBool) -> Vec<VerifiedFile> {
        let read = self.parts.sources.iter().filter_map(|source| sum_file(source, stop));
        self.store.sums.iter().cloned().chain(read).collect()
    }

    /// Returns every blob with its size, by digest.
    pub(crate) fn stored(&self) -> impl Iterator<Item = (&Digest, u64)> {
        let digests = self.store.digests();
        digests.filter_map(|digest| Some((digest, self.store.size_of(digest)?)))
    }

    /// Returns the size of a blob, if the bundle has the blob.
    pub fn size_of(&self, digest: &Digest) -> Option<u64> {
        self.store.size_of(digest)
    }

    /// Fills `buffer` with bytes of a blob from `offset` on; returns 0 at the end of the blob. The
    /// bytes are not verified: the caller checks the digest.
    pub fn read_at(&self, digest: &Digest, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.store.read_at(digest, offset, buffer)
    }

    /// Returns the open file that holds a blob, and the blob's offset in the file, for copies by
    /// the kernel. `None` if the blob is not in an open file.
    pub(crate) fn file_of(&self, digest: &Digest) -> Option<(&File, u64)> {
        self.store.file_of(digest)
    }

    /// Reads a blob and verifies its digest.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the digest differs, with file, member and offset; [`Kind::NotFound`] if the bundle does not
    /// have the blob.
    pub fn verify_blob(&self, digest: &Digest) -> Result<()> {
        self.store.verify(digest)
    }

    /// Switches to another copy of a corrupt blob, from another of the bundles.
    /// Returns `false` if no untried copy is left.
    pub fn next_copy(&self, digest: &Digest) -> bool {
        self.store.next_copy(digest)
    }

    /// Describes the place of a blob for error messages: file, member name and offset.
    pub fn describe(&self, digest: &Digest) -> String {
        self.store.describe(digest)
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("images", &self.parts.images)
            .field("blobs", &self.store.len())
            .finish_non_exhaustive()
    }
}
