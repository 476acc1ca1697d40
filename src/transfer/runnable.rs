//! Whether anything runs from an image out of a bundle: an index that lists nothing of use is not pushed.

use crate::error::{Error, Kind, Result};
use crate::image::manifest::View;
use crate::image::tree::{ATTESTATION, ImageTree, UNKNOWN};
use crate::text::{few, quote};

/// Refuses an index of which only attestations are there, and, unless platforms were `chosen` by the user who made the
/// bundle or imports it, one without a linux platform: as export does. An image that is no index is what a user saved on purpose by
/// itself, artifacts run nowhere, and an index without entries has no platforms; all three are taken as they are.
pub(super) fn check(tree: &ImageTree, chosen: bool) -> Result<()> {
    let root = &tree.original.root;
    if !matches!(root.view(), View::Index(_)) || root.lists_nothing() {
        return Ok(());
    }
    // What a record says of an index below which nothing is does not count.
    let there = !tree.original.below.is_empty();
    let kept = tree.kept.iter().filter(|_| there);
    let mut has: Vec<&str> = kept.map(|kept| kept.platform.as_str()).collect();
    let is_use = |platform: &&str| {
        let os = platform.split('/').next().unwrap_or_default();
        **platform != *ATTESTATION && (chosen || *platform == UNKNOWN || os.eq_ignore_ascii_case("linux"))
    };
    if has.iter().any(is_use) {
        return Ok(());
    }
    has.retain(|platform| *platform != ATTESTATION);
    has.dedup();
    if has.is_empty() {
        let what = match tree.kept.is_empty() || !there {
            true => "its index lists nothing that is there",
            false => "its index lists nothing but attestations",
        };
        return Err(Error::new(Kind::NotFound, format!("it has no linux platform: {what}"))
            .with_hint("there is nothing to run in it; make the archive again"));
    }
    let has = few(has.iter().map(quote));
    Err(Error::new(
        Kind::NotFound,
        format!("it has no linux platform; its platforms: {has}"),
    )
    .with_hint("choose with `--platform OS/ARCH`, or import everything with `--platform all`"))
}
