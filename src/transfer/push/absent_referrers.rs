//! Compares the attachments of an image with those at the destination, before the image is pushed.

use std::collections::{BTreeMap, HashSet};

use super::left_referrers::{LeftReferrers, kept_away};
use super::merge_signature::config_of_signature;
use super::tag::{TagState, is_manifest_there, tag_state};
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::manifest::View;
use crate::image::reference::Target;
use crate::image::referrer::has_all_layers;
use crate::image::tree::{ImageTree, attachments_of_manifests};
use crate::registry::Registry;

/// Attachments of an image that are not at the destination.
#[derive(Debug, Default)]
pub(super) struct AbsentReferrers {
    /// Attachments that are to be pushed, or listed for their subject.
    pub(super) missing: Vec<Digest>,
    /// Signatures that are not pushed, since the destination has others under their tag, or does not let the tag be read.
    pub(super) kept_away: LeftReferrers,
}

/// Finds the attachments of an image that a repository lacks, or does not list for their subject.
///
/// # Errors
/// Errors of the connection, and of a tag that fails to be read.
pub(super) async fn absent_referrers(
    registry: &Registry,
    repository: &str,
    tree: &ImageTree,
    merge_signatures: bool,
) -> Result<AbsentReferrers> {
    let mut absent = AbsentReferrers::default();
    let mut lists: BTreeMap<&Digest, HashSet<Digest>> = BTreeMap::new();
    for attachment in attachments_of_manifests(&tree.attachments, tree.pushed().all()) {
        let root = &attachment.variant.root;
        let is_there = match attachment.tag() {
            Some(tag) => {
                let target = Target::Tag(tag.clone());
                let is_there = match tag_state(registry, repository, &target).await? {
                    TagState::Nothing => Ok(false),
                    TagState::Digest(held) if root.has_digest(&held) => Ok(true),
                    TagState::Digest(held) => match registry.manifest_and_etag(repository, &target).await {
                        Ok(Some((there, _))) if has_all_layers(&there, root) => Ok(true),
                        Ok(Some(_)) if !merge_signatures => {
                            absent.kept_away.add(attachment, &kept_away(&tag, &held));
                            continue;
                        }
                        Ok(Some((there, _))) => config_of_signature(&there).map(|_| false),
                        Ok(None) => Ok(false),
                        Err(error) => Err(error),
                    },
                    TagState::Unknown(error) => Err(error),
                };
                match is_there {
                    Ok(is_there) => is_there,
                    // A push could not read the tag or add to it either, and never overwrites what may be another signature.
                    Err(error) => {
                        absent.kept_away.add_rejected(attachment, error)?;
                        continue;
                    }
                }
            }
            None => {
                let subject = &attachment.subject;
                if !lists.contains_key(subject) {
                    lists.insert(subject, listed(registry, repository, subject).await?);
                }
                let is_listed = lists[subject].contains(root.digest());
                // A referrer of which the registry does not say whether it has it is pushed again, which changes nothing there.
                is_listed && {
                    let is_there = is_manifest_there(registry, repository, root).await.map(Some);
                    is_there.or_else(refusal_as_none)? == Some(true)
                }
            }
        };
        if !is_there {
            absent.missing.push(root.digest().clone());
        }
    }
    Ok(absent)
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
