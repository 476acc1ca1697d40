//! Referrers that were found for one image, and checks over all of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::found_referrer::{DANGLING, MAX_TOGETHER, too_large_together};
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::manifest::RawManifest;
use crate::image::tree::{Attachment, LeftOut, MAX_TOTAL, Variant};

/// Maximum number of left-out referrers that are named for one image.
const MAX_LEFT_OUT: usize = 1000;

/// Referrers found for one image.
#[derive(Debug, Default)]
pub(super) struct DiscoveredReferrers {
    pub(super) attachments: Vec<Attachment>,
    /// Attachments whose type was chosen, in the order of `attachments`.
    pub(super) chosen: Vec<bool>,
    pub(super) left_out: Vec<LeftOut>,
    /// Whether a referrer that was to be carried is left out.
    pub(super) is_loss: bool,
    /// Descriptions of referrers that are missing or lost, and of which no digest is known.
    pub(super) missing: Vec<String>,
    /// Number of referrers left out since the image has too many, and number of those in chains that are too long.
    pub(super) beyond: [usize; 2],
    /// Total size of the manifests of attachments.
    size: u64,
    /// Referrers that are left out beyond those in `left_out`.
    pub(super) unnamed: HashSet<Digest>,
    /// Number of entries of lists of referrers, and of manifests below referrers, that were read.
    pub(super) read: usize,
    /// Digests of the manifests that were already handled.
    pub(super) seen: HashSet<Digest>,
    /// Size of each blob, as the manifests state it.
    sizes: HashMap<Digest, u64>,
    /// Manifests of referrers whose own referrers are searched next.
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

    /// Checks that the manifests of all attachments together are not too large with those of a referrer, and counts them.
    pub(super) fn check_total(&mut self, variant: &Variant) -> Result<()> {
        let size: u64 = variant.all().map(|manifest| manifest.descriptor().size).sum();
        match self.size + size > MAX_TOGETHER {
            true => Err(Error::new(Kind::Malformed, too_large_together())),
            false => {
                self.size += size;
                Ok(())
            }
        }
    }

    /// Adds the manifests of a referrer that are new to those whose own referrers are searched next: a referrer that is an index
    /// has manifests below it, which others may refer to.
    pub(super) fn search_below(&mut self, variant: &Variant) {
        self.read += variant.below.len();
        for manifest in variant.all() {
            if self.seen.insert(manifest.digest().clone()) {
                self.next.push(manifest.digest().clone());
            }
        }
    }

    /// Removes the attachments that were not chosen, unless a chosen attachment refers to them.
    pub(super) fn keep_chosen(&mut self) {
        let mut needed: HashSet<Digest> = HashSet::new();
        let all = std::mem::take(&mut self.attachments).into_iter();
        // A subject comes before its referrers, so the search goes backwards.
        for (attachment, is_chosen) in all.zip(std::mem::take(&mut self.chosen)).rev() {
            let is_needed = attachment.variant.all().any(|it| needed.contains(it.digest()));
            if is_chosen || is_needed {
                needed.insert(attachment.subject.clone());
                self.attachments.push(attachment);
            }
        }
        self.attachments.reverse();
    }

    /// Records referrers that are missing or lost, and of which no digest is known.
    pub(super) fn note_missing(&mut self, what: &str) {
        if self.missing.len() < MAX_LEFT_OUT && !self.missing.iter().any(|known| known == what) {
            self.missing.push(what.to_owned());
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
        let is_cut = self.beyond != [0, 0] || self.is_loss;
        let lost = self.left_out.iter().find(|left| is_cut || left.reason == DANGLING);
        let what = match (lost, self.missing.first()) {
            (Some(lost), _) => format!(
                "{}, which refers to it, cannot be carried: {}",
                lost.digest, lost.reason
            ),
            (None, Some(missing)) => format!("what refers to it cannot be carried whole: {missing}"),
            (None, None) if self.attachments.is_empty() => {
                "it has no signature or other referrer of the requested types".to_owned()
            }
            (None, None) => return Ok(self),
        };
        Err(Error::new(Kind::NotFound, what).with_hint("omit `--referrers require` to carry it without"))
    }

    /// Records the size of each blob, as the manifests state it.
    pub(super) fn note_sizes<'a>(&mut self, manifests: impl Iterator<Item = &'a Arc<RawManifest>>) {
        let blobs = manifests.flat_map(|manifest| manifest.blobs());
        self.sizes.extend(blobs.map(|blob| (blob.digest.clone(), blob.size)));
    }
}
