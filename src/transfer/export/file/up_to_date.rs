//! Comparison of an existing bundle with the bundle that this run would write.
//!
//! A plan determines every byte of a bundle except the content of blobs, and states the digest and size of each blob. So
//! the comparison covers the front (index, record, manifests), the header of each blob, the end, and the length. The blobs
//! themselves were hashed when the bundle was written and are not read again: that would take as long as copying the file,
//! and an import checks every byte anyway. Only a report, which states the SHA-256 of the file, has the whole file read.

use std::path::Path;
use std::sync::Arc;

use super::whole_sum::TAIL;
use crate::bundle::finished::Finished;
use crate::bundle::plan::Plan;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::registry::Registries;
use crate::transfer::blocking::blocking;
use crate::transfer::export::request::{Exported, Report, Request};
use crate::transfer::export::resolved::{Resolved, unique};
use crate::transfer::resolve::Resolver;

/// Resolves the images and compares the file at `path` with the bundle that this run would write.
/// Reports success if both are equal.
///
/// # Errors
/// `exists` if the file at `path` is anything else.
pub(in crate::transfer::export) async fn compare(
    request: &Request,
    path: &Path,
    exists: Error,
    registries: &Registries,
    progress: &Progress,
) -> Result<Report> {
    let Ok(finished) = Finished::open(path) else {
        return Err(exists);
    };
    let images = unique(&request.images);
    let (wanted, jobs) = (request.wanted.clone(), request.jobs);
    let resolver =
        Resolver::new(registries.clone(), wanted, jobs, progress.clone()).with_budget(request.budget.clone());
    let resolved = Resolved::new(&images, &request.wanted, resolver.resolve_all(&images).await);
    let mut report = Report {
        images: resolved.trees.iter().map(Exported::new).collect(),
        ..Report::default()
    };
    if resolved.trees.is_empty() || (!resolved.failed.is_empty() && !request.allow_partial) {
        report.failed = resolved.failed;
        report.nothing_fetched = true;
        return Ok(report);
    }
    let plan = Arc::new(Plan::new(&resolved.trees, &resolved.extras(request.docker_manifest))?);
    report.size = plan.total();
    report.lock = resolved.lock(request, &request.budget, progress);
    report.failed = resolved.failed;
    // The sum of a small file costs nothing that a user would notice.
    let is_summed = !request.dry_run && (request.with_lock || plan.total() <= TAIL);
    let compared = move || match finished.is_of(&plan)? {
        true if is_summed => finished.sum().map(|sum| (true, Some(sum))),
        is_equal => Ok((is_equal, None)),
    };
    let (is_equal, sha256) = blocking(compared).await??;
    if !is_equal {
        return Err(exists.context("this export makes another bundle"));
    }
    report.sha256 = sha256;
    report.committed = true;
    report.up_to_date = true;
    Ok(report)
}
