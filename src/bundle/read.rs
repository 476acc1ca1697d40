//! Reading a bundle: stub with the agreed signatures.
#![allow(missing_docs, clippy::todo, unused_variables)]

use std::path::PathBuf;

use super::record::{ImageRecord, Missing};
use crate::error::Result;
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::tree::ImageTree;

/// One or several bundles, opened and indexed; blobs are shared among them. Reads are positional, so that any number of
/// threads read at the same time.
#[derive(Debug)]
pub struct Bundle {}

/// How bundles are opened.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// The name of an image in an archive that has none (`--name`).
    pub name: Option<Reference>,
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
}

impl Bundle {
    /// Opens and indexes; reads no blob.
    pub fn open(paths: &[PathBuf], options: &OpenOptions) -> Result<Self> {
        todo!()
    }

    /// The images, in the order of the bundles and of each one's index.
    pub fn images(&self) -> &[BundledImage] {
        todo!()
    }

    /// Images that the bundles themselves say are missing.
    pub fn missing(&self) -> &[Missing] {
        todo!()
    }

    /// Things that are worth a warning (trailing garbage, members skipped).
    pub fn warnings(&self) -> &[String] {
        todo!()
    }

    /// Reads and verifies the manifests of an image and checks that every blob they name is there with the right size.
    pub fn tree(&self, image: &BundledImage) -> Result<ImageTree> {
        todo!()
    }

    /// The size of a blob, where it is there.
    pub fn size_of(&self, digest: &Digest) -> Option<u64> {
        todo!()
    }

    /// Fills `buffer` with bytes of a blob from `offset` on, as many as there are; 0 at its end. Bytes are as they stand
    /// in the file: whoever hands them on checks the digest.
    pub fn read_at(&self, digest: &Digest, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        todo!()
    }

    /// Where a blob stands, for error messages: file, member name and offset.
    pub fn describe(&self, digest: &Digest) -> String {
        todo!()
    }
}
