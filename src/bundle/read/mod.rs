//! Reading bundles, and the archives of other programs.
//!
//! A tar is scanned once, from header to header; what it holds is then read by offset, from any number of threads, and
//! never unpacked. Nothing in an archive is trusted: names are only compared, sizes and counts are capped, manifests are
//! checked against their digests when a tree is built, and that every blob is there is known before a tree is given out.

mod archive;
mod compression;
mod docker_archive;
mod find;
mod forward;
mod front;
mod header;
mod layer;
mod layout;
mod names;
pub mod pipe;
mod rebuild;
mod scan;
mod source;
mod sparse;
mod spool;
mod store;
mod tree;
mod walk;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use super::record::{ImageRecord, Missing};
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::tree::{ImageTree, Variant};
use crate::progress::Progress;
use archive::Archive;
use find::Found;
use pipe::Incoming;
use spool::Temp;
use store::Store;

/// One or several bundles, opened and indexed; blobs are shared among them. Reads are positional, so that any number of
/// threads read at the same time.
pub struct Bundle {
    store: Store,
    images: Vec<BundledImage>,
    referrers: Vec<Referrer>,
    missing: Vec<Missing>,
    warnings: Vec<String>,
}

/// How bundles are opened.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// The name of an image in an archive that has none (`--name`). Where an archive has tags only, they are put behind
    /// this name's repository, unless it brings a tag other than `latest` itself.
    pub name: Option<Reference>,
    /// Where an archive is unpacked to that is compressed as a whole or comes from a pipe; without it such an archive is
    /// refused.
    pub temp_dir: Option<PathBuf>,
    /// Who is told when an archive is unpacked there, before that begins.
    pub progress: Progress,
}

impl OpenOptions {
    fn temp(&self) -> Temp {
        Temp {
            directory: self.temp_dir.clone(),
            progress: self.progress.clone(),
        }
    }
}

/// An image that a bundle holds.
#[derive(Debug, Clone)]
pub struct BundledImage {
    /// The name it goes by.
    pub name: Reference,
    /// The root descriptor, from `index.json` (or made from a docker-archive).
    pub root: Descriptor,
    /// What `docker-mirror.json` says about it, where the bundle is ours.
    pub record: Option<ImageRecord>,
    /// Whether the manifest was built here from a docker-archive, so that its digest is new.
    pub rebuilt: bool,
    /// The archive that lists it.
    pub archive: String,
    /// Whether platforms may be absent without anything being broken: containerd saves an index as it is with only the
    /// platforms that it has.
    pub(crate) may_be_sparse: bool,
}

/// A manifest without a name that refers to another one, such as a signature.
#[derive(Debug, Clone)]
pub struct Referrer {
    /// The manifest that it refers to.
    pub subject: Digest,
    /// Its own root descriptor.
    pub root: Descriptor,
    /// The archive that lists it.
    pub archive: String,
}

impl Bundle {
    /// Opens and indexes; reads no blob but small documents.
    ///
    /// # Errors
    /// [`Kind::Malformed`] if an archive breaks the rules of its format or holds no image, with file, member and offset;
    /// [`Kind::Usage`] if an image has no name and [`OpenOptions::name`] gives none.
    pub fn open(paths: &[PathBuf], options: &OpenOptions) -> Result<Self> {
        let mut store = Store::default();
        let mut warnings = Vec::new();
        let mut archives = Vec::new();
        for found in find::archives(paths, &mut warnings)? {
            archives.push(match found {
                Found::Layout(path) => Archive::of_directory(&path, &mut store)?,
                Found::File(path) => spool::open(&path, &options.temp(), &mut store)?,
            });
        }
        Self::of_archives(archives, store, warnings, options)
    }

    /// Opens what comes from a pipe, which messages call `label`. It is copied to a temporary file, and the copy is gone
    /// when the bundle is dropped or the process ends.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Kind::NoSpace`] if the temporary file does not fit.
    pub fn from_reader(input: impl Read + Send, label: &str, options: &OpenOptions) -> Result<Self> {
        let mut store = Store::default();
        let archive = spool::from_reader(input, label, &options.temp(), &mut store)?;
        Self::of_archives(vec![archive], store, Vec::new(), options)
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
        let mut store = Store::default();
        let (archive, rest) = pipe::open(input, label, &options.temp(), &mut store)?;
        Ok((Self::of_archives(vec![archive], store, Vec::new(), options)?, rest))
    }

    fn of_archives(archives: Vec<Archive>, store: Store, warnings: Vec<String>, options: &OpenOptions) -> Result<Self> {
        let mut bundle = Self {
            store,
            images: Vec::new(),
            referrers: Vec::new(),
            missing: Vec::new(),
            warnings,
        };
        for mut archive in archives {
            let contents = layout::read(&mut archive, &mut bundle.store, options.name.as_ref())?;
            bundle.warnings.append(&mut archive.warnings);
            bundle.images.extend(contents.images);
            bundle.referrers.extend(contents.referrers);
            bundle.missing.extend(contents.missing);
        }
        bundle.one_digest_per_name()?;
        if let Some(given) = &options.name {
            bundle.has_use_for(given)?;
        }
        Ok(bundle)
    }

    /// A given name of which nothing is made would leave the image under a name that the user does not expect.
    fn has_use_for(&self, given: &Reference) -> Result<()> {
        let of_use =
            |image: &BundledImage| (image.name.host(), image.name.repository()) == (given.host(), given.repository());
        if self.images.iter().any(of_use) {
            return Ok(());
        }
        let first = self
            .images
            .first()
            .map(|image| image.name.to_string())
            .unwrap_or_default();
        let more = match self.images.len() {
            0 | 1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        Err(Error::new(
            Kind::Usage,
            format!("`--name {given}` has no effect, since every image has a name of its own: `{first}`{more}"),
        )
        .with_hint("leave it away; `--map` puts images elsewhere"))
    }

    /// A name that stands there twice is one image if the digest is the same, and an error if not.
    fn one_digest_per_name(&mut self) -> Result<()> {
        let mut seen: BTreeMap<Reference, (Digest, String)> = BTreeMap::new();
        let mut kept = Vec::with_capacity(self.images.len());
        for image in std::mem::take(&mut self.images) {
            match seen.get(&image.name) {
                None => {
                    seen.insert(image.name.clone(), (image.root.digest.clone(), image.archive.clone()));
                    kept.push(image);
                }
                Some((digest, _)) if *digest == image.root.digest => {}
                Some((digest, archive)) => {
                    return Err(Error::new(
                        Kind::Malformed,
                        format!(
                            "two images are called `{}`: {digest} in `{archive}` and {} in `{}`",
                            image.name, image.root.digest, image.archive
                        ),
                    )
                    .with_hint(
                        "import the bundles one after the other, or make an archive in which each name is unique",
                    ));
                }
            }
        }
        self.images = kept;
        Ok(())
    }

    /// The images, in the order of the bundles and of each one's index; at least one.
    pub fn images(&self) -> &[BundledImage] {
        &self.images
    }

    /// Manifests without a name that refer to others, in the order of the bundles and of each one's index.
    pub fn referrers(&self) -> &[Referrer] {
        &self.referrers
    }

    /// Images that the bundles themselves say are missing.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// Things that are worth a warning (trailing garbage, members skipped).
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Reads and verifies the manifests of an image and checks that every blob they name is there with the right size.
    ///
    /// # Errors
    /// [`Kind::Malformed`] if blobs or manifests are missing, all of which the message lists; [`Kind::Integrity`] if
    /// bytes or sizes are not those that a digest or descriptor promises.
    pub fn tree(&self, image: &BundledImage) -> Result<ImageTree> {
        tree::of_image(&self.store, image).map_err(|e| e.context(format!("`{}` in `{}`", image.name, image.archive)))
    }

    /// Reads and verifies the manifests of a referrer, like [`tree`](Self::tree).
    pub fn referrer_tree(&self, referrer: &Referrer) -> Result<Variant> {
        tree::of_referrer(&self.store, referrer)
            .map_err(|e| e.context(format!("referrer {} in `{}`", referrer.root.digest, referrer.archive)))
    }

    /// The size of a blob, where it is there.
    pub fn size_of(&self, digest: &Digest) -> Option<u64> {
        self.store.size_of(digest)
    }

    /// Fills `buffer` with bytes of a blob from `offset` on, as many as there are; 0 at its end. Bytes are as they stand
    /// in the file: whoever hands them on checks the digest.
    pub fn read_at(&self, digest: &Digest, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.store.read_at(digest, offset, buffer)
    }

    /// The file that a blob stands in, and where it starts there, for copies that the kernel makes. `None` where it has no
    /// open file of its own.
    pub fn file_of(&self, digest: &Digest) -> Option<(&File, u64)> {
        self.store.file_of(digest)
    }

    /// Reads a blob through and compares its digest.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if it is another, with file, member and offset; [`Kind::NotFound`] if the blob is not there.
    pub fn verify_blob(&self, digest: &Digest) -> Result<()> {
        self.store.verify(digest)
    }

    /// Turns to another copy of a blob whose bytes are not those of its digest, in another of the bundles. `false` if there
    /// is none that was not tried.
    pub fn turn(&self, digest: &Digest) -> bool {
        self.store.turn(digest)
    }

    /// Where a blob stands, for error messages: file, member name and offset.
    pub fn describe(&self, digest: &Digest) -> String {
        self.store.describe(digest)
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("images", &self.images)
            .field("blobs", &self.store.blobs.len())
            .finish_non_exhaustive()
    }
}
