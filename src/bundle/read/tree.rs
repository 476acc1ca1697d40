//! Trees from a bundle: given out only when every manifest is verified and everything that it names is there.

use std::collections::HashSet;
use std::sync::Arc;

use super::contents::{BundledImage, Referrer};
use super::store::Store;
use super::walk::Walk;
use crate::bundle::record::{self, ImageRecord};
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::{Entry, RawManifest, View};
use crate::image::platform::{Platform, PlatformFilter};
use crate::image::select::{Graph, SelectResult, Selection, select};
use crate::image::tree::{Choice, ImageTree, IndexMode, Variant};

/// Builds the tree of an image.
pub(super) fn image_tree(store: &Store, image: &BundledImage) -> Result<ImageTree> {
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
    tree.total()?;
    Ok(tree)
}

/// Builds the tree below a referrer; nothing of it may be absent.
pub(super) fn referrer_tree(store: &Store, referrer: &Referrer) -> Result<Variant> {
    let mut walk = Walk::new(store);
    let selection = walk.select(&referrer.root)?;
    walk.problems()?;
    Ok(selection.ok_or_else(no_root)?.original)
}

/// An image of which platforms were dropped on export: both indexes are in the bundle. What of the original is kept is what
/// the smaller index lists; that it is the smaller index of this very original is proved by making it again.
fn recorded(
    walk: &mut Walk<'_>,
    store: &Store,
    image: &BundledImage,
    record: &ImageRecord,
    filtered: &Digest,
) -> Result<ImageTree> {
    // Filtering leaves the type of an index as it was. Only one of the two is listed with its size.
    let root = |digest: &Digest| Descriptor {
        media_type: image.root.media_type.clone(),
        digest: digest.clone(),
        size: match *digest == image.root.digest {
            true => image.root.size,
            false => store.size_of(digest).unwrap_or_default(),
        },
    };
    let original = walk.load(&root(&record.original))?;
    let smaller = walk.select(&root(filtered))?;
    walk.problems()?;
    let (original, smaller) = (original.ok_or_else(no_root)?, smaller.ok_or_else(no_root)?.original);
    walk.load_indexes(&original)?;
    walk.problems()?;
    let made = filter_again(walk, &original, &smaller)?;
    let made = made.filter(|made| {
        let root = made.filtered.as_ref().map(|made| made.root.digest());
        !made.is_empty() && root == Some(filtered)
    });
    let Some(Selection {
        original,
        kept,
        dropped,
        ..
    }) = made
    else {
        let what = format!(
            "`{}` calls {filtered} the smaller index of {}, which it was not made from",
            record::MEMBER,
            record.original
        );
        return Err(
            Error::new(Kind::Integrity, what).with_hint("the bundle was edited: get it again, or export it again")
        );
    };
    // A manifest that is absent and not recorded as dropped got lost.
    let recorded: HashSet<&Digest> = record.dropped.iter().map(|dropped| &dropped.digest).collect();
    let lost = dropped.iter().map(|dropped| &dropped.digest);
    walk.missing
        .extend(lost.filter(|digest| !recorded.contains(digest)).cloned());
    walk.problems()?;
    Ok(ImageTree {
        choice: match record.index {
            Choice::Sparse => Choice::Sparse,
            _ => Choice::Filtered,
        },
        // The one that was read, which other images share, and not the one that was made, which has the same bytes.
        filtered: Some(smaller),
        kept: kept.into(),
        dropped: dropped.into(),
        left_out: walk.take_left_out().into(),
        configs: std::mem::take(&mut walk.configs),
        ..ImageTree::new(image.name.clone(), original)
    })
}

/// Removes from an index, and from the indexes inside it, what a smaller index does not list. `None` if something else is
/// missing below it.
fn filter_again(walk: &Walk<'_>, original: &Arc<RawManifest>, smaller: &Variant) -> Result<Option<Selection>> {
    let listed: HashSet<(&Digest, Option<&Platform>)> = smaller
        .all()
        .flat_map(entries_of)
        .map(|entry| (&entry.descriptor.digest, entry.platform.as_ref()))
        .collect();
    let mut graph = Graph::default();
    for (digest, node) in &walk.nodes {
        graph.add(node.clone());
        if !matches!(node.view(), View::Index(_)) {
            graph.set_platform(digest.clone(), walk.platforms.get(digest).cloned());
        }
    }
    let is_listed = |entry: &Entry| listed.contains(&(&entry.descriptor.digest, entry.platform.as_ref()));
    let is_full_index = |entry: &Entry| {
        let node = walk.nodes.get(&entry.descriptor.digest);
        node.is_some_and(|node| !entries_of(node).is_empty())
    };
    // Smaller indexes are among the nodes as well; all that they have is listed.
    for entries in walk.nodes.values().map(entries_of) {
        let images = entries
            .iter()
            .filter(|entry| entry.attests().is_none() && is_listed(entry));
        let images: HashSet<String> = images.map(|entry| entry.descriptor.digest.to_string()).collect();
        let stays = |entry: &Entry| {
            is_listed(entry) || is_full_index(entry) || entry.attests().is_some_and(|subject| images.contains(subject))
        };
        entries
            .iter()
            .filter(|entry| !stays(entry))
            .for_each(|entry| graph.leave_out(entry));
    }
    match select(&graph, original, &PlatformFilter::All)? {
        SelectResult::Selected(selection) => Ok(Some(selection)),
        SelectResult::Needs(_) => Ok(None),
    }
}

/// An image of which everything should be there, or of another program that saved a part.
fn plain(walk: &mut Walk<'_>, image: &BundledImage) -> Result<ImageTree> {
    let selection = walk.select(&image.root)?;
    // Only platforms of an index may be missing.
    let is_index = |selection: &Selection| matches!(selection.original.root.view(), View::Index(_));
    if !(image.may_be_sparse && walk.only_misses() && selection.as_ref().is_some_and(is_index)) {
        walk.problems()?;
    }
    let selection = selection.ok_or_else(no_root)?;
    if selection.is_empty() && !selection.dropped.is_empty() {
        walk.problems()?;
        return Err(Error::new(Kind::Malformed, "no platform of it is complete"));
    }
    let mut tree = ImageTree {
        filtered: selection.filtered,
        kept: selection.kept.into(),
        dropped: selection.dropped.into(),
        configs: std::mem::take(&mut walk.configs),
        ..ImageTree::new(image.name.clone(), selection.original)
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

fn entries_of(node: &Arc<RawManifest>) -> &[Entry] {
    match node.view() {
        View::Index(index) => &index.entries,
        _ => &[],
    }
}
