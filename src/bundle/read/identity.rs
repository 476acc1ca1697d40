//! Checks names that contain a digest: such a name may only belong to the image with that digest.
//!
//! Names come from annotations, from the record, from `RepoTags` and from the user. The stated digest must be the digest
//! of the root, or of the original that the record names. Building the tree proves that the original is in the bundle and
//! that the root was made from the original.

use std::fmt::Display;

use super::contents::BundledImage;
use super::store::Store;
use crate::bundle::record::ImageRecord;
use crate::error::{Error, Kind, Result};
use crate::image::annotations::Annotations;
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::digest_tag;
use crate::image::manifest::Entry;
use crate::image::manifest::annotation::{CONTAINERD_NAME, REF_NAME};
use crate::image::reference::Reference;

/// Checks the digest in a name, if the name has one.
///
/// # Errors
/// [`Kind::Integrity`] if the image has another digest.
pub(super) fn check(name: &Reference, root: &Digest, record: Option<&ImageRecord>) -> Result<()> {
    match name.digest() {
        Some(stated) => compare(stated, name, root, record),
        None => Ok(()),
    }
}

/// Checks the tag of an image, if the tag states a digest.
///
/// # Errors
/// [`Kind::Integrity`] if the image has another digest.
pub(super) fn check_tag(image: &BundledImage, store: &Store) -> Result<()> {
    let root = &image.root;
    let original = image.record.iter().map(|record| &record.original);
    let known: Vec<&Digest> = std::iter::once(&root.digest).chain(original).collect();
    digest_tag::check(&image.name, &known, |tag| {
        let read = |document: &Descriptor| store.manifest(&document.digest, &document.media_type).ok();
        read(root).is_some_and(|root| digest_tag::is_list(tag, &root, read))
    })
}

/// Checks every digest in the names of an index entry, including names that are not used.
///
/// # Errors
/// [`Kind::Integrity`] if the image has another digest, or a name with a digest cannot be parsed.
pub(super) fn check_annotations(annotations: &Annotations, root: &Digest, record: Option<&ImageRecord>) -> Result<()> {
    check_bare(annotations, root, record)?;
    for text in names(annotations).filter(|text| text.contains('@')) {
        let name: Reference = text.parse().map_err(|e: Error| {
            let what = "it has a name whose digest cannot be checked";
            Error::new(Kind::Integrity, what).with_source(e)
        })?;
        check(&name, root, record)?;
    }
    Ok(())
}

/// Whether each digest in the names of an index entry is that of the entry.
pub(super) fn has_own_digest(entry: &Entry) -> bool {
    check_annotations(&entry.annotations, &entry.descriptor.digest, None).is_ok()
}

/// Checks names that consist of a digest alone.
///
/// # Errors
/// [`Kind::Integrity`] if the image has another digest.
pub(super) fn check_bare(annotations: &Annotations, root: &Digest, record: Option<&ImageRecord>) -> Result<()> {
    let mut stated = names(annotations).filter_map(|text| text.parse::<Digest>().ok());
    stated.try_for_each(|stated| compare(&stated, &stated, root, record))
}

fn names(annotations: &Annotations) -> impl Iterator<Item = &str> {
    let keys = [CONTAINERD_NAME, REF_NAME].into_iter();
    keys.filter_map(|key| annotations.get(key))
}

/// Compares a stated digest with the digest of the image,
/// and with that of its original before filtering.
fn compare(stated: &Digest, name: &impl Display, root: &Digest, record: Option<&ImageRecord>) -> Result<()> {
    if stated == root || record.is_some_and(|record| record.original == *stated) {
        return Ok(());
    }
    let what = format!("it is called `{name}`, but its digest is {root}");
    Err(Error::new(Kind::Integrity, what))
}
