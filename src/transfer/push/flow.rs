//! One blob on its way from a pipe: written down as it arrives, read by its upload at the same time, and read again if the
//! upload has to be repeated.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::watch;

use super::report::Failure;
use crate::error::{Error, Kind, Result};
use crate::registry::BlobStream;

/// How many bytes are read at a time.
pub(crate) const PIECE: usize = 256 << 10;

/// Up to this size a blob is kept in memory.
pub(crate) const SMALL: u64 = 1 << 20;

/// A blob that arrives or has arrived.
pub(crate) struct Flow {
    place: String,
    size: u64,
    keep: Keep,
    reached: watch::Sender<Reached>,
    failure: OnceLock<Failure>,
}

enum Keep {
    Memory(Mutex<Vec<u8>>),
    /// A file without a name, gone with the last handle, and where it was made.
    File(File, PathBuf),
}

#[derive(Debug, Clone, Copy, Default)]
struct Reached {
    bytes: u64,
    failed: bool,
}

impl Flow {
    /// A blob of which no byte has arrived. `place` is where it stands, for error messages.
    pub(crate) fn new(place: String, size: u64, temp_dir: &Path) -> Result<Self> {
        let keep = if size <= SMALL {
            Keep::Memory(Mutex::new(Vec::with_capacity(
                usize::try_from(size).unwrap_or_default(),
            )))
        } else {
            let file = tempfile::tempfile_in(temp_dir).map_err(|e| {
                Error::io("create a temporary file in", temp_dir, e)
                    .with_hint("set TMPDIR to a directory that can be written to")
            })?;
            Keep::File(file, temp_dir.to_owned())
        };
        Ok(Self {
            place,
            size,
            keep,
            reached: watch::Sender::new(Reached::default()),
            failure: OnceLock::new(),
        })
    }

    /// A blob that could not be kept.
    pub(crate) fn broken(place: String, size: u64, error: &Error) -> Self {
        let flow = Self {
            place,
            size,
            keep: Keep::Memory(Mutex::default()),
            reached: watch::Sender::new(Reached::default()),
            failure: OnceLock::new(),
        };
        flow.fail(error);
        flow
    }

    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// Takes the next bytes.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<()> {
        let at = self.reached.borrow().bytes;
        match &self.keep {
            Keep::Memory(memory) => memory
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend_from_slice(bytes),
            Keep::File(file, directory) => file.write_all_at(bytes, at).map_err(|e| {
                let error = Error::io("write a temporary file in", directory, e);
                match error.kind() {
                    Kind::NoSpace => error.with_hint("set TMPDIR to a directory with more room, or lower `--jobs`"),
                    _ => error,
                }
            })?,
        }
        self.reached.send_modify(|reached| reached.bytes += bytes.len() as u64);
        Ok(())
    }

    /// No more bytes will come, unless all are there.
    pub(crate) fn fail(&self, error: &Error) {
        if self.reached.borrow().bytes < self.size {
            let _ = self.failure.set(Failure::from(error));
            self.reached.send_modify(|reached| reached.failed = true);
        }
    }

    /// The bytes from `offset` on; where they have not arrived yet, they are waited for.
    pub(crate) fn stream(self: &Arc<Self>, offset: u64) -> BlobStream {
        let start = (self.clone(), self.reached.subscribe(), offset, BytesMut::new());
        let pieces = stream::try_unfold(start, |(flow, mut receiver, at, mut buffer)| async move {
            if at >= flow.size {
                return Ok(None);
            }
            let reached = receiver.wait_for(|reached| reached.bytes > at || reached.failed).await;
            let reached = reached.map(|reached| *reached).unwrap_or_default();
            if reached.bytes <= at {
                return Err(flow.error());
            }
            let piece = flow.read(at, reached.bytes, &mut buffer)?;
            let next = at + piece.len() as u64;
            Ok(Some((piece, (flow, receiver, next, buffer))))
        });
        pieces.boxed()
    }

    fn read(&self, at: u64, end: u64, buffer: &mut BytesMut) -> Result<Bytes> {
        let count = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
        match &self.keep {
            Keep::Memory(memory) => {
                let memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
                let rest = usize::try_from(at)
                    .ok()
                    .and_then(|at| memory.get(at..))
                    .unwrap_or_default();
                Ok(Bytes::copy_from_slice(&rest[..count.min(rest.len())]))
            }
            Keep::File(file, directory) => {
                // Takes the former piece's memory back if the connection is through with it.
                buffer.resize(count, 0);
                file.read_exact_at(buffer, at)
                    .map_err(|e| Error::io("read a temporary file in", directory, e))?;
                Ok(buffer.split_to(count).freeze())
            }
        }
    }

    fn error(&self) -> Error {
        match self.failure.get() {
            None => Error::new(Kind::Io, "the pipe is not read any more"),
            Some(failure) => {
                let error = Error::new(failure.kind, failure.message.clone());
                match &failure.hint {
                    Some(hint) => error.with_hint(hint.clone()),
                    None => error,
                }
            }
        }
    }
}
