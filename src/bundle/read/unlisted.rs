//! Adds images that `manifest.json` lists and `index.json` omits.
//!
//! Docker 25.0.0 listed only images with a tag in `index.json`, and wrote `"manifests":null` if no image had a tag.

use std::collections::{HashMap, HashSet};

use super::archive::Archive;
use super::broken::BrokenImage;
use super::contents::{BundledImage, Contents};
use super::docker::builder::Builder;
use super::docker::items::{Item, Items, MEMBER};
use super::docker::rebuild::rebuilt;
use super::name_override::NameOverrides;
use super::names;
use super::store::Store;
use crate::error::{Kind, Result};
use crate::image::budget::NAME;
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::View;
use crate::image::media_type;
use crate::image::reference::Reference;
use crate::text::quote;

/// Maximum size in bytes of a blob that is examined as a possible manifest.
const MAX_LOOKED_AT: u64 = 256 << 10;
/// Maximum total size in bytes of all blobs that are examined as possible manifests.
const MAX_LOOKED_AT_ALL: u64 = 32 << 20;

/// Adds the images of `manifest.json` whose config belongs to no image of the index, and further names of images that are in
/// both.
/// `listed` are the entries of the index.
///
/// # Errors
/// [`Kind::TooLarge`] if the images take more memory than the budget has left.
pub(super) fn add(
    archive: &mut Archive,
    store: &mut Store,
    items: &Items,
    listed: &[Descriptor],
    given: &mut NameOverrides<'_>,
    contents: &mut Contents,
) -> Result<()> {
    if items.is_empty() {
        return Ok(());
    }
    // An image counts as unlisted only if all configs below the index are known.
    let Some(configs) = configs_below(store, listed) else {
        return Ok(());
    };
    let mut builder = Builder::new(archive);
    let images = contents.images.iter();
    let images = images.map(|image| (&image.name, Some(&image.root.digest)));
    let broken = contents.broken.iter().filter_map(|broken| broken.name.as_ref());
    let taken: HashMap<&Reference, Option<&Digest>> = images.chain(broken.map(|name| (name, None))).collect();
    let roots = roots_by_config(store, &contents.images);
    let mut stored: Option<HashMap<Digest, Descriptor>> = None;
    let mut found: Vec<BundledImage> = Vec::new();
    let mut faulty: Vec<BrokenImage> = Vec::new();
    let mut contradictory: Vec<String> = Vec::new();
    let first = contents.places;
    for (number, (_, item)) in items.all().enumerate() {
        let place = first + number;
        let item = match item {
            Ok(item) => item,
            Err(error) => {
                faulty.extend(BrokenImage::named(archive, place, Vec::new(), error));
                continue;
            }
        };
        let config = builder.config_digest(item, store).ok();
        if let Some(config) = config.as_ref().filter(|config| configs.contains(config)) {
            if let Some(root) = roots.get(config) {
                let names = other_names(item, &root.digest, &taken).into_iter();
                found.extend(names.map(|name| image(archive, place, name, root.clone(), false)));
            }
            continue;
        }
        let (mut names, unusable) = item.names();
        if names.iter().any(|name| taken.contains_key(name)) {
            contradictory.push(item.label());
            continue;
        }
        // Computed on first use, since it reads every small blob.
        let stored = stored.get_or_insert_with(|| manifests_by_config(store, listed));
        let root = match config.as_ref().and_then(|config| stored.get(config)) {
            Some(root) => Ok((root.clone(), false)),
            None => builder.build(item, store).map(|root| (root, true)),
        };
        let exact = given.names_for(place, root.as_ref().ok().map(|(root, _)| &root.digest));
        if !exact.is_empty() {
            names = exact;
        } else if names.is_empty() {
            names.extend(given.nameless().cloned());
        }
        match root {
            Err(fault) => faulty.extend(BrokenImage::named(archive, place, names, fault)),
            Ok((root, _)) if names.is_empty() => {
                let why = unusable.into_iter().next();
                let why = why.map_or_else(|| names::no_name(place), |why| names::unusable(why, place));
                faulty.push(names::nameless(archive, store, place, &root, None, why));
            }
            Ok((root, is_built)) => {
                let one = |name| image(archive, place, name, root.clone(), is_built);
                found.extend(names.into_iter().map(one));
            }
        }
    }
    let taken = store.budget().take((found.len() + faulty.len()) as u64 * NAME);
    taken.map_err(|e| e.context(archive.describe(MEMBER)))?;
    let warnings = builder.warnings();
    archive.warnings.append(warnings);
    let label = quote(&archive.label).to_string();
    for name in contradictory {
        archive.warnings.push(format!(
            "`{label}`: `index.json` and `{MEMBER}` call different images `{name}`; that of `index.json` is taken"
        ));
    }
    if !found.is_empty() {
        archive.warnings.push(format!(
            "`{label}`: {} of the images that `{MEMBER}` lists are not in `index.json`; they are taken from `{MEMBER}`",
            found.len()
        ));
    }
    contents.images.extend(found);
    contents.broken.extend(faulty);
    Ok(())
}

fn image(archive: &Archive, place: usize, name: Reference, root: Descriptor, is_built: bool) -> BundledImage {
    BundledImage {
        rebuilt: is_built,
        ..rebuilt(archive, place, name, root)
    }
}

/// Returns the root manifests of these images that have a config, by the config.
fn roots_by_config(store: &Store, images: &[BundledImage]) -> HashMap<Digest, Descriptor> {
    let mut seen = HashSet::new();
    let roots = images.iter().map(|image| &image.root);
    let mut by_config = HashMap::new();
    for root in roots.filter(|root| seen.insert(&root.digest)) {
        if let Ok(manifest) = store.manifest(&root.digest, &root.media_type)
            && let View::Image(image) = manifest.view()
        {
            by_config.insert(image.config.digest.clone(), root.clone());
        }
    }
    by_config
}

/// Returns the names of an item that the index does not have. Empty unless the index lists this image under another name of the
/// item.
fn other_names(item: &Item, root: &Digest, taken: &HashMap<&Reference, Option<&Digest>>) -> Vec<Reference> {
    let names = item.names().0;
    match names.iter().any(|name| taken.get(name) == Some(&Some(root))) {
        true => names.into_iter().filter(|name| !taken.contains_key(name)).collect(),
        false => Vec::new(),
    }
}

/// Returns the configs of all images below these manifests; `None` if there is not enough memory.
fn configs_below(store: &Store, roots: &[Descriptor]) -> Option<HashSet<Digest>> {
    let mut configs = HashSet::new();
    let mut seen: HashSet<Digest> = HashSet::new();
    let mut open: Vec<Descriptor> = roots.to_vec();
    while let Some(descriptor) = open.pop() {
        if !seen.insert(descriptor.digest.clone()) {
            continue;
        }
        let manifest = match store.manifest(&descriptor.digest, &descriptor.media_type) {
            Ok(manifest) => manifest,
            Err(error) if error.kind() == Kind::TooLarge => return None,
            Err(_) => continue,
        };
        match manifest.view() {
            View::Index(index) => {
                let children = index.entries.iter().map(|entry| &entry.descriptor);
                open.extend(children.filter(|child| store.size_of(&child.digest).is_some()).cloned());
            }
            View::Image(image) => {
                configs.insert(image.config.digest.clone());
            }
            View::Other { .. } => {}
        }
    }
    Some(configs)
}

/// Finds unlisted image manifests among the small blobs, by config:
/// such an image keeps its digest.
fn manifests_by_config(store: &Store, listed: &[Descriptor]) -> HashMap<Digest, Descriptor> {
    let listed: HashSet<&Digest> = listed.iter().map(|descriptor| &descriptor.digest).collect();
    let mut left = MAX_LOOKED_AT_ALL;
    let mut manifests = HashMap::new();
    for digest in store.digests().filter(|digest| !listed.contains(digest)) {
        let size = store.size_of(digest).unwrap_or(u64::MAX);
        let mut begin = [0];
        if size > MAX_LOOKED_AT || store.read_at(digest, 0, &mut begin).is_err() || begin != *b"{" {
            continue;
        }
        let Some(rest) = left.checked_sub(size) else { break };
        left = rest;
        let Ok(manifest) = store.manifest(digest, "") else {
            continue;
        };
        if let View::Image(image) = manifest.view()
            && media_type::is_image_config(&image.config.media_type)
        {
            let descriptor = manifest.descriptor().clone();
            manifests.entry(image.config.digest.clone()).or_insert(descriptor);
        }
    }
    manifests
}
