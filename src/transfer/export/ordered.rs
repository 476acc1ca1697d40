//! The same bundle, byte for byte, written from its first to its last byte: into a pipe, or through a compressor.
//!
//! Blobs are read ahead side by side, each into a buffer of its own with a bound, so that the one whose turn it is never waits
//! for room that later ones have taken.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::{Exported, Output, Report, Request, Resolved, human_bytes, unique};
use crate::bundle::partial::{Partial, already_there};
use crate::bundle::plan::{Plan, TRAILER};
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::progress::{Event, Progress};
use crate::registry::{Registries, WithoutRange};
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

/// How many chunks may wait for the writer.
const WRITER_QUEUE: usize = 4;

/// No buffer of a blob is smaller than this.
const MIN_BUFFER: u64 = 1 << 20;

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
        (_, Some(partial)) => Box::new(PartialWriter {
            partial: partial.clone(),
            at: 0,
        }),
        (Output::Pipe(pipe), None) => pipe,
        (Output::File { .. }, None) => return Err(Error::new(Kind::Usage, "the output is no pipe")),
    };
    let sources = Arc::new(Sources::new(&resolved.trees, registries, progress.clone())?);
    let (sender, writer) = spawn_writer(sink, request.compression)?;
    let written = copy(&plan, &sources, &sender, request.jobs, request.read_ahead, progress).await;
    drop(sender);
    let finished = tokio::task::spawn_blocking(move || writer.join())
        .await
        .map_err(|e| Error::new(Kind::Io, "the writer was cut off").with_source(e))?
        .unwrap_or_else(|_| Err(io::Error::other("the writer panicked")));
    match (finished, written) {
        (Err(error), _) => return Err(write_error(error)),
        (Ok(()), written) => written?,
    }
    report.images = resolved.trees.iter().map(Exported::new).collect();
    report.failed = resolved.failed;
    report.size = plan.total();
    report.committed = true;
    Ok(report)
}

fn write_error(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Error::new(
            Kind::Io,
            "whoever read the bundle from the pipe went away before its end",
        )
        .with_hint("look at the exit code and messages of the reading program"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Error::new(Kind::NoSpace, "there is no room for the rest of the bundle").with_source(error)
        }
        _ => Error::new(Kind::Io, "cannot write the bundle").with_source(error),
    }
}

/// A thread of its own writes: a pipe may block for as long as its reader likes.
#[allow(clippy::type_complexity, reason = "a pair of a sender and a thread")]
fn spawn_writer(
    sink: Box<dyn Write + Send>,
    compression: Compression,
) -> Result<(mpsc::Sender<Bytes>, std::thread::JoinHandle<io::Result<()>>)> {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(WRITER_QUEUE);
    let thread = std::thread::Builder::new()
        .name("bundle writer".into())
        .spawn(move || -> io::Result<()> {
            let mut sink = Encoder::new(sink, compression)?;
            while let Some(chunk) = receiver.blocking_recv() {
                sink.write_all(&chunk)?;
            }
            sink.finish()
        })
        .map_err(|e| Error::new(Kind::Io, "cannot start a thread").with_source(e))?;
    Ok((sender, thread))
}

enum Encoder {
    Plain(Box<dyn Write + Send>),
    Gzip(flate2::write::GzEncoder<Box<dyn Write + Send>>),
    Zstd(zstd::stream::write::Encoder<'static, Box<dyn Write + Send>>),
}

impl Encoder {
    fn new(sink: Box<dyn Write + Send>, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Plain(sink),
            Compression::Gzip => Self::Gzip(flate2::write::GzEncoder::new(sink, flate2::Compression::fast())),
            Compression::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(sink, 1)?),
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(sink) => sink.write_all(bytes),
            Self::Gzip(sink) => sink.write_all(bytes),
            Self::Zstd(sink) => sink.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Plain(sink) => sink,
            Self::Gzip(sink) => sink.finish()?,
            Self::Zstd(sink) => sink.finish()?,
        }
        .flush()
    }
}

/// Writes an unfinished file from its first byte on.
struct PartialWriter {
    partial: Arc<Partial>,
    at: u64,
}

impl Write for PartialWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.partial.write_at(bytes, self.at).map_err(|error| {
            let kind = if error.kind() == Kind::NoSpace {
                io::ErrorKind::StorageFull
            } else {
                io::ErrorKind::Other
            };
            io::Error::new(kind, error)
        })?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Piece = Result<(Bytes, OwnedSemaphorePermit)>;

/// Sends the whole bundle to the writer, in order.
async fn copy(
    plan: &Plan,
    sources: &Arc<Sources>,
    sender: &mpsc::Sender<Bytes>,
    jobs: usize,
    read_ahead: u64,
    progress: &Progress,
) -> Result<()> {
    let jobs = jobs.max(1);
    let buffer = (read_ahead / jobs as u64).max(MIN_BUFFER);
    let mut tasks = JoinSet::new();
    let mut ahead: VecDeque<mpsc::UnboundedReceiver<Piece>> = VecDeque::new();
    let mut slots = plan.blobs().iter();
    send(sender, plan.front().clone()).await?;
    for current in plan.blobs() {
        while ahead.len() < jobs {
            let Some(slot) = slots.next() else { break };
            let (tx, rx) = mpsc::unbounded_channel();
            let (sources, blob) = (sources.clone(), slot.blob.clone());
            // The bound is in bytes, by permits; the channel itself has none.
            let permits = Arc::new(Semaphore::new(usize::try_from(buffer).unwrap_or(usize::MAX >> 4)));
            tasks.spawn(async move {
                if let Err(error) = read(&sources, &blob, &tx, &permits, buffer).await {
                    let _ = tx.send(Err(error));
                }
            });
            ahead.push_back(rx);
        }
        let Some(mut pieces) = ahead.pop_front() else { break };
        send(sender, current.header()?.into()).await?;
        let mut left = current.blob.size;
        while let Some(piece) = pieces.recv().await {
            let (bytes, permit) = piece?;
            let length = bytes.len();
            left = left.saturating_sub(length as u64);
            send(sender, bytes).await?;
            drop(permit);
            progress.emit(Event::Bytes(length as i64));
        }
        if left > 0 {
            return Err(Error::new(
                Kind::Network,
                format!("blob {} ended too early", current.blob.digest),
            ));
        }
        send(
            sender,
            Bytes::from_static(&[0; 512]).slice(..usize::try_from(current.padding()).unwrap_or(0)),
        )
        .await?;
        progress.emit(Event::BlobDone {
            digest: current.blob.digest.to_string(),
            size: current.blob.size,
        });
    }
    send(sender, vec![0; usize::try_from(TRAILER).unwrap_or(0)].into()).await
}

async fn read(
    sources: &Sources,
    blob: &Descriptor,
    tx: &mpsc::UnboundedSender<Piece>,
    permits: &Arc<Semaphore>,
    buffer: u64,
) -> Result<()> {
    let mut hasher = blob.digest.hasher();
    let mut last = None;
    if blob.size > 0 {
        let mut stream = sources.open(blob, 0..blob.size, WithoutRange::Skip, 0).await?;
        while let Some(bytes) = stream.chunk().await? {
            hasher.update(&bytes);
            let wanted = u32::try_from((bytes.len() as u64).min(buffer)).unwrap_or(u32::MAX);
            let permit = permits
                .clone()
                .acquire_many_owned(wanted)
                .await
                .map_err(|e| Error::new(Kind::Cancelled, "the bundle is not written any more").with_source(e))?;
            // One piece is held back until the digest is proved, so that no wrong blob is ever whole in the pipe.
            if let Some(piece) = last.replace((bytes, permit))
                && tx.send(Ok(piece)).is_err()
            {
                return Ok(());
            }
        }
    }
    let found = hasher.finish();
    if found != blob.digest {
        return Err(Error::new(
            Kind::Integrity,
            format!("blob {} has other bytes: they hash to {found}", blob.digest),
        )
        .with_hint(
            "what was written to the pipe is of no use; run it again, or export to a file, which can be mended",
        ));
    }
    if let Some(piece) = last {
        let _ = tx.send(Ok(piece));
    }
    Ok(())
}

/// Hands bytes to the writer, and waits while the pipe is full.
async fn send(sender: &mpsc::Sender<Bytes>, bytes: Bytes) -> Result<()> {
    // The real error is the writer's, and is reported in place of this one.
    sender
        .send(bytes)
        .await
        .map_err(|_| Error::new(Kind::Io, "the writer stopped"))
}
