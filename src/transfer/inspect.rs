//! Inspection: reads what bundles contain from their manifests and configs, without reading layers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::attach::Attacher;
use super::import::{Selection, chosen, named};
use crate::bundle::read::{Bundle, BundledImage};
use crate::error::{Kind, Result};
use crate::image::digest::Digest;
use crate::image::manifest::{RawManifest, View};
use crate::image::narrow::narrow;
use crate::image::platform::PlatformFilter;
use crate::image::tree::{ImageTree, LeftOut, Variant, attachments_of_manifests};
use crate::inventory::details::Details;
use crate::inventory::images::{Absent, Content, Inventory, InventoryImage, Part, Piece, Sums, Unusable};
use crate::inventory::locked_referrer::LockedReferrer;

/// Estimated memory of one piece in an inventory and in the table of shared pieces, in bytes.
const PIECE: u64 = 4 * size_of::<Piece>() as u64;

/// Reads the images of a bundle and the manifests and blobs that they consist of.
/// No layer is read. `details` requests the texts of the configs: labels, history, time of creation.
///
/// A broken image is [listed](Inventory::broken) with the reason. If the selection has platforms, an image with none of
/// these platforms is omitted.
///
/// # Errors
/// [`Kind::NotFound`] if a pattern matches no image or no image has one of the platforms, and [`Kind::Usage`] for an invalid pattern.
pub fn inspect(bundle: &Bundle, select: &Selection, details: bool) -> Result<Inventory> {
    let is_empty = bundle.images().is_empty() && bundle.broken().is_empty();
    let all = if is_empty {
        Vec::new()
    } else {
        chosen(bundle, &select.only)?
    };
    let (images, broken) = all.split_at(bundle.images().len());
    let mut inventory = Inventory {
        warnings: bundle.warnings().clone(),
        is_supplement: bundle.is_supplement(),
        docker_manifest: bundle.has_docker_manifest(),
        ..Inventory::default()
    };
    let mut reader = Reader {
        bundle,
        select,
        details,
        attacher: Attacher::new(bundle, &select.referrers),
        media_types: HashSet::new(),
    };
    // Images that differ only in their names are read once.
    let (mut known, mut without) = (HashMap::new(), None);
    let chosen = bundle.images().iter().enumerate().filter(|(place, _)| images[*place]);
    // An image with a cosign tag is listed as an image of its own only if no other image claims it as an attachment. So
    // images with a cosign tag come last.
    let (first, beside): (Vec<_>, Vec<_>) = chosen.partition(|(_, image)| image.attached_to.is_none());
    for (place, image) in first.into_iter().chain(beside) {
        if !reader.attacher.is_separate(place, image, select.platforms.as_ref()) {
            continue;
        }
        let repository = reader.attacher.depends_on_repository().then(|| image.name.name());
        let key = (image.content(), repository);
        let read = known.entry(key).or_insert_with(|| reader.read(image));
        match read {
            Ok((tree, content)) => inventory.images.push(InventoryImage {
                reference: image.name.to_string(),
                archive: reader.interned(&image.archive),
                index: named(tree, image).choice,
                belongs_to: image.attached_to.as_ref().map(ToString::to_string),
                content: content.clone(),
            }),
            Err(error) if select.platforms.is_some() && error.kind() == Kind::NotFound => {
                without.get_or_insert_with(|| error.clone().for_image(image.name.to_string()));
            }
            Err(error) => inventory.broken.push(Unusable {
                label: image.name.to_string(),
                error: Arc::new(error.clone()),
            }),
        }
    }
    if let Some(error) = without.filter(|_| inventory.images.is_empty()) {
        return Err(error);
    }
    for (image, _) in bundle.broken().iter().zip(broken).filter(|(_, chosen)| **chosen) {
        inventory.broken.push(Unusable {
            label: image.label.clone(),
            error: image.error.clone(),
        });
    }
    inventory
        .broken
        .extend(bundle.broken_archives().iter().map(|archive| Unusable {
            label: archive.label.clone(),
            error: archive.error.clone(),
        }));
    inventory.missing = bundle
        .missing()
        .iter()
        .map(|missing| Absent {
            reference: missing.reference.clone(),
            reason: missing.reason.clone(),
        })
        .collect();
    if select.only.is_empty() && select.platforms.is_none() {
        inventory.unreferenced = unreferenced(bundle, &inventory);
    }
    Ok(inventory)
}

/// Returns the blobs that no listed image refers to.
/// Blobs of broken images and of referrers that are not carried are included.
fn unreferenced(bundle: &Bundle, inventory: &Inventory) -> Vec<Piece> {
    let contents = inventory.images.iter().map(|image| &image.content);
    let mut seen = HashSet::new();
    let named: HashSet<&Digest> = contents
        .filter(|content| seen.insert(Arc::as_ptr(content)))
        .flat_map(|content| content.pieces())
        .map(|piece| &piece.digest)
        .collect();
    let unknown: Arc<str> = "".into();
    bundle
        .stored()
        .filter(|(digest, _)| !named.contains(digest))
        .map(|(digest, size)| Piece {
            digest: digest.clone(),
            size,
            media_type: unknown.clone(),
        })
        .collect()
}

/// Leaves only these platforms of an image to list. Its digests, and the platforms that the bundle omits, stay those of the
/// bundle.
fn with_platforms(tree: ImageTree, filter: &PlatformFilter) -> Result<ImageTree> {
    let chosen = narrow(tree.clone(), filter)?;
    let listed: HashSet<&Digest> = chosen.original.below.iter().map(|manifest| manifest.digest()).collect();
    let is_listed =
        |manifest: &&Arc<RawManifest>| matches!(manifest.view(), View::Index(_)) || listed.contains(manifest.digest());
    let list = |variant: Variant| Variant {
        below: variant.below.iter().filter(is_listed).cloned().collect(),
        ..variant
    };
    Ok(ImageTree {
        original: list(tree.original),
        filtered: tree.filtered.map(list),
        kept: chosen.kept.clone(),
        ..tree
    })
}

/// Reads the images of one bundle into an inventory.
struct Reader<'a> {
    bundle: &'a Bundle,
    select: &'a Selection,
    details: bool,
    attacher: Attacher<'a>,
    media_types: HashSet<Arc<str>>,
}

impl Reader<'_> {
    /// Returns a shared copy of a text that many pieces have, such as a media type.
    fn interned(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.media_types.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.media_types.insert(new.clone());
        new
    }

    /// Reads the tree of an image, with the selected platforms and attachments.
    fn read(&mut self, image: &BundledImage) -> Result<(ImageTree, Arc<Content>)> {
        let mut tree = self.bundle.tree_of(image)?;
        // An attached image (a signature, for example) has no platform to select.
        if let (Some(filter), None) = (&self.select.platforms, &image.attached_to) {
            tree = with_platforms(tree, filter)?;
        }
        if image.attached_to.is_none() {
            self.attacher.attach(&mut tree, image)?;
        }
        let content = Arc::new(self.content(&tree, image)?);
        tree.configs.clear();
        Ok((tree, content))
    }

    /// Lists the manifests, blobs and parts of a tree, and counts their memory against the budget.
    fn content(&mut self, tree: &ImageTree, image: &BundledImage) -> Result<Content> {
        let manifests = tree.manifests();
        let blobs = tree.blobs();
        let pieces = (manifests.len() + blobs.len() + tree.attachments.len()) as u64;
        let held = self.bundle.budget().hold(pieces * PIECE + tree.uncounted_memory())?;
        self.bundle.budget().leave_room(pieces * PIECE + tree.memory())?;
        held.keep();
        let places: HashMap<&Digest, usize> = blobs
            .iter()
            .enumerate()
            .map(|(place, blob)| (&blob.descriptor.digest, place))
            .collect();
        let mut kept: HashMap<&Digest, usize> = HashMap::new();
        for (place, platform) in tree.kept.iter().enumerate() {
            kept.entry(&platform.digest).or_insert(place);
        }
        let own: HashSet<&Digest> = tree.own_manifests().map(|manifest| manifest.digest()).collect();
        let mut parts = Vec::new();
        for (place, manifest) in manifests.iter().enumerate() {
            let (config, layers) = match manifest.view() {
                View::Index(_) => continue,
                View::Image(image) => (Some(&image.config), image.layers.as_slice()),
                View::Other { blobs } => (None, blobs.as_slice()),
            };
            let layers = layers.iter().filter_map(|layer| places.get(&layer.digest).copied());
            let details = config.and_then(|config| tree.configs.get(&config.digest));
            parts.push(Part {
                manifest: place,
                config: config.and_then(|config| places.get(&config.digest).copied()),
                layers: layers.collect(),
                platform: kept.get(manifest.digest()).copied(),
                is_referrer: !own.contains(manifest.digest()),
                details: match details.filter(|_| self.details).and_then(|bytes| Details::parse(bytes)) {
                    Some(details) => {
                        self.bundle.budget().take(details.memory())?;
                        Some(Arc::new(details))
                    }
                    None => None,
                },
            });
            let numbers = parts.last().map_or(0, |part| part.layers.len() + 1) as u64;
            self.bundle.budget().take(numbers * size_of::<usize>() as u64)?;
        }
        let manifests = manifests.iter().map(|manifest| manifest.descriptor());
        let manifests = manifests.map(|descriptor| Piece {
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            media_type: self.interned(&descriptor.media_type),
        });
        let manifests = manifests.collect();
        let blobs = blobs.iter().map(|blob| Piece {
            digest: blob.descriptor.digest.clone(),
            size: blob.descriptor.size,
            media_type: self.interned(&blob.descriptor.media_type),
        });
        let blobs = blobs.collect();
        let of_pushed = attachments_of_manifests(&tree.attachments, tree.pushed().all());
        let of_pushed: HashSet<&Digest> = of_pushed.iter().map(|it| it.variant.root.digest()).collect();
        let original = tree.original.root.digest();
        // A referrer that is attached in two ways is listed once.
        let mut seen = HashSet::new();
        let new = tree.attachments.iter();
        let new = new.filter(|attachment| seen.insert(attachment.variant.root.digest()));
        let referrers = new.map(|attachment| LeftOut {
            digest: attachment.variant.root.digest().clone(),
            media_type: attachment.artifact_type(),
            reason: match of_pushed.contains(attachment.variant.root.digest()) {
                true => format!("it refers to {}", attachment.subject),
                false => format!(
                    "{}, which is not pushed under the image's name",
                    attachment.describe_unfiltered(original)
                ),
            },
        });
        let recorded = image.record.iter().flat_map(|record| &record.left_out_referrers);
        let left_out_referrers = recorded.chain(tree.left_out_referrers.iter()).cloned();
        Ok(Content {
            original: tree.original.root.digest().clone(),
            filtered: tree.filtered.as_ref().map(|filtered| filtered.root.digest().clone()),
            rebuilt: image.rebuilt,
            kept: tree.kept.clone(),
            dropped: tree.dropped.clone(),
            left_out: tree.left_out.clone(),
            referrers: referrers.collect(),
            attached: LockedReferrer::from_tree(tree),
            left_out_referrers: left_out_referrers.collect(),
            manifests,
            blobs,
            parts,
            sums: Sums::default(),
        })
    }
}
