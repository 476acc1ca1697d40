//! Builds the trees of images in a bundle.
//! A tree is returned only if all its manifests are verified and all their blobs are present.

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
use crate::image::tree::{Choice, ImageTree, IndexMode, Variant, shared};

/// Builds the tree of an image.
pub(super) fn image_tree(store: &Store, image: &BundledImage) -> Result<ImageTree> {
    let mut walk = new_walk(store, image);
    let filtered = image
        .record
        .as_ref()
        .and_then(|record| Some((record, record.filtered.as_ref()?)));
    let tree = match filtered {
        Some((record, filtered)) => match recorded(&mut walk, store, image, record, filtered) {
            Err(error) if error.kind() != Kind::TooLarge => {
                let made = remade(&mut new_walk(store, image), store, image, record, filtered);
                made.ok().flatten().ok_or(error)?
            }
            read => read?,
        },
        None => plain(&mut walk, image)?,
    };
    tree.total()?;
    Ok(tree)
}

fn new_walk<'a>(store: &'a Store, image: &BundledImage) -> Walk<'a> {
    let mut walk = Walk::new(store);
    let left_out = image.record.iter().flat_map(|record| &record.left_out);
    walk.left_behind = left_out.map(|left| left.digest.clone()).collect();
    walk
}

/// Builds the tree below a referrer; all its manifests and blobs must be present.
pub(super) fn referrer_tree(store: &Store, referrer: &Referrer) -> Result<Variant> {
    let mut walk = Walk::new(store);
    let selection = walk.select(&referrer.root)?;
    walk.problems()?;
    Ok(selection.ok_or_else(no_root)?.original)
}

/// Builds the tree of an image that was filtered on export, so that the bundle holds both indexes.
///
/// The filtered index determines which platforms are kept. Filtering the original again proves that the filtered index
/// was made from this original.
fn recorded(
    walk: &mut Walk<'_>,
    store: &Store,
    image: &BundledImage,
    record: &ImageRecord,
    filtered: &Digest,
) -> Result<ImageTree> {
    let original = walk.load(&root_of(store, image, &record.original))?;
    let smaller = walk.select(&root_of(store, image, filtered))?;
    walk.problems()?;
    let (original, smaller) = (original.ok_or_else(no_root)?, smaller.ok_or_else(no_root)?.original);
    walk.load_indexes(&original)?;
    walk.problems()?;
    let listed: HashSet<(&Digest, Option<&Platform>)> = smaller
        .all()
        .flat_map(entries_of)
        .map(|entry| (&entry.descriptor.digest, entry.platform.as_ref()))
        .collect();
    let is_listed = |entry: &Entry| listed.contains(&(&entry.descriptor.digest, entry.platform.as_ref()));
    let made = filter_again(walk, &original, is_listed)?;
    let made = made.filter(|made| {
        let root = made.filtered.as_ref().map(|made| made.root.digest());
        !made.is_empty() && root == Some(filtered)
    });
    let Some(made) = made else {
        let what = format!(
            "`{}` calls {filtered} the smaller index of {}, which it was not made from",
            record::MEMBER,
            record.original
        );
        return Err(
            Error::new(Kind::Integrity, what).with_hint("the bundle was edited: get it again, or export it again")
        );
    };
    // A missing manifest that the record does not list as dropped was lost.
    let recorded: HashSet<&Digest> = record.dropped.iter().map(|dropped| &dropped.digest).collect();
    let lost = made.dropped.iter().map(|dropped| &dropped.digest);
    walk.missing
        .extend(lost.filter(|digest| !recorded.contains(digest)).cloned());
    walk.problems()?;
    // The index that was read, which other images may share in memory; the newly made index has the same bytes.
    let selection = Selection {
        filtered: Some(smaller),
        ..made
    };
    Ok(filtered_tree(walk, image, record, selection))
}

/// Builds the tree of an image whose filtered index is damaged or missing: filters the original again, by the dropped
/// platforms of the record. The digest of the new index proves that it has the bytes of the lost one.
///
/// Returns `None` if the new index has another digest.
fn remade(
    walk: &mut Walk<'_>,
    store: &Store,
    image: &BundledImage,
    record: &ImageRecord,
    filtered: &Digest,
) -> Result<Option<ImageTree>> {
    let dropped: HashSet<&Digest> = record.dropped.iter().map(|dropped| &dropped.digest).collect();
    let original = walk.select(&root_of(store, image, &record.original))?;
    walk.missing.retain(|digest| !dropped.contains(digest));
    walk.problems()?;
    let root = original.ok_or_else(no_root)?.original.root;
    let made = filter_again(walk, &root, |entry| !dropped.contains(&entry.descriptor.digest))?;
    let has_digest = |made: &Selection| made.filtered.as_ref().map(|made| made.root.digest()) == Some(filtered);
    let made = made.filter(|made| !made.is_empty() && has_digest(made));
    Ok(made.map(|made| filtered_tree(walk, image, record, made)))
}

/// Returns the descriptor of one of the two indexes of a filtered image.
///
/// Filtering keeps the media type of an index. The bundle's index lists only one of the two, with its size.
fn root_of(store: &Store, image: &BundledImage, digest: &Digest) -> Descriptor {
    Descriptor {
        media_type: image.root.media_type.clone(),
        digest: digest.clone(),
        size: match *digest == image.root.digest {
            true => image.root.size,
            false => store.size_of(digest).unwrap_or_default(),
        },
    }
}

fn filtered_tree(walk: &mut Walk<'_>, image: &BundledImage, record: &ImageRecord, selection: Selection) -> ImageTree {
    ImageTree {
        choice: match record.index {
            Choice::Sparse => Choice::Sparse,
            _ => Choice::Filtered,
        },
        filtered: selection.filtered,
        kept: shared(selection.kept),
        dropped: shared(selection.dropped),
        left_out: shared(walk.take_left_out()),
        configs: std::mem::take(&mut walk.configs),
        ..ImageTree::new(image.name.clone(), selection.original)
    }
}

/// Removes the entries that are not listed from an index and from its nested indexes.
///
/// Returns `None` if another manifest below the index is missing.
fn filter_again(
    walk: &Walk<'_>,
    original: &Arc<RawManifest>,
    is_listed: impl Fn(&Entry) -> bool,
) -> Result<Option<Selection>> {
    let mut graph = Graph::default();
    for (digest, node) in &walk.nodes {
        graph.add(node.clone());
        if !matches!(node.view(), View::Index(_)) {
            graph.set_platform(digest.clone(), walk.platforms.get(digest).cloned());
        }
    }
    let is_full_index = |entry: &Entry| {
        let node = walk.nodes.get(&entry.descriptor.digest);
        node.is_some_and(|node| !entries_of(node).is_empty())
    };
    // The nodes include filtered indexes, whose entries are all listed: nothing is removed from them.
    for entries in walk.nodes.values().map(entries_of) {
        let images = entries
            .iter()
            .filter(|entry| entry.attested().is_none() && is_listed(entry));
        let images: HashSet<String> = images.map(|entry| entry.descriptor.digest.to_string()).collect();
        let stays = |entry: &Entry| {
            is_listed(entry) || is_full_index(entry) || entry.attested().is_some_and(|subject| images.contains(subject))
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

/// Builds the tree of an unfiltered image, or of an image that another program saved in part.
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
        kept: shared(selection.kept),
        dropped: shared(selection.dropped),
        configs: std::mem::take(&mut walk.configs),
        ..ImageTree::new(image.name.clone(), selection.original)
    };
    // Blobs of a dropped platform are not listed as left out: the whole platform is absent.
    let named: HashSet<Digest> = tree.blobs().into_iter().map(|blob| blob.descriptor.digest).collect();
    let left_out = walk.take_left_out().into_iter();
    tree.left_out = shared(left_out.filter(|left_out| named.contains(&left_out.digest)).collect());
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
