//! Pushes resolved images from their registries to the destination.

use std::collections::HashSet;
use std::sync::Arc;

use super::registry_blobs::RegistryBlobs;
use crate::error::Result;
use crate::image::reference::Reference;
use crate::image::tree::ImageTree;
use crate::progress::Progress;
use crate::registry::Registries;
use crate::transfer::push::asked_image::AskedImage;
use crate::transfer::push::destination;
use crate::transfer::push::push_all::push_all;
use crate::transfer::push::report::{Outcome, PushReport};
use crate::transfer::push::request::{BlobOrigin, PushItem, PushRequest};
use crate::transfer::sources::Repository;

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
    let ends = Ends {
        sources,
        request: &request,
        destinations,
        progress: &progress,
    };
    ends.push(trees, None).await
}

/// Where a one-step mirror reads, and where and how it pushes.
pub(super) struct Ends<'a> {
    pub(super) sources: &'a Registries,
    pub(super) request: &'a PushRequest,
    pub(super) destinations: &'a Registries,
    pub(super) progress: &'a Progress,
}

impl Ends<'_> {
    /// Pushes resolved images. For a batch of the images of a run, `pushed_before` has the images of earlier batches
    /// that are at the destination, and gets those of this batch.
    pub(super) async fn push(
        &self,
        trees: Vec<(Reference, Result<ImageTree>)>,
        pushed_before: Option<&mut Vec<PushItem>>,
    ) -> Result<PushReport> {
        let Self {
            sources,
            request,
            destinations,
            progress,
        } = *self;
        let mut slots = Vec::new();
        let mut found = Vec::new();
        let mut unusable = Vec::new();
        for (reference, tree) in trees {
            // If the client of a host cannot be set up, only the images of that host fail.
            match tree.and_then(|tree| Repository::new(&tree.source, sources).map(|_| tree)) {
                Err(error) => slots.push(AskedImage::failed(&reference, &error)),
                Ok(tree) => {
                    // The name at the destination is checked before any other work is done for the image.
                    if let Err(error) = destination::name_of_tree(request, &tree) {
                        slots.push(AskedImage::failed(&reference, &error));
                        unusable.push(error);
                        continue;
                    }
                    slots.push(AskedImage::Item(tree.source.to_string()));
                    found.push(tree);
                }
            }
        }
        if pushed_before.is_none() {
            destination::check_any_is_usable(slots.len(), unusable)?;
        }
        let blobs: Arc<dyn BlobOrigin> = Arc::new(RegistryBlobs::new(&found, sources)?);
        let mut items = Vec::new();
        for tree in found {
            let source = tree.source.to_string();
            match destination::item(request, tree, blobs.clone(), false) {
                Ok(item) => items.push(item),
                Err(error) => {
                    let failed = slots.iter_mut().filter(|slot| slot.is_item(&source));
                    failed.for_each(|slot| *slot = AskedImage::failed(&source, &error));
                }
            }
        }
        let Some(pushed_before) = pushed_before else {
            destination::check_mappings(request, items.iter().map(|item| &item.tree.source), progress);
            return push_all(items, &[], slots, request, destinations, progress, None).await;
        };
        let all = items.clone();
        let report = push_all(items, pushed_before, slots, request, destinations, progress, None).await?;
        let whole = report.images.iter().filter(|image| {
            matches!(image.outcome, Outcome::Pushed | Outcome::Unchanged)
                && image.error.is_none()
                && !image.referrers_lost
        });
        let whole: HashSet<&str> = whole.map(|image| image.source.as_str()).collect();
        pushed_before.extend(
            all.into_iter()
                .filter(|item| whole.contains(item.tree.source.to_string().as_str())),
        );
        Ok(report)
    }
}
