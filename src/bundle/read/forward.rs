//! Sequential input of a tar scan, with skipping where the input supports it.

use std::io::Read;
use std::sync::Arc;

use super::source::Source;
use crate::error::{Error, Kind, Result};
use crate::text::quote;

/// Sequential input of a scan.
pub(super) trait Forward {
    /// Fills the buffer; returns fewer bytes only at the end.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize>;

    /// Skips up to `count` bytes; returns the number of bytes skipped.
    fn skip(&mut self, count: u64) -> Result<u64>;

    /// Returns the number of bytes left, if known.
    fn left(&self) -> Option<u64>;
}

/// An open file; skipping reads no bytes.
#[derive(Debug)]
pub(super) struct FileForward {
    source: Arc<Source>,
    position: u64,
}

impl FileForward {
    pub(super) fn new(source: Arc<Source>) -> Self {
        Self { source, position: 0 }
    }
}

impl Forward for FileForward {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let left = self.source.length() - self.position;
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        self.source.read_exact_at(self.position, &mut buffer[..count])?;
        self.position += count as u64;
        Ok(count)
    }

    fn skip(&mut self, count: u64) -> Result<u64> {
        let count = count.min(self.source.length() - self.position);
        self.position += count;
        Ok(count)
    }

    fn left(&self) -> Option<u64> {
        Some(self.source.length() - self.position)
    }
}

/// A pipe or the output of a decompressor; skipping reads the bytes and drops them.
#[derive(Debug)]
pub(super) struct StreamForward<R> {
    label: String,
    input: R,
}

impl<R: Read> StreamForward<R> {
    pub(super) fn new(label: &str, input: R) -> Self {
        Self {
            label: label.to_owned(),
            input,
        }
    }

    /// Returns the input. Reading directly from the input would break the position of the scan.
    pub(super) fn inner_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// Returns the input, at the position that the scan reached.
    pub(super) fn into_inner(self) -> R {
        self.input
    }
}

impl<R: Read> Forward for StreamForward<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(stream_error(&quoted(&self.label), e)),
            }
        }
        Ok(filled)
    }

    fn skip(&mut self, count: u64) -> Result<u64> {
        let mut buffer = vec![0; 256 << 10];
        let mut skipped = 0;
        while skipped < count {
            let want = usize::try_from(count - skipped).unwrap_or(usize::MAX).min(buffer.len());
            let got = self.read(&mut buffer[..want])?;
            if got == 0 {
                break;
            }
            skipped += got as u64;
        }
        Ok(skipped)
    }

    fn left(&self) -> Option<u64> {
        None
    }
}

/// Quotes the name of an archive for messages.
pub(super) fn quoted(label: &str) -> String {
    format!("`{}`", quote(&label))
}

/// Converts an I/O error from reading `what`.
/// An error of this crate inside the I/O error is returned unchanged.
pub(super) fn stream_error(what: &str, e: std::io::Error) -> Error {
    match e.downcast::<Error>() {
        Ok(error) => error,
        Err(e) => {
            let kind = match e.kind() {
                std::io::ErrorKind::InvalidData
                | std::io::ErrorKind::InvalidInput
                | std::io::ErrorKind::UnexpectedEof => Kind::Malformed,
                std::io::ErrorKind::StorageFull
                | std::io::ErrorKind::QuotaExceeded
                | std::io::ErrorKind::FileTooLarge => Kind::NoSpace,
                _ => Kind::Io,
            };
            let hint = match e.kind() {
                std::io::ErrorKind::UnexpectedEof => Some("it was truncated: copy it again"),
                _ if kind == Kind::Malformed => {
                    Some("it was truncated or corrupted in transit: copy it again, and compare sizes or checksums")
                }
                _ => None,
            };
            let error = Error::new(kind, format!("cannot read {what}")).with_source(e);
            match hint {
                Some(hint) => error.with_hint(hint),
                None => error,
            }
        }
    }
}
