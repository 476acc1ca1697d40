//! Attachments of an image that are not at the destination.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::lost_attachments::LostAttachments;
use crate::image::tree::{Attachment, ImageTree, LeftOut, Variant, attachments_of_manifests};
use crate::transfer::referrers::{is_loss, with_no_referrers_hint};

/// Blobs of attachments that a repository does not get, each with the reason. Hardly any image has some, and `None` takes no
/// memory.
pub(super) type LostBlobs = Option<Arc<HashMap<Digest, String>>>;

/// Attachments of an image that are not at the destination.
#[derive(Debug, Default)]
pub(crate) struct LeftReferrers {
    pub(crate) list: Vec<LeftOut>,
    /// Whether an attachment that was to be pushed is missing.
    pub(crate) is_loss: bool,
}

impl LeftReferrers {
    /// Adds the attachments of an image that need lost blobs.
    pub(super) fn leave_lost_blobs(&mut self, tree: &ImageTree, blobs: &LostBlobs) {
        let mut lost = LostAttachments::default();
        for attachment in attachments_of_manifests(&tree.attachments, tree.pushed().all()) {
            if let Some(why) = lost.reason(attachment, |blob| blobs.as_ref()?.get(blob).cloned()) {
                self.add(attachment, &why);
            }
        }
    }

    /// Returns the error for an image whose attachments are required and incomplete.
    pub(super) fn required(&self) -> Error {
        let what = match self.list.first() {
            Some(left) => format!(
                "{}, which refers to it, cannot be carried: {}",
                left.digest, left.reason
            ),
            None => "it would have no signature".to_owned(),
        };
        Error::new(Kind::NotFound, what).with_hint("omit `--referrers require` to push it without")
    }

    /// Records an attachment that is not at the destination.
    pub(super) fn add(&mut self, attachment: &Attachment, why: &str) {
        self.is_loss = true;
        let root = attachment.variant.root.digest();
        // An attachment that is attached in two ways is listed once.
        if self.list.iter().any(|left| left.digest == *root) {
            return;
        }
        self.list.push(attachment.to_left_out(why));
    }

    /// Records an attachment that the registry rejects, or whose tag it does not let be read.
    ///
    /// # Errors
    /// The error, if it does not concern this attachment alone.
    pub(super) fn add_rejected(&mut self, attachment: &Attachment, error: Error) -> Result<()> {
        if is_loss(&error) {
            self.add(attachment, &error.full());
            return Ok(());
        }
        let (kind, root) = (attachment.artifact_type(), attachment.variant.root.digest());
        Err(with_no_referrers_hint(error.context(format!("{kind} {root} of it"))))
    }

    /// Records the attachments of the original index, after the registry refused that index.
    pub(super) fn leave_unused(&mut self, tree: &ImageTree, used: &Variant) {
        let used = attachments_of_manifests(&tree.attachments, used.all()).into_iter();
        let mut seen: HashSet<&Digest> = used.map(|used| used.variant.root.digest()).collect();
        let original = tree.original.root.digest();
        // An attachment that is attached in two ways is listed once, and not at all if one of them is used.
        let unused = tree.attachments.iter();
        let unused = unused.filter(|attachment| seen.insert(attachment.variant.root.digest()));
        self.list.extend(unused.map(|unused| LeftOut {
            digest: unused.variant.root.digest().clone(),
            media_type: unused.artifact_type(),
            reason: format!("{}, which was not accepted", unused.describe_unfiltered(original)),
        }));
    }
}

/// Returns the reason for a signature that is not pushed, since its tag holds another one.
pub(super) fn kept_away(tag: &str, held: &Digest) -> String {
    format!("the tag `{tag}` holds {held}, which stays as it is; `--merge-signatures` adds to it")
}
