//! Pushes several images, and reports each requested image in the order of the request.

use std::collections::HashSet;

use super::asked_image::AskedImage;
use super::engine::{self, PushResult};
use super::pipe::feed::PipeFeed;
use super::report::{ImageReport, PushReport};
use super::request::{PushItem, PushRequest};
use super::{destination, image_state, platform_tags};
use crate::error::Result;
use crate::inventory::lock::Lock;
use crate::inventory::locked_image::LockedImage;
use crate::progress::Progress;
use crate::registry::Registries;
use crate::text::Warnings;

/// Returns the locked content of the images, if the request asks for a lock.
fn locked(items: &[PushItem], request: &PushRequest, progress: &Progress) -> Option<Vec<LockedImage>> {
    if !request.with_lock || request.dry_run {
        return None;
    }
    let mut seen = HashSet::new();
    let trees = items
        .iter()
        .map(|item| &*item.tree)
        .filter(|tree| seen.insert(&tree.source));
    match LockedImage::from_trees(trees, &request.budget) {
        Ok(images) => Some(images),
        Err(error) => {
            progress.warn(format!("the report has no lock: {}", error.full()));
            None
        }
    }
}

/// Pushes images and returns one report for each slot, in order.
/// Images that failed before the push have a report as well. `pushed_before` are images that this run has pushed before. With a
/// `feed`, blobs come out of a pipe.
pub(crate) async fn push_all(
    items: Vec<PushItem>,
    pushed_before: &[PushItem],
    slots: Vec<AskedImage>,
    request: &PushRequest,
    registries: &Registries,
    progress: &Progress,
    feed: Option<PipeFeed>,
) -> Result<PushReport> {
    let lock = locked(&items, request, progress);
    let (items, slots) = platform_tags::expand(items, slots, request)?;
    let items = destination::dedupe_and_check_collisions(items)?;
    let stopped = request.fail_fast && slots.iter().any(|slot| matches!(slot, AskedImage::Failed(_)));
    let ended = if stopped || items.is_empty() {
        PushResult {
            images: items.iter().map(image_state::untried).map(Box::new).collect(),
            warnings: Warnings::default(),
            bundle_error: None,
        }
    } else {
        let registry = registries.host(request.destination.host())?;
        engine::push(items, pushed_before, request, &registry, progress, feed).await?
    };
    let mut pushed = ended.images.into_iter().peekable();
    let mut reports = Vec::with_capacity(slots.len());
    for slot in slots {
        match slot {
            AskedImage::Failed(report) => reports.push(*report),
            // A duplicate image has only one report.
            AskedImage::Item(source) => {
                reports.extend(pushed.next_if(|report| report.source == source).map(|report| *report));
            }
        }
    }
    let lock = lock.map(|images| {
        let done = |report: &&ImageReport| report.error.is_none();
        let done: HashSet<&str> = reports
            .iter()
            .filter(done)
            .map(|report| report.source.as_str())
            .collect();
        let images = images
            .into_iter()
            .filter(|image| done.contains(image.reference.to_string().as_str()));
        Lock::from_images(true, images.collect(), Vec::new())
    });
    Ok(PushReport {
        lock,
        warnings: ended.warnings,
        bundle_error: ended.bundle_error,
        ..PushReport::new(request.dry_run, reports)
    })
}
