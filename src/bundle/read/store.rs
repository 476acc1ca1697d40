//! All blobs of all opened bundles, by digest.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;

use super::documents::{Documents, KnownConfig};
use super::source::{Extent, Source};
use super::summed::{VerifiedFile, sum_file};
use crate::error::{Error, Kind, Result};
use crate::files::positional::ReadAt;
use crate::image::budget::Budget;
use crate::image::config::MAX_CONFIG;
use crate::image::digest::{Digest, Hasher};
use crate::image::manifest::{MAX_MANIFEST, RawManifest, declared_type};
use crate::lock::Mutex;
use crate::text::byte_count;

/// Number of bytes read at a time when a whole blob is hashed.
const CHUNK: usize = 256 << 10;

/// Memory in bytes of a blob's place in a B-tree of the standard library,
/// whose nodes are at least half full.
const BLOB: u64 = 2 * (size_of::<Digest>() + size_of::<Extent>()) as u64;

/// The blobs of all bundles, by digest.
#[derive(Debug, Default)]
pub(crate) struct Store {
    /// Places of blobs in files.
    /// A B-tree grows node by node; a hash table would hold all entries twice while it grows.
    blobs: BTreeMap<Digest, Extent>,
    /// Further places of the same blobs in other bundles, with the same size.
    copies: HashMap<Digest, Vec<Extent>>,
    /// Unused places of blobs whose size differs from that of the place in use:
    /// one of the two is wrong.
    discarded: Vec<(Digest, Extent)>,
    /// SHA-256 of files that were read to their end while they were unpacked.
    pub(super) sums: Vec<VerifiedFile>,
    /// Number of places of a blob that turned out to be corrupt.
    bad: Mutex<HashMap<Digest, usize>>,
    /// Blobs whose place in use was verified against the digest.
    sound: HashSet<Digest>,
    /// Blobs behind links that cannot be followed, with the reason.
    refused: BTreeMap<Digest, String>,
    /// Manifests that were built by this program.
    built: HashMap<Digest, Bytes>,
    /// Manifests and configs that were read.
    documents: Documents,
    /// Whether more blobs follow in a pipe, so that an absent blob may still arrive.
    pub(super) to_come: bool,
}

impl Store {
    pub(super) fn new(budget: Budget) -> Self {
        Self {
            documents: Documents::new(budget),
            ..Self::default()
        }
    }

    /// Returns the size of a blob, if the store has the blob.
    pub(crate) fn size_of(&self, digest: &Digest) -> Option<u64> {
        match self.built.get(digest) {
            Some(bytes) => Some(bytes.len() as u64),
            None => self.blobs.get(digest).map(|place| place.size),
        }
    }

    /// Fills the buffer from `offset` of a blob on, up to the end of the blob.
    pub(crate) fn read_at(&self, digest: &Digest, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        if let Some(bytes) = self.built.get(digest) {
            return bytes
                .fill_at(buffer, offset)
                .map_err(|e| Error::new(Kind::Io, "cannot read memory").with_source(e));
        }
        self.place(digest)?.read_at(offset, buffer)
    }

    /// Returns the open file that holds a blob, and the blob's offset in the file.
    pub(super) fn file_of(&self, digest: &Digest) -> Option<(&File, u64)> {
        let place = self.blobs.get(digest).filter(|_| !self.built.contains_key(digest))?;
        Some((place.source.file()?, place.offset))
    }

    /// Returns the memory budget of this run.
    pub(super) fn budget(&self) -> &Budget {
        self.documents.budget()
    }

    /// Drops unused documents until this many bytes of the budget are free.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if dropping all unused documents does not free enough.
    pub(super) fn make_room(&self, bytes: u64) -> Result<()> {
        self.documents.make_room(bytes)
    }

    /// Drops all documents, which are read again if they are needed.
    pub(super) fn drop_documents(&self) {
        self.documents.clear();
    }

    /// Returns the number of blobs in files.
    pub(super) fn len(&self) -> usize {
        self.blobs.len()
    }

    /// Returns the digests of all blobs in files.
    pub(super) fn digests(&self) -> impl Iterator<Item = &Digest> {
        self.blobs.keys()
    }

    /// Returns this store's own copy of a digest, if a file holds the blob.
    pub(super) fn stored(&self, digest: &Digest) -> Option<&Digest> {
        self.blobs.get_key_value(digest).map(|(digest, _)| digest)
    }

    /// Returns the place of a blob in a file.
    pub(super) fn blob(&self, digest: &Digest) -> Option<&Extent> {
        self.blobs.get(digest)
    }

    /// Adds the place of a blob, unless the blob already has a place.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if the budget is exhausted.
    pub(super) fn add(&mut self, digest: Digest, place: Extent) -> Result<()> {
        if !self.blobs.contains_key(&digest) {
            self.budget().take(BLOB)?;
            self.blobs.insert(digest, place);
        }
        Ok(())
    }

    /// Fills the nodes of the tree of places, which are little more than half full after they grew entry by entry.
    pub(super) fn compact(&mut self) {
        self.blobs = std::mem::take(&mut self.blobs).into_iter().collect();
    }

    /// Refuses an archive of this many blobs if they leave too little memory for other archives.
    ///
    /// # Errors
    /// [`Kind::TooLarge`].
    pub(super) fn leave_room(&self, blobs: u64) -> Result<()> {
        self.budget().leave_room(blobs * BLOB)
    }

    /// Computes the SHA-256 of a file that cannot be read as an archive, unless it is known.
    pub(super) fn sum_unreadable(&mut self, path: &Path) {
        let Ok(source) = Source::open(path) else { return };
        if self.sums.iter().all(|sum| sum.path != source.label()) {
            self.sums.extend(sum_file(&source, &AtomicBool::new(false)));
        }
    }

    /// Removes the blobs of an archive that could not be read, and returns their memory to the budget.
    pub(super) fn forget(&mut self, source: &Arc<Source>) {
        let is_other = |place: &Extent| !Arc::ptr_eq(&place.source, source);
        let count = |store: &Self| {
            let copies: usize = store.copies.values().map(Vec::len).sum();
            (store.blobs.len() + 2 * copies + store.discarded.len()) as u64
        };
        let before = count(self);
        self.blobs.retain(|_, place| is_other(place));
        self.copies.values_mut().for_each(|places| places.retain(is_other));
        // The copy of a blob that this archive had replaced is used again.
        for (digest, place) in std::mem::take(&mut self.discarded) {
            match self.blobs.contains_key(&digest) {
                _ if !is_other(&place) => {}
                true => self.discarded.push((digest, place)),
                false => drop(self.blobs.insert(digest, place)),
            }
        }
        self.budget().give_back((before - count(self)) * BLOB);
    }

    /// Records why a listed blob cannot be read.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if the budget is exhausted.
    pub(super) fn refuse(&mut self, digest: Digest, why: String) -> Result<()> {
        self.budget().take(BLOB + why.len() as u64)?;
        self.refused.insert(digest, why);
        Ok(())
    }

    /// Returns why an absent blob cannot be read, if known.
    pub(super) fn refusal(&self, digest: &Digest) -> Option<&str> {
        self.refused.get(digest).map(String::as_str)
    }

    /// Sets the place of a blob whose bytes were hashed; replaces any place set before.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if the budget is exhausted.
    pub(super) fn add_proved(&mut self, digest: Digest, place: Extent) -> Result<()> {
        if !self.blobs.contains_key(&digest) {
            self.budget().take(BLOB)?;
        }
        self.documents.forget(&digest);
        self.blobs.insert(digest, place);
        Ok(())
    }

    /// Adds a place of a blob whose size differs from that of the place in use. One of the two is wrong, and the other one is
    /// used from now on.
    ///
    /// Only the smaller place is read: if its bytes are wrong, the larger place is right, or fails when it is used. A
    /// sparse file of any length therefore costs nothing here.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if the budget is exhausted.
    pub(super) fn add_other_size(&mut self, digest: Digest, place: Extent) -> Result<()> {
        let is_smaller = self.blobs.get(&digest).is_some_and(|used| place.size < used.size);
        match is_smaller {
            true if verify(&digest, &place).unwrap_or(false) => {
                self.replace(digest.clone(), place)?;
                self.sound.insert(digest);
                Ok(())
            }
            false if !self.is_sound(&digest) => self.replace(digest, place),
            _ => self.discard(digest, place),
        }
    }

    /// Replaces the place of a blob, and keeps the former place as unused.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if the budget is exhausted.
    fn replace(&mut self, digest: Digest, place: Extent) -> Result<()> {
        self.sound.remove(&digest);
        match self.blobs.insert(digest.clone(), place) {
            Some(former) => self.discard(digest, former),
            None => Ok(()),
        }
    }

    /// Records an unused place of a blob, for verification.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if the budget is exhausted.
    pub(super) fn discard(&mut self, digest: Digest, place: Extent) -> Result<()> {
        self.budget().take(BLOB)?;
        self.discarded.push((digest, place));
        Ok(())
    }

    /// Returns every place of every blob, including copies and unused places.
    pub(super) fn places(&self) -> impl Iterator<Item = (&Digest, &Extent)> {
        let copies = self.copies.iter();
        let copies = copies.flat_map(|(digest, places)| places.iter().map(move |place| (digest, place)));
        let discarded = self.discarded.iter().map(|(digest, place)| (digest, place));
        self.blobs.iter().chain(copies).chain(discarded)
    }

    /// Adds a manifest that was built by this program.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if the budget is exhausted.
    pub(super) fn add_built(&mut self, manifest: &RawManifest) -> Result<()> {
        if !self.built.contains_key(manifest.digest()) {
            self.budget().take(BLOB + manifest.bytes().len() as u64)?;
            self.built.insert(manifest.digest().clone(), manifest.bytes().clone());
        }
        Ok(())
    }

    /// Returns a manifest, verified once and cached;
    /// `media_type` is the type that its parent states.
    pub(super) fn manifest(&self, digest: &Digest, media_type: &str) -> Result<Arc<RawManifest>> {
        let size = self.size_of(digest).unwrap_or_default();
        self.documents
            .manifest(digest, size.min(MAX_MANIFEST), declared_type(media_type), || {
                self.read_all(digest, MAX_MANIFEST)
            })
    }

    /// Returns an image config, verified once and cached.
    pub(super) fn config(&self, digest: &Digest) -> Result<Arc<KnownConfig>> {
        let size = self.size_of(digest).unwrap_or_default();
        self.documents
            .config(digest, size.min(MAX_CONFIG), || self.read_all(digest, MAX_CONFIG))
    }

    /// Reads a whole blob of at most `cap` bytes, preferably from a place with the right digest.
    /// The caller checks the digest.
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

    /// Adds a further place of a blob, of the same size.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if the budget is exhausted.
    pub(super) fn add_copy(&mut self, digest: Digest, place: Extent) -> Result<()> {
        self.budget().take(2 * BLOB)?;
        self.copies.entry(digest).or_default().push(place);
        Ok(())
    }

    /// Switches to the next place of a blob whose bytes are wrong;
    /// returns `false` if no place is left.
    pub(crate) fn next_copy(&self, digest: &Digest) -> bool {
        let mut bad = self.bad.lock();
        let tried = bad.get(digest).copied().unwrap_or_default();
        let more = self.copies.get(digest).is_some_and(|copies| tried < copies.len());
        if more {
            bad.insert(digest.clone(), tried + 1);
        }
        more
    }

    /// Reads a blob and verifies its digest.
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
                "{}: the {} of blob {digest} hash to {actual}{when}",
                self.describe(digest),
                byte_count(place.size)
            ),
        )
        .with_hint("the bundle is damaged: copy it again, or make it again"))
    }

    /// Returns whether the place in use of a blob holds the right bytes.
    /// A blob that cannot be read is not sound.
    ///
    /// A positive result is cached, so that many archives with other bytes under the same name do not cause a large blob
    /// to be read again for each of them.
    fn is_sound(&mut self, digest: &Digest) -> bool {
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

    /// Describes the place of a blob for messages.
    pub(crate) fn describe(&self, digest: &Digest) -> String {
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

/// Returns the member name of a blob.
fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// Returns whether the bytes at a place match the digest.
fn verify(digest: &Digest, place: &Extent) -> Result<bool> {
    Ok(hash(digest.hasher(), place)? == *digest)
}

/// Hashes the bytes at a place.
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
        // Another read would return these bytes.
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"CONTENT", 0).unwrap();
        assert!(store.is_sound(&digest));
        store.replace(digest.clone(), place()).unwrap();
        assert!(!store.is_sound(&digest));
    }
}
