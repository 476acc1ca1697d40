//! The run of an export into a file or a stream.

use super::dry_run;
use super::file;
use super::request::{Compression, Output, Report, Request};
use super::stream;
use crate::bundle::partial::{self, Partial};
use crate::error::{Kind, Result};
use crate::progress::{Event, Progress};
use crate::registry::Registries;

/// Checks, before the first request, that the file of a bundle can be written and get its name.
/// A file that exists is left to the export, which compares it with what was asked for.
///
/// # Errors
/// [`Kind::Usage`] if the place is not fit for a bundle, and [`Kind::Busy`] if another run is writing it.
pub fn check_output(output: &Output) -> Result<()> {
    let Output::File { path, force, .. } = output else {
        return Ok(());
    };
    match partial::check_output(path, *force) {
        Err(error) if error.kind() == Kind::Exists => return Ok(()),
        checked => checked?,
    }
    let partial = Partial::open(path)?;
    if partial.is_empty()? && partial.journal().is_free() {
        partial.remove();
    }
    Ok(())
}

/// Exports images into one bundle.
///
/// A failed image is listed in the report, and the remaining images are exported anyway. Without
/// [`allow_partial`](Request::allow_partial) the bundle then stays unfinished, and the same call resumes it.
///
/// # Errors
/// If nothing can be exported: the output cannot be written, exists already, or belongs to another run.
pub async fn export(request: Request, registries: &Registries, progress: &Progress) -> Result<Report> {
    let report = match &request.output {
        _ if request.dry_run => dry_run::run(&request, registries, progress).await,
        Output::File { path, force, fresh } if request.compression == Compression::None => {
            file::export(&request, path, (*force, *fresh), registries, progress).await
        }
        _ => stream::export(request, registries, progress).await,
    }?;
    // An image is only done once its bundle has its final name.
    for image in report.images.iter().filter(|_| report.committed && !report.up_to_date) {
        progress.emit(Event::ImageDone {
            reference: image.source.to_string().into(),
            digest: image.digest.to_string(),
            unchanged: false,
        });
    }
    Ok(report)
}
