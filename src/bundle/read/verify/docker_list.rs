//! Compares `manifest.json`, which `docker load` reads, with the images of `index.json`, which every other program reads.
//!
//! The list of a bundle of this program follows from its images, and has to be equal to it. In an archive of another program the
//! list names parts of its images.

use std::collections::{BTreeMap, HashSet};

use super::faults::Faults;
use super::result::{Fault, FaultKind};
use crate::bundle::layout::{DockerItem, docker_item, name_in_bundle};
use crate::bundle::read::archive::blob_name;
use crate::bundle::read::contents::DockerList;
use crate::bundle::read::docker::items::{Item, MEMBER};
use crate::bundle::read::{Bundle, BundledImage};
use crate::bundle::record::EDITED;
use crate::image::digest::Digest;
use crate::image::manifest::{Image, View};
use crate::image::reference::Reference;
use crate::image::tree::ImageTree;
use crate::text::quote;

/// The items of all lists, by archive and name.
pub(super) struct DockerLists<'a> {
    lists: &'a [DockerList],
    open: BTreeMap<(&'a str, String), Vec<(&'a DockerList, &'a Item)>>,
    /// Images that were compared, by archive and name.
    compared: HashSet<(&'a str, String)>,
}

impl<'a> DockerLists<'a> {
    pub(super) fn new(bundle: &'a Bundle) -> Self {
        let lists = bundle.parts.docker_lists.as_slice();
        let mut open: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for list in lists {
            for item in list.items.all().filter_map(|(_, item)| item.ok()) {
                for tag in item.repo_tags() {
                    let key = (list.archive.as_str(), normal(tag));
                    open.entry(key).or_default().push((list, item));
                }
            }
        }
        Self {
            lists,
            open,
            compared: HashSet::new(),
        }
    }

    fn list_of(&self, archive: &str) -> Option<&'a DockerList> {
        self.lists.iter().find(|list| list.archive == archive)
    }

    /// Compares the items of an image that is not damaged.
    pub(super) fn compare(&mut self, image: &'a BundledImage, tree: &ImageTree, faults: &mut Faults<'_>) {
        let Some(list) = self.list_of(&image.archive).filter(|_| !image.rebuilt) else {
            return;
        };
        // The list has the name in the archive, even if the user gives another name.
        let recorded = image
            .record
            .as_ref()
            .map(|record| record.reference.parse::<Reference>());
        let Ok(name) = recorded.unwrap_or_else(|| Ok(image.name.clone())) else {
            return;
        };
        let key = (image.archive.as_str(), name_in_bundle(&name));
        if !self.compared.insert(key.clone()) {
            return;
        }
        let found = self.open.remove(&key).unwrap_or_default();
        let found = found.into_iter().map(|(_, item)| item);
        let why = match list.is_own {
            true if image.record.is_none() => return,
            true => differs(docker_item(tree, &name).as_ref(), found),
            false => found.filter_map(|item| contradicts(list, item, tree)).next(),
        };
        if let Some(why) = why {
            let images = vec![image.name.to_string()];
            faults.add(fault(list, format!("image `{}`: {why}", quote(&key.1)), images));
        }
    }

    /// Reports the items of bundles of this program that are no image of the index.
    pub(super) fn finish(self, bundle: &Bundle, faults: &mut Faults<'_>) {
        for list in self.lists.iter().filter(|list| list.is_own) {
            for (place, item) in list.items.all() {
                if let Err(error) = item {
                    faults.add(fault(list, format!("entry {place}: {}", error.full()), Vec::new()));
                }
            }
        }
        // What is wrong with other images is reported by their own faults.
        let images = bundle.parts.images.iter().chain(&bundle.parts.ambiguous);
        let broken = bundle.parts.broken.iter().filter_map(|image| image.name.as_ref());
        let known: HashSet<String> = images
            .map(|image| &image.name)
            .chain(broken)
            .map(name_in_bundle)
            .collect();
        for ((_, name), items) in self.open {
            let own = items.iter().find(|(list, _)| list.is_own);
            if let Some((list, _)) = own.filter(|_| !known.contains(&name)) {
                faults.add(fault(
                    list,
                    format!("it lists `{}`, and `index.json` does not", quote(&name)),
                    Vec::new(),
                ));
            }
        }
    }
}

/// Returns a name in its full form; `None` if it is not a valid name.
fn normal(tag: &str) -> String {
    tag.parse()
        .map_or_else(|_| tag.to_owned(), |name: Reference| name_in_bundle(&name))
}

fn fault(list: &DockerList, why: String, images: Vec<String>) -> Fault {
    Fault {
        file: Some(list.archive.as_str().into()),
        member: Some(MEMBER.into()),
        offset: Some(list.offset),
        images: images.into_iter().map(Into::into).collect(),
        hint: Some(EDITED.into()),
        ..Fault::new(FaultKind::Document, why)
    }
}

/// Compares the items of an image with the item that this program writes for the image. Returns the difference.
fn differs<'i>(expected: Option<&DockerItem>, found: impl Iterator<Item = &'i Item>) -> Option<String> {
    let mut count = 0;
    for item in found {
        count += 1;
        let Some(expected) = expected else {
            return Some("it lists an image that `docker load` cannot load".to_owned());
        };
        if item.config != expected.config {
            return Some(format!(
                "it states the config `{}`, and `index.json` leads to `{}`",
                quote(&item.config),
                expected.config
            ));
        }
        if item.layers != expected.layers {
            return Some("it states other layers than the manifest that `index.json` leads to".to_owned());
        }
    }
    (count == 0 && expected.is_some()).then(|| "it does not list the image, which `index.json` lists".to_owned())
}

/// Compares an item of another program with the image of the same name. Returns the contradiction.
fn contradicts(list: &DockerList, item: &Item, tree: &ImageTree) -> Option<String> {
    let mut paths = std::iter::once(&item.config).chain(&item.layers);
    if let Some(path) = paths.find(|path| list.absent.contains(*path)) {
        return Some(format!("it states `{}`, which is not in the archive", quote(path)));
    }
    let config = blob_name(&item.config)?;
    let manifests = tree.own_manifests();
    let images = manifests.filter_map(|manifest| match manifest.view() {
        View::Image(image) => Some(image),
        _ => None,
    });
    let mut images = images.filter(|image| image.config.digest == config).peekable();
    if images.peek().is_none() {
        return Some(format!(
            "it states the config `{}`, which is that of another image",
            quote(&item.config)
        ));
    }
    let layers: Option<Vec<Digest>> = item.layers.iter().map(|path| blob_name(path)).collect();
    let layers = layers?;
    let fits = |image: &Image| image.layers.iter().map(|layer| &layer.digest).eq(&layers);
    (!images.any(fits)).then(|| "it states other layers than its manifest".to_owned())
}
