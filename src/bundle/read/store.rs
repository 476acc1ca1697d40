//! All blobs of all opened bundles, by digest.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;

use super::documents::{Documents, KnownConfig};
use super::source::Extent;
use super::summed::VerifiedFile;
use crate::error::{Error, Kind, Result};
use crate::files::positional::ReadAt;
use crate::image::budget::Budget;
use crate::image::config::MAX_CONFIG;
use crate::image::digest::{Digest, Hasher};
use crate::image::manifest::{MAX_MANIFEST, RawManifest, declared_type};
use crate::lock::Mutex;

/// How much is read at once where a whole blob is hashed.
const CHUNK: usize = 256 << 10;

/// Memory in bytes that the place of a blob takes in a tree of the standard library, whose nodes are half full at least.
const BLOB: u64 = 2 * (size_of::<Digest>() + size_of::<Extent>()) as u64;

/// Blobs by digest.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// Blobs in files. There may be very many, so that this grows without a moment in which all of them are there twice.
    blobs: BTreeMap<Digest, Extent>,
    /// The same blobs in other bundles, of the same size.
    copies: HashMap<Digest, Vec<Extent>>,
    /// Places of blobs that have another size than the place that counts: one of the two is wrong.
    discarded: Vec<(Digest, Extent)>,
    /// Files that were read as a whole when they were unpacked, with their sums.
    pub(super) sums: Vec<VerifiedFile>,
    /// How many of a blob's places have turned out to have other bytes.
    bad: Mutex<HashMap<Digest, usize>>,
    /// Blobs of which the bytes at the known place were found to have their digest.
    sound: HashSet<Digest>,
    /// Blobs behind links that cannot be followed, with the reason.
    refused: BTreeMap<Digest, String>,
    /// Manifests that were made here.
    built: HashMap<Digest, Bytes>,
    /// Manifests and configs that were read.
    documents: Documents,
    /// Whether more blobs follow in a pipe, so that one that is not here is not missing yet.
    pub(super) to_come: bool,
}

impl Store {
    pub(super) fn new(budget: Budget) -> Self {
        Self {
            documents: Documents::new(budget),
            ..Self::default()
        }
    }

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
            return bytes
                .fill_at(buffer, offset)
                .map_err(|e| Error::new(Kind::Io, "cannot read memory").with_source(e));
        }
        self.place(digest)?.read_at(offset, buffer)
    }

    /// The open file that holds a blob, and the offset of the blob in it.
    pub(super) fn file_of(&self, digest: &Digest) -> Option<(&File, u64)> {
        let place = self.blobs.get(digest).filter(|_| !self.built.contains_key(digest))?;
        Some((place.source.file()?, place.offset))
    }

    /// The memory budget of this run.
    pub(super) fn budget(&self) -> &Budget {
        self.documents.budget()
    }

    /// Drops unused documents until this many bytes of the budget are free.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if that is not enough.
    pub(super) fn make_room(&self, bytes: u64) -> Result<()> {
        self.documents.make_room(bytes)
    }

    /// How many blobs there are.
    pub(super) fn len(&self) -> usize {
        self.blobs.len()
    }

    /// The digests of all blobs.
    pub(super) fn digests(&self) -> impl Iterator<Item = &Digest> {
        self.blobs.keys()
    }

    /// The place of a blob that is in a file.
    pub(super) fn blob(&self, digest: &Digest) -> Option<&Extent> {
        self.blobs.get(digest)
    }

    /// Adds the place of a blob, unless one is known.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if there are too many.
    pub(super) fn add(&mut self, digest: Digest, place: Extent) -> Result<()> {
        if !self.blobs.contains_key(&digest) {
            self.budget().take(BLOB)?;
            self.blobs.insert(digest, place);
        }
        Ok(())
    }

    /// Notes why a blob that is listed cannot be read.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if there are too many.
    pub(super) fn refuse(&mut self, digest: Digest, why: String) -> Result<()> {
        self.budget().take(BLOB + why.len() as u64)?;
        self.refused.insert(digest, why);
        Ok(())
    }

    /// Why a blob that is not there cannot be read, where that is known.
    pub(super) fn refusal(&self, digest: &Digest) -> Option<&str> {
        self.refused.get(digest).map(String::as_str)
    }

    /// Adds the place of a blob whose bytes were hashed, in front of every place that is known.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if there are too many.
    pub(super) fn add_proved(&mut self, digest: Digest, place: Extent) -> Result<()> {
        if !self.blobs.contains_key(&digest) {
            self.budget().take(BLOB)?;
        }
        self.documents.forget(&digest);
        self.blobs.insert(digest, place);
        Ok(())
    }

    /// Puts down another place of a blob in the stead of the one that is known.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if there are too many.
    pub(super) fn replace(&mut self, digest: Digest, place: Extent) -> Result<()> {
        self.sound.remove(&digest);
        match self.blobs.insert(digest.clone(), place) {
            Some(former) => self.discard(digest, former),
            None => Ok(()),
        }
    }

    /// Takes note of a place of a blob that is not read, since another one counts.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if there are too many.
    pub(super) fn discard(&mut self, digest: Digest, place: Extent) -> Result<()> {
        self.budget().take(BLOB)?;
        self.discarded.push((digest, place));
        Ok(())
    }

    /// Every place of every blob.
    pub(super) fn places(&self) -> impl Iterator<Item = (&Digest, &Extent)> {
        let copies = self.copies.iter();
        let copies = copies.flat_map(|(digest, places)| places.iter().map(move |place| (digest, place)));
        let discarded = self.discarded.iter().map(|(digest, place)| (digest, place));
        self.blobs.iter().chain(copies).chain(discarded)
    }

    /// Takes up a manifest that was made here.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if there is no room for it.
    pub(super) fn add_built(&mut self, manifest: &RawManifest) -> Result<()> {
        if !self.built.contains_key(manifest.digest()) {
            self.budget().take(BLOB + manifest.bytes().len() as u64)?;
            self.built.insert(manifest.digest().clone(), manifest.bytes().clone());
        }
        Ok(())
    }

    /// A manifest, which was read and verified once; `media_type` is the type that its parent states.
    pub(super) fn manifest(&self, digest: &Digest, media_type: &str) -> Result<Arc<RawManifest>> {
        let size = self.size_of(digest).unwrap_or_default();
        self.documents
            .manifest(digest, size.min(MAX_MANIFEST), declared_type(media_type), || {
                self.read_all(digest, MAX_MANIFEST)
            })
    }

    /// An image config, which was read and verified once.
    pub(super) fn config(&self, digest: &Digest) -> Result<Arc<KnownConfig>> {
        let size = self.size_of(digest).unwrap_or_default();
        self.documents
            .config(digest, size.min(MAX_CONFIG), || self.read_all(digest, MAX_CONFIG))
    }

    /// A whole blob, which may have at most `cap` bytes; not checked against its digest.
    fn read_all(&self, digest: &Digest, cap: u64) -> Result<Bytes> {
        if let Some(bytes) = self.built.get(digest) {
            return Ok(bytes.clone());
        }
        loop {
            let place = self.place(digest)?;
            let bytes = match place.read_all(&blob_path(digest), cap) {
                Err(_) if self.next_copy(digest) => continue,
                read => read?,
            };
            let is_right = || digest.same_algorithm(&bytes) == *digest;
            if !self.copies.contains_key(digest) || is_right() || !self.next_copy(digest) {
                return Ok(Bytes::from(bytes));
            }
        }
    }

    /// Takes note of a second place of a blob, of the same size.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if there are too many.
    pub(super) fn add_copy(&mut self, digest: Digest, place: Extent) -> Result<()> {
        self.budget().take(2 * BLOB)?;
        self.copies.entry(digest).or_default().push(place);
        Ok(())
    }

    /// Turns to the next place of a blob whose bytes are wrong where it stands; `false` if there is none.
    pub(super) fn next_copy(&self, digest: &Digest) -> bool {
        let mut bad = self.bad.lock();
        let tried = bad.get(digest).copied().unwrap_or_default();
        let more = self.copies.get(digest).is_some_and(|copies| tried < copies.len());
        if more {
            bad.insert(digest.clone(), tried + 1);
        }
        more
    }

    /// Reads a blob through and compares its digest.
    pub(super) fn verify(&self, digest: &Digest) -> Result<()> {
        if self.built.contains_key(digest) {
            return Ok(());
        }
        let place = self.place(digest)?;
        let actual = hash(digest.hasher(), place)?;
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

    /// Whether the bytes at the known place of a blob have its digest. The answer is kept, so that many archives with other bytes
    /// under the same name do not have a large blob read again for each. A blob that cannot be read is not sound.
    pub(super) fn is_sound(&mut self, digest: &Digest) -> bool {
        if self.sound.contains(digest) {
            return true;
        }
        let place = self.blobs.get(digest);
        let sound = place.is_some_and(|place| verify(digest, place).unwrap_or(false));
        if sound {
            self.sound.insert(digest.clone());
        }
        sound
    }

    /// The place of a blob, for messages.
    pub(super) fn describe(&self, digest: &Digest) -> String {
        match self.place(digest).ok() {
            Some(place) => place.describe(&blob_path(digest)),
            None if self.built.contains_key(digest) => format!("manifest {digest}, which was made from the archive"),
            None => format!("blob {digest}"),
        }
    }

    fn place(&self, digest: &Digest) -> Result<&Extent> {
        let bad = self.bad.lock();
        let place = match bad.get(digest).copied().unwrap_or_default() {
            0 => self.blobs.get(digest),
            tried => self.copies.get(digest).and_then(|copies| copies.get(tried - 1)),
        };
        place.ok_or_else(|| Error::new(Kind::NotFound, format!("the bundle has no blob {digest}")))
    }
}

/// The name of a blob's member.
fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// Whether the bytes at a place are those of the digest.
fn verify(digest: &Digest, place: &Extent) -> Result<bool> {
    Ok(hash(digest.hasher(), place)? == *digest)
}

/// The digest of the bytes at a place.
pub(super) fn hash(mut hasher: Hasher, place: &Extent) -> Result<Digest> {
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    while offset < place.size {
        let got = place.read_at(offset, &mut buffer)?;
        hasher.update(&buffer[..got]);
        offset += got as u64;
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    use super::*;
    use crate::bundle::read::source::Source;

    #[test]
    fn a_sound_blob_is_not_read_again_for_each_archive_with_other_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        std::fs::write(&path, b"content").unwrap();
        let place = || Extent {
            source: Arc::new(Source::open(&path).unwrap()),
            member: None,
            offset: 0,
            size: 7,
        };
        let digest = Digest::sha256(b"content");
        let mut store = Store::new(Budget::default());
        store.add(digest.clone(), place()).unwrap();
        assert!(store.is_sound(&digest));
        // Another reading would see these bytes.
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"CONTENT", 0).unwrap();
        assert!(store.is_sound(&digest));
        store.replace(digest.clone(), place()).unwrap();
        assert!(!store.is_sound(&digest));
    }
}
