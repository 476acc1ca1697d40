//! Sizes of a whole inventory: what images share, and what is saved by storing each blob once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;

use super::images::{Content, Inventory, InventoryImage};
use crate::image::digest::Digest;
use crate::image::tree::ATTESTATION;

/// The sums of an inventory, in bytes and numbers of things.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Images under all their names.
    pub images: usize,
    /// Platforms of all different images; attestations are none.
    pub platforms: usize,
    /// Different manifests and indexes.
    pub manifests: usize,
    /// Different blobs.
    pub blobs: usize,
    /// Bytes of all different manifests and blobs that images name.
    pub bytes: u64,
    /// Bytes of the images as if none shared anything.
    pub separate_bytes: u64,
    /// What storing each blob once saves.
    pub saved_bytes: u64,
    /// Blobs that no image names.
    pub unreferenced_blobs: usize,
    /// Their bytes.
    pub unreferenced_bytes: u64,
}

/// Which blobs belong to several images.
#[derive(Debug, Clone, Default)]
pub struct Sharing {
    /// Number of different images that name a blob.
    users: HashMap<Digest, usize>,
    /// Shared bytes of each content, by its address: it may have thousands of names.
    shared: HashMap<usize, u64>,
    totals: Totals,
}

impl Sharing {
    /// Counts who names what.
    pub fn new(inventory: &Inventory) -> Self {
        let mut sharing = Self::default();
        let totals = &mut sharing.totals;
        totals.images = inventory.images.len();
        let (mut seen, mut manifests) = (HashSet::new(), HashSet::new());
        for image in &inventory.images {
            totals.separate_bytes = totals.separate_bytes.saturating_add(image.content.bytes());
            if !seen.insert(Arc::as_ptr(&image.content)) {
                continue;
            }
            let runs = |platform: &&str| **platform != *ATTESTATION;
            let kept = image.content.kept.iter().map(|kept| kept.platform.as_str());
            totals.platforms += kept.filter(runs).count();
            manifests.extend(image.content.manifests.iter().map(|manifest| &manifest.digest));
            for piece in image.content.pieces() {
                let users = sharing.users.entry(piece.digest.clone()).or_default();
                *users += 1;
                if *users == 1 {
                    totals.bytes = totals.bytes.saturating_add(piece.size);
                }
            }
        }
        totals.manifests = manifests.len();
        totals.blobs = sharing.users.len() - manifests.len();
        totals.saved_bytes = totals.separate_bytes.saturating_sub(totals.bytes);
        totals.unreferenced_blobs = inventory.unreferenced.len();
        let unreferenced = inventory.unreferenced.iter().map(|piece| piece.size);
        totals.unreferenced_bytes = unreferenced.fold(0, u64::saturating_add);
        for image in &inventory.images {
            let key = Arc::as_ptr(&image.content) as usize;
            if !sharing.shared.contains_key(&key) {
                sharing.shared.insert(key, sharing.count_shared(&image.content));
            }
        }
        sharing
    }

    /// The sums.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Bytes of an image that other images, which are not the same under another name, have as well.
    pub fn shared_bytes(&self, image: &InventoryImage) -> u64 {
        let known = self.shared.get(&(Arc::as_ptr(&image.content) as usize));
        known.copied().unwrap_or_else(|| self.count_shared(&image.content))
    }

    fn count_shared(&self, content: &Content) -> u64 {
        let shared = content.pieces().filter(|piece| self.is_shared(&piece.digest));
        shared.fold(0, |sum, piece| sum.saturating_add(piece.size))
    }

    /// Whether several different images name a blob.
    pub fn is_shared(&self, digest: &Digest) -> bool {
        self.users.get(digest).is_some_and(|users| *users > 1)
    }
}
