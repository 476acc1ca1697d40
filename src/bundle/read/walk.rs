//! The walk over the manifests of one image: reads and verifies each once, looks for what it names, and notes every
//! fault, so that all of them can be told at once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::archive::FOLLOW_LINKS;
use super::store::Store;
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::{Index, RawManifest, View};
use crate::image::media_type;
use crate::image::platform::Platform;
use crate::image::select::{check_child, check_entries};
use crate::image::tree::{LeftOut, MAX_DEPTH, MAX_NODES, Variant};
use crate::text::{LISTED, few, few_with};

/// Image configs above this sum are read and checked, but not kept.
const MAX_KEPT_CONFIGS: usize = 16 << 20;

/// Memory in bytes that a blob takes which may be absent, and is.
const LEFT_OUT: u64 = 512;

/// Number of wrong sizes that are told one by one.
const MAX_WRONG: usize = LISTED;

/// What is known so far.
pub(super) struct Walk<'a> {
    store: &'a Store,
    /// Every manifest that was read.
    pub(super) nodes: HashMap<Digest, Arc<RawManifest>>,
    /// Manifests whose blobs were looked for, and whether all of them are there.
    checked: HashMap<Digest, bool>,
    /// What is named and not there.
    pub(super) missing: BTreeSet<Digest>,
    /// What is named and stands behind a link that cannot be followed.
    refused: BTreeMap<Digest, String>,
    wrong: BTreeSet<String>,
    /// How many more wrong sizes there are.
    more_wrong: usize,
    left_out: BTreeMap<Digest, LeftOut>,
    /// Blobs that the bundle's record says are not in it: those of a pipe's rest are all others.
    pub(super) left_behind: HashSet<Digest>,
    /// Image configs by digest.
    pub(super) configs: BTreeMap<Digest, Bytes>,
    configs_size: usize,
    /// What image configs say, by the digest of their manifest.
    pub(super) platforms: HashMap<Digest, Platform>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self {
            store,
            nodes: HashMap::new(),
            checked: HashMap::new(),
            missing: BTreeSet::new(),
            refused: BTreeMap::new(),
            wrong: BTreeSet::new(),
            more_wrong: 0,
            left_out: BTreeMap::new(),
            left_behind: HashSet::new(),
            configs: BTreeMap::new(),
            configs_size: 0,
            platforms: HashMap::new(),
        }
    }

    /// A root and all below it but what is known to be absent; what is missing beyond that is noted. `None` if the root
    /// itself is missing.
    pub(super) fn variant(&mut self, root: &Descriptor, absent: &HashSet<Digest>) -> Result<Option<Variant>> {
        let Some(root) = self.load(root)? else { return Ok(None) };
        self.below(&root, absent).map(Some)
    }

    /// A manifest that is there and all below it, as [`variant`](Self::variant).
    pub(super) fn below(&mut self, root: &Arc<RawManifest>, absent: &HashSet<Digest>) -> Result<Variant> {
        let mut below = Vec::new();
        let mut seen = HashSet::new();
        self.collect(root, false, absent, 0, &mut seen, &mut below)?;
        below.pop();
        Ok(Variant {
            root: root.clone(),
            below: below.into(),
        })
    }

    /// Puts a manifest behind all manifests below it. `is_stated` is whether its parent states what it runs on.
    fn collect(
        &mut self,
        node: &Arc<RawManifest>,
        is_stated: bool,
        absent: &HashSet<Digest>,
        depth: usize,
        seen: &mut HashSet<Digest>,
        into: &mut Vec<Arc<RawManifest>>,
    ) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::new(
                Kind::Malformed,
                format!("its indexes nest deeper than {MAX_DEPTH} levels"),
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
        self.check_blobs(node, is_stated)?;
        if let View::Index(index) = node.view() {
            check_entries(node, index)?;
            self.make_room(index, absent)?;
            for entry in &index.entries {
                if absent.contains(&entry.descriptor.digest) {
                    continue;
                }
                if let Some(child) = self.load(&entry.descriptor)? {
                    let is_stated = entry.platform.as_ref().is_some_and(|platform| !platform.os.is_empty());
                    self.collect(&child, is_stated, absent, depth + 1, seen, into)?;
                }
            }
        }
        into.push(node.clone());
        Ok(())
    }

    /// Reads the indexes inside an index, as far as they are there; an index that is not was dropped as a whole.
    pub(super) fn load_indexes(&mut self, root: &Arc<RawManifest>) -> Result<()> {
        let mut seen = HashSet::new();
        let mut open = vec![root.clone()];
        while let Some(node) = open.pop() {
            let View::Index(index) = node.view() else { continue };
            for entry in &index.entries {
                let descriptor = &entry.descriptor;
                let may_be_index = media_type::shape(&descriptor.media_type) != media_type::Shape::Image;
                let is_there = self.store.size_of(&descriptor.digest).is_some();
                if may_be_index && is_there && seen.insert(descriptor.digest.clone()) {
                    open.extend(self.load(descriptor)?);
                }
            }
        }
        Ok(())
    }

    /// Whether all children of an index fit into memory is known before the first one is read.
    fn make_room(&self, index: &Index, absent: &HashSet<Digest>) -> Result<()> {
        let mut seen = HashSet::new();
        let children = index.entries.iter().map(|entry| &entry.descriptor);
        let unread = children.filter(|child| {
            let digest = &child.digest;
            !absent.contains(digest)
                && !self.nodes.contains_key(digest)
                && self.store.size_of(digest) == Some(child.size)
                && seen.insert(digest)
        });
        self.store
            .make_room(unread.fold(0, |sum, child| sum.saturating_add(child.size)))
    }

    /// Reads a manifest and verifies it; `None` if it is missing or has another size, which is noted.
    pub(super) fn load(&mut self, descriptor: &Descriptor) -> Result<Option<Arc<RawManifest>>> {
        let digest = &descriptor.digest;
        if let Some(node) = self.nodes.get(digest) {
            if descriptor.size != node.descriptor().size {
                self.note_size(descriptor, node.descriptor().size);
                return Ok(None);
            }
            check_child(descriptor, node)?;
            return Ok(Some(node.clone()));
        }
        if !self.present(descriptor) {
            return Ok(None);
        }
        let node = self
            .store
            .manifest(digest, &descriptor.media_type)
            .map_err(|e| e.context(self.store.describe(digest)))?;
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
                match self.store.refusal(&descriptor.digest) {
                    Some(why) => self.refused.insert(descriptor.digest.clone(), why.to_owned()).is_none(),
                    None => self.missing.insert(descriptor.digest.clone()),
                };
                false
            }
        }
    }

    fn note_size(&mut self, descriptor: &Descriptor, size: u64) {
        if self.wrong.len() == MAX_WRONG {
            self.more_wrong += 1;
            return;
        }
        self.wrong.insert(format!(
            "{}: {size} bytes, where {} are stated",
            self.store.describe(&descriptor.digest),
            descriptor.size
        ));
    }

    /// Looks for every blob that a manifest names; says whether all are there. `is_stated` is whether the index states what the
    /// image runs on.
    pub(super) fn check_blobs(&mut self, node: &Arc<RawManifest>, is_stated: bool) -> Result<bool> {
        if let Some(known) = self.checked.get(node.digest()) {
            return Ok(*known);
        }
        let mut complete = true;
        let is_image = matches!(node.view(), View::Image(_));
        for (position, blob) in node.blobs().into_iter().enumerate() {
            let is_layer = position > 0 || !is_image;
            let here = self.store.size_of(&blob.digest).is_some();
            if !here && self.store.to_come && !self.left_behind.contains(&blob.digest) {
                continue;
            }
            if is_layer && blob.is_nondistributable() && !here {
                let listed = self.left_out.len() as u64 + 1;
                drop(self.store.budget().hold(listed * LEFT_OUT)?);
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
            match self.read_config(node.digest(), &image.config) {
                // As on export, the config is for those who run the image where the index says what that is.
                Err(error) if is_stated && error.kind() == Kind::Malformed => {}
                other => other?,
            }
        }
        self.checked.insert(node.digest().clone(), complete);
        Ok(complete)
    }

    fn read_config(&mut self, manifest: &Digest, descriptor: &Descriptor) -> Result<()> {
        let digest = &descriptor.digest;
        let known = self
            .store
            .config(digest)
            .map_err(|e| e.context(self.store.describe(digest)))?;
        self.platforms.insert(manifest.clone(), known.config.platform.clone());
        if !self.configs.contains_key(digest) && self.configs_size + known.bytes.len() <= MAX_KEPT_CONFIGS {
            self.configs_size += known.bytes.len();
            self.configs.insert(digest.clone(), known.bytes.clone());
        }
        Ok(())
    }

    /// The error of everything that was noted, if something was.
    pub(super) fn problems(&self) -> Result<()> {
        if !self.refused.is_empty() {
            let why = few_with(self.refused.values(), "; ");
            return Err(Error::new(Kind::Malformed, why).with_hint(FOLLOW_LINKS));
        }
        if !self.missing.is_empty() {
            let count = self.missing.len();
            return Err(Error::new(
                Kind::Malformed,
                format!(
                    "{count} {} missing: {}",
                    if count == 1 { "blob is" } else { "blobs are" },
                    few(&self.missing)
                ),
            )
            .with_hint("the archive is incomplete: copy it again, or make it again; a blob may also come from another bundle that is given along with it"));
        }
        if !self.wrong.is_empty() {
            let more = match self.more_wrong {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            return Err(Error::new(Kind::Integrity, few(&self.wrong) + &more)
                .with_hint("the archive is damaged: copy it again, or make it again"));
        }
        Ok(())
    }

    /// Whether something is missing, and nothing is worse than that.
    pub(super) fn only_misses(&self) -> bool {
        !self.missing.is_empty() && self.refused.is_empty() && self.wrong.is_empty()
    }

    /// Blobs that may be absent, and are.
    pub(super) fn take_left_out(&mut self) -> Vec<LeftOut> {
        std::mem::take(&mut self.left_out).into_values().collect()
    }
}
