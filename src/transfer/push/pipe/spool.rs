//! A temporary file for the bytes of a blob that have left memory and may be needed again.
//! The file has no name, so the operating system deletes it when the blob is done, however the process ends.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::error::{Error, Kind, Result};
use crate::lock::Mutex;
use crate::text::Line;

/// The spooled bytes of a blob, from its start.
pub(crate) struct Spool(Mutex<State>);

enum State {
    /// Spooling is disabled.
    Off,
    On(Arc<File>),
    /// Spooling failed, for this reason.
    Failed(Line),
}

impl Spool {
    /// Returns a disabled spool.
    pub(crate) fn off() -> Self {
        Self(Mutex::new(State::Off))
    }

    /// Creates a spool in a new file in this folder.
    /// A failure is reported only when the bytes are needed, which is rare.
    pub(crate) fn in_folder(folder: Option<&Path>) -> Self {
        Self(Mutex::new(match folder {
            None => State::Off,
            Some(folder) => match tempfile::tempfile_in(folder) {
                Ok(file) => State::On(Arc::new(file)),
                Err(e) => State::Failed(Error::io("create a temporary file in", folder, e).full().into()),
            },
        }))
    }

    /// Creates a spool that writes to this file.
    #[cfg(test)]
    pub(crate) fn to(file: File) -> Self {
        Self(Mutex::new(State::On(Arc::new(file))))
    }

    fn file(&self) -> Option<Arc<File>> {
        match &*self.0.lock() {
            State::On(file) => Some(file.clone()),
            _ => None,
        }
    }

    /// Returns whether the spooled bytes can be read.
    pub(crate) fn is_on(&self) -> bool {
        matches!(*self.0.lock(), State::On(_))
    }

    /// Appends the next bytes. If that fails, all spooled bytes are dropped at once, to free the disk.
    pub(crate) fn put(&self, bytes: &Bytes) {
        let Some(file) = self.file() else { return };
        if let Err(e) = (&*file).write_all(bytes) {
            let why = Error::new(Kind::NoSpace, "cannot write a temporary file").with_source(e);
            *self.0.lock() = State::Failed(why.full().into());
        }
    }

    /// Reads `length` bytes at offset `at`, or returns `None` if they were not spooled.
    pub(crate) fn get(&self, at: u64, length: usize) -> Option<Result<Bytes>> {
        let file = self.file()?;
        let mut bytes = BytesMut::zeroed(length);
        let read = file.read_exact_at(&mut bytes, at);
        Some(match read {
            Ok(()) => Ok(bytes.freeze()),
            Err(e) => Err(Error::new(Kind::Io, "cannot read a temporary file").with_source(e)),
        })
    }

    /// Returns the reason why spooling failed.
    pub(crate) fn failure(&self) -> Option<Line> {
        match &*self.0.lock() {
            State::Failed(why) => Some(why.clone()),
            _ => None,
        }
    }
}
