//! Puts several tags of an image in one request (OCI distribution-spec, "Pushing Manifests").

use std::collections::HashSet;
use std::sync::Arc;

use super::put_manifest::ManifestPutter;
use super::request::PushItem;
use crate::error::Result;
use crate::image::digest::{Algorithm, Digest};
use crate::image::manifest::RawManifest;
use crate::image::referrer;
use crate::image::tree::ImageTree;
use crate::lock::Mutex;
use crate::registry::TAGS_AT_ONCE;

/// Tags of one repository that were put in a request for several tags, each with its digest.
pub(crate) type Tagged = Arc<Mutex<HashSet<(String, Digest)>>>;

/// Tags that a registry may accept in one request.
#[derive(Debug, Default)]
pub(crate) struct Together {
    /// Tags of ready images that differ from this image only in their tags.
    others: Vec<String>,
    tagged: Tagged,
}

/// Maximum number of ready images that are checked for further tags of one image.
const LOOKED_AT: usize = 100;

impl Together {
    /// Collects the tags of `ready` images with the same content, to put them in one request.
    pub(super) fn new<'a>(image: &PushItem, ready: impl Iterator<Item = &'a PushItem>, tagged: &Tagged) -> Self {
        let others = ready.take(LOOKED_AT).filter(|other| is_same(&image.tree, &other.tree));
        let others = others.filter_map(|other| other.destination.tag());
        Self {
            others: others.take(TAGS_AT_ONCE - 1).map(str::to_owned).collect(),
            tagged: tagged.clone(),
        }
    }

    /// Puts a tag together with the other tags.
    /// Returns whether the registry confirms this tag, for this request or an earlier request. A tag without confirmation
    /// is put alone by the caller.
    ///
    /// # Errors
    /// Errors of the registry, except from a registry that does not support several tags in one request.
    pub(super) async fn put(&self, putter: &ManifestPutter, tag: &str, root: &RawManifest) -> Result<bool> {
        let own = (tag.to_owned(), root.digest().clone());
        if self.tagged.lock().contains(&own) {
            return Ok(true);
        }
        // A manifest with a subject is put alone, since the response about its referrer is needed. A manifest with a digest
        // other than SHA-256 is put alone as well, since some registries do not support such digests.
        let is_plain = root.digest().algorithm() == Algorithm::Sha256 && referrer::subject(root).is_none();
        if self.others.is_empty() || !is_plain {
            return Ok(false);
        }
        let tags: Vec<&str> = std::iter::once(tag)
            .chain(self.others.iter().map(String::as_str))
            .collect();
        let put = putter.registry.put_manifest_with_tags(putter.repository(), root, &tags);
        let Some(accepted) = put.await? else {
            return Ok(false);
        };
        let accepted = accepted.tags.into_iter().map(|tag| (tag, root.digest().clone()));
        let mut tagged = self.tagged.lock();
        tagged.extend(accepted);
        Ok(tagged.contains(&own))
    }
}

/// Returns whether two images push the same root manifest and have the same attachments.
fn is_same(one: &ImageTree, other: &ImageTree) -> bool {
    let belongings = |tree: &ImageTree| -> Vec<Digest> {
        let attachments = tree.attachments.iter();
        attachments
            .map(|attachment| attachment.variant.root.digest().clone())
            .collect()
    };
    one.pushed().root.digest() == other.pushed().root.digest() && belongings(one) == belongings(other)
}
