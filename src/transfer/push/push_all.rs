//! The whole push: names, tags, blobs, manifests, and one report in the order in which images were asked for.

use super::engine::{self, Ended};
use super::pipe::feed::PipeFeed;
use super::report::PushReport;
use super::request::{PushItem, PushRequest};
use super::slot::Slot;
use super::{destination, image_state, platform_tags};
use crate::error::Result;
use crate::progress::Progress;
use crate::registry::Registries;
use crate::text::Warnings;

/// Pushes, and returns one report for each slot, in order, also for images that failed before the push.
pub(crate) async fn push_all(
    items: Vec<PushItem>,
    slots: Vec<Slot>,
    request: &PushRequest,
    registries: &Registries,
    progress: &Progress,
) -> Result<PushReport> {
    push_arriving(items, slots, request, registries, progress, None).await
}

/// The same with blobs that come out of a pipe.
pub(crate) async fn push_arriving(
    items: Vec<PushItem>,
    slots: Vec<Slot>,
    request: &PushRequest,
    registries: &Registries,
    progress: &Progress,
    feed: Option<PipeFeed>,
) -> Result<PushReport> {
    let (items, slots) = platform_tags::expand(items, slots, request)?;
    let items = destination::dedupe_and_check_collisions(items)?;
    let stopped = request.fail_fast && slots.iter().any(|slot| matches!(slot, Slot::Failed(_)));
    let ended = if stopped || items.is_empty() {
        Ended {
            images: items.iter().map(image_state::untried).collect(),
            warnings: Warnings::default(),
            bundle_error: None,
        }
    } else {
        let registry = registries.host(request.destination.host())?;
        engine::push(items, request, &registry, progress, feed).await?
    };
    let mut pushed = ended.images.into_iter().peekable();
    let mut reports = Vec::with_capacity(slots.len());
    for slot in slots {
        match slot {
            Slot::Failed(report) => reports.push(*report),
            // An image that stood there twice has one report.
            Slot::Item(source) => reports.extend(pushed.next_if(|report| report.source == source)),
        }
    }
    Ok(PushReport {
        warnings: ended.warnings,
        bundle_error: ended.bundle_error,
        ..PushReport::new(request.dry_run, reports)
    })
}
