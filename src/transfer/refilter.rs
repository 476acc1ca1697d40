//! Fewer platforms of an image whose manifests are at hand: what `--platform` does to an image that comes out of a bundle.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::image::config::Config;
use crate::image::digest::Digest;
use crate::image::filter::{self, Fate};
use crate::image::manifest::{Entry, Index, RawManifest, View};
use crate::image::platform::{Platform, PlatformFilter, PlatformPattern};
use crate::image::tree::{ImageTree, IndexMode, PlatformRecord, Variant, platform_label};

/// How deep indexes may nest.
const MAX_DEPTH: usize = 8;

/// Drops the platforms that the filter does not mean. What the tree lacks already stays dropped, and a tree that loses
/// nothing more is returned as it is. The smaller index is made from the original, so that it is the same as that of an
/// export with both filters at once.
///
/// # Errors
/// [`Kind::NotFound`] if nothing is left.
pub fn refilter(tree: ImageTree, filter: &PlatformFilter) -> Result<ImageTree> {
    let mut walk = Walk {
        manifests: tree
            .original
            .below
            .iter()
            .map(|m| (m.digest().clone(), m.clone()))
            .collect(),
        labels: tree.kept.iter().map(|k| (&k.digest, k.platform.as_str())).collect(),
        tree: &tree,
        filter,
        kept: Vec::new(),
        dropped: Vec::new(),
    };
    let root = &tree.original.root;
    let View::Index(index) = root.view() else {
        let platform = walk.platform_behind(root);
        return match platform {
            Some(platform) if !filter.matches(&platform) => Err(nothing_left(&tree, filter)),
            _ => Ok(tree),
        };
    };
    let Some(level) = walk.index(root, index, 0)? else {
        return Err(nothing_left(&tree, filter));
    };
    let (kept, dropped) = (walk.kept, walk.dropped);
    if kept.len() == tree.kept.len() {
        return Ok(tree);
    }
    let had_filtered = tree.filtered.is_some();
    let mut smaller = ImageTree {
        original: Variant {
            root: root.clone(),
            below: unique(level.original),
        },
        filtered: level.filtered.map(|root| Variant {
            root,
            below: unique(level.carried),
        }),
        kept,
        dropped,
        source: tree.source,
        choice: tree.choice,
        left_out: tree.left_out,
        configs: tree.configs,
    };
    if !had_filtered {
        smaller.choose(IndexMode::Auto);
    }
    let named: HashSet<Digest> = smaller
        .manifests()
        .iter()
        .flat_map(|m| m.blobs())
        .map(|d| d.digest.clone())
        .collect();
    smaller.left_out.retain(|blob| named.contains(&blob.digest));
    smaller.configs.retain(|digest, _| named.contains(digest));
    Ok(smaller)
}

fn nothing_left(tree: &ImageTree, filter: &PlatformFilter) -> Error {
    let platforms: BTreeMap<&str, ()> = tree.kept.iter().map(|k| (k.platform.as_str(), ())).collect();
    Error::new(Kind::NotFound, format!("no platform of the image is `{filter}`")).with_hint(format!(
        "it has {}",
        platforms.into_keys().collect::<Vec<_>>().join(", ")
    ))
}

/// Each manifest once, where it stands first: that is before everything that names it.
fn unique(manifests: Vec<Arc<RawManifest>>) -> Vec<Arc<RawManifest>> {
    let mut seen = HashSet::new();
    manifests
        .into_iter()
        .filter(|m| seen.insert(m.digest().clone()))
        .collect()
}

struct Walk<'a> {
    tree: &'a ImageTree,
    manifests: HashMap<Digest, Arc<RawManifest>>,
    labels: HashMap<&'a Digest, &'a str>,
    filter: &'a PlatformFilter,
    kept: Vec<PlatformRecord>,
    dropped: Vec<PlatformRecord>,
}

/// What is left of an index.
#[derive(Default)]
struct Level {
    /// The smaller index, if it lost something.
    filtered: Option<Arc<RawManifest>>,
    /// What is below the original, as far as it is carried; children first.
    original: Vec<Arc<RawManifest>>,
    /// What is below the smaller one.
    carried: Vec<Arc<RawManifest>>,
}

impl Walk<'_> {
    /// `None` if nothing of the index is left.
    fn index(&mut self, raw: &RawManifest, index: &Index, depth: usize) -> Result<Option<Level>> {
        if depth == MAX_DEPTH {
            return Err(Error::new(
                Kind::Malformed,
                format!("its indexes nest deeper than {MAX_DEPTH} levels"),
            ));
        }
        let platforms: Vec<Option<Platform>> = index.entries.iter().map(|e| self.platform_of(e)).collect();
        let keep = filter::decide(&index.entries, &platforms, self.filter);
        let mut level = Level::default();
        let mut fates = Vec::with_capacity(keep.len());
        let mut something = false;
        for ((entry, platform), keep) in index.entries.iter().zip(&platforms).zip(keep) {
            let digest = &entry.descriptor.digest;
            let attests = entry.attests().is_some();
            let record = PlatformRecord {
                platform: platform_label(platform.as_ref(), attests),
                digest: digest.clone(),
            };
            let Some(child) = self.manifests.get(digest).filter(|_| keep).cloned() else {
                self.dropped.push(record);
                fates.push(Fate::Drop);
                continue;
            };
            match child.view() {
                View::Index(nested) => match self.index(&child, nested, depth + 1)? {
                    None => {
                        fates.push(Fate::Drop);
                        continue;
                    }
                    Some(below) => {
                        level.original.extend(below.original);
                        level.original.push(child.clone());
                        level.carried.extend(below.carried);
                        match below.filtered {
                            Some(smaller) => {
                                fates.push(Fate::Replace(smaller.descriptor().clone()));
                                level.carried.push(smaller);
                            }
                            None => {
                                fates.push(Fate::Keep);
                                level.carried.push(child);
                            }
                        }
                    }
                },
                _ => {
                    fates.push(Fate::Keep);
                    self.kept.push(record);
                    level.original.push(child.clone());
                    level.carried.push(child);
                }
            }
            something |= !attests;
        }
        if !something {
            return Ok(None);
        }
        if fates.iter().any(|fate| *fate != Fate::Keep) {
            let bytes = filter::rewrite(raw.bytes(), &fates)?;
            level.filtered = Some(Arc::new(RawManifest::new(bytes.into(), Some(raw.media_type()), None)?));
        }
        Ok(Some(level))
    }

    /// What an entry runs on: what it says itself, else what its image config says, else what was found out when the image
    /// was fetched.
    fn platform_of(&self, entry: &Entry) -> Option<Platform> {
        match &entry.platform {
            Some(platform) if !platform.os.is_empty() => Some(platform.clone()),
            _ if entry.attests().is_some() => None,
            _ => self.platform_behind(self.manifests.get(&entry.descriptor.digest)?),
        }
    }

    fn platform_behind(&self, manifest: &RawManifest) -> Option<Platform> {
        let View::Image(image) = manifest.view() else {
            return None;
        };
        let config = self.tree.configs.get(&image.config.digest);
        let stated = config
            .and_then(|bytes| Config::parse(bytes).ok())
            .map(|config| config.platform);
        if let Some(platform) = stated.filter(|p| !p.os.is_empty()) {
            return Some(platform);
        }
        let label = self.labels.get(manifest.digest())?;
        let pattern: PlatformPattern = label.split(" (").next()?.parse().ok()?;
        Some(pattern.platform().clone())
    }
}
