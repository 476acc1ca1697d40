//! One referrer of an image of a lock.

use serde::{Deserialize, Serialize};

use crate::image::digest::Digest;
use crate::image::referrer::parse_tag_beside;
use crate::image::tree::{ImageTree, Lookup};

/// A referrer of an image, and the way in which a registry finds the referrer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedReferrer {
    /// Digest of the referrer.
    pub digest: Digest,
    /// Digest of the subject: a manifest of the image or of another referrer.
    pub subject: Digest,
    /// Tag of cosign for the subject, such as `sha256-HEX.sig`; `None` if registries find the referrer by its `subject` field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

impl LockedReferrer {
    /// Lists the referrers that are carried with a tree.
    pub(crate) fn from_tree(tree: &ImageTree) -> Vec<Self> {
        let attachments = tree.attachments.iter().map(|attachment| Self {
            digest: attachment.variant.root.digest().clone(),
            subject: attachment.subject.clone(),
            tag: attachment.tag(),
        });
        attachments.collect()
    }

    /// Returns the way in which a registry finds the referrer.
    pub(crate) fn lookup(&self) -> Lookup {
        match self.tag.as_deref().and_then(parse_tag_beside) {
            Some((_, suffix)) => Lookup::Tag(suffix),
            None => Lookup::Subject,
        }
    }

    /// Returns whether the tag, if there is one, is a tag of cosign for the subject.
    pub(super) fn has_the_tag_of_its_subject(&self) -> bool {
        let Some(tag) = &self.tag else { return true };
        parse_tag_beside(tag).is_some_and(|(subject, _)| subject == self.subject.referrers_tag())
    }
}
