//! Checks tags that state a digest: such a tag may only belong to the image with that digest, or to its list of referrers.
//!
//! An image without a tag gets the tag `sha256-HEX-image`, which states the digest of the image. Clients read the manifest under
//! the tag `sha256-HEX` as the list of the referrers of the manifest with that digest (OCI distribution-spec, "Referrers Tag
//! Schema").

use std::collections::HashMap;
use std::sync::Arc;

use super::descriptor::Descriptor;
use super::digest::Digest;
use super::manifest::{RawManifest, View};
use super::reference::Reference;
use super::referrer::{is_referrers_tag, subject};
use super::tree::ImageTree;
use crate::error::{Error, Kind, Result};

/// Suffix of [`Digest::image_tag`].
const IMAGE: &str = "-image";

/// Hint for an image under a tag that it may not have.
const ANOTHER_NAME: &str = "name the image by its digest, or give it another tag";

/// Returns whether a name states a digest, itself or by its tag.
pub(crate) fn states_digest(name: &Reference) -> bool {
    let by_tag = |tag: &str| is_referrers_tag(tag.strip_suffix(IMAGE).unwrap_or(tag));
    name.digest().is_some() || name.tag().is_some_and(by_tag)
}

/// Checks the tag in a name, if the tag states a digest.
///
/// `known` are the digests that the tag may state: those of the root, and of the index from which the root was filtered.
/// `is_list` returns whether the root is a list of referrers that may have this tag.
///
/// # Errors
/// [`Kind::Integrity`] if the image may not have the tag.
pub(crate) fn check(name: &Reference, known: &[&Digest], is_list: impl Fn(&str) -> bool) -> Result<()> {
    let Some(tag) = name.tag() else { return Ok(()) };
    let stated = tag.strip_suffix(IMAGE).unwrap_or(tag);
    if !is_referrers_tag(stated) {
        return Ok(());
    }
    let what = match stated == tag {
        true if is_list(tag) => return Ok(()),
        true => "the tag is that of the list of what refers to the manifest with this digest, and it is no such list",
        false if known.iter().any(|digest| digest.referrers_tag() == stated) => return Ok(()),
        false => "the tag states the digest of another image",
    };
    let root = known.first().map(ToString::to_string).unwrap_or_default();
    let what = format!("it is called `{name}`, but its digest is {root}: {what}");
    Err(Error::new(Kind::Integrity, what))
}

/// Checks that a name that the user requests from a registry is not that of a list of referrers: the referrers are copied with
/// their image, and a list of its own would be taken for that of the bundle.
///
/// # Errors
/// [`Kind::Unsupported`] for such a list; those of [`check`] for anything else under such a tag.
pub(crate) fn check_requested(name: &Reference, root: &RawManifest) -> Result<()> {
    let Some(tag) = name.tag().filter(|tag| is_referrers_tag(tag)) else {
        return Ok(());
    };
    let is_list = match root.view() {
        View::Index(index) => index.entries.iter().all(|entry| entry.platform.is_none()),
        _ => false,
    };
    if !is_list {
        return check(name, &[root.digest()], |_| false).map_err(|e| e.with_hint(ANOTHER_NAME));
    }
    let subject = tag.replacen('-', ":", 1);
    let image = match subject.parse::<Digest>() {
        Ok(_) => format!("name the image, `{}@{subject}`", name.name()),
        // The tag has a part of the digest.
        Err(_) => "name the image that they refer to".to_owned(),
    };
    Err(Error::new(
        Kind::Unsupported,
        "this tag is no image: it lists signatures and other manifests that refer to an image",
    )
    .with_hint(format!("{image}: they travel with it")))
}

/// Checks the tag in a name that an image has, or would get, if the tag states a digest.
///
/// # Errors
/// Those of [`check`].
pub(crate) fn check_tree(name: &Reference, tree: &ImageTree) -> Result<()> {
    let root = &tree.pushed().root;
    let known = [root.digest(), tree.original.root.digest()];
    let is_list = |tag: &str| {
        let carried: HashMap<&Digest, _> = tree.own_manifests().map(|it| (it.digest(), it)).collect();
        is_list(tag, root, |entry| carried.get(&entry.digest).copied().cloned())
    };
    check(name, &known, is_list).map_err(|e| e.with_hint(ANOTHER_NAME))
}

/// Returns whether a manifest is a list of referrers of the manifest that `tag` states: an index of which every entry is at
/// hand, and states that manifest as its subject.
pub(crate) fn is_list(tag: &str, root: &RawManifest, listed: impl Fn(&Descriptor) -> Option<Arc<RawManifest>>) -> bool {
    let View::Index(index) = root.view() else { return false };
    index.entries.iter().all(|entry| {
        let referrer = listed(&entry.descriptor);
        let stated = referrer.and_then(|referrer| subject(&referrer));
        stated.is_some_and(|stated| stated.referrers_tag() == tag)
    })
}
