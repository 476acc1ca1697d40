//! The run of an export in stream order.

use std::collections::HashMap;
use std::sync::Arc;

use super::attached;
use super::prefetch::Prefetcher;
use super::unfinished::Unfinished;
use crate::bundle::partial::{Partial, check_output};
use crate::bundle::plan::Plan;
use crate::error::Result;
use crate::progress::{Progress, human_bytes};
use crate::registry::Registries;
use crate::transfer::export::request::{Exported, Output, Report, Request};
use crate::transfer::export::resolved::{Resolved, configs, unique, warn};
use crate::transfer::export::reuse::Earlier;
use crate::transfer::resolve::Resolver;
use crate::transfer::sources::Sources;

/// Exports into a pipe, or into a compressed file, which gets its final name when it is complete.
pub(crate) async fn export(request: Request, registries: &Registries, progress: &Progress) -> Result<Report> {
    let images = unique(&request.images);
    let target = match &request.output {
        Output::File { path, force, fresh } => {
            check_output(path, *force)?;
            Some((Unfinished::create(path, *fresh, progress)?, *force))
        }
        Output::Pipe(_) => None,
    };
    let partial = target.as_ref().map(|(unfinished, _)| &unfinished.partial);
    let result = write(request, &images, partial, registries, progress).await;
    if let Some((unfinished, force)) = target
        && matches!(&result, Ok(report) if report.committed)
    {
        unfinished.commit(force).await?;
    }
    result
}

/// Resolves the images and writes the bundle in order.
async fn write(
    request: Request,
    images: &[crate::image::reference::Reference],
    partial: Option<&Arc<Partial>>,
    registries: &Registries,
    progress: &Progress,
) -> Result<Report> {
    let earlier = Earlier::open(&request.reuse, None).await?;
    let resolver = Resolver::new(
        registries.clone(),
        request.wanted.clone(),
        request.jobs,
        progress.clone(),
    )
    .with_budget(request.budget.clone());
    let mut resolved = Resolved::new(images, &request.wanted, resolver.resolve_all(images).await);
    // The answers of the registries are not needed any more, and take memory for each image.
    drop(resolver);
    // The compressed size is not known in advance. The uncompressed size is close, since layers hardly shrink.
    let system = match (partial, request.file_system) {
        (Some(partial), None) => Some(partial.file_system()?),
        (Some(_), given) => given,
        (None, _) => None,
    };
    if let (Some(system), Output::File { path, .. }) = (&system, &request.output) {
        resolved.drop_oversized(system, path);
    }
    let attached = attached::fetch(&mut resolved, &request, &earlier, registries, progress).await?;
    let mut report = Report::default();
    if resolved.trees.is_empty() || (!resolved.failed.is_empty() && !request.allow_partial) {
        report.images = resolved.trees.iter().map(Exported::new).collect();
        report.failed = resolved.failed;
        report.nothing_fetched = true;
        return Ok(report);
    }
    let plan = Plan::new(&resolved.trees, &resolved.extras(request.docker_manifest))?;
    warn(&plan, progress);
    if let (Some(partial), Some(system)) = (partial, system) {
        partial.reserve(plan.total(), &system, human_bytes)?;
    }
    progress.emit(plan.planned(resolved.trees.len(), &HashMap::new()));
    let lock = resolved.lock(&request, &request.budget, progress);
    let sources = Sources::new(&resolved.trees, registries)?;
    let prefetcher = Prefetcher {
        sources,
        earlier,
        known: configs(&resolved.trees).into_iter().chain(attached).collect(),
        jobs: request.jobs.max(1),
        read_ahead: request.read_ahead,
        progress: progress.clone(),
        ..Prefetcher::default()
    };
    (report.reused, report.sha256) = prefetcher
        .write(&plan, request.output, partial, request.compression)
        .await?;
    report.lock = lock;
    report.images = resolved.trees.iter().map(Exported::new).collect();
    report.failed = resolved.failed;
    report.size = plan.total();
    report.committed = true;
    Ok(report)
}
