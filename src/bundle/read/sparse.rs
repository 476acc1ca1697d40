//! An index of which only some platforms are in the archive: containerd saves it as it is, with what it has.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::walk::Walk;
use crate::error::Result;
use crate::image::digest::Digest;
use crate::image::filter::{self, EntryAction};
use crate::image::manifest::{Entry, RawManifest, View};

/// What is left of each manifest that was looked at; `None` where nothing is.
pub(super) type Pruned = HashMap<Digest, Option<Arc<RawManifest>>>;

/// The manifest without what is not complete: itself if everything is, `None` if nothing is. All that is there below it
/// was loaded before.
pub(super) fn prune(
    walk: &mut Walk<'_>,
    node: &Arc<RawManifest>,
    done: &mut Pruned,
) -> Result<Option<Arc<RawManifest>>> {
    if let Some(known) = done.get(node.digest()) {
        return Ok(known.clone());
    }
    let pruned = match node.view() {
        View::Index(index) => prune_index(walk, node, &index.entries, done)?,
        _ => walk.check_blobs(node, false)?.then(|| node.clone()),
    };
    done.insert(node.digest().clone(), pruned.clone());
    Ok(pruned)
}

fn prune_index(
    walk: &mut Walk<'_>,
    node: &Arc<RawManifest>,
    entries: &[Entry],
    done: &mut Pruned,
) -> Result<Option<Arc<RawManifest>>> {
    let mut children = Vec::with_capacity(entries.len());
    for entry in entries {
        children.push(match walk.nodes.get(&entry.descriptor.digest).cloned() {
            Some(child) => prune(walk, &child, done)?,
            None => None,
        });
    }
    let stays: HashSet<String> = entries
        .iter()
        .zip(&children)
        .filter(|(entry, child)| child.is_some() && entry.attests().is_none())
        .map(|(entry, _)| entry.descriptor.digest.to_string())
        .collect();
    let actions: Vec<EntryAction> = entries
        .iter()
        .zip(&children)
        .map(|(entry, child)| match child {
            None => EntryAction::Drop,
            // What an attestation describes has gone, so it goes as well.
            Some(_) if entry.attests().is_some_and(|subject| !stays.contains(subject)) => EntryAction::Drop,
            Some(child) if *child.digest() == entry.descriptor.digest => EntryAction::Keep,
            Some(child) => EntryAction::Replace(child.descriptor().clone()),
        })
        .collect();
    if actions.iter().all(|fate| *fate == EntryAction::Keep) {
        return Ok(Some(node.clone()));
    }
    for (entry, fate) in entries.iter().zip(&actions) {
        if *fate == EntryAction::Drop {
            done.insert(entry.descriptor.digest.clone(), None);
        }
    }
    if actions.iter().all(|fate| *fate == EntryAction::Drop) {
        return Ok(None);
    }
    let bytes = filter::rewrite(node.bytes(), &actions)?;
    let rewritten = Arc::new(RawManifest::new(Bytes::from(bytes), Some(node.media_type()), None)?);
    walk.nodes.insert(rewritten.digest().clone(), rewritten.clone());
    Ok(Some(rewritten))
}
