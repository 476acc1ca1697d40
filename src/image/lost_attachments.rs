//! Leaves out attachments of an image whose blobs are not available. A missing blob of an attachment does not fail the image.

use std::collections::HashSet;

use super::digest::Digest;
use super::tree::{Attachment, ImageTree, LeftOut};

/// The attachments that cannot be carried. Callers must add a subject before its referrers.
#[derive(Debug, Default)]
pub(crate) struct LostAttachments {
    manifests: HashSet<Digest>,
}

impl LostAttachments {
    /// Returns why an attachment cannot be carried, or `None` if it can be carried.
    ///
    /// An attachment is lost with its subject, or with one of its blobs. `why` returns the reason why a blob is lost.
    pub(crate) fn reason(
        &mut self,
        attachment: &Attachment,
        why: impl Fn(&Digest) -> Option<String>,
    ) -> Option<String> {
        let reason = match self.manifests.contains(&attachment.subject) {
            true => Some("what it refers to is not carried".to_owned()),
            false => {
                let mut blobs = attachment.variant.all().flat_map(|manifest| manifest.blobs());
                blobs.find_map(|blob| why(&blob.digest))
            }
        };
        if reason.is_some() {
            self.add(attachment);
        }
        reason
    }

    /// Adds an attachment that is lost for another reason.
    pub(crate) fn add(&mut self, attachment: &Attachment) {
        let manifests = attachment.variant.all();
        self.manifests
            .extend(manifests.map(|manifest| manifest.digest().clone()));
    }
}

/// Returns whether a manifest of the image itself, and not only of an attachment, names a blob.
pub(crate) fn is_own_blob(tree: &ImageTree, digest: &Digest) -> bool {
    let mut blobs = tree.own_manifests().flat_map(|manifest| manifest.blobs());
    blobs.any(|blob| blob.digest == *digest)
}

/// Leaves out the attachments with lost blobs, and their referrers. Returns whether an attachment was left out.
///
/// `why` returns the reason why a blob is lost. A lost blob of the image itself does not affect attachments.
pub(crate) fn leave_out_attachments(tree: &mut ImageTree, why: impl Fn(&Digest) -> Option<String>) -> bool {
    let why = |blob: &Digest| why(blob).filter(|_| !is_own_blob(tree, blob));
    let mut lost = LostAttachments::default();
    let mut kept = Vec::with_capacity(tree.attachments.len());
    let mut left_out: Vec<LeftOut> = Vec::new();
    for attachment in tree.attachments.iter() {
        match lost.reason(attachment, why) {
            None => kept.push(attachment.clone()),
            // A manifest that is an attachment twice is listed once.
            Some(_)
                if left_out
                    .iter()
                    .any(|left| left.digest == *attachment.variant.root.digest()) => {}
            Some(reason) => left_out.push(attachment.to_left_out(&reason)),
        }
    }
    if left_out.is_empty() {
        return false;
    }
    tree.attachments = kept.into();
    tree.left_out_referrers = tree.left_out_referrers.iter().cloned().chain(left_out).collect();
    tree.lacks_referrers = true;
    true
}

/// Leaves out all attachments for one reason. Returns whether there was any.
pub(crate) fn leave_out_all(tree: &mut ImageTree, why: &str) -> bool {
    if tree.attachments.is_empty() {
        return false;
    }
    let mut seen = HashSet::new();
    let all = tree.attachments.iter();
    let left_out: Vec<LeftOut> = all
        .filter(|attachment| seen.insert(attachment.variant.root.digest()))
        .map(|attachment| attachment.to_left_out(why))
        .collect();
    tree.left_out_referrers = tree.left_out_referrers.iter().cloned().chain(left_out).collect();
    tree.attachments = Vec::new().into();
    tree.lacks_referrers = true;
    true
}
