//! What is said of an image that lacks requested platforms.

use crate::error::{Error, Kind};
use crate::image::platform::PlatformFilter;
use crate::image::reference::Reference;
use crate::image::tree::{ATTESTATION, INDEX, ImageTree, PlatformRecord};
use crate::progress::Progress;
use crate::text::{few, quote};

/// Returns the requested platforms that an image lacks, as text; empty if the image has all of them.
pub(crate) fn absent(tree: &ImageTree, filter: &PlatformFilter) -> String {
    few(tree.absent(filter).iter().map(|platform| format!("`{platform}`")))
}

/// Warns about the requested platforms that an image does not have.
pub(crate) fn warn_of_absent(image: &Reference, absent: &str, progress: &Progress) {
    if !absent.is_empty() {
        progress.warn(format!("`{image}` has no platform {absent}"));
    }
}

/// Returns the error for an image with none of the requested platforms.
pub(super) fn nothing_wanted<'a>(filter: &PlatformFilter, dropped: impl Iterator<Item = &'a PlatformRecord>) -> Error {
    let mut has: Vec<&str> = dropped
        .map(|d| d.platform.as_str())
        .filter(|p| ![ATTESTATION, INDEX].contains(p))
        .collect();
    has.dedup();
    let has = if has.is_empty() {
        "none".to_owned()
    } else {
        few(has.iter().map(quote))
    };
    let wanted = match filter {
        PlatformFilter::Linux => "no linux platform".to_owned(),
        other => format!("no platform that matches `{other}`"),
    };
    Error::new(Kind::NotFound, format!("it has {wanted}; its platforms: {has}"))
        .with_hint("choose with `--platform OS/ARCH`, or carry everything with `--platform all`")
}
