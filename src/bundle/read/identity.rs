//! Names that state a digest: such a name is given to nothing but the image of that digest.
//!
//! Names come from annotations, from the record, from `RepoTags` and from the user. Wherever a name states a digest, that is
//! the digest of the root, or of the original that the record names; the tree proves that the original is there and that the
//! root was made from it.

use std::collections::BTreeMap;

use crate::bundle::record::ImageRecord;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::manifest::annotation::{CONTAINERD_NAME, REF_NAME};
use crate::image::reference::Reference;

/// Checks the digest that a name states, if it states one.
///
/// # Errors
/// [`Kind::Integrity`] if the image has another digest.
pub(super) fn check(name: &Reference, root: &Digest, record: Option<&ImageRecord>) -> Result<()> {
    let is_proved = |stated: &Digest| stated == root || record.is_some_and(|record| record.original == *stated);
    match name.digest() {
        Some(stated) if !is_proved(stated) => Err(Error::new(
            Kind::Integrity,
            format!("it is called `{name}`, but its digest is {root}"),
        )),
        _ => Ok(()),
    }
}

/// Checks every digest that an entry of an index states in its names, also in those that are not used.
///
/// # Errors
/// [`Kind::Integrity`] if the image has another digest, or what is stated cannot be checked.
pub(super) fn check_annotations(
    annotations: &BTreeMap<String, String>,
    root: &Digest,
    record: Option<&ImageRecord>,
) -> Result<()> {
    let names = [CONTAINERD_NAME, REF_NAME]
        .iter()
        .filter_map(|key| annotations.get(*key));
    check_bare(annotations, root, record)?;
    for text in names.filter(|text| text.contains('@')) {
        let name: Reference = text.parse().map_err(|e: Error| {
            let what = "it has a name whose digest cannot be checked";
            Error::new(Kind::Integrity, what).with_source(e)
        })?;
        check(&name, root, record)?;
    }
    Ok(())
}

/// Checks the digests that stand by themselves where a name belongs.
///
/// # Errors
/// [`Kind::Integrity`] if the image has another digest.
pub(super) fn check_bare(
    annotations: &BTreeMap<String, String>,
    root: &Digest,
    record: Option<&ImageRecord>,
) -> Result<()> {
    let names = [CONTAINERD_NAME, REF_NAME]
        .iter()
        .filter_map(|key| annotations.get(*key));
    let mut stated = names.filter_map(|text| text.parse::<Digest>().ok());
    let is_proved = |stated: &Digest| stated == root || record.is_some_and(|record| record.original == *stated);
    match stated.find(|stated| !is_proved(stated)) {
        Some(stated) => Err(Error::new(
            Kind::Integrity,
            format!("it is called `{stated}`, but its digest is {root}"),
        )),
        None => Ok(()),
    }
}
