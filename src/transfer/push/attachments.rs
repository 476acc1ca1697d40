//! Pushes the attachments of an image: referrers by digest, signatures under cosign tags.
//! Referrers get an entry in the list of referrers if the registry keeps no list itself (OCI distribution-spec, "Pushing
//! Manifests with Subject").

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::left_referrers::{LeftReferrers, kept_away};
use super::merge_signature;
use super::put_manifest::{Effects, ManifestPutter};
use super::referrer_list::{lacking, merged};
use super::tag::{TagState, tag_state};
use crate::error::{Error, Result};
use crate::image::digest::Digest;
use crate::image::lost_attachments::LostAttachments;
use crate::image::manifest::{RawManifest, View};
use crate::image::reference::Target;
use crate::image::referrer::has_all_layers;
use crate::image::tree::{Attachment, LeftOut, Variant, attachments_of_manifests};
use crate::registry::Refusal;
use crate::transfer::referrers::{is_loss, with_no_referrers_hint};

/// Maximum number of rounds of extending a tag that other clients change concurrently, and of reading it again.
const ROUNDS: u32 = 3;

/// Pushes the attachments of a variant whose manifests are in place.
/// Attachments that the registry rejects are recorded in `left`.
///
/// # Errors
/// Errors that do not concern a single attachment: the registry cannot be reached, or fails.
pub(super) async fn attach(
    putter: &ManifestPutter,
    variant: &Variant,
    effects: &mut Effects,
    left: &mut LeftReferrers,
) -> Result<()> {
    let tree = putter.item.tree.clone();
    let mut lost = LostAttachments::default();
    for attachment in attachments_of_manifests(&tree.attachments, variant.all()) {
        if let Some(why) = lost.reason(attachment, |blob| putter.lost.as_ref()?.get(blob).cloned()) {
            left.add(attachment, &why);
        } else if !put_attachment(putter, attachment, effects, left).await? {
            lost.add(attachment);
        }
    }
    list_referrers(putter, effects, left).await?;
    match putter.require_referrers && left.is_loss {
        true => Err(left.required()),
        false => Ok(()),
    }
}

/// Reads again what [`attach`] wrote to tags that other clients write as well, and adds what they dropped meanwhile: two clients
/// that read such a tag in the same moment both find it without the entry of the other one.
///
/// # Errors
/// Those of [`attach`], except that required attachments are only recorded in `left`, since the tag of the image is in place.
pub(super) async fn restore_dropped(
    putter: &ManifestPutter,
    variant: &Variant,
    effects: &mut Effects,
    left: &mut LeftReferrers,
) -> Result<()> {
    let tree = putter.item.tree.clone();
    // Each round reads what the round before it wrote. The last of ROUNDS rounds may still leave entries missing.
    for _ in 0..ROUNDS {
        let tags = std::mem::take(&mut effects.written_tags);
        effects.unlisted.append(&mut effects.written_lists);
        if tags.is_empty() && effects.unlisted.is_empty() {
            break;
        }
        for attachment in attachments_of_manifests(&tree.attachments, variant.all()) {
            if attachment.tag().is_some_and(|tag| tags.contains(&tag)) {
                put_attachment(putter, attachment, effects, left).await?;
            }
        }
        list_referrers(putter, effects, left).await?;
    }
    Ok(())
}

/// What became of content for a tag that other clients write as well.
enum TagWrite {
    /// The tag has the content already.
    Present,
    Written,
    /// The tag keeps other content, for this reason.
    KeptAway(String),
}

/// Puts one attachment. Returns `false` if the registry rejects it, which is recorded in `left`.
async fn put_attachment(
    putter: &ManifestPutter,
    attachment: &Attachment,
    effects: &mut Effects,
    left: &mut LeftReferrers,
) -> Result<bool> {
    let tag = attachment.tag();
    let written = match &tag {
        None => put_referrer(putter, attachment, effects).await,
        Some(tag) => put_beside(putter, attachment, tag, effects).await,
    };
    match written {
        Ok(TagWrite::Written) => effects.written_tags.extend(tag),
        Ok(TagWrite::Present) => {}
        Ok(TagWrite::KeptAway(why)) => left.add(attachment, &why),
        Err(error) => {
            left.add_rejected(attachment, error)?;
            return Ok(false);
        }
    }
    Ok(true)
}

/// Puts the manifests of a referrer by their digests, children first.
async fn put_referrer(putter: &ManifestPutter, attachment: &Attachment, effects: &mut Effects) -> Result<TagWrite> {
    for manifest in attachment.variant.all() {
        if !putter.was_written(manifest.digest()) {
            let target = Target::Digest(manifest.digest().clone());
            putter
                .put(target, manifest, &attachment.variant, false, effects)
                .await?;
        }
    }
    Ok(TagWrite::Written)
}

/// Pushes a signature under its cosign tag.
/// An existing tag is never overwritten.
async fn put_beside(
    putter: &ManifestPutter,
    attachment: &Attachment,
    tag: &str,
    effects: &mut Effects,
) -> Result<TagWrite> {
    let target = Target::Tag(tag.to_owned());
    let root = &attachment.variant.root;
    match tag_state(&putter.registry, putter.repository(), &target).await? {
        TagState::Digest(held) if root.has_digest(&held) => return Ok(TagWrite::Present),
        TagState::Digest(held) => {
            let there = putter.registry.manifest(putter.repository(), &target).await?;
            if has_all_layers(&there, root) {
                return Ok(TagWrite::Present);
            }
            if putter.merge_signatures {
                merge_signature::merge(putter, tag, root).await?;
                return Ok(TagWrite::Written);
            }
            return Ok(TagWrite::KeptAway(kept_away(tag, &held)));
        }
        TagState::Unknown(error) => return Err(error),
        TagState::Nothing => {}
    }
    for child in attachment.variant.below.iter() {
        let by_digest = Target::Digest(child.digest().clone());
        putter
            .put(by_digest, child, &attachment.variant, false, effects)
            .await?;
    }
    putter.put(target, root, &attachment.variant, false, effects).await?;
    Ok(TagWrite::Written)
}

/// Makes manifests findable by their subject.
/// Entries are added to the list of referrers, unless the registry keeps that list itself.
pub(super) async fn list_referrers(
    putter: &ManifestPutter,
    effects: &mut Effects,
    left: &mut LeftReferrers,
) -> Result<()> {
    for (subject, entries) in std::mem::take(&mut effects.unlisted) {
        let why = match keep_list(putter, &subject, &entries).await {
            Ok(TagWrite::Written) => {
                effects.written_lists.insert(subject, entries);
                continue;
            }
            Ok(TagWrite::Present) => continue,
            Ok(TagWrite::KeptAway(why)) => why,
            Err(error) if is_loss(&error) => error.full(),
            Err(error) => {
                let error = error.context(format!("the list of what refers to {subject}"));
                return Err(with_no_referrers_hint(error));
            }
        };
        left.is_loss = true;
        let digest = |entry: &Map<String, Value>| entry.get("digest")?.as_str()?.parse().ok();
        let kind = |entry: &Map<String, Value>| Some(entry.get("artifactType")?.as_str()?.to_owned());
        for entry in &entries {
            left.list.extend(digest(entry).map(|digest| LeftOut {
                digest,
                media_type: kind(entry).unwrap_or_default(),
                reason: format!("it was pushed, but the registry does not list it for {subject}: {why}"),
            }));
        }
    }
    Ok(())
}

/// Adds missing entries to the list of referrers of a manifest.
/// Entries of other clients stay.
async fn keep_list(putter: &ManifestPutter, subject: &Digest, entries: &[Map<String, Value>]) -> Result<TagWrite> {
    let (registry, repository) = (&putter.registry, putter.repository());
    // Some registries list referrers without saying so in their response to the push.
    if let Some(found) = registry.referrers(repository, subject, usize::MAX).await? {
        let found: HashSet<String> = found.list.iter().map(|entry| entry.digest.to_string()).collect();
        if lacking(entries, |digest| found.contains(digest)).next().is_none() {
            return Ok(TagWrite::Present);
        }
    }
    let tag = subject.referrers_tag();
    let target = Target::Tag(tag.clone());
    let mut attempt = 0;
    let mut refused = None;
    loop {
        let there = registry.manifest_and_etag(repository, &target).await?;
        let (held, etag) = match &there {
            Some((manifest, etag)) => (Some(manifest), etag.as_deref()),
            None => (None, None),
        };
        if let Some(held) = held {
            if held.digest() == subject {
                return Ok(TagWrite::KeptAway(format!(
                    "the tag `{tag}` holds the image itself, put there by an earlier version of docker-mirror or by hand; \
                         delete that tag, and import again"
                )));
            }
            if !is_list_of_referrers(held) {
                return Ok(TagWrite::KeptAway(format!(
                    "the tag `{tag}` holds {}, which is no list of referrers",
                    held.digest()
                )));
            }
        }
        let Some(list) = merged(held, entries)? else {
            return Ok(match attempt {
                0 => TagWrite::Present,
                _ => TagWrite::Written,
            });
        };
        if attempt == ROUNDS {
            let why = refused.map_or_else(String::new, |error: Error| format!(": {}", error.full()));
            return Ok(TagWrite::KeptAway(format!(
                "other programs changed the list under the tag `{tag}` at the same time{why}"
            )));
        }
        attempt += 1;
        match registry.put_manifest_over(repository, &target, &list, etag).await {
            // The next round reads the list again, since another client may have replaced it.
            Ok(()) => refused = None,
            // Some registries answer the same for a tag that may not be moved.
            Err(error) if Refusal::in_error(&error).is_some_and(|refusal| refusal.status == 412) => {
                refused = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Returns whether a manifest can be a list of referrers. An index with platforms is an image.
fn is_list_of_referrers(manifest: &RawManifest) -> bool {
    match manifest.view() {
        View::Index(index) => index.entries.iter().all(|entry| entry.platform.is_none()),
        _ => false,
    }
}
