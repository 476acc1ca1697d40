//! Blobs that do not get to the destination: an image fails for its own, and goes without the attachments that need the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::image_state::Images;
use super::scheduler::Lacking;
use crate::error::{Error, Kind};
use crate::image::digest::Digest;
use crate::image::lost_blobs;
use crate::image::tree::ImageTree;
use crate::text::few;
use crate::transfer::referrers::{context_of_referrer, is_loss};

/// Whether a blob belongs to the images of a group themselves, and not to their attachments alone.
pub(super) fn is_own_blob(images: &Images<'_>, group: usize, blob: &Digest) -> bool {
    let tree = tree_of(images, group);
    tree.is_none_or(|tree| tree.attachments.is_empty() || lost_blobs::is_own_blob(tree, blob))
}

fn tree_of<'a>(images: &'a Images<'_>, group: usize) -> Option<&'a ImageTree> {
    let first = images.groups[group].members.first()?;
    Some(&images.list[*first].item.tree)
}

/// Takes note of a blob that does not get into the repository of a group, and fails the images that need it themselves.
/// Returns whether nothing more is waited for.
pub(super) fn lose_blob(images: &mut Images<'_>, group: usize, blob: &Digest, error: &Error) -> bool {
    if !images.groups[group].alive {
        return false;
    }
    if is_own_blob(images, group, blob) {
        images.fail_group(group, error);
        return false;
    }
    if images.request.require_referrers || !is_loss(error) {
        images.fail_group(group, &context_of_referrer(error.clone()));
        return false;
    }
    let group = &mut images.groups[group];
    Arc::make_mut(&mut group.lost).insert(blob.clone(), error.full());
    group.waiting -= 1;
    group.waiting == 0
}

/// Takes note of what groups lack at the end of a pipe, which may have broken. Returns the groups for which nothing more is
/// waited.
pub(super) fn lose_missing(
    images: &mut Images<'_>,
    lacking: &BTreeMap<usize, Lacking>,
    broken: Option<&Error>,
) -> Vec<usize> {
    let mut ready = Vec::new();
    for (&group, lacking) in lacking {
        // Of a pipe that broke, another run may get the rest.
        if let Some(error) = broken {
            images.fail_group(group, error);
        } else if lacking.count > 0 {
            images.fail_group(group, &missing(lacking));
        }
        for blob in &lacking.of_attachments {
            let error = Error::new(Kind::NotFound, format!("blob {blob} is missing from the bundle"));
            if lose_blob(images, group, blob, &error) {
                ready.push(group);
            }
        }
    }
    ready
}

/// The error for blobs that did not come out of the pipe.
fn missing(lacking: &Lacking) -> Error {
    let what = if lacking.count == 1 { "blob is" } else { "blobs are" };
    let more = match lacking.count - lacking.first.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let list = few(&lacking.first);
    let message = format!("{} {what} missing from the bundle: {list}{more}", lacking.count);
    Error::new(Kind::Malformed, message).with_hint("the bundle is incomplete: get it again, or make it again")
}
