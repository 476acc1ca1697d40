//! Finds blobs whose size contradicts every descriptor that names them: their bytes need not be read.
//!
//! A file in a folder may be sparse and of any length, whatever the manifests state.

use std::collections::{HashMap, HashSet};

use crate::bundle::read::Bundle;
use crate::image::digest::Digest;
use crate::image::manifest::View;

/// Sizes that the descriptors of a bundle state.
#[derive(Debug, Default)]
pub(super) struct StatedSizes<'a> {
    /// Blobs at their places: true if a descriptor states this size.
    places: HashMap<(&'a Digest, u64), bool>,
    /// The first stated size of each blob.
    first: HashMap<&'a Digest, u64>,
}

impl<'a> StatedSizes<'a> {
    /// Reads the manifests below every root of a bundle.
    pub(super) fn new(bundle: &'a Bundle) -> Self {
        let parts = &bundle.parts;
        let mut sizes = Self::default();
        for (digest, place) in bundle.store.places() {
            sizes.places.insert((digest, place.size), false);
        }
        let mut walk = Walk {
            bundle,
            sizes,
            open: Vec::new(),
            seen: HashSet::new(),
        };
        let referrers = parts.referrers.iter().map(|referrer| &referrer.root);
        let roots = parts.images.iter().map(|image| &image.root).chain(referrers);
        let others = parts.ambiguous.iter().map(|image| &image.root);
        for root in roots.chain(&parts.listed).chain(others) {
            walk.manifest(&root.digest, Some(root.size), &root.media_type);
        }
        for image in &parts.images {
            let record = image.record.as_deref().into_iter();
            for digest in record.flat_map(|record| std::iter::once(&record.original).chain(&record.filtered)) {
                walk.manifest(digest, None, &image.root.media_type);
            }
        }
        walk.run();
        walk.sizes
    }

    /// Returns a stated size if descriptors state sizes of this blob, and none of them is `size`.
    pub(super) fn contradiction(&self, digest: &Digest, size: u64) -> Option<u64> {
        let is_stated = self.places.get(&(digest, size)).copied().unwrap_or_default();
        self.first.get(digest).copied().filter(|_| !is_stated)
    }

    fn add(&mut self, digest: &Digest, stated: u64, bundle: &'a Bundle) {
        let Some(digest) = bundle.store.stored(digest) else {
            return;
        };
        self.first.entry(digest).or_insert(stated);
        if let Some(is_stated) = self.places.get_mut(&(digest, stated)) {
            *is_stated = true;
        }
    }
}

struct Walk<'a> {
    bundle: &'a Bundle,
    sizes: StatedSizes<'a>,
    /// Manifests that are not read yet, with the media type that their parent states.
    open: Vec<(Digest, String)>,
    seen: HashSet<Digest>,
}

impl Walk<'_> {
    /// Notes a manifest, to be read if its size is as stated.
    fn manifest(&mut self, digest: &Digest, stated: Option<u64>, media_type: &str) {
        if let Some(stated) = stated {
            self.sizes.add(digest, stated, self.bundle);
        }
        let actual = self.bundle.size_of(digest);
        let fits = actual.is_some_and(|actual| stated.is_none_or(|stated| stated == actual));
        if fits && self.seen.insert(digest.clone()) {
            self.open.push((digest.clone(), media_type.to_owned()));
        }
    }

    fn run(&mut self) {
        let bundle = self.bundle;
        while let Some((digest, media_type)) = self.open.pop() {
            // What is wrong with a manifest is reported when the images are checked.
            let Ok(manifest) = bundle.store.manifest(&digest, &media_type) else {
                continue;
            };
            for blob in manifest.blobs() {
                self.sizes.add(&blob.digest, blob.size, bundle);
            }
            if let View::Index(index) = manifest.view() {
                for entry in &index.entries {
                    let child = &entry.descriptor;
                    self.manifest(&child.digest, Some(child.size), &child.media_type);
                }
            }
        }
    }
}
