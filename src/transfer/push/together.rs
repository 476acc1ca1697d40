//! All tags of an image in one request, where the destination takes that (OCI distribution-spec, "Pushing Manifests").

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

/// Tags of one repository that were put together with others, each with the digest that it got.
pub(crate) type Tagged = Arc<Mutex<HashSet<(String, Digest)>>>;

/// Tags that a registry may take in one request.
#[derive(Debug, Default)]
pub(crate) struct Together {
    /// Tags of images that are ready and differ from this one in nothing but their tags.
    others: Vec<String>,
    tagged: Tagged,
}

/// Maximum number of images that are looked at for further tags of one.
const LOOKED_AT: usize = 100;

impl Together {
    /// The tags that can be put together with that of an image: those of images that are `ready` and the same.
    pub(super) fn new<'a>(image: &PushItem, ready: impl Iterator<Item = &'a PushItem>, tagged: &Tagged) -> Self {
        let others = ready.take(LOOKED_AT).filter(|other| is_same(&image.tree, &other.tree));
        let others = others.filter_map(|other| other.destination.tag());
        Self {
            others: others.take(TAGS_AT_ONCE - 1).map(str::to_owned).collect(),
            tagged: tagged.clone(),
        }
    }

    /// Puts a tag together with the others. Returns whether the registry says that it has put this one, now or for an image
    /// before; what it does not say is put by itself.
    ///
    /// # Errors
    /// Those of the registry, but for one that does not know such requests.
    pub(super) async fn put(&self, putter: &ManifestPutter, tag: &str, root: &RawManifest) -> Result<bool> {
        let own = (tag.to_owned(), root.digest().clone());
        if self.tagged.lock().contains(&own) {
            return Ok(true);
        }
        // The answer about a referrer is needed, and registries that know SHA-256 alone are no help with another digest.
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

/// Whether two images go under their names with the same manifest, and the same belongs to them.
fn is_same(one: &ImageTree, other: &ImageTree) -> bool {
    let belongings = |tree: &ImageTree| -> Vec<Digest> {
        let attachments = tree.attachments.iter();
        attachments
            .map(|attachment| attachment.variant.root.digest().clone())
            .collect()
    };
    one.pushed().root.digest() == other.pushed().root.digest() && belongings(one) == belongings(other)
}
