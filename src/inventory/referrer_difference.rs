//! The difference between the referrers of two images: signatures, attestations, SBOMs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;

use super::images::{Content, Piece};
use crate::image::digest::Digest;
use crate::image::media_type::{Shape, shape};

/// Maximum number of referrers in each list of an image.
const MAX_REFERRERS: usize = 100;

/// A referrer that only one side has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReferrerState {
    /// Digest of the referrer.
    pub digest: Digest,
    /// Artifact type of the referrer; its media type if a lock does not state the artifact type.
    pub artifact_type: String,
}

/// A referrer that both sides have, with different digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangedReferrer {
    /// Digest of the referrer in the old inventory.
    pub old_digest: Digest,
    /// Digest of the referrer in the new inventory.
    pub new_digest: Digest,
    /// Artifact type of the referrer.
    pub artifact_type: String,
}

/// The differing referrers of an image; each list holds the first [`MAX_REFERRERS`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ReferrerDifference {
    pub(super) added: Arc<[ReferrerState]>,
    pub(super) removed: Arc<[ReferrerState]>,
    pub(super) changed: Arc<[ChangedReferrer]>,
}

/// A referrer that only one side has: its digest, its artifact type, and its subject in words.
struct Single<'a> {
    digest: &'a Digest,
    artifact_type: &'a str,
    refers: Option<&'a str>,
}

/// The artifact type of a referrer, and the subject that it refers to.
type Type<'a> = (&'a str, Option<&'a str>);

/// The digests of the referrers on the old and on the new side.
type BeforeAndNow<'a> = (Vec<&'a Digest>, Vec<&'a Digest>);

impl ReferrerDifference {
    /// Compares the referrers of two contents;
    /// `is_same` says whether the images themselves are equal.
    ///
    /// A lock does not state which of its manifests are referrers. If the images are equal, every manifest that differs is a
    /// referrer. Otherwise the manifests count that are neither an index nor a platform of the image.
    pub(super) fn new(old: &Content, new: &Content, is_same: bool) -> Self {
        let removed = only_in(old, new, is_same);
        let added = only_in(new, old, is_same);
        // A referrer that was replaced has the same type and subject on both sides,
        // such as a second signature under the tag of the first.
        let mut kinds: HashMap<Type<'_>, BeforeAndNow<'_>> = HashMap::new();
        for single in &removed {
            let kind = kinds.entry((single.artifact_type, single.refers)).or_default();
            kind.0.push(single.digest);
        }
        for single in &added {
            let kind = kinds.entry((single.artifact_type, single.refers)).or_default();
            kind.1.push(single.digest);
        }
        let mut changed = BTreeMap::new();
        for ((artifact_type, _), (before, now)) in kinds {
            if let ([before], [now]) = (before.as_slice(), now.as_slice()) {
                changed.insert((*now).clone(), ((*before).clone(), artifact_type.to_owned()));
            }
        }
        let replaced: HashSet<&Digest> = changed.iter().flat_map(|(now, (before, _))| [now, before]).collect();
        let listed = |singles: &[Single<'_>]| {
            let rest = singles.iter().filter(|single| !replaced.contains(single.digest));
            let states = rest.take(MAX_REFERRERS).map(|single| ReferrerState {
                digest: single.digest.clone(),
                artifact_type: single.artifact_type.to_owned(),
            });
            states.collect()
        };
        let (added, removed) = (listed(&added), listed(&removed));
        let changed = changed.into_iter().take(MAX_REFERRERS);
        let changed = changed.map(|(new_digest, (old_digest, artifact_type))| ChangedReferrer {
            old_digest,
            new_digest,
            artifact_type,
        });
        Self {
            added,
            removed,
            changed: changed.collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// Returns the referrers of `these` that `others` lacks, sorted by digest.
fn only_in<'a>(these: &'a Content, others: &Content, is_same: bool) -> Vec<Single<'a>> {
    let there: HashSet<&Digest> = others.manifests.iter().map(|manifest| &manifest.digest).collect();
    let platforms: HashSet<&Digest> = these.kept.iter().map(|kept| &kept.digest).collect();
    let is_own = |manifest: &Piece| {
        let is_root = manifest.digest == these.original || these.filtered.as_ref() == Some(&manifest.digest);
        is_root || platforms.contains(&manifest.digest) || shape(&manifest.media_type) == Shape::Index
    };
    let mut found: Vec<Single<'a>> = match these.referrers.is_empty() {
        false => {
            let referrers = these.referrers.iter().map(|referrer| Single {
                digest: &referrer.digest,
                artifact_type: &referrer.media_type,
                refers: Some(&referrer.reason),
            });
            referrers.collect()
        }
        true => {
            let manifests = these.manifests.iter().filter(|manifest| is_same || !is_own(manifest));
            let manifests = manifests.map(|manifest| Single {
                digest: &manifest.digest,
                artifact_type: &manifest.media_type,
                refers: None,
            });
            manifests.collect()
        }
    };
    found.retain(|single| !there.contains(single.digest));
    found.sort_by_key(|single| single.digest);
    found.dedup_by_key(|single| single.digest);
    found
}
