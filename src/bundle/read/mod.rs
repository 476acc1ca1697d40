//! Reading bundles, and the archives of other programs.
//!
//! A tar is scanned once, from header to header; what it holds is then read by offset, from any number of threads, and
//! never unpacked. Nothing in an archive is trusted: names are only compared, sizes and counts are capped, manifests are
//! checked against their digests when a tree is built, and that every blob is there is known before a tree is given out.

mod archive;
mod assemble;
mod attached;
mod broken;
mod compression;
mod contents;
mod docker;
mod documents;
mod find;
mod foreign;
mod forward;
mod header;
mod identity;
mod inside;
mod layout;
mod member_names;
pub(crate) mod name_override;
mod names;
mod no_archive;
mod record_check;
mod scan;
mod source;
mod spool;
mod store;
pub(crate) mod stream;
pub(crate) mod summed;
mod tree;
mod unlisted;
pub(crate) mod verify;
mod walk;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::record::Missing;
use crate::error::{Error, Kind, Result};
use crate::image::budget::Budget;
use crate::image::digest::Digest;
use crate::image::tree::{ImageTree, Variant};
use crate::progress::Progress;
use crate::text::{self, Warnings, quote};
use archive::Archive;
use assemble::{Assembled, Rules, assemble};
pub(crate) use broken::{BrokenArchive, BrokenImage};
pub use contents::BundledImage;
pub(crate) use contents::Referrer;
use find::Found;
use name_override::GivenName;
use spool::Temp;
use store::Store;
use stream::pipe::{self, Incoming};
use summed::{VerifiedFile, sum_file};

/// One or several bundles, opened and indexed; blobs are shared among them. Reads are positional, so that any number of
/// threads read at the same time.
pub struct Bundle {
    parts: Assembled,
}

/// How bundles are opened.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Names for images in archives that have none, or others (`--name`).
    pub names: Vec<GivenName>,
    /// Where an archive is unpacked to that is compressed as a whole or comes from a pipe; without it such an archive is
    /// refused.
    pub temp_dir: Option<PathBuf>,
    /// Reports that an archive is unpacked there, before that begins.
    pub progress: Progress,
    /// How many bytes the layers of one docker-archive may unpack to, all together, beyond a hundred times their size; 64 GiB
    /// if nothing is said. They are hashed and never written, so what is bounded is time.
    pub max_unpacked: Option<u64>,
    /// The memory that may be taken for what bundles say.
    pub budget: Budget,
    /// Whether the sum of a file is wanted that is read as a whole to be unpacked.
    pub sum: bool,
    /// Whether bundles are opened of which no image is usable.
    pub allow_none: bool,
    /// Whether an archive is read on behind a fault of the tar. Otherwise one with such a fault is not read, unless it is given
    /// together with blobs that complete it.
    pub going_on: bool,
}

impl OpenOptions {
    fn temp(&self) -> Temp {
        Temp {
            directory: self.temp_dir.clone(),
            progress: self.progress.clone(),
            sum: self.sum,
            going_on: self.going_on,
        }
    }
}

impl Bundle {
    /// Opens and indexes; reads no blob but small documents.
    ///
    /// # Errors
    /// [`Kind::Malformed`] if an archive breaks the rules of its format or holds no image, with file, member and offset;
    /// [`Kind::Usage`] if no image has a name and [`OpenOptions::names`] gives none. As long as one image is whole, those
    /// that are not are [`broken`](Self::broken) and no error, and archives that cannot be read are
    /// [`broken_archives`](Self::broken_archives).
    pub fn open(paths: &[PathBuf], options: &OpenOptions) -> Result<Self> {
        let mut store = Store::new(options.budget.clone());
        let mut warnings = Warnings::default();
        let mut archives = Vec::new();
        let found: Vec<Found> = find::archives(paths, &mut warnings, &options.progress)
            .into_iter()
            .collect();
        let temp = Temp {
            // What stands behind a fault may be completed by another bundle.
            going_on: options.going_on || found.len() > 1,
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
            archives.push(opened.map_err(|error| BrokenArchive::new(&text::path(&path), error)));
        }
        Self::from_archives(archives, store, warnings, options)
    }

    /// Opens what comes from a pipe, which messages call `label`. It is copied to a temporary file, and the copy is gone
    /// when the bundle is dropped or the process ends.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Kind::NoSpace`] if the temporary file does not fit.
    pub fn from_reader(input: impl Read + Send, label: &str, options: &OpenOptions) -> Result<Self> {
        let mut store = Store::new(options.budget.clone());
        let archive = spool::from_reader(input, label, &options.temp(), &mut store)?;
        Self::from_archives(vec![Ok(archive)], store, Warnings::default(), options)
    }

    /// Opens what comes from a pipe, and copies no more of it than must be: a bundle of this program has everything but its
    /// layers at its front, and then only that is read, and the rest is left to the caller. Its images are those of the
    /// front; that all of their blobs follow is what the rest has to prove. Any other archive is copied as by
    /// [`from_reader`](Self::from_reader), and no rest is returned.
    ///
    /// # Errors
    /// As [`from_reader`](Self::from_reader).
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

    /// Opens what one path names; a pipe as by [`from_pipe`](Self::from_pipe). Where a bundle that is compressed as a whole
    /// cannot be written where it would be unpacked to, it is read as it is unpacked, like a pipe.
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`from_pipe`](Self::from_pipe).
    pub fn open_one(path: &Path, options: &OpenOptions) -> Result<(Self, Option<Incoming>)> {
        let label = text::path(path);
        let file = || File::open(path).map_err(|e| Error::io("open", path, e));
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

    /// Opens what one path names so far as its documents: of a pipe, or of a file that is compressed as a whole, no more is read
    /// than its front, where the archive allows that. Then not all that the images name was seen, which
    /// [`is_front`](Self::is_front) tells.
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`from_pipe`](Self::from_pipe).
    pub fn open_front(path: &Path, options: &OpenOptions) -> Result<Self> {
        Ok(Self::open_passing(path, options)?.0)
    }

    /// Opens what one path names, to be read through once: of a pipe, or of a file that is compressed as a whole, the rest is
    /// returned where the archive allows that, and nothing is written.
    ///
    /// # Errors
    /// As [`open_front`](Self::open_front).
    pub fn open_passing(path: &Path, options: &OpenOptions) -> Result<(Self, Option<Incoming>)> {
        let is_file = path.metadata().is_ok_and(|metadata| metadata.is_file());
        if !path.exists() || path.is_dir() || (is_file && !spool::is_compressed(path).unwrap_or(false)) {
            return Ok((Self::open(&[path.to_owned()], options)?, None));
        }
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        Self::from_pipe(file, &text::path(path), options)
    }

    /// Whether only the front of an archive was read, so that blobs may follow that are not known here.
    pub fn is_front(&self) -> bool {
        self.parts.store.to_come
    }

    /// Whether an archive has the list of images that `docker load` reads.
    pub(crate) fn has_docker_manifest(&self) -> bool {
        self.parts.docker_manifest
    }

    fn from_archives(
        archives: Vec<Result<Archive, BrokenArchive>>,
        store: Store,
        warnings: Warnings,
        options: &OpenOptions,
    ) -> Result<Self> {
        let rules = Rules {
            names: &options.names,
            max_unpacked: options.max_unpacked,
            going_on: options.going_on,
            allow_none: options.allow_none,
        };
        let parts = assemble(archives, store, warnings, &rules)?;
        Ok(Self { parts })
    }

    /// The images, in the order of the bundles and of each one's index; at least one.
    pub fn images(&self) -> &[BundledImage] {
        &self.parts.images
    }

    /// Images that are listed and not usable, since they are not whole or have no name; each with its reason.
    pub fn broken(&self) -> &[BrokenImage] {
        &self.parts.broken
    }

    /// Files and folders of which nothing could be read; each with its reason.
    pub fn broken_archives(&self) -> &[BrokenArchive] {
        &self.parts.broken_archives
    }

    /// Manifests without a name that refer to others, in the order of the bundles and of each one's index.
    pub fn referrers(&self) -> &[Referrer] {
        &self.parts.referrers
    }

    /// Images that the bundles themselves say are missing.
    pub fn missing(&self) -> &[Missing] {
        &self.parts.missing
    }

    /// Things that are worth a warning (trailing garbage, members skipped).
    pub fn warnings(&self) -> &Warnings {
        &self.parts.warnings
    }

    /// Reads and verifies the manifests of an image and checks that every blob they name is there with the right size.
    ///
    /// # Errors
    /// [`Kind::Malformed`] if blobs or manifests are missing, all of which the message lists; [`Kind::Integrity`] if
    /// bytes or sizes are not those that a digest or descriptor promises.
    pub fn tree(&self, image: &BundledImage) -> Result<ImageTree> {
        self.tree_of(image).map_err(|e| image.place_error(e))
    }

    /// The same without the name in errors, since an image may have many names.
    pub(crate) fn tree_of(&self, image: &BundledImage) -> Result<ImageTree> {
        tree::image_tree(&self.parts.store, image)
    }

    /// The memory budget of this run.
    pub fn budget(&self) -> &Budget {
        self.parts.store.budget()
    }

    /// Reads and verifies the manifests of a referrer, like [`tree`](Self::tree).
    pub fn referrer_tree(&self, referrer: &Referrer) -> Result<Variant> {
        tree::referrer_tree(&self.parts.store, referrer)
            .map_err(|e| e.context(format!("referrer {} in `{}`", referrer.root.digest, referrer.archive)))
    }

    /// The sums of files that were read as a whole when they were opened; those of all others are read for it, unless `stop` is
    /// set. Folders have none.
    pub(crate) fn sums(&self, stop: &AtomicBool) -> Vec<VerifiedFile> {
        let read = self.parts.sources.iter().filter_map(|source| sum_file(source, stop));
        self.parts.store.sums.iter().cloned().chain(read).collect()
    }

    /// Every blob with its size, by digest.
    pub(crate) fn stored(&self) -> impl Iterator<Item = (&Digest, u64)> {
        let digests = self.parts.store.digests();
        digests.filter_map(|digest| Some((digest, self.parts.store.size_of(digest)?)))
    }

    /// The size of a blob, where it is there.
    pub fn size_of(&self, digest: &Digest) -> Option<u64> {
        self.parts.store.size_of(digest)
    }

    /// Fills `buffer` with bytes of a blob from `offset` on, as many as there are; 0 at its end. Bytes are as they stand
    /// in the file: the caller checks the digest.
    pub fn read_at(&self, digest: &Digest, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.parts.store.read_at(digest, offset, buffer)
    }

    /// The file that holds a blob, and the offset of the blob in it, for copies by the kernel. `None` where it has no
    /// open file of its own.
    pub(crate) fn file_of(&self, digest: &Digest) -> Option<(&File, u64)> {
        self.parts.store.file_of(digest)
    }

    /// Reads a blob through and compares its digest.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if it is another, with file, member and offset; [`Kind::NotFound`] if the blob is not there.
    pub fn verify_blob(&self, digest: &Digest) -> Result<()> {
        self.parts.store.verify(digest)
    }

    /// Turns to another copy of a blob whose bytes are not those of its digest, in another of the bundles. `false` if there
    /// is none that was not tried.
    pub fn next_copy(&self, digest: &Digest) -> bool {
        self.parts.store.next_copy(digest)
    }

    /// Where a blob stands, for error messages: file, member name and offset.
    pub fn describe(&self, digest: &Digest) -> String {
        self.parts.store.describe(digest)
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("images", &self.parts.images)
            .field("blobs", &self.parts.store.len())
            .finish_non_exhaustive()
    }
}
