//! The one-step mirror: copies images between registries without storing blobs on disk.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;

use super::push::asked_image::AskedImage;
use super::push::destination;
use super::push::push_all::push_all;
use super::push::report::{ImageReport, PushReport};
use super::push::request::{BlobOrigin, PushRequest};
use super::sources::{Repository, Sources};
use crate::error::Result;
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::tree::ImageTree;
use crate::lock::Mutex;
use crate::progress::Progress;
use crate::registry::{BlobSource, BlobStream, Registries, WithoutRange};

/// Pushes resolved images to the destination.
/// The blobs of an image are streamed from the registry at which the image was resolved. `trees` contains the tree or the
/// error of each requested reference; the errors go into the report.
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
    let mut unusable = Vec::new();
    for (reference, tree) in trees {
        // If the client of a host cannot be set up, only the images of that host fail.
        match tree.and_then(|tree| Repository::new(&tree.source, sources).map(|_| tree)) {
            Err(error) => slots.push(AskedImage::Failed(Box::new(ImageReport::unresolved(
                &reference, &error,
            )))),
            Ok(tree) => {
                // The name at the destination is checked before any other work is done for the image.
                if let Err(error) = destination::name_of_tree(&request, &tree) {
                    slots.push(AskedImage::Failed(Box::new(ImageReport::unresolved(
                        &reference, &error,
                    ))));
                    unusable.push(error);
                    continue;
                }
                slots.push(AskedImage::Item(tree.source.to_string()));
                found.push(tree);
            }
        }
    }
    destination::check_any_is_usable(slots.len(), unusable)?;
    let blobs: Arc<dyn BlobOrigin> = Arc::new(RegistryBlobs::new(&found, sources)?);
    let items = found
        .into_iter()
        .map(|tree| destination::item(&request, tree, blobs.clone(), false))
        .collect::<Result<Vec<_>>>()?;
    destination::check_mappings(&request, items.iter().map(|item| &item.tree.source), &progress);
    push_all(items, slots, &request, destinations, &progress).await
}

/// The blobs of images in registries, as a source for a push.
pub(crate) struct RegistryBlobs {
    sources: Arc<Sources>,
    /// Number of reads of each blob that returned bytes with a wrong digest.
    wrong_reads: Mutex<HashMap<Digest, usize>>,
}

impl RegistryBlobs {
    pub(crate) fn new(trees: &[ImageTree], registries: &Registries) -> Result<Self> {
        Ok(Self {
            sources: Arc::new(Sources::new(trees, registries)?),
            wrong_reads: Mutex::default(),
        })
    }

    /// Returns how often a blob was read with wrong bytes.
    fn wrong_reads(&self, digest: &Digest) -> usize {
        let wrong = self.wrong_reads.lock();
        wrong.get(digest).copied().unwrap_or(0)
    }
}

impl BlobSource for RegistryBlobs {
    fn open<'a>(&'a self, descriptor: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<BlobStream>> {
        Box::pin(async move {
            let wrong = self.wrong_reads(&descriptor.digest);
            let range = offset..descriptor.size;
            let reader = self.sources.open(descriptor, range, WithoutRange::Skip, wrong).await?;
            let pieces = stream::try_unfold(reader, |mut reader| async move {
                Ok(reader.chunk().await?.map(|piece| (piece, reader)))
            });
            Ok(pieces.boxed())
        })
    }
}

impl BlobOrigin for RegistryBlobs {
    fn describe(&self, digest: &Digest) -> String {
        match self.sources.first(digest, self.wrong_reads(digest)) {
            Some(source) => format!("`{source}`"),
            None => format!("blob {digest}"),
        }
    }

    fn hint(&self) -> &'static str {
        "the source registry sends other bytes than it promises: have the image pushed there again, or name another source"
    }

    fn fail_over(&self, digest: &Digest) -> bool {
        let mut wrong = self.wrong_reads.lock();
        let count = wrong.entry(digest.clone()).or_default();
        *count += 1;
        // Each candidate is tried once, and the first one a second time, since bytes can also be corrupted in transit.
        *count <= self.sources.count(digest)
    }
}
