//! The run of an export into a file.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::journaled::Journaled;
use super::prepare::{Headers, Prepare, Replan, slots_after};
use super::unfinished;
use super::up_to_date;
use super::whole_sum::{InPlace, WholeSum};
use super::worker::{Filled, Filling, fill};
use crate::bundle::file_system::FileSystem;
use crate::bundle::journal::Journal;
use crate::bundle::partial::{Partial, check_output};
use crate::bundle::plan::{Plan, TRAILER};
use crate::bundle::ranges::Ranges;
use crate::bundle::replay::Replay;
use crate::error::{Kind, Result};
use crate::image::budget::Budget;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::tree::ImageTree;
use crate::progress::{Progress, human_bytes};
use crate::registry::Registries;
use crate::transfer::blocking::blocking;
use crate::transfer::export::request::{Exported, Report, Request};
use crate::transfer::export::resolved::{
    Resolved, configs, explain_lost, moved, replaced, request_identity, unique, warn,
};
use crate::transfer::export::reuse::Earlier;
use crate::transfer::resolve::Resolver;
use crate::transfer::sources::Sources;

/// Exports into the file `path`.
/// `force` replaces an existing file; `fresh` discards the unfinished file of an earlier run.
pub(crate) async fn export(
    request: &Request,
    path: &Path,
    (force, fresh): (bool, bool),
    registries: &Registries,
    progress: &Progress,
) -> Result<Report> {
    match check_output(path, force) {
        Err(error) if error.kind() == Kind::Exists => {
            Partial::remove_stale_journal(path);
            return up_to_date::compare(request, path, error, registries, progress).await;
        }
        other => other?,
    }
    // The replaced bundle usually contains most of the blobs.
    let replaced = (force && !fresh).then_some(path);
    let earlier = Earlier::open(&request.reuse, replaced).await?;
    let partial = Arc::new(Partial::open(path)?);
    if fresh {
        partial.journal().remove();
        partial.clear()?;
    }
    let result = FileExport {
        request,
        registries,
        progress,
        path,
        partial: &partial,
        earlier,
    }
    .run(force)
    .await;
    if !matches!(&result, Ok(report) if report.committed) && partial.is_empty().unwrap_or(false) {
        // The file contains nothing that the next run could use.
        partial.remove();
    } else if partial.check_synced().is_err() && Replay::rewrite_synced_only(&partial.journal()).is_err() {
        // A sync failed, so the bytes on the disk are unknown, and the journal could not be changed to say so.
        partial.journal().remove();
    }
    result
}

/// One export into a file, which may take several attempts.
struct FileExport<'a> {
    request: &'a Request,
    registries: &'a Registries,
    progress: &'a Progress,
    path: &'a Path,
    partial: &'a Arc<Partial>,
    earlier: Arc<Earlier>,
}

/// Result of one attempt at an export.
enum Attempt {
    Ended(Box<Report>),
    /// Images whose pinned content the registry no longer has, while their tags point at other content.
    Replaced(Vec<Reference>),
}

impl FileExport<'_> {
    /// Repeats attempts until no pinned content turns out to be gone.
    async fn run(self, force: bool) -> Result<Report> {
        let mut anew = HashSet::new();
        loop {
            // The memory of the previous attempt is free again.
            let budget = match anew.is_empty() {
                true => self.request.budget.clone(),
                false => self.request.budget.emptied(),
            };
            match self.attempt(force, &anew, budget).await? {
                Attempt::Ended(report) => return Ok(*report),
                Attempt::Replaced(images) => anew.extend(images),
            }
        }
    }

    /// Makes one attempt at the export.
    /// Pins of the images in `anew` are ignored. Returns [`Attempt::Replaced`] for images whose pinned content is gone.
    async fn attempt(&self, force: bool, anew: &HashSet<Reference>, budget: Budget) -> Result<Attempt> {
        let (request, partial, progress) = (self.request, self.partial, self.progress);
        let images = unique(&request.images);
        let lock_budget = budget.clone();
        let identity = request_identity(&images, &request.wanted, request.docker_manifest);
        let mut left = unfinished::read(partial, &images, &identity.0, progress)?.unwrap_or_default();
        // A lock pins its images itself: whether their tags have moved does not matter.
        left.pins
            .retain(|image, _| !anew.contains(image) && request.wanted.lock.is_none());
        let resolver = Resolver::new(
            self.registries.clone(),
            request.wanted.clone(),
            request.jobs,
            progress.clone(),
        )
        .with_budget(budget)
        .with_pins(left.pins.clone());
        resolver.remember(std::mem::take(&mut left.manifests));
        let mut resolved = Resolved::new(&images, &request.wanted, resolver.resolve_all(&images).await);
        // The answers of the registries are not needed any more, and take memory for each image.
        drop(resolver);
        let system = match request.file_system {
            Some(system) => system,
            None => partial.file_system()?,
        };
        resolved.drop_oversized(&system, self.path);
        // The bundle cannot be completed without the failed images. A plan without them would also lose the bytes that an
        // earlier run fetched for them.
        if resolved.trees.is_empty() || (!resolved.failed.is_empty() && !request.allow_partial) {
            return Ok(self.end_unresolved(resolved, &left.pins).await);
        }
        let images = resolved.trees.iter().map(|tree| &tree.source);
        let mut report = Report {
            moved: moved(&left.pins, images, self.registries, request.jobs).await,
            ..Report::default()
        };

        let extras = resolved.extras(request.docker_manifest);
        let mut plan = Arc::new(Plan::new(&resolved.trees, &extras)?);
        left.check_takeover(&plan, partial, progress)?;
        warn(&plan, progress);
        partial.reserve(plan.total(), &system, human_bytes)?;
        let headers = Headers::new(&identity, &left, &plan, &resolved.trees);
        let there = Prepare {
            partial: partial.clone(),
            plan: plan.clone(),
            old: left.slots,
            headers: headers.clone(),
            configs: configs(&resolved.trees),
        };
        // Moving blobs takes as long as the disk needs, and signals must be handled meanwhile.
        let (journal, written) = blocking(move || there.run()).await??;
        if let Some(plan) = Arc::get_mut(&mut plan) {
            plan.drop_front();
        }
        let sum = WholeSum::start(partial.clone(), plan.clone());
        let filled = self
            .fill(&plan, (&journal, written), &resolved.trees, &system, &sum.in_place)
            .await?;
        report.reused = filled.reused;
        let failures = filled.failures;
        let has_lost = resolved.drop_referrers(&request.wanted, &failures, progress);
        let lost = replaced(resolved.failed_by(&failures), &report.moved, progress);
        if !lost.is_empty() {
            return Ok(Attempt::Replaced(lost));
        }
        let has_lost = resolved.drop_failed(&failures) || has_lost;
        report.committed = !resolved.trees.is_empty() && (resolved.failed.is_empty() || request.allow_partial);
        if has_lost && report.committed {
            let smaller = Plan::new(&resolved.trees, &resolved.extras(request.docker_manifest))?;
            let again = Replan {
                partial: partial.clone(),
                old: slots_after(&plan, &failures),
                header: headers.new.clone(),
                new: headers.for_plan(&smaller),
                plan: smaller,
            };
            plan = Arc::new(blocking(move || again.run()).await??);
        }
        report.size = plan.total();
        report.images = resolved.trees.iter().map(Exported::new).collect();
        explain_lost(&mut resolved.failed, &left.pins, &report.moved);
        report.lock = resolved
            .lock(request, &lock_budget, progress)
            .filter(|_| report.committed);
        report.failed = resolved.failed;
        if report.committed {
            let partial = partial.clone();
            report.sha256 = match sum.finish(request.with_lock).await {
                None if request.with_lock => WholeSum::from_complete(partial.clone(), plan.clone()).await,
                found => found,
            };
            blocking(move || commit(&partial, &plan, force)).await??;
        }
        Ok(Attempt::Ended(Box::new(report)))
    }

    /// Ends an attempt in which images cannot be resolved, before anything is fetched. `pins` are those of an earlier run.
    async fn end_unresolved(&self, mut resolved: Resolved, pins: &HashMap<Reference, Digest>) -> Attempt {
        let lost = resolved.failed.iter().map(|(image, _)| image);
        let moved = moved(pins, lost, self.registries, self.request.jobs).await;
        let lost = replaced(
            resolved.failed.iter().map(|(image, error)| (image, error)),
            &moved,
            self.progress,
        );
        if !lost.is_empty() {
            return Attempt::Replaced(lost);
        }
        explain_lost(&mut resolved.failed, pins, &moved);
        // The error itself was reported when it occurred; only its hint is new.
        let lost = resolved
            .failed
            .iter()
            .filter(|(image, error)| pins.contains_key(image) && error.kind() == Kind::NotFound);
        for (image, error) in lost {
            self.progress
                .warn(format!("`{image}`: {}", error.hint().unwrap_or_default()));
        }
        Attempt::Ended(Box::new(Report {
            images: resolved.trees.iter().map(Exported::new).collect(),
            failed: resolved.failed,
            nothing_fetched: true,
            ..Report::default()
        }))
    }

    /// Fills the slots of the plan, and reports the progress.
    async fn fill(
        &self,
        plan: &Arc<Plan>,
        (journal, written): (&Arc<Journal>, HashMap<usize, Ranges>),
        trees: &[ImageTree],
        system: &FileSystem,
        in_place: &Arc<InPlace>,
    ) -> Result<Filled> {
        self.progress.emit(plan.planned(trees.len(), &written));
        let filling = Filling {
            plan: plan.clone(),
            output: Journaled::new(self.partial.clone(), journal.clone()),
            sources: Sources::new(trees, self.registries)?,
            earlier: self.earlier.clone(),
            progress: self.progress.clone(),
            jobs: self.request.jobs,
            sparse: system.sparse,
            in_place: Some(in_place.clone()),
        };
        fill(filling, written).await
    }
}

/// Writes the end of the archive and gives the file its final name.
pub(super) fn commit(partial: &Partial, plan: &Plan, force: bool) -> Result<()> {
    let end = plan.total() - TRAILER;
    let zeros = vec![0; usize::try_from(TRAILER).unwrap_or(0)];
    partial.write_at(&zeros, end)?;
    partial.commit(plan.total(), force)
}
