//! The same bundle, byte for byte, written from its first to its last byte: into a pipe, or through a compressor.

use std::io::Write;
use std::sync::Arc;

use super::ahead::Ahead;
use super::writer::{PartialWriter, Writer};
use super::{Exported, Output, Report, Request, Resolved, human_bytes, unique};
use crate::bundle::partial::{Partial, already_there};
use crate::bundle::plan::Plan;
use crate::error::{Error, Kind, Result};
use crate::progress::{Event, Progress};
use crate::registry::Registries;
use crate::transfer::fetch::Sources;
use crate::transfer::resolve::Resolver;

/// Compression of the whole bundle. Layers are compressed already, so little is gained, and an import of the compressed file
/// cannot start in its middle: for pipes and for places that want it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    #[default]
    None,
    /// gzip (RFC 1952), without name and time.
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
}

pub(super) async fn export(request: Request, registries: &Registries, progress: &Progress) -> Result<Report> {
    let images = unique(&request.images);
    let target = match &request.output {
        Output::File { path, force, fresh } => {
            if !force && path.symlink_metadata().is_ok() {
                return Err(already_there(path));
            }
            let partial = Partial::open(path)?;
            if !partial.is_empty()? && !fresh {
                return Err(Error::new(
                    Kind::Exists,
                    format!(
                        "the unfinished file `{}` cannot be continued: the bundle is compressed",
                        partial.path().display()
                    ),
                )
                .with_hint("give `--fresh` to throw it away and start anew, or choose another name with `-o`"));
            }
            partial.clear()?;
            Some((Arc::new(partial), *force))
        }
        Output::Pipe(_) => None,
    };
    let result = write(
        request,
        &images,
        target.as_ref().map(|(partial, _)| partial),
        registries,
        progress,
    )
    .await;
    if let Some((partial, force)) = target {
        match &result {
            Ok(report) if report.committed => partial.commit(partial.len()?, force)?,
            // A compressed bundle cannot be continued: what is there of it is of no use.
            _ => partial.remove(),
        }
    }
    let report = result?;
    if report.committed {
        for image in &report.images {
            progress.emit(Event::ImageDone {
                reference: image.source.to_string(),
                digest: image.digest.to_string(),
            });
        }
    }
    Ok(report)
}

async fn write(
    request: Request,
    images: &[crate::image::reference::Reference],
    partial: Option<&Arc<Partial>>,
    registries: &Registries,
    progress: &Progress,
) -> Result<Report> {
    let resolver = Resolver::new(
        registries.clone(),
        request.wanted.clone(),
        request.jobs,
        progress.clone(),
    );
    let resolved = Resolved::new(images, resolver.resolve_all(images).await);
    let mut report = Report::default();
    if resolved.trees.is_empty() || (!resolved.failed.is_empty() && !request.allow_partial) {
        report.images = resolved.trees.iter().map(Exported::new).collect();
        report.failed = resolved.failed;
        return Ok(report);
    }
    let plan = Plan::new(&resolved.trees, &resolved.extras(request.docker_manifest))?;
    if let Some(partial) = partial {
        // The compressed size is not known; that of the plain bundle is close, since layers hardly shrink.
        partial.reserve(plan.total(), human_bytes)?;
    }
    progress.emit(Event::Planned {
        blobs: plan.blobs().len() as u64,
        bytes: plan.blob_bytes(),
        present: 0,
    });
    let sink: Box<dyn Write + Send> = match (request.output, partial) {
        (_, Some(partial)) => Box::new(PartialWriter::new(partial.clone())),
        (Output::Pipe(pipe), None) => pipe,
        (Output::File { .. }, None) => return Err(Error::new(Kind::Usage, "the output is no pipe")),
    };
    let sources = Sources::new(&resolved.trees, registries, progress.clone())?;
    let ahead = Ahead::new(sources, request.jobs, request.read_ahead, progress.clone());
    let writer = Writer::start(sink, request.compression)?;
    let copied = Arc::new(ahead).copy(&plan, &writer).await;
    writer.finish(copied).await?;
    report.images = resolved.trees.iter().map(Exported::new).collect();
    report.failed = resolved.failed;
    report.size = plan.total();
    report.committed = true;
    Ok(report)
}
