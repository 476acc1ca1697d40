//! The one failover of a transfer: every repository that names a blob, and a reader that goes through them.
//!
//! A [`BlobReader`] takes an ordered list of candidates (mirror host × repository) and moves on to the next one when a host
//! refuses or breaks off. It cannot see that bytes are wrong, since it does not hash them: the caller does, counts the wrong
//! reads of a blob, and opens it again with that number.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Kind, Result, Side};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::tree::ImageTree;
use crate::progress::InFlight;
use crate::registry::{BlobReader, Presence, Registries, Registry, WithoutRange};

/// The repositories that name each blob, in the order in which images were asked for.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    repositories: HashMap<Digest, Vec<Repository>>,
}

/// One repository of one registry.
#[derive(Debug, Clone)]
pub(super) struct Repository {
    pub(super) registry: Registry,
    pub(super) name: Arc<str>,
}

impl Repository {
    /// The repository of an image.
    pub(super) fn new(image: &Reference, registries: &Registries) -> Result<Self> {
        Ok(Self {
            registry: registries.host(image.host())?,
            name: image.repository().into(),
        })
    }
}

impl Sources {
    /// The sources of these trees.
    ///
    /// # Errors
    /// If the client of a host cannot be set up.
    pub(crate) fn new<'a>(trees: impl IntoIterator<Item = &'a ImageTree>, registries: &Registries) -> Result<Self> {
        let mut repositories: HashMap<Digest, Vec<Repository>> = HashMap::new();
        let mut seen = HashSet::new();
        for tree in trees {
            let repository = Repository::new(&tree.source, registries)?;
            for blob in tree.blobs() {
                let digest = blob.descriptor.digest;
                if seen.insert((
                    digest.clone(),
                    repository.registry.host().to_owned(),
                    repository.name.clone(),
                )) {
                    repositories.entry(digest).or_default().push(repository.clone());
                }
            }
        }
        Ok(Self { repositories })
    }

    /// Blobs of which the repository is known.
    pub(super) fn from_blobs(blobs: impl IntoIterator<Item = (Digest, Repository)>) -> Self {
        let blobs = blobs.into_iter();
        Self {
            repositories: blobs.map(|(digest, repository)| (digest, vec![repository])).collect(),
        }
    }

    /// How many repositories name a blob.
    pub(crate) fn count(&self, digest: &Digest) -> usize {
        self.repositories.get(digest).map_or(0, Vec::len)
    }

    /// `HOST/REPOSITORY` of the source that [`open`](Self::open) tries first after this many wrong reads.
    pub(crate) fn first(&self, digest: &Digest, wrong_reads: usize) -> Option<String> {
        let repositories = self.repositories.get(digest)?;
        let first = &repositories[wrong_reads % repositories.len()];
        Some(format!("{}/{}", first.registry.host(), first.name))
    }

    /// Whether one of the repositories that name a blob has it.
    ///
    /// # Errors
    /// Those of the registry.
    pub(crate) async fn head(&self, blob: &Descriptor) -> Result<Presence<()>> {
        let repositories = self.repositories.get(&blob.digest).map_or(&[][..], Vec::as_slice);
        let mut found = Presence::Unknown;
        for repository in repositories {
            let asked = repository.registry.head_blob(&repository.name, blob).await;
            found = asked.map_err(|e| e.with_side(Side::Source))?;
            if !matches!(found, Presence::Missing) {
                break;
            }
        }
        Ok(found)
    }

    /// Opens a part of a blob. After `wrong_reads` reads that gave other bytes, as many repositories are passed over and
    /// tried last, so that each of them gets a chance.
    ///
    /// # Errors
    /// Those of the last candidate, if none has the blob. [`Kind::NoRanges`] if a candidate does not serve ranges and
    /// `without_range` refuses to read the whole blob.
    pub(crate) async fn open(
        &self,
        blob: &Descriptor,
        range: Range<u64>,
        without_range: WithoutRange,
        wrong_reads: usize,
    ) -> Result<SourceReader> {
        let repositories = self.repositories.get(&blob.digest).map_or(&[][..], Vec::as_slice);
        let first = wrong_reads.checked_rem(repositories.len()).unwrap_or(0);
        let mut candidates = Vec::new();
        let mut blocked = None;
        for repository in repositories[first..].iter().chain(&repositories[..first]) {
            match repository.registry.candidates(&repository.name, &blob.digest) {
                Ok(found) => candidates.extend(found),
                Err(error) => blocked = Some(error),
            }
        }
        if candidates.is_empty() {
            let unknown = || Error::new(Kind::NotFound, format!("no image names blob {}", blob.digest));
            return Err(blocked.unwrap_or_else(unknown).with_side(Side::Source));
        }
        let in_flight = repositories.get(first).map(|it| it.registry.in_flight(&it.name));
        let left = range.end.saturating_sub(range.start);
        let opened = BlobReader::open(candidates, blob, range, without_range).await;
        Ok(SourceReader {
            reader: opened.map_err(|e| e.with_side(Side::Source))?,
            left,
            _in_flight: in_flight,
        })
    }
}

/// The bytes of a part of a blob, in order. They are not hashed here: the caller does that.
#[derive(Debug)]
pub(crate) struct SourceReader {
    reader: BlobReader,
    left: u64,
    _in_flight: Option<InFlight>,
}

impl SourceReader {
    /// The next bytes; `None` at the end of the part.
    ///
    /// # Errors
    /// Those of the last candidate, when all others failed before.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let bytes = self.reader.chunk().await.map_err(|e| e.with_side(Side::Source))?;
        self.left -= bytes.as_ref().map_or(self.left, |bytes| bytes.len() as u64);
        if self.left == 0 {
            // Reading the end mark frees the connection and the permit at once. A registry may send more than the descriptor
            // promises; that does not matter, since the digest of the promised bytes decides.
            let _ = self.reader.chunk().await;
        }
        Ok(bytes)
    }
}
