//! The writer thread of a bundle written in order: compresses the bytes and writes them.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::bundle::partial::Partial;
use crate::error::{Error, Kind, Result};
use crate::image::digest::{Algorithm, Digest, Hasher};
use crate::transfer::export::request::Compression;

/// Maximum number of chunks queued for the writer thread.
const WRITER_QUEUE: usize = 4;

/// Handle of the writer thread.
/// The thread is a dedicated one, since a pipe may block until its reader continues.
pub(super) struct Writer {
    sender: mpsc::Sender<Step>,
    thread: std::thread::JoinHandle<io::Result<Option<Digest>>>,
}

/// A message to the writer thread.
enum Step {
    Bytes(Bytes),
    /// Finishes the stream: writes the compressor's buffered bytes and trailer.
    End,
}

impl Writer {
    /// Starts the writer thread.
    pub(super) fn start(sink: Box<dyn Write + Send>, compression: Compression) -> Result<Self> {
        let (sender, mut receiver) = mpsc::channel(WRITER_QUEUE);
        let cut = Arc::new(AtomicBool::new(false));
        let sink = HashingSink {
            sink,
            cut: cut.clone(),
            hasher: Hasher::new(Algorithm::Sha256),
        };
        let thread = std::thread::Builder::new()
            .name("bundle writer".into())
            .spawn(move || -> io::Result<Option<Digest>> {
                let mut encoder = Encoder::new(sink, compression)?;
                while let Some(step) = receiver.blocking_recv() {
                    match step {
                        Step::Bytes(chunk) => encoder.write_all(&chunk)?,
                        Step::End => return encoder.finish().map(Some),
                    }
                }
                // The sender was dropped without [`Step::End`]: the reader of the stream must see that it is incomplete.
                cut.store(true, Ordering::Relaxed);
                Ok(None)
            })
            .map_err(|e| Error::new(Kind::Io, "cannot start a thread").with_source(e))?;
        Ok(Self { sender, thread })
    }

    /// Sends bytes to the writer thread, and waits while its queue is full.
    ///
    /// # Errors
    /// If the thread stopped. [`finish`](Self::finish) returns the reason.
    pub(super) async fn send(&self, bytes: Bytes) -> Result<()> {
        self.step(Step::Bytes(bytes)).await
    }

    async fn step(&self, step: Step) -> Result<()> {
        let stopped = |_| Error::new(Kind::Io, "the writer stopped");
        self.sender.send(step).await.map_err(stopped)
    }

    /// Ends the stream and returns the digest of the written bytes.
    /// After an error in `so_far`, the stream ends without a trailer, so that readers see an incomplete stream.
    ///
    /// # Errors
    /// The first error of the writer thread, else the error in `so_far`.
    pub(super) async fn finish(self, so_far: Result<()>) -> Result<Option<Digest>> {
        if so_far.is_ok() {
            // The error of a stopped thread is returned by the join below.
            let _ = self.step(Step::End).await;
        }
        drop(self.sender);
        let thread = self.thread;
        let finished = tokio::task::spawn_blocking(move || thread.join())
            .await
            .map_err(|e| Error::new(Kind::Io, "the writer was cut off").with_source(e))?
            .unwrap_or_else(|_| Err(io::Error::other("the writer panicked")));
        match finished {
            Err(error) => Err(write_error(error)),
            Ok(digest) => so_far.map(|()| digest),
        }
    }
}

/// Returns the error for the user after a failed write.
fn write_error(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Error::new(
            Kind::Io,
            "the reader of the pipe closed it before the end of the bundle",
        )
        .with_hint("look at the exit code and messages of the reading program");
    }
    // An error from [`PartialWriter`] wraps an error that already has a message.
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Error::new(Kind::NoSpace, "disk full while writing the bundle").with_source(error)
            }
            _ => Error::new(Kind::Io, "cannot write the bundle").with_source(error),
        },
    }
}

/// Hashes the written bytes, and rejects all bytes after `cut` is set.
/// A dropped compressor would otherwise write its trailer.
struct HashingSink {
    sink: Box<dyn Write + Send>,
    cut: Arc<AtomicBool>,
    /// Hash of the bytes written to `sink`.
    hasher: Hasher,
}

impl Write for HashingSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.cut.load(Ordering::Relaxed) {
            return Err(io::Error::other("the bundle is broken off"));
        }
        let written = self.sink.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// The compressor of a bundle, with the sink below it.
enum Encoder {
    Plain(HashingSink),
    Gzip(flate2::write::GzEncoder<HashingSink>),
    Zstd(zstd::stream::write::Encoder<'static, HashingSink>),
}

impl Encoder {
    fn new(sink: HashingSink, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Plain(sink),
            // Fast levels: layers are already compressed, so higher levels cost time and save little.
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

    /// Writes the trailer and returns the digest of the written bytes.
    fn finish(self) -> io::Result<Digest> {
        let mut tap = match self {
            Self::Plain(sink) => sink,
            Self::Gzip(sink) => sink.finish()?,
            Self::Zstd(sink) => sink.finish()?,
        };
        tap.flush()?;
        Ok(tap.hasher.finish())
    }
}

/// Writes an unfinished file from its first byte in order.
pub(super) struct PartialWriter {
    partial: Arc<Partial>,
    at: u64,
}

impl PartialWriter {
    pub(super) fn new(partial: Arc<Partial>) -> Self {
        Self { partial, at: 0 }
    }
}

impl Write for PartialWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.partial.write_once_at(bytes, self.at).map_err(io::Error::other)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
