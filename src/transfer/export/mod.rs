//! Export: from registries into one file.
//!
//! Manifests first; they give the plan, and the plan gives every byte of the bundle its place. Then blobs side by side into
//! their places, and the final name last.

mod dry_run;
mod file;
mod request;
mod resolved;
mod reuse;
mod stream;

use crate::error::Result;
use crate::progress::{Event, Progress};
use crate::registry::Registries;

pub use request::{Compression, DryRun, Exported, Output, Report, Request, Reused, SupplementRequest};
pub use stream::supplement::supplement;

/// Exports images into one bundle.
///
/// An image that fails is in the report, and all other images are tried. Without
/// [`allow_partial`](Request::allow_partial) the bundle then stays unfinished, and the same call goes on from there.
///
/// # Errors
/// What ends everything: the output cannot be written, is there already, or belongs to another run.
pub async fn export(request: Request, registries: &Registries, progress: &Progress) -> Result<Report> {
    let report = match &request.output {
        _ if request.dry_run => dry_run::run(&request, registries, progress).await,
        Output::File { path, force, fresh } if request.compression == Compression::None => {
            file::export(&request, path, (*force, *fresh), registries, progress).await
        }
        _ => stream::export(request, registries, progress).await,
    }?;
    // An image is done when its bundle has its final name, and not before.
    for image in report.images.iter().filter(|_| report.committed && !report.up_to_date) {
        progress.emit(Event::ImageDone {
            reference: image.source.to_string().into(),
            digest: image.digest.to_string(),
            unchanged: false,
        });
    }
    Ok(report)
}
