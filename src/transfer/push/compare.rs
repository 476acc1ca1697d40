//! Decides the action for each image of a push, by what the destination holds.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream::{self, StreamExt as _};

use super::absent_referrers::absent_referrers;
use super::left_referrers::LeftReferrers;
use super::platform_tags;
use super::request::{PushItem, PushRequest};
use super::tag::{TagAction, decide, missing_below, tag_state};
use crate::error::{Error, Kind, Result};
use crate::image::reference::Target;
use crate::lock::Mutex;
use crate::progress::{Event, Phase, Progress};
use crate::registry::Registry;
use crate::text::{counted, few};

/// Action for an image, and the signatures that stay away because the tag holds others.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) action: TagAction,
    /// Complete if nothing else is pushed: for an image that is there already, and in a dry run. Otherwise the push finds them.
    pub(crate) kept_away: LeftReferrers,
}

impl From<TagAction> for Comparison {
    fn from(action: TagAction) -> Self {
        Self {
            action,
            kept_away: LeftReferrers::default(),
        }
    }
}

/// Decides the action for each item, with `wide` requests at a time.
/// The first tag is checked alone, since it shows whether the registry can be reached, and fetches the token for the
/// remaining requests.
pub(crate) async fn compare(
    items: &[PushItem],
    request: &PushRequest,
    registry: &Registry,
    progress: &Progress,
    wide: usize,
) -> Result<Vec<Result<Comparison>>> {
    // Number of images of which the registry does not say whether it has all of them, and the first reason.
    let unchecked: Mutex<(u64, Option<Error>)> = Mutex::default();
    let unchecked = &unchecked;
    let ask = |item: PushItem| async move {
        let tag = Target::Tag(item.destination.tag().unwrap_or("latest").to_owned());
        let held = tag_state(registry, item.destination.repository(), &tag).await?;
        let action = decide(&item.tree, &item.destination, held, request.on_existing)?;
        if let (TagAction::Push(Some(held)), Some(image), false) =
            (&action, &item.platform_of, request.replaces_foreign_tags)
        {
            platform_tags::check_replaced(registry, image, &item.destination, held).await?;
        }
        let held = match action {
            TagAction::Done => Some(item.tree.pushed().root.digest().clone()),
            TagAction::PushManifests(ref held) => Some(held.clone()),
            TagAction::Push(_) if request.dry_run => None,
            other => return Ok::<_, Error>(other.into()),
        };
        let absent = absent_referrers(
            registry,
            item.destination.repository(),
            &item.tree,
            request.merge_signatures,
        )
        .await?;
        let kept_away = absent.kept_away;
        if request.require_referrers && kept_away.is_loss {
            return Err(kept_away.required());
        }
        let Some(held) = held else {
            return Ok(Comparison { action, kept_away });
        };
        let is_told = AtomicBool::new(false);
        let unknown = |error: Error| {
            if !is_told.swap(true, Ordering::Relaxed) {
                let mut unchecked = unchecked.lock();
                unchecked.0 += 1;
                unchecked.1.get_or_insert(error);
            }
        };
        let missing = missing_below(
            registry,
            &item.destination,
            &item.tree,
            request.verify_existing,
            &unknown,
        )
        .await?;
        let action = if !missing.is_empty() {
            progress.warn(format!(
                "{}: the tag is there, but not all that is below it ({} missing: {}); the image is pushed again",
                item.destination,
                missing.len(),
                few(&missing)
            ));
            TagAction::Push(Some(held))
        } else if !absent.missing.is_empty() {
            progress.note(format!(
                "{}: the tag is there, but not all that refers to it ({} missing: {})",
                item.destination,
                absent.missing.len(),
                few(&absent.missing)
            ));
            TagAction::Push(Some(held))
        } else {
            action
        };
        Ok(Comparison { action, kept_away })
    };
    let ask = |item: PushItem| async {
        let in_flight = registry.in_flight(item.destination.repository());
        let is_image = item.platform_of.is_none();
        let comparison = ask(item).await;
        drop(in_flight);
        // A tag of a platform is no image of its own.
        if is_image {
            progress.emit(Event::Step(Phase::Checking));
        }
        comparison
    };
    progress.emit(Event::Phase {
        phase: Phase::Checking,
        images: items.iter().filter(|item| item.platform_of.is_none()).count() as u64,
    });
    let Some((first, rest)) = items.split_first() else {
        return Ok(Vec::new());
    };
    let first = match ask(first.clone()).await {
        // An unreachable registry causes one message instead of one for each image.
        Err(error) if error.kind() == Kind::Network => return Err(error),
        comparison => comparison,
    };
    let rest = stream::iter(rest.iter().cloned()).map(ask).buffered(wide);
    let comparisons: Vec<_> = stream::iter([first]).chain(rest).collect().await;
    if let (images, Some(error)) = &*unchecked.lock() {
        let images = counted(*images, "image", "images");
        progress.warn(format!(
            "could not check whether all of {images} is still at `{}`: {}",
            registry.host(),
            error.full()
        ));
    }
    refuse_own_source(items, &comparisons)?;
    Ok(comparisons)
}

/// Refuses to replace the index under a source's own name by the filtered index that was made from it. No tag would lead to
/// the original any more, and a garbage collection removes the other platforms.
///
/// A tag that holds anything else is not the source: two sites may have registries of the same name.
///
/// # Errors
/// [`Kind::Usage`], with the first such image.
fn refuse_own_source(items: &[PushItem], comparisons: &[Result<Comparison>]) -> Result<()> {
    for (item, comparison) in items.iter().zip(comparisons) {
        let (source, destination) = (&item.tree.source, &item.destination);
        let is_own = source.host() == destination.host()
            && source.repository() == destination.repository()
            && source.tag() == destination.tag();
        if let Ok(comparison) = comparison
            && let TagAction::Push(Some(held)) = &comparison.action
            && is_own
            && item.tree.original.root.has_digest(held)
            && !item.tree.pushed().root.has_digest(held)
        {
            let what = format!(
                "`{destination}` is the source itself: its index {held} would be replaced by one with fewer platforms, and \
                 nothing was sent"
            );
            return Err(Error::new(Kind::Usage, what)
                .with_hint("give another registry or path with `-d`, or omit this image; `--platform all` keeps the index as it is"));
        }
    }
    Ok(())
}
