//! Where each blob can be had, and a stream of its bytes that moves on to the next place when one fails.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::tree::ImageTree;
use crate::progress::Progress;
use crate::registry::{BlobReader, Registries, Registry, WithoutRange};

/// The repositories that name each blob, in the order in which images were asked for.
#[derive(Debug, Default, Clone)]
pub struct Sources {
    places: HashMap<Digest, Vec<Repository>>,
    progress: Progress,
}

/// One repository of one registry.
#[derive(Debug, Clone)]
pub(super) struct Repository {
    pub(super) registry: Registry,
    pub(super) name: Arc<str>,
}

impl Repository {
    /// That of an image.
    pub(super) fn of(image: &Reference, registries: &Registries) -> Result<Self> {
        Ok(Self {
            registry: registries.host(image.host())?,
            name: image.repository().into(),
        })
    }
}

impl Sources {
    /// The sources of these trees.
    pub fn new<'a>(
        trees: impl IntoIterator<Item = &'a ImageTree>,
        registries: &Registries,
        progress: Progress,
    ) -> Result<Self> {
        let mut places: HashMap<Digest, Vec<Repository>> = HashMap::new();
        for tree in trees {
            let place = Repository::of(&tree.source, registries)?;
            for blob in tree.blobs() {
                let known = places.entry(blob.descriptor.digest).or_default();
                if !known
                    .iter()
                    .any(|p| p.name == place.name && p.registry.host() == place.registry.host())
                {
                    known.push(place.clone());
                }
            }
        }
        Ok(Self { places, progress })
    }

    /// How many places name a blob.
    pub fn places(&self, digest: &Digest) -> usize {
        self.places.get(digest).map_or(0, Vec::len)
    }

    /// Opens a part of a blob, from whichever place has it. `first` says how many places are passed over at first: those that
    /// gave wrong bytes before. They come last; with fewer places than that it starts again from the first.
    ///
    /// # Errors
    /// That of the last place, if none has it. [`Kind::Unsupported`] if places that have it do not serve ranges and
    /// `without_range` refuses to go without.
    pub async fn open(
        &self,
        blob: &Descriptor,
        range: Range<u64>,
        without_range: WithoutRange,
        first: usize,
    ) -> Result<Stream<'_>> {
        let mut places: VecDeque<&Repository> = self.places.get(&blob.digest).into_iter().flatten().collect();
        if !places.is_empty() {
            places.rotate_left(first % places.len());
        }
        let mut stream = Stream {
            progress: &self.progress,
            places,
            blob: blob.clone(),
            at: range.start,
            end: range.end,
            without_range,
            reader: None,
        };
        stream.connect(None).await?;
        Ok(stream)
    }
}

/// The bytes of a part of a blob, in order. They are not hashed here: whoever takes them does.
pub struct Stream<'a> {
    progress: &'a Progress,
    /// The present place, and those that are still to be tried.
    places: VecDeque<&'a Repository>,
    blob: Descriptor,
    at: u64,
    end: u64,
    without_range: WithoutRange,
    reader: Option<BlobReader>,
}

impl Stream<'_> {
    /// The next bytes; `None` at the end of the part.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.at >= self.end {
                return Ok(None);
            }
            let Some(reader) = &mut self.reader else {
                return Err(Error::new(
                    Kind::Network,
                    format!("blob {} ended too early", self.blob.digest),
                ));
            };
            match reader.chunk().await {
                Ok(Some(bytes)) => {
                    self.at += bytes.len() as u64;
                    if self.at >= self.end
                        && let Some(mut reader) = self.reader.take()
                    {
                        // Its end tells the host's limit that all went well, and frees the connection. What a registry may
                        // send beyond it is of no interest: the digest of what was asked for decides.
                        let _ = reader.chunk().await;
                    }
                    return Ok(Some(bytes));
                }
                Ok(None) => {
                    let short = Error::new(Kind::Network, format!("blob {} ended too early", self.blob.digest));
                    self.next_place(short).await?;
                }
                Err(error) => self.next_place(error).await?,
            }
        }
    }

    async fn next_place(&mut self, error: Error) -> Result<()> {
        self.reader = None;
        if self.refused_range(&error) {
            return Err(error);
        }
        self.places.pop_front();
        self.connect(Some(error)).await
    }

    /// A registry without ranges is no failed place: the caller goes another way.
    fn refused_range(&self, error: &Error) -> bool {
        self.without_range == WithoutRange::Refuse && error.kind() == Kind::Unsupported
    }

    /// Connects to the first of the places that are left.
    async fn connect(&mut self, mut last: Option<Error>) -> Result<()> {
        while let Some(place) = self.places.front() {
            if let Some(error) = last.take() {
                self.progress.warn(format!(
                    "{}; trying {}/{} instead",
                    error.full(),
                    place.registry.host(),
                    place.name
                ));
            }
            match place
                .registry
                .blob(&place.name, &self.blob, self.at..self.end, self.without_range)
                .await
            {
                Ok(reader) => {
                    self.reader = Some(reader);
                    return Ok(());
                }
                Err(error) if self.refused_range(&error) => return Err(error),
                Err(error) => last = Some(error),
            }
            self.places.pop_front();
        }
        Err(last.unwrap_or_else(|| Error::new(Kind::NotFound, format!("no image names blob {}", self.blob.digest))))
    }
}
