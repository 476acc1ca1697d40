//! What two bundles differ in: images, platforms, and the bytes that came and went.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::images::{Inventory, InventoryImage, Piece};
use crate::image::digest::Digest;
use crate::image::reference::Reference;

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
    pub platforms: Vec<String>,
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
    pub platforms_added: Vec<String>,
    /// Platforms that went.
    pub platforms_removed: Vec<String>,
    /// Platforms whose manifest is another one.
    pub platforms_changed: Vec<String>,
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
    fn of<'a>(pieces: impl Iterator<Item = &'a Piece>) -> Self {
        pieces.fold(Self::default(), |sum, piece| Self {
            pieces: sum.pieces + 1,
            bytes: sum.bytes.saturating_add(piece.size),
        })
    }
}

impl Difference {
    /// Compares two inventories. Images are the same if they have the same digest under the same name, and the same platforms.
    pub fn new(old: &Inventory, new: &Inventory) -> Self {
        let (old_images, new_images) = (by_name(old), by_name(new));
        let mut difference = Self::default();
        for (name, image) in &new_images {
            match old_images.get(name) {
                None => difference.added.push(state(name, image)),
                Some(before) => match changed(name, before, image) {
                    Some(change) => difference.changed.push(change),
                    None => difference.unchanged += 1,
                },
            }
        }
        let removed = old_images.iter().filter(|(name, _)| !new_images.contains_key(*name));
        difference.removed = removed.map(|(name, image)| state(name, image)).collect();
        let (old, new) = (pieces(old.images.iter()), pieces(new.images.iter()));
        difference.came = Amount::of(only_in(&new, &old));
        difference.went = Amount::of(only_in(&old, &new));
        difference.stayed = Amount::of(new.values().copied().filter(|piece| old.contains_key(&piece.digest)));
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

fn pieces<'a>(images: impl Iterator<Item = &'a InventoryImage>) -> HashMap<&'a Digest, &'a Piece> {
    let mut seen = std::collections::HashSet::new();
    images
        .filter(|image| seen.insert(std::sync::Arc::as_ptr(&image.content)))
        .flat_map(|image| image.content.pieces())
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
fn platforms(image: &InventoryImage) -> BTreeMap<&str, BTreeSet<&Digest>> {
    let mut platforms: BTreeMap<&str, BTreeSet<&Digest>> = BTreeMap::new();
    for kept in image.content.kept.iter() {
        platforms.entry(&kept.platform).or_default().insert(&kept.digest);
    }
    platforms
}

fn state(name: &str, image: &InventoryImage) -> ImageState {
    ImageState {
        reference: name.to_owned(),
        digest: image.digest().clone(),
        platforms: platforms(image).into_keys().map(str::to_owned).collect(),
        bytes: image.content.bytes(),
    }
}

/// What changed of an image; `None` if nothing did.
fn changed(name: &str, old: &InventoryImage, new: &InventoryImage) -> Option<ChangedImage> {
    let (before, now) = (platforms(old), platforms(new));
    let moved = old.digest() != new.digest();
    if !moved && before == now {
        return None;
    }
    let only = |these: &BTreeMap<&str, BTreeSet<&Digest>>, others: &BTreeMap<&str, BTreeSet<&Digest>>| {
        let names = these.keys().filter(|name| !others.contains_key(*name));
        names.map(|name| (*name).to_owned()).collect()
    };
    let differs =
        |(name, digests): &(&&str, &BTreeSet<&Digest>)| before.get(*name).is_some_and(|before| before != *digests);
    let (old_pieces, new_pieces) = (pieces([old].into_iter()), pieces([new].into_iter()));
    Some(ChangedImage {
        reference: name.to_owned(),
        old_digest: old.digest().clone(),
        new_digest: new.digest().clone(),
        moved,
        platforms_added: only(&now, &before),
        platforms_removed: only(&before, &now),
        platforms_changed: now.iter().filter(differs).map(|(name, _)| (*name).to_owned()).collect(),
        came: Amount::of(only_in(&new_pieces, &old_pieces)),
        went: Amount::of(only_in(&old_pieces, &new_pieces)),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::images::Content;
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
        assert_eq!(change.platforms_added, ["linux/s390x"]);
        assert_eq!(change.platforms_removed, ["linux/arm64"]);
        assert_eq!(change.platforms_changed, ["linux/amd64"]);
        assert_eq!(change.came, Amount { pieces: 2, bytes: 9 });
        assert_eq!(change.went, Amount { pieces: 2, bytes: 7 });
        assert_eq!(found.came, Amount { pieces: 3, bytes: 10 });
        assert_eq!(found.stayed, Amount { pieces: 2, bytes: 5 });
        assert!(Difference::new(&old, &old).is_empty() && !found.is_empty());
    }
}
