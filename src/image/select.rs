//! Decides which manifests of an image are carried. Export, import and every reader of archives share this decision.
//!
//! [`select`] is pure. The function works on a [`Graph`] of known manifests, and returns either a [`Selection`] or the
//! manifests and configs that are still needed; the caller fetches or reads these, adds them and calls [`select`] again. A
//! tree of depth *n* needs at most *2n + 2* calls, since all needs of a level are returned together.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::descriptor::{BROKEN, Descriptor};
use super::digest::Digest;
use super::filter::{self, EntryAction};
use super::manifest::{Entry, Index, RawManifest, View};
use super::media_type::{self, Shape};
use super::platform::{Platform, PlatformFilter};
use super::tree::{ATTESTATION, INDEX, MAX_DEPTH, MAX_NODES, PlatformRecord, Variant, platform_label};
use crate::error::{Error, Kind, Result};
use crate::text::{byte_count, quote};

/// The known manifests below a root.
#[derive(Debug, Clone, Default)]
pub(crate) struct Graph {
    manifests: HashMap<Digest, Arc<RawManifest>>,
    /// Platforms by the digest of the manifest; `None` if the config states no platform.
    platforms: HashMap<Digest, Option<Platform>>,
    absent: HashSet<Digest>,
    left_out: HashSet<(Digest, Option<Platform>)>,
}

impl Graph {
    /// Adds a manifest.
    pub(crate) fn add(&mut self, manifest: Arc<RawManifest>) {
        self.manifests.insert(manifest.digest().clone(), manifest);
    }

    /// Sets the platform that the config of an image states, by the digest of the image's manifest. The platform is used
    /// only if the index entry states no platform.
    pub(crate) fn set_platform(&mut self, manifest: Digest, platform: Option<Platform>) {
        self.platforms
            .insert(manifest, platform.filter(|platform| !platform.os.is_empty()));
    }

    /// Marks a manifest as not available, so that every entry that lists the manifest is dropped.
    pub(crate) fn set_absent(&mut self, manifest: Digest) {
        self.absent.insert(manifest);
    }

    /// Drops every entry with the manifest and platform of `entry`. A manifest may be listed for several platforms, and the
    /// entries for other platforms stay.
    pub(crate) fn leave_out(&mut self, entry: &Entry) {
        let entry = (entry.descriptor.digest.clone(), entry.platform.clone());
        self.left_out.insert(entry);
    }

    fn is_dropped(&self, entry: &Entry) -> bool {
        let digest = &entry.descriptor.digest;
        let is_left_out = || self.left_out.contains(&(digest.clone(), entry.platform.clone()));
        self.absent.contains(digest) || (!self.left_out.is_empty() && is_left_out())
    }

    /// Returns the manifest with this digest, if known.
    #[cfg(test)]
    pub(crate) fn manifest(&self, digest: &Digest) -> Option<&Arc<RawManifest>> {
        self.manifests.get(digest)
    }
}

/// Missing content that a decision depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Need {
    /// A manifest, to be added with [`Graph::add`].
    Manifest(Descriptor),
    /// The config of an image without a platform in its index entry, for [`Graph::set_platform`].
    Platform {
        /// Digest of the image's manifest.
        manifest: Digest,
        /// Descriptor of the image's config.
        config: Descriptor,
    },
}

/// The result of [`select`].
#[derive(Debug)]
pub(crate) enum SelectResult {
    /// The decision, if the graph had all needed content.
    Selected(Selection),
    /// The missing content, each item once, in the order of the indexes. Never empty.
    Needs(Vec<Need>),
}

/// The part of an image that is carried.
#[derive(Debug)]
pub(crate) struct Selection {
    /// Original root, with the carried manifests below it.
    pub original: Variant,
    /// Root without the dropped entries; `None` if no entry was dropped.
    pub filtered: Option<Variant>,
    /// Platforms carried, in the order of the indexes.
    pub kept: Vec<PlatformRecord>,
    /// Entries not carried, in the order of the indexes. A nested index that is dropped as a whole is one entry, since a
    /// reader of a bundle, which does not hold that index, knows no more about it.
    pub dropped: Vec<PlatformRecord>,
    /// Platforms below nested indexes that are dropped as a whole.
    pub dropped_below: Vec<PlatformRecord>,
}

impl Selection {
    /// Returns whether nothing is carried except attestations.
    pub(crate) fn is_empty(&self) -> bool {
        !self.kept.iter().any(|kept| kept.platform != ATTESTATION)
    }
}

/// Decides which manifests below `root` are carried.
///
/// - An image is carried if the filter matches its platform. The platform is stated by the index entry, else by the config.
///   An entry without any known platform, such as an artifact, is carried.
/// - An attestation is carried exactly if its subject is carried. With [`PlatformFilter::All`], an attestation whose subject
///   the index does not list is carried as well.
/// - A nested index is carried if an image or artifact below it is carried, and is rewritten if entries below were dropped.
///   With [`PlatformFilter::All`], an empty nested index is carried unchanged.
/// - An entry whose manifest is [absent](Graph::set_absent) is dropped, and so is an entry that is [left
///   out](Graph::leave_out).
///
/// # Errors
/// [`Kind::Malformed`] if indexes nest deeper than [`MAX_DEPTH`] or list more than [`MAX_NODES`] manifests, or if an entry
/// contradicts the manifest that it names.
pub(crate) fn select(graph: &Graph, root: &Arc<RawManifest>, filter: &PlatformFilter) -> Result<SelectResult> {
    let mut walk = Walk {
        graph,
        filter,
        kept: Vec::new(),
        dropped: Vec::new(),
        dropped_below: Vec::new(),
        needs: Vec::new(),
        nodes: 0,
        visited: HashMap::new(),
    };
    let level = match root.view() {
        View::Index(index) => walk.index(root, index, 0)?,
        _ => {
            walk.single(root);
            Level::default()
        }
    };
    if !walk.needs.is_empty() {
        let mut seen = HashSet::new();
        walk.needs.retain(|need| match need {
            Need::Manifest(descriptor) => seen.insert((descriptor.digest.clone(), false)),
            Need::Platform { manifest, .. } => seen.insert((manifest.clone(), true)),
        });
        return Ok(SelectResult::Needs(walk.needs));
    }
    Ok(SelectResult::Selected(Selection {
        original: Variant::new(root.clone(), level.original),
        filtered: level.filtered.map(|root| Variant::new(root, level.carried)),
        kept: walk.kept,
        dropped: walk.dropped,
        dropped_below: walk.dropped_below,
    }))
}

/// Checks that an index entry does not contradict its child. The child's own media type counts (OCI distribution-spec,
/// "Pulling manifests"): an entry may type an OCI manifest as a Docker manifest, but not an image as an index.
///
/// # Errors
/// [`Kind::Malformed`] if the size or the kind of document differs.
pub(crate) fn check_child(entry: &Descriptor, child: &RawManifest) -> Result<()> {
    let found = child.descriptor();
    let stated = media_type::shape(&entry.media_type);
    let what = if found.size != entry.size {
        format!("has {}, but its parent says {}", byte_count(found.size), entry.size)
    } else if stated != Shape::Other && stated != media_type::shape(child.media_type()) {
        let (own, stated) = (quote(child.media_type()), quote(&*entry.media_type));
        format!("is `{own}`, but its parent says `{stated}`")
    } else {
        return Ok(());
    };
    Err(Error::new(Kind::Malformed, format!("manifest {} {what}", entry.digest)).with_hint(BROKEN))
}

/// Checks that an index lists only manifests. BuildKit writes caches as indexes of layers, which registries store as blobs.
///
/// # Errors
/// [`Kind::Unsupported`] if the type of an entry is not a manifest type.
pub(crate) fn check_entries(raw: &RawManifest, index: &Index) -> Result<()> {
    let types = index.entries.iter().map(|entry| &*entry.descriptor.media_type);
    match types
        .into_iter()
        .find(|media_type| media_type::is_no_manifest(media_type))
    {
        None => Ok(()),
        Some(media_type) => Err(Error::new(
            Kind::Unsupported,
            format!(
                "it is a build cache, not an image: index {} lists a blob of type `{}` where manifests belong",
                raw.digest(),
                quote(&media_type)
            ),
        )
        .with_hint(
            "build caches in this form are not carried: leave it out, or have BuildKit write it as a manifest \
             (`--cache-to type=registry,image-manifest=true,...`)",
        )),
    }
}

struct Walk<'a> {
    graph: &'a Graph,
    filter: &'a PlatformFilter,
    kept: Vec<PlatformRecord>,
    dropped: Vec<PlatformRecord>,
    dropped_below: Vec<PlatformRecord>,
    needs: Vec<Need>,
    /// Number of index entries visited so far.
    nodes: usize,
    /// Visited nested indexes. A nested index may be listed many times, but its platforms count once.
    visited: HashMap<Digest, Nested>,
}

/// The decision about a nested index.
#[derive(Clone)]
struct Nested {
    action: EntryAction,
    /// Whether an image or artifact below the nested index is carried.
    runs: bool,
}

/// The carried part of one index.
#[derive(Default)]
struct Level {
    /// Manifests below the index with its original bytes, children first.
    original: Vec<Arc<RawManifest>>,
    /// Manifests below the rewritten index, children first.
    carried: Vec<Arc<RawManifest>>,
    /// The rewritten index, if entries were dropped or replaced.
    filtered: Option<Arc<RawManifest>>,
    /// Whether the index had entries and all were dropped.
    lost_all: bool,
    /// Whether an image or artifact is carried.
    runs: bool,
}

/// The platform of an index entry, if known.
enum EntryPlatform {
    Known(Option<Platform>),
    /// Unknown: the missing content is in `needs`, and a later call decides about the entry.
    NotYet,
}

impl Walk<'_> {
    /// Decides about a root that is not an index: an image or artifact.
    fn single(&mut self, root: &RawManifest) {
        let EntryPlatform::Known(platform) = self.platform_behind(root) else {
            return;
        };
        let record = PlatformRecord {
            platform: platform_label(platform.as_ref(), false),
            digest: root.digest().clone(),
        };
        match platform.is_none_or(|platform| self.filter.matches(&platform)) {
            true => self.kept.push(record),
            false => self.dropped.push(record),
        }
    }

    fn index(&mut self, raw: &RawManifest, index: &Index, depth: usize) -> Result<Level> {
        if depth >= MAX_DEPTH {
            return Err(Error::new(
                Kind::Malformed,
                format!("its indexes nest deeper than {MAX_DEPTH} levels"),
            ));
        }
        check_entries(raw, index)?;
        self.nodes += index.entries.len();
        if self.nodes > MAX_NODES {
            return Err(Error::new(
                Kind::Malformed,
                format!("it has more than {MAX_NODES} manifests"),
            ));
        }
        let first_kept = self.kept.len();
        let platforms: Vec<EntryPlatform> = index.entries.iter().map(|entry| self.platform_of(entry)).collect();
        let keep = self.wanted(&index.entries, &platforms);
        let mut level = Level::default();
        let mut actions = Vec::with_capacity(index.entries.len());
        for ((entry, platform), keep) in index.entries.iter().zip(&platforms).zip(keep) {
            let fate = match (keep, platform) {
                // Undecided: the action does not matter, since this call returns needs.
                (_, EntryPlatform::NotYet) | (None, _) => EntryAction::Drop,
                (Some(keep), EntryPlatform::Known(platform)) => {
                    self.entry(entry, platform.as_ref(), keep, depth, &mut level)?
                }
            };
            actions.push(fate);
        }
        self.drop_orphaned_attestations(&index.entries, &mut actions, &mut level, first_kept);
        // An index without entries has lost nothing, and is carried unchanged.
        level.lost_all = !actions.is_empty() && actions.iter().all(|fate| *fate == EntryAction::Drop);
        // The index is rewritten only in the last call, since the actions are not final before.
        if self.needs.is_empty() && !level.lost_all && actions.iter().any(|fate| *fate != EntryAction::Keep) {
            let bytes = filter::rewrite(raw.bytes(), &actions)?;
            level.filtered = Some(Arc::new(RawManifest::new(bytes.into(), Some(raw.media_type()), None)?));
        }
        Ok(level)
    }

    /// Carries or drops an entry and everything below it.
    fn entry(
        &mut self,
        entry: &Entry,
        platform: Option<&Platform>,
        keep: bool,
        depth: usize,
        level: &mut Level,
    ) -> Result<EntryAction> {
        let digest = &entry.descriptor.digest;
        let is_index = media_type::shape(&entry.descriptor.media_type) == Shape::Index;
        let record = PlatformRecord {
            platform: match (platform, entry.attested()) {
                (None, None) if is_index => INDEX.to_owned(),
                (_, attested) => platform_label(platform, attested.is_some()),
            },
            digest: digest.clone(),
        };
        if !keep || self.graph.is_dropped(entry) {
            self.dropped.push(record);
            return Ok(EntryAction::Drop);
        }
        let Some(child) = self.graph.manifests.get(digest) else {
            self.needs.push(Need::Manifest(entry.descriptor.clone()));
            return Ok(EntryAction::Keep);
        };
        check_child(&entry.descriptor, child)?;
        let View::Index(nested) = child.view() else {
            level.runs |= record.platform != ATTESTATION;
            self.kept.push(record);
            level.original.push(child.clone());
            level.carried.push(child.clone());
            return Ok(EntryAction::Keep);
        };
        let known = match self.visited.get(digest) {
            Some(known) => known.clone(),
            None => self.nested(child, nested, depth, level)?,
        };
        level.runs |= known.runs;
        if known.action == EntryAction::Drop {
            self.dropped.push(record);
        }
        Ok(known.action)
    }

    /// Carries or drops a nested index that is visited for the first time, and everything below it.
    fn nested(&mut self, raw: &Arc<RawManifest>, index: &Index, depth: usize, level: &mut Level) -> Result<Nested> {
        let (first_kept, first_dropped) = (self.kept.len(), self.dropped.len());
        let below = self.index(raw, index, depth + 1)?;
        let empty = match self.filter {
            PlatformFilter::All => below.lost_all,
            _ => !below.runs,
        };
        let action = if empty {
            // The whole nested index is dropped, including kept attestations below it.
            self.dropped_below.extend(self.kept.drain(first_kept..));
            self.dropped_below.extend(self.dropped.drain(first_dropped..));
            EntryAction::Drop
        } else {
            level.original.extend(below.original);
            level.original.push(raw.clone());
            level.carried.extend(below.carried);
            level
                .carried
                .push(below.filtered.clone().unwrap_or_else(|| raw.clone()));
            match below.filtered {
                Some(smaller) => EntryAction::Replace(smaller.descriptor().clone()),
                None => EntryAction::Keep,
            }
        };
        let runs = below.runs && !empty;
        let nested = Nested { action, runs };
        self.visited.insert(raw.digest().clone(), nested.clone());
        Ok(nested)
    }

    /// Drops attestations whose subject this index lists but does not keep. This runs after all entries were visited, since
    /// only then is it known whether nested indexes and absent manifests are kept.
    fn drop_orphaned_attestations(
        &mut self,
        entries: &[Entry],
        actions: &mut [EntryAction],
        level: &mut Level,
        first_kept: usize,
    ) {
        // The sets below hold every digest of the index, for which most indexes have no use.
        if !entries.iter().any(|entry| entry.attested().is_some()) {
            return;
        }
        let digests_with = |dropped: bool, actions: &[EntryAction]| -> HashSet<String> {
            let entries = entries
                .iter()
                .zip(actions)
                .filter(|(_, fate)| (**fate == EntryAction::Drop) == dropped);
            entries.map(|(entry, _)| entry.descriptor.digest.to_string()).collect()
        };
        let (gone, stays) = (digests_with(true, actions), digests_with(false, actions));
        let mut orphans = HashSet::new();
        for (entry, fate) in entries.iter().zip(actions) {
            let orphaned = entry
                .attested()
                .is_some_and(|subject| gone.contains(subject) && !stays.contains(subject));
            if *fate == EntryAction::Drop || !orphaned {
                continue;
            }
            *fate = EntryAction::Drop;
            orphans.insert(&entry.descriptor.digest);
        }
        level.original.retain(|manifest| !orphans.contains(manifest.digest()));
        level.carried.retain(|manifest| !orphans.contains(manifest.digest()));
        let kept = self.kept.split_off(first_kept);
        let (lost, kept): (Vec<_>, Vec<_>) = kept.into_iter().partition(|kept| orphans.contains(&kept.digest));
        self.kept.extend(kept);
        self.dropped.extend(lost);
    }

    /// Returns for each entry of an index whether the filter keeps the entry; `None` if not decided yet.
    fn wanted(&self, entries: &[Entry], platforms: &[EntryPlatform]) -> Vec<Option<bool>> {
        let mut keep: Vec<Option<bool>> = entries
            .iter()
            .zip(platforms)
            .map(|(entry, platform)| match platform {
                _ if entry.attested().is_some() => Some(*self.filter == PlatformFilter::All),
                EntryPlatform::NotYet => None,
                EntryPlatform::Known(platform) => Some(platform.as_ref().is_none_or(|p| self.filter.matches(p))),
            })
            .collect();
        let mut of_subject: HashMap<String, Option<bool>> = HashMap::new();
        for (entry, keep) in entries.iter().zip(&keep).filter(|(it, _)| it.attested().is_none()) {
            // A manifest may be listed for two platforms: its attestation stays if either entry stays.
            let known = of_subject.entry(entry.descriptor.digest.to_string()).or_insert(*keep);
            if *known == Some(false) || *keep == Some(true) {
                *known = *keep;
            }
        }
        for (entry, keep) in entries.iter().zip(&mut keep) {
            if let Some(subject) = entry.attested()
                && *keep == Some(false)
            {
                *keep = of_subject.get(subject).copied().unwrap_or(Some(false));
            }
        }
        keep
    }

    fn platform_of(&mut self, entry: &Entry) -> EntryPlatform {
        if let Some(platform) = entry.platform.as_ref().filter(|platform| !platform.os.is_empty()) {
            return EntryPlatform::Known(Some(platform.clone()));
        }
        let digest = &entry.descriptor.digest;
        let listed_as = media_type::shape(&entry.descriptor.media_type);
        if entry.attested().is_some() || listed_as == Shape::Index || self.graph.is_dropped(entry) {
            return EntryPlatform::Known(self.graph.platforms.get(digest).cloned().flatten());
        }
        match self.graph.manifests.get(digest) {
            Some(child) => self.platform_behind(&child.clone()),
            None => {
                self.needs.push(Need::Manifest(entry.descriptor.clone()));
                EntryPlatform::NotYet
            }
        }
    }

    /// Returns the platform that the config of an image states, or notes that the config is needed.
    fn platform_behind(&mut self, manifest: &RawManifest) -> EntryPlatform {
        if let Some(known) = self.graph.platforms.get(manifest.digest()) {
            return EntryPlatform::Known(known.clone());
        }
        match manifest.view() {
            View::Image(image) if media_type::is_image_config(&image.config.media_type) => {
                self.needs.push(Need::Platform {
                    manifest: manifest.digest().clone(),
                    config: image.config.clone(),
                });
                EntryPlatform::NotYet
            }
            _ => EntryPlatform::Known(None),
        }
    }
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
