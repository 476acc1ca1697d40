//! Archives with the image layout inside a folder,
//! from `tar -czf layout.tgz layout` or from programs that pack a layout with other files.

use std::collections::BTreeMap;

use super::archive::{Archive, DOCUMENTS, ITEMS, blob_name};
use super::find::{LOOKED_AT, is_list_of_images};
use super::store::Store;
use crate::error::Result;

/// Maximum number of folders that are considered.
const MAX_FOLDERS: usize = 100;

/// If the archive has no documents at its top level, and exactly one folder has them,
/// that folder becomes the top level.
pub(super) fn enter(archive: &mut Archive, store: &mut Store) -> Result<()> {
    let is_there = |name: &str| archive.files.contains_key(name) || archive.links.contains_key(name);
    if DOCUMENTS.iter().any(|name| is_there(name)) {
        return Ok(());
    }
    let folders = folders(archive);
    let [folder] = folders.as_slice() else {
        archive.folders = folders;
        return Ok(());
    };
    let prefix = format!("{folder}/");
    let mut outside = BTreeMap::new();
    for (name, place) in std::mem::take(&mut archive.files) {
        match name.strip_prefix(&prefix) {
            None => {
                outside.insert(name, place);
            }
            Some(inner) if blob_name(inner).is_some() => archive.add_file(inner.to_owned(), |_| place, store)?,
            Some(inner) => {
                archive.files.insert(inner.to_owned(), place);
            }
        }
    }
    for (name, place) in outside {
        archive.files.entry(name).or_insert(place);
    }
    let inner = |name: &str| name.strip_prefix(&prefix).unwrap_or(name).to_owned();
    let links = std::mem::take(&mut archive.links).into_iter();
    archive.links = links.map(|(name, target)| (inner(&name), inner(&target))).collect();
    Ok(())
}

/// Returns the folders that hold an image layout;
/// if there are none, the folders with a docker-archive.
fn folders(archive: &Archive) -> Vec<String> {
    let of = |document: &str| -> Vec<String> {
        let names = archive.files.keys().chain(archive.links.keys());
        let folder = |name: &String| name.strip_suffix(document)?.strip_suffix('/').map(str::to_owned);
        names.filter_map(folder).take(MAX_FOLDERS).collect()
    };
    let layouts = of("oci-layout");
    if !layouts.is_empty() {
        return layouts;
    }
    let lists_images = |folder: &String| {
        let Some(place) = archive.files.get(&format!("{folder}/{ITEMS}")) else {
            return false;
        };
        let mut begin = vec![0; usize::try_from(LOOKED_AT.min(place.size)).unwrap_or_default()];
        place.read_at(0, &mut begin).is_ok() && is_list_of_images(&begin)
    };
    of(ITEMS).into_iter().filter(lists_images).collect()
}
