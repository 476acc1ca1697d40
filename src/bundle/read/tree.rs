//! Trees from a bundle: given out only when every manifest is verified and everything that it names is there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::sparse;
use super::store::Store;
use super::walk::Walk;
use super::{BundledImage, Referrer};
use crate::bundle::record::ImageRecord;
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::{RawManifest, View};
use crate::image::tree::{Choice, ImageTree, IndexMode, PlatformRecord, Variant, platform_label};

/// Builds the tree of an image.
pub(super) fn of_image(store: &Store, image: &BundledImage) -> Result<ImageTree> {
    let mut walk = Walk::new(store);
    let left_out = image.record.iter().flat_map(|record| &record.left_out);
    walk.left_behind = left_out.map(|left| left.digest.clone()).collect();
    let filtered = image
        .record
        .as_ref()
        .and_then(|record| Some((record, record.filtered.as_ref()?)));
    let tree = match filtered {
        Some((record, filtered)) => recorded(&mut walk, store, image, record, filtered)?,
        None => plain(&mut walk, image)?,
    };
    check_total(&tree)?;
    Ok(tree)
}

/// Builds the tree below a referrer; nothing of it may be absent.
pub(super) fn of_referrer(store: &Store, referrer: &Referrer) -> Result<Variant> {
    let mut walk = Walk::new(store);
    let variant = walk.variant(&referrer.root, &HashSet::new())?;
    walk.problems()?;
    variant.ok_or_else(no_root)
}

/// An image of which platforms were dropped on export: both indexes are in the bundle.
fn recorded(
    walk: &mut Walk<'_>,
    store: &Store,
    image: &BundledImage,
    record: &ImageRecord,
    filtered: &Digest,
) -> Result<ImageTree> {
    let kept: HashSet<&Digest> = record.kept.iter().map(|p| &p.digest).collect();
    let absent: HashSet<Digest> = record
        .dropped
        .iter()
        .map(|p| p.digest.clone())
        .filter(|digest| !kept.contains(digest))
        .collect();
    // Filtering leaves the type of an index as it was. Only one of the two is listed with its size.
    let root = |digest: &Digest| Descriptor {
        media_type: image.root.media_type.clone(),
        digest: digest.clone(),
        size: match *digest == image.root.digest {
            true => image.root.size,
            false => store.size_of(digest).unwrap_or_default(),
        },
    };
    let original = walk.variant(&root(&record.original), &absent)?;
    let filtered = walk.variant(&root(filtered), &HashSet::new())?;
    walk.problems()?;
    Ok(ImageTree {
        source: image.name.clone(),
        choice: match record.index {
            Choice::Sparse => Choice::Sparse,
            _ => Choice::Filtered,
        },
        original: original.ok_or_else(no_root)?,
        filtered: Some(filtered.ok_or_else(no_root)?),
        kept: record.kept.as_slice().into(),
        dropped: record.dropped.as_slice().into(),
        left_out: walk.take_left_out().into(),
        configs: std::mem::take(&mut walk.configs),
    })
}

/// An image of which everything should be there, or of another program that saved a part.
fn plain(walk: &mut Walk<'_>, image: &BundledImage) -> Result<ImageTree> {
    let whole = walk.variant(&image.root, &HashSet::new())?;
    let mut absent = HashSet::new();
    let (original, filtered) = match whole {
        Some(whole) if image.may_be_sparse && walk.only_misses() => {
            let mut pruned = HashMap::new();
            let Some(root) = sparse::prune(walk, &whole.root, &mut pruned)? else {
                walk.problems()?;
                return Err(Error::new(Kind::Malformed, "no platform of it is complete"));
            };
            absent.extend(pruned.iter().filter(|(_, left)| left.is_none()).map(|(d, _)| d.clone()));
            absent.extend(walk.missing.iter().cloned());
            let filtered = walk.below(&root, &HashSet::new())?;
            (walk.below(&whole.root, &absent)?, Some(filtered))
        }
        whole => {
            walk.problems()?;
            (whole.ok_or_else(no_root)?, None)
        }
    };
    let (kept, dropped) = match &image.record {
        Some(record) => (record.kept.clone(), record.dropped.clone()),
        None => platforms(walk, &original.root, &absent),
    };
    let mut tree = ImageTree {
        source: image.name.clone(),
        original,
        filtered,
        choice: Choice::Whole,
        kept: kept.into(),
        dropped: dropped.into(),
        left_out: Arc::default(),
        configs: std::mem::take(&mut walk.configs),
    };
    // Of a platform that was dropped nothing is left out: it is not there at all.
    let named: HashSet<Digest> = tree.blobs().into_iter().map(|blob| blob.descriptor.digest).collect();
    let left_out = walk.take_left_out().into_iter();
    tree.left_out = left_out.filter(|left_out| named.contains(&left_out.digest)).collect();
    tree.choose(IndexMode::Auto);
    Ok(tree)
}

fn no_root() -> Error {
    Error::new(Kind::Malformed, "its manifest is missing")
}

/// Every entry of the indexes below a root that is no index itself, by whether it is there; in the order of the indexes.
fn platforms(
    walk: &Walk<'_>,
    root: &Arc<RawManifest>,
    absent: &HashSet<Digest>,
) -> (Vec<PlatformRecord>, Vec<PlatformRecord>) {
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    if !matches!(root.view(), View::Index(_)) {
        kept.push(PlatformRecord {
            platform: platform_label(walk.platforms.get(root.digest()), false),
            digest: root.digest().clone(),
        });
    }
    let mut seen = HashSet::new();
    let mut stack = vec![root.clone()];
    while let Some(node) = stack.pop() {
        let View::Index(index) = node.view() else { continue };
        let mut nested = Vec::new();
        for entry in &index.entries {
            let digest = &entry.descriptor.digest;
            let gone = absent.contains(digest);
            if let Some(child) = walk.nodes.get(digest)
                && matches!(child.view(), View::Index(_))
                && !gone
            {
                if seen.insert(digest.clone()) {
                    nested.push(child.clone());
                }
                continue;
            }
            // Some programs write an empty platform; the config knows better.
            let stated = entry.platform.as_ref().filter(|platform| !platform.os.is_empty());
            let platform = stated
                .or_else(|| walk.platforms.get(digest))
                .or(entry.platform.as_ref());
            let record = PlatformRecord {
                platform: platform_label(platform, entry.attests().is_some()),
                digest: digest.clone(),
            };
            if gone { &mut dropped } else { &mut kept }.push(record);
        }
        stack.extend(nested.into_iter().rev());
    }
    (kept, dropped)
}

/// The sum of all sizes is a number that can be counted with.
fn check_total(tree: &ImageTree) -> Result<()> {
    let total = tree
        .blobs()
        .iter()
        .try_fold(0_u64, |sum, blob| sum.checked_add(blob.descriptor.size))
        .filter(|sum| i64::try_from(*sum).is_ok());
    match total {
        Some(_) => Ok(()),
        None => Err(Error::new(
            Kind::Malformed,
            "the sizes of its blobs sum up to an impossible number",
        )),
    }
}
