//! Sizes of a whole inventory: which blobs images share, and how much room storing each blob once saves.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;

use super::images::{Content, Inventory, InventoryImage};
use crate::image::digest::Digest;
use crate::image::tree::ATTESTATION;

/// Totals of an inventory, in bytes and in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Number of images, counted under each of their names.
    pub images: usize,
    /// Number of platforms of all different images, without attestations.
    pub platforms: usize,
    /// Number of different manifests and indexes.
    pub manifests: usize,
    /// Number of different blobs.
    pub blobs: usize,
    /// Total size in bytes of all different manifests and blobs that images reference.
    pub bytes: u64,
    /// Total size in bytes of the images if no image shared blobs with another.
    pub separate_bytes: u64,
    /// Number of bytes saved by storing each blob once.
    pub saved_bytes: u64,
    /// Number of blobs that no image references.
    pub unreferenced_blobs: usize,
    /// Total size in bytes of the blobs that no image references.
    pub unreferenced_bytes: u64,
}

/// Statistics of the blobs that several images share.
#[derive(Debug, Clone, Default)]
pub struct Sharing {
    /// Number of different images that reference a blob.
    users: HashMap<Digest, usize>,
    /// Shared bytes of each content, by the address of the content,
    /// which may have thousands of names.
    shared: HashMap<usize, u64>,
    totals: Totals,
}

impl Sharing {
    /// Counts the references to each manifest and blob.
    pub fn new(inventory: &Inventory) -> Self {
        let mut sharing = Self::default();
        let totals = &mut sharing.totals;
        totals.images = inventory.images.len();
        let (mut seen, mut manifests) = (HashSet::new(), HashSet::new());
        for image in &inventory.images {
            totals.separate_bytes = totals.separate_bytes.saturating_add(image.content.bytes());
            // A content with several names counts once: its names do not share blobs with each other.
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
            // Computed in a second pass, once the references of all images are counted.
            let key = Arc::as_ptr(&image.content) as usize;
            if !sharing.shared.contains_key(&key) {
                sharing.shared.insert(key, sharing.count_shared(&image.content));
            }
        }
        sharing
    }

    /// Returns the totals.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Returns the bytes of an image that other images have as well;
    /// the same image under another name does not count.
    pub fn shared_bytes(&self, image: &InventoryImage) -> u64 {
        let known = self.shared.get(&(Arc::as_ptr(&image.content) as usize));
        known.copied().unwrap_or_else(|| self.count_shared(&image.content))
    }

    fn count_shared(&self, content: &Content) -> u64 {
        let shared = content.pieces().filter(|piece| self.is_shared(&piece.digest));
        shared.fold(0, |sum, piece| sum.saturating_add(piece.size))
    }

    /// Returns whether several different images reference a blob.
    pub fn is_shared(&self, digest: &Digest) -> bool {
        self.users.get(digest).is_some_and(|users| *users > 1)
    }
}
