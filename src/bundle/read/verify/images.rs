//! Checks for each image that all its manifests and blobs are present and right.

use std::collections::{HashMap, HashSet};

use super::faults::Faults;
use super::hash::Hashed;
use super::result::{Fault, FaultKind};
use crate::bundle::read::{Bundle, BundledImage};
use crate::error::Kind;
use crate::image::digest::Digest;
use crate::image::manifest::{RawManifest, View};
use crate::image::media_type;
use crate::image::reference::Reference;
use crate::image::tree::{ImageTree, MAX_NODES};
use crate::text::counted;

/// A layer with the content that a config promises for the layer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LayerContent {
    pub(super) layer: Digest,
    pub(super) diff_id: Digest,
}

/// The origin of a promise about a layer's content.
#[derive(Debug, Default)]
pub(super) struct ExpectedContent {
    /// The first config with this promise.
    pub(super) config: Option<Digest>,
    /// An image for each manifest that lists the layer.
    pub(super) images: Vec<String>,
}

/// All promises about the content of layers.
pub(super) type Contents = HashMap<LayerContent, ExpectedContent>;

/// Memory in bytes of a promise.
const PROMISE: u64 = 512;

/// Checks every image;
/// returns the promised content of its layers, each pair once with the images that share it.
pub(super) fn check(bundle: &Bundle, hashed: &Hashed, deep: bool, faults: &mut Faults) -> Contents {
    let is_wrong = |digest: &Digest| !hashed.wrong.sound_elsewhere.contains(digest);
    let wrong = hashed.wrong.kinds.iter().filter(|(digest, _)| is_wrong(digest));
    let mut check = Check {
        bundle,
        deep,
        wrong: wrong.map(|(digest, kind)| (digest.clone(), *kind)).collect(),
        arrived: &hashed.arrived,
        faults,
        content: HashMap::new(),
    };
    // Images that differ only in their names are checked once.
    let mut groups: HashMap<_, usize> = HashMap::new();
    let mut images: Vec<(&BundledImage, Vec<String>)> = Vec::new();
    for image in &bundle.parts.images {
        let place = *groups.entry(image.content()).or_insert_with(|| {
            images.push((image, Vec::new()));
            images.len() - 1
        });
        images[place].1.push(image.name.to_string());
    }
    for (image, names) in images {
        match bundle.tree_of(image) {
            Ok(tree) => check.tree(&tree, &image.name, &names),
            Err(error) => {
                if !check.survey(image, &names) {
                    check.faults.add(Fault {
                        images: names.iter().take(1).map(|name| name.as_str().into()).collect(),
                        more_images: names.len() as u64 - 1,
                        file: Some(image.archive.as_str().into()),
                        ..Fault::from_error(FaultKind::Image, &error)
                    });
                }
            }
        }
    }
    // Referrers that are listed on their own.
    for referrer in &bundle.parts.referrers {
        if let Err(error) = bundle.referrer_tree(referrer) {
            check.faults.add(Fault {
                file: Some(referrer.archive.as_str().into()),
                digest: Some(referrer.root.digest.clone()),
                ..Fault::from_error(FaultKind::Image, &error)
            });
        }
    }
    check.content
}

struct Check<'a> {
    bundle: &'a Bundle,
    deep: bool,
    /// Blobs whose bytes are wrong at every place.
    wrong: HashMap<Digest, FaultKind>,
    arrived: &'a HashMap<Digest, u64>,
    faults: &'a mut Faults,
    content: Contents,
}

impl Check<'_> {
    /// Returns the size of a blob, if the bundle or the pipe has the blob.
    fn size_of(&self, digest: &Digest) -> Option<u64> {
        self.bundle
            .size_of(digest)
            .or_else(|| self.arrived.get(digest).copied())
    }

    /// Checks an image whose documents are all readable.
    fn tree(&mut self, tree: &ImageTree, name: &Reference, names: &[String]) {
        for manifest in tree.manifests() {
            // The manifest was read, or was made from a manifest that was read.
            if self.wrong.contains_key(manifest.digest()) {
                self.blob(manifest.digest(), Some(manifest.descriptor().size), name, names);
            }
            self.config(manifest, names);
        }
        for blob in tree.blobs() {
            self.blob(&blob.descriptor.digest, Some(blob.descriptor.size), name, names);
        }
    }

    /// Checks that a blob is present and right; returns the result.
    fn blob(&mut self, digest: &Digest, size: Option<u64>, name: &Reference, names: &[String]) -> bool {
        let kind = match (self.wrong.get(digest), self.size_of(digest)) {
            (Some(kind), _) => *kind,
            (None, Some(actual)) => match size.filter(|size| *size != actual) {
                None => return true,
                Some(stated) => {
                    let place = self.bundle.describe(digest);
                    let what = format!("blob {digest} has {actual} bytes, where {stated} are stated: {place}");
                    self.faults.about(digest, Fault::new(FaultKind::Size, what));
                    FaultKind::Size
                }
            },
            (None, None) => {
                let what = match self.bundle.parts.store.refusal(digest) {
                    Some(why) => format!("blob {digest} cannot be read: {why}"),
                    None => format!("blob {digest} is missing"),
                };
                self.faults.about(digest, Fault::new(FaultKind::Missing, what));
                FaultKind::Missing
            }
        };
        self.faults.suffer(kind, digest, names);
        self.faults.want(digest, size, name);
        false
    }

    /// Checks everything that an image references, as far as its documents are readable. Returns
    /// whether a fault was found that makes the image unusable.
    fn survey(&mut self, image: &BundledImage, names: &[String]) -> bool {
        let bundle = self.bundle;
        let record = image.record.as_deref();
        let dropped = record.iter().flat_map(|record| &record.dropped);
        let dropped: HashSet<&Digest> = dropped.map(|dropped| &dropped.digest).collect();
        let left_out = record.iter().flat_map(|record| &record.left_out);
        let left_out: HashSet<&Digest> = left_out.map(|left| &left.digest).collect();
        let media_type = &image.root.media_type;
        let mut open = vec![(image.root.digest.clone(), Some(image.root.size), media_type.clone())];
        let both = record
            .into_iter()
            .flat_map(|record| std::iter::once(&record.original).chain(&record.filtered));
        open.extend(both.map(|digest| (digest.clone(), None, media_type.clone())));
        let (mut seen, mut explained) = (HashSet::new(), false);
        while let Some((digest, size, media_type)) = open.pop() {
            if !seen.insert(digest.clone()) || seen.len() > MAX_NODES {
                continue;
            }
            if !self.blob(&digest, size, &image.name, names) {
                explained = true;
                continue;
            }
            let manifest = match bundle.parts.store.manifest(&digest, &media_type) {
                Ok(manifest) => manifest,
                Err(error) if error.kind() == Kind::TooLarge => return false,
                Err(error) => {
                    let place = bundle.describe(&digest);
                    let error = error.context(place);
                    self.faults
                        .about(&digest, Fault::from_error(FaultKind::Manifest, &error));
                    self.faults.suffer(FaultKind::Manifest, &digest, names);
                    explained = true;
                    continue;
                }
            };
            if let View::Index(index) = manifest.view() {
                for entry in &index.entries {
                    let child = &entry.descriptor;
                    let is_absent = self.size_of(&child.digest).is_none();
                    // Absent platforms are no fault if the record lists them as dropped, or the image may be sparse.
                    if is_absent && (dropped.contains(&child.digest) || image.may_be_sparse) {
                        continue;
                    }
                    open.push((child.digest.clone(), Some(child.size), child.media_type.clone()));
                }
            }
            for blob in manifest.blobs() {
                let is_absent = self.size_of(&blob.digest).is_none();
                if is_absent && (blob.is_nondistributable() || left_out.contains(&blob.digest)) {
                    continue;
                }
                explained |= !self.blob(&blob.digest, Some(blob.size), &image.name, names);
            }
        }
        explained
    }

    /// Compares the config of an image with its manifest.
    fn config(&mut self, manifest: &RawManifest, names: &[String]) {
        let View::Image(image) = manifest.view() else { return };
        let digest = &image.config.digest;
        if !media_type::is_image_config(&image.config.media_type)
            || self.wrong.contains_key(digest)
            || self.bundle.size_of(digest) != Some(image.config.size)
        {
            return;
        }
        let known = match self.bundle.parts.store.config(digest) {
            Ok(known) => known,
            Err(error) => {
                let error = error.context(self.bundle.describe(digest));
                self.faults.about(digest, Fault::from_error(FaultKind::Config, &error));
                self.faults.suffer(FaultKind::Config, digest, names);
                return;
            }
        };
        let diff_ids = &known.config.diff_ids;
        if diff_ids.len() != image.layers.len() {
            // Programs that store other artifacts than images in registries use the media type of an image config for
            // `{}`.
            if diff_ids.is_empty() && known.config.platform.os.is_empty() {
                return;
            }
            let what = format!(
                "manifest {} lists {}, and its config {digest} describes {}",
                manifest.digest(),
                counted(image.layers.len() as u64, "layer", "layers"),
                diff_ids.len()
            );
            self.faults
                .about(manifest.digest(), Fault::new(FaultKind::LayerCount, what));
            self.faults.suffer(FaultKind::LayerCount, manifest.digest(), names);
            return;
        }
        if !self.deep {
            return;
        }
        for (layer, diff_id) in image.layers.iter().zip(diff_ids) {
            if self.wrong.contains_key(&layer.digest) || self.bundle.size_of(&layer.digest) != Some(layer.size) {
                continue;
            }
            let content = LayerContent {
                layer: layer.digest.clone(),
                diff_id: diff_id.clone(),
            };
            if !self.content.contains_key(&content)
                && let Err(error) = self.bundle.budget().take(PROMISE)
            {
                self.faults
                    .about(digest, Fault::from_error(FaultKind::LayerContent, &error));
                return;
            }
            let promise = self.content.entry(content).or_default();
            promise.config.get_or_insert_with(|| digest.clone());
            promise.images.extend(names.iter().take(1).cloned());
        }
    }
}
