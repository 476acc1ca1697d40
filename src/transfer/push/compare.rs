//! Decides the action for each image of a push, by what the destination holds.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream::{self, StreamExt as _};

use super::absent_referrers::absent_referrers;
use super::left_referrers::LeftReferrers;
use super::platform_tags;
use super::request::{PushItem, PushRequest};
use super::tag::{TagAction, decide, missing_below, tag_state};
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
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
    progress.emit(Event::Phase {
        phase: Phase::Checking,
        images: items.iter().filter(|item| item.platform_of.is_none()).count() as u64,
    });
    let Some((first, rest)) = items.split_first() else {
        return Ok(Vec::new());
    };
    let comparer = Comparer {
        request,
        registry,
        progress,
        unchecked: Mutex::default(),
    };
    let first = match comparer.compare(first.clone()).await {
        // An unreachable registry causes one message instead of one for each image. A registry that answers may fail for this
        // repository alone.
        Err(error) if error.kind() == Kind::Network && !registry.is_alive().await => return Err(error),
        comparison => comparison,
    };
    let rest = stream::iter(rest.iter().cloned())
        .map(|item| comparer.compare(item))
        .buffered(wide);
    let comparisons: Vec<_> = stream::iter([first]).chain(rest).collect().await;
    comparer.warn_of_unchecked();
    refuse_own_source(items, &comparisons)?;
    Ok(comparisons)
}

/// Asks the destination about single images.
struct Comparer<'a> {
    request: &'a PushRequest,
    registry: &'a Registry,
    progress: &'a Progress,
    /// Number of images of which the registry does not say whether it has all of them, and the first reason.
    unchecked: Mutex<(u64, Option<Error>)>,
}

impl Comparer<'_> {
    async fn compare(&self, item: PushItem) -> Result<Comparison> {
        let in_flight = self.registry.in_flight(item.destination.repository());
        let comparison = self.ask(&item).await;
        drop(in_flight);
        // A tag of a platform is no image of its own.
        if item.platform_of.is_none() {
            self.progress.emit(Event::Step(Phase::Checking));
        }
        comparison
    }

    async fn ask(&self, item: &PushItem) -> Result<Comparison> {
        let (request, registry) = (self.request, self.registry);
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
            other => return Ok(other.into()),
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
        let action = match held {
            None => action,
            Some(held) => match self.incomplete(item, &absent.missing).await? {
                true => TagAction::Push(Some(held)),
                false => action,
            },
        };
        Ok(Comparison { action, kept_away })
    }

    /// Returns whether a tag of the right content lacks something below it, or one of `missing_referrers`, and says so.
    async fn incomplete(&self, item: &PushItem, missing_referrers: &[Digest]) -> Result<bool> {
        let is_counted = AtomicBool::new(false);
        let unknown = |error: Error| {
            if !is_counted.swap(true, Ordering::Relaxed) {
                let mut unchecked = self.unchecked.lock();
                unchecked.0 += 1;
                unchecked.1.get_or_insert(error);
            }
        };
        let (destination, verify) = (&item.destination, self.request.verify_existing);
        let missing = missing_below(self.registry, destination, &item.tree, verify, &unknown).await?;
        if !missing.is_empty() {
            self.progress.warn(format!(
                "{destination}: the tag is there, but not all that is below it ({} missing: {}); the image is pushed again",
                missing.len(),
                few(&missing)
            ));
        } else if !missing_referrers.is_empty() {
            self.progress.note(format!(
                "{destination}: the tag is there, but not all that refers to it ({} missing: {})",
                missing_referrers.len(),
                few(missing_referrers)
            ));
        }
        Ok(!missing.is_empty() || !missing_referrers.is_empty())
    }

    /// Warns about images of which the registry does not say whether it has all of them.
    fn warn_of_unchecked(&self) {
        if let (images, Some(error)) = &*self.unchecked.lock() {
            let images = counted(*images, "image", "images");
            self.progress.warn(format!(
                "could not check whether all of {images} is still at `{}`: {}",
                self.registry.host(),
                error.full()
            ));
        }
    }
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
