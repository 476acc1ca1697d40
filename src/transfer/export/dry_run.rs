//! Plans an export without writing the bundle.
//! The plan states sizes, bytes already present, and free disk space. Manifests are fetched.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::file::up_to_date;
use super::request::{DryRun, Exported, Output, Report, Request};
use super::resolved::{Resolved, unique};
use super::reuse::Earlier;
use crate::bundle::file_system::FileSystem;
use crate::bundle::journal::OldSlot;
use crate::bundle::partial::{Partial, check_output};
use crate::bundle::plan::Plan;
use crate::bundle::replay::Replay;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::tree::ImageTree;
use crate::progress::{Progress, human_bytes};
use crate::registry::Registries;
use crate::transfer::resolve::Resolver;

/// Resolves the images and plans the bundle.
///
/// # Errors
/// Errors of the output, as for a real export; errors of the plan.
pub(super) async fn run(request: &Request, registries: &Registries, progress: &Progress) -> Result<Report> {
    let (path, force) = match &request.output {
        Output::File { path, force, .. } => (Some(path.as_path()), *force),
        Output::Pipe(_) => (None, false),
    };
    if let Some(path) = path
        && let Err(error) = check_output(path, force)
    {
        return match error.kind() {
            Kind::Exists => up_to_date::compare(request, path, error, registries, progress).await,
            _ => Err(error),
        };
    }
    let unfinished = path.map(unfinished).transpose()?.flatten();
    let (pins, slots) = unfinished.unwrap_or_default();
    let earlier = Earlier::open(&request.reuse, path.filter(|_| force)).await?;
    let images = unique(&request.images);
    let (wanted, jobs) = (request.wanted.clone(), request.jobs);
    let resolver = Resolver::new(registries.clone(), wanted, jobs, progress.clone())
        .with_budget(request.budget.clone())
        .with_pins(pins.into_iter().filter(|(image, _)| images.contains(image)).collect());
    let resolved = Resolved::new(&images, &request.wanted, resolver.resolve_all(&images).await);
    // As in an export: the answers of the registries take memory for each image.
    drop(resolver);
    let mut report = Report {
        images: resolved.trees.iter().map(Exported::new).collect(),
        nothing_fetched: resolved.trees.is_empty() || (!resolved.failed.is_empty() && !request.allow_partial),
        ..Report::default()
    };
    if !report.nothing_fetched {
        let plan = Plan::new(&resolved.trees, &resolved.extras(request.docker_manifest))?;
        report.size = plan.total();
        report.dry_run = Some(sum_up(&plan, &slots, &earlier, path));
        report.does_not_fit = path.and_then(|path| does_not_fit(request, path, plan.total()));
        report.pulls_needed = pulls_needed(&resolved.trees, registries);
    }
    report.failed = resolved.failed;
    Ok(report)
}

/// Pinned digests of an earlier run, and the slots that its `.partial` file has written.
type Unfinished = (HashMap<Reference, Digest>, Vec<OldSlot>);

/// Reads the state of an unfinished file without changing the file.
fn unfinished(path: &Path) -> Result<Option<Unfinished>> {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    if !Path::new(&name).is_file() {
        return Ok(None);
    }
    let Ok(Replay { header, slots }) = Replay::read(&Partial::open(path)?.journal()) else {
        return Ok(None);
    };
    let pins = header.pins.iter();
    let pins = pins.filter_map(|(name, digest)| Some((name.parse().ok()?, digest.clone())));
    Ok(Some((pins.collect(), slots)))
}

/// Sums up the present, reusable and missing bytes of a plan.
fn sum_up(plan: &Plan, slots: &[OldSlot], earlier: &Earlier, path: Option<&Path>) -> DryRun {
    let there: HashMap<&Digest, &OldSlot> = slots.iter().map(|slot| (&slot.digest, slot)).collect();
    let mut sum = DryRun {
        blobs: plan.blobs().len() as u64,
        bytes: plan.blob_bytes(),
        free: path.and_then(free),
        ..DryRun::default()
    };
    for slot in plan.blobs() {
        let blob = &slot.blob;
        let present = there.get(&blob.digest).filter(|old| old.size == blob.size);
        let present = present.map_or(0, |old| old.written.len(blob.size));
        sum.present += present;
        match earlier.find(blob) {
            Some(_) => sum.reusable += blob.size - present,
            None => sum.to_fetch += blob.size - present,
        }
    }
    sum
}

/// Returns for each registry the number of manifests that are not in the cache.
fn pulls_needed(trees: &[ImageTree], registries: &Registries) -> BTreeMap<String, u64> {
    let mut absent: BTreeMap<String, HashSet<&Digest>> = BTreeMap::new();
    for tree in trees {
        let host = tree.source.host();
        let digests = absent.entry(host.to_owned()).or_default();
        let Ok(registry) = registries.host(host) else { continue };
        let manifests = tree.original.all().map(|manifest| manifest.digest());
        digests.extend(manifests.filter(|digest| !registry.has_cached(digest)));
    }
    let counts = absent.into_iter();
    counts.map(|(host, digests)| (host, digests.len() as u64)).collect()
}

/// Returns the error that the real export would end with if the file system cannot hold the bundle.
fn does_not_fit(request: &Request, path: &Path, total: u64) -> Option<Error> {
    let system = request.file_system.or_else(|| FileSystem::of_folder(path))?;
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let allocated = std::fs::metadata(partial).map_or(0, |there| there.blocks() * 512);
    system.holds(total, allocated, path, human_bytes).err()
}

/// Returns the free bytes in the folder of the bundle, or `None` if they are unknown.
fn free(path: &Path) -> Option<u64> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let found = rustix::fs::statvfs(folder.unwrap_or(Path::new("."))).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}
