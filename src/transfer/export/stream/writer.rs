//! The last step of a bundle that is written from front to back: a thread that compresses and writes what it is handed.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::bundle::partial::Partial;
use crate::error::{Error, Kind, Result};
use crate::image::digest::{Algorithm, Digest, Hasher};
use crate::transfer::export::request::Compression;

/// How many chunks may wait for the writer.
const WRITER_QUEUE: usize = 4;

/// A thread of its own writes: a pipe may block for as long as its reader likes.
pub(super) struct Writer {
    sender: mpsc::Sender<Step>,
    thread: std::thread::JoinHandle<io::Result<Option<Digest>>>,
}

enum Step {
    Bytes(Bytes),
    /// Finishes the stream: writes what the compressor still holds, and its trailer.
    End,
}

impl Writer {
    pub(super) fn start(sink: Box<dyn Write + Send>, compression: Compression) -> Result<Self> {
        let (sender, mut receiver) = mpsc::channel(WRITER_QUEUE);
        let cut = Arc::new(AtomicBool::new(false));
        let sink = Tap {
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
                // The end was not announced: a reader must see that the stream is broken off.
                cut.store(true, Ordering::Relaxed);
                Ok(None)
            })
            .map_err(|e| Error::new(Kind::Io, "cannot start a thread").with_source(e))?;
        Ok(Self { sender, thread })
    }

    /// Hands bytes over, and waits while the pipe is full.
    ///
    /// # Errors
    /// If the thread stopped; why it did is told by [`finish`](Self::finish).
    pub(super) async fn send(&self, bytes: Bytes) -> Result<()> {
        self.step(Step::Bytes(bytes)).await
    }

    async fn step(&self, step: Step) -> Result<()> {
        let stopped = |_| Error::new(Kind::Io, "the writer stopped");
        self.sender.send(step).await.map_err(stopped)
    }

    /// Ends the stream, with a trailer if all went well so far and broken off if not, and says what went wrong first.
    /// Returns the digest of what was written.
    pub(super) async fn finish(self, so_far: Result<()>) -> Result<Option<Digest>> {
        if so_far.is_ok() {
            // If it stopped, it says why below.
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

fn write_error(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Error::new(
            Kind::Io,
            "the reader of the pipe closed it before the end of the bundle",
        )
        .with_hint("look at the exit code and messages of the reading program");
    }
    // One that came through a file brings its own words.
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

/// Lets nothing through once the stream is broken off: a compressor writes its trailer when it is dropped.
struct Tap {
    sink: Box<dyn Write + Send>,
    cut: Arc<AtomicBool>,
    /// Of what went through.
    hasher: Hasher,
}

impl Write for Tap {
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

enum Encoder {
    Plain(Tap),
    Gzip(flate2::write::GzEncoder<Tap>),
    Zstd(zstd::stream::write::Encoder<'static, Tap>),
}

impl Encoder {
    fn new(sink: Tap, compression: Compression) -> io::Result<Self> {
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

    /// Returns the digest of what was written.
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

/// Writes an unfinished file from its first byte on.
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
