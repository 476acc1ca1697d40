//! The difference between two bundles: images, platforms, and the bytes added and removed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;

use super::images::{Content, Inventory, InventoryImage, Piece};
use super::referrer_difference::{ChangedReferrer, ReferrerDifference, ReferrerState};
use crate::image::digest::Digest;
use crate::image::reference::Reference;

/// Maximum number of platforms in each list of an image. Common indexes have fewer than thirty.
const MAX_PLATFORMS: usize = 100;

/// Names of the first [`MAX_PLATFORMS`] platforms. Images with the same content share one list.
type Platforms = Arc<[String]>;

/// The difference between an old and a new inventory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// Images that only the new inventory has.
    pub added: Vec<ImageState>,
    /// Images that only the old inventory has.
    pub removed: Vec<ImageState>,
    /// Images that both inventories have, with different content.
    pub changed: Vec<ChangedImage>,
    /// Number of images that are equal in both inventories.
    pub unchanged: usize,
    /// Manifests and blobs that only the new inventory has.
    pub came: Amount,
    /// Manifests and blobs that only the old inventory has.
    pub went: Amount,
    /// Manifests and blobs that both inventories have.
    pub stayed: Amount,
}

/// An image that only one of the inventories has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageState {
    /// Reference of the image.
    pub reference: String,
    /// Digest published under the name.
    pub digest: Digest,
    /// Platforms of the image.
    pub platforms: Platforms,
    /// Total size of the image's manifests and blobs in bytes.
    pub bytes: u64,
}

/// An image that differs between the inventories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangedImage {
    /// Reference of the image.
    pub reference: String,
    /// Digest under the name in the old inventory.
    pub old_digest: Digest,
    /// Digest under the name in the new inventory; different if the tag has moved.
    pub new_digest: Digest,
    /// Whether the two digests differ.
    pub moved: bool,
    /// Platforms that only the new image has.
    pub platforms_added: Platforms,
    /// Platforms that only the old image has.
    pub platforms_removed: Platforms,
    /// Platforms whose manifests differ.
    pub platforms_changed: Platforms,
    /// Referrers that only the new image has: signatures, attestations, SBOMs.
    pub referrers_added: Arc<[ReferrerState]>,
    /// Referrers that only the old image has.
    pub referrers_removed: Arc<[ReferrerState]>,
    /// Referrers that were replaced by another referrer of the same type and subject.
    pub referrers_changed: Arc<[ChangedReferrer]>,
    /// Manifests and blobs that only the new image has.
    pub came: Amount,
    /// Manifests and blobs that only the old image has.
    pub went: Amount,
}

/// A number of manifests and blobs, with their size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Number of manifests and blobs.
    pub pieces: usize,
    /// Total size in bytes.
    pub bytes: u64,
}

impl Amount {
    fn from_pieces<'a>(pieces: impl Iterator<Item = &'a Piece>) -> Self {
        pieces.fold(Self::default(), |sum, piece| Self {
            pieces: sum.pieces + 1,
            bytes: sum.bytes.saturating_add(piece.size),
        })
    }
}

impl Difference {
    /// Compares two inventories.
    ///
    /// Images are equal if they have the same digest under the same name, the same platforms and the same referrers.
    /// An image that is broken in one of the inventories is not compared: it did not come or go.
    pub fn new(old: &Inventory, new: &Inventory) -> Self {
        let (old_broken, new_broken) = (broken(old), broken(new));
        let old: Vec<_> = comparable(old, &new_broken).collect();
        let new: Vec<_> = comparable(new, &old_broken).collect();
        let (old_images, new_images) = (by_name(&old), by_name(&new));
        let mut difference = Self::default();
        let mut memory = Memory::default();
        for (name, image) in &new_images {
            match old_images.get(name) {
                None => difference.added.push(memory.state(name, image)),
                Some(before) => match memory.changed(name, before, image) {
                    Some(change) => difference.changed.push(change),
                    None => difference.unchanged += 1,
                },
            }
        }
        let removed = old_images.iter().filter(|(name, _)| !new_images.contains_key(*name));
        difference.removed = removed.map(|(name, image)| memory.state(name, image)).collect();
        let (old, new) = (pieces(contents(&old)), pieces(contents(&new)));
        difference.came = Amount::from_pieces(only_in(&new, &old));
        difference.went = Amount::from_pieces(only_in(&old, &new));
        difference.stayed = Amount::from_pieces(new.values().copied().filter(|piece| old.contains_key(&piece.digest)));
        difference
    }

    /// Returns whether the inventories list the same images with the same content.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// Returns the names of the broken images of an inventory.
fn broken(inventory: &Inventory) -> HashSet<String> {
    inventory.broken.iter().map(|broken| name(&broken.label)).collect()
}

/// Returns the images of an inventory that are not broken in the other one.
fn comparable<'a>(inventory: &'a Inventory, broken: &HashSet<String>) -> impl Iterator<Item = &'a InventoryImage> {
    let images = inventory.images.iter();
    images.filter(|image| broken.is_empty() || !broken.contains(&name(&image.reference)))
}

fn by_name<'a>(images: &[&'a InventoryImage]) -> BTreeMap<String, &'a InventoryImage> {
    images.iter().map(|image| (name(&image.reference), *image)).collect()
}

/// Returns the part of the name that two versions of an image share:
/// with its tag, or with its digest if there is no tag.
fn name(reference: &str) -> String {
    match reference.parse::<Reference>() {
        Ok(parsed) => match parsed.tag() {
            Some(tag) => format!("{}:{tag}", parsed.name()),
            None => reference.to_owned(),
        },
        Err(_) => reference.to_owned(),
    }
}

fn contents<'a>(images: &[&'a InventoryImage]) -> impl Iterator<Item = &'a Content> {
    images.iter().map(|image| &*image.content)
}

fn pieces<'a>(contents: impl Iterator<Item = &'a Content>) -> HashMap<&'a Digest, &'a Piece> {
    // Many names share one content, which is visited once.
    let mut seen = HashSet::new();
    contents
        .filter(|content| seen.insert(std::ptr::from_ref(*content)))
        .flat_map(Content::pieces)
        .map(|piece| (&piece.digest, piece))
        .collect()
}

fn only_in<'a>(
    these: &HashMap<&'a Digest, &'a Piece>,
    others: &HashMap<&'a Digest, &'a Piece>,
) -> impl Iterator<Item = &'a Piece> {
    these
        .iter()
        .filter(|(digest, _)| !others.contains_key(*digest))
        .map(|(_, piece)| *piece)
}

/// Returns the digests of each platform:
/// an index may list several attestations under one platform.
fn platforms(content: &Content) -> BTreeMap<&str, BTreeSet<&Digest>> {
    let mut platforms: BTreeMap<&str, BTreeSet<&Digest>> = BTreeMap::new();
    for kept in content.kept.iter() {
        platforms.entry(&kept.platform).or_default().insert(&kept.digest);
    }
    platforms
}

/// Lists the first [`MAX_PLATFORMS`] platforms.
fn listed<'a>(platforms: impl Iterator<Item = &'a str>) -> Platforms {
    platforms.take(MAX_PLATFORMS).map(str::to_owned).collect()
}

/// Cached results by the addresses of contents: thousands of names may share one content.
#[derive(Default)]
struct Memory {
    states: HashMap<*const Content, Platforms>,
    changes: HashMap<(*const Content, *const Content), Arc<ContentChange>>,
}

/// The difference between two contents.
struct ContentChange {
    has_same_platforms: bool,
    referrers: ReferrerDifference,
    added: Platforms,
    removed: Platforms,
    changed: Platforms,
    came: Amount,
    went: Amount,
}

impl Memory {
    fn state(&mut self, name: &str, image: &InventoryImage) -> ImageState {
        let content = &image.content;
        let known = self.states.entry(Arc::as_ptr(content));
        let platforms = known.or_insert_with(|| listed(platforms(content).into_keys()));
        ImageState {
            reference: name.to_owned(),
            digest: image.digest().clone(),
            platforms: platforms.clone(),
            bytes: content.bytes(),
        }
    }

    /// Returns the change of an image; `None` if the image is unchanged.
    fn changed(&mut self, name: &str, old: &InventoryImage, new: &InventoryImage) -> Option<ChangedImage> {
        let key = (Arc::as_ptr(&old.content), Arc::as_ptr(&new.content));
        let known = self.changes.entry(key);
        let change = known.or_insert_with(|| Arc::new(ContentChange::new(&old.content, &new.content)));
        let moved = old.digest() != new.digest();
        (moved || !change.has_same_platforms || !change.referrers.is_empty()).then(|| ChangedImage {
            reference: name.to_owned(),
            old_digest: old.digest().clone(),
            new_digest: new.digest().clone(),
            moved,
            platforms_added: change.added.clone(),
            platforms_removed: change.removed.clone(),
            platforms_changed: change.changed.clone(),
            referrers_added: change.referrers.added.clone(),
            referrers_removed: change.referrers.removed.clone(),
            referrers_changed: change.referrers.changed.clone(),
            came: change.came,
            went: change.went,
        })
    }
}

impl ContentChange {
    fn new(old: &Content, new: &Content) -> Self {
        let (before, now) = (platforms(old), platforms(new));
        let only = |these: &BTreeMap<&str, BTreeSet<&Digest>>, others: &BTreeMap<&str, BTreeSet<&Digest>>| {
            listed(these.keys().copied().filter(|name| !others.contains_key(name)))
        };
        let differs =
            |(name, digests): &(&&str, &BTreeSet<&Digest>)| before.get(*name).is_some_and(|before| before != *digests);
        let is_same = before == now && old.original == new.original && old.filtered == new.filtered;
        let (old_pieces, new_pieces) = (pieces([old].into_iter()), pieces([new].into_iter()));
        Self {
            has_same_platforms: before == now,
            referrers: ReferrerDifference::new(old, new, is_same),
            added: only(&now, &before),
            removed: only(&before, &now),
            changed: listed(now.iter().filter(differs).map(|(name, _)| *name)),
            came: Amount::from_pieces(only_in(&new_pieces, &old_pieces)),
            went: Amount::from_pieces(only_in(&old_pieces, &new_pieces)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::images::Sums;
    use super::*;
    use crate::image::tree::{Choice, PlatformRecord};

    fn image(reference: &str, platforms: &[(&str, &str)], layers: &[&str]) -> InventoryImage {
        let digest = |text: &str| Digest::sha256(text.as_bytes());
        let piece = |text: &&str| Piece {
            digest: digest(text),
            size: text.len() as u64,
            media_type: "x".into(),
        };
        let kept: Vec<PlatformRecord> = platforms
            .iter()
            .map(|(platform, manifest)| PlatformRecord {
                platform: (*platform).to_owned(),
                digest: digest(manifest),
            })
            .collect();
        let root: String = platforms.iter().map(|(_, manifest)| *manifest).collect();
        InventoryImage {
            reference: reference.to_owned(),
            archive: "b.tar".into(),
            index: Choice::Whole,
            belongs_to: None,
            content: Arc::new(Content {
                original: digest(&root),
                filtered: None,
                rebuilt: false,
                kept: kept.into(),
                dropped: Arc::default(),
                left_out: Arc::default(),
                left_out_referrers: Arc::default(),
                referrers: Vec::new(),
                attached: Vec::new(),
                manifests: vec![piece(&root.as_str())],
                blobs: layers.iter().map(piece).collect(),
                parts: Vec::new(),
                sums: Sums::default(),
            }),
        }
    }

    #[test]
    fn images_platforms_and_bytes_are_compared() {
        let inventory = |images: Vec<InventoryImage>| Inventory {
            images,
            ..Inventory::default()
        };
        let old = inventory(vec![
            image("a.io/same:1", &[("linux/amd64", "s")], &["base"]),
            image("a.io/gone:1", &[("linux/amd64", "g")], &["base", "gone layer"]),
            image(
                "a.io/moved:1",
                &[("linux/amd64", "m1"), ("linux/arm64", "m2")],
                &["base", "old"],
            ),
        ]);
        let pinned = format!("a.io/moved:1@{}", Digest::sha256(b"x"));
        let new = inventory(vec![
            image("a.io/same:1", &[("linux/amd64", "s")], &["base"]),
            image(
                &pinned,
                &[("linux/amd64", "m3"), ("linux/s390x", "m4")],
                &["base", "newer"],
            ),
            image("a.io/came:1", &[("linux/amd64", "c")], &["base"]),
        ]);
        let found = Difference::new(&old, &new);
        let names = |states: &[ImageState]| states.iter().map(|state| state.reference.clone()).collect::<Vec<_>>();
        assert_eq!(
            (names(&found.added), names(&found.removed)),
            (vec!["a.io/came:1".to_owned()], vec!["a.io/gone:1".to_owned()])
        );
        assert_eq!(found.unchanged, 1);
        let [change] = found.changed.as_slice() else {
            panic!("{found:?}")
        };
        assert!(change.moved && change.reference == "a.io/moved:1");
        assert_eq!(*change.platforms_added, ["linux/s390x"]);
        assert_eq!(*change.platforms_removed, ["linux/arm64"]);
        assert_eq!(*change.platforms_changed, ["linux/amd64"]);
        assert_eq!(change.came, Amount { pieces: 2, bytes: 9 });
        assert_eq!(change.went, Amount { pieces: 2, bytes: 7 });
        assert_eq!(found.came, Amount { pieces: 3, bytes: 10 });
        assert_eq!(found.stayed, Amount { pieces: 2, bytes: 5 });
        assert!(Difference::new(&old, &old).is_empty() && !found.is_empty());
    }
}
