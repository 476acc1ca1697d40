//! Check before a push that an image of a bundle contains something runnable.

use crate::error::{Error, Kind, Result};
use crate::image::manifest::View;
use crate::image::tree::{ATTESTATION, ImageTree, UNKNOWN};
use crate::text::{few, quote};

/// Rejects an index that contains only attestations.
/// Also rejects an index without a linux platform, as export does, unless `chosen` states that the user selected platforms
/// during export or import.
///
/// Accepted without a check: a single image manifest (the user saved it on purpose), artifacts (they do not run), and an
/// index without entries (it has no platforms).
pub(super) fn check(tree: &ImageTree, chosen: bool) -> Result<()> {
    let root = &tree.original.root;
    if !matches!(root.view(), View::Index(_)) || root.lists_nothing() {
        return Ok(());
    }
    // The platforms that a record claims do not count if no manifest below the index is present.
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
            true => "all manifests of its index are missing",
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
