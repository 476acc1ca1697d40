//! Failover between the source repositories of a blob during a transfer.
//!
//! A [`BlobReader`] takes an ordered list of candidates (mirror host × repository) and moves on to the next candidate when
//! a host refuses the request or breaks the connection. The reader does not hash the bytes, so it cannot detect wrong
//! bytes: the caller hashes them, counts the wrong reads of each blob, and passes that number when it opens the blob again.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Kind, Result, Side};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::tree::ImageTree;
use crate::progress::InFlight;
use crate::registry::{BlobReader, Candidate, Presence, ReadPlace, Registries, Registry, WithoutRange};

/// The source repositories of each blob, in the order in which the images were requested. A run has very many blobs, most of
/// them with one source, so that lists of numbers take the place of a map.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    repositories: Vec<Repository>,
    /// Blobs in the order of their digests, each with the end of its part of `positions`.
    blobs: Vec<(Digest, u32)>,
    /// Positions in `repositories`, blob after blob.
    positions: Vec<u32>,
}

/// A repository at a registry.
#[derive(Debug, Clone)]
pub(super) struct Repository {
    pub(super) registry: Registry,
    pub(super) name: Arc<str>,
}

impl Repository {
    /// Returns the repository of an image.
    ///
    /// # Errors
    /// If the client of the host cannot be set up.
    pub(super) fn new(image: &Reference, registries: &Registries) -> Result<Self> {
        Ok(Self {
            registry: registries.host(image.host())?,
            name: image.repository().into(),
        })
    }
}

impl Sources {
    /// Collects the source repositories of all blobs in `trees`.
    ///
    /// # Errors
    /// If the client of a host cannot be set up.
    pub(crate) fn new<'a>(trees: impl IntoIterator<Item = &'a ImageTree>, registries: &Registries) -> Result<Self> {
        let mut sources = Self::default();
        let mut positions: HashMap<(&str, &str), u32> = HashMap::new();
        let mut named: Vec<(&Digest, u32)> = Vec::new();
        for tree in trees {
            let position = match positions.entry((tree.source.host(), tree.source.repository())) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => *new.insert(sources.add(Repository::new(&tree.source, registries)?)),
            };
            named.extend(tree.named_blobs().into_iter().map(|(blob, _)| (&blob.digest, position)));
        }
        sources.add_blobs(named);
        Ok(sources)
    }

    /// Adds blobs with the position of one of their repositories each, in the order in which the images were requested.
    fn add_blobs(&mut self, mut named: Vec<(&Digest, u32)>) {
        // The sort is stable: the repositories of a blob keep their order.
        named.sort_by_key(|(digest, _)| *digest);
        for blob in named.chunk_by(|(a, _), (b, _)| a == b) {
            let first = self.positions.len();
            for (_, position) in blob {
                if !self.positions[first..].contains(position) {
                    self.positions.push(*position);
                }
            }
            self.blobs.push((blob[0].0.clone(), self.positions.len() as u32));
        }
        self.blobs.shrink_to_fit();
        self.positions.shrink_to_fit();
    }

    /// Adds a repository and returns its position.
    fn add(&mut self, repository: Repository) -> u32 {
        self.repositories.push(repository);
        self.repositories.len() as u32 - 1
    }

    /// Builds the sources of blobs whose repository is already known, with one repository for each blob.
    pub(super) fn from_blobs(blobs: impl IntoIterator<Item = (Digest, Repository)>) -> Self {
        let mut sources = Self::default();
        let blobs: BTreeMap<Digest, u32> = blobs
            .into_iter()
            .map(|(digest, repository)| (digest, sources.add(repository)))
            .collect();
        sources.add_blobs(blobs.iter().map(|(digest, position)| (digest, *position)).collect());
        sources
    }

    /// Returns the positions of the repositories of a blob.
    fn positions(&self, digest: &Digest) -> &[u32] {
        let Ok(number) = self.blobs.binary_search_by(|(blob, _)| blob.cmp(digest)) else {
            return &[];
        };
        let start = number.checked_sub(1).map_or(0, |before| self.blobs[before].1);
        &self.positions[start as usize..self.blobs[number].1 as usize]
    }

    /// Returns the repositories of a blob.
    fn repositories(&self, digest: &Digest) -> impl Iterator<Item = &Repository> {
        let positions = self.positions(digest).iter();
        positions.map(|position| &self.repositories[*position as usize])
    }

    /// Returns the candidates for a blob, mirrors included. The list is rotated by `wrong_reads`, the number of earlier reads
    /// of this blob that returned wrong bytes, so that each candidate comes first in turn.
    ///
    /// # Errors
    /// If there is no candidate.
    fn candidates(&self, digest: &Digest, wrong_reads: usize) -> Result<Vec<Candidate>> {
        let mut candidates = Vec::new();
        // An error of one repository matters only if no other repository has a candidate.
        let mut blocked = None;
        for repository in self.repositories(digest) {
            match repository.registry.candidates(&repository.name, digest) {
                Ok(found) => candidates.extend(found),
                Err(error) => blocked = Some(error),
            }
        }
        if candidates.is_empty() {
            let unknown = || Error::new(Kind::NotFound, format!("no image names blob {digest}"));
            return Err(blocked.unwrap_or_else(unknown).with_side(Side::Source));
        }
        let first = wrong_reads % candidates.len();
        candidates.rotate_left(first);
        Ok(candidates)
    }

    /// Returns the number of candidates for a blob.
    pub(crate) fn count(&self, digest: &Digest) -> usize {
        self.candidates(digest, 0).map_or(0, |candidates| candidates.len())
    }

    /// Returns `HOST/REPOSITORY` of the candidate that [`open`](Self::open) tries first.
    /// The choice depends on `wrong_reads`, the number of wrong reads of the blob so far.
    pub(crate) fn first(&self, digest: &Digest, wrong_reads: usize) -> Option<String> {
        let candidates = self.candidates(digest, wrong_reads).ok()?;
        candidates.first().map(Candidate::to_string)
    }

    /// Returns whether one of the source repositories has a blob.
    ///
    /// # Errors
    /// Errors of the registry.
    pub(crate) async fn head(&self, blob: &Descriptor) -> Result<Presence<()>> {
        let mut found = Presence::Unknown;
        for repository in self.repositories(&blob.digest) {
            let asked = repository.registry.head_blob(&repository.name, blob).await;
            found = asked.map_err(|e| e.with_side(Side::Source))?;
            if !matches!(found, Presence::Missing) {
                break;
            }
        }
        Ok(found)
    }

    /// Opens a range of a blob.
    /// The candidate that is asked first depends on `wrong_reads`, the number of earlier reads of this blob that returned
    /// wrong bytes.
    ///
    /// # Errors
    /// Errors of the last candidate, if no candidate has the blob. [`Kind::NoRanges`] if a candidate does not serve range
    /// requests and `without_range` refuses to read the whole blob.
    pub(crate) async fn open(
        &self,
        blob: &Descriptor,
        range: Range<u64>,
        without_range: WithoutRange,
        wrong_reads: usize,
    ) -> Result<SourceReader> {
        let opening = self.prepare(&blob.digest, wrong_reads)?;
        opening.open(blob, range, without_range).await
    }

    /// Prepares the opening of a blob, for callers that choose the range when the request can be sent.
    /// See [`open`](Self::open) for `wrong_reads`.
    ///
    /// # Errors
    /// If no candidate has the blob.
    pub(crate) fn prepare(&self, digest: &Digest, wrong_reads: usize) -> Result<Opening> {
        let first = self.repositories(digest).next();
        Ok(Opening {
            candidates: self.candidates(digest, wrong_reads)?,
            place: None,
            in_flight: first.map(|it| it.registry.in_flight(&it.name)),
        })
    }
}

/// A blob that is about to be opened.
#[derive(Debug)]
pub(crate) struct Opening {
    candidates: Vec<Candidate>,
    place: Option<ReadPlace>,
    in_flight: Option<InFlight>,
}

impl Opening {
    /// Waits for a place at the first candidate. A caller with a place must not wait for anything but the answer.
    pub(crate) async fn wait_for_place(&mut self) {
        if let Some(first) = self.candidates.first() {
            self.place = Some(first.place().await);
        }
    }

    /// Returns whether the number of connections to the first candidate grows fast.
    pub(crate) fn is_growing(&self) -> bool {
        self.candidates.first().is_some_and(Candidate::is_growing)
    }

    /// Opens a range of the blob. See [`Sources::open`].
    pub(crate) async fn open(
        self,
        blob: &Descriptor,
        range: Range<u64>,
        without_range: WithoutRange,
    ) -> Result<SourceReader> {
        let start = range.start;
        let opened = BlobReader::open_in(self.place, self.candidates, blob, range, without_range).await;
        let reader = opened.map_err(|e| e.with_side(Side::Source))?;
        Ok(SourceReader {
            left: reader.end().saturating_sub(start),
            reader,
            _in_flight: self.in_flight,
        })
    }
}

/// The bytes of a range of a blob, in order. The reader does not hash the bytes: the caller does.
#[derive(Debug)]
pub(crate) struct SourceReader {
    reader: BlobReader,
    left: u64,
    _in_flight: Option<InFlight>,
}

impl SourceReader {
    /// Returns the number of bytes to come: more than were asked for with [`WithoutRange::Extend`], if ranges are ignored.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Returns the next bytes of the range, or `None` at its end.
    ///
    /// # Errors
    /// Errors of the last candidate, after all earlier candidates failed.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let bytes = self.reader.chunk().await.map_err(|e| e.with_side(Side::Source))?;
        self.left -= bytes.as_ref().map_or(self.left, |bytes| bytes.len() as u64);
        if self.left == 0 {
            // Reading the end of the body frees the connection and the permit at once. A body longer than the descriptor's
            // size is not an error here, since the digest of the promised bytes decides.
            let _ = self.reader.chunk().await;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repositories_of_a_blob_keep_the_order_of_the_images() {
        let [shared, own, other] = [&b"shared"[..], b"own", b"other"].map(Digest::sha256);
        let mut sources = Sources::default();
        sources.add_blobs(vec![
            (&own, 0),
            (&shared, 2),
            (&own, 0),
            (&shared, 1),
            (&shared, 2),
            (&other, 1),
        ]);
        assert_eq!(sources.positions(&shared), [2, 1]);
        assert_eq!(sources.positions(&own), [0]);
        assert_eq!(sources.positions(&other), [1]);
        assert_eq!(sources.positions(&Digest::sha256(b"of no image")), [0; 0]);
    }
}
