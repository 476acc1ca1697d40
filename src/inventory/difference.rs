//! What two bundles differ in: images, platforms, and the bytes that came and went.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::Serialize;

use super::images::{Content, Inventory, InventoryImage, Piece};
use super::referrer_difference::{ChangedReferrer, ReferrerDifference, ReferrerState};
use crate::image::digest::Digest;
use crate::image::reference::Reference;

/// Maximum number of platforms that an image is listed with in each list. Common indexes have fewer than thirty.
const MAX_PLATFORMS: usize = 100;

/// Names of platforms, which all images of the same content share; those beyond the first hundred are not listed.
type Platforms = Arc<[String]>;

/// The difference of two inventories.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// Images that only the new one has.
    pub added: Vec<ImageState>,
    /// Images that only the old one has.
    pub removed: Vec<ImageState>,
    /// Images that both have, and that are not the same.
    pub changed: Vec<ChangedImage>,
    /// How many images are the same.
    pub unchanged: usize,
    /// Manifests and blobs that only the new one has.
    pub came: Amount,
    /// Manifests and blobs that only the old one has.
    pub went: Amount,
    /// Manifests and blobs that both have.
    pub stayed: Amount,
}

/// An image of one side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageState {
    /// The reference.
    pub reference: String,
    /// The digest that goes under the name.
    pub digest: Digest,
    /// Its platforms.
    pub platforms: Platforms,
    /// The bytes of all that it is made of.
    pub bytes: u64,
}

/// An image of both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangedImage {
    /// The reference.
    pub reference: String,
    /// The digest that went under the name.
    pub old_digest: Digest,
    /// The digest that goes under it now; another one if the tag has moved.
    pub new_digest: Digest,
    /// Whether the digest is another one.
    pub moved: bool,
    /// Platforms that came.
    pub platforms_added: Platforms,
    /// Platforms that went.
    pub platforms_removed: Platforms,
    /// Platforms whose manifest is another one.
    pub platforms_changed: Platforms,
    /// What refers to the image and came: signatures, attestations, SBOMs.
    pub referrers_added: Arc<[ReferrerState]>,
    /// What referred to the image and went.
    pub referrers_removed: Arc<[ReferrerState]>,
    /// What refers to the image and was made anew.
    pub referrers_changed: Arc<[ChangedReferrer]>,
    /// Manifests and blobs of this image that came.
    pub came: Amount,
    /// Manifests and blobs of this image that went.
    pub went: Amount,
}

/// A number of manifests and blobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// How many.
    pub pieces: usize,
    /// Their bytes.
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
    /// Compares two inventories. Images are the same if they have the same digest under the same name, the same platforms, and the
    /// same manifests that refer to them.
    pub fn new(old: &Inventory, new: &Inventory) -> Self {
        let (old_images, new_images) = (by_name(old), by_name(new));
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
        let (old, new) = (pieces(contents(old)), pieces(contents(new)));
        difference.came = Amount::from_pieces(only_in(&new, &old));
        difference.went = Amount::from_pieces(only_in(&old, &new));
        difference.stayed = Amount::from_pieces(new.values().copied().filter(|piece| old.contains_key(&piece.digest)));
        difference
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

fn by_name(inventory: &Inventory) -> BTreeMap<String, &InventoryImage> {
    let images = inventory.images.iter();
    images.map(|image| (name(&image.reference), image)).collect()
}

/// What two versions of an image have in common: its name with the tag, or with the digest where it has no tag.
fn name(reference: &str) -> String {
    match reference.parse::<Reference>() {
        Ok(parsed) => match parsed.tag() {
            Some(tag) => format!("{}:{tag}", parsed.name()),
            None => reference.to_owned(),
        },
        Err(_) => reference.to_owned(),
    }
}

fn contents(inventory: &Inventory) -> impl Iterator<Item = &Content> {
    inventory.images.iter().map(|image| &*image.content)
}

fn pieces<'a>(contents: impl Iterator<Item = &'a Content>) -> HashMap<&'a Digest, &'a Piece> {
    let mut seen = std::collections::HashSet::new();
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

/// The digests of each platform: an index may list several attestations.
fn platforms(content: &Content) -> BTreeMap<&str, BTreeSet<&Digest>> {
    let mut platforms: BTreeMap<&str, BTreeSet<&Digest>> = BTreeMap::new();
    for kept in content.kept.iter() {
        platforms.entry(&kept.platform).or_default().insert(&kept.digest);
    }
    platforms
}

/// The first of some platforms.
fn listed<'a>(platforms: impl Iterator<Item = &'a str>) -> Platforms {
    platforms.take(MAX_PLATFORMS).map(str::to_owned).collect()
}

/// What was found out about contents, by their addresses: thousands of names may share one.
#[derive(Default)]
struct Memory {
    states: HashMap<*const Content, Platforms>,
    changes: HashMap<(*const Content, *const Content), Arc<ContentChange>>,
}

/// What two contents differ in.
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

    /// What changed of an image; `None` if nothing did.
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
