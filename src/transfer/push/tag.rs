//! Reads the state of a tag at the destination, and decides what to do with its image.

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::request::OnExisting;
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::RawManifest;
use crate::image::reference::{Reference, Target};
use crate::image::referrer::{is_referrers_tag, parse_tag_beside};
use crate::image::tree::{Choice, ImageTree};
use crate::registry::{Presence, Registry, WithoutRange};

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
        Presence::Unknown | Presence::OtherSize(_) => {}
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
pub(super) async fn is_manifest_there(registry: &Registry, repository: &str, manifest: &RawManifest) -> Result<bool> {
    match registry.has_manifest(repository, manifest).await {
        Ok(Presence::Present(())) => Ok(true),
        Ok(Presence::Missing) => Ok(false),
        Err(error) if matches!(error.kind(), Kind::Network | Kind::RateLimited) => Err(error),
        Ok(Presence::Unknown | Presence::OtherSize(_)) | Err(_) => {
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
        Ok(Presence::Missing | Presence::OtherSize(_)) => Ok(false),
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
    let is_list = destination.tag().is_some_and(is_referrers_tag);
    let is_beside = destination.tag().and_then(parse_tag_beside).is_some();
    let other = match held {
        TagState::Nothing => return Ok(TagAction::Push(None)),
        TagState::Digest(digest) if digest == *tree.pushed().root.digest() => return Ok(TagAction::Done),
        // The tag holds the same bytes under another algorithm. Putting them again shows whether the registry knows this
        // digest.
        TagState::Digest(digest) if tree.pushed().root.has_digest(&digest) => {
            return Ok(TagAction::PushManifests(digest));
        }
        TagState::Digest(digest) => digest,
        TagState::Unknown(_) if on_existing == OnExisting::Overwrite && !is_list && !is_beside => {
            return Ok(TagAction::Push(None));
        }
        TagState::Unknown(error) => {
            let error = error.context(format!("cannot tell what `{destination}` holds"));
            return Err(match is_list || is_beside {
                // The tag may hold signatures of the destination's own users.
                true => error,
                false => error.with_hint("`--on-existing overwrite` pushes without knowing"),
            });
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
    match on_existing {
        OnExisting::Overwrite if is_list => Err(Error::new(
            Kind::Exists,
            format!("`{destination}` is a tag that lists what refers to another manifest; it holds {other} and is not overwritten"),
        )
        .with_hint("omit this image: the listed referrers are copied with their images, and are added to the list")),
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
