//! What an image loses where some of its blobs cannot be had: those that only its attachments name cost these alone.

use std::collections::HashSet;

use super::digest::Digest;
use super::tree::{Attachment, ImageTree, LeftOut};

/// Attachments that cannot be carried, found one after the other. Subjects come before what refers to them.
#[derive(Debug, Default)]
pub(crate) struct LostAttachments {
    manifests: HashSet<Digest>,
}

impl LostAttachments {
    /// Why an attachment cannot be carried, if so: one of its blobs is lost, for which `why` has the reason, or what it refers to is.
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

    /// Notes an attachment that is lost for another reason.
    pub(crate) fn add(&mut self, attachment: &Attachment) {
        let manifests = attachment.variant.all();
        self.manifests
            .extend(manifests.map(|manifest| manifest.digest().clone()));
    }
}

/// Whether the own manifests of an image name a blob, and not those of attachments alone.
pub(crate) fn is_own_blob(tree: &ImageTree, digest: &Digest) -> bool {
    let mut blobs = tree.own_manifests().flat_map(|manifest| manifest.blobs());
    blobs.any(|blob| blob.digest == *digest)
}

/// Leaves out the attachments that need a blob for whose loss `why` has the reason, and what refers to them. A blob of the image
/// itself costs none. Returns whether there are any.
pub(crate) fn leave_out_attachments(tree: &mut ImageTree, why: impl Fn(&Digest) -> Option<String>) -> bool {
    let why = |blob: &Digest| why(blob).filter(|_| !is_own_blob(tree, blob));
    let mut lost = LostAttachments::default();
    let mut kept = Vec::with_capacity(tree.attachments.len());
    let mut left_out: Vec<LeftOut> = Vec::new();
    for attachment in tree.attachments.iter() {
        match lost.reason(attachment, &why) {
            None => kept.push(attachment.clone()),
            // One that is found in two ways is named once.
            Some(_)
                if left_out
                    .iter()
                    .any(|left| left.digest == *attachment.variant.root.digest()) => {}
            Some(reason) => left_out.push(LeftOut {
                digest: attachment.variant.root.digest().clone(),
                media_type: attachment.artifact_type(),
                reason: format!("it refers to {}: {reason}", attachment.subject),
            }),
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
