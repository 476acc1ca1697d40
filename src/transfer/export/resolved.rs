//! Resolved images of an export, and values derived from them.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};

use super::request::Request;
use crate::bundle::file_system::FileSystem;
use crate::bundle::plan::{Extras, Plan};
use crate::bundle::record::Missing;
use crate::error::{Error, Kind, Result};
use crate::image::budget::Budget;
use crate::image::digest::Digest;
use crate::image::lost_attachments::{is_own_blob, leave_out_attachments};
use crate::image::reference::{Reference, Target};
use crate::image::tree::ImageTree;
use crate::inventory::images::Absent;
use crate::inventory::lock::Lock;
use crate::inventory::locked_image::LockedImage;
use crate::progress::{Progress, human_bytes};
use crate::registry::{Presence, Registries};
use crate::transfer::referrers::{context_of_referrer, is_loss};
use crate::transfer::resolve::Wanted;

/// Blobs that could not be fetched, each with its error.
pub(super) type Failures = HashMap<Digest, Error>;

/// Trees of the resolved images, and errors of the remaining images.
pub(super) struct Resolved {
    pub(super) trees: Vec<ImageTree>,
    pub(super) failed: Vec<(Reference, Error)>,
    /// Images that the lock lists as missing, and that the bundle therefore lists as missing as well.
    missing: Vec<Absent>,
    /// Whether the images are those of a lock, which loses no referrer.
    is_locked: bool,
}

impl Resolved {
    pub(super) fn new(references: &[Reference], wanted: &Wanted, results: Vec<Result<ImageTree>>) -> Self {
        let mut resolved = Self {
            trees: Vec::new(),
            failed: Vec::new(),
            missing: wanted.lock.as_ref().map_or_else(Vec::new, |lock| lock.missing.clone()),
            is_locked: wanted.lock.is_some(),
        };
        for (reference, result) in references.iter().zip(results) {
            match result {
                Ok(tree) => resolved.trees.push(tree),
                Err(error) => resolved.failed.push((reference.clone(), error)),
            }
        }
        resolved
    }

    /// Removes the attachments that need a failed blob from the images. Returns whether any attachment was removed.
    pub(super) fn drop_referrers(&mut self, wanted: &Wanted, failures: &Failures, progress: &Progress) -> bool {
        if failures.is_empty() || wanted.referrers.is_required() || self.is_locked {
            return false;
        }
        let told = RefCell::new(BTreeMap::new());
        let why = |blob: &Digest| {
            let error = failures.get(blob).filter(|error| is_loss(error))?;
            told.borrow_mut().insert(blob.clone(), error.full());
            // The bundle records this reason. With error texts, which contain addresses, the bundles of two runs would
            // differ.
            Some(match error.kind() {
                Kind::NotFound => format!("blob {blob} is not there"),
                Kind::Integrity => format!("blob {blob} has other bytes than its digest promises"),
                _ => format!("blob {blob} cannot be read"),
            })
        };
        let mut any = false;
        for tree in &mut self.trees {
            any |= leave_out_attachments(tree, why);
        }
        told.into_inner().into_values().for_each(|why| progress.warn(why));
        any
    }

    /// Moves the images that need a failed blob from `trees` to `failed`.
    /// Returns whether any image was moved.
    pub(super) fn drop_failed(&mut self, failures: &Failures) -> bool {
        if failures.is_empty() {
            return false;
        }
        let before = self.trees.len();
        let trees = std::mem::take(&mut self.trees);
        for tree in trees {
            let blobs = tree.blobs();
            let mut failed = blobs
                .iter()
                .filter_map(|blob| Some((&blob.descriptor.digest, failures.get(&blob.descriptor.digest)?)));
            match failed.next() {
                None => self.trees.push(tree),
                Some((blob, error)) => {
                    let error = match is_own_blob(&tree, blob) {
                        true => error.clone(),
                        false => context_of_referrer(error.clone(), self.is_locked),
                    };
                    let error = error.context(&tree.source);
                    self.failed.push((tree.source, error));
                }
            }
        }
        self.trees.len() < before
    }

    /// Moves the images that exceed the output's maximum file size to `failed`.
    /// The remaining images can then be exported. If no image would remain, all images stay, and planning the bundle fails
    /// with the error.
    pub(super) fn drop_oversized(&mut self, system: &FileSystem, target: &Path) {
        let fault = |tree: &ImageTree| {
            let fits = tree
                .total()
                .and_then(|total| system.check_image_fits(total, target, human_bytes));
            fits.err().map(|error| error.for_image(&tree.source))
        };
        let faults: Vec<Option<Error>> = self.trees.iter().map(fault).collect();
        if faults.iter().all(Option::is_some) || faults.iter().all(Option::is_none) {
            return;
        }
        let trees = std::mem::take(&mut self.trees);
        for (tree, fault) in trees.into_iter().zip(faults) {
            match fault {
                None => self.trees.push(tree),
                Some(error) => self.failed.push((tree.source, error)),
            }
        }
    }

    /// Returns the images that need a failed blob, each with the error of the blob.
    pub(super) fn failed_by<'a>(&'a self, failures: &'a Failures) -> impl Iterator<Item = (&'a Reference, &'a Error)> {
        self.trees.iter().filter_map(|tree| {
            let blobs = tree.blobs();
            let error = blobs.iter().find_map(|blob| failures.get(&blob.descriptor.digest))?;
            Some((&tree.source, error))
        })
    }

    /// Returns the lock of the bundle, if the request asks for it.
    pub(super) fn lock(&self, request: &Request, budget: &Budget, progress: &Progress) -> Option<Lock> {
        if !request.with_lock {
            return None;
        }
        let absent = |missing: Missing| Absent {
            reference: missing.reference,
            reason: missing.reason,
        };
        let missing = self.extras(request.docker_manifest).missing.into_iter().map(absent);
        match LockedImage::from_trees(self.trees.iter(), budget) {
            Ok(images) => Some(Lock::from_images(request.docker_manifest, images, missing.collect())),
            Err(error) => {
                progress.warn(format!("the report has no lock: {}", error.full()));
                None
            }
        }
    }

    /// Returns the additional content of the bundle: missing images and `manifest.json`.
    pub(super) fn extras(&self, docker_manifest: bool) -> Extras {
        let locked = self.missing.iter().map(|missing| Missing {
            reference: missing.reference.clone(),
            reason: missing.reason.clone(),
        });
        Extras {
            missing: self
                .failed
                .iter()
                .map(|(reference, error)| Missing {
                    reference: reference.to_string(),
                    // Only the kind of the error is recorded. With error texts, which contain addresses and times, the
                    // bundles of two runs would differ.
                    reason: format!("{:?}", error.kind()).to_ascii_lowercase(),
                })
                .chain(locked)
                .collect(),
            docker_manifest,
        }
    }
}

/// Shows the warnings of a plan to the user.
pub(super) fn warn(plan: &Plan, progress: &Progress) {
    for warning in plan.warnings() {
        progress.warn(warning.as_str());
    }
}

/// Returns the image configs that were read to select platforms, so that they are not fetched again.
pub(super) fn configs(trees: &[ImageTree]) -> BTreeMap<Digest, Bytes> {
    let configs = trees.iter().flat_map(|tree| &tree.configs);
    configs.map(|(digest, bytes)| (digest.clone(), bytes.clone())).collect()
}

/// Removes duplicates and keeps the order.
pub(super) fn unique(images: &[Reference]) -> Vec<Reference> {
    let mut seen = HashSet::new();
    images.iter().filter(|image| seen.insert(*image)).cloned().collect()
}

/// Returns a digest that identifies the request, and a summary of the request for messages.
pub(super) fn request_identity(images: &[Reference], wanted: &Wanted, docker_manifest: bool) -> (Digest, String) {
    let mut names: Vec<String> = images.iter().map(Reference::to_string).collect();
    names.sort();
    let mut text = format!(
        "{names:?} {} {:?} {docker_manifest} {}",
        wanted.platforms,
        wanted.index,
        wanted.referrers.identity()
    );
    if !wanted.exceptions.is_empty() {
        let exceptions = wanted.exceptions.iter();
        let exceptions: Vec<String> = exceptions
            .map(|(image, platforms)| format!("{image} {platforms}"))
            .collect();
        text = format!("{text} {exceptions:?}");
    }
    if let Some(lock) = &wanted.lock {
        text = format!("{text} {}", lock.digest());
    }
    let mut summary = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 3 {
        summary.push_str(&format!(" and {} more", names.len() - 3));
    }
    summary.push_str(&format!("; platforms: {}", wanted.platforms));
    (Digest::sha256(text.as_bytes()), summary)
}

/// Adds a hint to the errors of pinned images that the registry no longer has.
/// The same command would request the old digests forever, so the hint says how to export the current content of the tags.
pub(super) fn explain_lost(
    failed: &mut [(Reference, Error)],
    pins: &HashMap<Reference, Digest>,
    moved: &[(Reference, Digest, Digest)],
) {
    for (reference, error) in failed {
        let Some(pin) = pins.get(reference).filter(|_| error.kind() == Kind::NotFound) else {
            continue;
        };
        let now = moved.iter().find(|(moved, _, _)| moved == reference);
        let what = match now {
            Some((_, _, now)) => format!("its tag has moved to {now} since the first run, and"),
            None => "as it seems,".to_owned(),
        };
        *error = error.clone().with_hint(format!(
            "{what} the registry no longer has all of {pin}, which the first run found: `--fresh` starts anew with what the \
             registry has now"
        ));
    }
}

/// Returns the failed images whose pinned content is gone and whose tags have moved.
/// Warns that these images are exported with the current content of their tags.
pub(super) fn replaced<'a>(
    failed: impl Iterator<Item = (&'a Reference, &'a Error)>,
    moved: &[(Reference, Digest, Digest)],
    progress: &Progress,
) -> Vec<Reference> {
    let gone = failed.filter(|(_, error)| error.kind() == Kind::NotFound);
    let gone: HashSet<&Reference> = gone.map(|(image, _)| image).collect();
    let replaced = moved.iter().filter(|(image, _, _)| gone.contains(image));
    replaced
        .map(|(image, pin, now)| {
            progress.warn(format!(
                "`{image}`: the registry no longer has all of {pin}, which the first run found, and its tag has moved to {now}: \
                 this image is taken as it is now"
            ));
            image.clone()
        })
        .collect()
}

/// Returns the tags that have moved since they were pinned.
/// Tags are skipped if the registry does not answer.
pub(super) async fn moved(
    pins: &HashMap<Reference, Digest>,
    references: impl IntoIterator<Item = &Reference>,
    registries: &Registries,
    jobs: usize,
) -> Vec<(Reference, Digest, Digest)> {
    let pinned: Vec<(Reference, Digest)> = references
        .into_iter()
        .filter_map(|reference| Some((reference.clone(), pins.get(reference)?.clone())))
        .collect();
    stream::iter(pinned)
        .map(|(reference, pin)| async move {
            let target @ Target::Tag(_) = reference.target() else {
                return None;
            };
            let registry = registries.host(reference.host()).ok()?;
            match registry.head_manifest(reference.repository(), &target).await.ok()? {
                Presence::Present(head) => {
                    let now = head.digest?;
                    (now != pin).then_some((reference, pin, now))
                }
                _ => None,
            }
        })
        .buffered(jobs.max(1))
        .filter_map(|found| async move { found })
        .collect()
        .await
}
