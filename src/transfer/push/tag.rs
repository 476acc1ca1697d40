//! Reads the state of a tag at the destination, and decides what to do with its image.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::request::{OnExisting, PushItem, PushRequest};
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::{RawManifest, View};
use crate::image::reference::{Reference, Target};
use crate::image::referrer::{has_all_layers, is_referrers_tag, parse_tag_beside};
use crate::image::tree::{Choice, ImageTree, attachments_of_manifests};
use crate::lock::Mutex;
use crate::progress::{Event, Phase, Progress};
use crate::registry::{Presence, Registry, WithoutRange};
use crate::text::{counted, few};

/// State of a tag or digest at the destination.
#[derive(Debug)]
pub(crate) enum TagState {
    /// The tag or digest does not exist.
    Nothing,
    /// A manifest with this digest.
    Digest(Digest),
    /// The registry refused to answer, with this error.
    Unknown(Error),
}

/// Reads the state of a target by a HEAD request.
/// A GET request follows if the response to HEAD does not suffice: some registries refuse HEAD, and some omit the digest.
///
/// # Errors
/// Errors of the connection and of credentials.
pub(crate) async fn tag_state(registry: &Registry, repository: &str, target: &Target) -> Result<TagState> {
    match registry.head_manifest(repository, target).await? {
        Presence::Missing => return Ok(TagState::Nothing),
        Presence::Present(head) => {
            if let Some(digest) = head.digest {
                return Ok(TagState::Digest(digest));
            }
        }
        Presence::Unknown => {}
    }
    match registry.manifest(repository, target).await {
        Ok(manifest) => Ok(TagState::Digest(manifest.digest().clone())),
        Err(error) if error.kind() == Kind::NotFound => Ok(TagState::Nothing),
        Err(error) if matches!(error.kind(), Kind::Network | Kind::RateLimited) => Err(error),
        Err(error) => Ok(TagState::Unknown(error)),
    }
}

/// Returns the manifests that are missing below an existing tag, after the registry lost them.
/// With `verified`, missing blobs are returned as well. Content that the registry gives no answer about, neither to HEAD nor
/// to GET, counts as present and is passed to `unknown`, since the tag shows that the image was pushed.
///
/// # Errors
/// Errors of the connection.
pub(crate) async fn missing_below(
    registry: &Registry,
    destination: &Reference,
    tree: &ImageTree,
    verified: bool,
    unknown: &(dyn Fn(Error) + Sync),
) -> Result<Vec<Digest>> {
    let repository = destination.repository();
    let missing = |found: Result<bool>, digest: &Digest| match found {
        Ok(is_there) => Ok((!is_there).then(|| digest.clone())),
        Err(error) if matches!(error.kind(), Kind::Network | Kind::RateLimited) => Err(error),
        Err(error) => {
            unknown(error);
            Ok(None)
        }
    };
    let manifests = stream::iter(tree.pushed().below.iter().cloned()).map(|manifest| async move {
        missing(
            is_manifest_there(registry, repository, &manifest).await,
            manifest.digest(),
        )
    });
    let mut found: Vec<Option<Digest>> = manifests.buffered(registry.jobs()).try_collect().await?;
    if verified {
        let blobs = stream::iter(tree.blobs()).map(|blob| async move {
            let blob = blob.descriptor;
            missing(is_blob_there(registry, repository, &blob).await, &blob.digest)
        });
        found.extend(blobs.buffered(registry.jobs()).try_collect::<Vec<_>>().await?);
    }
    Ok(found.into_iter().flatten().collect())
}

/// Returns whether a repository has a manifest. If the answer to HEAD does not say that, the manifest is requested.
async fn is_manifest_there(registry: &Registry, repository: &str, manifest: &RawManifest) -> Result<bool> {
    match registry.has_manifest(repository, manifest).await {
        Ok(Presence::Present(())) => Ok(true),
        Ok(Presence::Missing) => Ok(false),
        Err(error) if matches!(error.kind(), Kind::Network | Kind::RateLimited) => Err(error),
        Ok(Presence::Unknown) | Err(_) => {
            let target = Target::Digest(manifest.digest().clone());
            let read = registry.manifest_and_etag(repository, &target).await;
            read.map(|found| found.is_some()).map_err(unasked)
        }
    }
}

/// Returns whether a repository has a blob. If the answer to HEAD does not say that, its first byte is requested.
async fn is_blob_there(registry: &Registry, repository: &str, blob: &Descriptor) -> Result<bool> {
    match registry.head_blob(repository, blob).await {
        Ok(Presence::Present(())) => Ok(true),
        Ok(Presence::Missing) => Ok(false),
        Err(error) if matches!(error.kind(), Kind::Network | Kind::RateLimited) => Err(error),
        Ok(Presence::Unknown) | Err(_) => {
            let first = 0..blob.size.min(1);
            match registry.blob(repository, blob, first, WithoutRange::Skip).await {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == Kind::NotFound => Ok(false),
                Err(error) => Err(unasked(error)),
            }
        }
    }
}

/// Converts the error of a GET after a HEAD that said nothing: the connection to the registry itself works.
fn unasked(error: Error) -> Error {
    match error.kind() {
        Kind::Network => error.with_kind(Kind::Server),
        _ => error,
    }
}

/// Returns the attachments of an image that are missing or not listed for their subject.
///
/// # Errors
/// Errors of the connection.
async fn missing_referrers(registry: &Registry, repository: &str, tree: &ImageTree) -> Result<Vec<Digest>> {
    let mut missing = Vec::new();
    let mut lists: BTreeMap<&Digest, HashSet<Digest>> = BTreeMap::new();
    for attachment in attachments_of_manifests(&tree.attachments, tree.pushed().all()) {
        let root = &attachment.variant.root;
        let is_there = match attachment.tag() {
            Some(tag) => match tag_state(registry, repository, &Target::Tag(tag)).await? {
                TagState::Digest(held) if root.has_digest(&held) => true,
                TagState::Digest(held) => {
                    let held = registry.manifest_and_etag(repository, &Target::Digest(held)).await;
                    let held = held.or_else(refusal_as_none)?;
                    held.is_some_and(|(held, _)| has_all_layers(&held, root))
                }
                TagState::Nothing => false,
                TagState::Unknown(_) => true,
            },
            None => {
                let subject = &attachment.subject;
                if !lists.contains_key(subject) {
                    lists.insert(subject, listed(registry, repository, subject).await?);
                }
                let is_listed = lists[subject].contains(root.digest());
                is_listed
                    && is_manifest_there(registry, repository, root)
                        .await
                        .or_else(|error| Ok::<_, Error>(refusal_as_none(error)?.unwrap_or(true)))?
            }
        };
        if !is_there {
            missing.push(root.digest().clone());
        }
    }
    Ok(missing)
}

/// Returns the referrers that the registry lists for a manifest, by its API or by a tag.
/// An unreadable list counts as empty.
async fn listed(registry: &Registry, repository: &str, subject: &Digest) -> Result<HashSet<Digest>> {
    let from_api = registry
        .referrers(repository, subject, usize::MAX)
        .await
        .or_else(refusal_as_none)?;
    if let Some(found) = from_api {
        return Ok(found.list.into_iter().map(|entry| entry.digest).collect());
    }
    let target = Target::Tag(subject.referrers_tag());
    let tagged = registry
        .manifest_and_etag(repository, &target)
        .await
        .or_else(refusal_as_none)?;
    Ok(match tagged.as_ref().map(|(manifest, _)| manifest.view()) {
        Some(View::Index(index)) => index
            .entries
            .iter()
            .map(|entry| entry.descriptor.digest.clone())
            .collect(),
        _ => HashSet::new(),
    })
}

/// Treats a refusal to answer as `None`. Only errors of the connection and rate limits stay errors.
fn refusal_as_none<T>(error: Error) -> Result<Option<T>> {
    match error.kind() {
        Kind::Network | Kind::RateLimited => Err(error),
        _ => Ok(None),
    }
}

/// Action for an image, decided by the state of its tag.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TagAction {
    /// The image is already at the destination.
    Done,
    /// The tag stays unchanged, although it holds this digest.
    LeaveAlone(Digest),
    /// The image is pushed; the tag currently holds this digest.
    Push(Option<Digest>),
    /// The image is pushed, and all its blobs are known to be in place.
    /// Either an earlier run put the filtered variant because the registry refused the sparse index, and the sparse index
    /// is tried again; or the registry stores the manifest under another digest algorithm.
    PushManifests(Digest),
}

/// Decides the action for an image by the state of its tag.
///
/// # Errors
/// [`Kind::Exists`] if the tag holds another digest and the user wants that to be an error.
pub(crate) fn decide(
    tree: &ImageTree,
    destination: &Reference,
    held: TagState,
    on_existing: OnExisting,
) -> Result<TagAction> {
    let other = match held {
        TagState::Nothing => return Ok(TagAction::Push(None)),
        TagState::Digest(digest) if digest == *tree.pushed().root.digest() => return Ok(TagAction::Done),
        // The tag holds the same bytes under another algorithm. Putting them again shows whether the registry knows this
        // digest.
        TagState::Digest(digest) if tree.pushed().root.has_digest(&digest) => {
            return Ok(TagAction::PushManifests(digest));
        }
        TagState::Digest(digest) => digest,
        TagState::Unknown(_) if on_existing == OnExisting::Overwrite => return Ok(TagAction::Push(None)),
        TagState::Unknown(error) => {
            return Err(error
                .context(format!("cannot tell what `{destination}` holds"))
                .with_hint("`--on-existing overwrite` pushes without knowing"));
        }
    };
    // An earlier run fell back to the filtered index; the registry may accept the sparse index now.
    match (&tree.filtered, tree.choice) {
        (Some(filtered), Choice::Sparse)
            if on_existing == OnExisting::Overwrite && other == *filtered.root.digest() =>
        {
            return Ok(TagAction::PushManifests(other));
        }
        _ => {}
    }
    let is_list = destination.tag().is_some_and(is_referrers_tag);
    let is_beside = destination.tag().and_then(parse_tag_beside).is_some();
    match on_existing {
        OnExisting::Overwrite if is_list => Err(Error::new(
            Kind::Exists,
            format!("`{destination}` is a tag that lists what refers to another manifest; it holds {other} and is not overwritten"),
        )
        .with_hint("omit this image: what is listed there travels with the image that it refers to, and is added to the list")),
        OnExisting::Overwrite if is_beside => Err(Error::new(
            Kind::Exists,
            format!("`{destination}` is the tag of a signature, attestation or SBOM of an image; it holds {other} and is not overwritten"),
        )
        .with_hint("omit it, and push the image that it belongs to with `--merge-signatures`, which adds to a signature")),
        OnExisting::Overwrite => Ok(TagAction::Push(Some(other))),
        OnExisting::Skip => Ok(TagAction::LeaveAlone(other)),
        OnExisting::Error => Err(Error::new(
            Kind::Exists,
            format!(
                "`{destination}` holds {other} already, and {} was to be pushed",
                tree.pushed().root.digest()
            ),
        )
        .with_hint("`--on-existing overwrite` moves the tag, `--on-existing skip` leaves it alone")),
    }
}

/// Decides the action for each item, with `wide` requests at a time.
/// The first tag is checked alone, since it shows whether the registry can be reached, and fetches the token for the
/// remaining requests.
pub(crate) async fn verdicts(
    items: &[PushItem],
    request: &PushRequest,
    registry: &Registry,
    progress: &Progress,
    wide: usize,
) -> Result<Vec<Result<TagAction>>> {
    // Number of images of which the registry does not say whether it has all of them, and the first reason.
    let unchecked: Mutex<(u64, Option<Error>)> = Mutex::default();
    let unchecked = &unchecked;
    let ask = |item: PushItem| async move {
        let tag = Target::Tag(item.destination.tag().unwrap_or("latest").to_owned());
        let held = tag_state(registry, item.destination.repository(), &tag).await?;
        let verdict = decide(&item.tree, &item.destination, held, request.on_existing)?;
        let held = match verdict {
            TagAction::Done => item.tree.pushed().root.digest().clone(),
            TagAction::PushManifests(ref held) => held.clone(),
            other => return Ok::<_, Error>(other),
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
        if missing.is_empty() {
            let missing = missing_referrers(registry, item.destination.repository(), &item.tree).await?;
            if missing.is_empty() {
                return Ok(verdict);
            }
            progress.note(format!(
                "{}: the tag is there, but not all that refers to it ({} missing: {})",
                item.destination,
                missing.len(),
                few(&missing)
            ));
            return Ok(TagAction::Push(Some(held)));
        }
        progress.warn(format!(
            "{}: the tag is there, but not all that is below it ({} missing: {}); the image is pushed again",
            item.destination,
            missing.len(),
            few(&missing)
        ));
        Ok(TagAction::Push(Some(held)))
    };
    let ask = |item: PushItem| async {
        let in_flight = registry.in_flight(item.destination.repository());
        let verdict = ask(item).await;
        drop(in_flight);
        progress.emit(Event::Step);
        verdict
    };
    progress.emit(Event::Phase {
        phase: Phase::Checking,
        images: items.len() as u64,
    });
    let Some((first, rest)) = items.split_first() else {
        return Ok(Vec::new());
    };
    let first = match ask(first.clone()).await {
        // An unreachable registry causes one message instead of one for each image.
        Err(error) if error.kind() == Kind::Network => return Err(error),
        verdict => verdict,
    };
    let rest = stream::iter(rest.iter().cloned()).map(ask).buffered(wide);
    let verdicts = stream::iter([first]).chain(rest).collect().await;
    if let (images, Some(error)) = &*unchecked.lock() {
        let images = counted(*images, "image", "images");
        progress.warn(format!(
            "could not check whether all of {images} is still at `{}`: {}",
            registry.host(),
            error.full()
        ));
    }
    Ok(verdicts)
}
