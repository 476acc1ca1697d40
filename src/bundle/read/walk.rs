//! Reads and verifies the manifests of one image, checks their blobs, and collects all faults for one report.
//!
//! `image/select.rs` decides which manifests belong to the image.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::store::Store;
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::{RawManifest, View};
use crate::image::media_type;
use crate::image::platform::{Platform, PlatformFilter};
use crate::image::select::{Graph, Need, SelectResult, Selection, check_child, select};
use crate::image::tree::LeftOut;
use crate::text::{LISTED, byte_count, few, few_with};

/// Hint for links that lead out of an archive.
pub(super) const FOLLOW_LINKS: &str = "only links that stay inside are followed, and of an archive only relative ones: copy the folder and the targets of its links \
     (`cp -rL FOLDER COPY`), or archive it so (`tar -chf FILE -C FOLDER .`)";

/// Why a named pipe, a socket or a device in a folder is not read.
pub(super) const NO_FILE: &str = "it is neither a file nor a folder";

/// Returns the hint for members that cannot be read, for these reasons.
pub(super) fn unreadable_hint(why: &str) -> &'static str {
    match why.contains(NO_FILE) {
        true => "a folder of images has only files and folders in it: copy it again, or have it made again",
        false => FOLLOW_LINKS,
    }
}

/// Maximum total size in bytes of the image configs that are kept;
/// further configs are checked and dropped.
const MAX_KEPT_CONFIGS: usize = 16 << 20;

/// Memory in bytes of an entry for an absent blob that may be absent.
const LEFT_OUT: u64 = 512;

/// Maximum number of wrong sizes that are reported individually.
const MAX_WRONG: usize = LISTED;

/// The manifests that were read so far, and the faults that were found.
pub(super) struct Walk<'a> {
    store: &'a Store,
    /// Every manifest that was read.
    pub(super) nodes: HashMap<Digest, Arc<RawManifest>>,
    /// Missing blobs.
    pub(super) missing: BTreeSet<Digest>,
    /// Blobs behind a link that cannot be followed, with the reason.
    refused: BTreeMap<Digest, String>,
    wrong: BTreeSet<String>,
    /// Number of wrong sizes beyond the limit.
    more_wrong: usize,
    left_out: BTreeMap<Digest, LeftOut>,
    /// Blobs that the record lists as omitted from the bundle.
    /// Every other absent blob may still arrive from a pipe.
    pub(super) left_behind: HashSet<Digest>,
    /// Image configs by digest.
    pub(super) configs: BTreeMap<Digest, Bytes>,
    configs_size: usize,
    /// Platforms from image configs, by the digest of their manifest.
    pub(super) platforms: HashMap<Digest, Platform>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self {
            store,
            nodes: HashMap::new(),
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

    /// Reads a root and the manifests below the root, and selects the complete platforms.
    /// Missing blobs are recorded.
    ///
    /// Returns `None` if the root itself is missing.
    pub(super) fn select(&mut self, root: &Descriptor) -> Result<Option<Selection>> {
        let Some(root) = self.load(root)? else { return Ok(None) };
        let mut graph = Graph::default();
        self.add(&mut graph, &root)?;
        loop {
            let needs = match select(&graph, &root, &PlatformFilter::All)? {
                SelectResult::Selected(selection) => return Ok(Some(selection)),
                SelectResult::Needs(needs) => needs,
            };
            self.make_room(&needs)?;
            for need in needs {
                match need {
                    Need::Manifest(descriptor) => match self.load(&descriptor)? {
                        Some(node) => self.add(&mut graph, &node)?,
                        None => graph.set_absent(descriptor.digest),
                    },
                    Need::Platform { manifest, config } => {
                        self.read_config(&manifest, &config)?;
                        let platform = self.platforms.get(&manifest).cloned();
                        graph.set_platform(manifest, platform);
                    }
                }
            }
        }
    }

    fn add(&mut self, graph: &mut Graph, node: &Arc<RawManifest>) -> Result<()> {
        // An image that lacks a blob counts as absent, so that the selection drops the image together with its attestations.
        let is_complete = self.check_blobs(node)?;
        graph.add(node.clone());
        if let Some(platform) = self.platforms.get(node.digest()) {
            graph.set_platform(node.digest().clone(), Some(platform.clone()));
        }
        if !is_complete {
            graph.set_absent(node.digest().clone());
        }
        Ok(())
    }

    /// Reads the present indexes nested in an index;
    /// an absent nested index was dropped as a whole.
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

    /// Frees memory for all manifests of a round before the first is read, or fails.
    fn make_room(&self, needs: &[Need]) -> Result<()> {
        let unread = needs.iter().filter_map(|need| match need {
            Need::Manifest(child) if !self.nodes.contains_key(&child.digest) => Some(child),
            _ => None,
        });
        let present = unread.filter(|child| self.store.size_of(&child.digest) == Some(child.size));
        self.store
            .make_room(present.fold(0, |sum, child| sum.saturating_add(child.size)))
    }

    /// Reads and verifies a manifest.
    /// Returns `None` if the manifest is missing or has another size, and records that.
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

    /// Returns whether a blob is present with the stated size; records the fault if not.
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
            "{}: {}, where {} are stated",
            self.store.describe(&descriptor.digest),
            byte_count(size),
            descriptor.size
        ));
    }

    /// Checks every blob that a manifest references; returns whether all are present.
    fn check_blobs(&mut self, node: &RawManifest) -> Result<bool> {
        let mut complete = true;
        let is_image = matches!(node.view(), View::Image(_));
        for (position, blob) in node.blobs().into_iter().enumerate() {
            let is_layer = position > 0 || !is_image;
            let here = self.store.size_of(&blob.digest).is_some();
            // The blob may still arrive from the pipe.
            if !here && self.store.to_come && !self.left_behind.contains(&blob.digest) {
                continue;
            }
            if is_layer && blob.is_nondistributable() && !here {
                let listed = self.left_out.len() as u64 + 1;
                drop(self.store.budget().hold(listed * LEFT_OUT)?);
                self.left_out.entry(blob.digest.clone()).or_insert_with(|| LeftOut {
                    digest: blob.digest.clone(),
                    media_type: blob.media_type.to_string(),
                    reason: "not in the archive; it may not be distributed".to_owned(),
                });
                continue;
            }
            complete &= self.present(blob);
        }
        if let View::Image(image) = node.view()
            && media_type::is_image_config(&image.config.media_type)
        {
            match self.read_config(node.digest(), &image.config) {
                // As on export, a broken config matters only if no index states the platform of the image.
                Err(error) if error.kind() == Kind::Malformed => {}
                other => other?,
            }
        }
        Ok(complete)
    }

    /// Records the platform in the config of an image, if the config is present.
    fn read_config(&mut self, manifest: &Digest, descriptor: &Descriptor) -> Result<()> {
        let digest = &descriptor.digest;
        if self.store.size_of(digest) != Some(descriptor.size) {
            return Ok(());
        }
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

    /// Returns an error with all recorded faults, if there are any.
    pub(super) fn problems(&self) -> Result<()> {
        if !self.refused.is_empty() {
            let why = few_with(self.refused.values(), "; ");
            let hint = unreadable_hint(&why);
            return Err(Error::new(Kind::Malformed, why).with_hint(hint));
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

    /// Returns whether missing blobs are the only faults, and at least one is missing.
    pub(super) fn only_misses(&self) -> bool {
        !self.missing.is_empty() && self.refused.is_empty() && self.wrong.is_empty()
    }

    /// Returns the absent blobs that may be absent, and clears their list.
    pub(super) fn take_left_out(&mut self) -> Vec<LeftOut> {
        std::mem::take(&mut self.left_out).into_values().collect()
    }
}
