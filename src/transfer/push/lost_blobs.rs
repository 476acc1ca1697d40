//! Blobs that do not get to the destination. An image fails if it needs the blob itself. If only attachments need the blob,
//! the image is pushed without them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::image_state::Images;
use super::scheduler::Lacking;
use crate::error::{Error, Kind};
use crate::image::digest::Digest;
use crate::image::lost_attachments;
use crate::image::tree::ImageTree;
use crate::text::few;
use crate::transfer::referrers::{context_of_referrer, is_loss};

/// Returns whether the images of a group need a blob themselves, and not only their attachments.
pub(super) fn is_own_blob(images: &Images<'_>, group: usize, blob: &Digest) -> bool {
    let tree = tree_of(images, group);
    tree.is_none_or(|tree| tree.attachments.is_empty() || lost_attachments::is_own_blob(tree, blob))
}

/// Returns the tree that the images of a group share.
fn tree_of<'a>(images: &'a Images<'_>, group: usize) -> Option<&'a ImageTree> {
    let first = images.groups[group].members.first()?;
    Some(&images.list[*first].item().tree)
}

/// Records that a blob does not get into the repository of a group. The images that need the blob themselves fail. Returns
/// whether the group waits for no more blobs.
pub(super) fn lose_blob(images: &mut Images<'_>, group: usize, blob: &Digest, error: &Error) -> bool {
    if !images.groups[group].alive {
        return false;
    }
    if is_own_blob(images, group, blob) {
        images.fail_group(group, error);
        return false;
    }
    if images.request.require_referrers || !is_loss(error) {
        images.fail_group(group, &context_of_referrer(error.clone(), false));
        return false;
    }
    let group = &mut images.groups[group];
    Arc::make_mut(group.lost.get_or_insert_default()).insert(blob.clone(), error.full());
    group.waiting -= 1;
    group.waiting == 0
}

/// Records the missing blobs of each group at the end of a pipe, which may have broken. Returns the groups that wait for no
/// more blobs.
pub(super) fn lose_missing(
    images: &mut Images<'_>,
    lacking: &BTreeMap<usize, Lacking>,
    broken: Option<&Error>,
) -> Vec<usize> {
    let mut ready = Vec::new();
    for (&group, lacking) in lacking {
        // After a broken pipe the image fails, since another run may get its blobs.
        if let Some(error) = broken {
            images.fail_group(group, error);
        } else if lacking.count > 0 {
            images.fail_group(group, &missing(lacking));
        }
        for blob in &lacking.attachment_blobs {
            let error = Error::new(Kind::NotFound, format!("blob {blob} is missing from the bundle"));
            if lose_blob(images, group, blob, &error) {
                ready.push(group);
            }
        }
    }
    ready
}

/// Returns the error for blobs that did not come out of the pipe.
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
