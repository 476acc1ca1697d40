//! The one-step mirror: from registries straight into another one, blobs piped through without touching a disk.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;

use super::push::place;
use super::push::push_all::{Slot, push_all};
use super::push::report::{ImageReport, PushReport};
use super::push::request::{Origin, PushRequest};
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::tree::ImageTree;
use crate::progress::Progress;
use crate::registry::{BlobReader, BlobSource, BlobStream, Registries, Registry, WithoutRange};

/// Pushes resolved images to the destination, their blobs read from the registries that they were resolved at. `trees`
/// holds for each reference that was asked for what became of resolving it; failures stand in the report.
///
/// # Errors
/// If nothing was sent at all: names collide, or the destination cannot be reached.
pub async fn mirror(
    trees: Vec<(Reference, Result<ImageTree>)>,
    sources: &Registries,
    request: PushRequest,
    destinations: &Registries,
    progress: Progress,
) -> Result<PushReport> {
    let mut slots = Vec::new();
    let mut found = Vec::new();
    let mut places: HashMap<Digest, Vec<Place>> = HashMap::new();
    for (reference, tree) in trees {
        let resolved = tree.and_then(|tree| Ok((sources.host(tree.source.host())?, tree)));
        match resolved {
            Err(error) => slots.push(Slot::Failed(Box::new(ImageReport::unresolved(&reference, &error)))),
            Ok((registry, tree)) => {
                for blob in tree.blobs() {
                    let places = places.entry(blob.descriptor.digest).or_default();
                    let repository = tree.source.repository();
                    if !places
                        .iter()
                        .any(|p| p.repository == repository && p.host() == tree.source.host())
                    {
                        places.push(Place {
                            registry: registry.clone(),
                            repository: repository.to_owned(),
                        });
                    }
                }
                slots.push(Slot::Item(tree.source.to_string()));
                found.push(tree);
            }
        }
    }
    let blobs: Arc<dyn Origin> = Arc::new(RegistryBlobs(Arc::new(Places {
        places,
        given_up: Mutex::default(),
        doubted: Mutex::default(),
    })));
    let items = found
        .into_iter()
        .map(|tree| place::item(&request, tree, blobs.clone(), false))
        .collect::<Result<Vec<_>>>()?;
    place::check_mappings(&request, items.iter().map(|item| &item.tree.source), &progress);
    push_all(items, slots, &request, destinations, &progress).await
}

/// A repository that has a blob.
#[derive(Debug, Clone)]
struct Place {
    registry: Registry,
    repository: String,
}

impl Place {
    fn host(&self) -> &str {
        self.registry.host()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}/{}`", self.registry.host(), self.repository)
    }
}

/// The blobs of images in registries. A blob that several repositories have is taken from the next one where one refuses,
/// breaks off or sends other bytes.
struct RegistryBlobs(Arc<Places>);

struct Places {
    places: HashMap<Digest, Vec<Place>>,
    /// Places that failed at a blob, by their number; never all of a blob's places.
    given_up: Mutex<HashSet<(Digest, usize)>>,
    /// Places that sent other bytes of a blob and were asked again.
    doubted: Mutex<HashSet<(Digest, usize)>>,
}

impl Places {
    /// The first place of a blob that has not failed yet.
    fn current(&self, digest: &Digest) -> Option<(usize, &Place)> {
        let given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        let places = self.places.get(digest)?;
        let usable = |(number, _): &(usize, &Place)| !given_up.contains(&(digest.clone(), *number));
        places.iter().enumerate().find(usable)
    }

    /// Turns away from a place; `false` if there is no other.
    fn give_up(&self, digest: &Digest, number: usize) -> bool {
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.places.get(digest).map_or(0, Vec::len);
        let other = (0..count).any(|n| n != number && !given_up.contains(&(digest.clone(), n)));
        if other {
            given_up.insert((digest.clone(), number));
        }
        other
    }

    /// Lets the only place that is left send a blob once more: bytes can be hurt on the way.
    fn doubt(&self, digest: &Digest, number: usize) -> bool {
        let mut doubted = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        doubted.insert((digest.clone(), number))
    }

    async fn open(&self, descriptor: &Descriptor, at: u64) -> Result<(usize, BlobReader)> {
        loop {
            let Some((number, place)) = self.current(&descriptor.digest) else {
                return Err(Error::new(
                    Kind::NotFound,
                    format!("no source has blob {}", descriptor.digest),
                ));
            };
            let range = at..descriptor.size;
            let opened = place
                .registry
                .blob(&place.repository, descriptor, range, WithoutRange::Skip)
                .await;
            match opened {
                Ok(reader) => return Ok((number, reader)),
                Err(error) => {
                    if !self.give_up(&descriptor.digest, number) {
                        return Err(error);
                    }
                }
            }
        }
    }
}

/// A blob in the middle of being read.
struct Reading {
    places: Arc<Places>,
    descriptor: Descriptor,
    at: u64,
    reader: Option<(usize, BlobReader)>,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.at < self.descriptor.size {
            let (number, reader) = match &mut self.reader {
                Some(open) => open,
                empty => empty.insert(self.places.open(&self.descriptor, self.at).await?),
            };
            match reader.chunk().await {
                Ok(Some(bytes)) => {
                    self.at += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Ok(None) => return Ok(None),
                Err(error) => {
                    if !self.places.give_up(&self.descriptor.digest, *number) {
                        return Err(error);
                    }
                    self.reader = None;
                }
            }
        }
        Ok(None)
    }
}

impl BlobSource for RegistryBlobs {
    fn open<'a>(&'a self, descriptor: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<BlobStream>> {
        Box::pin(async move {
            let mut reading = Reading {
                places: self.0.clone(),
                descriptor: descriptor.clone(),
                at: offset,
                reader: None,
            };
            // At once, so that an upload is not begun for a blob that cannot be read.
            if offset < descriptor.size {
                reading.reader = Some(reading.places.open(descriptor, offset).await?);
            }
            let pieces = stream::try_unfold(reading, |mut reading| async move {
                Ok(reading.next().await?.map(|piece| (piece, reading)))
            });
            Ok(pieces.boxed())
        })
    }
}

impl Origin for RegistryBlobs {
    fn describe(&self, digest: &Digest) -> String {
        match self.0.current(digest) {
            Some((_, place)) => format!("blob {digest} from {place}"),
            None => format!("blob {digest}"),
        }
    }

    fn remedy(&self) -> &'static str {
        "the source registry sends other bytes than it promises: have the image pushed there again, or name another source"
    }

    fn elsewhere(&self, digest: &Digest) -> bool {
        let current = self.0.current(digest).map(|(number, _)| number);
        current.is_some_and(|number| self.0.give_up(digest, number) || self.0.doubt(digest, number))
    }
}
