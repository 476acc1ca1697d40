//! Trees from a bundle: manifests are verified, and everything that they name is looked for before a tree is given out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::store::Store;
use super::{BundledImage, Referrer};
use crate::error::{Error, Kind, Result};
use crate::image::config::{Config, MAX_CONFIG};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::filter::{self, Fate};
use crate::image::manifest::{Entry, MAX_MANIFEST, RawManifest, View};
use crate::image::media_type;
use crate::image::platform::Platform;
use crate::image::tree::{Choice, ImageTree, IndexMode, LeftOut, PlatformRecord, Variant, platform_label};

/// An index inside an index inside an index: deeper than this is no image.
const MAX_DEPTH: usize = 8;

/// A tree has at most this many manifests.
const MAX_NODES: usize = 10_000;

/// The manifests of one tree take at most this much memory.
const MAX_BYTES: u64 = 256 << 20;

/// Image configs above this sum are read and checked, but not kept.
const MAX_KEPT_CONFIGS: usize = 32 << 20;

/// Builds the tree of an image.
pub(super) fn of_image(store: &Store, image: &BundledImage) -> Result<ImageTree> {
    let mut walk = Walk::new(store);
    let tree = match &image.record {
        Some(record) if record.filtered.is_some() => walk.recorded(image)?,
        _ => walk.plain(image)?,
    };
    walk.check_total(&tree)?;
    Ok(tree)
}

/// Builds the tree below a referrer; nothing of it may be absent.
pub(super) fn of_referrer(store: &Store, referrer: &Referrer) -> Result<Variant> {
    let mut walk = Walk::new(store);
    let variant = walk.variant(&referrer.root, &HashSet::new())?;
    walk.problems()?;
    variant.ok_or_else(|| Error::new(Kind::Malformed, "its manifest is missing"))
}

struct Walk<'a> {
    store: &'a Store,
    nodes: HashMap<Digest, Arc<RawManifest>>,
    bytes: u64,
    /// Manifests whose blobs were looked for, and whether all of them are there.
    checked: HashMap<Digest, bool>,
    missing: BTreeSet<Digest>,
    wrong: BTreeSet<String>,
    left_out: BTreeMap<Digest, LeftOut>,
    configs: BTreeMap<Digest, Bytes>,
    configs_size: usize,
    platforms: HashMap<Digest, Platform>,
}

impl<'a> Walk<'a> {
    fn new(store: &'a Store) -> Self {
        Self {
            store,
            nodes: HashMap::new(),
            bytes: 0,
            checked: HashMap::new(),
            missing: BTreeSet::new(),
            wrong: BTreeSet::new(),
            left_out: BTreeMap::new(),
            configs: BTreeMap::new(),
            configs_size: 0,
            platforms: HashMap::new(),
        }
    }

    /// An image of which platforms were dropped on export: both indexes are in the bundle.
    fn recorded(&mut self, image: &BundledImage) -> Result<ImageTree> {
        let Some((record, filtered)) = image.record.as_ref().and_then(|r| Some((r, r.filtered.as_ref()?))) else {
            return self.plain(image);
        };
        let kept: HashSet<&Digest> = record.kept.iter().map(|p| &p.digest).collect();
        let absent: HashSet<Digest> = record
            .dropped
            .iter()
            .map(|p| p.digest.clone())
            .filter(|digest| !kept.contains(digest))
            .collect();
        // Filtering leaves the type of an index as it was.
        let root = |digest: &Digest| Descriptor {
            media_type: image.root.media_type.clone(),
            digest: digest.clone(),
            size: match *digest == image.root.digest {
                true => image.root.size,
                false => self.store.size_of(digest).unwrap_or_default(),
            },
        };
        let (original, filtered) = (root(&record.original), root(filtered));
        let original = self.variant(&original, &absent)?;
        let filtered = self.variant(&filtered, &HashSet::new())?;
        self.problems()?;
        let (Some(original), Some(filtered)) = (original, filtered) else {
            return Err(Error::new(Kind::Malformed, "its index is missing"));
        };
        let (kept, dropped) = self.platforms_of(&original.root, &absent, &record.dropped);
        Ok(ImageTree {
            source: image.name.clone(),
            choice: match record.index {
                Choice::Sparse => Choice::Sparse,
                _ => Choice::Filtered,
            },
            original,
            filtered: Some(filtered),
            kept,
            dropped,
            left_out: std::mem::take(&mut self.left_out).into_values().collect(),
            configs: std::mem::take(&mut self.configs),
        })
    }

    /// An image of which everything should be there, or of another program that saved a part.
    fn plain(&mut self, image: &BundledImage) -> Result<ImageTree> {
        let nothing = HashSet::new();
        let original = self.variant(&image.root, &nothing)?;
        let mut absent = nothing;
        let mut filtered = None;
        let original = match original {
            Some(original) if self.missing.is_empty() && self.wrong.is_empty() => original,
            Some(original) if image.may_be_sparse && self.wrong.is_empty() => {
                let mut pruned = HashMap::new();
                let Some(root) = self.prune(&original.root, &mut pruned)? else {
                    self.problems()?;
                    return Err(Error::new(Kind::Malformed, "no platform of it is complete"));
                };
                if root.digest() == original.root.digest() {
                    self.problems()?;
                }
                absent.extend(pruned.iter().filter(|(_, kept)| kept.is_none()).map(|(d, _)| d.clone()));
                absent.extend(self.missing.iter().cloned());
                filtered = Some(self.below(&root, &HashSet::new())?);
                self.below(&original.root, &absent)?
            }
            _ => {
                self.problems()?;
                return Err(Error::new(Kind::Malformed, "its manifest is missing"));
            }
        };
        let stated = image.record.as_ref().map(|r| r.dropped.as_slice()).unwrap_or_default();
        let (kept, dropped) = self.platforms_of(&original.root, &absent, stated);
        let used: HashSet<Digest> = original
            .all()
            .flat_map(|m| m.blobs().into_iter().map(|b| b.digest.clone()).collect::<Vec<_>>())
            .collect();
        let mut tree = ImageTree {
            source: image.name.clone(),
            original,
            filtered,
            choice: Choice::Whole,
            kept,
            dropped,
            left_out: std::mem::take(&mut self.left_out)
                .into_values()
                .filter(|l| used.contains(&l.digest))
                .collect(),
            configs: std::mem::take(&mut self.configs),
        };
        tree.choose(IndexMode::Auto);
        Ok(tree)
    }

    /// A root and all below it but what is known to be absent; what is missing beyond that is noted. `None` if the root
    /// itself is missing.
    fn variant(&mut self, root: &Descriptor, absent: &HashSet<Digest>) -> Result<Option<Variant>> {
        let Some(root) = self.load(root)? else { return Ok(None) };
        self.below(&root, absent).map(Some)
    }

    fn below(&mut self, root: &Arc<RawManifest>, absent: &HashSet<Digest>) -> Result<Variant> {
        let mut below = Vec::new();
        let mut seen = HashSet::new();
        self.collect(root, absent, 0, &mut seen, &mut below)?;
        below.pop();
        Ok(Variant {
            root: root.clone(),
            below,
        })
    }

    /// Puts a manifest behind all manifests below it.
    fn collect(
        &mut self,
        node: &Arc<RawManifest>,
        absent: &HashSet<Digest>,
        depth: usize,
        seen: &mut HashSet<Digest>,
        into: &mut Vec<Arc<RawManifest>>,
    ) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::new(
                Kind::Malformed,
                format!("indexes stand more than {MAX_DEPTH} deep in each other"),
            ));
        }
        if !seen.insert(node.digest().clone()) {
            return Ok(());
        }
        if seen.len() > MAX_NODES {
            return Err(Error::new(
                Kind::Malformed,
                format!("it has more than {MAX_NODES} manifests"),
            ));
        }
        self.check_blobs(node)?;
        if let View::Index(index) = node.view() {
            for entry in &index.entries {
                if absent.contains(&entry.descriptor.digest) {
                    continue;
                }
                if let Some(child) = self.load(&entry.descriptor)? {
                    self.collect(&child, absent, depth + 1, seen, into)?;
                }
            }
        }
        into.push(node.clone());
        Ok(())
    }

    /// Reads a manifest and verifies it; `None` if it is missing or has another size, which is noted.
    fn load(&mut self, descriptor: &Descriptor) -> Result<Option<Arc<RawManifest>>> {
        let digest = &descriptor.digest;
        if let Some(node) = self.nodes.get(digest) {
            let stated = media_type::essence(&descriptor.media_type);
            if media_type::shape(&stated) != media_type::Shape::Other && stated != node.media_type() {
                return Err(Error::new(
                    Kind::Malformed,
                    format!(
                        "manifest {digest} is listed as `{stated}` and as `{}`",
                        node.media_type()
                    ),
                ));
            }
            if descriptor.size != node.descriptor().size {
                self.note_size(descriptor, node.descriptor().size);
                return Ok(None);
            }
            return Ok(Some(node.clone()));
        }
        if !self.present(descriptor) {
            return Ok(None);
        }
        self.bytes += descriptor.size;
        if self.bytes > MAX_BYTES {
            return Err(Error::new(
                Kind::Malformed,
                format!("its manifests have more than {MAX_BYTES} bytes"),
            ));
        }
        let bytes = self.store.read_all(digest, MAX_MANIFEST)?;
        let declared = Some(descriptor.media_type.as_str()).filter(|t| !t.is_empty());
        let node = RawManifest::new(bytes, declared, Some(digest))
            .map_err(|e| e.context(self.store.describe(digest)))
            .map(Arc::new)?;
        self.nodes.insert(digest.clone(), node.clone());
        Ok(Some(node))
    }

    /// Whether a blob is there in its size; if not, that is noted.
    fn present(&mut self, descriptor: &Descriptor) -> bool {
        match self.store.size_of(&descriptor.digest) {
            Some(size) if size == descriptor.size => true,
            Some(size) => {
                self.note_size(descriptor, size);
                false
            }
            None => {
                self.missing.insert(descriptor.digest.clone());
                false
            }
        }
    }

    fn note_size(&mut self, descriptor: &Descriptor, size: u64) {
        self.wrong.insert(format!(
            "{}: {size} bytes, where {} are stated",
            self.store.describe(&descriptor.digest),
            descriptor.size
        ));
    }

    /// Looks for every blob that a manifest names; says whether all are there.
    fn check_blobs(&mut self, node: &Arc<RawManifest>) -> Result<bool> {
        if let Some(known) = self.checked.get(node.digest()) {
            return Ok(*known);
        }
        let mut complete = true;
        for blob in node.blobs() {
            if blob.is_nondistributable() && self.store.size_of(&blob.digest).is_none() {
                self.left_out.entry(blob.digest.clone()).or_insert_with(|| LeftOut {
                    digest: blob.digest.clone(),
                    media_type: blob.media_type.clone(),
                    reason: "not in the archive; it may not be distributed".to_owned(),
                });
                continue;
            }
            complete &= self.present(blob);
        }
        if let View::Image(image) = node.view()
            && media_type::is_image_config(&image.config.media_type)
            && self.store.size_of(&image.config.digest) == Some(image.config.size)
        {
            self.read_config(node.digest(), &image.config)?;
        }
        self.checked.insert(node.digest().clone(), complete);
        Ok(complete)
    }

    fn read_config(&mut self, manifest: &Digest, descriptor: &Descriptor) -> Result<()> {
        let digest = &descriptor.digest;
        let bytes = self.store.read_all(digest, MAX_CONFIG)?;
        let actual = digest.same_algorithm(&bytes);
        if actual != *digest {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "{}: config {digest} has other bytes: they hash to {actual}",
                    self.store.describe(digest)
                ),
            ));
        }
        let config = Config::parse(&bytes).map_err(|e| e.context(self.store.describe(digest)))?;
        self.platforms.insert(manifest.clone(), config.platform);
        if !self.configs.contains_key(digest) && self.configs_size + bytes.len() <= MAX_KEPT_CONFIGS {
            self.configs_size += bytes.len();
            self.configs.insert(digest.clone(), bytes);
        }
        Ok(())
    }

    /// The error of everything that was noted, if something was.
    fn problems(&self) -> Result<()> {
        let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(", ");
        if !self.missing.is_empty() {
            let count = self.missing.len();
            return Err(Error::new(
                Kind::Malformed,
                format!(
                    "{count} {} missing: {}",
                    if count == 1 { "blob is" } else { "blobs are" },
                    list(&mut self.missing.iter().map(ToString::to_string))
                ),
            )
            .with_hint("the archive is incomplete: copy it again, or make it again; a blob may also come from another bundle that is given along with it"));
        }
        if !self.wrong.is_empty() {
            return Err(Error::new(Kind::Integrity, list(&mut self.wrong.iter().cloned()))
                .with_hint("the archive is damaged: copy it again, or make it again"));
        }
        Ok(())
    }

    /// The manifest without what is not complete: itself if everything is, `None` if nothing is.
    fn prune(
        &mut self,
        node: &Arc<RawManifest>,
        done: &mut HashMap<Digest, Option<Arc<RawManifest>>>,
    ) -> Result<Option<Arc<RawManifest>>> {
        if let Some(known) = done.get(node.digest()) {
            return Ok(known.clone());
        }
        let pruned = match node.view() {
            View::Index(index) => self.prune_index(node, &index.entries, done)?,
            _ => self.check_blobs(node)?.then(|| node.clone()),
        };
        done.insert(node.digest().clone(), pruned.clone());
        Ok(pruned)
    }

    fn prune_index(
        &mut self,
        node: &Arc<RawManifest>,
        entries: &[Entry],
        done: &mut HashMap<Digest, Option<Arc<RawManifest>>>,
    ) -> Result<Option<Arc<RawManifest>>> {
        let mut children = Vec::with_capacity(entries.len());
        for entry in entries {
            children.push(match self.nodes.get(&entry.descriptor.digest).cloned() {
                Some(child) => self.prune(&child, done)?,
                None => None,
            });
        }
        let fates: Vec<Fate> = entries
            .iter()
            .zip(&children)
            .map(|(entry, child)| match child {
                None => Fate::Drop,
                // What an attestation describes has gone, so it goes as well.
                Some(_) if entry.attests().is_some_and(|s| !keeps(entries, &children, s)) => Fate::Drop,
                Some(child) if *child.digest() == entry.descriptor.digest => Fate::Keep,
                Some(child) => Fate::Replace(child.descriptor().clone()),
            })
            .collect();
        if fates.iter().all(|fate| *fate == Fate::Keep) {
            return Ok(Some(node.clone()));
        }
        if fates.iter().all(|fate| *fate == Fate::Drop) {
            return Ok(None);
        }
        let bytes = filter::rewrite(node.bytes(), &fates)?;
        let rewritten = Arc::new(RawManifest::new(Bytes::from(bytes), Some(node.media_type()), None)?);
        self.nodes.insert(rewritten.digest().clone(), rewritten.clone());
        Ok(Some(rewritten))
    }

    /// Every entry of the indexes below a root that is no index itself, by whether it is there.
    fn platforms_of(
        &self,
        root: &Arc<RawManifest>,
        absent: &HashSet<Digest>,
        stated: &[PlatformRecord],
    ) -> (Vec<PlatformRecord>, Vec<PlatformRecord>) {
        let (mut kept, mut dropped) = (Vec::new(), Vec::new());
        let View::Index(_) = root.view() else {
            kept.push(PlatformRecord {
                platform: platform_label(self.platforms.get(root.digest()), false),
                digest: root.digest().clone(),
            });
            return (kept, dropped);
        };
        let mut seen = HashSet::new();
        let mut stack = vec![root.clone()];
        while let Some(node) = stack.pop() {
            let View::Index(index) = node.view() else { continue };
            for entry in &index.entries {
                let digest = &entry.descriptor.digest;
                let gone = absent.contains(digest);
                match self.nodes.get(digest) {
                    Some(child) if !gone && matches!(child.view(), View::Index(_)) => {
                        if seen.insert(digest.clone()) {
                            stack.push(child.clone());
                        }
                        continue;
                    }
                    _ => {}
                }
                let platform = entry.platform.as_ref().or_else(|| self.platforms.get(digest));
                let label = match platform {
                    None if entry.attests().is_none() => stated
                        .iter()
                        .find(|record| record.digest == *digest)
                        .map(|record| record.platform.clone()),
                    _ => None,
                };
                let record = PlatformRecord {
                    platform: label.unwrap_or_else(|| platform_label(platform, entry.attests().is_some())),
                    digest: digest.clone(),
                };
                if gone { &mut dropped } else { &mut kept }.push(record);
            }
        }
        (kept, dropped)
    }

    /// The sum of all sizes is a number that can be counted with.
    fn check_total(&self, tree: &ImageTree) -> Result<()> {
        let total = tree
            .blobs()
            .iter()
            .try_fold(0_u64, |sum, blob| sum.checked_add(blob.descriptor.size))
            .filter(|sum| i64::try_from(*sum).is_ok());
        match total {
            Some(_) => Ok(()),
            None => Err(Error::new(
                Kind::Malformed,
                "the sizes of its blobs sum up to an impossible number",
            )),
        }
    }
}

/// Whether one of the entries that stay has this digest.
fn keeps(entries: &[Entry], children: &[Option<Arc<RawManifest>>], digest: &str) -> bool {
    entries.iter().zip(children).any(|(entry, child)| {
        child.is_some() && entry.attests().is_none() && entry.descriptor.digest.to_string() == digest
    })
}
