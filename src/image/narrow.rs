//! Drops platforms of an image whose manifests have been read: `--platform` for an image from a bundle.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::config::Config;
use super::digest::Digest;
use super::platform::{Platform, PlatformFilter, PlatformPattern};
use super::select::{Graph, Need, SelectResult, select};
use super::tree::{ATTESTATION, Attachment, ImageTree, IndexMode, attachments_of_manifests};
use crate::error::{Error, Kind, Result};
use crate::text::{few, quote};

/// Drops the platforms that the filter does not match. Platforms that the tree already lacks stay dropped, and a tree that
/// loses no further platform is returned unchanged.
///
/// The filtered index is always derived from the original index, so that two filters in a row give the same bytes as one
/// export with both filters.
///
/// # Errors
/// [`Kind::NotFound`] if no platform is left.
pub(crate) fn narrow(tree: ImageTree, filter: &PlatformFilter) -> Result<ImageTree> {
    let mut graph = Graph::default();
    for manifest in tree.original.below.iter() {
        graph.add(manifest.clone());
    }
    let mut recorded: HashMap<&Digest, &str> = HashMap::new();
    for kept in tree.kept.iter() {
        recorded.entry(&kept.digest).or_insert(&kept.platform);
    }
    let selection = loop {
        match select(&graph, &tree.original.root, filter)? {
            SelectResult::Selected(selection) => break selection,
            SelectResult::Needs(needs) => {
                for need in needs {
                    match need {
                        Need::Manifest(descriptor) => graph.set_absent(descriptor.digest),
                        Need::Platform { manifest, config } => {
                            let config = tree.configs.get(&config.digest);
                            let label = recorded.get(&manifest).copied();
                            let platform = config.and_then(stated).or_else(|| label.and_then(platform_of));
                            graph.set_platform(manifest, platform);
                        }
                    }
                }
            }
        }
    };
    if selection.is_empty() && !tree.original.root.lists_nothing() {
        return Err(nothing_left(&tree, filter));
    }
    let root_of = |variant: &Option<super::tree::Variant>| variant.as_ref().map(|v| v.root.digest().clone());
    if root_of(&selection.filtered) == root_of(&tree.filtered) {
        return Ok(tree);
    }
    let had_filtered = tree.filtered.is_some();
    let mut smaller = ImageTree {
        original: selection.original,
        filtered: selection.filtered,
        kept: selection.kept.into(),
        dropped: selection.dropped.into(),
        ..tree
    };
    if !had_filtered {
        smaller.choose(IndexMode::Auto);
    }
    let attachments = attachments_of_manifests(&smaller.attachments, smaller.own_manifests());
    let attachments: Vec<Attachment> = attachments.into_iter().cloned().collect();
    smaller.attachments = attachments.into();
    let manifests = smaller.manifests();
    let named: HashSet<Digest> = manifests
        .iter()
        .flat_map(|m| m.blobs())
        .map(|d| d.digest.clone())
        .collect();
    let left_out = smaller.left_out.iter().filter(|blob| named.contains(&blob.digest));
    smaller.left_out = left_out.cloned().collect();
    smaller.configs.retain(|digest, _| named.contains(digest));
    Ok(smaller)
}

/// Returns the platform that an image config states.
fn stated(config: &Bytes) -> Option<Platform> {
    let platform = Config::parse(config).ok()?.platform;
    Some(platform).filter(|platform| !platform.os.is_empty())
}

/// Parses the platform label that was recorded when the image was fetched.
fn platform_of(label: &str) -> Option<Platform> {
    // A label may end with the version of the operating system in parentheses, which a pattern cannot have.
    let pattern: PlatformPattern = label.split(" (").next()?.parse().ok()?;
    Some(pattern.platform().clone())
}

fn nothing_left(tree: &ImageTree, filter: &PlatformFilter) -> Error {
    let kept = tree.kept.iter().map(|kept| kept.platform.as_str());
    let mut platforms: Vec<&str> = kept.filter(|platform| *platform != ATTESTATION).collect();
    platforms.sort_unstable();
    platforms.dedup();
    Error::new(Kind::NotFound, format!("no platform of the image is `{filter}`"))
        .with_hint(format!("it has {}", few(platforms.iter().map(quote))))
}

#[cfg(test)]
#[path = "narrow_tests.rs"]
mod tests;
