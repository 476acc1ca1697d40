//! All blobs of all opened bundles, by digest.

use std::collections::HashMap;
use std::fs::File;

use bytes::Bytes;

use super::source::Place;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;

/// How much is read at once where a whole blob is hashed.
const CHUNK: usize = 256 << 10;

/// Blobs by digest.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// Blobs in files.
    pub(super) blobs: HashMap<Digest, Place>,
    /// Manifests that were made here.
    pub(super) built: HashMap<Digest, Bytes>,
}

impl Store {
    /// The size of a blob, where it is there.
    pub(super) fn size_of(&self, digest: &Digest) -> Option<u64> {
        match self.built.get(digest) {
            Some(bytes) => Some(bytes.len() as u64),
            None => self.blobs.get(digest).map(|place| place.size),
        }
    }

    /// Fills the buffer from `offset` of a blob on, as far as the blob goes.
    pub(super) fn read_at(&self, digest: &Digest, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        if let Some(bytes) = self.built.get(digest) {
            let rest = usize::try_from(offset)
                .ok()
                .and_then(|o| bytes.get(o..))
                .unwrap_or_default();
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            return Ok(count);
        }
        self.place(digest)?.read_at(offset, buffer)
    }

    /// The open file that a blob stands in, and its offset there.
    pub(super) fn file_of(&self, digest: &Digest) -> Option<(&File, u64)> {
        let place = self.blobs.get(digest).filter(|_| !self.built.contains_key(digest))?;
        Some((place.source.file()?, place.offset))
    }

    /// A whole blob, which may have at most `cap` bytes; not checked against its digest.
    pub(super) fn read_all(&self, digest: &Digest, cap: u64) -> Result<Bytes> {
        if let Some(bytes) = self.built.get(digest) {
            return Ok(bytes.clone());
        }
        let place = self.place(digest)?;
        if place.size > cap {
            return Err(Error::new(
                Kind::Malformed,
                format!(
                    "{}: {} bytes; at most {cap} are accepted",
                    self.describe(digest),
                    place.size
                ),
            ));
        }
        place.read_all(cap).map(Bytes::from)
    }

    /// Reads a blob through and compares its digest.
    pub(super) fn verify(&self, digest: &Digest) -> Result<()> {
        if self.built.contains_key(digest) {
            return Ok(());
        }
        let place = self.place(digest)?;
        let actual = hash(digest, place)?;
        if actual == *digest {
            return Ok(());
        }
        let when = if place.source.was_modified() {
            "; the file was written to since it was opened"
        } else {
            ""
        };
        Err(Error::new(
            Kind::Integrity,
            format!(
                "{}: the {} bytes of blob {digest} hash to {actual}{when}",
                self.describe(digest),
                place.size
            ),
        )
        .with_hint("the bundle is damaged: copy it again, or make it again"))
    }

    /// Where a blob stands, for messages.
    pub(super) fn describe(&self, digest: &Digest) -> String {
        match self.blobs.get(digest) {
            Some(place) => place.describe(&format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())),
            None if self.built.contains_key(digest) => format!("manifest {digest}, which was made from the archive"),
            None => format!("blob {digest}"),
        }
    }

    fn place(&self, digest: &Digest) -> Result<&Place> {
        self.blobs
            .get(digest)
            .ok_or_else(|| Error::new(Kind::NotFound, format!("the bundle has no blob {digest}")))
    }
}

/// Whether the bytes at a place are those of the digest.
pub(super) fn verify(digest: &Digest, place: &Place) -> Result<bool> {
    Ok(hash(digest, place)? == *digest)
}

fn hash(digest: &Digest, place: &Place) -> Result<Digest> {
    let mut hasher = digest.hasher();
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    while offset < place.size {
        let got = place.read_at(offset, &mut buffer)?;
        hasher.update(&buffer[..got]);
        offset += got as u64;
    }
    Ok(hasher.finish())
}
