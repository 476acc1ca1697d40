//! Referrers that were found for one image, and checks over all of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::manifest::RawManifest;
use crate::image::tree::{Attachment, LeftOut, MAX_TOTAL, Variant};

/// Reason for leaving out a referrer that is listed and does not exist.
pub(super) const DANGLING: &str = "it is listed and not there";

/// Maximum number of left-out referrers that are named for one image.
const MAX_LEFT_OUT: usize = 1000;

/// Referrers found for one image.
#[derive(Debug, Default)]
pub(super) struct DiscoveredReferrers {
    pub(super) attachments: Vec<Attachment>,
    pub(super) left_out: Vec<LeftOut>,
    /// Whether a referrer that was to be carried is left out.
    pub(super) is_loss: bool,
    /// Referrers that are left out beyond those in `left_out`.
    pub(super) unnamed: HashSet<Digest>,
    /// Number of entries of lists of referrers that were read.
    pub(super) read: usize,
    /// Digests of the manifests that were already handled.
    pub(super) seen: HashSet<Digest>,
    /// Size of each blob, as the manifests state it.
    sizes: HashMap<Digest, u64>,
    /// Referrers whose own referrers are searched next.
    pub(super) next: Vec<Digest>,
}

impl DiscoveredReferrers {
    /// Checks that a referrer states the same size for each blob as the image and its other referrers.
    /// Otherwise the image would contradict itself.
    pub(super) fn check_sizes(&self, variant: &Variant) -> Result<()> {
        let mut own: HashMap<&Digest, u64> = HashMap::new();
        for blob in variant.all().flat_map(|manifest| manifest.blobs()) {
            let known = self.sizes.get(&blob.digest).or(own.get(&blob.digest));
            if known.is_some_and(|known| *known != blob.size) {
                let what = format!(
                    "it gives blob {} another size than the image or another referrer",
                    blob.digest
                );
                return Err(Error::new(Kind::Malformed, what));
            }
            own.insert(&blob.digest, blob.size);
        }
        let sizes = self.sizes.iter().filter(|(digest, _)| !own.contains_key(digest));
        let sizes = sizes.map(|(_, size)| size).chain(own.values());
        match sizes.fold(0u64, |sum, size| sum.saturating_add(*size)) > MAX_TOTAL {
            true => Err(Error::new(Kind::Malformed, "it states an impossible size for a blob")),
            false => Ok(()),
        }
    }

    /// Records a referrer that is left out.
    pub(super) fn leave_out(&mut self, left_out: &LeftOut) {
        if self.left_out.contains(left_out) {
            return;
        }
        match self.left_out.len() < MAX_LEFT_OUT {
            true => self.left_out.push(left_out.clone()),
            false => {
                self.unnamed.insert(left_out.digest.clone());
            }
        }
    }

    /// Checks that an image has a signature, and that it loses no referrer.
    pub(super) fn complete(self) -> Result<Self> {
        let lost = self
            .left_out
            .iter()
            .find(|left| self.is_loss || left.reason == DANGLING);
        let what = match lost {
            Some(lost) => format!(
                "{}, which refers to it, cannot be carried: {}",
                lost.digest, lost.reason
            ),
            None if self.attachments.is_empty() => {
                "it has no signature or other referrer of the requested types".to_owned()
            }
            None => return Ok(self),
        };
        Err(Error::new(Kind::NotFound, what).with_hint("omit `--referrers require` to carry it without"))
    }

    /// Records the size of each blob, as the manifests state it.
    pub(super) fn note_sizes<'a>(&mut self, manifests: impl Iterator<Item = &'a Arc<RawManifest>>) {
        let blobs = manifests.flat_map(|manifest| manifest.blobs());
        self.sizes.extend(blobs.map(|blob| (blob.digest.clone(), blob.size)));
    }
}
