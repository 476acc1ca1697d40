//! Where each blob can be had, and a stream of its bytes that moves on to the next place when one fails.

use std::collections::HashMap;
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

    /// Opens a part of a blob, from whichever place has it. `first` says how many places are passed over: those that gave
    /// wrong bytes before. With fewer places than that it starts again from the first.
    ///
    /// # Errors
    /// That of the last place, if none has it.
    pub async fn open(
        &self,
        blob: &Descriptor,
        range: Range<u64>,
        without_range: WithoutRange,
        first: usize,
    ) -> Result<Stream<'_>> {
        let places = self.places.get(&blob.digest).map_or(0, Vec::len);
        let mut stream = Stream {
            sources: self,
            blob: blob.clone(),
            at: range.start,
            end: range.end,
            without_range,
            place: first.checked_rem(places).unwrap_or(0),
            reader: None,
        };
        stream.connect(None).await?;
        Ok(stream)
    }
}

/// The bytes of a part of a blob, in order. They are not hashed here: whoever takes them does.
pub struct Stream<'a> {
    sources: &'a Sources,
    blob: Descriptor,
    at: u64,
    end: u64,
    without_range: WithoutRange,
    place: usize,
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
        self.place += 1;
        self.connect(Some(error)).await
    }

    /// Connects to the current place, or to one behind it.
    async fn connect(&mut self, mut last: Option<Error>) -> Result<()> {
        let places = self
            .sources
            .places
            .get(&self.blob.digest)
            .map_or(&[][..], Vec::as_slice);
        while let Some(place) = places.get(self.place) {
            if let Some(error) = last.take() {
                self.sources.progress.warn(format!(
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
                // A registry without ranges is no failed place: the caller goes another way.
                Err(error) if error.kind() == Kind::Unsupported => return Err(error),
                Err(error) => last = Some(error),
            }
            self.place += 1;
        }
        Err(last.unwrap_or_else(|| Error::new(Kind::NotFound, format!("no image names blob {}", self.blob.digest))))
    }
}
